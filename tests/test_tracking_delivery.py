"""Delivery: in order, once, however often the destination fails; and never longer than the run allows."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_exp.tracking.delivery import LARGEST_BATCH, Delivery, RefusedError
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
    decode,
    encode,
    weight,
)

START = Start(
    uri="u", artifact_root="", experiment="e", name="n", parent_run_id="", tags={}, resume_run_id="", time_ms=0
)


def end(*, timeout_s: float = 10.0) -> End:
    return End(state="FINISHED", reason="", time_ms=0, timeout_s=timeout_s)


@dataclass
class Scripted:
    """A destination that fails `failures` times before each success, refuses some kinds, and keeps what it took."""

    failures: Sequence[int] = ()
    refused: frozenset[type] = frozenset()
    down: bool = False
    taken: list[Message] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = iter(self.failures)
        self._now = next(self._left, 0)

    def _take(self, messages: Sequence[Message]) -> None:
        kind = type(messages[0])
        self.tries[kind.__name__] += 1
        if kind in self.refused:
            raise RefusedError("no")
        if self.down or self._now > 0:
            self._now -= 1
            raise ConnectionError("nobody there\nsecond line")
        self._now = next(self._left, 0)
        self.taken.extend(messages)

    def open(self, start: Start) -> Opened:
        self._take([start])
        return Opened(run_id="r", experiment_id="7")

    def params(self, values: Mapping[str, str]) -> None:
        self._take([Params(values=values)])

    def metrics(self, batch: Sequence[Metrics]) -> None:
        self._take(batch)
        self.batches.append(sum(len(message.values) for message in batch))

    def artifact(self, path: Path, *, folder: str) -> None:
        self._take([Artifact(path=str(path), folder=folder)])

    def end(self, end: End) -> None:
        self._take([end])


def deliver(destination: Scripted, messages: Sequence[Message], *, gather_s: float = 0.0) -> list[Report]:
    reports: list[Report] = []
    delivery = Delivery(
        destination, report=reports.append, gather_s=gather_s, first_delay_s=0.001, longest_delay_s=0.002
    )
    for message in messages:
        delivery.put(message)
    delivery.run()
    return reports


def delivered(reports: Sequence[Report]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for report in reports:
        if isinstance(report, Delivered):
            counts[report.kind] += report.count
    return counts


def weights(messages: Sequence[Message]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for message in messages:
        kind, count = weight(message)
        counts[kind] += count
    return counts


NAMES = st.text(max_size=5)
MIDDLE = st.lists(
    st.one_of(
        st.builds(Params, values=st.dictionaries(NAMES, NAMES, max_size=3)),
        st.builds(
            Metrics,
            values=st.dictionaries(NAMES, st.floats(allow_nan=False), max_size=3),
            step=st.integers(0, 99),
            time_ms=st.integers(0, 99),
        ),
        st.builds(Artifact, path=st.just("/a/b"), folder=NAMES),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(middle=MIDDLE, failures=st.lists(st.integers(0, 3), max_size=15))
def test_everything_arrives_once_and_in_order_whatever_fails(middle: list[Message], failures: list[int]) -> None:
    messages = [START, *middle, end()]
    destination = Scripted(failures=failures)
    reports = deliver(destination, messages)
    assert destination.taken == messages
    assert delivered(reports) == weights(messages)
    assert sum(isinstance(report, Opened) for report in reports) == 1
    assert sum(isinstance(report, Warned) for report in reports) <= 1


@settings(deadline=None, max_examples=60)
@given(message=st.one_of(MIDDLE.filter(bool).map(lambda some: some[0]), st.just(START), st.just(end())))
def test_messages_survive_the_pipe(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line) == message


def test_figures_travel_together_but_never_more_than_mlflow_takes() -> None:
    figures = [Metrics(values={"a": 1.0, "b": 2.0, "c": 3.0}, step=step, time_ms=step) for step in range(1000)]
    destination = Scripted()
    deliver(destination, [START, *figures, end()], gather_s=1.0)
    assert sum(destination.batches) == 3000
    assert max(destination.batches) <= LARGEST_BATCH
    assert len(destination.batches) == 4  # 999 values a call, 333 whole steps


def test_figures_wait_for_company_no_longer_than_told() -> None:
    destination = Scripted()
    delivery = Delivery(destination, report=lambda report: None, gather_s=0.05)
    thread = threading.Thread(target=delivery.run, daemon=True)
    thread.start()
    delivery.put(START)
    delivery.put(Metrics(values={"a": 1.0}, step=1, time_ms=1))
    deadline = time.monotonic() + 5
    while not destination.batches and time.monotonic() < deadline:
        time.sleep(0.01)
    assert destination.batches == [1]
    delivery.put(end())
    thread.join(5)
    assert not thread.is_alive()


def test_what_is_refused_is_dropped_with_one_warning_and_the_rest_arrives() -> None:
    middle: list[Message] = [
        Params(values={"a": "1"}),
        Params(values={"b": "2"}),
        Metrics(values={"x": 1.0}, step=1, time_ms=1),
    ]
    destination = Scripted(refused=frozenset({Params}))
    reports = deliver(destination, [START, *middle, end()])
    assert destination.tries == {"Start": 1, "Params": 2, "Metrics": 1, "End": 1}
    assert delivered(reports) == {"the run itself": 1, "metric values": 1, "the final state": 1}
    assert [report.text for report in reports if isinstance(report, Warned)] == ["refuses params: no"]


def test_a_run_that_is_refused_is_not_asked_for_again() -> None:
    destination = Scripted(refused=frozenset({Start}))
    reports = deliver(destination, [START, Params(values={"a": "1"}), end()])
    assert destination.tries == {"Start": 1}
    assert reports == [Warned(text="refuses the run itself: no"), Opened(run_id="", experiment_id="")]


@pytest.mark.parametrize("opened", [True, False])
def test_when_time_is_up_it_gives_up_and_has_said_so_once(opened: bool) -> None:
    destination = Scripted()
    reports: list[Report] = []
    delivery = Delivery(destination, report=reports.append, gather_s=0.0, first_delay_s=0.01, longest_delay_s=60.0)
    thread = threading.Thread(target=delivery.run, daemon=True)
    destination.down = not opened
    delivery.put(START)
    thread.start()
    while not destination.tries:
        time.sleep(0.001)
    time.sleep(0.05)
    destination.down = True
    for step in range(3):
        delivery.put(Params(values={"a": str(step)}))
    began = time.monotonic()
    delivery.put(end(timeout_s=0.2))
    thread.join(5)
    assert not thread.is_alive()
    assert 0.15 < time.monotonic() - began < 2
    warnings = [report.text for report in reports if isinstance(report, Warned)]
    kind = "params" if opened else "the run itself"
    assert warnings == [f"does not take {kind} (ConnectionError: nobody there)"]
    assert [report.run_id for report in reports if isinstance(report, Opened)] == (["r"] if opened else [""])
    assert (destination.tries["End"] >= 1) is opened  # the true end is tried even then


def test_the_end_of_a_run_cuts_a_long_pause_short() -> None:
    destination = Scripted(failures=[0, 1])
    delivery = Delivery(destination, report=lambda report: None, first_delay_s=3600.0, longest_delay_s=3600.0)
    thread = threading.Thread(target=delivery.run, daemon=True)
    thread.start()
    delivery.put(START)
    delivery.put(Params(values={"a": "1"}))
    while destination.tries["Params"] < 1:
        time.sleep(0.001)
    delivery.put(end())
    thread.join(5)
    assert not thread.is_alive()
    assert destination.tries == {"Start": 1, "Params": 2, "End": 1}
