"""What a person sees while features are made: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

PLAIN_INTERVAL_S = 10.0


class BuildProgress:
    """Examples made and their speed; a context manager. What takes less than ten seconds is told on a terminal only.

    Args:
      name: what is being made, e.g. "train features".
    """

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._name = name
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(name),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._row = self._bar.add_task(name, total=1.0, figures="")
        self._share = 0.0
        self._start_time = self._plain_time = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def read(self, share: float) -> None:
        """Notes which share of the data has been read, 0 to 1."""
        self._share = share

    def made(self, count: int) -> None:
        """Shows that the features of `count` examples are made."""
        now = time.monotonic()
        figures = f"{count:,} examples  {count / max(now - self._start_time, 1e-9):,.0f} examples/s"
        self._bar.update(self._row, completed=self._share, figures=figures)
        if not self._console.is_terminal and now - self._plain_time >= PLAIN_INTERVAL_S:
            self._plain_time = now
            print(f"{self._name}: {self._share:.0%} read, {figures}", file=sys.stderr, flush=True)
