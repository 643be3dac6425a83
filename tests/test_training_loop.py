"""Training, on a toy task: what it computes must not depend on how it is cut up."""

from __future__ import annotations

import atexit
import dataclasses
import gc
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import toy
from fakes import FakeTracker

from mobilebert_exp import experiment, registry
from mobilebert_exp.config import DType, ExperimentConfig, Resume
from mobilebert_exp.errors import ConfigError, DivergedError, RunStopped
from mobilebert_exp.modeling.checkpoints import native
from mobilebert_exp.modeling.optimizers import AdamW
from mobilebert_exp.runners.base import StopRequest
from mobilebert_exp.runners.loop import TrainingLoop
from mobilebert_exp.runners.schedule import planned
from mobilebert_exp.tasks.base import Evaluation, Split

TOLERANCE = 1e-5
DROPOUT = {"model__hidden_dropout": 0.2, "model__attention_dropout": 0.3}


def check_same(found: toy.Steps, expected: toy.Steps, *, tolerance: float) -> None:
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.gradient_norms, expected.gradient_norms, rtol=0, atol=10 * tolerance)
    np.testing.assert_array_equal(found.learning_rates, expected.learning_rates)
    for name, value in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], value, rtol=0, atol=10 * tolerance, err_msg=name)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> toy.Steps:
    """Ten steps in one piece."""
    config = toy.experiment()
    return toy.steps(config, toy.task(config, tmp_path_factory.mktemp("reference")), calls=[10])


def test_training_moves_every_weight(reference: toy.Steps) -> None:
    start = toy.task(toy.experiment(), Path()).build(toy.model(), seed=5, dtype="float32")
    for variable in start.trainable_variables:
        name = variable.name.split(":")[0]
        moved = np.abs(variable.numpy() - reference.weights[name]).max()
        assert moved > 1e-4 or not name.endswith(("/kernel", "/table", "/gamma")), f"{name} rests"
    assert reference.losses[0] == pytest.approx(math.log(toy.LENGTH), rel=0.5)
    assert len(set(reference.losses.tolist())) == 10


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulating_gradients_changes_nothing(reference: toy.Steps, parts: int, tmp_path: Path) -> None:
    config = toy.experiment(trainer__gradient_accumulation_steps=parts)
    check_same(toy.steps(config, toy.task(config, tmp_path), calls=[10]), reference, tolerance=TOLERANCE)


@pytest.mark.parametrize("calls", [[1] * 10, [3, 3, 3, 1]], ids=["one", "three"])
def test_steps_per_loop_change_nothing(reference: toy.Steps, calls: Sequence[int], tmp_path: Path) -> None:
    config = toy.experiment()
    check_same(toy.steps(config, toy.task(config, tmp_path), calls=calls), reference, tolerance=0.0)


@pytest.mark.slow
def test_dropout_depends_on_seed_and_step_alone(reference: toy.Steps, tmp_path: Path) -> None:
    config = toy.experiment(**DROPOUT)
    once, again = (toy.steps(config, toy.task(config, tmp_path), calls=calls) for calls in ([10], [4, 6]))
    check_same(again, once, tolerance=0.0)
    other = dataclasses.replace(config, seed=6)
    assert np.abs(once.losses - reference.losses).max() > 0.01
    assert np.abs(toy.steps(other, toy.task(other, tmp_path), calls=[10]).losses - once.losses).max() > 0.01


def test_bfloat16_trains_float32_weights(reference: toy.Steps, tmp_path: Path) -> None:
    config = toy.experiment(hardware__dtype=DType.bfloat16)
    found = toy.steps(config, toy.task(config, tmp_path), calls=[10])
    assert {value.dtype for value in found.weights.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found.losses, reference.losses, rtol=0, atol=0.05)
    assert not np.array_equal(found.losses, reference.losses)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_xla_computes_the_same(reference: toy.Steps, parts: int, tmp_path: Path) -> None:
    config = toy.experiment(hardware__xla=True, trainer__gradient_accumulation_steps=parts)
    check_same(toy.steps(config, toy.task(config, tmp_path), calls=[10]), reference, tolerance=TOLERANCE)


def test_xla_runs_with_dropout(tmp_path: Path) -> None:
    config = toy.experiment(hardware__xla=True, **DROPOUT)
    assert np.isfinite(toy.steps(config, toy.task(config, tmp_path), calls=[3]).losses).all()


def test_overfits_one_batch(tmp_path: Path) -> None:
    config = toy.experiment(trainer__overfit_batches=1, trainer__max_steps=150, hardware__steps_per_loop=50)
    outcome = toy.run(config, toy.task(config, tmp_path), tmp_path / "run")
    assert outcome.metrics["train_loss"] < 0.02


def test_learns_what_it_has_not_seen(tmp_path: Path) -> None:
    config = toy.experiment(trainer__max_steps=150, hardware__steps_per_loop=50)
    outcome = toy.run(config, toy.task(config, tmp_path, train_rows=400), tmp_path / "run")
    assert outcome.metrics["exact"] > 90


def test_limit_eval_scores_the_first_examples_only(tmp_path: Path) -> None:
    config = toy.experiment(trainer__limit_eval=5, trainer__max_steps=2)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "run")
    assert len(json.loads((tmp_path / "run/predictions/predictions.json").read_text())) == 5


def test_names_the_step_that_diverged(tmp_path: Path) -> None:
    """The order is the file's when batches are to be overfitted, so row 17 is in the third batch of eight."""
    config = toy.experiment(trainer__overfit_batches=3)
    with pytest.raises(DivergedError, match=r"^loss nan and gradient norm nan at step 3; lower "):
        toy.run(config, toy.task(config, tmp_path, poisoned=17), tmp_path / "run")
    assert tf.train.latest_checkpoint(str(tmp_path / "run" / native.FOLDER)) is None, "spoilt weights are not kept"


def test_a_diverged_run_ends_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy.experiment(trainer__overfit_batches=3, output_dir=str(tmp_path), cache_dir=str(tmp_path))
    monkeypatch.setattr(registry, "create_task", lambda config: toy.task(config, tmp_path, poisoned=17))
    with pytest.raises(DivergedError):
        experiment.run(config, run_dir=tmp_path / "run")
    for file in ("result.json", "state.json"):
        record = json.loads((tmp_path / "run" / file).read_text())
        assert record["state"] == "FAILED"
        assert record["reason"].startswith("DivergedError: loss nan and gradient norm nan at step 3;")


def test_a_batch_must_divide_over_the_devices_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs are only counted when the run starts, after the schema's own check."""
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: SimpleNamespace(num_replicas_in_sync=3))
    config = toy.experiment(trainer__gradient_accumulation_steps=2, task__eval_batch_size=9)
    task, step = toy.task(config, Path()), tf.Variable(0, dtype=tf.int64)
    module = task.build(config.model, seed=0, dtype="float32")
    optimizer = AdamW({}, config.task.optimizer, total_steps=1, warmup_steps=0)
    (phase,) = planned(config, task, num_examples=lambda: 8)
    with pytest.raises(ConfigError) as refused:
        TrainingLoop(planned=phase, module=module, optimizer=optimizer, step=step, batches=[], config=config)
    assert str(refused.value) == (
        "task.global_batch_size=8 is not divisible by 6 (replicas x trainer.gradient_accumulation_steps); set it to 12"
    )


class ScriptedTask(toy.ToyTask):
    """Its evaluations are worth what the script says, whatever the model does."""

    script: Iterator[float]

    def score(self, outputs: Mapping[str, np.ndarray], split: Split, *, limit: int | None = None) -> Evaluation:
        return Evaluation(metrics={"exact": next(self.script)})


def scripted(config: ExperimentConfig, folder: Path, *values: float) -> ScriptedTask:
    task = ScriptedTask(config=config.task, folder=folder)
    task.script = iter(values)
    return task


def test_keeps_the_newest_checkpoints_and_the_best(tmp_path: Path) -> None:
    config = toy.experiment(
        trainer__checkpoint_every_steps=2,
        trainer__keep_checkpoints=2,
        trainer__eval_every_steps=3,
        hardware__steps_per_loop=1,
    )
    tracker = toy.started(FakeTracker())
    outcome = toy.run(config, scripted(config, tmp_path, 10.0, 30.0, 20.0, 30.0), tmp_path, tracker=tracker)
    assert tracker.series("dev/exact") == [(3, 10.0), (6, 30.0), (9, 20.0), (10, 30.0)]
    folder = tmp_path / native.FOLDER
    assert sorted(path.name for path in folder.glob("*.index")) == ["ckpt-10.index", "ckpt-9.index"]
    assert sorted(path.name for path in (folder / native.BEST).glob("*.index")) == ["ckpt-6.index"], (
        "the first of equals"
    )
    assert (outcome.metrics["best_checkpoint_exact"], outcome.metrics["best_checkpoint_step"]) == (30.0, 6.0)
    assert native.located(str(tmp_path)).prefix.endswith("best/ckpt-6")
    assert native.located(str(tmp_path / "last")).prefix.endswith("checkpoints/ckpt-10")


class StoppingTracker(FakeTracker):
    """Has the run stopped, as SIGTERM would, once it hears of step `after`."""

    stop: StopRequest
    after: int

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        super().metrics(values, step=step)
        if step >= self.after:
            self.stop.signal_number = 15


def stopped(config: ExperimentConfig, task: toy.ToyTask, run_dir: Path, *, after: int) -> None:
    """Runs until the loop that finishes step `after`."""
    tracker = toy.started(StoppingTracker())
    tracker.stop, tracker.after = StopRequest(), after
    with pytest.raises(RunStopped):
        toy.run(config, task, run_dir, tracker=tracker, stop=tracker.stop)


@pytest.mark.parametrize(
    ("resume", "how"), [(Resume.auto, "the same command"), (Resume.never, "the same command with resume=auto")]
)
def test_a_stopped_run_says_what_is_saved_and_what_goes_on(
    resume: Resume, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.experiment(
        hardware__steps_per_loop=2, resume=resume, output_dir=str(tmp_path), cache_dir=str(tmp_path)
    )
    tracker, stop, at_exit = StoppingTracker(), StopRequest(), []
    monkeypatch.setattr(atexit, "register", lambda call, *_, **__: at_exit.append(call))
    tracker.stop, tracker.after = stop, 5
    monkeypatch.setattr(registry, "create_task", lambda config: toy.task(config, tmp_path))
    monkeypatch.setattr(experiment, "_tracker", lambda *_, **__: tracker)
    monkeypatch.setattr(experiment, "StopRequest", lambda: stop)
    with pytest.raises(RunStopped):
        experiment.run(config, run_dir=tmp_path / "run")
    last = capsys.readouterr().out.splitlines()[-1]
    assert gc.freeze in at_exit, "so that the process ends soon"
    assert last == f"saved: step 5, {tmp_path}/run/checkpoints/ckpt-5; {how} goes on from there"


@pytest.mark.slow
def test_five_and_five_steps_are_ten(tmp_path: Path) -> None:
    """Bit for bit, moments included, with dropout on and rows shuffled; the best of the first half stays the best."""
    config = toy.experiment(hardware__steps_per_loop=2, trainer__eval_every_steps=3, **DROPOUT)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "whole")
    stopped(config, toy.task(config, tmp_path), tmp_path / "halves", after=5)
    saved = tf.train.latest_checkpoint(str(tmp_path / "halves" / native.FOLDER))
    assert saved.endswith("ckpt-5")
    tracker = toy.started(FakeTracker())
    toy.run(config, toy.task(config, tmp_path), tmp_path / "halves", tracker=tracker)
    assert tracker.series("train/loss")[0][0] == 6
    whole, halves = (toy.weights(str(tmp_path / name / native.FOLDER / "ckpt-10")) for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(halves[name], value, err_msg=name)
    assert native.Best.read(tmp_path / "halves") == native.Best.read(tmp_path / "whole")


def test_stopped_between_checkpoint_and_evaluation_still_evaluates(tmp_path: Path) -> None:
    """Step 4 ends a loop and is due for evaluation: a run stopped there misses no figure once it goes on."""
    config = toy.experiment(hardware__steps_per_loop=1, trainer__eval_every_steps=4, trainer__max_steps=6)
    stopped(config, toy.task(config, tmp_path), tmp_path / "run", after=4)
    tracker = toy.started(FakeTracker())
    toy.run(config, toy.task(config, tmp_path), tmp_path / "run", tracker=tracker)
    assert [step for step, _ in tracker.series("dev/exact")] == [4, 6]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = toy.experiment(trainer__max_steps=2, resume=Resume.auto)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "run")
    tracker = toy.started(FakeTracker())
    outcome = toy.run(config, toy.task(config, tmp_path), tmp_path / "run", tracker=tracker)
    assert not tracker.series("train/loss")
    assert json.dumps(outcome.metrics, allow_nan=False)


@pytest.mark.slow
def test_a_pooler_that_nobody_reads_stays_as_it_is(tmp_path: Path) -> None:
    """The span head reads no pooled output: without a gradient the pooler is neither trained nor decayed."""
    config = toy.experiment(model__classifier_activation=True, trainer__max_steps=3)
    fresh = toy.task(config, tmp_path).build(config.model, seed=config.seed, dtype="float32").encoder.weights
    toy.run(config, toy.task(config, tmp_path), tmp_path / "run")
    trained = toy.weights(str(tmp_path / "run" / native.FOLDER / "ckpt-3"))
    for name, unchanged in {"pooler/kernel": True, "pooler/bias": True, "layers/attention/value/kernel": False}.items():
        places = [k for k in trained if f"/{name.replace('/', '.S')}/" in k and not re.search("momentum|velocity", k)]
        (value,) = (trained[place] for place in places)
        assert np.array_equal(value, fresh[name].numpy()) is unchanged, name


def test_a_damaged_record_of_the_best_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = toy.experiment(trainer__max_steps=2)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "run")
    (file,) = (tmp_path / "run").rglob("best.json")
    file.write_text("", encoding="utf-8")
    assert native.Best.read(tmp_path / "run") == native.Best()
    assert f"{file} is damaged" in caplog.text
