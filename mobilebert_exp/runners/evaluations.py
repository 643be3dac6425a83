"""What exported models were found to be worth: a small file beside each, for whoever compares them later."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mobilebert_exp.config import ExperimentConfig
from mobilebert_exp.files import write_json
from mobilebert_exp.tasks.base import Split, Task

log = logging.getLogger(__name__)
SUFFIX = ".evaluation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The figures of an exported model, and those of a checkpoint's model that was judged with it; empty if unknown.

    Attributes:
      checkpoint_sha256: of that checkpoint, where it bears one.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    model_metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint_sha256: str = ""


def terms(config: ExperimentConfig, task: Task) -> dict[str, object]:
    """What else figures depend on: only those found on equal terms are compared."""
    return {
        "task": config.task.name,
        "length": config.task.max_seq_length,
        "data": dict(task.digests([Split.dev])),
    }


def record(path: Path, worth: Worth, *, terms: Mapping[str, object]) -> None:
    """Notes what a file, or a SavedModel's folder, is worth.

    Where nothing can be written beside it, a warning says so: the figures are in the run that found them.
    """
    note = {
        "sha256": digest(path),
        "terms": dict(terms),
        "metrics": dict(worth.metrics),
        "model_metrics": dict(worth.model_metrics),
        "checkpoint_sha256": worth.checkpoint_sha256,
    }
    try:
        write_json(path.with_name(path.name + SUFFIX), note)
    except OSError as problem:
        log.warning("the figures of %s are not noted beside it (%s); a comparison will lack them", path, problem)


def noted(path: Path, *, terms: Mapping[str, object]) -> Worth:
    """What a file is worth; unknown if it was not evaluated on these terms, or was written anew since."""
    note = path.with_name(path.name + SUFFIX)
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["sha256"] != digest(path):
            log.warning("%s is of an earlier %s; evaluate it again", note, path.name)
            return Worth()
        if found["terms"] != dict(terms):
            log.warning("%s is of another task, length or data than these; evaluate %s on these", note, path.name)
            return Worth()
        return Worth(
            metrics={str(name): float(value) for name, value in found["metrics"].items()},
            model_metrics={str(name): float(value) for name, value in found["model_metrics"].items()},
            checkpoint_sha256=str(found["checkpoint_sha256"]),
        )
    except FileNotFoundError:
        return Worth()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        log.warning("%s cannot be used (%s); evaluate %s again", note, problem, path.name)
        return Worth()


def digest(path: Path) -> str:
    """sha256 of a file; of a folder, that of its files' digests and names."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = "".join(f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
