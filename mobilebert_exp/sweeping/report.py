"""Shows a sweep's tables, keeps them as CSV and records them in the sweep's run. Imports pandas: load it late."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from mobilebert_exp import layout
from mobilebert_exp.layout import Column
from mobilebert_exp.sweeping import table
from mobilebert_exp.tracking.base import Tracker

TABLE_FILE = "sweep.csv"
GROUPS_FILE = "sweep_seeds.csv"
SCORES_FILE = "sweep_scores.csv"
_FIRST_METRICS = 3  # the others come after the seconds where room is short
_LAST = 1_000
_SMALLEST, _PERCENT = 1e-3, 100.0  # below the one figures have an exponent; metrics go up to the other
_HUGE, _RANGE = 1e7, 1e4  # a figure so large, or so many times another, would have too many digits, or leave none to it


def report(results: list[dict[str, Any]], *, sweep_dir: Path, tracker: Tracker) -> None:
    """Prints the tables, keeps them as CSV and records them in the sweep's run."""
    rows, groups, scores = table.table(results), table.seed_groups(results), table.task_scores(results)
    print(shown(rows, groups, scores, width=Console().width))
    print(f"every column is in {sweep_dir / TABLE_FILE}")
    for frame, name in ((rows, TABLE_FILE), (groups, GROUPS_FILE), (scores, SCORES_FILE)):
        if frame is rows or len(frame):
            _write_csv(sweep_dir / name, frame)
            tracker.artifact(sweep_dir / name)
    figures = {"jobs": float(len(results)), "jobs_finished": float((rows["state"] == "FINISHED").sum())}
    if len(groups) == 1:
        statistics = groups.filter(regex="_(mean|std)$").iloc[0]
        figures |= {str(name): float(value) for name, value in statistics.dropna().items()}
    if len(scores):
        means = scores[scores["task"].str.startswith(table.MEAN_OF)]
        figures |= {
            f"{name}_mean_of_tasks": float(value) for name, value in zip(means["score"], means["value"], strict=True)
        }
    tracker.metrics(figures, step=0)


def shown(rows: pd.DataFrame, groups: pd.DataFrame, scores: pd.DataFrame, *, width: int) -> str:
    """All that a person sees of a sweep, in lines of at most `width`: what varied, the tables, and why a job failed."""
    names = layout.short_names(map(str, rows.columns))
    legend = layout.legend(names, width=width)
    parts = ["", *([legend, ""] if legend else []), _jobs(rows, names, width=width), *_reasons(rows, width=width)]
    if len(groups):
        title = "Over seeds: mean ± standard deviation of the finished jobs"
        parts += ["", layout.drawn(list(_group_columns(groups, names)), title=title, width=width)]
    if len(scores):
        columns = [_column(scores, key, key, rank=_LAST * (key == "run_id")) for key in map(str, scores.columns)]
        parts += ["", layout.drawn(columns, title="Best of each task", width=width)]
    return "\n".join(parts)


def _jobs(rows: pd.DataFrame, names: Mapping[str, str], *, width: int) -> str:
    finished, keys = int((rows["state"] == "FINISHED").sum()), list(map(str, rows.columns))
    at = keys.index("state")
    metrics = keys[at + 1 : -3]  # then come seconds, run id and reason, which is told below
    ranks = {"state": 1, "seconds": 1 + _FIRST_METRICS, "run_id": _LAST}
    for place, key in enumerate(metrics):
        ranks[key] = place and place + (1 if place < _FIRST_METRICS else 2)
    wanted = [key for key in keys if key != "reason" and (key != "state" or finished < len(rows))]
    columns = [_column(rows, key, names[key], rank=ranks.get(key, 0)) for key in wanted]
    columns = [column for column in columns if any(column.cells)]
    count = "all" if finished == len(rows) else str(finished)
    return layout.drawn(columns, title=f"Sweep: {len(rows)} jobs, {count} FINISHED", width=width)


def _reasons(rows: pd.DataFrame, *, width: int) -> Iterator[str]:
    for job, state, reason in zip(rows["job"], rows["state"], rows["reason"], strict=True):
        if reason:
            yield textwrap.fill(f"job {job} {state}: {reason}", width, subsequent_indent="  ", break_on_hyphens=False)


def _group_columns(groups: pd.DataFrame, names: Mapping[str, str]) -> Iterator[Column]:
    """Mean and deviation of a metric in one cell; the metrics give way from the last to the second."""
    keys = list(map(str, groups.columns))
    at = keys.index("jobs")
    yield from (_column(groups, key, names.get(key, key)) for key in keys[:at])
    both = zip(groups["finished"], groups["jobs"], strict=True)
    yield Column(name="finished", cells=[f"{done} of {jobs}" for done, jobs in both], rank=1)
    for place, key in enumerate(keys[at + 2 :: 2]):
        name = key.removesuffix("_mean")
        texts = _cells([*groups[key], *groups[f"{name}_std"]])
        pairs = zip(texts[: len(groups)], texts[len(groups) :], strict=True)
        cells = [" ± ".join(filter(None, pair)) for pair in pairs]
        yield Column(name=name, cells=cells, rank=place and place + 1, is_figure=True)


def _column(frame: pd.DataFrame, key: str, name: str, *, rank: int = 0) -> Column:
    return Column(name=name, cells=_cells(list(frame[key])), rank=rank, is_figure=frame[key].dtype.kind in "fi")


def _cells(values: Sequence[object]) -> list[str]:
    """The values of a column as texts; figures with one number of decimals, what is no number as nothing."""
    figures = [value for value in values if isinstance(value, float)]
    spec = _format([abs(value) for value in figures if math.isfinite(value)])
    return [("" if math.isnan(v) else f"{v:{spec}}") if isinstance(v, float) else str(v) for v in values]


def _format(sizes: Sequence[float]) -> str:
    """None of whole numbers; else four digits of the largest, and two decimals at least where that is up to 100.

    Where one is far from another, as in a sweep of which a job diverged, each has four digits of its own.
    """
    largest, smallest = max(sizes, default=0.0), min(filter(None, sizes), default=0.0)
    if largest >= _HUGE or largest > _RANGE * smallest:
        return ".4g"
    if all(size.is_integer() for size in sizes):
        return ".0f"
    if largest < _SMALLEST:
        return ".3e"
    digits = 3 - math.floor(math.log10(largest))
    return f".{max(digits, 2 if largest <= _PERCENT else 0)}f"


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Puts a whole file in place, or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
