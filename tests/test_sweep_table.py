"""A sweep's table: every job in it, figures unchanged, statistics over the seeds that finished."""

from __future__ import annotations

import io
import math
import statistics
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilebert_exp.sweeping.table import metric_names, seed_groups, table, task_scores, varying


def job(*overrides: str, state: str = "FINISHED", **metrics: float) -> dict[str, Any]:
    return {
        "run_id": "r" + "-".join(overrides),
        "state": state,
        "reason": "" if state == "FINISHED" else "it broke",
        "overrides": list(overrides),
        "metrics": metrics,
        "main_metric": "f1",
        "timings": {"total_s": 12.5},
    }


def test_one_row_a_job_with_what_varies() -> None:
    frame = table(
        [
            job("task=squad_v1", "seed=0", "+trainer.max_steps=5", exact_match=1.0, f1=70.0),
            job("task=squad_v1", "seed=1", f1=80.0),
            {"overrides": ["task=squad_v1", "seed=2", "~tracking"], "state": "FAILED", "reason": "out of memory"},
        ]
    )
    assert list(frame) == [
        *("job", "seed", "trainer.max_steps", "~tracking", "state"),
        *("f1", "exact_match", "seconds", "run_id", "reason"),
    ]
    assert list(frame["seed"]) == ["0", "1", "2"]
    assert list(frame["trainer.max_steps"]) == ["5", "", ""]
    assert list(frame["state"]) == ["FINISHED", "FINISHED", "FAILED"]
    assert list(frame["reason"]) == ["", "", "out of memory"]
    assert frame["f1"].tolist()[:2] == [70.0, 80.0]
    assert math.isnan(frame["f1"][2]) and math.isnan(frame["exact_match"][1]) and math.isnan(frame["seconds"][2])


def test_the_best_of_each_task_and_their_mean() -> None:
    results = [
        job("task=a", "lr=1", quiz_score=50.0, f1=1.0) | {"task": "a"},
        job("task=a", "lr=2", quiz_score=70.0, f1=2.0) | {"task": "a"},
        job("task=a", "lr=3", state="FAILED", quiz_score=99.0) | {"task": "a"},
        job("task=b", "lr=1", quiz_score=20.0, other_score=1.0) | {"task": "b"},
        job("task=c", "lr=1", f1=3.0) | {"task": "c"},
    ]
    frame = task_scores(results)
    assert frame[["score", "task", "value", "job"]].values.tolist() == [
        ["quiz_score", "a", 70.0, 1],
        ["quiz_score", "b", 20.0, 3],
        ["quiz_score", "mean of 2", 45.0, ""],
    ]
    assert task_scores(results[:3]).empty and task_scores([]).empty


def test_overrides_stand_as_they_are() -> None:
    frame = table([job("lr=1e-4", f1=1.0), job("lr=0.00010", f1=1.0)])
    assert list(frame["lr"]) == ["1e-4", "0.00010"]


def test_names_that_meet_stay_apart() -> None:
    frame = table([job("seed=0", "state=a", seed=1.0, job=2.0), job("seed=1", "state=b", seed=3.0)])
    assert list(frame["seed"]) == ["0", "1"]
    assert list(frame["metric.seed"]) == [1.0, 3.0]
    assert list(frame["override.state"]) == ["a", "b"]
    assert list(frame["state"]) == ["FINISHED", "FINISHED"]
    assert list(frame["job"]) == [0, 1]
    assert frame["metric.job"][0] == 2.0


@pytest.mark.parametrize("results", [[], [job("seed=1", f1=1.0)]])
def test_nothing_and_a_single_job(results: list[dict[str, Any]]) -> None:
    assert len(table(results)) == len(results)
    assert varying(results) == []
    assert seed_groups(results).empty


def test_figures_that_are_not_finite_stay() -> None:
    frame = table([job("seed=0", f1=math.inf), job("seed=1", f1=math.nan), job("seed=2", f1=-math.inf)])
    assert frame["f1"][0] == math.inf and math.isnan(frame["f1"][1]) and frame["f1"][2] == -math.inf


@given(
    figures=st.dictionaries(
        st.tuples(st.sampled_from(["1e-4", "3e-4"]), st.integers(0, 9)),
        st.tuples(st.floats(0, 100), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_groups_hold_mean_and_deviation_of_the_finished_jobs(
    figures: dict[tuple[str, int], tuple[float, bool]],
) -> None:
    results = [
        job(f"lr={lr}", f"seed={seed}", state="FINISHED" if ok else "FAILED", f1=f1)
        for (lr, seed), (f1, ok) in figures.items()
    ]
    groups = seed_groups(results)
    if len({seed for _, seed in figures}) == 1:
        assert groups.empty
        return
    assert sum(groups["jobs"]) == len(results)
    by_lr = len({lr for lr, _ in figures}) > 1
    assert ("lr" in groups) is by_lr
    for row in groups.to_dict("records"):
        kept = [f1 for (lr, _), (f1, ok) in figures.items() if ok and (not by_lr or lr == row["lr"])]
        assert row["finished"] == len(kept)
        mean, deviation = row["f1_mean"], row["f1_std"]
        assert math.isnan(mean) if not kept else mean == pytest.approx(statistics.fmean(kept), abs=1e-9)
        assert math.isnan(deviation) if len(kept) < 2 else deviation == pytest.approx(statistics.stdev(kept), abs=1e-9)


def test_the_csv_holds_the_figures_exactly() -> None:
    results = [job("seed=0", f1=100 / 3), job("seed=1", f1=0.1 + 0.2)]
    frame = table(results)
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert again["f1"].tolist() == frame["f1"].tolist()


def test_main_metrics_come_first() -> None:
    results = [job("seed=0", a=1.0, f1=2.0), {**job("seed=1", b=1.0, exact=2.0), "main_metric": "exact"}]
    assert metric_names(results) == ["f1", "exact", "a", "b"]
