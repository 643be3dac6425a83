"""The census of a file: every op with the types of its tensors, and which of them are float."""

from __future__ import annotations

from pathlib import Path

import lite_files
import numpy as np
import pytest

from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite import census, op_profile
from mobilebert_exp.lite.census import Op

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
    from ai_edge_litert.interpreter import Interpreter

    from mobilebert_exp.lite.model_file import opened

    path, row = lite_files.put(tmp_path / "m.tflite", lite_files.span()), lite_files.batch(1)
    model, values = opened(path), op_profile.Values(path, row)
    for operator in model.subgraphs[0].operators:
        content, given = op_profile.cut_out(model, operator, values)
        alone = Interpreter(model_content=content)
        alone.allocate_tensors()
        for place, value in given.items():
            alone.set_tensor(place, value)
        alone.invoke()
        made = alone.get_tensor(alone.get_output_details()[0]["index"])
        np.testing.assert_array_equal(made, values.of(operator.outputs[0]))
