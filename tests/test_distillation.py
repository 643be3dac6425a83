"""The losses and the order of distillation, each against NumPy in float64."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy_distillation as oracle
import pytest
import tensorflow as tf
import toy
from numpy_mobilebert import Encoded, Model

from mobilebert_exp.config import LayerLoop, ModelConfig, Normalization
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.modeling import distillation, transfer
from mobilebert_exp.modeling.distillation import LayerOutput, TransferLosses
from mobilebert_exp.modeling.encoder import MobileBertEncoder
from mobilebert_exp.modeling.transfer import LowerLayers, Padding, Semantics, Strategy, TransferConfig
from mobilebert_exp.modeling.variables import encoder_variables, pretraining_variables

LAYERS, BATCH, LENGTH = 3, 4, 6
VOCABULARY = 13


def architecture(**changes: Any) -> ModelConfig:
    """Small enough for a derivative of every number."""
    small = {
        **{"vocab_size": VOCABULARY, "embedding_size": 4, "hidden_size": 8, "intra_bottleneck_size": 4},
        **{"intermediate_size": 6, "num_layers": LAYERS, "num_heads": 2, "max_positions": LENGTH},
    }
    return dataclasses.replace(toy.model(), **{**small, **changes})


def teacher_architecture(**changes: Any) -> ModelConfig:
    wide = {"intra_bottleneck_size": 12, "normalization": Normalization.layer_norm, "num_feedforward_networks": 1}
    return architecture(**{**wide, "key_query_shared_bottleneck": False, "classifier_activation": True, **changes})


def encoder(config: ModelConfig, *, seed: int) -> MobileBertEncoder:
    """With weights large enough for every part to matter."""
    made = MobileBertEncoder(config, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in made.weights.values():
        variable.assign(variable + 0.3 * rng.standard_normal(variable.shape))
    return made


def texts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, masks and segments; every row is padded differently."""
    rng = np.random.default_rng(3)
    used = np.arange(LENGTH) < np.array([[LENGTH], [4], [2], [5]])
    ids = rng.integers(1, VOCABULARY, (BATCH, LENGTH)) * used
    return ids, used.astype(np.int64), ((np.arange(LENGTH) >= 3) * used).astype(np.int64)


@functools.cache
def encoded() -> tuple[Encoded, Encoded]:
    """What NumPy finds for the student and for the teacher."""
    return tuple(
        Model({name: value.numpy().astype(np.float64) for name, value in made.weights.items()}, made.config).encode(
            *texts()
        )
        for made in (encoder(architecture(), seed=1), encoder(teacher_architecture(), seed=2))
    )  # type: ignore[return-value]


def outputs(encoded: Encoded, layers: list[int]) -> LayerOutput:
    return LayerOutput(
        tf.constant(np.stack([encoded.hidden[layer + 1] for layer in layers]), tf.float32),
        tf.constant(np.stack([encoded.scores[layer] for layer in layers]), tf.float32),
    )


@pytest.mark.parametrize("normalization", list(Normalization))
@pytest.mark.parametrize("narrow", ["shared", "bottleneck", "none"])
def test_numpy_and_the_encoder_agree(normalization: Normalization, narrow: str) -> None:
    """So that what follows is about distillation alone."""
    config = architecture(
        normalization=normalization,
        use_bottleneck_attention=narrow == "bottleneck",
        key_query_shared_bottleneck=narrow == "shared",
    )
    made = encoder(config, seed=4)
    found: Any = made(*(tf.constant(part, tf.int32) for part in texts()), all_layers=True)
    weights = {name: value.numpy().astype(np.float64) for name, value in made.weights.items()}
    expected = Model(weights, config).encode(*texts())
    np.testing.assert_allclose(found.hidden_ABLH, np.stack(expected.hidden), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.scores_ABNLM, np.stack(expected.scores), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("semantics", list(Semantics))
def test_each_loss_equals_numpy(padding: Padding, semantics: Semantics) -> None:
    """Two layers at once, taught by others than those of their own number."""
    student, teacher = encoded()
    ids, mask, _ = texts()
    config = TransferConfig(padding=padding, semantics=semantics)
    found = distillation.transfer_losses(
        outputs(student, [0, 1]),
        outputs(teacher, [1, 2]),
        counted_BL=tf.constant(mask if padding is Padding.masked else np.ones_like(ids)),
        all_hidden=tf.constant(np.stack(teacher.hidden), tf.float32) if semantics is Semantics.tf1_exact else None,
    )
    for index, (layer, matching) in enumerate([(0, 1), (1, 2)]):
        expected = oracle.transfer(student, teacher, mask, layer=layer, matching=matching, config=config)
        for name in TransferLosses._fields:
            value = tf.reduce_mean(getattr(found, name)[index])
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
        total = tf.reduce_mean(found.total(config, layers=LAYERS)[index])
        np.testing.assert_allclose(total, oracle.weighted(expected, config, layers=LAYERS), rtol=1e-5)


def test_the_original_s_mistake_is_another_loss() -> None:
    student, teacher = encoded()
    found = {
        each: oracle.transfer(student, teacher, texts()[1], layer=0, matching=0, config=TransferConfig(semantics=each))
        for each in Semantics
    }
    corrected, exact = found[Semantics.corrected], found[Semantics.tf1_exact]
    assert corrected["hidden"] == exact["hidden"]
    assert abs(corrected["mean"] / exact["mean"] - 1) > 0.01
    assert abs(corrected["variance"] / exact["variance"] - 1) > 0.01


def test_who_is_like_the_teacher_has_nothing_to_learn() -> None:
    teacher = outputs(encoded()[1], [0, 1, 2])
    found = distillation.transfer_losses(teacher, teacher, counted_BL=tf.ones([BATCH, LENGTH]))
    for name in ("hidden", "mean", "variance", "attention_kl"):
        np.testing.assert_allclose(getattr(found, name), 0, atol=1e-6, err_msg=name)
    assert float(tf.reduce_min(found.attention)) > 0.01, "the teacher's own entropy stays"


def test_no_gradient_goes_through_the_teacher() -> None:
    student, teacher = (outputs(each, [0]) for each in encoded())
    with tf.GradientTape() as tape:
        tape.watch([*student, *teacher])
        found = distillation.transfer_losses(
            student, teacher, counted_BL=tf.ones([BATCH, LENGTH]), all_hidden=teacher.hidden
        )
        loss = tf.reduce_sum(found.total(TransferConfig(), layers=1))
    ours, theirs = tape.gradient(loss, [list(student), list(teacher)])
    assert all(float(tf.norm(gradient)) > 0 for gradient in ours)
    assert theirs == [None, None]


def test_what_is_masked_is_not_read() -> None:
    """Not a number at the padding changes nothing where padding does not count."""
    student, teacher = encoded()
    mask = texts()[1]
    clean, other = outputs(student, [1]), outputs(teacher, [1])
    spoilt = LayerOutput(tf.where(mask[None, :, :, None] > 0, clean.hidden, 1e6), clean.scores)
    expected, found = (
        distillation.transfer_losses(each, other, counted_BL=tf.constant(mask)) for each in (clean, spoilt)
    )
    np.testing.assert_allclose(found.hidden, expected.hidden, rtol=1e-6)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_words_are_taught_by_the_truth_and_by_the_teacher(ratio: float, temperature: float) -> None:
    rng = np.random.default_rng(5)
    student, teacher = rng.standard_normal((2, BATCH, 3, VOCABULARY))
    batch = {
        "masked_lm_ids": rng.integers(0, VOCABULARY, (BATCH, 3)),
        "masked_lm_weights": (rng.random((BATCH, 3)) < 0.7).astype(np.float64),
        "next_sentence_labels": np.zeros((BATCH, 1), int),
    }
    certain = np.array([[50.0, -50.0]] * BATCH)  # of the next sentence, so that it adds nothing
    expected = oracle.pretraining(student, certain, batch, teacher_BPV=teacher, ratio=ratio, temperature=temperature)
    found_BP = distillation.word_losses(
        tf.constant(student, tf.float32),
        tf.constant(batch["masked_lm_ids"]),
        teacher_BPV=tf.constant(teacher, tf.float32),
        ground_truth_ratio=ratio,
        temperature=temperature,
    )
    weights_BP = batch["masked_lm_weights"]
    np.testing.assert_allclose((found_BP * weights_BP).numpy().sum() / (weights_BP.sum() + 1e-5), expected, rtol=1e-5)


def test_a_temperature_keeps_the_size_of_gradients() -> None:
    """At a high one the gradient tends to the difference of the centred logits over V, whatever the temperature."""
    rng = np.random.default_rng(6)
    student, teacher = (tf.constant(rng.standard_normal((1, 1, VOCABULARY)), tf.float32) for _ in range(2))
    for temperature in (50.0, 100.0):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = distillation.word_losses(
                student, tf.zeros([1, 1], tf.int32), teacher_BPV=teacher, ground_truth_ratio=0, temperature=temperature
            )
        centred = [each - tf.reduce_mean(each) for each in (student, teacher)]
        np.testing.assert_allclose(tape.gradient(loss, student), (centred[0] - centred[1]) / VOCABULARY, atol=5e-3)


def specs() -> list[Any]:
    return encoder_variables(architecture()) + pretraining_variables(architecture())


@pytest.mark.parametrize("strategy", [Strategy.progressive, Strategy.joint])
@pytest.mark.parametrize("lower", list(LowerLayers))
@pytest.mark.parametrize("steps", [3, 30])
def test_rates_follow_the_original_s_formula(strategy: Strategy, lower: LowerLayers, steps: int) -> None:
    config = TransferConfig(strategy=strategy, lower_layers=lower, steps=steps)
    turn = transfer.steps_per_layer(config, layers=LAYERS)
    for step in range(steps):
        factors = distillation.rate_factors(
            specs(), config, tf.constant(step, tf.int64), steps_per_layer=turn, layers=LAYERS
        )
        expected = oracle.rates(config, step, layers=LAYERS)
        for spec in specs():
            shape = (LAYERS, *(1 for _ in spec.shape[1:])) if spec.name.startswith("layers/") else ()
            assert np.shape(factors[spec.name]) == shape, spec.name
            np.testing.assert_allclose(
                np.ravel(factors[spec.name]), expected if shape else 0, rtol=1e-5, err_msg=f"{step} {spec.name}"
            )


@pytest.mark.parametrize(
    ("step", "layer", "share"),
    [(0, 0, 0.0), (500, 0, 0.5), (970, 0, 0.97), (5000, 0, 0.970711), (9999, 0, 0.901), (10_000, 1, 0.0),
     (239_999, 23, 0.901), (240_000, 23, 0.0)],
)  # fmt: skip
def test_turns_of_the_readme_s_recipe(step: int, layer: int, share: float) -> None:
    """10,000 steps a layer, worked out by hand."""
    turn = transfer.steps_per_layer(TransferConfig(), layers=24)
    now = tf.constant(step, tf.int64)
    assert int(distillation.layer_in_turn(now, steps_per_layer=turn, layers=24)) == layer
    assert float(distillation.warm(now, steps_per_layer=turn)) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("loop", list(LayerLoop))
def test_one_graph_gives_every_layer(loop: LayerLoop) -> None:
    """Output and scores of each block, and one trace for all."""
    made = encoder(architecture(layer_loop=loop), seed=7)
    batch = [tf.constant(part, tf.int32) for part in texts()]
    whole: Any = made(*batch, all_layers=True)
    traces = 0

    @tf.function(autograph=False)
    def at(layer: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        nonlocal traces
        traces += 1
        return made.at_layer(*batch, layer=layer)

    for layer in range(LAYERS):
        hidden, scores = at(tf.constant(layer))
        np.testing.assert_allclose(hidden, whole.hidden_ABLH[layer + 1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores, whole.scores_ABNLM[layer], rtol=1e-5, atol=1e-6)
    assert traces == 1


@pytest.mark.parametrize("loop", [LayerLoop.scan, pytest.param(LayerLoop.unroll, marks=pytest.mark.slow)])
@pytest.mark.parametrize("trains_below", [True, False])
def test_gradients_of_a_layer(loop: LayerLoop, trains_below: bool) -> None:
    """Those of the whole encoder, or of the block alone; nothing above it has any."""
    made = encoder(architecture(layer_loop=loop, num_layers=2), seed=8)
    batch = [tf.constant(part, tf.int32) for part in texts()]

    def gradients(outputs: Callable[[], tuple[tf.Tensor, tf.Tensor]]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            hidden, scores = outputs()
            loss = tf.reduce_sum(hidden**2) + tf.reduce_sum(tf.nn.softmax(scores) ** 2)
        found = tape.gradient(loss, list(made.weights.values()), unconnected_gradients="zero")
        return [tf.convert_to_tensor(gradient) for gradient in found]

    @tf.function(autograph=False)
    def both(layer: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        def expected() -> tuple[tf.Tensor, tf.Tensor]:
            whole = made(*batch, all_layers=True)
            return tf.gather(whole.hidden_ABLH, layer + 1), tf.gather(whole.scores_ABNLM, layer)

        return gradients(lambda: made.at_layer(*batch, layer=layer, trains_below=trains_below)), gradients(expected)

    for layer in range(2):
        for name, found, wanted in zip(made.weights, *both(tf.constant(layer)), strict=True):
            reached = np.ones(2) if trains_below else np.arange(2) == layer
            if not name.startswith("layers/"):
                reached = np.full((), trains_below)
            expected = wanted * reached.reshape(*reached.shape, *(1 for _ in wanted.shape[reached.ndim :]))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=f"{layer} {name}")


def test_layer_maps() -> None:
    student, teacher = architecture(num_layers=2), architecture(num_layers=6)
    chosen = TransferConfig(layer_map=[2, 6])
    assert transfer.layer_map(TransferConfig(), student=student, teacher=student) == [0, 1]
    assert transfer.layer_map(chosen, student=student, teacher=teacher) == [1, 5]


@pytest.mark.parametrize(
    ("given", "students", "teachers", "message"),
    [
        (None, 2, 6, "the teacher has 6 layers and the student 2; say which of the teacher's teaches which: "
                     "task.transfer.layer_map=[3, 6]"),
        ([1, 2, 3], 2, 6, "task.transfer.layer_map has 3 entries and the student 2 layers; name one of the teacher's "
                          "layers for each of them"),
        ([1, 7], 2, 6, "task.transfer.layer_map=[1, 7] names layer 7 and the teacher has 6; lower it"),
    ],
)  # fmt: skip
def test_a_map_that_does_not_fit(given: list[int] | None, students: int, teachers: int, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        transfer.layer_map(
            TransferConfig(layer_map=given),
            student=architecture(num_layers=students),
            teacher=architecture(num_layers=teachers),
        )
    assert str(refused.value) == message


@pytest.mark.parametrize("given", [[], [0, 1], [2, 2], [3, 1]])
def test_a_map_that_is_none(given: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"^task\.transfer\.layer_map=\[.*\] (is empty|does not rise)"):
        TransferConfig(layer_map=given)


def test_turns_must_be_equal() -> None:
    with pytest.raises(ConfigError) as refused:
        transfer.steps_per_layer(TransferConfig(steps=100), layers=24)
    assert str(refused.value) == ("task.transfer.steps=100 is not divisible by the student's 24 layers; set it to 96")
    assert transfer.steps_per_layer(TransferConfig(steps=100, strategy=Strategy.joint), layers=24) == 100


def test_teaching_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="which teaches nothing"):
        TransferConfig(hidden_factor=0, mean_factor=0, variance_factor=0, attention_factor=0)


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_heads", "type_vocab_size"])
def test_models_that_cannot_be_compared(name: str) -> None:
    student = architecture()
    with pytest.raises(ConfigError, match=rf"^model\.{name}=\d+ and task\.teacher\.{name}=\d+ differ; "):
        transfer.check_pair(student=student, teacher=architecture(**{name: 2 * getattr(student, name)}))
