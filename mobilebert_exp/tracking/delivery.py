"""Brings what a run tells to its destination: in order, in batches, again and again until it arrives or time is up."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from mobilebert_exp.tracking.messages import (
    Artifact,
    Delivered,
    End,
    Message,
    Metrics,
    Opened,
    Params,
    Report,
    Start,
    Warned,
    weight,
)

LARGEST_BATCH = 1000  # metric values MLflow takes in one call


class RefusedError(Exception):
    """The destination will never take this, however often it is asked."""


class Destination(Protocol):
    """Where the messages of one run go; every call may fail, and is then made again unless it raised RefusedError."""

    def open(self, start: Start) -> Opened:
        """Opens the run, or continues `start.resume_run_id`."""

    def params(self, values: Mapping[str, str]) -> None:
        """Records settings."""

    def metrics(self, batch: Sequence[Metrics]) -> None:
        """Records figures."""

    def artifact(self, path: Path, *, folder: str) -> None:
        """Records a file or a folder."""

    def end(self, end: End) -> None:
        """Closes the run."""


class Delivery:
    """The queue of one run: one thread puts, one thread (`run`) delivers.

    Args:
      report: is told what was opened, delivered, or should be read by a person.
      gather_s: how long figures wait for company, so that a call carries many of them.
      first_delay_s, longest_delay_s: pause before the second try; it doubles from try to try up to the longest.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        report: Callable[[Report], None],
        gather_s: float = 1.0,
        first_delay_s: float = 0.5,
        longest_delay_s: float = 15.0,
    ) -> None:
        self._destination = destination
        self._report = report
        self._gather_s = gather_s
        self._first_delay_s = first_delay_s
        self._longest_delay_s = longest_delay_s
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._deadline = math.inf
        self._given_up = False
        self._warned: set[str] = set()

    def put(self, message: Message) -> None:
        """Queues a message; an End starts the time that is left for everything before it."""
        with self._changed:
            if isinstance(message, End):
                self._deadline = time.monotonic() + message.timeout_s
            self._waiting.append(message)
            self._changed.notify()

    def run(self) -> None:
        """Delivers until an End has been dealt with."""
        while True:
            batch = self._take()
            last = isinstance(batch[0], End)
            # A run that shows as RUNNING for ever is worse than one without its last figures: the end has a try of
            # its own even when time is up.
            if not self._given_up and (last or time.monotonic() < self._deadline):
                self._deliver(batch)
            if last:
                return

    def _take(self) -> list[Message]:
        """The next message; figures together with those that follow them soon."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            batch = [self._waiting.popleft()]
            if not isinstance(batch[0], Metrics):
                return batch
            until = min(time.monotonic() + self._gather_s, self._deadline)
            size = len(batch[0].values)
            while self._changed.wait_for(lambda: self._waiting, timeout=max(0.0, until - time.monotonic())):
                following = self._waiting[0]
                if not isinstance(following, Metrics) or size + len(following.values) > LARGEST_BATCH:
                    break
                size += len(following.values)
                batch.append(self._waiting.popleft())
            return batch

    def _deliver(self, batch: list[Message]) -> None:
        kind = weight(batch[0])[0]
        delay_s = self._first_delay_s
        while True:
            try:
                self._send(batch)
            except RefusedError as refusal:
                self._warn(kind, f"refuses {kind}: {refusal}")
                break
            except Exception as error:  # whatever a network, a database or a disk can raise
                self._warn("outage", f"does not take {kind} ({_cause(error)})")
                if not self._pause(delay_s):
                    break
                delay_s = min(2 * delay_s, self._longest_delay_s)
            else:
                self._report(Delivered(kind=kind, count=sum(weight(message)[1] for message in batch)))
                return
        if isinstance(batch[0], Start):
            self._given_up = True
            self._report(Opened(run_id="", experiment_id=""))

    def _send(self, batch: list[Message]) -> None:
        match batch[0]:
            case Start() as start:
                self._report(self._destination.open(start))
            case Params(values=values):
                self._destination.params(values)
            case Metrics():
                self._destination.metrics(cast("list[Metrics]", batch))
            case Artifact(path=path, folder=folder):
                self._destination.artifact(Path(path), folder=folder)
            case End() as end:
                self._destination.end(end)

    def _pause(self, delay_s: float) -> bool:
        """Waits before the next try; cut short when the run ends; false when time is up."""
        with self._changed:
            if math.isinf(self._deadline):
                self._changed.wait_for(lambda: not math.isinf(self._deadline), timeout=delay_s)
            else:
                self._changed.wait(timeout=max(0.0, min(delay_s, self._deadline - time.monotonic())))
            return time.monotonic() < self._deadline

    def _warn(self, topic: str, text: str) -> None:
        """One line a topic and run."""
        if topic not in self._warned:
            self._warned.add(topic)
            self._report(Warned(text=text))


def _cause(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
