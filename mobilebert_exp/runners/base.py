"""What a runner is given and what it gives back.

A runner is a module `runners/<mode>.py` with `run(job) -> Outcome`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from mobilebert_exp.config import ExperimentConfig
from mobilebert_exp.errors import RunStopped, UserError
from mobilebert_exp.tasks.base import Task
from mobilebert_exp.tracking.base import Tracker


def quiet_libraries() -> None:
    """Keeps to warnings what tells of each step's arrays, and of a SavedModel's files under the names of a while."""
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


class StopRequest:
    """Hears SIGTERM and Ctrl-C. A signal is remembered, for the loop to save and leave, or ends `at_once`.

    A second one ends the run wherever it is.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._is_at_once = False

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handles the signals inside the block and restores the handlers after it."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self._arrived) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        is_second, self.signal_number = bool(self.signal_number), self.signal_number or number
        if is_second or self._is_at_once:
            raise RunStopped(number)
        with contextlib.suppress(OSError):  # not print(), which may be at work on the same stream
            os.write(2, b"\nstopping: saves first, after the steps under way; once more ends at once\n")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside the block a signal raises `RunStopped` where it arrives; so does, here, one that came before."""
        with self._set(is_at_once=True):
            self.check()
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block, which looks for itself, a signal is remembered."""
        with self._set(is_at_once=False):
            yield

    @contextmanager
    def _set(self, *, is_at_once: bool) -> Iterator[None]:
        before, self._is_at_once = self._is_at_once, is_at_once
        try:
            yield
        finally:
            self._is_at_once = before

    def check(self) -> None:
        """Raises `RunStopped` if a signal has arrived."""
        if self.signal_number:
            raise RunStopped(self.signal_number)


@dataclass(kw_only=True, frozen=True, slots=True)
class Job:
    """One experiment, assembled.

    Attributes:
      config: validated; the model's vocabulary size is a number.
      task: built from `config.task`.
      run_dir: absolute; exists.
      tracker: started.
      stop: ends the runner where it is; what must first be saved is `held`, and asks between loops.
      saved: called whenever a checkpoint is whole on disk.
      source_run_id: what the tracker calls the run whose weights are read; "" where that is not known.
    """

    config: ExperimentConfig
    task: Task
    run_dir: Path
    tracker: Tracker
    stop: StopRequest
    saved: Callable[[], None] = lambda: None
    source_run_id: str = ""


@dataclass(kw_only=True, frozen=True, slots=True)
class Outcome:
    """What a runner learnt: figures, seconds by part, and where its files lie; `text` is for the person."""

    metrics: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    text: str = ""


class ShortfallError(UserError):
    """All was done, and what came of it is worse than was asked for; the run ends FAILED, with this outcome."""

    def __init__(self, text: str, *, outcome: Outcome) -> None:
        super().__init__(text)
        self.outcome = outcome


class Runner(Protocol):
    """The interface of a runner module."""

    def run(self, job: Job) -> Outcome:
        """Does what the mode says."""
