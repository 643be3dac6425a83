"""SQuAD v1.1 and v2.0: read, window, point at spans, score as the official scripts do.

Without `data_root` and files it reads the embedded starter articles, whose questions are graded (`lookup`, `matching`,
`unanswerable`): each grade is then scored by itself, and a baseline that knows only the relation asked for beside them.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.config import ModelConfig, TaskConfig
from mobilebert_exp.data import cache, casing, sources, squad, squad_features
from mobilebert_exp.data.progress import BuildProgress
from mobilebert_exp.data.squad import SquadExample
from mobilebert_exp.data.squad_features import Counts, Sizes
from mobilebert_exp.data.squad_windows import Window, windows
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.deployment import Answer
from mobilebert_exp.errors import ConfigError, DataError, MissingDataError, UserError
from mobilebert_exp.metrics import SquadScore, check_finite
from mobilebert_exp.modeling.variables import VariableSpec, encoder_variables, span_variables
from mobilebert_exp.tasks import _starter
from mobilebert_exp.tasks._starter import StarterConfig
from mobilebert_exp.tasks.base import Column, Deployment, Evaluation, Features, Split

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

MAIN_METRICS = {False: ("f1", "exact_match"), True: ("f1", "exact", "best_f1", "best_exact")}  # by v2.0
SPECIAL_TOKENS = 3  # [CLS] question [SEP] paragraph [SEP]


@dataclass(kw_only=True, slots=True)
class Config(TaskConfig):
    """Flags of the original `run_squad.py` under their own names; lengths are in tokens.

    `train_file` and `dev_file` win over `data_root`, where `squad/{train,dev}-v{1.1,2.0}.json` and `vocab/` are
    looked for.
    """

    max_seq_length: int = 384
    main_metric: str = "f1"
    version_2_with_negative: bool = False
    doc_stride: int = 128
    max_query_length: int = 64
    n_best_size: int = 20
    max_answer_length: int = 30
    null_score_diff_threshold: float = 0.0
    verbose_logging: bool = False
    train_file: str | None = None
    dev_file: str | None = None
    starter: StarterConfig = field(default_factory=StarterConfig)

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        room = self.max_seq_length - self.max_query_length - SPECIAL_TOKENS
        if room < 1:
            raise ConfigError(
                f"task.max_query_length={self.max_query_length} leaves no room for the paragraph in "
                f"task.max_seq_length={self.max_seq_length}; lower it"
            )
        if not 1 <= self.doc_stride <= room:
            raise ConfigError(
                f"task.doc_stride={self.doc_stride} is not within the window of {room} paragraph tokens "
                f"(task.max_seq_length={self.max_seq_length} less the question); lower it"
            )
        known = MAIN_METRICS[self.version_2_with_negative]
        if self.main_metric not in known:
            raise ConfigError(f"task.main_metric={self.main_metric} is not one of {', '.join(known)}; choose one")
        for name in ("max_query_length", "n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name}={getattr(self, name)} is below 1; raise it")

    @property
    def version(self) -> str:
        return "2.0" if self.version_2_with_negative else "1.1"


def create(config: Config, *, data_root: str | None, cache_dir: str) -> Squad:
    """The task; reads nothing yet."""
    return Squad(config, data_root=data_root, cache_dir=cache_dir)


class Squad:
    """See `tasks.base.Task`."""

    def __init__(self, config: Config, *, data_root: str | None, cache_dir: str) -> None:
        self.config = config
        self._data_root = data_root
        self._cache_dir = Path(cache_dir).expanduser()
        self._features_dir = self._cache_dir / "features"
        self._warned: set[Split] = set()

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer.vocabulary)

    @property
    def head(self) -> str:
        return "SQuAD: first and last token of the answer"  # of v2.0 too: that there is none is an answer at [CLS]

    def num_examples(self, split: Split) -> int:
        with contextlib.suppress(UserError):  # a vocabulary that is missing matters to features alone
            if metadata := cache.found(self._features_dir, key=self._key(split, None)):
                return self._counted(split, Counts(**metadata))
        counts = Counts()
        for example in self._stream(split):
            counts.add(example)
        return self._counted(split, counts)

    def digests(self, splits: Iterable[Split]) -> Mapping[str, str]:
        parts = {"train" if split is Split.train else "dev": split for split in splits}
        files = {part: cache.file_digest(self._file(split)) for part, split in parts.items()}
        return {"vocabulary": self._tokenizer.digest, **files}

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        training = split is Split.train

        def build(folder: Path) -> dict[str, Any]:
            with BuildProgress(f"{split.value} features") as progress:
                examples = itertools.islice(self._stream(split, heard=progress.read), limit)
                counts = squad_features.write(
                    folder / "features.tfrecord",
                    examples,
                    self._tokenizer,
                    sizes=self._sizes,
                    training=training,
                    made=progress.made,
                )
            return asdict(counts)

        folder, metadata = cache.cached(self._features_dir, key=self._key(split, limit), build=build)
        counts = Counts(**metadata)
        return Features(
            files=(folder / "features.tfrecord",),
            columns=self._columns(training=training),
            num_features=counts.features,
            num_examples=self._counted(split, counts),
        )

    def variables(self, model: ModelConfig) -> list[VariableSpec]:
        return encoder_variables(model) + span_variables(model)

    def build(self, model: ModelConfig, *, seed: int, dtype: str) -> tf.Module:
        from mobilebert_exp.modeling.heads import SpanModel

        return SpanModel(model, seed=seed, dtype=dtype)

    def losses(self, module: Any, batch: Mapping[str, tf.Tensor], *, seed: tf.Tensor | None) -> tf.Tensor:
        from mobilebert_exp.modeling.heads import span_losses

        start_BL, end_BL = module(batch["input_ids"], batch["input_mask"], batch["segment_ids"], seed=seed)
        return span_losses(start_BL, end_BL, batch["start_positions"][:, 0], batch["end_positions"][:, 0])

    def outputs(self, module: Any, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        start_BL, end_BL = module(batch["input_ids"], batch["input_mask"], batch["segment_ids"])
        return {"start_logits": start_BL, "end_logits": end_BL}

    def score(self, outputs: Mapping[str, np.ndarray], split: Split, *, limit: int | None = None) -> Evaluation:
        from mobilebert_exp.data.squad_answers import answer

        check_finite(outputs)
        config = self.config
        examples, found = self._scored_part(split, limit)
        answers = answer(
            examples,
            found,
            start_logits=outputs["start_logits"],
            end_logits=outputs["end_logits"],
            n_best_size=config.n_best_size,
            max_answer_length=config.max_answer_length,
            version_2=config.version_2_with_negative,
            null_score_diff_threshold=config.null_score_diff_threshold,
            lower_case=config.lower_case,
            verbose=config.verbose_logging,
        )
        files: dict[str, Any] = {"predictions.json": answers.predictions, "nbest_predictions.json": answers.n_best}
        if config.version_2_with_negative:
            files["null_odds.json"] = answers.null_odds
        if split is Split.predict:
            return Evaluation(metrics={}, files=files)
        score = self._scored(examples, answers.predictions, null_odds=answers.null_odds)
        files["question_scores.json"] = {
            example.id: figures for example, figures in zip(examples, score.each(), strict=True)
        }
        metrics = {**score.result(), **self._graded(examples, answers.predictions, split)}
        return Evaluation(metrics=metrics, files=files)

    def deployment(self) -> Deployment:
        config = self.config
        return Deployment(
            answer=Answer.span,
            vocabulary=self._vocabulary_file().read_bytes(),
            preprocessing={
                "layout": "[CLS] question [SEP] paragraph [SEP]",
                **asdict(self._sizes),
                "n_best_size": config.n_best_size,
                "max_answer_length": config.max_answer_length,
                "version_2_with_negative": config.version_2_with_negative,
                "null_score_diff_threshold": config.null_score_diff_threshold,
            },
        )

    def of_exported(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {name: outputs[name] for name in ("start_logits", "end_logits")}

    def answers(self, evaluation: Evaluation) -> Mapping[str, object]:
        found: Mapping[str, object] = evaluation.files["predictions.json"]
        return found

    def _scored(
        self,
        examples: list[SquadExample],
        predictions: Mapping[str, str],
        *,
        null_odds: Mapping[str, float] | None = None,
    ) -> SquadScore:
        score = SquadScore(version_2=self.config.version_2_with_negative)
        for example in examples:
            odds = (null_odds or {}).get(example.id)
            score.update(predictions[example.id], example.answers, null_odds=odds)
        return score

    def _graded(self, examples: list[SquadExample], predictions: Mapping[str, str], split: Split) -> dict[str, float]:
        """F1 by the grade of the question, and of the relation-only baseline; empty where questions have no grade."""
        found: dict[str, float] = {}
        for kind in sorted({example.kind for example in examples} - {""}):
            graded = [example for example in examples if example.kind == kind]
            found[f"{kind}_f1"] = self._scored(graded, predictions).result()["f1"]
        if self._is_starter and split is Split.dev:
            baseline = json.loads((self._starter_folder / _starter.BASELINE_FILE).read_text(encoding="utf-8"))
            found["baseline_f1"] = self._scored(examples, baseline).result()["f1"]
        return found

    def _columns(self, *, training: bool) -> dict[str, Column]:
        length = Column(shape=(self.config.max_seq_length,))
        columns = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), length)
        if training:
            columns |= dict.fromkeys(("start_positions", "end_positions"), Column(shape=(1,)))
        return columns

    def _key(self, split: Split, limit: int | None) -> dict[str, object]:
        """All that the features of a split depend on."""
        return {
            "task": "squad",
            "data": cache.file_digest(self._file(split)),
            "vocabulary": self._tokenizer.digest,
            "version": self.config.version,
            "sizes": asdict(self._sizes),
            "split": split.value,
            "limit": limit,
        }

    @property
    def _sizes(self) -> Sizes:
        config = self.config
        return Sizes(
            max_seq_length=config.max_seq_length,
            doc_stride=config.doc_stride,
            max_query_length=config.max_query_length,
        )

    def _counted(self, split: Split, counts: Counts) -> int:
        """How many examples a split has; warns once of those that training leaves out."""
        if split not in self._warned:
            self._warned.add(split)
            squad.warn_of_left_out(self._file(split), count=counts.left_out, of=counts.examples)
        return counts.trainable if split is Split.train else counts.examples

    def _stream(self, split: Split, *, heard: Callable[[float], None] | None = None) -> Iterator[SquadExample]:
        """The examples of a split one after another; of train that is all that is ever held of them."""
        file = self._file(split)
        is_empty = True
        labelled = split is not Split.predict
        version_2 = self.config.version_2_with_negative
        for example in squad.stream(file, version_2=version_2, labelled=labelled, heard=heard):
            is_empty = False
            yield example
        if is_empty and split is not Split.train:  # of an empty train part the schedule tells
            raise DataError(f"{file} has no question; name another file, or another data_root")

    @functools.cache  # noqa: B019  one task lives as long as its experiment
    def _scored_part(self, split: Split, limit: int | None) -> tuple[list[SquadExample], list[Window]]:
        """Kept, because every evaluation maps its answers back through them."""
        examples = list(itertools.islice(self._stream(split), limit))
        training = split is Split.train
        return examples, list(windows(examples, self._tokenizer, training=training, **asdict(self._sizes)))

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return casing.tokenizer(self._vocabulary_file(), lower_case=self.config.lower_case)

    def _vocabulary_file(self) -> Path:
        config = self.config
        if config.vocab_file is not None:
            return sources.fetched(config.vocab_file, cache_dir=self._cache_dir, key="task.vocab_file")
        if self._data_root is not None:
            return self._found(casing.VOCABULARIES[config.lower_case], key="task.vocab_file")
        if self._is_starter:
            return self._starter_folder / _starter.VOCABULARY_FILE
        raise ConfigError("task.vocab_file is not set; name the WordPiece vocabulary that goes with task.train_file")

    def _found(self, relative: str, *, key: str) -> Path:
        return sources.find(relative, data_root=self._data_root, cache_dir=self._cache_dir, key=key)

    @property
    def _is_starter(self) -> bool:
        return self._data_root is None and self.config.train_file is None and self.config.dev_file is None

    def _file(self, split: Split) -> Path:
        part = "train" if split is Split.train else "dev"
        named = self.config.train_file if split is Split.train else self.config.dev_file
        key = f"task.{part}_file"
        if named is not None:
            return sources.fetched(named, cache_dir=self._cache_dir, key=key)
        if self._data_root is not None:
            return self._found(f"squad/{part}-v{self.config.version}.json", key=key)
        if self._is_starter:
            return self._starter_folder / f"{part}.json"
        raise MissingDataError(f"{key} is not set; name it too, or set data_root")

    @functools.cached_property
    def _starter_folder(self) -> Path:
        """The generated articles as SQuAD files, with the vocabulary of the train part and the baseline's answers."""
        config = self.config
        return _starter.folder(config.starter, version_2=config.version_2_with_negative, cache_dir=self._cache_dir)
