"""LAMB, and rates by layer under both optimizers, against the formulas computed number by number in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import replicas
import tensorflow as tf

from mobilebert_exp.config import OptimizerConfig, OptimizerKind
from mobilebert_exp.modeling import optimizers

STEPS, TOTAL, WARMUP = 50, 60, 10
LAYERS = 3
SHAPES = {
    "embeddings/word/table": (5, 3),
    "layers/ffn_0/output/kernel": (LAYERS, 3, 4),
    "layers/ffn_0/output/bias": (LAYERS, 4),
    "layers/ffn_0/norm/gamma": (LAYERS, 4),
    "heads/masked_lm/transform/kernel": (4, 2),
}
ADAPTED = {"embeddings/word/table", "layers/ffn_0/output/kernel", "heads/masked_lm/transform/kernel"}
Factors = Callable[[int], dict[str, np.ndarray]]


def settings(kind: OptimizerKind, **changes: Any) -> OptimizerConfig:
    return OptimizerConfig(**{"name": kind, "learning_rate": 0.01, "weight_decay": 0.1, **changes})


def start() -> dict[str, np.ndarray]:
    """Layers of different sizes; one layer's kernel is 0, whose norm cannot scale anything."""
    rng = np.random.default_rng(1)
    found = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    found["layers/ffn_0/output/kernel"] *= np.array([10.0, 0.0, 0.1], np.float32)[:, None, None]
    return found


def gradients(step: int) -> dict[str, np.ndarray]:
    """Of sizes from far below the clip to far above it; the head's first gradients are 0."""
    rng = np.random.default_rng([2, step])
    size = np.float32(10.0 ** rng.uniform(-3, 1))
    found = {name: rng.standard_normal(shape, np.float32) * size for name, shape in SHAPES.items()}
    if step < 3:
        found["heads/masked_lm/transform/kernel"][:] = 0
    return found


def by_layer(step: int) -> dict[str, np.ndarray]:
    """As in a transfer layer by layer: below slowly, the current one in full, above it not at all; then the next."""
    current = min(step // 20, LAYERS - 1)
    layers = np.array([0.1] * current + [1.0] + [0.0] * (LAYERS - 1 - current), np.float32)
    stacked = {
        name: layers.reshape([-1] + [1] * (len(shape) - 1)) for name, shape in SHAPES.items() if "layers" in name
    }
    return {
        **stacked,
        "embeddings/word/table": np.array(0.0 if step < 30 else 0.1, np.float32),
    }  # the head is not named: 1


def rate_of(config: OptimizerConfig, step: int) -> float:
    if step < WARMUP:
        return config.learning_rate * step / WARMUP
    end = config.learning_rate * config.end_learning_rate_ratio
    return (config.learning_rate - end) * (1 - step / TOTAL) + end


def slices(name: str) -> list[tuple[Any, ...]]:
    """Index of each part of a variable that has a norm of its own."""
    return [(layer, ...) for layer in range(LAYERS)] if name.startswith("layers/") else [(...,)]


def reference(config: OptimizerConfig, factors: Factors | None) -> dict[str, np.ndarray]:
    """LAMB (arXiv 1904.00962, algorithm 2), or AdamW, as the original has them; one layer at a time, float64."""
    weights = {name: value.astype(np.float64) for name, value in start().items()}
    first = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    second = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(STEPS):
        given = {name: value.astype(np.float64) for name, value in gradients(step).items()}
        norm = math.sqrt(math.fsum(float((value**2).sum()) for value in given.values()))
        chosen = factors(step) if factors else {}
        for name in SHAPES:
            factor = np.broadcast_to(chosen.get(name, 1.0), SHAPES[name])
            for part in slices(name):
                gradient = given[name][part] * (config.gradient_clip_norm / max(norm, config.gradient_clip_norm))
                m = first[name][part] = config.beta_1 * first[name][part] + (1 - config.beta_1) * gradient
                v = second[name][part] = config.beta_2 * second[name][part] + (1 - config.beta_2) * gradient**2
                if config.bias_correction:
                    m, v = m / (1 - config.beta_1 ** (step + 1)), v / (1 - config.beta_2 ** (step + 1))
                update = m / (np.sqrt(v) + config.epsilon)
                if name in ADAPTED:
                    update = update + config.weight_decay * weights[name][part]
                ratio = 1.0
                sizes = np.linalg.norm(weights[name][part]), np.linalg.norm(update)
                if config.name is OptimizerKind.lamb and name in ADAPTED and min(sizes) > 0:
                    ratio = float(sizes[0] / sizes[1])
                own = factor[part].flat[0]
                if own == 0:
                    first[name][part] = second[name][part] = 0
                weights[name][part] = weights[name][part] - rate_of(config, step) * own * ratio * update
    return weights


def ours(config: OptimizerConfig, factors: Factors | None) -> dict[str, np.ndarray]:
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        variables = {name: tf.Variable(value, name=name) for name, value in start().items()}
        optimizer = optimizers.create(variables, config, total_steps=TOTAL, warmup_steps=WARMUP)

        @tf.function
        def update(step: tf.Tensor, given: list[tf.Tensor], chosen: Mapping[str, tf.Tensor] | None) -> None:
            tf.distribute.get_strategy().run(lambda: optimizer.apply(given, step=step, factors=chosen))

        for step in range(STEPS):
            chosen = factors and {name: tf.constant(value) for name, value in factors(step).items()}
            update(tf.constant(step, tf.int64), [tf.constant(value) for value in gradients(step).values()], chosen)
    return {name: variable.numpy() for name, variable in variables.items()}


@pytest.mark.parametrize("factors", [None, by_layer], ids=["alike", "by_layer"])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (OptimizerKind.lamb, {}),
        (OptimizerKind.lamb, {"bias_correction": True, "weight_decay": 0.0}),
        (OptimizerKind.adamw, {}),
        (OptimizerKind.adamw, {"bias_correction": True}),
    ],
    ids=["lamb", "lamb_corrected", "adamw", "adamw_corrected"],
)
def test_fifty_steps_equal_the_formulas(kind: OptimizerKind, changes: dict[str, Any], factors: Factors | None) -> None:
    config = settings(kind, **changes)
    found, expected = ours(config, factors), reference(config, factors)
    for name, value in expected.items():
        moved = np.abs(value - start()[name]).max()
        assert moved > 1e-3, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-5 * max(moved, 1.0), err_msg=name)


def once(config: OptimizerConfig, weights: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """How far one update moves each variable."""
    variables = {name: tf.Variable(value, name=name) for name, value in weights.items()}
    optimizer = optimizers.create(variables, config, total_steps=10, warmup_steps=0)
    optimizer.apply([tf.constant(given[name]) for name in variables], step=tf.constant(0))
    return {name: variable.numpy() - weights[name] for name, variable in variables.items()}


def test_a_stack_is_its_layers() -> None:
    """Three layers in one variable move as three variables of one layer each."""
    rng = np.random.default_rng(4)
    weights = rng.standard_normal((LAYERS, 4, 5), np.float32) * np.array([5.0, 1.0, 0.2], np.float32)[:, None, None]
    given = rng.standard_normal((LAYERS, 4, 5), np.float32) * np.array([0.1, 1.0, 3.0], np.float32)[:, None, None]
    config = settings(OptimizerKind.lamb, gradient_clip_norm=math.inf)
    stacked = once(config, {"layers/a/kernel": weights}, {"layers/a/kernel": given})["layers/a/kernel"]
    names = [f"layer_{layer}/a/kernel" for layer in range(LAYERS)]
    apart = once(config, dict(zip(names, weights, strict=True)), dict(zip(names, given, strict=True)))
    np.testing.assert_allclose(stacked, np.stack([apart[name] for name in names]), rtol=1e-5)
    plain = once(config, {"a/kernel": weights}, {"a/kernel": given})["a/kernel"]
    assert np.abs(plain - stacked).max() > 0.1 * np.abs(stacked).max(), "one norm over all layers would be another"


def test_an_update_has_the_size_of_the_weights() -> None:
    """That is what the ratio is for: rate times norm, whatever the gradient; norms and biases are left alone."""
    weights = {"a/kernel": np.full([4, 4], 2.0, np.float32), "a/bias": np.full([4], 2.0, np.float32)}
    config = settings(OptimizerKind.lamb, weight_decay=0.0)
    for size in (1e-3, 1e3):
        given = {name: np.full_like(value, size) for name, value in weights.items()}
        moved = once(config, weights, given)
        assert np.linalg.norm(moved["a/kernel"]) == pytest.approx(0.01 * 8.0, rel=1e-4)
        np.testing.assert_allclose(moved["a/bias"], -0.01 * 0.1 / math.sqrt(0.001), rtol=0.1)  # m / sqrt(v), no ratio


def test_where_the_rate_is_nought_nothing_is_remembered() -> None:
    variables = {"layers/a/kernel": tf.Variable(tf.ones([2, 3, 3]), name="layers/a/kernel")}
    optimizer = optimizers.create(variables, settings(OptimizerKind.lamb), total_steps=10, warmup_steps=0)
    factors = {"layers/a/kernel": tf.constant([0.0, 1.0], shape=[2, 1, 1])}
    optimizer.apply([tf.ones([2, 3, 3])], step=tf.constant(0), factors=factors)
    for slots in (optimizer.momentum, optimizer.velocity):
        assert np.abs(slots["layers/a/kernel"][0]).max() == 0 < np.abs(slots["layers/a/kernel"][1]).min()
    np.testing.assert_array_equal(variables["layers/a/kernel"][0], 1.0)
    assert np.abs(variables["layers/a/kernel"][1] - 1).min() > 1e-3


@pytest.mark.parametrize("has_gradient", [True, False])
def test_what_rests_throughout_still_counts_in_the_clip(has_gradient: bool) -> None:
    """A factor of a plain 0.0: no update and no moment; its gradient, if there is one, belongs to the global norm."""
    variables = {name: tf.Variable(tf.ones([2, 2]), name=name) for name in ("a/kernel", "b/kernel")}
    optimizer = optimizers.create(variables, settings(OptimizerKind.adamw), total_steps=10, warmup_steps=0)
    given = [tf.fill([2, 2], 3.0), tf.fill([2, 2], 4.0) if has_gradient else None]
    found = optimizer.apply(given, step=tf.constant(0), factors={"b/kernel": 0.0})
    assert float(found["gradient_norm"]) == pytest.approx(10.0 if has_gradient else 6.0)
    np.testing.assert_allclose(optimizer.momentum["a/kernel"], 0.1 * 3.0 / float(found["gradient_norm"]), rtol=1e-5)
    for value, expected in ((variables["b/kernel"], 1.0), (optimizer.momentum["b/kernel"], 0.0)):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lamb", "lamb-factors", "adamw-factors"])
def test_replicas_add_their_gradients(name: str) -> None:
    """Four pieces of a gradient give the same three updates on one device and on two."""
    found = replicas.measured()
    for variable in replicas.pieces():
        np.testing.assert_allclose(
            found[f"{name}-2:{variable}"], found[f"{name}-1:{variable}"], rtol=1e-5, atol=1e-6, err_msg=variable
        )
    assert np.abs(found[f"{name}-1:a/kernel"] - 1).max() > 0.05
