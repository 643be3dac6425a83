"""Files that others read: seen whole or not at all, and made by one process at a time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mobilebert_exp.errors import OutputError

log = logging.getLogger(__name__)
SILENT_WAIT_S = 5.0


@contextlib.contextmanager
def making(target: Path) -> Iterator[None]:
    """Lets one process at a time make what is to lie in the cache at `target`; says so where that takes a while.

    Raises:
      OutputError: the lock beside it cannot be written.
    """
    import filelock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
        try:
            lock.acquire(timeout=SILENT_WAIT_S)
        except filelock.Timeout:
            log.warning("another process is making %s; waiting for it", target)
            lock.acquire()
    except OSError as problem:
        raise OutputError(
            f"cache_dir {target.parent} cannot be written ({problem.strerror}); make room, or choose another"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to be filled inside the block, which becomes `target` when the block ends, and otherwise is gone.

    Raises:
      OutputError: `target` cannot be written, or is a file or a folder with something in it.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        check_free(target)
        shutil.rmtree(partial, ignore_errors=True)  # of a process of the same number
        partial.mkdir(parents=True)
        try:
            yield partial
            for path in (*partial.rglob("*"), partial):
                _sync(path)
            partial.rename(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OutputError as problem:  # of a folder that was filled inside this one
        raise OutputError(str(problem).replace(str(partial), str(target))) from None
    except OSError as problem:
        raise OutputError(
            f"{target} cannot be written ({problem.strerror or problem}); make room there, or name another folder"
        ) from None


def check_free(target: Path) -> None:
    """Raises OutputError where a new folder would take the place of something."""
    try:
        is_taken = target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir())))
    except OSError as problem:
        raise OutputError(f"{target} cannot be written ({problem.strerror}); name another folder") from None
    if is_taken:
        raise OutputError(f"{target} is there already; name a folder that is not, or is empty")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record as `write_text` writes text."""
    write_text(path, json.dumps(record, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes under another name, syncs and renames; nothing is left where that fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
