"""Training in several phases: one global step, optimizers that go on or begin anew, and exact resumption in each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import phased
import pytest
import replicas
import tensorflow as tf
import toy
from fakes import FakeTracker
from test_training_loop import DROPOUT, stopped

from mobilebert_exp.config import ExperimentConfig
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.modeling.checkpoints import native
from mobilebert_exp.modeling.optimizers import learning_rate
from mobilebert_exp.runners import plan
from mobilebert_exp.runners.base import Job, StopRequest
from mobilebert_exp.runners.schedule import planned
from mobilebert_exp.tracking.nothing import NoTracker

TOTAL = sum(phased.STEPS)


def experiment(**changes: Any) -> ExperimentConfig:
    return toy.experiment(trainer__max_steps=None, hardware__steps_per_loop=2, **DROPOUT, **changes)


def task(config: ExperimentConfig, folder: Path) -> phased.PhasedTask:
    return phased.PhasedTask(config=config.task, folder=folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeTracker]:
    """All phases in one go, and what the tracker heard."""
    folder, config, tracker = tmp_path_factory.mktemp("phases"), experiment(), toy.started(FakeTracker())
    toy.run(config, task(config, folder), folder / "whole", tracker=tracker)
    return folder / "whole", tracker


def test_a_schedule_spans_the_rounds_of_its_optimizer(whole: tuple[Path, FakeTracker]) -> None:
    """Two rounds are one schedule of seven steps; the third phase counts its own five from nought."""
    rates = dict(whole[1].series("train/learning_rate"))
    config = experiment().task.optimizer
    first = [float(learning_rate(config, tf.constant(n), total_steps=7, warmup_steps=0)) for n in range(7)]
    last = [float(learning_rate(phased.LAMB, tf.constant(n), total_steps=5, warmup_steps=0)) for n in range(5)]
    # a loop's figures are means; a phase begins with a loop of one step
    expected = {1: first[0], 3: np.mean(first[1:3]), 4: first[3], 6: np.mean(first[4:6]), 7: first[6]}
    expected |= {8: last[0], 10: np.mean(last[1:3]), 12: np.mean(last[3:5])}
    assert rates == pytest.approx(expected, rel=1e-5)


def test_figures_of_the_objective_reach_the_tracker(whole: tuple[Path, FakeTracker]) -> None:
    tracker = whole[1]
    steps = [step for step, _ in tracker.series("train/loss")]
    assert [step for step, _ in tracker.series("train/unweighted")] == steps
    assert all(
        value > 0 and float(value).is_integer() for step, value in tracker.series("train/weight") if step in (1, 4)
    )
    resting, others = (dict(tracker.series(f"train/learning_rate/{name}")) for name in ("resting", "others"))
    assert list(resting) == list(others) == [8, 10, 12], "named by the third phase alone"
    assert resting[8] == 0 < resting[10] < others[10]
    assert resting[12] == others[12]


def test_batches_of_each_phase_are_its_own(whole: tuple[Path, FakeTracker]) -> None:
    """The sum of the weights tells which rows a batch had: at most 2 of each row."""
    weights = dict(whole[1].series("train/weight"))
    assert weights[1] <= 16 and weights[4] <= 8 and weights[8] <= 16


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 5, 7, 10])
def test_a_phase_goes_on_where_it_stopped(whole: tuple[Path, FakeTracker], after: int, tmp_path: Path) -> None:
    """Inside each phase and at each end of one: weights, moments and step as if nothing had happened."""
    config = experiment()
    stopped(config, task(config, tmp_path), tmp_path / "run", after=after)
    saved = tf.train.latest_checkpoint(str(tmp_path / "run" / native.FOLDER))
    step = int(saved.rpartition("-")[2])
    assert after <= step <= after + 1
    toy.run(config, task(config, tmp_path), tmp_path / "run")
    expected, found = (
        toy.weights(str(place / native.FOLDER / f"ckpt-{TOTAL}")) for place in (whole[0], tmp_path / "run")
    )
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_each_phase_ends_with_a_checkpoint(tmp_path: Path) -> None:
    config = experiment(trainer__checkpoint_every_steps=None, trainer__keep_checkpoints=9)
    toy.run(config, task(config, tmp_path), tmp_path / "run")
    names = {path.stem for path in (tmp_path / "run" / native.FOLDER).glob("*.index")}
    assert names == {"ckpt-3", "ckpt-7", "ckpt-12"}


def test_a_phase_without_a_step_leaves_its_optimizer_to_the_next(tmp_path: Path) -> None:
    config = experiment()
    found = task(config, tmp_path)
    found.steps = (0, 4, 0)
    (only,) = planned(config, found)
    assert (only.phase.name, only.optimizer, only.first_step, only.last_step) == (
        *("second round", config.task.optimizer),
        *(0, 4),
    )
    found.steps = (0, 0, 0)
    with pytest.raises(ConfigError, match="takes no step in any phase"):
        planned(config, found)


@pytest.mark.parametrize(
    ("cap", "steps", "spans"),
    [(12, (3, 4, 5), (7, 7, 5)), (9, (3, 4, 2), (7, 7, 2)), (5, (3, 2), (5, 5)), (1, (1,), (1,))],
)
def test_a_cap_leaves_out_what_comes_last(cap: int, steps: tuple[int, ...], spans: tuple[int, ...]) -> None:
    config = experiment()
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, max_steps=cap))
    found = planned(config, task(config, Path()))
    assert tuple(each.phase.steps for each in found) == steps
    assert tuple(each.optimizer_steps for each in found) == spans


def test_a_warm_up_longer_than_its_optimizers_phases(tmp_path: Path) -> None:
    config = experiment(task__optimizer__warmup_steps=8)
    with pytest.raises(ConfigError, match=r"warmup_steps=8 exceeds the 7 steps"):
        planned(config, task(config, tmp_path))


def test_the_plan_shows_each_phase(tmp_path: Path) -> None:
    config = experiment()
    job = Job(config=config, task=task(config, tmp_path), run_dir=tmp_path, tracker=NoTracker(), stop=StopRequest())
    lines = [" ".join(line.split()) for line in plan.run(job).text.partition("\nplan\n")[2].splitlines()]
    for line in (
        "steps 12 in 3 phases",
        f"tokens {12 * (3 * 8 + 4 * 4 + 5 * 8)}",
        "first round steps 1 to 3",
        "second round steps 4 to 7",
        "optimizer that of the phase before",
        "distillation steps 8 to 12",
        "optimizer lamb",
        "batch 4 x 12 tokens",
    ):
        assert line in lines, line


@pytest.mark.slow
@pytest.mark.parametrize("parts", [4])
def test_a_weighted_mean_does_not_depend_on_micro_batches(parts: int, tmp_path: Path) -> None:
    config = toy.experiment()
    whole = toy.steps(config, task(config, tmp_path), calls=[3])
    cut = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, gradient_accumulation_steps=parts))
    found = toy.steps(cut, task(cut, tmp_path), calls=[3])
    np.testing.assert_allclose(found.losses, whole.losses, atol=1e-5)
    np.testing.assert_allclose(found.gradient_norms, whole.gradient_norms, atol=1e-4)
    for name, value in whole.weights.items():
        np.testing.assert_allclose(found.weights[name], value, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["weighted-2", "weighted-accumulated-xla-2"])
def test_a_weighted_mean_does_not_depend_on_replicas(run: str) -> None:
    measured = replicas.measured()
    for name in [name.partition(":")[2] for name in measured if name.startswith("weighted-1:")]:
        tolerance = 1e-5 if name == "losses" else 1e-4
        np.testing.assert_allclose(
            measured[f"{run}:{name}"], measured[f"weighted-1:{name}"], rtol=0, atol=tolerance, err_msg=name
        )
