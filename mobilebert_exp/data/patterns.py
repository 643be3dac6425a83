"""Files by pattern: `texts/*.txt,gs://bucket/wiki-*`, as the original scripts take them."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterable
from pathlib import Path

from mobilebert_exp.data import sources
from mobilebert_exp.errors import DataError, MissingDataError
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import GS, Place, is_remote

_MAGIC = re.compile(r"[*?\[]")


def matched(patterns: str | Iterable[str], *, key: str, cache_dir: str | Path) -> tuple[Path, ...]:
    """The files that some patterns mean, each once: by pattern, then by name; what is not here is fetched.

    Args:
      patterns: paths, addresses, objects (`gs://…`), with `*`, `?` and `[…]`, or `**` for folders on this machine;
        several in a list, or between commas.
      key: the setting they come from, for the message.

    Raises:
      MissingDataError: a pattern means no file.
      StorageError: a bucket refuses or cannot be reached.
    """
    texts = [patterns] if isinstance(patterns, str) else list(patterns)
    wanted = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if not wanted:
        raise DataError(f"{key} is empty; name files, or a pattern like texts/*.txt")
    found: dict[Path, None] = {}
    for pattern in wanted:
        places = _places(pattern)
        if not places:
            raise MissingDataError(f"{key}={pattern} means no file; name files that are there")
        found |= dict.fromkeys(sources.fetched(place, cache_dir=cache_dir, key=key) for place in places)
    return tuple(found)


def _places(pattern: str) -> list[str]:
    if pattern.startswith(GS):
        return _objects(pattern)
    if is_remote(pattern):
        return [pattern]
    path = Path(pattern).expanduser()
    if path.is_file():  # whatever its name looks like
        return [str(path)]
    return sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())


def _objects(pattern: str) -> list[str]:
    """Objects of a bucket; as in a folder, `*` does not reach across a slash."""
    magic = _MAGIC.search(pattern)
    if magic is None:
        return [pattern]
    bucket = Place.parse(pattern[: magic.start()].rpartition("/")[0] or pattern).bucket
    parts = pattern.removeprefix(f"{GS}{bucket}/").split("/")
    start = pattern[: magic.start()].removeprefix(f"{GS}{bucket}/")
    names = [name for name in Bucket(bucket).list(start) if _fits(name.split("/"), parts)]
    return [f"{GS}{bucket}/{name}" for name in sorted(names)]


def _fits(name: list[str], parts: list[str]) -> bool:
    return len(name) == len(parts) and all(map(fnmatch.fnmatchcase, name, parts))
