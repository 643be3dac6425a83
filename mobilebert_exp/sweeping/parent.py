"""How the jobs of a sweep know the sweep's own run: `<sweep_dir>/sweep.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mobilebert_exp.files import write_json

SWEEP_FILE = "sweep.json"


def parent_run_id(sweep_dir: Path) -> str:
    """The tracker's run of the sweep that a job belongs to; "" outside a sweep or without a tracker."""
    path = sweep_dir / SWEEP_FILE
    return str(json.loads(path.read_bytes())["parent_run_id"]) if path.exists() else ""


def write(sweep_dir: Path, *, parent_run_id: str, about: Mapping[str, str]) -> None:
    """Tells the jobs to come; `about` is for people."""
    write_json(sweep_dir / SWEEP_FILE, {"parent_run_id": parent_run_id, **about})
