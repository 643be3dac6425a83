"""Where `init.checkpoint` points; pure Python, so that a wrong place is told before TensorFlow is loaded."""

from __future__ import annotations

import enum
from pathlib import Path

from mobilebert_exp.errors import CheckpointError

FOLDER = "checkpoints"  # of a run
BEST, LAST = "best", "last"


class Logged(enum.Enum):
    """Which of a finished run's checkpoints the tracker gets too."""

    none = "none"
    best = BEST
    last = LAST


def parts(location: str) -> tuple[Path, str]:
    """A run's folder or a checkpoint's prefix, and which of the run's is wanted: `best`, `last`, "" for either."""
    path = Path(location).expanduser()
    return (path.parent, path.name) if path.name in (BEST, LAST) else (path, "")


def check(location: str) -> None:
    """Raises CheckpointError where there is neither a run with such a checkpoint nor a checkpoint."""
    path, wanted = parts(location)
    places = {"": [path / FOLDER / BEST, path / FOLDER], BEST: [path / FOLDER / BEST], LAST: [path / FOLDER]}[wanted]
    files = [Path(f"{Path(location).expanduser()}.index"), *(file for at in places for file in at.glob("*.index"))]
    if not any(file.is_file() for file in files):
        raise missing(location)


def missing(location: str) -> CheckpointError:
    return CheckpointError(
        f"init.checkpoint={location}: no checkpoint there; "
        f"give the folder of a training run, the one that holds {FOLDER}/"
    )
