"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL_S = 10.0


class TrainingProgress:
    """Steps done, speed, loss and time left; a context manager.

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
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._row = self._bar.add_task("training", total=total_steps, completed=done_steps, figures="compiling")
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
        speed = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        figures = f"loss {loss:.4f}  {speed:.2f} steps/s  {speed * batch_size:.0f} examples/s"
        self._bar.update(self._row, completed=step, figures=figures)
        if not self._console.is_terminal and (now - self._plain_time >= PLAIN_INTERVAL_S or step == self._total):
            self._plain_time = now
            left = (self._total - step) / max(speed, 1e-9)
            print(f"step {step}/{self._total}  {figures}  {left:.0f} s left", file=sys.stderr, flush=True)
        return speed
