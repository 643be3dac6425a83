"""Small TFLite files with the signature of ours, written tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

INPUTS = ("input_ids", "input_mask", "segment_ids")
TYPES = {name: getattr(schema.TensorType, name) for name in ("FLOAT32", "INT32", "INT8", "INT64")}
STORED = {"FLOAT32": np.float32, "INT32": np.int32, "INT8": np.int8, "INT64": np.int64}
FACTOR = 2.0


class Graph:
    """A graph in the making; tensors and ops are added in order."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers, self._codes = [schema.BufferT()], list[Any]()
        self._names: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        type: str = "FLOAT32",
        *,
        value: Any = None,
        scale: float | None = None,
        zero: int = 0,
    ) -> str:
        made = schema.TensorT()
        made.name, made.type, made.buffer = name, TYPES[type], 0
        made.shape = [max(size, 1) for size in shape]
        made.shapeSignature = list(shape) if -1 in shape else None
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.broadcast_to(np.asarray(value, STORED[type]), shape).tobytes(), np.uint8)
            made.buffer = len(self._buffers)
            self._buffers.append(buffer)
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        self._names[name] = len(self._graph.tensors)
        self._graph.tensors.append(made)
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, *, version: int = 1, custom: str = "") -> None:
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, kind)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        code.customCode = custom or None
        made = schema.OperatorT()
        made.opcodeIndex = len(self._codes)
        made.inputs = [self._names[name] for name in inputs]
        made.outputs = [self._names[output]]
        options = {"ADD": "AddOptions", "MUL": "MulOptions", "CAST": "CastOptions"}.get(kind)
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
        self._codes.append(code)
        self._graph.operators.append(made)

    def written(
        self, *, inputs: Sequence[str], outputs: Mapping[str, str], signature: str = "serving_default"
    ) -> bytes:
        """The file; `outputs` are tensors by their names in the signature."""
        self._graph.inputs = [self._names[name] for name in inputs]
        self._graph.outputs = [self._names[name] for name in outputs.values()]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = (
            3,
            [self._graph],
            self._buffers,
            self._codes,
        )
        if signature:
            named = schema.SignatureDefT()
            named.signatureKey, named.subgraphIndex = signature, 0
            named.inputs = [_entry(name, self._names[name]) for name in inputs]
            named.outputs = [_entry(name, self._names[tensor]) for name, tensor in outputs.items()]
            model.signatureDefs = [named]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _entry(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry


def span(
    length: int = 12, *, inputs: Sequence[str] = INPUTS, dynamic: bool = False, type: str = "INT32", **signature: str
) -> bytes:
    """Float inside, the inputs in the given order: start = ids + mask, end = 2 start + segments."""
    graph, shape = Graph(), [1, -1 if dynamic else length]
    for name in inputs:
        graph.tensor(name, shape, type)
        graph.op("CAST", [name], graph.tensor(f"{name}/real", shape)) if type != "FLOAT32" else None
    real = [name if type == "FLOAT32" else f"{name}/real" for name in INPUTS]
    graph.op("ADD", real[:2], graph.tensor("start", shape))
    graph.op("MUL", ["start", graph.tensor("factor", [1], value=FACTOR)], graph.tensor("doubled", shape))
    graph.op("ADD", ["doubled", real[2]], graph.tensor("end", shape))
    return graph.written(inputs=inputs, outputs={"end_logits": "end", "start_logits": "start"}, **signature)


def quantized(length: int = 12, *, scale: float = 0.5, zero: int = -3, op: str = "ADD", **code: Any) -> bytes:
    """8 bits inside, `scores` of 8 bits too; `op` makes them of the input twice."""
    graph, shape = Graph(), [1, length]
    for name in INPUTS:
        graph.tensor(name, shape, "INT32")
    graph.op("CAST", ["input_ids"], graph.tensor("real", shape))
    graph.op("QUANTIZE", ["real"], graph.tensor("small", shape, "INT8", scale=scale, zero=zero))
    graph.op(op, ["small", "small"], graph.tensor("sum", shape, "INT8", scale=scale, zero=zero), **code)
    return graph.written(inputs=INPUTS, outputs={"scores": "sum"})


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def batch(rows: int = 3, length: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    mask = (np.arange(length) < rng.integers(2, length + 1, (rows, 1))).astype(np.int32)
    ids = rng.integers(1, 20, (rows, length), dtype=np.int32) * mask
    return {"input_ids": ids, "input_mask": mask, "segment_ids": rng.integers(0, 2, (rows, length), dtype=np.int32)}
