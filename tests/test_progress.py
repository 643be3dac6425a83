"""What a person sees of a training: no guess at the time left until some steps have shown how long one takes."""

from __future__ import annotations

import re

import pytest

from mobilebert_exp.runners import progress
from mobilebert_exp.runners.progress import TrainingProgress


class Clock:
    """Stands where time is asked for."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    return found


def test_the_time_left_is_told_from_steps_after_the_one_that_traces(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = TrainingProgress(total_steps=1000, done_steps=0)
    for step, seconds in ((1, 60.0), (3, 1.0), (13, 5.0), (23, 5.0)):
        clock.now += seconds
        shown.update(step, loss=2.0, batch_size=8)
        if step == 13:
            clock.now += 500.0  # an evaluation
            shown.resume()
    clock.now += 488.5
    shown.update(1000, loss=1.0, batch_size=8)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step 1/1000  loss 2.0000",
        "step 3/1000  loss 2.0000  2.00 steps/s  16 examples/s",
        "step 13/1000  loss 2.0000  2.00 steps/s  16 examples/s  8 min left",
        "step 23/1000  loss 2.0000  2.00 steps/s  16 examples/s  8 min left",
        "step 1000/1000  loss 1.0000  2.00 steps/s  16 examples/s",
    ]


def test_a_continued_run_waits_for_its_own_first_loop(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = TrainingProgress(total_steps=100, done_steps=80)
    for step, seconds in ((81, 90.0), (91, 20.0)):
        clock.now += seconds
        assert shown.update(step, loss=1.0, batch_size=8) == (step - 80 if step == 81 else 10) / seconds
    first, second = capsys.readouterr().err.splitlines()
    assert "left" not in first
    assert second.endswith("  18 s left")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (3569, "59 min"), (3570, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, told: str, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = TrainingProgress(total_steps=20, done_steps=0)
    shown.update(1, loss=1.0, batch_size=8)
    clock.now += seconds
    shown.update(11, loss=1.0, batch_size=8)
    found = re.search(r"  (\d[\w ]*) left$", capsys.readouterr().err, flags=re.MULTILINE)
    assert found is not None
    assert found[1] == progress._duration(seconds * 9 / 10)
    assert progress._duration(seconds) == told
