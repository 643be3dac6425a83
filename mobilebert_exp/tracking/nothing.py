"""Tracking by the local spool alone (`tracking=none`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mobilebert_exp.tracking.base import RunInfo, RunState
from mobilebert_exp.tracking.spool import FILE_NAME, Entry, Spool


class NoTracker:
    """Keeps `metrics.jsonl` in the run's folder and reports to nobody."""

    def __init__(self) -> None:
        self._spool: Spool | None = None

    def start(self, run: RunInfo) -> None:
        self._spool = Spool(run.run_dir / FILE_NAME)

    def params(self, values: Mapping[str, object]) -> None:
        """Nothing: the run's folder holds the composed config."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        assert self._spool is not None, "start() comes first"
        self._spool.write(Entry(step=step, time_ms=time.time_ns() // 1_000_000, metrics=values))

    def artifact(self, path: Path, *, folder: str = "") -> None:
        """Nothing: the file is in the run's folder already."""

    def end(self, state: RunState, *, reason: str = "") -> None:
        if self._spool is not None:
            self._spool.close()

    def run_id(self, *, timeout_s: float = 30.0) -> str:
        return ""

    def open_command(self) -> str:
        return ""
