"""Shows a sweep's tables, keeps them as CSV and records them in the sweep's run. Imports pandas: load it late."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from mobilebert_exp.sweeping import table
from mobilebert_exp.tracking.base import Tracker

TABLE_FILE = "sweep.csv"
GROUPS_FILE = "sweep_seeds.csv"
SCORES_FILE = "sweep_scores.csv"
_SHOWN_METRICS = 6
_LOG_WIDTH = 200


def report(results: list[dict[str, Any]], *, sweep_dir: Path, tracker: Tracker) -> None:
    """Prints the tables, keeps them as CSV and records them in the sweep's run."""
    rows, groups = table.table(results), table.seed_groups(results)
    names = table.metric_names(results)
    _print(rows.drop(columns=[column for column in names[_SHOWN_METRICS:] if column in rows]), title="Sweep")
    _write_csv(sweep_dir / TABLE_FILE, rows)
    tracker.artifact(sweep_dir / TABLE_FILE)
    figures = {"jobs": float(len(results)), "jobs_finished": float((rows["state"] == "FINISHED").sum())}
    if len(groups):
        hidden = [f"{name}_{part}" for name in names[_SHOWN_METRICS:] for part in ("mean", "std")]
        _print(groups.drop(columns=hidden), title="Over seeds")
        _write_csv(sweep_dir / GROUPS_FILE, groups)
        tracker.artifact(sweep_dir / GROUPS_FILE)
    if len(groups) == 1:
        statistics = groups.filter(regex="_(mean|std)$").iloc[0]
        figures |= {str(name): float(value) for name, value in statistics.dropna().items()}
    scores = table.task_scores(results)
    if len(scores):
        _print(scores, title="Best of each task")
        _write_csv(sweep_dir / SCORES_FILE, scores)
        tracker.artifact(sweep_dir / SCORES_FILE)
        means = scores[scores["task"].str.startswith(table.MEAN_OF)]
        figures |= {
            f"{name}_mean_of_tasks": float(value) for name, value in zip(means["score"], means["value"], strict=True)
        }
    tracker.metrics(figures, step=0)


def _print(frame: pd.DataFrame, *, title: str) -> None:
    # A log file has no width: a table is wide there, so that lines stay whole.
    width = None if Console().is_terminal else _LOG_WIDTH
    console = Console(width=width, markup=False, highlight=False)
    shown = Table(title=title)
    for column in frame.columns:
        shown.add_column(str(column), overflow="fold", justify="right" if frame[column].dtype.kind in "fi" else "left")
    for row in frame.itertuples(index=False):
        shown.add_row(*map(_cell, row))
    console.print(shown)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Puts a whole file in place, or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
