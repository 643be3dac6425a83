"""Files of `torch.save`: read as tensors and nothing else; a pickle with code is refused and not run."""

from __future__ import annotations

import collections
import functools
import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hugging_face_files import refusal, same, tensors, written

from mobilebert_exp.modeling.checkpoints import hugging_face

pytestmark = pytest.mark.interop


def as_pickle(folder: Path, **settings: Any) -> Path:
    """The same weights in `pytorch_model.bin`."""
    import torch

    values = {name: torch.from_numpy(value) for name, value in tensors(folder).items()}
    (folder / "model.safetensors").unlink()
    torch.save(values, folder / "pytorch_model.bin", **settings)
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_file_of_pytorch_is_read(is_archive: bool, tmp_path: Path) -> None:
    """As written since 1.6, and as before."""
    folder = written(tmp_path / "there")
    weights = hugging_face.read(folder)
    file = as_pickle(folder, _use_new_zipfile_serialization=is_archive)
    assert hugging_face.recognises(folder) and hugging_face.recognises(file)
    assert same(hugging_face.read(folder), weights) and same(hugging_face.read(file), weights)


def test_half_precision_of_pytorch_is_read(tmp_path: Path) -> None:
    import torch

    folder = written(tmp_path / "there")
    values = {name: torch.from_numpy(value).bfloat16() for name, value in tensors(folder).items()}
    (folder / "model.safetensors").unlink()
    torch.save(values, folder / "pytorch_model.bin")
    found = hugging_face.read(folder).values["layers/attention/norm/gamma"][0]
    expected = values["mobilebert.encoder.layer.0.attention.output.LayerNorm.weight"].float().numpy()
    np.testing.assert_array_equal(found, expected)


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(is_archive: bool, tmp_path: Path) -> None:
    import torch

    folder = written(tmp_path / "there")
    (folder / "model.safetensors").unlink()
    evil = {"weight": torch.zeros(2), "more": Malice(tmp_path / "touched")}
    torch.save(evil, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_archive)
    assert "is refused: it is a pickle that calls posix.system when it is read; name its safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malice(tmp_path / "touched")))
    refusal(folder)
    assert not (tmp_path / "touched").exists()


def bomb() -> bytes:
    """An archive that would be 4 GiB unpacked, by what it says."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    data = bytearray(content.getvalue())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (0xFFFFFFFE).to_bytes(4, "little")
    return bytes(data)


NUMEL = 77
STATED, CLAIMED = bytes([ord("K"), NUMEL]), b"J" + (2**28).to_bytes(4, "little")  # as a pickle has it; 1 GiB of floats


def claiming(*, shape_alone: bool) -> bytes:
    """A bare pickle whose one tensor has a GiB, by what it says of its shape, or of its numbers too."""
    import torch

    content = io.BytesIO()
    torch.save({"a": torch.zeros(NUMEL)}, content, _use_new_zipfile_serialization=False)
    data = content.getvalue()
    assert data.count(STATED) >= 2, "first of the numbers, then of the shape"
    numbers, _, shape = data.rpartition(STATED)
    return (numbers if shape_alone else numbers.replace(STATED, CLAIMED)) + CLAIMED + shape


def claiming_archive() -> bytes:
    """The same of today's files."""
    import torch

    content, forged = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(NUMEL)}, content)
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(forged, "w") as other:
        for member in archive.namelist():
            other.writestr(member, archive.read(member).replace(STATED, CLAIMED))
    return forged.getvalue()


def spoilt(kind: str) -> bytes:
    import torch

    content = io.BytesIO()
    one = torch.zeros(1000)
    match kind:
        case "torn":
            torch.save({"a": one}, content)
            return content.getvalue()[:2000]
        case "list":
            torch.save([torch.zeros(2)], content)
        case "expanded":
            torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, content)
        case "one for many":
            torch.save({f"mobilebert.encoder.layer.{layer}.x": one for layer in range(5)}, content)
        case "nothing":
            return b""
        case "text":
            return b"no pickle at all"
        case "number":
            torch.save({"a": 1}, content)
        case "endless":
            torch.save({"a": ["x"] * 2**20}, content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("torn", "is damaged ("),
        ("list", "is damaged (it holds a list, not tensors by their names)"),
        ("expanded", "is damaged (its tensors would have 4,398,046,511,104 bytes, and it has "),
        ("one for many", "is damaged (its tensors would have 20,000 bytes, and it has "),
        ("nothing", "is damaged ("),
        ("text", "is damaged ("),
        ("number", "holds no MobileBERT"),
        ("endless", "is damaged ("),
    ],
)
def test_a_damaged_file_of_pytorch_is_one_line(kind: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(spoilt(kind))
    assert text in refusal(tmp_path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (bomb, "is damaged (unpacked it would have 4,294,967,294 bytes, and it has "),
        (functools.partial(claiming, shape_alone=False), "is damaged (its numbers would have more than the "),
        (functools.partial(claiming, shape_alone=True), "is damaged ("),
        (claiming_archive, "is damaged ("),
    ],
)
def test_what_is_larger_than_its_file_is_refused(make: Callable[[], bytes], text: str, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(make())
    assert text in refusal(tmp_path)


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("value", [bytearray(9), collections.Counter("a"), {1, 2}, b"more"])
def test_what_builds_more_than_tensors_is_refused(value: object, is_archive: bool, tmp_path: Path) -> None:
    """PyTorch lets these pass; but `bytearray(2**40)`, or bytes in hex of hex of hex, are short to write."""
    import torch

    evil = {"a": torch.zeros(2), "more": value}
    torch.save(evil, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=is_archive)
    assert re.search(r"is refused: it is a pickle that calls [\w.]+ when it is read; name its", refusal(tmp_path))
