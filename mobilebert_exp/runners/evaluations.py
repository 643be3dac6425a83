"""What exported models were found to be worth: a small file beside each, for whoever compares them later."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from mobilebert_exp.files import write_json

log = logging.getLogger(__name__)
SUFFIX = ".evaluation.json"


def record(path: Path, metrics: Mapping[str, float], *, model: Mapping[str, float] | None = None) -> None:
    """Notes the figures of a file, or of a SavedModel's folder, and of the model it came from.

    Where nothing can be written beside it, a warning says so: the figures are in the run that found them.
    """
    note = {"sha256": digest(path), "metrics": dict(metrics), "model_metrics": dict(model or {})}
    try:
        write_json(path.with_name(path.name + SUFFIX), note)
    except OSError as problem:
        log.warning("the figures of %s are not noted beside it (%s); a comparison will lack them", path, problem)


def noted(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of a file and those of its model; none if it was not evaluated, or was written anew since."""
    note = path.with_name(path.name + SUFFIX)
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["sha256"] != digest(path):
            log.warning("%s is of an earlier %s; evaluate it again", note, path.name)
            return {}, {}
        return (
            {str(name): float(value) for name, value in found["metrics"].items()},
            {str(name): float(value) for name, value in found["model_metrics"].items()},
        )
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        log.warning("%s cannot be used (%s); evaluate %s again", note, problem, path.name)
        return {}, {}


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
