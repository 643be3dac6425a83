"""Quantisation-aware training: where its ranges come from, how they move and rest, and which checkpoints it takes."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicas
import tensorflow as tf
import tf1_files
import toy
from command_line import here
from fakes import FakeTracker
from test_account import job
from test_convert import convert
from test_plan import _planned
from test_training_loop import stopped

from mobilebert_exp import fitting
from mobilebert_exp.config import (
    Activation,
    ExperimentConfig,
    FakeQuantization,
    ModelConfig,
    Normalization,
    QuantizationConfig,
    leaves,
)
from mobilebert_exp.data.pipeline import training_batches
from mobilebert_exp.errors import CheckpointError, ConfigError, DivergedError
from mobilebert_exp.modeling import quantizers
from mobilebert_exp.modeling.checkpoints import native, native_weights
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.fake_quant import observing
from mobilebert_exp.modeling.moving_ranges import TO_REACH, MovingRanges
from mobilebert_exp.modeling.variables import QUANTIZERS, encoder_variables, quantizer_variables, span_variables
from mobilebert_exp.runners.evaluate import score_checkpoint
from mobilebert_exp.tasks.base import Split

MODEL = toy.model(
    normalization=Normalization.no_norm,
    hidden_act=Activation.relu6,
    fake_quantization=FakeQuantization.per_channel,
)
FLOAT = dataclasses.replace(MODEL, fake_quantization=FakeQuantization.none)


def experiment(**changes: Any) -> ExperimentConfig:
    return toy.experiment(**{"model": MODEL, "quantization__calibration_batches": 3, **changes})


def ranges(run: Path, *, step: int) -> dict[str, np.ndarray]:
    values = native_weights.read(run / native.FOLDER / f"ckpt-{step}").values
    return {name: value for name, value in values.items() if name.startswith(QUANTIZERS)}


def one_range(settings: QuantizationConfig, *, steps: int) -> tuple[tf.Variable, MovingRanges]:
    module = tf.Module()
    module.low_high = tf.Variable([-1.0, 2.0], trainable=False, name=f"{QUANTIZERS}embeddings/norm")
    return module.low_high, MovingRanges(module, settings, total_steps=steps)


@pytest.mark.parametrize(("freeze_after", "last"), [(0.5, 5), (1.0, 10), (0.0, 0), (0.25, 3)])
def test_a_range_is_a_moving_average_until_it_rests(freeze_after: float, last: int) -> None:
    variable, moving = one_range(QuantizationConfig(moving_average=0.9, freeze_after=freeze_after), steps=10)
    expected = [-1.0, 2.0]
    seen = np.random.default_rng(1).uniform(0, 9, (10, 2)) * TO_REACH
    for step, pair in enumerate(seen):
        moving.move(tf.constant([pair * TO_REACH], tf.float32), step=tf.constant(step, tf.int64))
        if step < last:
            expected = [0.9 * old + 0.1 * new for old, new in zip(expected, pair, strict=True)]
        np.testing.assert_allclose(variable, expected, rtol=1e-5)


def test_what_is_no_number_moves_no_range() -> None:
    variable, moving = one_range(QuantizationConfig(moving_average=0.0), steps=10)
    for reach in ([np.nan, 3.0], [3.0, np.inf], [np.nan, np.nan]):
        moving.move(tf.constant([reach], tf.float32), step=tf.constant(0, tf.int64))
    np.testing.assert_array_equal(variable, [-3.0, 3.0])


@pytest.mark.parametrize("parts", [1, 2])
def test_the_first_step_finds_ranges_of_real_batches(parts: int, tmp_path: Path) -> None:
    """The mean of the batches' extremes, of the weights that the run starts from, and nothing of it is a weight."""
    config = experiment(
        trainer__max_steps=1, trainer__gradient_accumulation_steps=parts, quantization__moving_average=1.0
    )
    task = toy.task(config, tmp_path)
    toy.run(config, task, tmp_path / "run")
    found = ranges(tmp_path / "run", step=1)
    module = task.build(config.model, seed=config.seed, dtype="float32")
    batches = training_batches(
        task.features(Split.train), batch_size=8, seed=config.seed, skip_batches=0, only_batches=None
    )
    seen: dict[str, list[np.ndarray]] = {}
    for batch in batches.take(3):
        with observing(calibrating=True) as observed:
            task.losses(module, batch, seed=None)
        for name, pair in observed.extremes.items():
            seen.setdefault(name, []).append(pair.numpy())
    assert found.keys() == seen.keys() == {spec.name for spec in quantizer_variables(config.model)}
    for name, pairs in seen.items():
        np.testing.assert_allclose(found[name], np.mean(pairs, axis=0), rtol=1e-5, atol=1e-6, err_msg=name)
        assert (np.diff(found[name]) > 0).all(), name
        assert name.endswith("/place") or np.abs(pairs[0] - pairs[1]).max() > 0, "positions are alike in all batches"


def test_weights_that_give_no_numbers_cannot_be_calibrated_with(tmp_path: Path) -> None:
    values = tf1_files.values([*encoder_variables(FLOAT), *span_variables(FLOAT)])
    values["embeddings/norm/gamma"] = np.full_like(values["embeddings/norm/gamma"], 3e38)
    values["embeddings/norm/beta"] = np.full_like(values["embeddings/norm/beta"], 3e38)
    place = _stored(values, tmp_path / "huge", FLOAT)
    config = experiment(init__checkpoint=place)
    with pytest.raises(
        DivergedError, match=r"^activations of embeddings/.* are infinite or no numbers while .* weights$"
    ):
        toy.run(config, toy.task(config, tmp_path), tmp_path / "run")


def _values(run: Path) -> dict[str, np.ndarray]:
    """The weights of a short run in float."""
    config = toy.experiment(model=FLOAT, trainer__max_steps=2)
    toy.run(config, toy.task(config, run.parent), run)
    return dict(native_weights.read(run / "last").values)


def _stored(values: dict[str, np.ndarray], folder: Path, model: ModelConfig) -> str:
    native_weights.write(Weights(values=values, model=leaves(model), head=toy.ToyTask.head), folder)
    return str(folder)


@pytest.mark.slow
def test_resumed_is_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, while ranges move and while they rest; and nothing is calibrated anew."""
    config = experiment(
        hardware__steps_per_loop=2, model__attention_dropout=0.3, quantization__freeze_after=0.7,
        quantization__moving_average=0.8,
    )  # fmt: skip
    toy.run(config, toy.task(config, tmp_path), tmp_path / "whole")
    stopped(config, toy.task(config, tmp_path), tmp_path / "halves", after=5)
    before = ranges(tmp_path / "halves", step=5)
    monkeypatch.setattr(MovingRanges, "calibrate", lambda *_: pytest.fail("calibrated anew"))
    toy.run(config, toy.task(config, tmp_path), tmp_path / "halves", tracker=toy.started(FakeTracker()))
    whole, halves = (toy.weights(str(tmp_path / name / native.FOLDER / "ckpt-10")) for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(halves[name], value, err_msg=name)
    after = ranges(tmp_path / "halves", step=10)
    assert all(np.abs(after[name] - value).max() > 0 for name, value in before.items()), "they moved after step 5"


@pytest.mark.slow
def test_micro_batches_move_ranges_as_the_whole_batch_does(tmp_path: Path) -> None:
    found = []
    for parts in (1, 4):
        config = experiment(
            trainer__max_steps=1, trainer__gradient_accumulation_steps=parts, quantization__moving_average=0.0
        )
        toy.run(config, toy.task(config, tmp_path), tmp_path / f"{parts}")
        found.append(ranges(tmp_path / f"{parts}", step=1))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["quantized-2", "quantized-accumulated-xla-2"])
def test_replicas_move_ranges_as_one_device_does(run: str) -> None:
    """A value that falls to the other side of half a step moves what follows by a step."""
    measured = replicas.measured()
    names = [name.partition(":")[2] for name in measured if name.startswith("quantized-1:")]
    assert sum("quantizers" in name for name in names) >= 20
    for name in names:
        expected = measured[f"quantized-1:{name}"]
        near = 1e-2 * np.abs(expected).max() + 1e-4
        np.testing.assert_allclose(measured[f"{run}:{name}"], expected, rtol=0, atol=near, err_msg=name)


def test_a_run_in_float_is_where_it_starts_and_what_it_evaluates_is_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One command trains from it, ranges are no missing weights; then they are loaded, or ignored by a float model."""
    caplog.set_level(logging.INFO)
    values = _values(tmp_path / "float")
    assert not quantizers.ranges(values)
    place = str(tmp_path / "float" / "last")
    config = experiment(init__checkpoint=place, trainer__max_steps=2, task__optimizer__learning_rate=1e-12)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "qat")
    told = "\n".join(record.message for record in caplog.records)
    count = len(quantizer_variables(MODEL))
    assert f"loaded {len(values)} variables, newly initialised {count} (" in told
    assert f"calibrated the ranges of {count} points on 3 batches" in told and "trained with" not in told

    run = str(tmp_path / "qat" / "last")
    trained = native_weights.read(Path(run)).values
    assert len(quantizers.ranges(trained)) == count
    caplog.clear()
    exact = dataclasses.replace(config, model=FLOAT)
    outputs = {}
    for name, each in (("quantised", config), ("float", exact), ("before", exact)):
        here_from = place if name == "before" else run
        each = dataclasses.replace(each, init=dataclasses.replace(each.init, checkpoint=here_from))
        outputs[name] = score_checkpoint(job(each, tmp_path / name), Split.dev)[0].files
    assert outputs["float"] == outputs["before"], "the weights are those it started from"
    told = "\n".join(record.message for record in caplog.records)
    assert f"loaded {len(trained)} variables, newly initialised 0" in told
    assert "quantizers/* ×" in told and "model.fake_quantization=per_channel, not none" in told

    config = dataclasses.replace(config, init=dataclasses.replace(config.init, checkpoint=place))
    with pytest.raises(CheckpointError) as refused:
        score_checkpoint(job(config, tmp_path / "none"), Split.dev)
    assert str(refused.value) == (
        f"init.checkpoint={place} lacks quantizers/embeddings/projection: it was trained without fake quantisation; "
        "train from it with mode=train, or set model.fake_quantization=none"
    )


def test_ranges_are_converted_to_no_other_format(tmp_path: Path) -> None:
    values = tf1_files.values([*encoder_variables(FLOAT), *span_variables(FLOAT)])
    values |= {spec.name: np.full(spec.shape, 2.0, np.float32) for spec in quantizer_variables(MODEL)}
    place = _stored(values, tmp_path / "qat", MODEL)
    for name, kept in (("native", True), ("tf1", False)):
        ended = convert(place, tmp_path / name, "--to", name)
        assert ended.code == 0, ended.err
        assert ("quantizers/*" in ended.out) is not kept
    assert native_weights.read(tmp_path / "native").values.keys() == values.keys()
    ended = convert(tmp_path / "tf1", tmp_path / "back", "--to", "native")
    assert ended.code == 0, ended.err
    back = native_weights.read(tmp_path / "back")
    assert back.values.keys() == {name for name in values if not name.startswith(QUANTIZERS)}
    assert (back.model or {})["fake_quantization"] == "none"


def test_the_plan_says_where_ranges_come_from() -> None:
    rows, figures = _planned("model=qat", "task=squad_v1")
    assert figures["parameters"] == 24_582_914.0, "ranges are none"
    assert (rows["parameters"], "quantizers" in rows) == ("24,582,914", False)
    assert rows["fake quantisation"] == "weights per_channel, activations at 32 points"
    assert rows["calibration"] == "16 batches before the first step"
    assert rows["moving ranges"] == "in steps 1 to 4,106"
    rows, _ = _planned("model=qat", "quantization.freeze_after=0", "model.fake_quantization=per_tensor")
    assert rows["fake quantisation"].startswith("weights per_tensor") and rows["moving ranges"] == "in no step"
    assert "fake quantisation" not in _planned("model=opt")[0]


def test_what_trains_in_phases_is_not_quantised(tmp_path: Path) -> None:
    class InPhases(toy.ToyTask):
        def phases(self) -> list[Any]:
            return []

    config = experiment()
    with pytest.raises(ConfigError) as refused:
        fitting.resolved(config, InPhases(config=config.task, folder=tmp_path))
    assert str(refused.value) == (
        "model.fake_quantization=per_channel is for fine-tuning, and task=toy trains in phases, in float; "
        "set model.fake_quantization=none"
    )


@pytest.mark.slow
def test_from_a_run_in_float_to_8_bits_by_two_commands(tmp_path: Path) -> None:
    """The embedded articles: what training in float has learnt survives."""
    small = [
        *("+preset=starter", "tracking=none", "task.starter.train_articles=400", "task.starter.dev_articles=40"),
        *("task.starter.vocabulary_size=600", "task.starter.relations=6", "task.starter.values=16"),
        *("task.starter.first_names=20", "task.starter.lookup_share=1", "task.num_train_epochs=100"),
        *(f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"),
    ]
    f1 = {}
    commands = {
        "float": ["trainer.max_steps=300"],
        "qat": ["model.fake_quantization=per_channel", "trainer.max_steps=40", "task.optimizer.learning_rate=1e-4",
                f"init.checkpoint={tmp_path}/float"],
    }  # fmt: skip
    for name, more in commands.items():
        ended = here(*small, *more, f"hydra.run.dir={tmp_path}/{name}")
        assert ended.code == 0, ended.err
        f1[name] = _f1(tmp_path / name)
    ended = here(
        *small, "mode=evaluate", "model.fake_quantization=per_channel", f"init.checkpoint={tmp_path}/qat/last",
        f"hydra.run.dir={tmp_path}/evaluated",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert _f1(tmp_path / "evaluated") == f1["qat"]
    assert f1["float"] > 30 and f1["qat"] > f1["float"] - 3, f1


def _f1(run: Path) -> float:
    return float(json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]["f1"])
