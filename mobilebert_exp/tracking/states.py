"""A run's identity and its state on disk, so that the same command finds the run it should continue.

`<run_dir>/state.json` holds identity, state, reason and the tracker's run id; `<run_dir>/.alive` is locked as long as
its process lives, so a run that died without a word is told from one that is working.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilebert_exp import location, manifest
from mobilebert_exp.files import write_json
from mobilebert_exp.tracking.base import RunState

STATE_FILE = location.STATE_FILE
INDEX = ".runs"
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
UNFINISHED = {RunState.RUNNING.name, RunState.KILLED.name, RunState.PREEMPTED.name}


log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True, slots=True)
class Recorded:
    """A run as its folder tells of it: what the tracker calls it, and whether it can go on."""

    run_dir: Path
    run_id: str
    resumable: bool


def identity(config: Mapping[str, object], *, digests: Mapping[str, str], code: str) -> str:
    """sha256 of what determines a run's result: resolved config, data digests, code."""
    content = json.dumps({"config": dict(config), "digests": dict(digests), "code": code}, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def write(
    run_dir: Path, *, identity: str, state: RunState, reason: str = "", run_id: str = "", resumable: bool = False
) -> None:
    """Records the state; `resumable` is a failed run that goes on once what stopped it is mended."""
    record = {
        "identity": identity,
        "state": state.name,
        "reason": reason,
        "run_id": run_id,
        "resumable": resumable or state.name in UNFINISHED,
    }
    write_json(run_dir / STATE_FILE, record)


def enter(output_dir: Path, run_dir: Path, *, identity: str) -> None:
    """Notes that `run_dir` is the newest run of its identity."""
    index = output_dir / INDEX
    index.mkdir(parents=True, exist_ok=True)
    write_json(index / f"{identity}.json", {"run_dir": str(run_dir)})


def newest(output_dir: Path, *, identity: str) -> Recorded | None:
    """The newest run of this identity on this machine."""
    run_dir = _read(output_dir / INDEX / f"{identity}.json").get("run_dir")
    if not isinstance(run_dir, str) or not (record := _read(Path(run_dir) / STATE_FILE)):
        return None
    resumable = bool(record.get("resumable"))
    return Recorded(run_dir=Path(run_dir), run_id=str(record.get("run_id", "")), resumable=resumable)


def run_id_of(run_dir: Path) -> str:
    """What the tracker calls the run in a folder; "" where none is known."""
    return str(_read(run_dir / STATE_FILE).get("run_id", ""))


def state_of(run_dir: Path) -> str:
    """The state of the run in a folder; "" where none is known."""
    return str(_read(run_dir / STATE_FILE).get("state", ""))


def unfinished(run_dir: Path) -> str:
    """The state of a run that has checkpoints and did not finish; "" of any other, and where none is known."""
    state = state_of(run_dir) if (run_dir / location.FOLDER).is_dir() else ""
    return "" if state == RunState.FINISHED.name else state


def how_far(place: str) -> str:
    """How far the run of a checkpoint came, if it did not finish: `KILLED at step 250 of 1,000`; "" if it did.

    Args:
      place: on this machine, as `init.checkpoint` has it.
    """
    run_dir, prefix = location.run_of(place), location.prefix_of(Path(place).expanduser())
    if not (state := unfinished(run_dir)):
        return ""
    found = (each for folder in location.folders(place) for each in manifest.committed(folder))
    named = prefix if manifest.has_one(prefix) else next(found, None)
    step = manifest.step_of(manifest.file_of(named).name) if named else None
    total = location.read(run_dir / location.MODEL_FILE).get(location.STEPS)
    at = "" if step is None else f" at step {step:,}"
    return f"{state}{at}{f' of {total:,}' if at and isinstance(total, int) else ''}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return parsed(path.read_bytes(), place=path)
    except OSError:
        return {}


def parsed(content: bytes | str, *, place: object) -> dict[str, Any]:
    """A record of a run; what is damaged, or none, counts as absent, and a warning says so."""
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    log.warning("%s is damaged, or no record of a run; going on without it", place)
    return {}


def forget_unbegun(run_dir: Path, *, made: Collection[str]) -> None:
    """Removes the folder of a run that never began, where it holds nothing but `made`, which was put there for it.

    A folder of its date, and of its task, that is empty then goes too.
    """
    names = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    if not names or not names <= set(made):
        return
    with contextlib.suppress(OSError):  # what cannot be removed stays
        for path in run_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        run_dir.rmdir()
        if _DATE.fullmatch(run_dir.parent.name):
            run_dir.parent.rmdir()
            run_dir.parent.parent.rmdir()


@contextlib.contextmanager
def alive(run_dir: Path) -> Iterator[None]:
    """Holds the run's lock; the system lets it go when the process dies, however it dies."""
    with _lock(run_dir).acquire(blocking=False):
        yield


def is_alive(run_dir: Path) -> bool:
    """Whether some process holds the run's lock."""
    import filelock

    try:
        with _lock(run_dir).acquire(blocking=False):
            return False
    except filelock.Timeout:
        return True


def _lock(run_dir: Path) -> Any:
    import filelock

    return filelock.FileLock(run_dir / ".alive")
