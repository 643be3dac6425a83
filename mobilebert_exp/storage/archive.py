"""Files out of archives (zip, tar, tar.gz, …), none of which gets outside the folder that was meant for it."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, TypeVar

from mobilebert_exp.errors import DataError, OutputError, UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MOST_FILES = 100_000
MOST_BYTES = 32 * 2**30  # of all files together as they come out, whatever the archive says
# Numbers shrink to two thirds, texts to a tenth; what is packed a hundred times over is meant to fill a disk.
MOST_RATIO = 100
SMALL_BYTES = 2**30  # for which no ratio is too much
MOST_HEADER_BYTES = 2**20  # of a long name or other words about a member, which tarfile reads whole
_CHUNK_BYTES = 2**20
_T = TypeVar("_T")
_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
# What the libraries raise about content that is not what it should be; ValueError: names that are no text, bad offsets.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError, OverflowError),
)


@dataclass(kw_only=True, frozen=True, slots=True)
class _Member:
    """A file in an archive: its name there, how many bytes it says it has, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


class _LongHeader(Exception):
    """A header that is not read; its text says how long it is."""


class _Bounded(tarfile.TarInfo):
    """A member whose headers are read only if they are of a size that headers have."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _HEADERS and not 0 <= found.size <= MOST_HEADER_BYTES:
            raise _LongHeader(f"a header of {found.size:,} bytes")
        return found


def is_archive(path: str | Path) -> bool:
    """By its name."""
    return str(path).lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, *, rename: Callable[[str], str | None] = lambda name: name) -> list[Path]:
    """Writes the files of an archive below `folder`, each whole or not at all; returns them.

    Args:
      rename: a file's name below `folder` for its name in the archive; None leaves it out.

    Raises:
      DataError: the archive is damaged, or holds a link, a device, a sparse file, a name outside, or too much.
      OutputError: the folder cannot be written.
    """
    written: list[Path] = []
    room = _room(archive)
    with _reading(archive), _members(archive) as members:
        for member in members:
            name = rename(member.name)
            if name is None:
                continue
            target = _inside(folder, name, archive=archive)
            if member.size > room:
                raise _too_large(archive, member.name, room=room)
            room -= _write(member, target, room=room, archive=archive)
            written.append(target)
    return written


def _room(archive: Path) -> int:
    """How many bytes may come out of an archive altogether."""
    with _reading(archive):
        return min(MOST_BYTES, max(SMALL_BYTES, MOST_RATIO * archive.stat().st_size))


def _refused(archive: Path, why: str) -> DataError:
    return DataError(f"{archive} is not unpacked: {why}; unpack it by hand if you trust it, and name the folder")


def _too_large(archive: Path, name: str, *, room: int) -> DataError:
    size = archive.stat().st_size
    return _refused(archive, f"with {name} its files have more than {room:,} bytes, too many for {size:,} packed ones")


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Names the archive in whatever is wrong with it."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as problem:
        raise DataError(f"{archive} cannot be read ({problem.strerror}); name a readable file") from None
    except _DAMAGE as problem:
        text = str(problem) or type(problem).__name__
        raise DataError(f"{archive} is damaged ({text.splitlines()[0]}); remove it, and fetch it again") from None


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield _of_zip(archive, opened)
    else:
        try:
            with tarfile.open(archive, tarinfo=_Bounded) as opened_tar:
                yield _of_tar(archive, opened_tar)
        except _LongHeader as problem:
            raise _refused(archive, f"it holds {problem}") from None


def _counted(archive: Path, infos: Iterable[_T]) -> Iterator[_T]:
    """The same, if they are not too many; folders count, which are read as files are."""
    for number, info in enumerate(infos):
        if number >= MOST_FILES:
            raise _refused(archive, f"it holds more than {MOST_FILES:,} files and folders")
        yield info


def _of_zip(archive: Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in _counted(archive, opened.infolist()):
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
        if info.is_dir():
            continue
        if kind not in (0, stat.S_IFREG):
            raise _refused(archive, f"{info.filename} is a link or a device")
        yield _Member(name=info.filename, size=info.file_size, open=lambda info=info: opened.open(info))  # type: ignore[misc]


def _of_tar(archive: Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in _counted(archive, opened):
        if info.isdir():
            continue
        if not info.isreg():
            raise _refused(archive, f"{info.name} is a link or a device")
        if info.issparse():
            raise _refused(archive, f"{info.name} is a sparse file of {info.size:,} bytes")
        stream = opened.extractfile(info)
        assert stream is not None, "a regular file has content"
        yield _Member(name=info.name, size=info.size, open=lambda stream=stream: stream)  # type: ignore[misc]


def _inside(folder: Path, name: str, *, archive: Path) -> Path:
    """The path of a name below the folder."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or ":" in parts[0] or "\0" in name or ".." in parts:
        raise _refused(archive, f"{name!r} would lie outside {folder}")
    return folder.joinpath(*(part for part in parts if part not in ("", ".")))


def _write(member: _Member, target: Path, *, room: int, archive: Path) -> int:
    """Copies one file, whole or not at all; returns its bytes."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as out:
                for chunk in _chunks(member, archive):
                    size += len(chunk)
                    if size > room:
                        raise _too_large(archive, member.name, room=room)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as problem:  # of the target alone: what reading raises has become a DataError
        raise OutputError(
            f"{target.parent} cannot be written ({problem.strerror}); make room, or choose another cache_dir"
        ) from None
    return size


def _chunks(member: _Member, archive: Path) -> Iterator[bytes]:
    with _reading(archive), member.open() as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
