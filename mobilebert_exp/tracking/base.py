"""What an experiment tells its tracker (five calls), and what it may ask of it (two).

A tracker never stops training and never makes it wait: every call returns at once, a server that is down costs a
warning, and what it missed stays in the run's folder. Only `run_id` and `end` wait, and both for a bounded time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class RunState(enum.Enum):
    """The one true state of a run."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    PREEMPTED = "PREEMPTED"


@dataclass(kw_only=True, frozen=True, slots=True)
class RunInfo:
    """What is known of a run when it starts.

    Attributes:
      experiment: the experiment it belongs to, one a task.
      name: what people call the run.
      run_dir: absolute folder of the run, where the local spool and `result.json` live.
      parent_run_id: the sweep's run, or "" for a run on its own.
      tags: seed, code version, dataset digests, package versions: anything short that identifies the run.
      resume_run_id: the tracker's id of the run that this one continues, or "" for a new run.
    """

    experiment: str
    name: str
    run_dir: Path
    parent_run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    resume_run_id: str = ""


class Tracker(Protocol):
    """Where a run reports to."""

    def start(self, run: RunInfo) -> None:
        """Opens the run, or continues `run.resume_run_id`, in the background.

        Raises:
          OutputError: `run.run_dir` cannot be written.
        """

    def params(self, values: Mapping[str, object]) -> None:
        """Records the leaves of the resolved config; a value already recorded is never recorded anew."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Records figures of one step; on disk in `<run_dir>/metrics.jsonl` when the call returns."""

    def artifact(self, path: Path, *, folder: str = "") -> None:
        """Records one file, or a folder with its name, under `folder`; it must stay in place until `end`."""

    def end(self, state: RunState, *, reason: str = "") -> None:
        """Closes the run in its true state; `reason` says why it is not FINISHED. A second call does nothing."""

    def run_id(self, *, timeout_s: float = 30.0) -> str:
        """The tracker's id of the run; "" where there is none, or when it is not known within `timeout_s`."""

    def open_command(self) -> str:
        """The shell command that opens this run for a person, or "" where there is nothing to open."""
