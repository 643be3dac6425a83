"""Archives: their files come out whole, nothing gets outside, and what is wrong is named."""

from __future__ import annotations

import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import packed_tar, packed_zip

from mobilebert_exp.errors import DataError, OutputError
from mobilebert_exp.storage import archive

CONTENT = random.Random(0).randbytes(3 * 2**20 + 17)


def _special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


SMALL = {"top/é.txt": b"a" * 300, "top/deep/b.txt": bytes(range(250))}
FILES = {"top/a.txt": b"a", "top/deep/b.txt": CONTENT}


@pytest.mark.parametrize("make", [packed_zip, packed_tar], ids=["zip", "tar.gz"])
def test_an_archive_gives_its_files(make: object, tmp_path: Path) -> None:
    assert callable(make)
    packed = make(tmp_path / ("x.zip" if make is packed_zip else "x.tar.gz"), FILES)
    archive.unpack(packed, tmp_path / "out")
    assert {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.txt")
    } == FILES


@pytest.mark.parametrize("name", ["../evil.txt", "top/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:/evil.txt"])
@pytest.mark.parametrize("make", [packed_zip, packed_tar], ids=["zip", "tar.gz"])
def test_no_name_leads_outside(make: object, name: str, tmp_path: Path) -> None:
    assert callable(make)
    packed = make(tmp_path / ("x.zip" if make is packed_zip else "x.tar.gz"), {"fine.txt": b"fine", name: b"evil"})
    with pytest.raises(DataError, match=r"x\.(zip|tar\.gz) is not unpacked: '.*evil.txt' would lie outside "):
        archive.unpack(packed, tmp_path / "in" / "out")
    assert (
        not list(tmp_path.rglob("evil.txt")) and not list(tmp_path.rglob("*evil*")) and not Path("/evil.txt").exists()
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_no_link_and_no_device_comes_out_of_a_tar(kind: bytes, tmp_path: Path) -> None:
    packed = packed_tar(tmp_path / "x.tar.gz", {}, other=_special("top/odd", kind))
    with pytest.raises(DataError, match=r"is not unpacked: top/odd is a link or a device; "):
        archive.unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_link_comes_out_of_a_zip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not unpacked: top/odd is a link or a device; "):
        archive.unpack(packed_zip(tmp_path / "x.zip", {}, link="top/odd"), tmp_path / "out")


def test_an_archive_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 2**20)
    with pytest.raises(DataError, match=r"with zeros its files have more than 1,048,576 bytes"):
        archive.unpack(packed_zip(tmp_path / "x.zip", {"zeros": b"\0" * 2**21}), tmp_path / "out")
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(DataError, match=r"it holds more than 3 files"):
        archive.unpack(packed_zip(tmp_path / "y.zip", {str(n): b"" for n in range(5)}), tmp_path / "out")
    with pytest.raises(DataError, match=r"it holds more than 3 files and folders"):
        archive.unpack(packed_zip(tmp_path / "z.zip", {f"{n}/": b"" for n in range(5)}), tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("make", [packed_zip, packed_tar], ids=["zip", "tar.gz"])
def test_a_truncated_archive_is_named(make: object, share: float, tmp_path: Path) -> None:
    assert callable(make)
    packed = make(tmp_path / ("x.zip" if make is packed_zip else "x.tar.gz"), FILES)
    packed.write_bytes(packed.read_bytes()[: int(packed.stat().st_size * share)])
    with pytest.raises(DataError, match=rf"^{packed} is damaged \(.+\); remove it, and fetch it again$"):
        archive.unpack(packed, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name == "b.txt" or path.name.startswith(".")]


MAKERS: dict[str, Callable[[Path], Path]] = {
    "deflated.zip": lambda path: packed_zip(path, SMALL),
    "lzma.zip": lambda path: packed_zip(path, SMALL, compression=zipfile.ZIP_LZMA),
    "bzip2.zip": lambda path: packed_zip(path, SMALL, compression=zipfile.ZIP_BZIP2),
    "stored.zip": lambda path: packed_zip(path, SMALL, compression=zipfile.ZIP_STORED),
    **{f"x.{suffix}": lambda path: packed_tar(path, SMALL) for suffix in ("tar", "tar.gz", "tar.bz2", "tar.xz")},
}


@pytest.mark.parametrize("name", MAKERS)
def test_whatever_byte_is_damaged_it_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    """Bytes all over the file, one at a time; where the damage does no harm, the files come out."""
    sound = MAKERS[name](tmp_path / name).read_bytes()
    draw, damaged, told = random.Random(0), tmp_path / f"damaged-{name}", 0
    places = sorted(draw.sample(range(len(sound)), min(len(sound), 250)))
    for place in places:
        content = bytearray(sound)
        content[place] ^= draw.randrange(1, 256)
        damaged.write_bytes(content)
        try:
            archive.unpack(damaged, tmp_path / "out")
        except DataError as error:
            assert str(error).startswith(f"{damaged} is ") and "\n" not in str(error)
            told += 1
        except OutputError as error:  # a name that the file system refuses, e.g. one that is a folder already
            assert "\n" not in str(error)
    assert told > 5


def test_the_folder_is_named_where_it_cannot_be_written(tmp_path: Path) -> None:
    packed = packed_zip(tmp_path / "x.zip", SMALL)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=rf"^{tmp_path}/out/top cannot be written \(.+\); make room, or choose "):
        archive.unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_the_archive_is_named_where_it_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/{name} is damaged \(.*No such file"):
        archive.unpack(tmp_path / name, tmp_path / "out")
