"""Where data come from: a folder, a bucket, an address, or the publishers themselves; fetched once into the cache.

A process looks at an object of a bucket, or at an address, once: what it found then is what it goes on with.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from mobilebert_exp import location, manifest
from mobilebert_exp.data import mrpc, publishers
from mobilebert_exp.data.cache import file_digest
from mobilebert_exp.errors import CheckpointError, DataError, MissingDataError, OutputError
from mobilebert_exp.files import making
from mobilebert_exp.storage import archive, folders, web
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import GS, Place, is_remote

PUBLISHERS = "publishers"  # as a `data_root`
_DOWNLOADS = "downloads"
# A file of a checkpoint, at most one folder deep, as in a SavedModel.
_PART = re.compile(r"(?:[^/]+/)?(?:checkpoint|[^/]+\.(?:index|data-\d{5}-of-\d{5}|json|txt|pb|safetensors|bin))")


def find(relative: str, *, data_root: str | None, cache_dir: str | Path, key: str = "") -> Path:
    """A file of the data, e.g. `squad/train-v1.1.json`, by its name below `data_root`.

    Args:
      data_root: a folder, a place like it (`gs://…`, `https://…`), or `publishers`, which fetches each file from those
        who publish it.
      key: the setting that names this file by itself, if there is one, for the remedy.

    Raises:
      MissingDataError: the folder is not there, or has no such file.
      UserError: it cannot be fetched.
    """
    if data_root is None:
        raise DataError(f"{relative} is looked for in data_root, which is not set; name a folder, or {PUBLISHERS}")
    cache = Path(cache_dir).expanduser()
    if data_root == PUBLISHERS:
        return _published(relative, cache)
    if is_remote(data_root):
        return fetched(f"{data_root.rstrip('/')}/{relative}", cache_dir=cache)
    root = Path(data_root).expanduser()
    if not root.is_dir():
        fault = "is no folder" if root.exists() else "does not exist"
        raise MissingDataError(
            f"data_root={data_root} {fault}; name the folder that holds {relative}, or {PUBLISHERS}, to have it fetched"
        )
    if not (root / relative).exists():
        remedy = f"put it there, or name a file in {key}" if key else "put it there"
        raise MissingDataError(f"data_root={data_root} has no {relative}; {remedy}")
    return root / relative


def fetched(place: str, *, cache_dir: str | Path, key: str = "") -> Path:
    """A file here: a path as it is; what lies at `gs://…` or `https://…` as a copy in the cache.

    `key` is the setting that names it. Raises MissingDataError where it is not there.
    """
    if not is_remote(place):
        path = Path(place).expanduser()
        if not path.exists():
            raise MissingDataError(f"{key and f'{key}='}{place} does not exist; name a file that does")
        return path
    cache = Path(cache_dir).expanduser()
    return _object(place, cache) if place.startswith(GS) else _download(place, cache)


@functools.cache
def _object(place: str, cache: Path) -> Path:
    """The copy of an object, brought up to date."""
    source = Place.parse(place)
    bucket = Bucket(source.bucket)
    stored = bucket.stat(source.name)
    if stored is None:
        raise MissingDataError(f"{place} is not there; name another object, or upload it")
    target = _copies(cache) / source.bucket / _below(source)
    with making(target):
        folders.fetch(bucket, stored, target)
    return target


def fetch_beside(folder: Path, pattern: str, *, cache_dir: str | Path) -> None:
    """Brings files up to date that lie in a folder of a bucket beside what was `fetched` from it.

    Args:
      folder: where the copies are; of any other folder nothing is fetched.
      pattern: what their names are like, as `fnmatch` reads it.

    Raises:
      StorageError: the bucket does not tell what lies there.
      OutputError: the cache cannot be written.
    """
    try:
        bucket, *parts = folder.relative_to(_copies(Path(cache_dir).expanduser())).parts
    except ValueError:
        return
    place = Place(bucket, "/".join(parts))
    with making(folder / pattern.replace("*", "")):  # listed inside: what another process has just fetched stays
        _follow(place, folder, pattern)


def _follow(place: Place, folder: Path, pattern: str) -> None:
    bucket, prefix = Bucket(place.bucket), (place / pattern.partition("*")[0]).name
    listed = {name.removeprefix(f"{place.name}/"): stored for name, stored in bucket.list(prefix).items()}
    there = {name: stored for name, stored in listed.items() if "/" not in name and fnmatchcase(name, pattern)}
    for stale in folder.glob(pattern):
        if stale.name not in there:
            _remove(stale)
    for name, stored in there.items():
        folders.fetch(bucket, stored, folder / name)


def _remove(stale: Path) -> None:
    """Removes an earlier copy, which would be read as if it were still there."""
    try:
        stale.unlink(missing_ok=True)
    except OSError as problem:
        raise OutputError(
            f"{stale} cannot be removed ({problem.strerror}), and its bucket has it no more; remove it"
        ) from None


def _copies(cache: Path) -> Path:
    """Where copies of buckets lie, each under its name."""
    return cache / _DOWNLOADS / "gs"


def _below(source: Place) -> str:
    """The name of an object as a path that cannot leave its folder."""
    if any(part in ("", ".", "..") for part in source.name.split("/")):
        raise DataError(f"{source} is no name of a file; rename the object")
    return source.name


@functools.cache
def _download(address: str, cache: Path) -> Path:
    remedy = "fetch it where there is a network, and name your copy instead"
    return web.fetch(publishers.known(address), _place_of(address, cache), remedy=remedy)


def _place_of(address: str, cache: Path) -> Path:
    """Where a download is kept: by its server and its own name; addresses that differ elsewhere do not meet."""
    parts = urlsplit(address)
    mark = hashlib.sha256(address.encode()).hexdigest()[:8]
    return cache / _DOWNLOADS / (parts.hostname or "unnamed") / mark / (Path(parts.path).name or "index")


@functools.cache
def _published(relative: str, cache: Path) -> Path:
    target = cache / PUBLISHERS / relative
    if relative.startswith(f"{publishers.MRPC}/"):
        return _mrpc(target, cache)
    part = publishers.FILES.get(relative)
    if part is None:
        raise MissingDataError(
            f"{relative} is published nowhere that is known here; put it into a folder, and set data_root"
        )
    if not part.member:
        return web.fetch(part.file, target, remedy=_remedy(relative))
    with making(target):
        if not target.is_file():
            _unpack(part, relative, cache)
    return target


def _remedy(relative: str, *, packed: bool = False) -> str:
    fetch = "fetch and unpack it" if packed else "fetch it"
    return f"{fetch} where there is a network, put it at DIR/{relative} and set data_root=DIR"


def _unpack(part: publishers.Part, relative: str, cache: Path) -> None:
    """Writes the file, and what else of ours is in the same archive, below the cache's `publishers`."""
    fetched_to = _place_of(part.file.address, cache)
    web.fetch(part.file, fetched_to, remedy=_remedy(relative, packed=True))
    ours = {each.member: name for name, each in publishers.FILES.items() if each.file == part.file}
    archive.unpack(fetched_to, cache / PUBLISHERS, rename=lambda name: ours.get(name.removeprefix("./")))
    if not (cache / PUBLISHERS / relative).is_file():
        raise MissingDataError(f"{fetched_to} has no {part.member}; {_remedy(relative, packed=True)}")


def _mrpc(target: Path, cache: Path) -> Path:
    """MRPC's file, made with the others of MRPC from what its publishers have."""
    if target.name not in ("train.tsv", "dev.tsv", "test.tsv"):
        raise MissingDataError(
            f"{publishers.MRPC}/{target.name} is no file of MRPC's; there are train.tsv, dev.tsv, test.tsv"
        )
    with making(target.with_name("parts")):
        if not target.is_file():
            raw = {
                name: web.fetch(
                    file, _place_of(file.address, cache), remedy=_remedy(f"{publishers.MRPC}/{target.name}")
                )
                for name, file in publishers.MRPC_FILES.items()
            }
            train, test, dev_ids = raw.values()
            for name, text in mrpc.parts(train=train, test=test, dev_ids=dev_ids).items():
                _write(target.with_name(name), text)
    return target


def _write(path: Path, text: str) -> None:
    """Writes under another name and renames."""
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as problem:
        raise OutputError(f"{path} cannot be written ({problem.strerror}); make room, or set cache_dir") from None


def checkpoint(place: str, *, cache_dir: str | Path | None) -> str:
    """`init.checkpoint` as a place on this machine.

    A path stays as it is. Of `gs://…` the run (its best and newest checkpoint), `RUN/best`, `RUN/last`, the folder of a
    checkpoint of another format, or the one of this prefix is fetched. An archive, wherever it lies, is unpacked into
    the cache, by its content: the run or checkpoint in it is meant.

    Raises:
      CheckpointError: nothing of the kind is there.
      DataError: an archive is damaged, or not to be trusted.
    """
    packed = archive.is_archive(urlsplit(place).path if is_remote(place) else place)
    if not is_remote(place) and not (packed and Path(place).expanduser().is_file()):
        return place
    assert cache_dir is not None, "resolved by the experiment"
    cache = Path(cache_dir).expanduser()
    if not packed and not place.startswith(GS):
        raise CheckpointError(
            f"init.checkpoint={place} is no archive; give one of {', '.join(archive.SUFFIXES)}, or a folder"
        )
    try:
        found = _in_archive(place, cache) if packed else _run_in_bucket(place, cache)
        location.check(found)
    except (CheckpointError, MissingDataError):
        raise location.missing(place) from None
    return found


@functools.cache
def _run_in_bucket(place: str, cache: Path) -> str:
    source = Place.parse(place, key="init.checkpoint")
    head, _, tail = source.name.rpartition("/")
    run, wanted = (Place(source.bucket, head), tail) if tail in (location.BEST, location.LAST) else (source, "")
    local = _copies(cache) / run.bucket / (_below(run) if run.name else "")
    with making(local):
        there: list[str] = []  # as the bucket was listed

        def is_wanted(name: str) -> bool:
            there.append(name)
            return _belongs(name, wanted)

        moved = folders.download(run, local, wanted=is_wanted)
        if not moved.moved + moved.skipped:
            _fetch_foreign(run, local)
            _fetch_record(run, local)
        else:
            _drop_others(local, there)
    return str(local / wanted) if wanted else str(local)


def _drop_others(run: Path, there: Collection[str]) -> None:
    """Removes from the copy of a run the checkpoints that the bucket has no more, or another run's of that name."""
    for folder in (run / location.FOLDER, run / location.FOLDER / location.BEST):
        for prefix in manifest.committed(folder):
            if manifest.file_of(prefix).relative_to(run).as_posix() not in there:
                manifest.remove(prefix)


def _belongs(name: str, wanted: str) -> bool:
    """Whether a file of a run is needed to read the checkpoint that is wanted, and to know whose it is."""
    first, *rest = name.split("/")
    if first != location.FOLDER:
        return name in (location.MODEL_FILE, location.STATE_FILE)
    is_best = len(rest) > 1 and rest[0] == location.BEST
    return is_best if wanted == location.BEST else not is_best if wanted == location.LAST else True


def _fetch_foreign(source: Place, local: Path) -> None:
    """What is no run: the folder of a checkpoint of other code, or the files of one, and what lies beside it."""
    if not _fetch_parts(source, local, wanted=lambda name: _PART.fullmatch(name) is not None):
        head, _, tail = source.name.rpartition("/")
        beside = (".json", ".txt")
        _fetch_parts(
            Place(source.bucket, head),
            local.parent,
            wanted=lambda name: (
                name == tail or name.startswith(f"{tail}.") or ("/" not in name and name.endswith(beside))
            ),
        )


def _fetch_record(source: Place, local: Path) -> None:
    """Of a checkpoint, or a folder of some, that was named inside a run: what the run says of it."""
    parts = source.name.split("/")
    if location.FOLDER not in parts:
        return
    depth = parts[::-1].index(location.FOLDER)
    run, bucket = Place(source.bucket, "/".join(parts[: -depth - 1])), Bucket(source.bucket)
    for name in (location.MODEL_FILE, location.STATE_FILE):
        file = local.parents[depth] / name
        if (stored := bucket.stat((run / name).name)) is not None:
            folders.fetch(bucket, stored, file)
        else:
            _remove(file)


def _fetch_parts(source: Place, local: Path, *, wanted: Callable[[str], bool]) -> bool:
    """Whether any are there; of what was fetched earlier, files go that are there no more, and would be read."""
    there: set[str] = set()  # as the bucket was listed

    def is_wanted(name: str) -> bool:
        there.add(name)
        return wanted(name)

    moved = folders.download(source, local, wanted=is_wanted)
    is_any = moved.moved + moved.skipped > 0
    for name in folders.files_of(local) if is_any else ():
        if name not in there and (wanted(name) or name.startswith(f"{location.FOLDER}/")):  # or what was a run once
            (local / name).unlink(missing_ok=True)
    return is_any


@functools.cache
def _in_archive(place: str, cache: Path) -> str:
    packed = fetched(place, cache_dir=cache)
    folder = cache / _DOWNLOADS / "unpacked" / file_digest(packed)
    with making(folder):
        if not folder.is_dir():
            partial = folder.with_name(f".{folder.name}")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                archive.unpack(packed, partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return str(_inner(folder))


def _inner(folder: Path) -> Path:
    """The run in an unpacked archive, or its one checkpoint, or the folder itself."""
    runs = [found.parent for found in sorted(folder.rglob(location.FOLDER)) if found.is_dir()]
    for found in (runs, *(sorted({path.parent for path in folder.rglob(name)}) for name in location.FOLDERS_BY)):
        if len(found) == 1:
            return found[0]
    prefixes = [found.with_suffix("") for found in sorted(folder.rglob("*.index"))]
    together = {prefix.parent for prefix in prefixes}
    return prefixes[0] if len(prefixes) == 1 else together.pop() if len(together) == 1 else folder
