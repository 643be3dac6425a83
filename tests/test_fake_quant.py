"""Laws of the model that is rounded to 8 bits; `test_qat.py` trains it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import toy
from numpy_quantized import Quantized, activations
from test_encoder import batch, randomised

from mobilebert_exp.config import Activation, FakeQuantization, LayerLoop, ModelConfig, Normalization
from mobilebert_exp.modeling import fake_quant, quantizers
from mobilebert_exp.modeling.encoder import MobileBertEncoder
from mobilebert_exp.modeling.variables import QUANTIZERS, block_points, encoder_variables, parameters

KINDS = [FakeQuantization.per_tensor, FakeQuantization.per_channel]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "shared": {"num_feedforward_networks": 2, "hidden_act": Activation.relu6},
    "bottleneck": {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False},
    "wide": {"key_query_shared_bottleneck": False, "num_feedforward_networks": 2},
}


def config(name: str = "shared", **changes: Any) -> ModelConfig:
    plain = {"num_layers": 2, "normalization": Normalization.no_norm, "fake_quantization": FakeQuantization.per_channel}
    return toy.model(**{**plain, **ARCHITECTURES[name], **changes})


def dyadic(encoder: MobileBertEncoder) -> MobileBertEncoder:
    """Weights, scales and steps that are powers of two times small integers: float32 then adds without any rounding.

    So no value lies on one side of half a step here, and on the other in an oracle of float64.
    """
    rng = np.random.default_rng(4)
    for name, variable in encoder.weights.items():
        shape = variable.shape.as_list()
        if name.startswith(QUANTIZERS):
            step = 2.0 ** rng.integers(-6, -3, shape[:-1])
            value = np.stack([-128 * step, 127 * step], axis=-1)
        elif name.endswith("/gamma"):
            value = rng.choice([0.5, 1.0, -1.0, 2.0], shape)
        elif name.endswith(("/kernel", "word/table")):
            value = rng.integers(-126, 127, shape) * 2.0**-9
            value[..., rng.integers(shape[-2]), :] = 127 * 2.0**-9
        else:
            value = rng.integers(-64, 64, shape) * 2.0**-7
        variable.assign(value.astype(np.float32))
    return encoder


def values(encoder: MobileBertEncoder) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in encoder.weights.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_is_what_a_file_of_8_bits_computes(name: str, kind: FakeQuantization) -> None:
    encoder = dyadic(MobileBertEncoder(config(name, fake_quantization=kind)))
    found = encoder(*batch(), all_layers=True)
    held = values(encoder)
    oracle = Quantized(held, quantizers.ranges(held), encoder.config)
    ids, mask, segments = (part.numpy() for part in batch())
    hidden = [oracle.embeddings(ids, segments)]
    for layer in range(encoder.config.num_layers):
        hidden.append(oracle.block(hidden[-1], mask, layer))
    np.testing.assert_allclose(np.asarray(found.hidden_ABLH), hidden, rtol=0, atol=1e-5)
    assert np.abs(hidden[-1]).max() > 0.5 and len(np.unique(hidden[-1])) > 20, "something is left of it"


def calibrated(encoder: MobileBertEncoder, *, margin: float = 1.0) -> dict[str, np.ndarray]:
    """Gives the encoder the ranges of one batch."""
    with fake_quant.observing(calibrating=True) as observed:
        encoder(*batch())
    for name, extremes in observed.extremes.items():
        encoder.weights[name].assign(extremes * margin)
    return values(encoder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rounding_costs_no_more_than_steps_and_is_seen(name: str, kind: FakeQuantization) -> None:
    """Activations that nothing clips differ from the model in float by a few steps of the last range."""
    chosen = config(name, fake_quantization=kind, num_layers=1)
    encoder = randomised(MobileBertEncoder(chosen, seed=2))
    held = calibrated(encoder)
    exact = MobileBertEncoder(
        dataclasses.replace(chosen, fake_quantization=FakeQuantization.none), weights=encoder.weights
    )
    low, high = quantizers.ranges(held)["layers/bottleneck_output/norm"][0]
    gap = np.abs(encoder(*batch()).sequence_BLH - exact(*batch()).sequence_BLH)
    assert 0 < gap.mean() < 2 * (high - low) / 255
    assert gap.max() < 10 * (high - low) / 255


def test_what_is_observed_while_calibrating_is_the_model_with_rounded_weights_alone() -> None:
    """So a model whose weights are on their steps already is calibrated by what the float model computes."""
    encoder = dyadic(MobileBertEncoder(config()))
    for name, variable in encoder.weights.items():
        if name.endswith("/gamma"):
            variable.assign(tf.sign(variable))
    exact = MobileBertEncoder(
        dataclasses.replace(encoder.config, fake_quantization=FakeQuantization.none), weights=encoder.weights
    )
    held = calibrated(encoder)
    hidden = np.asarray(exact(*batch(), all_layers=True).hidden_ABLH)
    found = held[f"{QUANTIZERS}layers/bottleneck_output/norm"]
    np.testing.assert_allclose(found[:, 0], hidden[1:].min(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], hidden[1:].max(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(held[f"{QUANTIZERS}embeddings/norm"], [hidden[0].min(), hidden[0].max()], rtol=1e-5)


def test_scan_and_unroll_are_one_function() -> None:
    """Outputs, gradients, and what is observed."""
    found = []
    for loop in LayerLoop:
        encoder = dyadic(MobileBertEncoder(config(layer_loop=loop, attention_dropout=0.2)))
        trained = [value for value in encoder.weights.values() if value.trainable]

        @tf.function(autograph=False)
        def compute(encoder: MobileBertEncoder = encoder, trained: list[tf.Variable] = trained) -> Any:
            with fake_quant.observing() as observed, tf.GradientTape() as tape:
                loss = tf.reduce_mean(encoder(*batch(), seed=tf.constant([1, 2])).sequence_BLH ** 2)
            return loss, tape.gradient(loss, trained), observed.extremes

        loss, gradients, extremes = compute()
        dense = {value.name: tf.convert_to_tensor(part).numpy() for value, part in zip(trained, gradients, strict=True)}
        found.append((loss, dense, {name: value.numpy() for name, value in extremes.items()}))
    (ours, our_gradients, our_extremes), (theirs, their_gradients, their_extremes) = found
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert our_extremes.keys() == their_extremes.keys()
    for name, value in our_extremes.items():
        np.testing.assert_allclose(value, their_extremes[name], rtol=1e-5, err_msg=name)
    for name, value in our_gradients.items():
        assert name.startswith("layers/attention/key/bias") or np.abs(value).max() > 0, name
        np.testing.assert_allclose(
            value, their_gradients[name], rtol=1e-4, atol=1e-5 * np.abs(value).max() + 1e-7, err_msg=name
        )


@pytest.mark.parametrize("low, high", [(-1.0, 2.0), (0.0, 3.0), (-3.0, 0.0), (0.5, 4.0)])
def test_activations_round_as_tensorflows_own_and_let_gradients_through_inside(low: float, high: float) -> None:
    x = tf.constant(np.linspace(-5, 5, 2001, dtype=np.float32))
    bounds = tf.unstack(fake_quant.usable(tf.constant([low, high])))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = fake_quant.rounded(x, *bounds)
        total = tf.reduce_sum(3 * y)
    expected = activations(x.numpy(), low, high)
    np.testing.assert_allclose(y, expected, atol=(high - low) / 200)
    assert np.mean(np.abs(y - expected) > 1e-5) < 0.01, "but for halves"
    inside = (x.numpy() >= expected.min()) & (x.numpy() <= expected.max())
    passed = tape.gradient(total, x).numpy()
    assert np.mean(passed != np.where(inside, 3.0, 0.0)) < 0.01, "but for the ends"
    assert set(passed.tolist()) == {0.0, 3.0}


def test_weights_round_to_255_steps_and_gradients_go_straight_through() -> None:
    """The largest too, which lies at the end of its range."""
    rng = np.random.default_rng(0)
    kernel = tf.Variable(np.concatenate([rng.standard_normal((50, 6)), np.zeros((50, 2))], axis=1).astype(np.float32))
    for shared in ((-2,), (-2, -1)):
        with tf.GradientTape() as tape:
            rounded = fake_quant.rounded_weights(tf.identity(kernel), fake_quant.scale_of(kernel, shared=shared))
            total = tf.reduce_sum(2 * rounded)
        np.testing.assert_array_equal(tape.gradient(total, kernel), np.full((50, 8), 2.0))
        largest = np.abs(kernel.numpy()).max(axis=0 if len(shared) == 1 else None)
        theirs = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            kernel, -largest * np.ones(8, np.float32), largest * np.ones(8, np.float32), num_bits=8, narrow_range=True
        )
        np.testing.assert_allclose(rounded, theirs, atol=1e-5)
        assert np.isfinite(rounded).all() and (rounded.numpy()[:, 6:] == 0).all(), "zeros stay zeros"


@pytest.mark.parametrize("size", [300.0, 1e4])
@pytest.mark.parametrize("ranges", ["calibrated", "all zeros", "equal", "tiny", "the original's"])
def test_nothing_is_no_number(size: float, ranges: str) -> None:
    """Activations of hundreds and more, and ranges that are none."""
    encoder = randomised(MobileBertEncoder(config()))
    encoder.weights["embeddings/norm/gamma"].assign_add(tf.fill([16], size))
    held = calibrated(encoder)
    assert held[f"{QUANTIZERS}embeddings/norm"].max() > size / 3
    for name, variable in encoder.weights.items():
        pair = {"all zeros": (0, 0), "equal": (2, 2), "tiny": (-1e-30, 1e-38), "the original's": (-6, 6)}.get(ranges)
        if name.startswith(QUANTIZERS) and pair:
            variable.assign(tf.zeros(variable.shape) + tf.constant(pair, tf.float32))
    trained = [variable for variable in encoder.weights.values() if variable.trainable]
    with fake_quant.observing() as observed, tf.GradientTape() as tape:
        sequence = encoder(*batch()).sequence_BLH
        loss = tf.reduce_mean(sequence**2)
    for value in (sequence, *observed.extremes.values(), *tape.gradient(loss, trained)):
        assert np.isfinite(tf.convert_to_tensor(value)).all()


def test_what_is_told_of_ranges_is_what_the_model_computes_with() -> None:
    pairs = np.array([[-1, 2], [1, 2], [-2, -1], [0, 0], [3, 3], [-1e-9, 0], [-1e4, 1e-9]], np.float32)
    found = quantizers.ranges({f"{QUANTIZERS}layers/x": pairs, "layers/x/kernel": pairs})
    assert found.keys() == {"layers/x"}
    np.testing.assert_array_equal(found["layers/x"], fake_quant.usable(tf.constant(pairs)))
    assert (found["layers/x"][:, 0] <= 0).all() and (np.diff(found["layers/x"]) > 0).all()
    assert found["layers/x"][:3].tolist() == [[-1, 2], [0, 2], [-2, 0]]


def test_ranges_are_variables_but_no_parameters() -> None:
    exact = dataclasses.replace(config(), fake_quantization=FakeQuantization.none)
    assert parameters(encoder_variables(config())) == parameters(encoder_variables(exact))
    encoder = MobileBertEncoder(config())
    ranges = {name: variable for name, variable in encoder.weights.items() if name.startswith(QUANTIZERS)}
    assert len(ranges) == len(block_points(config())) + 3
    assert {tuple(variable.shape) for variable in ranges.values()} == {(2,), (2, 2)}
    assert not any(variable.trainable for variable in ranges.values())


def test_it_is_computed_in_float32_whatever_the_activations_of_others_are() -> None:
    rough, exact = (randomised(MobileBertEncoder(config(), dtype=dtype)) for dtype in ("bfloat16", "float32"))
    for encoder in (rough, exact):
        calibrated(encoder)
    np.testing.assert_array_equal(rough(*batch()).sequence_BLH, exact(*batch()).sequence_BLH)
