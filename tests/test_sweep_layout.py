"""What a person sees of a sweep: never wider than the terminal, the settings always, the rest where there is room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_exp import layout
from mobilebert_exp.layout import Column
from mobilebert_exp.sweeping import table
from mobilebert_exp.sweeping.report import shown

RATES, BATCHES = ("1e-3", "3e-4"), ("16", "32")
METRICS = {"f1": 80.123, "exact_match": 70.456, "lookup_f1": 91.5, "best_checkpoint_f1": 80.2, "train_loss": 0.12345}


def _results(*, failed: int = -1) -> list[dict[str, object]]:
    pairs = [(rate, batch, seed) for rate in RATES for batch in BATCHES for seed in "01"]
    return [
        {
            "job": str(number),
            "overrides": [f"task.optimizer.learning_rate={rate}", f"task.global_batch_size={batch}", f"seed={seed}"],
            "state": "FAILED" if number == failed else "FINISHED",
            "reason": "DataError: it broke, and for a reason that takes a long line to tell"
            if number == failed
            else "",
            "metrics": {} if number == failed else METRICS,
            "main_metric": "f1",
            "run_id": "0123456789abcdef" * 2,
            "timings": {"total_s": 146.2},
        }
        for number, (rate, batch, seed) in enumerate(pairs)
    ]


def _shown(results: list[dict[str, object]], width: int) -> list[str]:
    frames = (table.table(results), table.seed_groups(results), table.task_scores(results))
    return shown(*frames, width=width).splitlines()


def test_eighty_columns_hold_two_settings_and_three_metrics_in_a_line_a_job() -> None:
    lines = _shown([{**each, "overrides": each["overrides"][:2]} for each in _results()], 80)  # type: ignore[index]
    assert lines == [
        "",
        "learning_rate is task.optimizer.learning_rate",
        "global_batch_size is task.global_batch_size",
        "",
        "Sweep: 8 jobs, all FINISHED",
        "                global_                                best_",
        "     learning_  batch_          exact_  lookup_  checkpoint_  train_",
        "job  rate       size        f1   match       f1           f1    loss  seconds",
        "─" * 77,
        *(
            f"{number}    {rate}       {batch}       80.12   70.46    91.50        80.20  0.1235    146.2"
            for number, (rate, batch) in enumerate((r, b) for r in RATES for b in BATCHES for _ in "01")
        ),
        "no room for run_id",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("failed", [-1, 3])
def test_nothing_is_wider_than_the_terminal(width: int, failed: int) -> None:
    lines = _shown(_results(failed=failed), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for setting in (*RATES, *BATCHES):
        assert text.count(setting) >= 6, "in each job's row, and in each group's"
    assert ("job 3 FAILED: DataError" in " ".join(text.split())) is (failed >= 0)
    assert ("FINISHED  8" in text) is (failed >= 0 and width > 40), "the state, where it is not the same everywhere"
    assert "80.12 ± 0.00" in text, "over the seeds"


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([91.5, 80.123, 7.0], ["91.50", "80.12", "7.00"]),
        ([100.0, 97.8125], ["100.00", "97.81"]),
        ([4.7412, 5.0], ["4.741", "5.000"]),
        ([0.5, 0.01234], ["0.5000", "0.0123"]),
        ([500.0, 1200.0], ["500", "1200"]),
        ([146.21, 80.0], ["146.2", "80.0"]),
        ([1234.56, 80.4], ["1235", "80"]),
        ([5e-5, 2.5e-6], ["5.000e-05", "2.500e-06"]),
        ([-0.25, float("nan"), float("inf")], ["-0.2500", "", "inf"]),
        ([0.0, 0.0], ["0", "0"]),
        ([0.0, 0.5], ["0.0000", "0.5000"]),
        ([0.3512, 0.3498, 250000.0], ["0.3512", "0.3498", "2.5e+05"]),
        ([1e30], ["1e+30"]),
    ],
)
def test_a_column_has_one_number_of_decimals(values: list[float], cells: list[str]) -> None:
    own = {"overrides": [], "run_id": ""}
    metrics = [{"f1": value, "other": 1.5} for value in values]
    results = [{**each, **own, "metrics": found} for each, found in zip(_results(), metrics, strict=False)]
    rows = _shown(results, 80)[-len(values) :]
    assert [row.split()[1] for row in rows] == [cell or "1.500" for cell in cells], "the next one, where there is none"


def test_a_terminal_too_narrow_for_a_table_has_blocks() -> None:
    lines = _shown(_results(), 24)
    assert max(map(len, lines)) <= 24
    assert sum("job=" in line for line in lines) == 8
    assert sum("f1=80.12" in line for line in lines) >= 8


def test_the_run_id_goes_first_and_further_metrics_before_the_seconds() -> None:
    gone = [next(line for line in _shown(_results(failed=3), width) if "no room" in line) for width in (80, 100)]
    assert gone == ["no room for best_checkpoint_f1, train_loss, run_id", "no room for run_id"]
    assert not any("no room" in line for line in _shown(_results(failed=3), 140))


def test_short_names_are_told_apart() -> None:
    keys = ["task.a.rate", "task.b.rate", "seed", "x.seed", "a.b", "model.width"]
    assert list(layout.short_names(keys).values()) == ["a.rate", "b.rate", "seed", "x.seed", "b", "width"]


@given(keys=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join), min_size=1, unique=True))
def test_short_names_are_as_many_as_the_keys(keys: list[str]) -> None:
    names = layout.short_names(keys)
    assert len(set(names.values())) == len(keys)
    assert all(f".{key}".endswith(f".{name}") for key, name in names.items())


@settings(max_examples=25)
@given(
    data=st.lists(
        st.tuples(st.from_regex(r"[a-z_.]{1,12}", fullmatch=True), st.integers(0, 3), st.integers(0, 50)),
        min_size=1,
        max_size=8,
    ),
    width=st.integers(20, 120),
)
def test_what_fits_is_kept_in_order_and_drawn_within_the_width(data: list[tuple[str, int, int]], width: int) -> None:
    columns = [Column(name=name, cells=["x" * length, "y"], rank=rank) for name, rank, length in data]
    kept = layout.fitted(columns, width=width)
    places = [place for place, column in enumerate(columns) if any(column is each for each in kept)]
    assert [columns[place] for place in places] == kept
    if not kept:
        return
    assert all(place in places for place, column in enumerate(columns) if not column.rank)
    lines = layout.drawn(columns, title="t", width=width).splitlines()
    assert max(map(len, lines)) <= width
    whole = "".join(line.strip() for line in lines)
    for column in kept:
        assert whole.count("x") >= len(column.cells[0]), "a long value goes on in the next line"
