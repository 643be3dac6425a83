"""Tasks that give one label, or one score, to one or two texts: everything but where the texts come from.

The head is the original's: the first token's vector (through the pooler where the architecture has one), dropout, one
dense layer; softmax cross-entropy, or the squared error of a score. Shapes: B batch, C classes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mobilebert_exp.checks import at_least, require
from mobilebert_exp.config import ModelConfig, TaskConfig
from mobilebert_exp.data import cache, casing, pairs, sources
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.data.progress import BuildProgress
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.deployment import Answer
from mobilebert_exp.errors import DataError
from mobilebert_exp.metrics import check_finite
from mobilebert_exp.modeling.variables import VariableSpec, classifier_variables, encoder_variables
from mobilebert_exp.tasks.base import Column, Deployment, Evaluation, Features, Split

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


@dataclass(kw_only=True, slots=True)
class Config(TaskConfig):
    """What these tasks share. The files win over `data_root`."""

    classifier_dropout: float = 0.1
    train_file: str | None = None
    dev_file: str | None = None
    test_file: str | None = None

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        at_least("task", pairs.SPECIAL_TOKENS + 2, max_seq_length=self.max_seq_length)
        require(
            0 <= self.classifier_dropout < 1,
            f"task.classifier_dropout={self.classifier_dropout} is not a probability below 1; choose one in [0, 1)",
        )


@dataclass(kw_only=True, frozen=True, slots=True)
class Truth:
    """An example without its texts: what scoring needs."""

    id: str
    part: str
    label: int | float | None


class Source(Protocol):
    """Where the texts come from, and what the answers are worth.

    Attributes:
      num_outputs: classes; 1 for a score.
      is_regression: whether labels are scores.
      labels: words by class; none for a score.
      head: see `tasks.base.Task`.
    """

    num_outputs: int
    is_regression: bool
    labels: tuple[str, ...]
    head: str

    def files(self, split: Split) -> Mapping[str, Path]:
        """The files of a split by name, in order; raises a UserError where there are none."""

    def examples(self, split: Split) -> Iterator[Example]:
        """The examples of a split, streamed, in order; with labels, but for `Split.predict`."""

    def key(self) -> Mapping[str, object]:
        """What the examples depend on beside their files; JSON-serialisable."""

    def evaluate(self, truths: Sequence[Truth], outputs_BC: np.ndarray, split: Split) -> Evaluation:
        """Metrics and files from the outputs for `truths`, in their order."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Places:
    """Where the files of a task lie; without a `data_root` the publishers' are meant."""

    data_root: str | None
    cache_dir: str

    def file(self, relative: str, *, named: str | None, key: str) -> Path:
        """The file that the user named, or else the one by this name below `data_root`; fetched if it is not here.

        `key` is the setting that names it; "" where none does. Raises a UserError where there is no such file.
        """
        if named is not None:
            return sources.fetched(named, cache_dir=self.cache_dir, key=key)
        root = self.data_root or sources.PUBLISHERS
        return sources.find(relative, data_root=root, cache_dir=self.cache_dir, key=key)


class Classification:
    """See `tasks.base.Task`."""

    def __init__(self, config: Config, source: Source, places: Places) -> None:
        self.config = config
        self._source = source
        self._places = places

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer.vocabulary)

    @property
    def head(self) -> str:
        return self._source.head

    def num_examples(self, split: Split) -> int:
        return sum(1 for _ in self._source.examples(split))

    def digests(self, splits: Iterable[Split]) -> Mapping[str, str]:
        found = {"vocabulary": self._tokenizer.digest}
        for split in splits:
            found |= _digests(self._source.files(split))
        return found

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        files, length = self._source.files(split), self.config.max_seq_length
        key = {
            **{"task": "classification", "split": split.value, "limit": limit, "max_seq_length": length},
            **{"data": _digests(files), "vocabulary": self._tokenizer.digest, "source": dict(self._source.key())},
        }

        def build(folder: Path) -> dict[str, Any]:
            examples = itertools.islice(self._source.examples(split), limit)
            file = folder / "features.tfrecord"
            with BuildProgress(f"{split.value} features") as progress:
                count = pairs.write(file, examples, self._tokenizer, max_seq_length=length, made=progress.made)
            return {"num_features": count}

        folder, metadata = cache.cached(Path(self._places.cache_dir) / "features", key=key, build=build)
        count = metadata["num_features"]
        if not count and split is not Split.train:  # of an empty train part the schedule tells
            named = ", ".join(map(str, files.values()))
            raise DataError(f"{named}: there is no example in it; name another file, or another data_root")
        return Features(
            files=(folder / "features.tfrecord",),
            columns=self._columns(training=split is Split.train),
            num_features=count,
            num_examples=count,
        )

    def variables(self, model: ModelConfig) -> list[VariableSpec]:
        return encoder_variables(model) + classifier_variables(model, num_outputs=self._source.num_outputs)

    def build(self, model: ModelConfig, *, seed: int, dtype: str) -> tf.Module:
        from mobilebert_exp.modeling.heads import ClassifierModel

        return ClassifierModel(
            model,
            num_outputs=self._source.num_outputs,
            dropout_rate=self.config.classifier_dropout,
            seed=seed,
            dtype=dtype,
        )

    def losses(self, module: Any, batch: Mapping[str, tf.Tensor], *, seed: tf.Tensor | None) -> tf.Tensor:
        from mobilebert_exp.modeling.heads import class_losses, score_losses

        losses = score_losses if self._source.is_regression else class_losses
        outputs_BC = module(batch["input_ids"], batch["input_mask"], batch["segment_ids"], seed=seed)
        return losses(outputs_BC, batch["label_ids"][:, 0])

    def outputs(self, module: Any, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        return {"outputs": module(batch["input_ids"], batch["input_mask"], batch["segment_ids"])}

    def score(self, outputs: Mapping[str, np.ndarray], split: Split, *, limit: int | None = None) -> Evaluation:
        check_finite(outputs)
        truths = self._dev_truths if (split, limit) == (Split.dev, None) else self._truths(split, limit)
        return self._source.evaluate(truths, outputs["outputs"], split)

    def deployment(self) -> Deployment:
        source = self._source
        return Deployment(
            answer=Answer.score if source.is_regression else Answer.classes,
            labels=source.labels,
            vocabulary=self._vocabulary_file().read_bytes(),
            preprocessing={"layout": "[CLS] text_a [SEP] text_b [SEP]", "max_seq_length": self.config.max_seq_length},
        )

    def of_exported(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Logarithms of probabilities are logits of the same probabilities."""
        import numpy as np

        if self._source.is_regression:
            return {"outputs": outputs["scores"]}
        least = np.finfo(np.float32).tiny  # of 8 bits some are 0
        return {"outputs": np.log(np.maximum(outputs["probabilities"], least))}

    def answers(self, evaluation: Evaluation) -> Mapping[str, object]:
        """Classes, or scores."""
        return {name: record["prediction"] for name, record in evaluation.files["predictions.json"].items()}

    def _columns(self, *, training: bool) -> dict[str, Column]:
        columns = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), Column(shape=(self.config.max_seq_length,)))
        if training:
            columns["label_ids"] = Column(shape=(1,), dtype="float32" if self._source.is_regression else "int64")
        return columns

    @functools.cached_property
    def _dev_truths(self) -> list[Truth]:
        """Kept, because every evaluation compares with them."""
        return self._truths(Split.dev, None)

    def _truths(self, split: Split, limit: int | None) -> list[Truth]:
        examples = itertools.islice(self._source.examples(split), limit)
        return [Truth(id=example.id, part=example.part, label=example.label) for example in examples]

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return casing.tokenizer(self._vocabulary_file(), lower_case=self.config.lower_case)

    def _vocabulary_file(self) -> Path:
        relative = casing.VOCABULARIES[self.config.lower_case]
        return self._places.file(relative, named=self.config.vocab_file, key="task.vocab_file")


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: cache.file_digest(path) for name, path in files.items()}


def probabilities(outputs_BC: np.ndarray) -> np.ndarray:
    """The softmax of each row."""
    import numpy as np

    apart_BC = np.exp(outputs_BC - outputs_BC.max(axis=-1, keepdims=True))
    return apart_BC / apart_BC.sum(axis=-1, keepdims=True)
