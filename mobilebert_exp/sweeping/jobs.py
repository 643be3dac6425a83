"""What the jobs of a Hydra sweep left behind, whether or not they finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULT_FILE = "result.json"
_OVERRIDES_FILE = "overrides.yaml"


def job_dirs(sweep_dir: Path, *, hydra_subdir: str, since_s: float) -> list[Path]:
    """Folders of the jobs that Hydra began at or after `since_s` (Unix time), by number, then by name."""
    marks = sweep_dir.glob(f"**/{hydra_subdir}/{_OVERRIDES_FILE}")
    found = {mark.parent.parent for mark in marks if mark.stat().st_mtime >= since_s}
    return sorted(found, key=_natural)


def result(job_dir: Path, *, hydra_subdir: str, failure: str = "") -> dict[str, Any]:
    """The job's `result.json`, completed: `job` names it, and a job that did not end by itself is FAILED.

    Args:
      failure: what the job raised, if it raised; then it did not finish, whatever an older result says.
    """
    found = _read(job_dir / RESULT_FILE)
    found["job"] = job_dir.name
    found.setdefault("run_dir", str(job_dir))
    if "overrides" not in found:
        found["overrides"] = _overrides(job_dir / hydra_subdir / _OVERRIDES_FILE)
    state = found.get("state", "RUNNING")
    if failure and state in ("FINISHED", "RUNNING"):
        found |= {"state": "FAILED", "reason": failure}
    elif state == "RUNNING":
        found |= {"state": "FAILED", "reason": found.get("reason") or f"left no final {RESULT_FILE}"}
    return found


def unfinished(results: list[dict[str, Any]]) -> str:
    """One line on the jobs that did not finish; "" when all did."""
    bad = [each for each in results if each["state"] != "FINISHED"]
    if not results:
        return "no job was started"
    if not bad:
        return ""
    each = "; ".join(f"job {one['job']} {one['state']} ({one.get('reason') or 'no reason given'})" for one in bad)
    return f"{len(bad)} of {len(results)} jobs did not finish: {each}"


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return {"state": "FAILED", "reason": f"{path.name} is unreadable ({type(error).__name__})"}
    if not isinstance(content, Mapping):
        return {"state": "FAILED", "reason": f"{path.name} is no result"}
    return dict(content)


def _overrides(path: Path) -> list[str]:
    from omegaconf import OmegaConf

    return [str(override) for override in OmegaConf.load(path)] if path.exists() else []


def _natural(path: Path) -> tuple[str, float, str]:
    return (str(path.parent), float(path.name) if path.name.isdecimal() else float("inf"), path.name)
