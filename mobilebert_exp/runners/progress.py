"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_INTERVAL_S = 10.0
TELLING_STEPS = 5  # so many after the first loop, which traces, tell how long the others will take


class TrainingProgress:
    """Steps done, speed, loss and, once it can be told, time left; a context manager.

    Args:
      total_steps: steps of the whole run.
      done_steps: steps done before it was continued.
    """

    def __init__(self, *, total_steps: int, done_steps: int) -> None:
        self._total = total_steps
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._row = self._bar.add_task(
            "training", total=total_steps, completed=done_steps, figures="compiling", left=""
        )
        self._first_step: int | None = None  # at the end of the first loop
        self._telling_s = 0.0  # spent on the steps since
        self._last_step, self._last_time = done_steps, time.monotonic()
        self._plain_time = -PLAIN_INTERVAL_S

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def resume(self) -> None:
        """Training goes on after something else: that time is no part of the speed."""
        self._last_time = time.monotonic()

    def update(self, step: int, *, loss: float, batch_size: int) -> float:
        """Shows the state after `step` steps of `batch_size` examples; returns the steps per second since last time."""
        now = time.monotonic()
        passed_s = now - self._last_time
        speed = (step - self._last_step) / max(passed_s, 1e-9)
        self._last_step, self._last_time = step, now
        figures = f"loss {loss:.4f}"
        if self._first_step is None:
            self._first_step = step
        else:
            self._telling_s += passed_s
            figures += f"  {speed:.2f} steps/s  {speed * batch_size:.0f} examples/s"
        left = self._left(step)
        self._bar.update(self._row, completed=step, figures=figures, left=left)
        if not self._console.is_terminal and (now - self._plain_time >= PLAIN_INTERVAL_S or step == self._total):
            self._plain_time = now
            print("  ".join(filter(None, (f"step {step}/{self._total}", figures, left))), file=sys.stderr, flush=True)
        return speed

    def _left(self, step: int) -> str:
        """The time for the steps to come, from that of all steps since the first loop; "" while they are few."""
        told = step - (self._first_step or 0)
        if told < TELLING_STEPS or step >= self._total:
            return ""
        return f"{_duration((self._total - step) * self._telling_s / told)} left"


def _duration(seconds: float) -> str:
    """As people say it: 42 s, 12 min, 3 h 05 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
