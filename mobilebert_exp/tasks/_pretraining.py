"""What tasks on pre-training data share: masked words and next sentences, in one round of training or in two.

Records come from the original's scripts or ours, or are made from texts; held-out ones tell the loss and the accuracy
of both heads. Shapes: B batch, P places that may be masked.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.checks import at_least, require
from mobilebert_exp.config import ModelConfig, TaskConfig
from mobilebert_exp.data import cache, casing, sources, starter
from mobilebert_exp.data.pretraining.settings import BadBytes, Settings, advice, check
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError, MissingDataError
from mobilebert_exp.metrics import check_finite
from mobilebert_exp.modeling.variables import VariableSpec, encoder_variables, pretraining_variables
from mobilebert_exp.tasks import _starter
from mobilebert_exp.tasks.base import Column, Evaluation, Features, Phase, Rates, Split

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

log = logging.getLogger(__name__)
FIGURES = ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy")
ACCURACIES = ("masked_lm_accuracy", "next_sentence_accuracy")
HELD_OUT = {Split.dev: " that training does not see"}
EPOCHS = TaskConfig.__dataclass_fields__["num_train_epochs"].default


@dataclass(kw_only=True, slots=True)
class StarterConfig:
    """The embedded articles, as texts: `paragraphs` of one make a document.

    The vocabulary is that of `vocabulary_articles` articles with their questions, as task=squad_v1 makes it.
    """

    seed: int = 0
    train_articles: int = 6000
    dev_articles: int = 300
    paragraphs: int = 3
    vocabulary_articles: int = 10_000
    vocabulary_size: int = 2048


@dataclass(kw_only=True, slots=True)
class Config(TaskConfig):
    """Flags of the original `run_pretraining.py` and `create_pretraining_data.py` under their own names.

    Attributes:
      train_file, dev_file: texts (a sentence a line, a blank line between documents) or ready records: a file, a
        pattern, several with commas between; without them and without `data_root`, the embedded articles.
      num_train_steps: updates of all rounds together.
      first_num_train_steps: how many of them are a round of shorter sequences before; 0 for none.
      first_train_file: what that round reads; null takes `train_file`, which must then be texts.
      first_max_seq_length, first_train_batch_size: of that round; a batch of null is that of the other.
      first_max_predictions_per_seq: masked places in a record of that round; null takes the other's.
      dynamic_masking: whether each batch is masked anew, whatever its records say.
    The rest is what texts are made into records with; see `data.pretraining.settings`.
    """

    main_metric: str = "masked_lm_accuracy"
    max_seq_length: int = 512
    max_predictions_per_seq: int = 20
    train_file: str | None = None
    dev_file: str | None = None
    num_train_steps: int = 500_000
    first_num_train_steps: int = 0
    first_train_file: str | None = None
    first_max_seq_length: int = 128
    first_train_batch_size: int | None = None
    first_max_predictions_per_seq: int | None = None
    dynamic_masking: bool = False
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    dupe_factor: int = 10
    random_seed: int = 12345
    whole_word_mask: bool = False
    bad_bytes: BadBytes = BadBytes.refuse
    starter: StarterConfig = field(default_factory=StarterConfig)

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        at_least("task", 1, num_train_steps=self.num_train_steps, first_train_batch_size=self.first_train_batch_size)
        at_least("task", 1, first_max_predictions_per_seq=self.first_max_predictions_per_seq)
        at_least("task", 0, first_num_train_steps=self.first_num_train_steps)
        require(
            self.first_num_train_steps <= self.num_train_steps,
            f"task.first_num_train_steps={self.first_num_train_steps} exceeds "
            f"task.num_train_steps={self.num_train_steps}, of which it is a part; lower it",
        )
        require(
            self.first_max_seq_length <= self.max_seq_length or not self.first_num_train_steps,
            f"task.first_max_seq_length={self.first_max_seq_length} exceeds task.max_seq_length={self.max_seq_length}; "
            "lower it",
        )
        require(
            self.num_train_epochs == EPOCHS,
            "task.num_train_epochs has no say in pre-training; set task.num_train_steps",
        )
        require(
            self.main_metric in ACCURACIES,
            f"task.main_metric={self.main_metric} is not one of {', '.join(ACCURACIES)}; choose one",
        )
        require(
            not (self.dynamic_masking and self.whole_word_mask),
            "task.dynamic_masking=true masks token by token, and task.whole_word_mask=true asks for words; "
            "leave one of them out",
        )
        for settings in (self.settings(), self.first_settings()):
            check(settings, section="task.")

    def train_batches(self) -> dict[str, int]:
        batches = TaskConfig.train_batches(self)
        return batches | ({"first_train_batch_size": self.first_batch} if self.first_num_train_steps else {})

    @property
    def first_batch(self) -> int:
        return self.first_train_batch_size or self.global_batch_size

    def settings(self) -> Settings:
        """Of the records of the whole length."""
        names = {each.name for each in dataclasses.fields(Settings)}
        return Settings(**{name: getattr(self, name) for name in names})

    def first_settings(self) -> Settings:
        """Of those of the first round."""
        places = self.first_max_predictions_per_seq
        return dataclasses.replace(
            self.settings(),
            max_seq_length=self.first_max_seq_length,
            max_predictions_per_seq=self.max_predictions_per_seq if places is None else places,
        )


class Pretraining:
    """See `tasks.base.Task` and `tasks.base.Phased`."""

    head = "pre-training: masked words, and whether the second text follows"

    def __init__(self, config: Config, *, data_root: str | None, cache_dir: str) -> None:
        self.config = config
        self._data_root = data_root
        self._cache_dir = Path(cache_dir).expanduser()
        self._advised: set[str] = set()

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer.vocabulary)

    def num_examples(self, split: Split) -> int:
        return self.features(split).num_examples

    def digests(self, splits: Iterable[Split]) -> Mapping[str, str]:
        from mobilebert_exp.data.pretraining import inputs

        found = {"vocabulary": self._tokenizer.digest}
        for split in splits:
            found[split.value] = inputs.digest(self._files(split))
            if split is Split.train and self.config.first_num_train_steps and self.config.first_train_file:
                found["first_train"] = inputs.digest(self._first_files())
        return found

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        settings = self.config.settings()
        if split is Split.dev:
            settings = dataclasses.replace(settings, dupe_factor=1)  # what is judged is judged once
        return self._features(self._files(split), settings, name=f"{split.value} data", limit=limit)

    def first_features(self) -> Features:
        """What the first round reads."""
        return self._features(self._first_files(), self.config.first_settings(), name="data of the first round")

    def phases(self) -> Sequence[Phase]:
        config = self.config
        batch = config.first_batch
        return [
            Phase(
                name="first round",
                steps=config.first_num_train_steps,
                global_batch_size=batch,
                max_seq_length=config.first_max_seq_length,
                features=self.first_features,
                objective=TwoHeads(global_batch_size=batch),
                optimizer=config.optimizer,
                augment=self._masking(config.first_settings()),
            ),
            Phase(
                name="second round" if config.first_num_train_steps else "pre-training",
                steps=config.num_train_steps - config.first_num_train_steps,
                global_batch_size=config.global_batch_size,
                max_seq_length=config.max_seq_length,
                features=functools.partial(self.features, Split.train),
                objective=TwoHeads(global_batch_size=config.global_batch_size),
                augment=self._masking(config.settings()),
            ),
        ]

    def variables(self, model: ModelConfig) -> list[VariableSpec]:
        return encoder_variables(model) + pretraining_variables(model)

    def build(self, model: ModelConfig, *, seed: int, dtype: str) -> tf.Module:
        from mobilebert_exp.modeling.pretrainer import PretrainingModel

        return PretrainingModel(model, seed=seed, dtype=dtype)

    def outputs(self, module: Any, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        from mobilebert_exp.modeling import pretraining_losses

        return pretraining_losses.judged(pretraining_losses.answers(module, batch), batch)

    def score(self, outputs: Mapping[str, np.ndarray], split: Split, *, limit: int | None = None) -> Evaluation:
        check_finite(outputs)
        sums = {name: float(values.sum(dtype="float64")) for name, values in outputs.items()}
        places, examples = max(sums["masked_lm_weight"], 1e-5), len(outputs["masked_lm_weight"])
        return Evaluation(
            metrics={
                "masked_lm_accuracy": 100 * sums["masked_lm_right"] / places,
                "masked_lm_loss": sums["masked_lm_loss"] / places,
                "next_sentence_accuracy": 100 * sums["next_sentence_right"] / examples,
                "next_sentence_loss": sums["next_sentence_loss"] / examples,
            }
        )

    def _masking(self, settings: Settings) -> Any:
        """What masks each batch anew, if that is wanted; see `tasks.base.Phase`."""
        if not self.config.dynamic_masking:
            return None

        def augment(batch: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Mapping[str, tf.Tensor]:
            from mobilebert_exp.data.dynamic_masking import remasked

            tokenizer = self._tokenizer
            return remasked(
                batch,
                seed=seed,
                share=settings.masked_lm_prob,
                mask_id=tokenizer.mask_id,
                special_ids=(tokenizer.cls_id, tokenizer.sep_id),
                vocab_size=self.vocab_size,
            )

        return augment

    def _features(self, files: Sequence[Path], settings: Settings, *, name: str, limit: int | None = None) -> Features:
        from mobilebert_exp.data.pretraining import inputs

        advised = advice(settings, section="task.")
        if advised is not None and advised not in self._advised:
            self._advised.add(advised)
            log.warning("%s", advised)
        made = inputs.made(files, self._tokenizer, settings, cache_dir=self._cache_dir, name=name)
        count = made.records if limit is None else min(limit, made.records)
        return Features(files=made.files, columns=columns(settings), num_features=count, num_examples=count)

    def _first_files(self) -> list[Path]:
        """What the first round reads: files of its own, or the texts of the other."""
        from mobilebert_exp.data.pretraining import feature_files, inputs

        config = self.config
        if config.first_train_file is not None:
            return inputs.files(config.first_train_file, key="task.first_train_file", cache_dir=self._cache_dir)
        found = self._files(Split.train)
        if config.first_settings() != config.settings() and feature_files.are_records(found[0]):
            raise DataError(
                f"task.train_file={config.train_file} holds records, which cannot be made shorter for the "
                f"{config.first_num_train_steps} steps of the first round; name others with task.first_train_file"
            )
        return found

    def _files(self, split: Split) -> list[Path]:
        from mobilebert_exp.data.pretraining import inputs

        if split is Split.predict:
            raise MissingDataError("pre-training answers nothing that could be predicted; use mode=evaluate")
        if self._is_starter:
            return [self._starter_folder / f"{split.value}.txt"]
        key, named = (
            f"task.{split.value}_file",
            self.config.train_file if split is Split.train else self.config.dev_file,
        )
        if named is None:
            raise MissingDataError(f"{key} is not set; name texts or records{HELD_OUT.get(split, '')}")
        return inputs.files(named, key=key, cache_dir=self._cache_dir)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        config = self.config
        if config.vocab_file is not None:
            path = sources.fetched(config.vocab_file, cache_dir=self._cache_dir)
        elif self._is_starter:
            given = config.starter
            articles = _starter.StarterConfig(
                seed=given.seed, train_articles=given.vocabulary_articles, vocabulary_size=given.vocabulary_size
            )
            folder = _starter.folder(articles, version_2=False, cache_dir=self._cache_dir)
            path = folder / _starter.VOCABULARY_FILE
        elif self._data_root is not None:
            path = sources.find(
                casing.VOCABULARIES[config.lower_case], data_root=self._data_root, cache_dir=self._cache_dir
            )
        else:
            raise MissingDataError("task.vocab_file is not set; name the WordPiece vocabulary that goes with the texts")
        return casing.tokenizer(path, lower_case=config.lower_case)

    @property
    def _is_starter(self) -> bool:
        config = self.config
        return self._data_root is None and not (config.train_file or config.dev_file or config.first_train_file)

    @functools.cached_property
    def _starter_folder(self) -> Path:
        """The generated articles as texts."""
        settings = self.config.starter

        def build(folder: Path) -> dict[str, Any]:
            for split, articles in ((Split.train, settings.train_articles), (Split.dev, settings.dev_articles)):
                documents = list(
                    starter.documents(
                        seed=settings.seed, articles=articles, paragraphs=settings.paragraphs, split=split.value
                    )
                )
                text = "\n\n".join("\n".join(sentences) for sentences in documents)
                (folder / f"{split.value}.txt").write_text(text + "\n", encoding="utf-8")
            return {}

        key = {"starter texts": dataclasses.asdict(settings)}
        return cache.cached(self._cache_dir / "starter", key=key, build=build)[0]


def columns(settings: Settings) -> dict[str, Column]:
    """What a record holds, under the original's names."""
    length, places = settings.max_seq_length, settings.max_predictions_per_seq
    found = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), Column(shape=(length,)))
    found |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), Column(shape=(places,)))
    return {
        **found,
        "masked_lm_weights": Column(shape=(places,), dtype="float32"),
        "next_sentence_labels": Column(shape=(1,)),
    }


@dataclass(kw_only=True, frozen=True, slots=True)
class TwoHeads:
    """The objective of pre-training: the losses of both heads, added; see `tasks.base.Objective`."""

    global_batch_size: int
    figures: tuple[str, ...] = FIGURES

    def totals(self, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        from mobilebert_exp.modeling import pretraining_losses

        return {"places": pretraining_losses.places(batch)}

    def loss(
        self,
        module: Any,
        batch: Mapping[str, tf.Tensor],
        *,
        totals: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        from mobilebert_exp.modeling import pretraining_losses

        judged = pretraining_losses.judged(pretraining_losses.answers(module, batch, seed=seed), batch)
        figures = pretraining_losses.figures(
            judged, places_in_batch=totals["places"], global_batch_size=self.global_batch_size
        )
        return figures["masked_lm_loss"] + figures["next_sentence_loss"], figures

    def rates(self, step: tf.Tensor) -> Rates | None:
        return None
