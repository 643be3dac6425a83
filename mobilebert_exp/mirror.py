"""A run's folder in a bucket: brought up to date at each checkpoint, found by whoever goes on with the run elsewhere.

`<upload_to>/.runs/<identity>.json` names the newest run of an identity, as `<output_dir>/.runs` does on a machine.
`<run>/owner.json` is written by whoever works on the run; a machine whose generation of it was replaced stops
uploading, so of two machines that believe the run theirs, the later one writes.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from mobilebert_exp import location
from mobilebert_exp.errors import StorageError
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tracking import states

log = logging.getLogger(__name__)
OWNER = "owner.json"
RETRY_S = 30.0  # training waits for an upload, and the next checkpoint brings what this one could not
POINTERS = (f"{location.FOLDER}/checkpoint", f"{location.FOLDER}/{location.BEST}/checkpoint")  # name the newest files
NEEDED = (location.FOLDER, "model.json", "metrics.jsonl", states.STATE_FILE)  # to go on with a run


@dataclass(kw_only=True, frozen=True, slots=True)
class Elsewhere:
    """A run in a bucket that stopped before its end, perhaps on another machine."""

    place: Place
    run_id: str


def find_unfinished(upload_to: str, *, identity: str) -> Elsewhere | None:
    """The newest run of this identity, if it can go on.

    Raises:
      StorageError: the bucket refuses or cannot be reached.
    """
    root = Place.parse(upload_to, key="upload_to")
    bucket = Bucket(root.bucket)
    index = _record(bucket, root / f"{states.INDEX}/{identity}.json")
    if "run" not in index:
        return None
    place = root / index["run"]
    state = _record(bucket, place / states.STATE_FILE)
    return Elsewhere(place=place, run_id=state["run_id"]) if state.get("resumable") else None


def _record(bucket: Bucket, place: Place) -> dict[str, str]:
    """A JSON object; empty where there is none."""
    if bucket.stat(place.name) is None:
        return {}
    found = json.loads(bucket.read(place.name))
    return found if isinstance(found, dict) else {}


def restore(run: Elsewhere, run_dir: Path) -> None:
    """Fetches what is needed to go on with a run; raises StorageError, or OutputError where it cannot be written."""
    moved = folders.download(run.place, run_dir, wanted=lambda name: name.split("/")[0] in NEEDED)
    log.info("fetched %d files (%d bytes) of the unfinished run %s", moved.moved, moved.size, run.place)


class Mirror:
    """The copy of one run's folder."""

    def __init__(self, upload_to: str, run_dir: Path, *, identity: str, place: Place | None, name: str) -> None:
        """`place` is the run's when it was begun elsewhere, else it becomes `upload_to/name`."""
        self._root = Place.parse(upload_to, key="upload_to")
        self._run_dir, self._identity = run_dir, identity
        self.place = place or self._root / name
        self._generation = 0

    def claim(self) -> None:
        """Makes the run this process', and the newest of its identity.

        Raises:
          StorageError: the bucket refuses or cannot be reached; better told before training than after it.
        """
        bucket = Bucket(self.place.bucket)
        mine = {"host": socket.gethostname(), "process": os.getpid()}
        self._generation = _put(bucket, self.place / OWNER, mine)
        run = self.place.name.removeprefix(self._root.name).strip("/")
        _put(bucket, self._root / f"{states.INDEX}/{self._identity}.json", {"run": run})

    def update(self) -> None:
        """Uploads what is new and removes the checkpoints that are gone; says so, and goes on, where it cannot."""
        if not self._generation:
            return
        try:
            bucket = Bucket(self.place.bucket, retry_s=RETRY_S)
            owner = bucket.stat((self.place / OWNER).name)
            if owner is None or owner.generation != self._generation:
                log.warning("%s was taken over by another machine; nothing more is uploaded there", self.place)
                self._generation = 0
                return
            names = folders.files_of(self._run_dir)
            last = [name for name in (*POINTERS, states.STATE_FILE) if name in names]
            folders.upload(self._run_dir, self.place, names=names, last=last, retry_s=RETRY_S)
            self._prune(bucket, set(names))
        except (StorageError, OSError) as problem:
            log.warning("not uploaded this time: %s", problem)

    def _prune(self, bucket: Bucket, names: set[str]) -> None:
        """Removes the checkpoints that the run no longer keeps."""
        prefix = f"{self.place.name}/"
        for name, stored in bucket.list(f"{prefix}{location.FOLDER}/").items():
            if name.removeprefix(prefix) not in names:
                bucket.delete(name, generation=stored.generation)


def _put(bucket: Bucket, place: Place, record: dict[str, object]) -> int:
    """Writes over whatever lies there now; returns its generation."""
    seen = bucket.stat(place.name)
    return bucket.write(place.name, json.dumps(record).encode(), generation=seen.generation if seen else 0)
