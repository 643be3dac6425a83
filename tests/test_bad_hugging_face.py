"""Files of Hugging Face that are damaged, hostile, of another model, or cannot be written: one line, nothing half."""

from __future__ import annotations

import dataclasses
import json
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hugging_face_files import (
    forged,
    narrow,
    random_weights,
    refusal,
    rewrite,
    same,
    tensors,
    written,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilebert_exp.errors import CheckpointError, OutputError
from mobilebert_exp.modeling.checkpoints import hugging_face, tensor_files
from mobilebert_exp.modeling.checkpoints.account import Demand, account
from mobilebert_exp.modeling.variables import encoder_variables, pretraining_variables

QUERY_0, QUERY = (f"mobilebert.encoder.layer.{layer}.attention.self.query.weight" for layer in range(2))


@pytest.mark.parametrize(
    ("weight_map", "text"),
    [
        ({"x": "../outside.safetensors"}, "it names no files that lie beside it"),
        ({"x": "/etc/passwd"}, "it names no files that lie beside it"),
        ({"x": ""}, "it names no files that lie beside it"),
        ({"x": ".."}, "there is no such file"),
        ({"x": "absent.safetensors"}, "there is no such file"),
        ({}, "it names no files that lie beside it"),
        ([], "it names no files that lie beside it"),
        ({"x": "one.safetensors", "y": "two.safetensors"}, "stands in another file of the checkpoint too"),
    ],
)
def test_an_index_leads_nowhere_else(weight_map: object, text: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    for name in ("one.safetensors", "two.safetensors", "../outside.safetensors"):
        (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert text in refusal(folder)


def spoil(
    change: Callable[[np.ndarray], np.ndarray], name: str = QUERY, *, both: bool = False
) -> Callable[[Path], None]:
    """Changes one tensor, or that of both layers."""
    names = [name, *([name.replace(".0.", ".1.") if ".0." in name else name.replace(".1.", ".0.")] if both else [])]

    def spoilt(folder: Path) -> None:
        values = tensors(folder)
        rewrite(folder, values | {name: np.ascontiguousarray(change(values[name])) for name in names})

    return spoilt


def drop(*names: str) -> Callable[[Path], None]:
    def dropped(folder: Path) -> None:
        rewrite(folder, {name: value for name, value in tensors(folder).items() if name not in names})

    return dropped


def content(data: bytes) -> Callable[[Path], None]:
    def replaced(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(data)

    return replaced


def sparse(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(10 * 2**30)


def bert(folder: Path) -> None:
    """As BERT's, of which it has the names."""
    rewrite(folder, {k: v for k, v in tensors(folder).items() if "bottleneck" not in k and "transformation" not in k})


FLAT = {"dtype": "F32", "shape": [2]}


@pytest.mark.parametrize(
    ("spoilt", "ours", "text"),
    [
        (spoil(lambda x: x[1:]), "layers/attention/query/kernel", f"has {QUERY} of shape [7, 8], and {QUERY_0} of "),
        (spoil(lambda x: x.astype(np.int8)), "layers/attention/query/kernel", f"has {QUERY} of type I8, not F64, F32,"),
        (drop(QUERY), "layers/attention/query/kernel", f"lacks {QUERY}"),
        (drop(QUERY_0), "layers/attention/query/kernel", f"lacks {QUERY_0}"),
    ],
)
def test_what_is_there_in_part_is_named(spoilt: Callable[[Path], None], ours: str, text: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    whole = hugging_face.read(folder)
    spoilt(folder)
    found = hugging_face.read(folder)
    assert list(found.faults) == [ours] and found.faults[ours].startswith(text)
    rest = {name: value for name, value in whole.values.items() if name != ours}
    assert same(found, dataclasses.replace(whole, values=rest, faults=found.faults))


@pytest.mark.parametrize(
    ("spoilt", "text"),
    [
        (spoil(np.transpose, "mobilebert.encoder.layer.0.intermediate.dense.weight", both=True),
         "has layers/ffn_3/intermediate/kernel transposed: [2, 12, 8] there, [2, 8, 12] here; transpose it"),
        (spoil(lambda x: x * np.float32(np.nan)), "has numbers in layers/attention/query/kernel that are infinite or"),
        (spoil(lambda x: x.astype(np.float64) * 1e300, both=True), "has numbers in layers/attention/query/kernel that"),
        (drop(QUERY), f"lacks {QUERY}; choose a whole one"),
        (drop(QUERY, QUERY_0), "lacks layers/attention/query/kernel; choose a whole one"),
        (drop("mobilebert.embeddings.LayerNorm.bias"), "lacks embeddings/norm/beta; choose a whole one"),
    ],
)  # fmt: skip
def test_the_account_refuses_what_is_not_this_model(spoilt: Callable[[Path], None], text: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    spoilt(folder)
    model = narrow("opt")
    with pytest.raises(CheckpointError, match=re.escape(f"init.checkpoint=there {text}")):
        account(
            hugging_face.read(folder),
            wanted=[*encoder_variables(model), *pretraining_variables(model)],
            model=model,
            head="",
            demand=Demand.whole,
            source="init.checkpoint=there",
        )


def repeat(folder: Path) -> None:
    values = tensors(folder)
    rewrite(folder, values | {"embeddings.LayerNorm.bias": values["mobilebert.embeddings.LayerNorm.bias"]})


@pytest.mark.parametrize(
    ("spoilt", "text"),
    [
        (bert, "is of BERT, not of MobileBERT: its layers have no bottleneck.input.dense; give a MobileBERT's"),
        (repeat, "embeddings.LayerNorm.bias and mobilebert.embeddings.LayerNorm.bias are one variable"),
        (content(b""), "0 bytes are no safetensors file"),
        (content(b"\x08\0\0\0"), "4 bytes are no safetensors file"),
        (content(forged({}, length=10 * 2**30)), "a header of 10,737,418,240 bytes"),
        (content(forged({}, length=99)), "invalid header length"),
        (content(forged(b"{,}")), "invalid JSON in header"),
        (content(forged(b"\xff\xfe")), "invalid UTF-8 in header"),
        (content(forged({})), "holds no MobileBERT: none of its 0 tensors is one of its layers' (the first is none);"),
        (content(forged({"a": FLAT | {"data_offsets": [0, 8]}}, bytes(8))),
         "holds no MobileBERT: none of its 1 tensors is one of its layers' (the first is a); give a MobileBERT's"),
        (content(forged({"a": FLAT | {"data_offsets": [0, 8]}, "b": FLAT | {"data_offsets": [4, 12]}}, bytes(12))),
         "invalid offset for tensor"),
        (content(forged({"a": FLAT | {"data_offsets": [0, 8]}}, bytes(12))), "file not fully covered"),
        (content(forged({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8))),
         "overflow computing buffer size"),
        (sparse, "is refused: 10.0 GiB are more than any MobileBERT has; name another file"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_no_mobilebert_is_one_line(
    spoilt: Callable[[Path], None], text: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "there")
    spoilt(folder)
    assert text in refusal(folder)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_no_number_in_a_file_of_ours_changes_unseen(place: float, bit: int, cut: bool, tmp_path: Path) -> None:
    """A name that changes is one that is missing, and one too many."""
    file = tmp_path / "there" / "model.safetensors"
    if not file.exists():
        written(file.parent)
        (tmp_path / "whole").write_bytes(file.read_bytes())
    data = bytearray((tmp_path / "whole").read_bytes())
    at = int(place * len(data))
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    file.write_bytes(data)
    try:
        found = hugging_face.read(file.parent)
    except CheckpointError as refused:
        assert "\n" not in str(refused)
        return
    assert not cut
    whole = random_weights(narrow("opt")).values
    assert all(value.tobytes() == whole[name].tobytes() for name, value in found.values.items())


def test_a_file_that_is_not_there_or_not_readable_is_one_line(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "absent.safetensors")
    (tmp_path / "empty").mkdir()
    assert "holds no model.safetensors or model.safetensors.index.json or " in refusal(tmp_path / "empty")
    (tmp_path / "a.safetensors").mkdir()
    assert not hugging_face.recognises(tmp_path / "empty") and not hugging_face.recognises(tmp_path / "a.safetensors")


def test_a_file_of_pytorch_without_pytorch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "there")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert hugging_face.recognises(folder)
    assert "which is not installed here; install mobilebert-exp[interop], or name its safetensors" in refusal(folder)


def test_a_part_that_has_no_place_there_is_told(tmp_path: Path) -> None:
    weights = random_weights(narrow("opt"))
    more = dataclasses.replace(weights, values={**weights.values, "heads/other/kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match="has no place for heads/other/kernel; leave it out"):
        hugging_face.write(more, tmp_path / "there")
    values = {name: value for name, value in weights.values.items() if name != "layers/ffn_1/norm/beta"}
    with pytest.raises(CheckpointError, match=re.escape("lacks layers/ffn_1/norm/beta of [2, 8]; give a whole one")):
        hugging_face.write(dataclasses.replace(weights, values=values), tmp_path / "there")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_half(tmp_path: Path) -> None:
    weights = random_weights(narrow("opt"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(OutputError, match="full is there already; name a folder that is not, or is empty"):
        hugging_face.write(weights, tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written \(Not a directory\)"):
        hugging_face.write(weights, tmp_path / "file" / "there")

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**10, hard))  # a file that may not grow: as on a full disk
    try:
        with pytest.raises(OutputError, match=r"there cannot be written .*; make room there, or name another folder"):
            hugging_face.write(weights, tmp_path / "there")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine"]


def test_the_digest_is_of_what_was_meant_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps something else is found out before the folder is there."""
    plain = tensor_files._digest
    monkeypatch.setattr(tensor_files, "_digest", lambda *arguments: plain(*arguments)[::-1])
    with pytest.raises(CheckpointError, match="its tensors differ from the sha256 that was written with them"):
        written(tmp_path / "there")
    assert list(tmp_path.iterdir()) == []


def test_the_digest_has_a_name_that_is_ours(tmp_path: Path) -> None:
    """A file of another's, who calls something else `sha256`, is read."""
    import safetensors
    from safetensors.numpy import save_file

    file, values = tmp_path / "x.safetensors", {"a": np.ones(3, np.float32)}
    save_file(values, file, metadata={"format": "pt", "sha256": "of the commit it was made from"})
    with tensor_files.opened([file]) as found:
        np.testing.assert_array_equal(tensor_files.values_of(found["a"]), values["a"])
    tensor_files.write_safetensors(file, values)
    with safetensors.safe_open(file, framework="np") as read:
        assert set(read.metadata()) == {"format", "mobilebert_exp.sha256"}
