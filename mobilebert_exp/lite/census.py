"""What a file computes, and in which types, read from the file alone: nothing is run, so nothing is optimised away."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.lite.model_file import opened

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT, SubGraphT

FLOATS = frozenset({"FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16"})
NOTHING = "NONE"  # of an input that an op can do without


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """A kind of op: its name and the types of its tensors, as TFLite's schema calls them."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Attributes:
    ops: how many there are of each kind, the most frequent first.
    constants: bytes of the weights and other constants, by type.
    """

    ops: Mapping[Op, int]
    constants: Mapping[str, int]

    def by_name(self) -> dict[str, int]:
        """How many ops there are by name alone."""
        found: Counter[str] = Counter()
        for op, count in self.ops.items():
            found[op.name] += count
        return dict(found.most_common())


def of(path: str | Path) -> Census:
    """The census of a file.

    Raises:
      ExportError: it is not a whole TFLite file.
    """
    model = opened(Path(path))
    names = type_names()
    found: Counter[Op] = Counter()
    for graph in model.subgraphs:
        found.update(_op(model, graph, operator, names) for operator in graph.operators or [])
    return Census(ops=dict(found.most_common()), constants=_constants(model, names))


def float_ops(path: str | Path) -> list[str]:
    """Every op that computes in floating point, by kind and by the name of what it makes.

    The outputs are float, so what makes them of 8 bits is at the rim and no part of it; nor is what makes 8 bits of a
    float input.

    Raises:
      ExportError: it is not a whole TFLite file.
    """
    model = opened(Path(path))
    names = type_names()
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            op = _op(model, graph, operator, names)
            if FLOATS & {*op.inputs, *op.outputs} and not _is_rim(op, graph, operator):
                found.append(f"{op}: {_decoded(graph.tensors[operator.outputs[0]].name)}")
    return found


def _is_rim(op: Op, graph: SubGraphT, operator: OperatorT) -> bool:
    if op.name == "DEQUANTIZE":
        return not FLOATS & {*op.inputs} and _holds(graph.outputs, operator.outputs)
    return op.name == "QUANTIZE" and not FLOATS & {*op.outputs} and _holds(graph.inputs, operator.inputs)


def _holds(all_: Sequence[int], some: Sequence[int]) -> bool:
    return {int(one) for one in some} <= {int(one) for one in all_}


def _op(model: ModelT, graph: SubGraphT, operator: OperatorT, names: Mapping[int, str]) -> Op:
    def types(tensors: Sequence[int] | None) -> tuple[str, ...]:
        given = () if tensors is None else tensors
        return tuple(names[graph.tensors[one].type] if one >= 0 else NOTHING for one in given)

    name = op_name(model, operator)
    return Op(name=name, inputs=types(operator.inputs), outputs=types(operator.outputs))


def op_name(model: ModelT, operator: OperatorT) -> str:
    """As the schema calls it; a custom one by the name that it was given."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files know the second alone, where it is above 0
    name = _builtin_names().get(number, f"op {number}")
    return _decoded(code.customCode) if name == "CUSTOM" else name


@functools.cache
def _builtin_names() -> dict[int, str]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return {value: name for name, value in vars(BuiltinOperator).items() if isinstance(value, int)}


@functools.cache
def type_names() -> dict[int, str]:
    """Names of the tensors' types by number."""
    from ai_edge_litert.schema_py_generated import TensorType

    return {value: name for name, value in vars(TensorType).items() if isinstance(value, int)}


def _constants(model: ModelT, names: Mapping[int, str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    counted: set[int] = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            content = model.buffers[tensor.buffer].data
            if content is not None and tensor.buffer not in counted:
                counted.add(tensor.buffer)
                found[names[tensor.type]] += len(content)
    return dict(found.most_common())


def _decoded(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def as_record(census: Census) -> dict[str, Any]:
    """For JSON."""
    ops = [{**dataclasses.asdict(op), "count": count} for op, count in census.ops.items()]
    return {"ops": ops, "constant_bytes": dict(census.constants)}
