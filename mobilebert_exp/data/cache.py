"""Things made once: folders addressed by what they are made from, complete or absent, and checked when found."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mobilebert_exp.data import shared
from mobilebert_exp.errors import DataError, MissingDataError, OutputError
from mobilebert_exp.files import making

_LOG = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_CHEAP_BYTES = 64 * 2**20  # hashed whenever found, in about 0.1 s; of larger folders only the sizes are checked
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

Metadata = dict[str, Any]


def file_digest(path: str | Path) -> str:
    """sha256 of a file, in hexadecimal; raises DataError when it cannot be read, MissingDataError where none is."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingDataError(f"{path} does not exist; set data_root, or the task's file, to where it is") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from None


def cached(
    cache_dir: str | Path, *, key: Mapping[str, object], build: Callable[[Path], Metadata]
) -> tuple[Path, Metadata]:
    """Returns the folder of `key`, and the metadata that `build` returned when it filled it.

    Args:
      key: all that the content depends on, JSON-serialisable; the code of the data modules is added to it.
      build: fills the empty folder it is given, and returns JSON-serialisable metadata.

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
            _build(folder, key=key, build=build)
        except OSError as error:
            if error.errno in _CANNOT_WRITE:
                raise _output_error(folder.parent, error) from None
            raise
        return folder, _metadata(folder)


def found(cache_dir: str | Path, *, key: Mapping[str, object]) -> Metadata | None:
    """The metadata of what was built for `key`; None where that was not done, or is damaged."""
    try:
        return _metadata(_folder(cache_dir, key))
    except _DamagedError:
        return None


def _folder(cache_dir: str | Path, key: Mapping[str, object]) -> Path:
    content = json.dumps({"key": dict(key), "code": _code_digest()}, sort_keys=True)
    return Path(cache_dir) / hashlib.sha256(content.encode()).hexdigest()


class _DamagedError(Exception):
    """A cached folder is not what was put there."""


def _build(folder: Path, *, key: Mapping[str, object], build: Callable[[Path], Metadata]) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed: ours is the lock
    temporary.mkdir()
    try:
        metadata = build(temporary)
        files = {
            path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        manifest = {"key": dict(key), "metadata": metadata, "files": files}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _taken(folder: Path) -> bool:
    """Fetches the folder from the cache that is shared, if there is one and has it whole."""
    temporary = folder.with_name(f".{folder.name}.tmp")
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
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
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
        raise _DamagedError(f"{_MANIFEST} is not readable") from None
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
