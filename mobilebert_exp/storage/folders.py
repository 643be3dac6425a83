"""Folders to and from buckets: in parallel, what is unchanged skipped, what says that all is there written last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mobilebert_exp.errors import OutputError, StorageError
from mobilebert_exp.storage.bucket import RETRY_S, AbsentError, Bucket, DamagedError, RacedError, Stored
from mobilebert_exp.storage.place import Place

WORKERS = 8
LISTINGS = 3  # how often a folder that changes is looked at
Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass(kw_only=True, frozen=True, slots=True)
class Transfer:
    """What a transfer did; `size` is the bytes of the files that were moved."""

    moved: int
    skipped: int
    size: int


def files_of(folder: Path) -> list[str]:
    """Every file below a folder, as a relative name; nothing that is hidden or still being written."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def upload(
    folder: Path, place: Place, *, names: Iterable[str], last: Sequence[str] = (), retry_s: float = RETRY_S
) -> Transfer:
    """Makes the objects `place/NAME` what the files `folder/NAME` are.

    Args:
      last: names among `names` that are written one after another when all others are there, because readers take
        them as a sign that all is there.

    Raises:
      StorageError: the bucket refuses, cannot be reached, or another writer is at work on the same objects.
    """
    bucket = Bucket(place.bucket, retry_s=retry_s)
    there = bucket.list(_prefix(place))

    def send(name: str) -> int | None:
        return _send(bucket, folder / name, (place / name).name, there)

    sizes = _all(send, [name for name in names if name not in last])
    sizes += [send(name) for name in last]
    return _transfer(sizes)


def _send(bucket: Bucket, file: Path, name: str, there: dict[str, Stored]) -> int | None:
    """Writes a file where it differs from what was seen there; returns its bytes, or None where it was skipped."""
    seen = there.get(name)
    if seen is not None and seen.equals(file):
        return None
    bucket.upload(file, name, generation=seen.generation if seen else 0)
    return file.stat().st_size


def download(
    place: Place, folder: Path, *, wanted: Callable[[str], bool] = lambda name: True, retry_s: float = RETRY_S
) -> Transfer:
    """Makes the files `folder/NAME` what the objects `place/NAME` are, each whole or not at all.

    Where a writer changes or removes one meanwhile, what is there is listed anew.

    Args:
      wanted: asked about each NAME.

    Raises:
      StorageError: the bucket refuses or cannot be reached, or an object arrives damaged twice.
      OutputError: the folder cannot be written.
    """
    bucket = Bucket(place.bucket, retry_s=retry_s)
    for _ in range(LISTINGS - 1):
        try:
            return _download(bucket, place, folder, wanted)
        except (RacedError, AbsentError):
            continue
    return _download(bucket, place, folder, wanted)


def _download(bucket: Bucket, place: Place, folder: Path, wanted: Callable[[str], bool]) -> Transfer:
    prefix = _prefix(place)
    found = {name.removeprefix(prefix): stored for name, stored in bucket.list(prefix).items()}
    named = {name: stored for name, stored in found.items() if name and not name.endswith("/") and wanted(name)}
    for name in named:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageError(
                f"{place / name}: this name would leave the folder it is fetched into; rename the object"
            )
    return _transfer(_all(lambda name: fetch(bucket, named[name], folder / name), list(named)))


def fetch(bucket: Bucket, stored: Stored, file: Path) -> int | None:
    """Writes one object into a file, whole or not at all; returns its bytes, or None where the file was equal."""
    try:
        if file.is_file() and stored.equals(file):
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            try:
                bucket.download(stored, partial)
            except DamagedError:
                bucket.download(stored, partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as problem:
        raise OutputError(
            f"{file} cannot be written ({problem.strerror}); make room, or choose another place"
        ) from None
    return stored.size


def _prefix(place: Place) -> str:
    return f"{place.name}/" if place.name else ""


def _all(do: Callable[[Item], Done], items: Sequence[Item]) -> list[Done]:
    """Does it for every item, several at a time; after a failure no further one is begun."""
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = [pool.submit(do, item) for item in items]
        try:
            return [each.result() for each in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _transfer(sizes: Sequence[int | None]) -> Transfer:
    moved = [size for size in sizes if size is not None]
    return Transfer(moved=len(moved), skipped=len(sizes) - len(moved), size=sum(moved))
