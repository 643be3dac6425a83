"""Exported files are run by names, row by row; what cannot be run says why in one line."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import lite_files
import numpy as np
import pytest

from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite.interpreter import LiteModel, without_notes


@pytest.mark.parametrize("order", list(itertools.permutations(lite_files.INPUTS)))
def test_tensors_are_bound_by_name_whatever_their_order(order: tuple[str, ...], tmp_path: Path) -> None:
    model = LiteModel(lite_files.put(tmp_path / "m.tflite", lite_files.span(inputs=order)))
    batch = lite_files.batch()
    found = model.outputs(batch)
    start = (batch["input_ids"] + batch["input_mask"]).astype(np.float32)
    np.testing.assert_array_equal(found["start_logits"], start)
    np.testing.assert_array_equal(found["end_logits"], 2 * start + batch["segment_ids"])


def test_a_batch_is_its_rows(tmp_path: Path) -> None:
    model = LiteModel(lite_files.put(tmp_path / "m.tflite", lite_files.span()), threads=2)
    batch = lite_files.batch(5)
    whole = model.outputs(batch)
    for row in reversed(range(5)):
        alone = model.outputs({name: values[row : row + 1] for name, values in batch.items()})
        for name, values in whole.items():
            np.testing.assert_array_equal(values[row : row + 1], alone[name])


def test_other_columns_and_wider_integers_do_no_harm(tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span(type="INT64"))
    batch = lite_files.batch()
    found = LiteModel(path).outputs({**batch, "label_ids": np.zeros((3, 1))})
    np.testing.assert_array_equal(found["start_logits"], batch["input_ids"] + batch["input_mask"])


def test_a_dynamic_length_follows_its_input(tmp_path: Path) -> None:
    model = LiteModel(lite_files.put(tmp_path / "m.tflite", lite_files.span(dynamic=True)))
    assert model.length is None
    for length in (12, 5, 5, 30):
        batch = lite_files.batch(2, length)
        np.testing.assert_array_equal(model.outputs(batch)["start_logits"], batch["input_ids"] + batch["input_mask"])


def test_a_fixed_length_is_kept(tmp_path: Path) -> None:
    model = LiteModel(lite_files.put(tmp_path / "m.tflite", lite_files.span()))
    assert model.length == 12
    with pytest.raises(ExportError, match=r"takes 12 tokens and is given 5; set task.max_seq_length=12"):
        model.outputs(lite_files.batch(2, 5))


def test_integer_outputs_come_as_the_numbers_they_stand_for(tmp_path: Path) -> None:
    model = LiteModel(lite_files.put(tmp_path / "m.tflite", lite_files.quantized(scale=0.5, zero=-3)))
    batch = lite_files.batch()
    found = model.outputs(batch)["scores"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.minimum(2 * batch["input_ids"], 0.5 * (127 + 3)))


def test_what_xnnpack_has_is_told(tmp_path: Path) -> None:
    model = LiteModel(lite_files.put(tmp_path / "m.tflite", lite_files.span()))
    model.outputs(lite_files.batch(1))
    found = model.delegation()
    assert found.delegated + sum(found.left.values()) == 6
    assert found.left == {"CAST": 3}
    assert (found.partitions, found.delegated) == (1, 3)


WHOLE = lite_files.span()


@pytest.mark.parametrize("kept", [0, 5, 8, 40, len(WHOLE) // 2, len(WHOLE) - 40, len(WHOLE) - 1])
def test_a_truncated_file_is_told_and_not_run(kept: int, tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", WHOLE[:kept])
    with pytest.raises(ExportError, match=f"^{path} (is truncated or damaged|cannot be read|is not a TFLite)") as told:
        LiteModel(path)
    assert "\n" not in str(told.value)


LACKS = "which the interpreter lacks"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"PK\x03\x04 is a zip", "is not a TFLite file", id="another format"),
        pytest.param(
            lite_files.span(signature=""), r"no signature serving_default \(there is none\)", id="no signature"
        ),
        pytest.param(lite_files.span(type="FLOAT32"), r"input_ids float32 \[1, 12\].*integers", id="float inputs"),
        pytest.param(lite_files.quantized(op="CUSTOM", custom="Erfinv"), f"the op Erfinv, {LACKS}", id="custom op"),
        pytest.param(lite_files.quantized(op="CUSTOM", custom="FlexErf"), f"the op FlexErf, {LACKS}", id="flex op"),
        pytest.param(lite_files.quantized(version=99), f"the op ADD, {LACKS}", id="newer op"),
    ],
)
def test_a_file_that_cannot_be_run_says_why(content: bytes, message: str, tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", content)
    with pytest.raises(ExportError, match=message) as told:
        LiteModel(path)
    assert "\n" not in str(told.value) and str(path) in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none.tflite is not there"):
        LiteModel(tmp_path / "none.tflite")


def test_another_name_will_do_where_there_is_one_signature(tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span(signature="answer"))
    assert LiteModel(path).output_names == ["end_logits", "start_logits"]


NOTED = """
import contextlib, os, sys
sys.path[:] = {path!r}
from mobilebert_exp.lite.interpreter import LiteModel, without_notes
with {within}:
    LiteModel({file!r})
    os.write(2, b"ours\\nand INFO: within a line\\n")
os.write(2, b"INFO: afterwards\\n")
"""


@pytest.mark.parametrize(("within", "is_noted"), [("without_notes()", False), ("contextlib.nullcontext()", True)])
def test_notes_of_the_interpreter_do_not_reach_the_terminal_and_all_else_does(
    within: str, is_noted: bool, tmp_path: Path
) -> None:
    """It says each of them once a process."""
    file = lite_files.put(tmp_path / "m.tflite", lite_files.span())
    code = NOTED.format(path=sys.path, within=within, file=str(file))
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert ("XNNPACK" in said) is is_noted
    assert said.endswith("ours\nand INFO: within a line\nINFO: afterwards\n")


def test_an_error_amid_notes_is_raised_and_what_was_said_before_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match="is not there"), without_notes():
        print("ours", file=sys.__stderr__, flush=True)
        LiteModel("/nowhere.tflite")
    assert capfd.readouterr().err == "ours\n"
