"""A cache that machines share: folders of `data.cache` in a bucket, under the same content-addressed names.

`mode=prepare` puts them there; whoever misses one in his own cache looks there before he makes it. The manifest is
written last and only over what was seen, so a folder in the bucket is whole or counts as absent.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# Tasks hand on the folder of a cache and need not know that others share it, so it stands beside the call.
_PLACE: ContextVar[Place | None] = ContextVar("shared cache", default=None)


@contextlib.contextmanager
def at(place: str | None) -> Iterator[None]:
    """Inside the block, caches are shared at this place of a bucket; None shares nothing."""
    token = _PLACE.set(None if place is None else Place.parse(place, key="shared_cache"))
    try:
        yield
    finally:
        _PLACE.reset(token)


def place_of(folder: Path) -> Place | None:
    """Where a cached folder lies in the bucket, or would lie; None where nothing is shared."""
    place = _PLACE.get()
    return None if place is None else place / f"{folder.parent.name}/{folder.name}"


def take(folder: Path, *, into: Path) -> bool:
    """Fetches the files of a cached folder into another, empty one; False where the bucket does not have it.

    Raises:
      StorageError: the bucket refuses or cannot be reached.
    """
    place = place_of(folder)
    if place is None or Bucket(place.bucket).stat((place / MANIFEST).name) is None:
        return False
    shutil.rmtree(into, ignore_errors=True)
    moved = folders.download(place, into)
    log.info("fetched %d files (%d bytes) from %s", moved.moved, moved.size, place)
    return True


def give(folder: Path) -> folders.Transfer | None:
    """Puts a cached folder into the bucket, as far as it is not there; None where nothing is shared.

    Raises:
      StorageError: the bucket refuses or cannot be reached.
    """
    place = place_of(folder)
    if place is None:
        return None
    return folders.upload(folder, place, names=folders.files_of(folder), last=(MANIFEST,))
