"""The census of a file: every op with the types of its tensors, and which of them are float."""

from __future__ import annotations

from pathlib import Path

import lite_files
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite import census, op_profile
from mobilebert_exp.lite.census import Op
from mobilebert_exp.lite.model_file import opened

REAL, SMALL = "FLOAT32", "INT8"


def test_ops_are_counted_with_the_types_of_their_tensors(tmp_path: Path) -> None:
    found = census.of(lite_files.put(tmp_path / "m.tflite", lite_files.span()))
    assert found.ops == {
        Op(name="CAST", inputs=("INT32",), outputs=(REAL,)): 3,
        Op(name="ADD", inputs=(REAL, REAL), outputs=(REAL,)): 2,
        Op(name="MUL", inputs=(REAL, REAL), outputs=(REAL,)): 1,
    }
    assert found.by_name() == {"CAST": 3, "ADD": 2, "MUL": 1}
    assert found.constants == {REAL: 4}


def test_every_op_that_touches_a_float_is_one(tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.quantized())
    assert census.float_ops(path) == ["CAST(INT32) -> FLOAT32: real", "QUANTIZE(FLOAT32) -> INT8: small"]
    assert len(census.float_ops(lite_files.put(tmp_path / "f.tflite", lite_files.span()))) == 6


def test_what_turns_the_last_numbers_to_floats_is_no_op_inside(tmp_path: Path) -> None:
    graph, shape = lite_files.Graph(), [1, 4]
    graph.tensor("input", shape)
    graph.op("QUANTIZE", ["input"], graph.tensor("small", shape, SMALL, scale=1.0))
    graph.op("ADD", ["small", "small"], graph.tensor("sum", shape, SMALL, scale=1.0))
    graph.op("DEQUANTIZE", ["sum"], graph.tensor("output", shape))
    strict = graph.written(inputs=["input"], outputs={"scores": "output"})
    assert census.float_ops(lite_files.put(tmp_path / "strict.tflite", strict)) == []
    graph.op("ADD", ["output", "output"], graph.tensor("more", shape))
    inside = graph.written(inputs=["input"], outputs={"scores": "more"})
    assert [op.split("(")[0] for op in census.float_ops(lite_files.put(tmp_path / "inside.tflite", inside))] == [
        "DEQUANTIZE",
        "ADD",
    ]


def test_a_file_cut_short_has_no_census(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="truncated or damaged"):
        census.of(lite_files.put(tmp_path / "m.tflite", lite_files.span()[:200]))


def test_every_op_has_its_time_alone(tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span(64))
    found = op_profile.profile(path, lite_files.batch(1, 64), threads=1, runs=3)
    assert {op.name: (op.count, op.failed) for op in found} == {"CAST": (3, 0), "ADD": (2, 0), "MUL": (1, 0)}
    assert [op.milliseconds for op in found] == sorted((op.milliseconds for op in found), reverse=True)
    assert all(op.milliseconds > 0 for op in found)


def test_an_op_alone_computes_what_it_does_in_the_file(tmp_path: Path) -> None:
    path, row = lite_files.put(tmp_path / "m.tflite", lite_files.span()), lite_files.batch(1)
    values = op_profile.Values(opened(path), path, row)
    for operator in values.model.subgraphs[0].operators:
        content, given = op_profile.cut_out(values, operator)
        alone = Interpreter(model_content=content)
        alone.allocate_tensors()
        for place, value in given.items():
            alone.set_tensor(place, value)
        alone.invoke()
        made = alone.get_tensor(alone.get_output_details()[0]["index"])
        np.testing.assert_array_equal(made, values.of(operator.outputs[0]))


def test_what_is_made_of_constants_takes_no_time_and_is_one(tmp_path: Path) -> None:
    """As 16-bit weights are: the interpreter turns them to floats once."""
    graph, shape = lite_files.Graph(), [1, 12]
    for name in lite_files.INPUTS:
        graph.tensor(name, shape, "INT32")
    graph.op("CAST", ["input_ids"], graph.tensor("real", shape))
    graph.op("CAST", [graph.tensor("weights", shape, "INT32", value=7)], graph.tensor("floats", shape))
    graph.op("MUL", ["real", "floats"], graph.tensor("product", shape))
    content = graph.written(inputs=lite_files.INPUTS, outputs={"scores": "product"})
    path, row = lite_files.put(tmp_path / "m.tflite", content), lite_files.batch(1)
    found = {op.name: op for op in op_profile.profile(path, row, threads=1, runs=3)}
    assert (found["CAST"].count, found["MUL"].count, found["MUL"].failed) == (2, 1, 0)
    values = op_profile.Values(opened(path), path, row)
    of_weights, product = values.model.subgraphs[0].operators[1:]
    assert values.are_constant(of_weights.outputs) and not values.are_constant(product.outputs)
    content, given = op_profile.cut_out(values, product)
    assert len(given) == 1
    assert census.of(lite_files.put(tmp_path / "alone.tflite", content)).constants == {REAL: 48}
