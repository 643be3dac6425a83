"""What a person sees while features are made: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_INTERVAL_S = 10.0
_PATIENCE_S = 0.5  # what is done sooner shows no bar, and does not wait for the library that draws one


class BuildProgress:
    """Examples made and their speed; a context manager. What takes less than ten seconds is told on a terminal only.

    Args:
      name: what is being made, e.g. "train features".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Progress | None = None
        self._share = 0.0
        self._start_time = self._plain_time = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def read(self, share: float) -> None:
        """Notes which share of the data has been read, 0 to 1."""
        self._share = share

    def made(self, count: int) -> None:
        """Shows that the features of `count` examples are made."""
        now = time.monotonic()
        seconds = now - self._start_time
        figures = f"{count:,} examples  {count / max(seconds, 1e-9):,.0f} examples/s"
        if sys.stderr.isatty():
            if self._bar is None and seconds >= _PATIENCE_S:
                self._bar = self._begun_bar()
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._share, figures=figures)
        elif now - self._plain_time >= PLAIN_INTERVAL_S:
            self._plain_time = now
            print(f"{self._name}: {self._share:.0%} read, {figures}", file=sys.stderr, flush=True)

    def _begun_bar(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (TextColumn(self._name), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[figures]}"))
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        bar.add_task(self._name, total=1.0, figures="")
        bar.start()
        return bar
