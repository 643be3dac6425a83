"""A model as a list of operations on named tensors, before it is known in how many bits each is computed.

Only what MobileBERT needs of TFLite: one row of tokens at a time, so that no tensor has an axis for the batch.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

TOKENS = -1  # in a shape: as many as the row has
Shape = tuple[int, ...]
Scalar = int | float | bool | str


class Op(enum.Enum):
    """Operations by TFLite's names."""

    add = "ADD"
    batch_matmul = "BATCH_MATMUL"
    concatenation = "CONCATENATION"
    cumsum = "CUMSUM"
    dequantize = "DEQUANTIZE"
    fully_connected = "FULLY_CONNECTED"
    gather = "GATHER"
    gelu = "GELU"
    mean = "MEAN"
    mul = "MUL"
    quantize = "QUANTIZE"
    reshape = "RESHAPE"
    rsqrt = "RSQRT"
    softmax = "SOFTMAX"
    squared_difference = "SQUARED_DIFFERENCE"
    strided_slice = "STRIDED_SLICE"
    sub = "SUB"
    tanh = "TANH"
    transpose = "TRANSPOSE"


class Stage(enum.Enum):
    """The part of the model that an operation belongs to: what is computed in how many bits is decided by parts.

    `place`: sum of token types and positions. `core`: scores, softmax and weighted sum of attention. `norm`:
    LayerNorm and GELU, which have no 8-bit form. `dense`: everything else within the encoder.
    """

    row = "row"  # of integers, computed as such everywhere
    place = "place"
    dense = "dense"
    core = "core"
    norm = "norm"
    head = "head"


class Role(enum.Enum):
    """What a constant is for, which decides how it is stored."""

    weight = "weight"  # of a product: `[out, in]`
    bias = "bias"
    table = "table"  # rows to be gathered
    vector = "vector"  # one factor or summand for each channel, or one for all
    integers = "integers"
    shape = "shape"  # integers too, of which TOKENS stands for the length


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor: an input, a constant or the result of a node. Names are unique within a graph."""

    name: str
    shape: Shape
    data: np.ndarray | None = None
    role: Role | None = None
    is_integer: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """One operation; `activation` is fused into it, `options` are TFLite's."""

    op: Op
    inputs: tuple[Value, ...]
    output: Value
    stage: Stage
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """Nodes in the order in which they run."""

    inputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)

    def input(self, name: str) -> Value:
        """An input `[1, TOKENS]` of int32."""
        value = Value(name, (1, TOKENS), is_integer=True)
        self.inputs.append(value)
        return value

    def add(
        self, op: Op, inputs: Sequence[Value], *, name: str, shape: Shape, stage: Stage, **options: Scalar
    ) -> Value:
        """Appends a node and returns its result."""
        is_integer = stage is Stage.row
        output = Value(name, shape, is_integer=is_integer)
        self.nodes.append(Node(op, tuple(inputs), output, stage, options))
        return output


def constant(name: str, data: np.ndarray, *, role: Role) -> Value:
    """A constant of float32, or of int32 if it counts something."""
    is_integer = role in (Role.integers, Role.shape)
    kept = np.ascontiguousarray(data, np.int32 if is_integer else np.float32)
    return Value(name, kept.shape, data=kept, role=role, is_integer=is_integer)


def integers(name: str, values: Sequence[int]) -> Value:
    """A list of whole numbers: an order of axes, the limits of a slice."""
    return constant(name, np.array(values, np.int32), role=Role.integers)


def shape_of(name: str, values: Shape) -> Value:
    """What a tensor is reshaped to."""
    return constant(name, np.array(values, np.int32), role=Role.shape)
