"""TFLite files of a MobileBERT, in seconds and without a converter: every tensor's number format is decided here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from mobilebert_exp.architecture import FakeQuantization, ModelConfig
from mobilebert_exp.deployment import Answer, ExportFormat
from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite import calibration, flatbuffer, precision
from mobilebert_exp.lite.graph import Graph
from mobilebert_exp.lite.lowering import Lowering
from mobilebert_exp.lite.precision import Precision
from mobilebert_exp.lite.scales import of_range
from mobilebert_exp.modeling.variables import STACKED

PRECISIONS = {
    ExportFormat.tflite_float: precision.FLOAT,
    ExportFormat.tflite_float16: precision.FLOAT16,
    ExportFormat.tflite_dynamic: precision.DYNAMIC,
    ExportFormat.tflite_int8: precision.INT8,
    ExportFormat.tflite_int8_strict: precision.STRICT,
}
LARGEST = 1e7  # activation: more is a model that has diverged, whose scales the interpreter refuses by ending itself
THREADS = 2  # of calibration
MARGIN = 8.0  # by which the scores of padding lie below the lowest of the others, in 8 bits: e^-8 of its share


def tflite(
    values: Mapping[str, np.ndarray],
    *,
    model: ModelConfig,
    head: Answer,
    format: ExportFormat,
    length: int,
    dynamic_length: bool = False,
    ranges: Mapping[str, np.ndarray] | None = None,
    calibration_rows: Iterable[Mapping[str, np.ndarray]] = (),
    mask_value: float | None = None,
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """A file for LiteRT: inputs int32 `[1, length]`, outputs by the names of the signature, float32.

    Of `tflite_int8_strict` outputs are 8-bit numbers, with their scale in the file.

    Args:
      values: variables by name, the head's too.
      ranges: lowest and highest of activations, `[A, 2]` by `layers/POINT`, `[2]` by `embeddings/POINT`.
      calibration_rows: inputs from which the ranges that are not given are measured.
      mask_value: see `ExportConfig.mask_value`.
      metadata: named buffers to carry.

    Raises:
      ExportError: it needs a range that nothing tells, or holds what is not finite; NoSuchFormError: has no such form.
    """
    _check(values)
    is_by_channel = model.fake_quantization is not FakeQuantization.per_tensor
    chosen = dataclasses.replace(PRECISIONS[format], per_channel=is_by_channel)
    masks, found = (model.attention_mask_value,) * model.num_layers, _known(ranges or {})
    lowered = functools.partial(_lowered, values, model=model, head=head, length=length)
    if chosen.stages:
        found |= _measured(lowered(masks), chosen, set(found), calibration_rows, length=length)
        _check_ranges(found)
    if chosen.is_strict:
        masks, found = _masked(found, mask_value, layers=model.num_layers)
    graph = lowered(masks, dynamic_length=dynamic_length)
    plan = precision.planned(graph, chosen, scale_of=lambda name: of_range(*found[name]))
    return flatbuffer.written(plan, length=length, dynamic_length=dynamic_length, metadata=metadata)


def _lowered(
    values: Mapping[str, np.ndarray],
    masks: Sequence[float],
    *,
    model: ModelConfig,
    head: Answer,
    length: int,
    dynamic_length: bool = False,
) -> Graph:
    built = Lowering(values, model=model, head=head, mask_values=masks, length=length, dynamic_length=dynamic_length)
    return built.graph()


def _measured(
    graph: Graph, chosen: Precision, known: Container[str], rows: Iterable[Mapping[str, np.ndarray]], *, length: int
) -> dict[str, calibration.Range]:
    """The ranges that a file needs and nothing tells."""
    missing = {name for name in calibration.wanted(graph, chosen) if name not in known}
    found = calibration.measured(graph, missing, rows, length=length, threads=THREADS)
    if absent := sorted(missing - set(found)):
        raise ExportError(
            f"the range of {absent[0]} is not known; export with calibration examples, or a checkpoint of "
            "quantisation-aware training"
        )
    return found


def _known(ranges: Mapping[str, np.ndarray]) -> dict[str, calibration.Range]:
    """Ranges by the names of results in the graph."""
    found: dict[str, calibration.Range] = {}
    for name, limits in ranges.items():
        if name.startswith(STACKED):
            point = name.removeprefix(STACKED)
            found |= {f"{STACKED}{layer}/{point}": (float(a), float(b)) for layer, (a, b) in enumerate(limits)}
        else:
            found[name] = (float(limits[0]), float(limits[1]))
    return found


def _masked(
    found: Mapping[str, calibration.Range], mask_value: float | None, *, layers: int
) -> tuple[tuple[float, ...], dict[str, calibration.Range]]:
    """What to add to the scores of padding in each layer, and ranges of the sums.

    A value as of training, -10000, leaves the real scores a step or none of 256. What lies below the range is stored
    as its lowest number, so that a margin below the lowest score is enough; each layer has its own, for scores of one
    may reach a hundred times as far as those of another.
    """
    masks, sums = [], {}
    for layer in range(layers):
        at = f"{STACKED}{layer}/attention"
        low, high = found[f"{at}/scores"]
        masks.append(low - high - MARGIN if mask_value is None else mask_value)
        sums[f"{at}/masked"] = (low - MARGIN if mask_value is None else low + mask_value, high)
        sums[f"{at}/context/heads"] = found[f"{at}/context"]
    return tuple(masks), {**found, **sums}


def _check_ranges(found: Mapping[str, calibration.Range]) -> None:
    """Measured ones, and learnt ones."""
    for name, (low, high) in found.items():
        if not -LARGEST <= low <= high <= LARGEST:
            raise ExportError(
                f"{name} reaches from {low:.3g} to {high:.3g}, which 8 bits cannot tell apart; "
                "export another checkpoint, or export.format=tflite_float"
            )


def _check(values: Mapping[str, np.ndarray]) -> None:
    """Refuses weights that are no numbers, of which a file would hide it."""
    for name, value in values.items():
        if not np.all(np.isfinite(value)):
            raise ExportError(f"{name} holds numbers that are not finite; export a checkpoint from before that")
