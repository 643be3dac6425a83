"""A run's folder in a bucket: brought up to date at each checkpoint, found by whoever goes on with the run elsewhere.

`<upload_to>/.runs/<identity>.json` names the newest run of an identity, as `<output_dir>/.runs` does on a machine.
`<run>/owner.json` is written by whoever works on the run, again and again: as long as it is fresh, nobody else takes
the run. A process whose generation of it was replaced stops: of two that believe the run theirs, the later one has it.
`<run_dir>/.bucket.json` says on the machine where the run's copy lies.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobilebert_exp import location, manifest
from mobilebert_exp.errors import StorageError
from mobilebert_exp.files import write_json
from mobilebert_exp.storage import bucket as buckets
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket, RacedError
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tracking import states

log = logging.getLogger(__name__)
OWNER, PLACE_FILE = "owner.json", ".bucket.json"
RETRY_S = 30.0  # training waits for an upload, and the next checkpoint brings what this one could not
BEAT_S = 30.0  # between two signs of life
FRESH_S = 150.0  # how long a sign of life counts: a bucket that is away for a moment costs nobody his run
POINTERS = tuple(f"{folder}/{manifest.POINTER}" for folder in (location.FOLDER, f"{location.FOLDER}/{location.BEST}"))
NEEDED = (location.FOLDER, location.MODEL_FILE, "metrics.jsonl", states.STATE_FILE)  # to go on with a run


class TakenOverError(StorageError):
    """Another process works on the run now."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Unfinished:
    """A run that stopped before its end.

    Attributes:
      run_dir: its folder on this machine; None where its copy in the bucket is to be fetched.
      run_id: what the tracker calls it.
      place: its copy in the bucket, if it has one.
      step: of its newest checkpoint, here of the newest that is whole; 0 without one.
    """

    run_dir: Path | None
    run_id: str
    place: Place | None
    step: int


def find_unfinished(upload_to: str | None, output_dir: Path, *, identity: str) -> Unfinished | None:
    """The run of this identity to go on with: the newest here, its copy in the bucket, or the newest in the bucket.

    Of those that can go on and that nobody works on it is the one with the newest checkpoint, one's own where they are
    equal. Where this machine works on a run of this identity, or its run has ended in the bucket, there is none.

    Raises:
      StorageError: the bucket refuses or cannot be reached.
    """
    here = states.newest(output_dir, identity=identity)
    if here and states.is_alive(here.run_dir):
        return None
    root = Place.parse(upload_to, key="upload_to") if upload_to is not None else None
    mine = _place_of(here.run_dir, root) if here and root else None
    found: dict[Place | None, Unfinished] = {}
    if here and here.resumable:
        step = manifest.newest_step(here.run_dir / location.FOLDER) if root else 0
        found[mine] = Unfinished(run_dir=here.run_dir, run_id=here.run_id, place=mine, step=step)
    for place in dict.fromkeys([mine, _newest(root, identity)] if root else []):
        if place is None or (place == mine and mine not in found):  # which ended here: only its copy is behind
            continue
        copy = _Copy.read(place)
        if copy and (not copy.resumable or copy.is_worked_on()):
            found.pop(place, None)
        elif copy and copy.step > (found[place].step if place in found else -1):
            found[place] = Unfinished(run_dir=None, run_id=copy.run_id, place=place, step=copy.step)
    return max(found.values(), key=lambda each: each.step, default=None)


@dataclass(kw_only=True, frozen=True, slots=True)
class _Copy:
    """What a run's folder in the bucket tells."""

    place: Place
    resumable: bool
    run_id: str
    step: int
    owner: dict[str, Any]

    @classmethod
    def read(cls, place: Place) -> _Copy | None:
        """None where there is no state yet, or none that can be read."""
        bucket = Bucket(place.bucket)
        state = _record(bucket, place / states.STATE_FILE)
        if not state:
            return None
        checkpoints = place / location.FOLDER
        names = (name.removeprefix(f"{checkpoints.name}/") for name in bucket.list(f"{checkpoints.name}/"))
        return cls(
            place=place,
            resumable=bool(state.get("resumable")),
            run_id=str(state.get("run_id", "")),
            step=max(filter(None, map(manifest.step_of, names)), default=0),
            owner=_record(bucket, place / OWNER),
        )

    def is_worked_on(self) -> bool:
        """Whether its owner has lately given a sign of life, and is no process of this machine that has died."""
        until, host, process = (self.owner.get(key) for key in ("until", "host", "process"))
        if not isinstance(until, float | int) or until <= time.time():
            return False
        if host == socket.gethostname() and isinstance(process, int) and not _lives(process):
            return False
        log.warning("%s works on %s; starting another run, because nobody else may go on with it", host, self.place)
        return True


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _newest(root: Place, identity: str) -> Place | None:
    run = _record(Bucket(root.bucket), root / f"{states.INDEX}/{identity}.json").get("run")
    return root / run if isinstance(run, str) else None


def _place_of(run_dir: Path, root: Place) -> Place | None:
    """Where the copy of a run of this machine lies, if it lies below `root`."""
    text = _text(run_dir / PLACE_FILE)
    noted = states.parsed(text, place=run_dir / PLACE_FILE).get("place") if text else None
    if not isinstance(noted, str) or not noted.startswith(f"{root}/"):
        return None
    return root / noted.removeprefix(f"{root}/")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _record(bucket: Bucket, place: Place) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    if bucket.stat(place.name) is None:
        return {}
    return states.parsed(bucket.read(place.name), place=place)


def restore(place: Place, run_dir: Path) -> None:
    """Fetches what is needed to go on with a run; raises StorageError, or OutputError where it cannot be written."""
    moved = folders.download(place, run_dir, wanted=lambda name: name.split("/")[0] in NEEDED)
    log.info("fetched %d files (%d bytes) of the unfinished run %s", moved.moved, moved.size, place)


@dataclass(slots=True)
class _Owned:
    """The right to a run in a bucket: held as long as nobody else has written over it."""

    place: Place
    generation: int = 0
    lost: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    _token: str = field(default_factory=lambda: secrets.token_hex(8))  # tells two writers of one machine apart

    def take(self) -> None:
        """Writes over whoever had it; raises StorageError where that cannot be done."""
        bucket = Bucket(self.place.bucket)
        seen = bucket.stat((self.place / OWNER).name)
        self._write(bucket, generation=seen.generation if seen else 0, fresh_s=FRESH_S)

    def renew(self, *, fresh_s: float) -> None:
        """Gives a sign of life; raises TakenOverError, or another StorageError where that cannot be done now."""
        with self.lock:
            if not self.lost:
                try:
                    bucket = Bucket(self.place.bucket, retry_s=RETRY_S)
                    self._write(bucket, generation=self.generation, fresh_s=fresh_s)
                except RacedError:
                    self.lost = True
            if self.lost:
                raise TakenOverError(
                    f"{self.place} was taken over by another machine, so this one stops, its checkpoint saved; "
                    "look there for the run's end, or set resume=never for a run of its own"
                )

    def _write(self, bucket: Bucket, *, generation: int, fresh_s: float) -> None:
        mine = {"host": socket.gethostname(), "process": os.getpid(), "token": self._token}
        content = json.dumps({**mine, "until": time.time() + fresh_s})
        self.generation = bucket.write((self.place / OWNER).name, content.encode(), generation=generation)


class Mirror:
    """The copy of one run's folder."""

    def __init__(self, upload_to: str, run_dir: Path, *, identity: str, place: Place | None, name: str) -> None:
        """`place` is the copy that the run has already, else it becomes `upload_to/name`, or `name-2` …"""
        self._root = Place.parse(upload_to, key="upload_to")
        self._run_dir, self._identity = run_dir, identity
        self._has_copy, self.place = place is not None, place or self._root / name
        self._owned = _Owned(self.place)
        self._ours: set[str] = set()  # what this process has uploaded, or found in the run's folder

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the run this process' inside the block, and the newest of its identity.

        Raises:
          StorageError: the bucket refuses or cannot be reached; better told before training than after it.
        """
        self._claim()
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            with contextlib.suppress(StorageError):  # who lost it, or cannot say so, need not give it back
                self._owned.renew(fresh_s=0)

    def _claim(self) -> None:
        bucket = Bucket(self.place.bucket)
        first, number = self.place, 1
        while not self._has_copy and bucket.stat((self.place / OWNER).name):  # of another machine, at the same second
            number += 1
            self.place = Place(first.bucket, f"{first.name}-{number}")
        self._owned = _Owned(self.place)
        self._owned.take()
        index = (self._root / f"{states.INDEX}/{self._identity}.json").name
        run = self.place.name.removeprefix(self._root.name).strip("/")
        seen = bucket.stat(index)
        bucket.write(index, json.dumps({"run": run}).encode(), generation=seen.generation if seen else 0)
        write_json(self._run_dir / PLACE_FILE, {"place": str(self.place)})
        self._ours = set(folders.files_of(self._run_dir))

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            try:
                self._owned.renew(fresh_s=FRESH_S)
            except TakenOverError:
                return
            except StorageError as problem:
                log.info("no sign of life was left: %s", problem)

    def update(self) -> None:
        """Uploads what is new and removes the checkpoints that are gone; says so, and goes on, where it cannot.

        Raises:
          TakenOverError: the run is another process' now.
        """
        try:
            self._upload(retry_s=RETRY_S)
        except TakenOverError:
            raise
        except (StorageError, OSError) as problem:
            log.warning("not uploaded this time: %s", problem)

    def finish(self) -> str:
        """Uploads for the last time, tried for longer; returns why that failed, "" if it did not."""
        try:
            self._upload(retry_s=buckets.RETRY_S)
        except (StorageError, OSError) as problem:
            log.warning("not uploaded: %s", problem)
            return str(problem)
        return ""

    def _upload(self, *, retry_s: float) -> None:
        """Manifests go last and come off first: whoever reads the bucket meanwhile finds whole checkpoints alone."""
        self._owned.renew(fresh_s=FRESH_S)
        names = folders.files_of(self._run_dir)
        bucket = Bucket(self.place.bucket, retry_s=retry_s)
        settled = self._settled(bucket, names)
        moving = [name for name in names if manifest.checkpoint_of(name) not in settled]
        ends = (*filter(_is_manifest, moving), *POINTERS, states.STATE_FILE)
        last = [name for name in ends if name in moving]
        folders.upload(self._run_dir, self.place, names=moving, last=last, retry_s=retry_s)
        self._ours |= set(names)
        self._prune(bucket, set(names))

    def _settled(self, bucket: Bucket, names: Iterable[str]) -> set[str]:
        """The checkpoints that lie there as they were committed here: what damages one here must not reach its copy.

        Of one that was made anew, which its manifest here tells, that there is taken away, before its files are written
        over.
        """
        found = set()
        there = bucket.list(f"{self.place.name}/{location.FOLDER}/")
        for name in filter(_is_manifest, names):
            stored = there.get((self.place / name).name)
            if stored is None:
                continue
            if stored.equals(self._run_dir / name) or not manifest.is_sound(self._run_dir / name):
                found.add(manifest.checkpoint_of(name))
            else:
                bucket.delete(stored.name, generation=stored.generation)
        return found

    def _prune(self, bucket: Bucket, names: set[str]) -> None:
        """Removes the checkpoints that the run no longer keeps; what others put there is not ours to remove."""
        prefix = f"{self.place.name}/"
        found = bucket.list(f"{prefix}{location.FOLDER}/")
        gone = [name for name in found if name.removeprefix(prefix) in self._ours - names]
        for name in sorted(gone, key=_is_manifest, reverse=True):
            bucket.delete(name, generation=found[name].generation)


def _is_manifest(name: str) -> bool:
    return manifest.step_of(name.rpartition("/")[2]) is not None
