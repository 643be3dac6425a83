"""Whole updates of both phases equal those of NumPy in float64: losses, gradients' norms, rates, LAMB, weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import distilling
import numpy as np
import pytest
from distilling import LAYERS, STEPS_PER_LAYER, Expected

from mobilebert_exp.config import LayerLoop
from mobilebert_exp.modeling.transfer import LowerLayers, Padding, Strategy

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
