"""What a task is: six calls that every runner understands and no runner looks behind.

A task module `tasks/<kind>.py` offers two names, and the registry finds it by its file name:

    Config                                              a dataclass that extends `TaskConfig`
    create(config, *, data_root, cache_dir) -> Task     cheap: opens no file, imports no TensorFlow

Shapes: B global or per-replica batch, L tokens.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from mobilebert_exp.config import ModelConfig, TaskConfig
    from mobilebert_exp.modeling.variables import VariableSpec


class Split(enum.Enum):
    """A part of the data; `predict` is read without need of answers, and scored without metrics.

    It is the dev part, or the test part where a task has one. What belongs to a split in several files (MNLI matched
    and mismatched, a file's languages) is one feature set in order; `score` tells the parts apart.
    """

    train = "train"
    dev = "dev"
    predict = "predict"


@dataclass(kw_only=True, frozen=True, slots=True)
class Column:
    """One fixed-length field of a feature record: its shape without the batch, and `int64` or `float32`."""

    shape: tuple[int, ...]
    dtype: str = "int64"


@dataclass(kw_only=True, frozen=True, slots=True)
class Features:
    """A split, ready to be read by `data.pipeline`.

    Attributes:
      files: TFRecord files, in order.
      columns: what each record holds.
      num_features: records in all files together.
      num_examples: examples they were made from (a long SQuAD paragraph gives one example several features).
    """

    files: tuple[Path, ...]
    columns: Mapping[str, Column]
    num_features: int
    num_examples: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Evaluation:
    """What the model's outputs are worth.

    Attributes:
      metrics: figures by name, on the scale of the task's official script (SQuAD: 0 to 100).
      files: contents by file name, e.g. `predictions.json`: JSON-serialisable, or a text that is written as it is.
    """

    metrics: Mapping[str, float]
    files: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """One task of one experiment."""

    config: TaskConfig

    @property
    def vocab_size(self) -> int:
        """Entries of the task's vocabulary."""

    @property
    def head(self) -> str:
        """What the head answers, in words: a checkpoint's head serves a task that says the same, and no other."""

    def num_examples(self, split: Split) -> int:
        """Examples of a split; reads the data, makes no features."""

    def digests(self, splits: Iterable[Split]) -> Mapping[str, str]:
        """sha256 of what is read for these splits, by name: their files and the vocabulary; touches no other split."""

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        """Makes, or finds in the cache, the features of a split (of its first `limit` examples)."""

    def variables(self, model: ModelConfig) -> list[VariableSpec]:
        """Every variable that `build` makes; loads no TensorFlow."""

    def build(self, model: ModelConfig, *, seed: int, dtype: str) -> tf.Module:
        """The model with this task's head; weights drawn from `seed`, activations in `dtype`.

        Its `encoder` is what a model of another task starts from.
        """

    def losses(self, module: tf.Module, batch: Mapping[str, tf.Tensor], *, seed: tf.Tensor | None) -> tf.Tensor:
        """Loss of each example, `[B]` float32. `seed` (int32 `[2]`) drives dropout; None switches it off."""

    def outputs(self, module: tf.Module, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """What `score` needs of a batch, each `[B, …]`."""

    def score(self, outputs: Mapping[str, np.ndarray], split: Split, *, limit: int | None = None) -> Evaluation:
        """Metrics and prediction files from the outputs of all features of `split`, in their order."""
