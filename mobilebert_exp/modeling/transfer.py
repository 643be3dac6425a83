"""What a student is taught by its teacher, in which order and how strongly; pure Python.

Knowledge transfer (KT) teaches the teacher's inner layers; pre-training distillation (PD) teaches its answers. Source
of factors and rates: google-research/google-research mobilebert/{run_pretraining,distill_util}.py and its README.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from mobilebert_exp.checks import at_least, positive, require
from mobilebert_exp.config import ModelConfig
from mobilebert_exp.errors import ConfigError


class Strategy(enum.Enum):
    """How layers are taught (paper, section 3.5): one after another, all at once, or along with the teacher's answers.

    `progressive` and `joint` have a phase of KT and then one of PD; `auxiliary` has one phase, of both losses. `none`
    is what they are measured against: as many updates of the same student without a teacher.
    """

    progressive = "progressive"
    joint = "joint"
    auxiliary = "auxiliary"
    none = "none"

    @property
    def has_transfer_phase(self) -> bool:
        """Whether KT is a phase of its own; its steps are PD's otherwise."""
        return self in (Strategy.progressive, Strategy.joint)


class LowerLayers(enum.Enum):
    """What becomes of the layers that have had their turn: trained on slowly, as the original does, or left alone."""

    slow = "slow"
    frozen = "frozen"


class Semantics(enum.Enum):
    """`tf1_exact` compares means and variances with those of all the teacher's layers, the original's mistake."""

    corrected = "corrected"
    tf1_exact = "tf1_exact"


class Padding(enum.Enum):
    """Whether positions without a token count in the losses of KT, as in the original, or are left out."""

    counted = "counted"
    masked = "masked"


@dataclass(kw_only=True, slots=True)
class TransferConfig:
    """Knowledge transfer. Factors are divided by the student's layers.

    Attributes:
      steps: of the whole phase (original flag num_distill_steps), 0 for none; layers have equal parts of a progressive
        one.
      layer_map: the teacher's layer, from 1, for each of the student's; null where both are equally deep.
      learning_rate_factor: of the layer whose turn it is, on task.optimizer.learning_rate.
      lower_factor: of the layers before it, on that, where lower_layers is slow.
    """

    strategy: Strategy = Strategy.progressive
    lower_layers: LowerLayers = LowerLayers.slow
    semantics: Semantics = Semantics.corrected
    padding: Padding = Padding.counted
    steps: int = 240_000
    layer_map: list[int] | None = None
    hidden_factor: float = 100.0
    mean_factor: float = 5000.0
    variance_factor: float = 5.0
    attention_factor: float = 1.0
    learning_rate_factor: float = 3.0
    lower_factor: float = 0.1

    def __post_init__(self) -> None:
        section = "task.transfer"
        factors = {
            "hidden_factor": self.hidden_factor,
            "mean_factor": self.mean_factor,
            "variance_factor": self.variance_factor,
            "attention_factor": self.attention_factor,
        }
        at_least(section, 0, steps=self.steps, **factors, lower_factor=self.lower_factor)
        positive(section, learning_rate_factor=self.learning_rate_factor)
        require(
            any(factors.values()),
            f"{section}: {', '.join(factors)} are all 0, which teaches nothing; give one of them a value",
        )
        if self.layer_map is not None:
            shown = f"{section}.layer_map={self.layer_map}"
            require(len(self.layer_map) > 0, f"{shown} is empty; name a teacher's layer for each of the student's")
            rising = all(a < b for a, b in zip(self.layer_map, self.layer_map[1:], strict=False))
            require(
                self.layer_map[0] >= 1 and rising,
                f"{shown} does not rise from 1 or more; name the teacher's layers, from 1, in their order",
            )


def layer_map(config: TransferConfig, *, student: ModelConfig, teacher: ModelConfig) -> list[int]:
    """The teacher's layer, from 0, for each of the student's.

    Raises:
      ConfigError: the map does not fit the models, or there is none and they are not equally deep.
    """
    found = config.layer_map
    if found is None:
        if student.num_layers == teacher.num_layers:
            return list(range(student.num_layers))
        raise ConfigError(
            f"the teacher has {teacher.num_layers} layers and the student {student.num_layers}; say which of the "
            f"teacher's teaches which: task.transfer.layer_map={_even(student.num_layers, teacher.num_layers)}"
        )
    if len(found) != student.num_layers:
        raise ConfigError(
            f"task.transfer.layer_map has {len(found)} entries and the student {student.num_layers} layers; "
            "name one of the teacher's layers for each of them"
        )
    if found[-1] > teacher.num_layers:
        raise ConfigError(
            f"task.transfer.layer_map={found} names layer {found[-1]} and the teacher has {teacher.num_layers}; "
            "lower it"
        )
    return [layer - 1 for layer in found]


def _even(students: int, teachers: int) -> list[int]:
    """A map to suggest: evenly spaced, the last to the last."""
    if students > teachers:
        return list(range(1, teachers + 1))
    return [math.ceil((layer + 1) * teachers / students) for layer in range(students)]


def check_pair(*, student: ModelConfig, teacher: ModelConfig) -> None:
    """Both must speak the same language and have feature maps and heads of the same shapes.

    Raises:
      ConfigError: they differ in something that is compared.
    """
    for name, why in (
        ("vocab_size", "they answer with words of one vocabulary"),
        ("hidden_size", "feature maps are compared element by element"),
        ("num_heads", "attention is compared head by head"),
        ("type_vocab_size", "they read the same segments"),
    ):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ConfigError(f"model.{name}={ours} and task.teacher.{name}={theirs} differ; {why}: make them equal")


def steps_per_layer(config: TransferConfig, *, layers: int) -> int:
    """The length of a layer's turn: all of the phase, but for a progressive one.

    Raises:
      ConfigError: the turns would not be equal.
    """
    if config.strategy is not Strategy.progressive:
        return config.steps
    if config.steps % layers:
        near = max(1, round(config.steps / layers)) * layers
        raise ConfigError(
            f"task.transfer.steps={config.steps} is not divisible by the student's {layers} layers; set it to {near}"
        )
    return config.steps // layers
