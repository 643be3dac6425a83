"""Where `init.checkpoint` points, and what a run says of it; pure Python: told before TensorFlow is loaded."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from typing import Any

from mobilebert_exp.errors import CheckpointError

FOLDER = "checkpoints"  # of a run
BEST, LAST = "best", "last"
FOLDERS_BY = ("saved_model.pb", "*.safetensors", "pytorch_model*.bin")  # whose folder is a checkpoint of other code
FILES_BY = (".index", ".safetensors", ".bin", ".index.json")  # which are one by themselves
MODEL_FILE = "model.json"  # of a run: the architecture of its weights, and under the next three keys what else they are
SETTINGS_FILE = "provenance/config.json"  # of a run: the leaves of its resolved configuration
HEAD, VOCABULARY = "head", "vocabulary"  # the latter is the digest of a task's vocabulary
STEPS = "total_steps"  # that the run was to take
STATE_FILE = "state.json"  # of a run: whether it ended, and how
RESULT_FILE = "result.json"  # of a run that ended: its figures
EXPORTS, EXPORTS_FILE = "exports", "exports.json"  # of a run: files for devices and servers, and what is in them
_PART = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")  # a file of a TensorFlow checkpoint


class Logged(enum.Enum):
    """Which of a finished run's checkpoints the tracker gets too."""

    none = "none"
    best = BEST
    last = LAST


def parts(location: str) -> tuple[Path, str]:
    """A run's folder or a checkpoint's prefix, and which of the run's is wanted: `best`, `last`, "" for either.

    The folder in which a run has its checkpoints stands for `last`, that of the best ones for `best`.
    """
    path = Path(location).expanduser()
    wanted = path.name if path.name in (BEST, LAST) else ""
    run = path.parent if wanted else path
    return (run.parent, wanted or LAST) if wanted != LAST and _is_of_run(run) else (run, wanted)


def _is_of_run(folder: Path) -> bool:
    """Whether a run of ours has its checkpoints in a folder; not so where that is itself a run of this name."""
    told_by = (folder.parent / MODEL_FILE, folder.parent / STATE_FILE)
    return (
        folder.name == FOLDER
        and not (folder / FOLDER).is_dir()
        and (any(file.is_file() for file in told_by) or any(folder.rglob("ckpt-*.json")))
    )


def folders(location: str) -> list[Path]:
    """Where a run's checkpoint may lie: the best one, else the newest; or the one that is wanted."""
    path, wanted = parts(location)
    best, last = path / FOLDER / BEST, path / FOLDER
    return {"": [best, last], BEST: [best], LAST: [last]}[wanted]


def check(location: str) -> None:
    """Raises CheckpointError where there is neither a run with such a checkpoint nor any other checkpoint."""
    named = Path(location).expanduser()
    files = [index_of(prefix_of(named)), *(file for at in folders(location) for file in at.glob("*.index"))]
    files += [file for pattern in ("*.index", *FOLDERS_BY) for file in named.glob(pattern)]
    if not any(file.is_file() for file in (*files, *([named] if named.name.endswith(FILES_BY) else []))):
        raise missing(location)


def prefix_of(path: Path) -> Path:
    """The prefix of a TensorFlow checkpoint, by itself or by one of its files, all of which lie beside its index."""
    part = _PART.fullmatch(path.name)
    return path if part is None or index_of(path).is_file() else path.with_name(part[1])


def index_of(prefix: Path) -> Path:
    """The file that each TensorFlow checkpoint has."""
    return prefix.with_name(f"{prefix.name}.index") if prefix.name else prefix


def missing(location: str) -> CheckpointError:
    return CheckpointError(
        f"init.checkpoint={location}: no checkpoint there; give the folder of a training run, the one that holds "
        f"{FOLDER}/, or a checkpoint of other code (docs/checkpoints.md)"
    )


def run_of(location: str) -> Path:
    """The folder of the run that a place is in; of a checkpoint that lies by itself, the folder it is in."""
    prefix = prefix_of(Path(location).expanduser())
    if not index_of(prefix).is_file():
        return parts(location)[0]
    return next((parent for parent in prefix.parents if (parent / MODEL_FILE).is_file()), prefix.parent)


def record(run_dir: Path) -> dict[str, Any]:
    """What a run says of its weights; empty where an older version wrote them, or nobody says anything.

    Raises:
      CheckpointError: it is damaged.
    """
    file = run_dir / MODEL_FILE
    found = read(file)
    if not found and file.is_file():
        raise CheckpointError(f"init.checkpoint: {file} is no JSON object; choose another run")
    return found


def read(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
