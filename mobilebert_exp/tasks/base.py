"""What a task is: six calls that every runner understands and no runner looks behind.

A task module `tasks/<kind>.py` offers two names, and the registry finds it by its file name:

    Config                                              a dataclass that extends `TaskConfig`
    create(config, *, data_root, cache_dir) -> Task     cheap: opens no file, imports no TensorFlow

Most tasks train in one phase, with the `losses` of examples, on `features(Split.train)`, for so many epochs. A task
that has phases of its own (rounds of pre-training, the steps of a distillation) offers `phases` too: see `Phased`.

Shapes: B global or per-replica batch, L tokens.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from mobilebert_exp.config import ExperimentConfig, ModelConfig, OptimizerConfig, TaskConfig
    from mobilebert_exp.deployment import Answer
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
      num_features: records that are read, the first so many of all files together.
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


@dataclass(kw_only=True, frozen=True, slots=True)
class Rates:
    """What the learning rate of an update is multiplied by.

    Attributes:
      factors: by the name of the variable: a scalar, or `[A, 1, …]` over the layers of a stacked one; 1 for a name that
        is not there. Where it is 0 the moments are reset and nothing is decayed; a plain 0.0 in place of a tensor says
        that the variable rests throughout the phase, which costs nothing.
      groups: scalars by name, to be recorded, each times the rate, as `learning_rate/NAME`.
      layer: the only layer whose gradients and factors are not 0, an int32 scalar, where there is one: no other is then
        touched, but by an update in which that factor is 0 too, which resets the moments of all.
    """

    factors: Mapping[str, tf.Tensor | float]
    groups: Mapping[str, tf.Tensor] = field(default_factory=dict)
    layer: tf.Tensor | None = None


class Objective(Protocol):
    """What a phase minimises, from shares (replicas' parts, micro-batches) of a global batch that add up to the whole.

    A mean over the whole batch is a sum over the share, divided by one of `totals` or by a number known before. So
    gradients are those of the whole batch, whatever it was cut into.
    """

    @property
    def figures(self) -> Sequence[str]:
        """Names of the figures that `loss` returns; recorded as `train/NAME`."""

    def totals(self, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Weights in a share of the batch, scalars by name; of the batch alone, no model is asked."""

    def loss(
        self,
        module: tf.Module,
        batch: Mapping[str, tf.Tensor],
        *,
        totals: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        """A share's part of the loss, and of each of the `figures`: float32 scalars.

        Args:
          totals: those of the whole global batch.
          step: updates done in this phase; an int64 scalar.
          seed: int32 `[2]`, for dropout where there is to be any.
        """

    def rates(self, step: tf.Tensor) -> Rates | None:
        """The factors of the update after `step` updates of this phase; None where all are 1."""


@dataclass(kw_only=True, frozen=True, slots=True)
class PerExample:
    """The objective of a task with one phase: the mean of its examples' losses."""

    task: Task
    global_batch_size: int
    figures: tuple[str, ...] = ()

    def totals(self, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        return {}

    def loss(
        self,
        module: tf.Module,
        batch: Mapping[str, tf.Tensor],
        *,
        totals: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        import tensorflow as tf

        return tf.reduce_sum(self.task.losses(module, batch, seed=seed)) / self.global_batch_size, {}

    def rates(self, step: tf.Tensor) -> Rates | None:
        return None


@dataclass(kw_only=True, frozen=True, slots=True)
class Phase:
    """A stretch of training: one compiled step function on one stream of batches.

    Attributes:
      name: what log and plan call it.
      steps: updates in it.
      global_batch_size: examples an update sees.
      max_seq_length: tokens in an example.
      features: what it reads; made, or found in the cache, when called.
      objective: what it minimises.
      optimizer: a new one, whose moments and schedule begin with the phase; None goes on with the optimizer of the
        phase before, whose schedule spans both.
      augment: makes of each global batch, as it is read, the one that is trained on; also given an int32 `[2]`, a
        function of the run's seed and the number of the batch.
    """

    name: str
    steps: int
    global_batch_size: int
    max_seq_length: int
    features: Callable[[], Features]
    objective: Objective
    optimizer: OptimizerConfig | None = None
    augment: Callable[[Mapping[str, tf.Tensor], tf.Tensor], Mapping[str, tf.Tensor]] | None = None


@runtime_checkable
class Demanding(Protocol):
    """What a task offers beside `Task` if not every model can be trained on it, and if there is more to plan."""

    def check_model(self, model: ModelConfig) -> None:
        """Raises ConfigError where `model`, its vocabulary known, does not fit; opens no file."""

    def plan(self, config: ExperimentConfig, *, phases: Sequence[Phase]) -> Sequence[tuple[str, str]]:
        """Names and values for `mode=plan` to show beside its own, of the phases that run; loads no TensorFlow."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Deployment:
    """What somebody who has an exported file alone must know of its task.

    Attributes:
      labels: words by class; none where the answer is no class.
      vocabulary: contents of the vocabulary's file.
      preprocessing: what makes inputs of texts, and answers of outputs; JSON-serialisable.
    """

    answer: Answer
    labels: tuple[str, ...] = ()
    vocabulary: bytes
    preprocessing: Mapping[str, object]


@runtime_checkable
class Deployable(Protocol):
    """What a task offers beside `Task` if its models can be exported for devices."""

    def deployment(self) -> Deployment:
        """What goes along with an exported file; reads the vocabulary."""

    def of_exported(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What `score` takes, from the outputs of an exported model, by its names (`start_logits`, `probabilities`)."""

    def answers(self, evaluation: Evaluation) -> Mapping[str, object]:
        """What was answered, by question or row, so that two evaluations of the same features can be compared.

        Scores are floats, of which two are the same answer if they are close.
        """


@runtime_checkable
class Phased(Protocol):
    """What a task offers beside `Task` if it trains in phases of its own; its `losses` are then never asked for."""

    def phases(self) -> Sequence[Phase]:
        """Its phases, one after another under one global step; opens no file, loads no TensorFlow."""


@runtime_checkable
class Taught(Protocol):
    """What a task offers beside `Task` if its training has a teacher, which no other mode looks at."""

    def teacher_digests(self) -> Mapping[str, str]:
        """sha256 of what training reads of it, by name; part of the run's identity."""

    def learn_from_teacher(self, module: tf.Module, *, dtype: str) -> None:
        """Reads the teacher; `module` is what `build` has returned, before it is given any weights but drawn ones.

        `dtype` is that of the module's activations. Raises ConfigError or CheckpointError where there is no teacher.
        """
