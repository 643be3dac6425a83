"""AdamW and its schedule against the original's formulas, computed number by number in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import replicas
import tensorflow as tf

from mobilebert_exp.config import OptimizerConfig
from mobilebert_exp.modeling.optimizers import AdamW, learning_rate
from mobilebert_exp.modeling.variables import encoder_variables, is_decayed

STEPS = 50
SHAPES = {
    "embeddings/word/table": (5, 3),
    "layers/ffn_0/output/kernel": (2, 3, 4),
    "layers/ffn_0/output/bias": (2, 4),
    "layers/ffn_0/norm/gamma": (2, 4),
    "layers/ffn_0/norm/beta": (2, 4),
}
DECAYED = {"embeddings/word/table", "layers/ffn_0/output/kernel"}
Arrays = Mapping[str, np.ndarray]


def settings(**changes: Any) -> OptimizerConfig:
    return OptimizerConfig(**{"learning_rate": 0.01, "weight_decay": 0.1, "gradient_clip_norm": 1.0, **changes})


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    """Of sizes from far below the clip to far above it, with an element and a row that rest now and then."""
    rng = np.random.default_rng([2, step])
    size = np.float32(10.0 ** rng.uniform(-3, 1))
    found = {name: rng.standard_normal(shape, np.float32) * size for name, shape in SHAPES.items()}
    found["embeddings/word/table"][step % 5] = 0
    return found


def rate_of(config: OptimizerConfig, step: int, *, total: int, warmup: int) -> float:
    """google-research/bert, `optimization.create_optimizer`, with MobileBERT's end of the decay."""
    if step < warmup:
        return config.learning_rate * step / warmup
    end = config.learning_rate * config.end_learning_rate_ratio
    left = 1 - min(step, total) / total
    return (config.learning_rate - end) * left**config.decay_power + end


def reference(config: OptimizerConfig, *, total: int, warmup: int) -> tuple[Arrays, list[float]]:
    """`AdamWeightDecayOptimizer` of google-research/bert, one Python float at a time."""
    values = {(n, i): float(x) for n, array in start().items() for i, x in enumerate(array.ravel())}
    first = dict.fromkeys(values, 0.0)
    second = dict.fromkeys(values, 0.0)
    norms = []
    for step in range(STEPS):
        flat = {(n, i): float(x) for n, array in gradients(step).items() for i, x in enumerate(array.ravel())}
        norms.append(math.sqrt(math.fsum(g * g for g in flat.values())))
        scale = config.gradient_clip_norm / max(norms[-1], config.gradient_clip_norm)
        rate = rate_of(config, step, total=total, warmup=warmup)
        for key, raw in flat.items():
            gradient = raw * (scale if math.isfinite(config.gradient_clip_norm) else 1.0)
            first[key] = config.beta_1 * first[key] + (1 - config.beta_1) * gradient
            second[key] = config.beta_2 * second[key] + (1 - config.beta_2) * gradient * gradient
            m, v = first[key], second[key]
            if config.bias_correction:
                m, v = m / (1 - config.beta_1 ** (step + 1)), v / (1 - config.beta_2 ** (step + 1))
            update = m / (math.sqrt(v) + config.epsilon)
            if key[0] in DECAYED:
                update += config.weight_decay * values[key]
            values[key] -= rate * update
    return _arrays(values), norms


def _arrays(values: Mapping[tuple[str, int], float]) -> Arrays:
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    return {n: np.array([values[n, i] for i in range(sizes[n])]).reshape(shape) for n, shape in SHAPES.items()}


def ours(config: OptimizerConfig, *, total: int, warmup: int) -> tuple[Arrays, list[float]]:
    """The same steps through TensorFlow; the embedding's gradient comes as the rows that were looked up."""
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        variables = {name: tf.Variable(value, name=name) for name, value in start().items()}
        optimizer = AdamW(variables, config, total_steps=total, warmup_steps=warmup)

    @tf.function
    def update(step: tf.Tensor, dense: dict[str, tf.Tensor]) -> tf.Tensor:
        table = dense["embeddings/word/table"]
        rows = tf.concat([tf.range(5), tf.range(5)], 0)  # each row twice, in unequal parts
        sparse = tf.IndexedSlices(tf.concat([0.25 * table, 0.75 * table], 0), rows, dense_shape=tf.shape(table))
        given = [sparse if name == "embeddings/word/table" else dense[name] for name in variables]
        return tf.distribute.get_strategy().run(lambda: optimizer.apply(given, step=step))["gradient_norm"]

    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        norms = [float(update(tf.constant(step, tf.int64), gradients(step))) for step in range(STEPS)]
    return {name: variable.numpy() for name, variable in variables.items()}, norms


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias_correction": True},
        {"gradient_clip_norm": 1e-3},
        {"gradient_clip_norm": math.inf},
        {"decay_power": 2.0, "beta_1": 0.0, "epsilon": 0.1},
    ],
    ids=["original", "bias_correction", "always_clipped", "never_clipped", "other_factors"],
)
def test_fifty_steps_equal_the_original(changes: dict[str, Any]) -> None:
    config = settings(**changes)
    expected, norms = reference(config, total=60, warmup=10)
    found, found_norms = ours(config, total=60, warmup=10)
    np.testing.assert_allclose(found_norms, norms, rtol=1e-5)
    for name, value in expected.items():
        moved = np.abs(value - start()[name]).max()
        assert moved > 1e-3, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-5 * max(moved, 1.0), err_msg=name)


def test_the_clip_is_one_for_all_variables() -> None:
    """A huge gradient of one variable shrinks the step of another, as one norm over all of them must."""
    found = {}
    for size in (0.0, 1e3):
        variables = {name: tf.Variable(tf.zeros([2]), name=name) for name in ("a/kernel", "b/kernel")}
        optimizer = AdamW(variables, settings(epsilon=1.0, weight_decay=0.0), total_steps=10, warmup_steps=0)
        optimizer.apply([tf.fill([2], size), tf.constant([0.1, 0.0])], step=tf.constant(0))
        found[size] = abs(float(variables["b/kernel"][0]))
    assert found[0.0] > 100 * found[1e3] > 0


def test_decay_spares_norms_and_biases() -> None:
    """Without a gradient the decay is all that moves a variable."""
    variables = {name: tf.Variable(value, name=name) for name, value in start().items()}
    optimizer = AdamW(variables, settings(), total_steps=10, warmup_steps=0)
    optimizer.apply([tf.zeros(shape) for shape in SHAPES.values()], step=tf.constant(0))
    for name, variable in variables.items():
        factor = 1 - 0.01 * 0.1 if name in DECAYED else 1.0
        np.testing.assert_allclose(variable, start()[name] * np.float32(factor), rtol=1e-6, err_msg=name)


def test_what_is_decayed_in_a_model() -> None:
    """By the last part of the name: kernels and tables are, everything else is not."""
    import toy

    for spec in encoder_variables(toy.model(classifier_activation=True)):
        assert is_decayed(spec.name) is (spec.name.rsplit("/", 1)[-1] in ("kernel", "table")), spec.name


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, 5e-6),
        (5, 2.5e-5),
        (10, 4.50005e-5),  # the decay has run since step 0: the peak itself is never reached
        (50, 2.50025e-5),
        (99, 5.0495e-7),
        (100, 5e-9),
        (1000, 5e-9),
    ],
)
def test_schedule_at_chosen_steps(step: int, expected: float) -> None:
    """Figures worked out by hand for 100 steps, 10 of them warm-up, to 5e-5."""
    found = learning_rate(
        OptimizerConfig(learning_rate=5e-5), tf.constant(step, tf.int64), total_steps=100, warmup_steps=10
    )
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("warmup", [0, 1, 30, 100])
def test_schedule_follows_the_formula(power: float, warmup: int) -> None:
    config = OptimizerConfig(learning_rate=3e-3, decay_power=power, end_learning_rate_ratio=0.1)
    for step in (0, 1, 29, 30, 31, 50, 99, 100):
        found = float(learning_rate(config, tf.constant(step), total_steps=100, warmup_steps=warmup))
        assert found == pytest.approx(rate_of(config, step, total=100, warmup=warmup), rel=1e-5, abs=1e-10), step


def test_decay_equals_tensorflows_own_schedule() -> None:
    theirs = tf.keras.optimizers.schedules.PolynomialDecay(2e-4, 321, end_learning_rate=2e-8, power=1.0)
    for step in (0, 7, 160, 320, 321, 400):
        found = learning_rate(OptimizerConfig(learning_rate=2e-4), tf.constant(step), total_steps=321, warmup_steps=0)
        assert float(found) == pytest.approx(float(theirs(step)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_replicas_add_their_gradients(count: int) -> None:
    """Four pieces of a gradient give the same three updates on one device, on two and on four; clipped as a whole."""
    found = replicas.measured()
    whole = [math.sqrt(sum(float((v.sum(0).astype(np.float64) ** 2).sum()) for v in replicas.pieces().values()))] * 3
    np.testing.assert_allclose(found["adamw-1:norms"], whole, rtol=1e-5)
    for name in ("norms", "a/kernel", "a/bias"):
        np.testing.assert_allclose(found[f"adamw-{count}:{name}"], found[f"adamw-1:{name}"], rtol=1e-5, atol=1e-6)
    assert np.abs(found["adamw-1:a/kernel"] - 1).max() > 0.1
