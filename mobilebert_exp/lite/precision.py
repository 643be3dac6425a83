"""A graph in the number formats of a file: which tensors are stored and computed in 8 bits, and with which scales.

Where 8 bits and float32 meet, a conversion is inserted, once a tensor.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mobilebert_exp.errors import ExportError, NoSuchFormError
from mobilebert_exp.lite import scales
from mobilebert_exp.lite.graph import Graph, Node, Op, Role, Scalar, Shape, Stage, Value
from mobilebert_exp.lite.scales import Scale

# Whose result is read with the scale of what it was made of.
SAME_SCALE = {Op.concatenation, Op.gather, Op.reshape, Op.strided_slice, Op.transpose}
FIXED = {Op.softmax: scales.PROBABILITIES, Op.tanh: scales.TANH}
LARGEST_QUOTIENT = (
    128  # of what goes in and what comes out, in steps: XNNPACK takes less than 256, and ends the process
)
STORED_HALF = {Role.weight, Role.table}


class DType(enum.Enum):
    float32 = "FLOAT32"
    float16 = "FLOAT16"
    int32 = "INT32"
    int8 = "INT8"


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of the file."""

    name: str
    shape: Shape
    dtype: DType
    data: np.ndarray | None = None
    scale: Scale | None = None
    is_shape: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the file."""

    op: Op
    inputs: tuple[Tensor, ...]
    output: Tensor
    options: Mapping[str, Scalar]


@dataclass(slots=True)
class Plan:
    """All that a file holds."""

    inputs: list[Tensor] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Precision:
    """How a graph is stored and computed.

    Attributes:
      stages: what is computed in 8 bits.
      weights: how kernels and tables are stored where their operation is not computed in 8 bits.
      per_channel: whether each output of a kernel has its own scale.
      is_strict: whether results leave the file as 8-bit numbers too.
    """

    stages: frozenset[Stage] = frozenset()
    weights: DType = DType.float32
    per_channel: bool = True
    is_strict: bool = False


FLOAT = Precision()
FLOAT16 = Precision(weights=DType.float16)
DYNAMIC = Precision(weights=DType.int8)
INT8 = Precision(stages=frozenset({Stage.dense}), weights=DType.float32)
STRICT = Precision(stages=frozenset({Stage.dense, Stage.place, Stage.core, Stage.head}), is_strict=True)


class _Planner:
    """One pass over the nodes. `scale_of` gives the scale of a measured result by its name."""

    def __init__(self, precision: Precision, scale_of: Callable[[str], Scale]) -> None:
        self._precision, self._scale_of = precision, scale_of
        self._found: dict[Value, Tensor] = {}
        self._converted: dict[tuple[Tensor, str], Tensor] = {}
        self._plan = Plan()

    def plan(self, graph: Graph) -> Plan:
        for value in graph.inputs:
            self._found[value] = Tensor(value.name, value.shape, DType.int32)
            self._plan.inputs.append(self._found[value])
        for node in graph.nodes:
            self._found[node.output] = self._in_8_bits(node) if self._is_8_bit(node) else self._as_it_is(node)
        for name, value in graph.outputs.items():
            tensor = self._found[value]
            self._plan.outputs[name] = tensor if self._precision.is_strict else self._in_float(tensor)
        return self._plan

    def _is_8_bit(self, node: Node) -> bool:
        if self._precision.is_strict and node.stage is Stage.norm:
            raise NoSuchFormError(
                f"export.format=tflite_int8_strict: {node.output.name} ({node.op.value}) has no 8-bit form here; "
                "models with LayerNorm or GELU have tflite_int8, and model=qat or model=opt tflite_int8_strict"
            )
        return node.stage in self._precision.stages

    def _emit(self, node: Node, inputs: list[Tensor], output: Tensor) -> Tensor:
        self._plan.operations.append(Operation(node.op, tuple(inputs), output, node.options))
        return output

    # float32 and integers

    def _as_it_is(self, node: Node) -> Tensor:
        inputs = [self._plain(value, node) for value in node.inputs]
        dtype = DType.int32 if node.output.is_integer else DType.float32
        if node.op is Op.gather and inputs[0].scale is not None:  # rows of a table that is stored in 8 bits
            rows = Tensor(f"{node.output.name}/stored", node.output.shape, DType.int8, scale=inputs[0].scale)
            return self._in_float(self._emit(node, inputs, rows))
        if node.op is Op.fully_connected and inputs[1].dtype is DType.int8:
            node = replace(node, options={**node.options, "asymmetric_quantize_inputs": True})
        return self._emit(node, inputs, Tensor(node.output.name, node.output.shape, dtype))

    def _plain(self, value: Value, node: Node) -> Tensor:
        """An input of an operation that is not computed in 8 bits."""
        if value.data is None:
            return self._in_float(self._found[value])
        if value in self._found:
            return self._found[value]
        if value.is_integer:
            stored = Tensor(value.name, value.shape, DType.int32, value.data, is_shape=value.role is Role.shape)
        elif value.role in STORED_HALF and value.data.size > 2 and self._precision.weights is DType.float16:
            if np.max(np.abs(value.data), initial=0.0) > np.finfo(np.float16).max:
                raise ExportError(f"{value.name} exceeds what 16 bits hold; choose export.format=tflite_float")
            half = Tensor(f"{value.name}/half", value.shape, DType.float16, value.data.astype(np.float16))
            stored = self._conversion(Op.dequantize, half, Tensor(value.name, value.shape, DType.float32))
        elif value.role in STORED_HALF and value.data.size > 2 and self._precision.weights is DType.int8:
            scale = scales.of_weight(value.data, per_channel=value.role is Role.weight)
            stored = Tensor(value.name, value.shape, DType.int8, scale.stored(value.data), scale)
        else:
            stored = Tensor(value.name, value.shape, DType.float32, value.data)
        self._found[value] = stored
        return stored

    def _conversion(self, op: Op, source: Tensor, target: Tensor) -> Tensor:
        self._plan.operations.append(Operation(op, (source,), target, {}))
        return target

    def _in_float(self, tensor: Tensor) -> Tensor:
        if tensor.dtype is not DType.int8:
            return tensor
        key = (tensor, "float")
        if key not in self._converted:
            target = Tensor(f"{tensor.name}/float", tensor.shape, DType.float32)
            self._converted[key] = self._conversion(Op.dequantize, tensor, target)
        return self._converted[key]

    # 8 bits

    def _in_8_bits(self, node: Node) -> Tensor:
        if node.op is Op.fully_connected:
            return self._product(node)
        inputs = [self._small(value, node) for value in node.inputs]
        read = [tensor.scale for tensor in sorted(inputs, key=_is_constant) if tensor.scale is not None]
        name, is_kept = node.output.name, node.op in SAME_SCALE
        scale = read[0] if is_kept else FIXED.get(node.op) or self._result(name, node.op, read)
        if node.op is Op.concatenation:
            inputs = [self._rescaled(tensor, read[0]) for tensor in inputs]
        return self._emit(node, inputs, Tensor(name, node.output.shape, DType.int8, scale=scale))

    def _product(self, node: Node) -> Tensor:
        """A matrix product, whose bias counts in steps of the input's and the kernel's scales."""
        x = self._small(node.inputs[0], node)
        weight, bias = node.inputs[1], node.inputs[2]
        assert x.scale is not None and weight.data is not None and bias.data is not None
        step = float(x.scale.scale[0])
        scale = scales.of_weight(weight.data, per_channel=self._precision.per_channel, bias=bias.data, input_scale=step)
        kernel = Tensor(weight.name, weight.shape, DType.int8, scale.stored(weight.data), scale)
        steps = Scale(scale.scale * np.float32(step))
        # Interpreters take the input's and the kernel's scales, not this one: its first alone saves a megabyte.
        counts = np.round(bias.data / steps.scale.astype(np.float64)).astype(np.int32)
        offsets = Tensor(bias.name, bias.shape, DType.int32, counts, Scale(steps.scale[:1]))
        result = self._result(node.output.name, node.op, [x.scale, scale])
        return self._emit(
            node, [x, kernel, offsets], Tensor(node.output.name, node.output.shape, DType.int8, scale=result)
        )

    def _result(self, name: str, op: Op, read: Sequence[Scale]) -> Scale:
        """The scale of a result: of what is 0 throughout, one that the interpreter can still divide by."""
        found, largest = self._scale_of(name), [float(scale.scale.max()) for scale in read]
        floor = (max(largest) if op is Op.add else math.prod(largest)) / LARGEST_QUOTIENT
        return found if found.scale[0] >= floor else replace(found, scale=np.array([floor], np.float32))

    def _small(self, value: Value, node: Node) -> Tensor:
        """An input of an operation that is computed in 8 bits."""
        if value.is_integer:
            return self._plain(value, node)
        if value in self._found and self._found[value].dtype is DType.int8:
            return self._found[value]
        if value.data is None:
            return self._quantized(self._found[value])
        scale = scales.of_weight(value.data, per_channel=False)
        if value.role is Role.vector and node.op is Op.add:  # not symmetric: a sum of positions
            scale = scales.of_range(value.data.min(), value.data.max())
        self._found[value] = Tensor(value.name, value.shape, DType.int8, scale.stored(value.data), scale)
        return self._found[value]

    def _quantized(self, tensor: Tensor) -> Tensor:
        key = (tensor, "8 bits")
        if key not in self._converted:
            target = Tensor(f"{tensor.name}/8_bits", tensor.shape, DType.int8, scale=self._scale_of(tensor.name))
            self._converted[key] = self._conversion(Op.quantize, tensor, target)
        return self._converted[key]

    def _rescaled(self, tensor: Tensor, scale: Scale) -> Tensor:
        """With the scale of the others, which a concatenation's inputs share; a constant's numbers count anew."""
        if tensor.scale is None or tensor.scale.same(scale):
            return tensor
        if tensor.data is not None:
            assert tensor.scale is not None
            real = (tensor.data.astype(np.float32) - tensor.scale.zero) * tensor.scale.scale
            return replace(tensor, data=scale.stored(real), scale=scale)
        target = Tensor(f"{tensor.name}/rescaled", tensor.shape, DType.int8, scale=scale)
        return self._conversion(Op.quantize, tensor, target)


def _is_constant(tensor: Tensor) -> bool:
    return tensor.data is not None


def planned(graph: Graph, precision: Precision, *, scale_of: Callable[[str], Scale]) -> Plan:
    """The graph in the formats of `precision`; `scale_of` is asked for each measured result in 8 bits, by its name.

    Raises:
      NoSuchFormError: something has no 8-bit form.
    """
    return _Planner(precision, scale_of).plan(graph)
