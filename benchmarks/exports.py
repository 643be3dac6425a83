"""How long exporting the full `opt` at 384 tokens takes, how large the files are, and how fast LiteRT runs them.

The peer is tf-models' encoder under its span head, through TensorFlow's converter. Each export is a process of its own;
all files then run in turn in one process on two threads.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measurement import Comparison, Goal, Samples, in_turn
from benchmarks.processes import answer_of
from mobilebert_exp import compose
from mobilebert_exp.config import leaves

ROUNDS = 3
LENGTH, THREADS, ROWS = 384, 2, 10
RUNS = 30  # of each file
FORMATS = ("float", "dynamic", "int8")
OURS_ALONE = ("float16", "int8_strict")
LATENCY_TARGETS = {"float": 0.95, "dynamic": 1.0, "int8": 0.5}
CONVERSION_TARGET, INT8_OF_FLOAT, LARGEST_MB = 0.4, 1.25, 27.0
OURS, THEIRS, RUNNER = "benchmarks.peers.our_export", "benchmarks.peers.tf_models_export", "benchmarks.peers.running"


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """Conversion, size, and latency of each format."""
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        found = []
        for format in FORMATS:
            found += _converted(format, folder, rounds=rounds, tell=tell)
        for format in OURS_ALONE:
            tell(f"exporting {format}")
            _export(OURS, format, folder)
        return found + _latencies(folder, tell=tell)


def _export(module: str, format: str, folder: Path) -> Mapping[str, Any]:
    architecture = leaves(compose(["model=opt"]).model)
    file = folder / f"{'ours' if module == OURS else 'theirs'}_{format}.tflite"
    job = {"architecture": architecture, "format": format, "length": LENGTH, "rows": ROWS, "file": str(file)}
    return answer_of(["-m", module, json.dumps(job)], folder=folder)


def _converted(format: str, folder: Path, *, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    answers: dict[str, list[Mapping[str, Any]]] = {OURS: [], THEIRS: []}

    def once(module: str) -> list[float]:
        answers[module].append(_export(module, format, folder))
        return [answers[module][-1]["seconds"]]

    names = {"ours": OURS, "tf-models": THEIRS}
    seconds = in_turn(
        {name: functools.partial(once, module) for name, module in names.items()}, rounds=rounds, tell=tell
    )
    peaks = {
        name: Samples(name=name, values=tuple(answer["above_mib"] for answer in answers[module]), unit="MiB")
        for name, module in names.items()
    }
    size = answers[OURS][0]["bytes"] / 1e6
    theirs = answers[THEIRS][0]["bytes"] / 1e6
    found = [
        Comparison(
            title=f"Exporting `opt` at {LENGTH} tokens, {format}: seconds, from weights to the file",
            ours=seconds["ours"],
            peers=(seconds["tf-models"],),
            goal=Goal.at_most,
            target=CONVERSION_TARGET,
            notes=(
                f"Files of {size:.2f} and {theirs:.2f} MB; "
                f"memory above the imports {peaks['ours'].median:,.0f} and {peaks['tf-models'].median:,.0f} MiB.",
            ),
        )
    ]
    if format != "float":
        limit = Samples(name="the limit", values=(LARGEST_MB,), unit="MB")
        ours = Samples(name="ours", values=(size,), unit="MB")
        found.append(
            Comparison(
                title=f"The {format} file of `opt`: size", ours=ours, peers=(limit,), goal=Goal.at_most, target=1.0
            )
        )
    return found


def _latencies(folder: Path, *, tell: Callable[[str], None]) -> list[Comparison]:
    tell(f"running every file {RUNS} times in turn")
    job = {"folder": str(folder), "threads": THREADS, "runs": RUNS, "length": LENGTH}
    times = answer_of(["-m", RUNNER, json.dumps(job)], folder=folder)
    samples = {name: Samples(name=name.replace("_", " ", 1), values=tuple(ms), unit="ms") for name, ms in times.items()}
    beside = {"int8": ("ours_float16", "ours_int8_strict")}
    found = [
        Comparison(
            title=f"Latency of `opt` at {LENGTH} tokens on {THREADS} threads, {format}",
            ours=samples[f"ours_{format}"],
            peers=(samples[f"theirs_{format}"],),
            goal=Goal.at_most,
            target=LATENCY_TARGETS[format],
            beside=tuple(samples[name] for name in beside.get(format, ())),
        )
        for format in FORMATS
    ]
    return [
        *found,
        Comparison(
            title="Latency of our int8 file against our float file",
            ours=samples["ours_int8"],
            peers=(samples["ours_float"],),
            goal=Goal.at_most,
            target=INT8_OF_FLOAT,
        ),
    ]
