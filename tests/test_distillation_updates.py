"""Whole updates of both phases equal those of NumPy in float64: losses, gradients' norms, rates, LAMB, weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import distilling
import documents
import numpy as np
import pytest
import test_pretraining_exchange
from distilling import LAYERS, STEPS_PER_LAYER, Expected

from mobilebert_exp.config import LayerLoop
from mobilebert_exp.data.pretraining.settings import Settings
from mobilebert_exp.modeling.transfer import LowerLayers, Padding, Semantics, Strategy

Script = Callable[..., list[Path]]
TOLERANCE = 1e-5
ORIGINAL = (LowerLayers.slow, Padding.counted, Strategy.progressive)


@functools.cache
def updated(lower: LowerLayers, padding: Padding, strategy: Strategy, loop: LayerLoop) -> Mapping[str, np.ndarray]:
    """What our code does."""
    config = distilling.experiment(loop=loop, lower_layers=lower, padding=padding, strategy=strategy)
    return distilling.updates(config)


def check(found: Mapping[str, np.ndarray], expected: tuple[Expected, Expected]) -> None:
    """Every loss and norm to a relative 1e-5, every weight to 1e-5 of what a weight moves at most."""
    began = distilling.start(distilling.architecture(), seed=1)
    for number, phase in enumerate(expected):
        for step, loss in phase.losses.items():
            np.testing.assert_allclose(found[f"{number}:loss"][step], loss, rtol=TOLERANCE, err_msg=f"{number} {step}")
            norm = found[f"{number}:gradient_norm"][step]
            np.testing.assert_allclose(norm, phase.norms[step], rtol=TOLERANCE, err_msg=f"{number} {step}")
        for name, value in phase.weights.items():
            np.testing.assert_allclose(found[f"{number}:{name}"], value, rtol=0, atol=TOLERANCE, err_msg=name)
        moved = {name: np.abs(value - began[name]).max() for name, value in phase.weights.items()}
        assert max(moved.values()) > 1e-2
        began = {name: value for name, value in phase.weights.items()}


@pytest.mark.parametrize("loop", [LayerLoop.scan, pytest.param(LayerLoop.unroll, marks=pytest.mark.slow)])
def test_updates_as_the_original_makes_them(loop: LayerLoop) -> None:
    check(updated(*ORIGINAL, loop), distilling.expected(*ORIGINAL))


def test_both_losses_in_one_phase() -> None:
    """`auxiliary`: every update has the answers' loss and every layer's, and all its variables move."""
    config = distilling.experiment(strategy=Strategy.auxiliary, steps=1)
    found = distilling.updates(config)
    assert len(found["0:loss"]) == 1 + distilling.PD_STEPS and "1:loss" not in found
    figures = {name: value for name, value in found.items() if value.shape == found["0:loss"].shape}
    assert all(np.isfinite(value).all() for value in figures.values())
    transfer, factors = config.task.transfer, ("hidden", "mean", "variance", "attention")  # type: ignore[attr-defined]
    taught = sum(
        getattr(transfer, f"{name}_factor") * found[f"0:{name}/layer_{layer + 1:02}"] / LAYERS
        for name in factors
        for layer in range(LAYERS)
    )
    answered = found["0:taught_loss"] + found["0:next_sentence_loss"]
    np.testing.assert_allclose(found["0:loss"], answered + taught, rtol=TOLERANCE)
    began = distilling.start(distilling.architecture(), seed=1)
    assert {name.split("/")[0] for name in began if not np.array_equal(found[f"0:{name}"], began[name])} == {
        name.split("/")[0] for name in began
    }


@pytest.mark.parametrize("script", [test_pretraining_exchange.ours, test_pretraining_exchange.original])
@pytest.mark.parametrize("padding", list(Padding))
def test_losses_on_records_of_either_script(script: Script, padding: Padding, tmp_path: Path) -> None:
    """Real batches, padded: of our files, and of those that tf-models' `create_pretraining_data` writes."""
    settings = Settings(max_seq_length=32, max_predictions_per_seq=5, dupe_factor=2, short_seq_prob=0.5)
    files = script(tmp_path, documents.write(tmp_path / "a.txt", 5), settings=settings)
    columns = test_pretraining_exchange.parsed(files, settings)
    by_length = np.argsort(columns["input_mask"].sum(axis=1), kind="stable")
    rows = by_length[np.linspace(0, len(by_length) - 1, 8).astype(int)]  # from the shortest to the longest
    batch = {name: value[rows].astype(np.int32) for name, value in columns.items()}
    batch["masked_lm_weights"] = columns["masked_lm_weights"][rows]
    assert 0 < batch["input_mask"].mean() < 1
    assert len(set(batch["masked_lm_weights"].sum(axis=1))) > 1
    size = {"vocab_size": len(documents.pieces()), "max_positions": 32}
    config = distilling.experiment(padding=padding)
    previous: Any = config.task
    task = dataclasses.replace(
        previous, max_seq_length=32, max_predictions_per_seq=5, global_batch_size=8, eval_batch_size=8,
        teacher=distilling.teacher_architecture(**size),
    )  # fmt: skip
    config = dataclasses.replace(config, task=task, model=distilling.architecture(**size))
    found, expected = distilling.losses(config, batch)
    assert len(found) == LAYERS + 1
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


@pytest.mark.slow
def test_the_original_s_mistake_is_another_loss() -> None:
    """`tf1_exact` differs in mean and variance, and in nothing else of the first updates."""
    exact = distilling.updates(distilling.experiment(semantics=Semantics.tf1_exact, steps=LAYERS * STEPS_PER_LAYER))
    corrected = updated(*ORIGINAL, LayerLoop.scan)
    assert np.isfinite(exact["0:loss"]).all() and np.isfinite(exact["1:loss"]).all()
    for name in ("hidden", "mean", "variance", "attention"):
        ours, theirs = (found[f"0:{name}/layer_01"][:2] for found in (exact, corrected))  # before any weight has moved
        assert np.allclose(ours, theirs, rtol=TOLERANCE) is (name in ("hidden", "attention")), name


@pytest.mark.slow
@pytest.mark.parametrize("loop", list(LayerLoop))
@pytest.mark.parametrize(
    "choices",
    [
        (LowerLayers.frozen, Padding.counted, Strategy.progressive),
        (LowerLayers.slow, Padding.masked, Strategy.progressive),
        (LowerLayers.slow, Padding.masked, Strategy.joint),
    ],
    ids=["frozen", "masked", "joint"],
)
def test_other_choices(choices: tuple[LowerLayers, Padding, Strategy], loop: LayerLoop) -> None:
    check(updated(*choices, loop), distilling.expected(*choices))


@pytest.mark.slow
@pytest.mark.parametrize("lower", list(LowerLayers))
def test_compiled_by_xla(lower: LowerLayers) -> None:
    """As accelerators run it: the layer in turn is a tensor there too."""
    found = distilling.updates(distilling.experiment(xla=True, lower_layers=lower))
    check(found, distilling.expected(lower, Padding.counted, Strategy.progressive))


@pytest.mark.slow
def test_two_replicas() -> None:
    check(distilling.measured(), distilling.expected(*ORIGINAL))


def test_the_next_layer_s_turn_traces_nothing_anew() -> None:
    found = updated(*ORIGINAL, LayerLoop.scan)
    assert [int(found[f"{phase}:traces"]) for phase in (0, 1)] == [1, 1]


def test_what_rests_does_not_move() -> None:
    """In KT no embedding and no head, to the last bit."""
    found = updated(*ORIGINAL, LayerLoop.scan)
    began = distilling.start(distilling.architecture(), seed=1)
    for name, value in began.items():
        if not name.startswith("layers/"):
            np.testing.assert_array_equal(found[f"0:{name}"], value, err_msg=name)


def test_figures_tell_the_layer_in_turn() -> None:
    found = updated(*ORIGINAL, LayerLoop.scan)
    for layer in range(LAYERS):
        values = found[f"0:hidden/layer_{layer + 1:02}"]
        turn = np.arange(LAYERS * STEPS_PER_LAYER) // STEPS_PER_LAYER == layer
        assert (np.isfinite(values) == turn).all()
    rates = found["0:learning_rate/layer_in_turn"]
    np.testing.assert_allclose(rates[::STEPS_PER_LAYER], 0)
    assert (rates[1::STEPS_PER_LAYER] > 0).all()
