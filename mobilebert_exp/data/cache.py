"""Things made once: folders addressed by what they are made from, complete or absent, and checked when found.

What takes hours may be made in parts: then a build that was killed leaves what it finished to the next one.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilebert_exp.data import shared
from mobilebert_exp.errors import DataError, MissingDataError, OutputError
from mobilebert_exp.files import making, write_text

_LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"
BEGUN = "begun.json"  # in a folder that a person named: what is being made in it
_CHEAP_BYTES = 64 * 2**20  # hashed whenever found, in about 0.1 s; of larger folders only the sizes are checked
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

Metadata = dict[str, Any]
Files = dict[str, dict[str, Any]]  # by name: `bytes` and `sha256`


def file_digest(path: str | Path) -> str:
    """sha256 of a file, in hexadecimal; raises DataError when it cannot be read, MissingDataError where none is."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingDataError(f"{path} does not exist; set data_root, or the task's file, to where it is") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from None


@dataclass(kw_only=True, frozen=True, slots=True)
class Parts:
    """Says that `build` finishes what it finds unfinished: it leaves whole, synced files, and takes them as they are.

    Attributes:
      described: what the files in a finished folder are, which `build` knows; so nothing is read again.
    """

    described: Callable[[Path], Files]


def cached(
    cache_dir: str | Path,
    *,
    key: Mapping[str, object],
    build: Callable[[Path], Metadata],
    parts: Parts | None = None,
) -> tuple[Path, Metadata]:
    """Returns the folder of `key`, and the metadata that `build` returned when it filled it.

    Args:
      key: all that the content depends on, JSON-serialisable; the code of the data modules is added to it.
      build: fills the folder it is given, which is empty without `parts`, and returns JSON-serialisable metadata.
      parts: what a build that was killed had finished is kept for the next one; None begins anew.

    However many processes ask at once, one builds and the others wait for it. A folder that was cut or altered is
    built anew.

    Raises:
      OutputError: the cache cannot be written.
    """
    folder = _folder(cache_dir, key)
    try:
        return folder, _metadata(folder)
    except _DamagedError:
        pass  # or absent: which of them is only certain under the lock
    with making(folder):
        try:
            return folder, _metadata(folder)
        except _DamagedError as damage:
            if folder.exists():
                _LOG.warning("cached %s is damaged (%s); building it anew", folder, damage)
        try:
            if _taken(folder):
                return folder, _metadata(folder)
            _build(folder, key=key, build=build, parts=parts)
        except OSError as error:
            if error.errno in _CANNOT_WRITE:
                raise _output_error(folder.parent, error) from None
            raise
        return folder, _metadata(folder)


def filled(folder: Path, *, key: Mapping[str, object], build: Callable[[Path], Metadata], parts: Parts) -> Metadata:
    """As `cached`, in a folder that a person named; what it holds of the same key is kept.

    Raises:
      OutputError: it holds something else, or cannot be written.
    """
    with making(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            whole, note = folder / MANIFEST, folder / BEGUN
            check_free(str(folder), key=key, whole=_text(whole), begun=_text(note))
            if whole.is_file():
                return _metadata(folder)
            if not note.is_file() and any(not path.name.startswith(".") for path in folder.iterdir()):
                raise _occupied(str(folder), "other files")
            write_text(note, begun(key))
            metadata = build(folder)
            _seal(folder, key=key, metadata=metadata, files=parts.described(folder))
            note.unlink()
        except _DamagedError as damage:
            raise OutputError(f"{folder} is damaged ({damage}); delete it, and start again") from None
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from None
    return metadata


def begun(key: Mapping[str, object]) -> str:
    """What a folder says that is being filled: what with, and by which code."""
    return json.dumps({"key": dict(key), "code": _code_digest()}, indent=1) + "\n"


def check_free(folder: str, *, key: Mapping[str, object], whole: str | None, begun: str | None) -> None:
    """Raises OutputError where the manifest of a folder, or its `begun`, tells of something else than `key`."""
    wanted = json.loads(json.dumps({"key": dict(key), "code": _code_digest()}))
    try:
        if whole is not None and json.loads(whole)["key"] != wanted["key"]:
            raise _occupied(folder, "data of other texts, another vocabulary or other settings")
        if whole is None and begun is not None and json.loads(begun) != wanted:
            raise _occupied(folder, "the beginning of other data, or of another version's")
    except (LookupError, TypeError, json.JSONDecodeError):
        raise _occupied(folder, "something else under these names") from None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _occupied(folder: str, what: str) -> OutputError:
    return OutputError(f"{folder} holds {what}; choose another folder, or delete what is there")


def found(cache_dir: str | Path, *, key: Mapping[str, object]) -> Metadata | None:
    """The metadata of what was built for `key`; None where that was not done, or is damaged."""
    try:
        return _metadata(_folder(cache_dir, key))
    except _DamagedError:
        return None


def key_digest(key: Mapping[str, object]) -> str:
    """Names what is made from `key` by the code of the data modules."""
    content = json.dumps({"key": dict(key), "code": _code_digest()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _folder(cache_dir: str | Path, key: Mapping[str, object]) -> Path:
    return Path(cache_dir) / key_digest(key)


class _DamagedError(Exception):
    """A cached folder is not what was put there."""


def _build(folder: Path, *, key: Mapping[str, object], build: Callable[[Path], Metadata], parts: Parts | None) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    if parts is None:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed: ours is the lock
    temporary.mkdir(exist_ok=True)
    try:
        metadata = build(temporary)
        if parts is None:
            for path in temporary.rglob("*"):
                _sync(path)
        _seal(temporary, key=key, metadata=metadata, files=(parts.described if parts else _described)(temporary))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    finally:
        if parts is None:
            shutil.rmtree(temporary, ignore_errors=True)


def _described(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _seal(folder: Path, *, key: Mapping[str, object], metadata: Metadata, files: Files) -> None:
    """Writes the manifest, which says that all is there."""
    write_text(folder / MANIFEST, manifest(key=key, metadata=metadata, files=files))
    _sync(folder)


def manifest(*, key: Mapping[str, object], metadata: Metadata, files: Files) -> str:
    """What a whole folder's manifest says."""
    return json.dumps({"key": dict(key), "metadata": metadata, "files": files}, indent=1) + "\n"


def _taken(folder: Path) -> bool:
    """Fetches the folder from the cache that is shared, if there is one and has it whole."""
    temporary = folder.with_name(f".{folder.name}.taken")
    try:
        if not shared.take(folder, into=temporary):
            return False
        _metadata(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except _DamagedError as damage:
        _LOG.warning("%s is damaged (%s); building it here", shared.place_of(folder), damage)
        return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _metadata(folder: Path) -> Metadata:
    """Compares a folder with its manifest; raises _DamagedError with what is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
        is_cheap = sum(expected["bytes"] for expected in files.values()) <= _CHEAP_BYTES
        for name, expected in files.items():
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                raise _DamagedError(f"{name} has {size} bytes instead of {expected['bytes']}")
            if is_cheap and file_digest(folder / name) != expected["sha256"]:
                raise _DamagedError(f"{name} was altered")
        metadata: Metadata = manifest["metadata"]
    except (OSError, DataError) as error:
        raise _DamagedError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _DamagedError(f"{MANIFEST} is not readable") from None
    return metadata


def _output_error(place: Path, error: OSError) -> OutputError:
    return OutputError(f"cache_dir {place} cannot be written ({error.strerror}); make room, or choose another")


@functools.cache
def _code_digest() -> str:
    """Changes with the code that makes the features, so that no cache outlives it."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
