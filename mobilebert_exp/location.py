"""Where `init.checkpoint` points; pure Python, so that a wrong place is told before TensorFlow is loaded."""

from __future__ import annotations

import enum
from pathlib import Path

from mobilebert_exp.errors import CheckpointError

FOLDER = "checkpoints"  # of a run
BEST, LAST = "best", "last"
FOLDERS_BY = ("saved_model.pb", "*.safetensors", "pytorch_model*.bin")  # whose folder is a checkpoint of other code
FILES_BY = (".index", ".safetensors", ".bin", ".index.json")  # which are one by themselves


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
    """Raises CheckpointError where there is neither a run with such a checkpoint nor any other checkpoint."""
    path, wanted = parts(location)
    places = {"": [path / FOLDER / BEST, path / FOLDER], BEST: [path / FOLDER / BEST], LAST: [path / FOLDER]}[wanted]
    named = Path(location).expanduser()
    prefix = str(named).rpartition(".data-")[0] or str(named)
    files = [Path(f"{prefix}.index"), *(file for at in places for file in at.glob("*.index"))]
    files += [file for pattern in ("*.index", *FOLDERS_BY) for file in named.glob(pattern)]
    if not any(file.is_file() for file in (*files, *([named] if named.name.endswith(FILES_BY) else []))):
        raise missing(location)


def missing(location: str) -> CheckpointError:
    return CheckpointError(
        f"init.checkpoint={location}: no checkpoint there; give the folder of a training run, the one that holds "
        f"{FOLDER}/, or a checkpoint of other code (docs/checkpoints.md)"
    )
