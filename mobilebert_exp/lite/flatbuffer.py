"""A plan as the bytes of a TFLite file (the schema is that which `ai_edge_litert` carries)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mobilebert_exp.deployment import SIGNATURE
from mobilebert_exp.lite.graph import Op, Scalar, Shape
from mobilebert_exp.lite.model_file import IDENTIFIER
from mobilebert_exp.lite.precision import DType, Operation, Plan, Tensor

SCHEMA_VERSION = 3
ALIGNMENT = 16  # of constants, which the interpreter reads where they lie in the file
OPTIONS = {  # of an operation, and what each of ours is called there
    Op.add: "AddOptions",
    Op.batch_matmul: "BatchMatMulOptions",
    Op.concatenation: "ConcatenationOptions",
    Op.cumsum: "CumsumOptions",
    Op.fully_connected: "FullyConnectedOptions",
    Op.gather: "GatherOptions",
    Op.gelu: "GeluOptions",
    Op.mean: "ReducerOptions",
    Op.mul: "MulOptions",
    Op.softmax: "SoftmaxOptions",
    Op.strided_slice: "StridedSliceOptions",
    Op.sub: "SubOptions",
}
FIELDS = {
    "adj_y": "adjY",
    "approximate": "approximate",
    "asymmetric_quantize_inputs": "asymmetricQuantizeInputs",
    "axis": "axis",
    "begin_mask": "beginMask",
    "beta": "beta",
    "end_mask": "endMask",
    "exclusive": "exclusive",
    "keep_dims": "keepDims",
}
# The version of an operation in which TFLite took 8-bit inputs, where that is not its first.
SINCE_8_BIT = {
    Op.add: 2, Op.batch_matmul: 2, Op.concatenation: 2, Op.dequantize: 2, Op.gather: 2, Op.mul: 2, Op.quantize: 2,
    Op.softmax: 2, Op.strided_slice: 2, Op.tanh: 2, Op.transpose: 2,
}  # fmt: skip
PRODUCT_8_BIT, PRODUCT_OF_MIXED, PRODUCT_BY_CHANNEL, DEQUANTIZE_HALF = 4, 9, 12, 3


def version(operation: Operation) -> int:
    """The version of an operation that a runtime must know."""
    first = operation.inputs[0].dtype
    if operation.op is Op.dequantize and first is DType.float16:
        return DEQUANTIZE_HALF
    if operation.op is Op.fully_connected and operation.inputs[1].dtype is DType.int8:
        if first is DType.int8:
            return PRODUCT_8_BIT
        scale = operation.inputs[1].scale
        return PRODUCT_BY_CHANNEL if scale is not None and len(scale.scale) > 1 else PRODUCT_OF_MIXED
    return SINCE_8_BIT.get(operation.op, 1) if first is DType.int8 else 1


def fixed(shape: Shape, length: int) -> list[int]:
    """A shape of so many tokens: -1 stands for all of them, -2 for all but one."""
    return [size if size >= 0 else length + size + 1 for size in shape]


class _Writer:
    """Objects of the schema, tensor by tensor."""

    def __init__(self, plan: Plan, *, length: int, is_dynamic: bool) -> None:
        from ai_edge_litert import schema_py_generated

        self._schema: Any = schema_py_generated
        self._plan, self._length, self._is_dynamic = plan, length, is_dynamic
        self._numbers: dict[Tensor, int] = {}
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [self._buffer(None)]  # the first is that of all that is not constant
        self._codes: dict[tuple[Op, int], int] = {}

    def model(self, metadata: Mapping[str, bytes]) -> Any:
        schema, plan = self._schema, self._plan
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.inputs = [self._number(tensor) for tensor in plan.inputs]
        graph.operators = [self._operator(operation) for operation in plan.operations]
        graph.outputs = [self._number(tensor) for tensor in plan.outputs.values()]
        graph.tensors = self._tensors
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, "mobilebert_exp"
        model.subgraphs, model.operatorCodes = [graph], [self._code(*key) for key in self._codes]
        model.metadata = [self._named_buffer(name, content) for name, content in metadata.items()]
        model.buffers, model.signatureDefs = self._buffers, [self._signature()]
        return model

    def _buffer(self, content: np.ndarray | None) -> Any:
        class Aligned(self._schema.BufferT):  # type: ignore[name-defined]
            """The generated class writes bytes wherever they happen to lie."""

            def Pack(self, builder: Any) -> int:  # noqa: N802  overrides
                place = None
                if self.data is not None:
                    builder.StartVector(1, len(self.data), ALIGNMENT)
                    builder.head -= len(self.data)
                    builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
                    place = builder.EndVector()
                builder.StartObject(3)
                if place is not None:
                    builder.PrependUOffsetTRelativeSlot(0, place, 0)
                return int(builder.EndObject())

        buffer = Aligned()
        buffer.data = None if content is None else np.ascontiguousarray(content).tobytes()
        return buffer

    def _named_buffer(self, name: str, content: bytes) -> Any:
        entry = self._schema.MetadataT()
        entry.name, entry.buffer = name, len(self._buffers)
        self._buffers.append(self._buffer(np.frombuffer(content, np.uint8)))
        return entry

    def _number(self, tensor: Tensor) -> int:
        if tensor not in self._numbers:
            self._numbers[tensor] = len(self._tensors)
            self._tensors.append(self._described(tensor))
        return self._numbers[tensor]

    def _described(self, tensor: Tensor) -> Any:
        found = self._schema.TensorT()
        found.name, found.shape = tensor.name, fixed(tensor.shape, self._length)
        found.type = getattr(self._schema.TensorType, tensor.dtype.value)
        if self._is_dynamic and any(size < 0 for size in tensor.shape):
            found.shapeSignature = [max(size, -1) for size in tensor.shape]
        found.buffer = 0
        if tensor.data is not None:
            found.buffer = len(self._buffers)
            self._buffers.append(self._buffer(self._constant(tensor)))
        if tensor.scale is not None:
            scale = self._schema.QuantizationParametersT()
            scale.scale = tensor.scale.scale
            scale.zeroPoint = np.full(len(tensor.scale.scale), tensor.scale.zero, np.int64)
            scale.quantizedDimension = tensor.scale.axis
            found.quantization = scale
        return found

    def _constant(self, tensor: Tensor) -> np.ndarray | None:
        """The number of tokens in a shape is known, unless it may change."""
        if tensor.data is None or not tensor.is_shape or self._is_dynamic:
            return tensor.data
        return np.array(fixed(tuple(tensor.data.tolist()), self._length), np.int32)

    def _operator(self, operation: Operation) -> Any:
        found = self._schema.OperatorT()
        key = (operation.op, version(operation))
        found.opcodeIndex = self._codes.setdefault(key, len(self._codes))
        found.inputs = [self._number(tensor) for tensor in operation.inputs]
        found.outputs = [self._number(operation.output)]
        if kind := OPTIONS.get(operation.op):
            found.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
            found.builtinOptions = getattr(self._schema, f"{kind}T")()
            self._fill(found.builtinOptions, operation.options)
        return found

    def _fill(self, options: Any, values: Mapping[str, Scalar]) -> None:
        for name, value in values.items():
            if name == "activation":
                options.fusedActivationFunction = getattr(self._schema.ActivationFunctionType, str(value))
            else:
                setattr(options, FIELDS[name], value)

    def _code(self, op: Op, number: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode = getattr(self._schema.BuiltinOperator, op.value)
        code.deprecatedBuiltinCode = min(
            code.builtinCode, self._schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
        )
        code.version = number
        return code

    def _signature(self) -> Any:
        signature = self._schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs = [self._map(tensor.name, tensor) for tensor in self._plan.inputs]
        signature.outputs = [self._map(name, tensor) for name, tensor in self._plan.outputs.items()]
        return signature

    def _map(self, name: str, tensor: Tensor) -> Any:
        found = self._schema.TensorMapT()
        found.name, found.tensorIndex = name, self._number(tensor)
        return found


def written(
    plan: Plan, *, length: int, dynamic_length: bool = False, metadata: Mapping[str, bytes] | None = None
) -> bytes:
    """The file.

    Args:
      length: tokens of an input; where `dynamic_length`, those that it has until it is resized.
      metadata: named buffers, such as `TFLITE_METADATA`.
    """
    import flatbuffers

    model = _Writer(plan, length=length, is_dynamic=dynamic_length).model(metadata or {})
    size = sum(len(buffer.data) + 64 for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + 1024 * len(model.subgraphs[0].tensors))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())
