"""The end of a run, for a person: what came out, where it lies, how to open it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def end_table(result: Mapping[str, Any], *, open_command: str) -> str:
    """A short table of a run's result (the fields of `result.json`), as text."""
    rows = [("state", result["state"] + (f"  ({result['reason']})" if result["reason"] else ""))]
    rows += [(name, f"{value:.2f}") for name, value in result["metrics"].items()]
    rows += [(name, f"{value:.1f}") for name, value in result["timings"].items()]
    rows.append(("peak memory", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB"))
    rows.append(("run", result["run_dir"]))
    if result["run_id"]:
        rows.append(("mlflow run", result["run_id"]))
    if open_command:
        rows.append(("open", open_command))
    width = max(len(name) for name, _ in rows)
    return "\n".join(["", *(f"  {name:<{width}}  {value}" for name, value in rows), ""])
