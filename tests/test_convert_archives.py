"""The verb `convert` of archives: as Google publishes them, and hostile ones, each of which is refused in one line."""

from __future__ import annotations

import dataclasses
import io
import shutil
import tarfile
from pathlib import Path

import pytest
import tf1_files
from archives import packed_tar
from test_convert import MODEL, check_equal, convert, refused

from mobilebert_exp.config import leaves
from mobilebert_exp.data import sources
from mobilebert_exp.modeling.checkpoints import formats, native_weights, tf1


def test_an_archive_as_google_publishes_it(tmp_path: Path) -> None:
    weights = tf1_files.pretrained(MODEL)
    tf1.write(dataclasses.replace(weights, model=leaves(MODEL)), tmp_path / "made")
    files = {f"uncased/{path.name}": path.read_bytes() for path in (tmp_path / "made").iterdir()}
    packed = packed_tar(tmp_path / "uncased.tar.gz", files)
    (tmp_path / "cache").mkdir()
    cache = ("--cache-dir", tmp_path / "cache")
    assert convert(packed, tmp_path / "out", "--to", "native", *cache).code == 0
    check_equal(weights, native_weights.read(tmp_path / "out"))
    copy = shutil.copy(packed, tmp_path / "copy.tar.gz")
    check_equal(weights, formats.read(sources.checkpoint(str(copy), cache_dir=tmp_path / "cache")))
    assert len([path for path in (tmp_path / "cache").rglob("*.index")]) == 1, "by its content, so once"


def _hostile(kind: str, path: Path) -> Path:
    info = tarfile.TarInfo("top/mobilebert.ckpt.index")
    headers = {
        **{"large": (tarfile.REGTYPE, 40 * 2**30), "long name": (tarfile.GNUTYPE_LONGNAME, 40 * 2**30)},
        **{"long words": (tarfile.XHDTYPE, 2**21), "all the rest": (tarfile.XGLTYPE, -512)},
    }
    if kind == "traversal":
        info.name = "../../mobilebert.ckpt.index"
    elif kind == "absolute":
        info.name = "/tmp/mobilebert.ckpt.index"
    elif kind == "symbolic link":
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    elif kind == "hard link":
        info.type, info.linkname = tarfile.LNKTYPE, "/etc/passwd"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as packed:
        packed.addfile(tarfile.TarInfo("top/vocab.txt"))  # which is written before the other is met
        if kind == "sparse":
            info.pax_headers = {
                **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": info.name},
                **{"GNU.sparse.realsize": str(10 * 2**30)},
            }
            content = f"1\n{10 * 2**30 - 1}\n1\n".encode().ljust(512, b"\0") + b"x"
        elif kind in headers:
            info.type, info.size = headers[kind]
        else:
            content = b"" if info.type != tarfile.REGTYPE else b"index"
        if kind not in headers:
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        else:
            packed.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("traversal", "'../../mobilebert.ckpt.index' would lie outside "),
        ("absolute", "'/tmp/mobilebert.ckpt.index' would lie outside "),
        ("symbolic link", "top/mobilebert.ckpt.index is a link or a device"),
        ("hard link", "top/mobilebert.ckpt.index is a link or a device"),
        ("sparse", "top/mobilebert.ckpt.index is a sparse file of 10,737,418,240 bytes"),
        ("long name", "it holds a header of 42,949,672,960 bytes"),
        ("long words", "it holds a header of 2,097,152 bytes"),
        ("all the rest", "it holds a header of -512 bytes"),
        ("large", "with top/mobilebert.ckpt.index its files have more than "),
    ],
)
def test_a_hostile_archive_is_one_line(kind: str, message: str, tmp_path: Path) -> None:
    packed = _hostile(kind, tmp_path / "x.tar.gz")
    told = refused(packed, tmp_path / "out", "--to", "native", "--cache-dir", tmp_path / "cache")
    assert told.startswith(f"{packed} is not unpacked: {message}")
    assert told.endswith("; unpack it by hand if you trust it, and name the folder")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not (tmp_path / "out").exists() and not (tmp_path / "mobilebert.ckpt.index").exists()
