"""The schema of what leads from a model to a device: quantisation-aware training, export, benchmark."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from mobilebert_exp.checks import at_least, optional_place, require

# What an exported model is called by, as the original's.
INPUTS = ("input_ids", "input_mask", "segment_ids")
SIGNATURE = "serving_default"


class Answer(enum.Enum):
    """What an exported model answers: logits of a span's first and last token, a share for each class, or a score."""

    span = "span"
    classes = "classes"
    score = "score"


class ExportFormat(enum.Enum):
    """What a model is exported as.

    `tflite_int8` computes everything in 8 bits but the core of attention, the embeddings' sum and the head;
    `tflite_int8_strict` computes those too.
    """

    savedmodel = "savedmodel"
    tflite_float = "tflite_float"
    tflite_float16 = "tflite_float16"
    tflite_dynamic = "tflite_dynamic"
    tflite_int8 = "tflite_int8"
    tflite_int8_strict = "tflite_int8_strict"
    all = "all"


# Formats whose ranges of activations are measured on training features.
CALIBRATED = frozenset({ExportFormat.tflite_int8, ExportFormat.tflite_int8_strict, ExportFormat.all})


@dataclass(kw_only=True, slots=True)
class QuantizationConfig:
    """Quantisation-aware training, of a model with `model.fake_quantization`.

    Attributes:
      calibration_batches: batches whose ranges of activations are measured before the first step.
      moving_average: what a range keeps of itself in a step.
      freeze_after: share of the steps after which ranges stay as they are; 1 never freezes them.
    """

    calibration_batches: int = 16
    moving_average: float = 0.999
    freeze_after: float = 0.5

    def __post_init__(self) -> None:
        at_least("quantization", 1, calibration_batches=self.calibration_batches)
        for name in ("moving_average", "freeze_after"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"quantization.{name}={share} is not within [0, 1]; give it as a share")

    def moving_steps(self, *, of: int) -> int:
        """How many of the steps of a run move the ranges: the first so many."""
        return math.ceil(self.freeze_after * of)


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """What `mode=export` writes, and what `mode=evaluate` and `mode=benchmark` read.

    Attributes:
      format: what to write; `all` writes every format that the model has.
      path: for `mode=evaluate` an exported file or SavedModel, for `mode=benchmark` one or a folder of them.
      length: tokens of an input; null takes `task.max_seq_length`.
      dynamic_length: whether an input may be shorter (`resize_tensor_input`).
      calibration_examples: training features from which ranges of activations are measured, where the checkpoint has
        none from quantisation-aware training.
      mask_value: what 8-bit attention adds to the scores of padding; null takes one from the range of the scores.
      max_drop: how much lower than the model's a file's main metric may be before `mode=evaluate` fails the run.
    """

    format: ExportFormat = ExportFormat.tflite_float
    path: str | None = None
    length: int | None = None
    dynamic_length: bool = False
    calibration_examples: int = 100
    mask_value: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        self.path = optional_place("export.path", self.path)
        at_least("export", 1, length=self.length, calibration_examples=self.calibration_examples)
        at_least("export", 0, max_drop=self.max_drop)
        require(
            self.mask_value is None or -math.inf < self.mask_value < 0,
            f"export.mask_value={self.mask_value} is not a finite negative number, which hides padding; "
            "null takes one from the range of the scores",
        )
        has_8_bit_scores = self.format in (ExportFormat.tflite_int8_strict, ExportFormat.all)
        require(
            self.mask_value is None or has_8_bit_scores,
            f"export.mask_value={self.mask_value} is for export.format=tflite_int8_strict, not {self.format.name}, "
            "whose scores are float; leave it out",
        )


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """How `mode=benchmark` measures.

    Attributes:
      threads: numbers of threads, one after another.
      runs: measured runs for each, after `warmup_runs` that are not.
      examples: rows of the dev split that take turns as input.
    """

    threads: list[int] = field(default_factory=lambda: [1, 2])
    runs: int = 50
    warmup_runs: int = 5
    examples: int = 8

    def __post_init__(self) -> None:
        at_least("benchmark", 1, runs=self.runs, warmup_runs=self.warmup_runs, examples=self.examples)
        require(len(self.threads) > 0, "benchmark.threads is empty; give at least one number, such as [1, 2]")
        for count in self.threads:
            require(count >= 1, f"benchmark.threads={self.threads} has a number below 1; raise it")
