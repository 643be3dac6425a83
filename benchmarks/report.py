"""How figures are shown: Markdown tables that say the machine, and one JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measurement import Comparison, Goal, Samples

PACKAGES = ("hydra-core", "tensorflow", "tf-models-official", "torch", "transformers")
BUSY_SHARE = 0.25  # of the cores, taken by others before we start


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "load_before": round(os.getloadavg()[0], 2),
    }


def is_busy(facts: dict[str, Any]) -> bool:
    """Whether others were computing here before the benchmarks began."""
    return bool(facts["load_before"] > BUSY_SHARE * facts["cores"])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def machine_line(facts: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"Machine: {facts['cores']} cores of {facts['cpu']}, {facts['system']}, Python {facts['python']}, {packages}; "
        f"load before the run {facts['load_before']:.2f}"
    )


def shown(comparison: Comparison) -> str:
    """One comparison as a Markdown table with its verdict below it."""
    named = [(f"**{comparison.ours.name}**", comparison.ours)]
    named += [(samples.name, samples) for samples in (*comparison.peers, *comparison.beside)]
    unit = comparison.ours.unit
    rows = [
        ["", f"median {unit}", f"min–max {unit}", "measurements"],
        *(_row(name, samples) for name, samples in named),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"### {comparison.title}", "", *lines, "", _verdict(comparison), *comparison.notes])


def _row(name: str, samples: Samples) -> list[str]:
    low, high = min(samples.values), max(samples.values)
    digits = 0 if low >= 100 else 3
    return [name, f"{samples.median:.{digits}f}", f"{low:.{digits}f}–{high:.{digits}f}", str(len(samples.values))]


def _verdict(comparison: Comparison) -> str:
    ours, peer = comparison.ours.name, comparison.fastest_peer.name
    over = f"{ours} / {peer}" if comparison.goal is Goal.at_most else f"{peer} / {ours}"
    end = "met" if comparison.is_met else "**missed**"
    return f"{over} = **{comparison.ratio:.2f}**, target {comparison.goal.value} {comparison.target:.2f}: {end}"


def write(path: Path, *, facts: dict[str, Any], found: Iterable[tuple[str, Comparison]]) -> None:
    """Writes the comparisons of each benchmark, whole or not at all."""
    content = {"machine": facts, "comparisons": [{"benchmark": name, **one.record()} for name, one in found]}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
