"""Where the time goes, by kind of op: each distinct op of a file, cut out into a file of its own, run alone.

The interpreter's own profiler is not to be had from Python. Alone, an op has its inputs in the cache and pays its own
way into XNNPACK, so the sum of all is near the time of the whole and not equal to it: both are to be shown.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.deployment import INPUTS, SIGNATURE
from mobilebert_exp.lite.census import op_name
from mobilebert_exp.lite.model_file import IDENTIFIER, opened

if TYPE_CHECKING:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT

WARMUP_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTime:
    """Attributes:
    name: the ops' kind.
    count: how many of them the file has.
    milliseconds: what all of them take, each run alone.
    failed: how many could not be run alone, and are not counted in.
    """

    name: str
    count: int
    milliseconds: float
    failed: int = 0


def profile(path: Path, row: Mapping[str, np.ndarray], *, threads: int, runs: int) -> list[OpTime]:
    """Times of the kinds of ops in a file's first graph, the slowest first.

    Args:
      row: an input, `[1, L]` by name; every op is given what it is given in a run on it.
      runs: measured runs of each distinct op, of which the median counts.

    Raises:
      ExportError: the file is not whole.
    """
    model = opened(path)
    graph = model.subgraphs[0]
    values = Values(model, path, row)
    names: dict[tuple[object, ...], str] = {}
    groups: dict[tuple[object, ...], list[OperatorT]] = {}
    for operator in graph.operators:
        key = values.key(operator)
        names[key] = op_name(model, operator)
        groups.setdefault(key, []).append(operator)
    found: dict[str, list[tuple[int, float | None]]] = {}
    for key, operators in groups.items():
        is_run = not values.are_constant(operators[0].outputs)
        taken = _time_alone(values, operators[0], threads=threads, runs=runs) if is_run else 0.0
        found.setdefault(names[key], []).append((len(operators), taken))
    times = [
        OpTime(
            name=name,
            count=sum(count for count, _ in parts),
            milliseconds=sum(count * taken for count, taken in parts if taken is not None),
            failed=sum(count for count, taken in parts if taken is None),
        )
        for name, parts in found.items()
    ]
    return sorted(times, key=lambda each: -each.milliseconds)


class Values:
    """Every tensor of a model's first graph, as it is in a run on `row`.

    What ops make of constants alone (floats of 16-bit weights) is constant too: the interpreter computes it once.
    """

    def __init__(self, model: ModelT, path: Path, row: Mapping[str, np.ndarray]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it takes more memory
            self._interpreter = Interpreter(
                model_path=str(path),
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
        names = list(self._interpreter.get_signature_list())
        runner = self._interpreter.get_signature_runner(SIGNATURE if SIGNATURE in names else names[0])
        types = {name: details["dtype"] for name, details in runner.get_input_details().items()}
        runner(**{name: row[name].astype(types[name]) for name in INPUTS})
        self.model, graph = model, model.subgraphs[0]
        given = (index for index, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None)
        self._constant = set(given)
        for operator in graph.operators:
            if self.are_constant(operator.inputs):
                self._constant.update(int(made) for made in operator.outputs)

    def of(self, tensor: int) -> np.ndarray:
        return self._interpreter.get_tensor(tensor)

    def are_constant(self, tensors: Iterable[int]) -> bool:
        """Whether these tensors are the same in every run; -1 stands for none."""
        return all(tensor in self._constant for tensor in map(int, tensors) if tensor >= 0)

    def content(self, tensor: int) -> np.ndarray:
        """A constant's bytes."""
        import numpy as np

        data = self.model.buffers[self.model.subgraphs[0].tensors[tensor].buffer].data
        return data if data is not None else np.frombuffer(self.of(tensor).tobytes(), np.uint8)

    def key(self, operator: OperatorT) -> tuple[object, ...]:
        """What two ops must have in common to take the same time."""
        graph = self.model.subgraphs[0]
        tensors = []
        for index in (*operator.inputs, *operator.outputs):
            tensor = graph.tensors[index]
            scales = None if tensor.quantization is None else tensor.quantization.scale
            constant = self.are_constant([index])
            shape = tuple(self.of(index).shape) if index >= 0 else ()
            tensors.append((index >= 0, tensor.type, shape, constant, 0 if scales is None else len(scales)))
        options = operator.builtinOptions
        return (operator.opcodeIndex, repr(sorted(vars(options).items())) if options else "", tuple(tensors))


def _time_alone(values: Values, operator: OperatorT, *, threads: int, runs: int) -> float | None:
    """Milliseconds of one op; None where the interpreter does not take it alone."""
    from ai_edge_litert.interpreter import Interpreter

    content, inputs = cut_out(values, operator)
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        for place, value in inputs.items():
            interpreter.set_tensor(place, value)
        taken = [_once(interpreter) for _ in range(WARMUP_RUNS + runs)]
    except (RuntimeError, ValueError):
        return None
    return 1e3 * statistics.median(taken[WARMUP_RUNS:])


def _once(interpreter: Interpreter) -> float:
    started = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - started


def cut_out(values: Values, operator: OperatorT) -> tuple[bytes, dict[int, np.ndarray]]:
    """A file with this op alone, and what its inputs are given, by their number in that file."""
    import flatbuffers
    from ai_edge_litert.schema_py_generated import BufferT, ModelT, SubGraphT

    graph, alone, model = SubGraphT(), ModelT(), values.model
    alone.version, alone.operatorCodes = model.version, [model.operatorCodes[operator.opcodeIndex]]
    alone.subgraphs, alone.buffers = [graph], [BufferT()]
    graph.tensors, given = [], {}
    places: dict[int, int] = {-1: -1}
    for index in dict.fromkeys(int(one) for one in (*operator.inputs, *operator.outputs) if one >= 0):
        places[index] = len(graph.tensors)
        tensor = copy.copy(model.subgraphs[0].tensors[index])
        value = values.of(index)
        tensor.shape, tensor.shapeSignature, tensor.buffer = list(value.shape), None, 0
        if values.are_constant([index]):
            tensor.buffer = len(alone.buffers)
            alone.buffers.append(_buffer(values.content(index)))
        elif index in operator.inputs:
            given[places[index]] = value
        graph.tensors.append(tensor)
    cut = copy.copy(operator)
    cut.opcodeIndex = 0
    cut.inputs = [places[int(one)] for one in operator.inputs]
    cut.outputs = [places[int(one)] for one in operator.outputs]
    graph.operators, graph.inputs, graph.outputs = [cut], list(given), list(cut.outputs)
    builder = flatbuffers.Builder(1024)
    builder.Finish(alone.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output()), given


def _buffer(content: Any) -> Any:
    from ai_edge_litert.schema_py_generated import BufferT

    buffer = BufferT()
    buffer.data = content
    return buffer
