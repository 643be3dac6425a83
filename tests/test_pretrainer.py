"""The model of pre-training equals tf-models' `MobileBertMaskedLM` over its encoder, and plain NumPy for the pair.

Weights, batches and tolerances are those of `test_encoder_parity`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
from official.modeling import tf_utils
from official.nlp.modeling.layers import MobileBertMaskedLM
from official.nlp.modeling.networks import MobileBERTEncoder
from test_encoder_parity import PARAMETERS, TOLERANCE, batch, copy, difference, keyed, original, preset
from test_encoder_parity import randomise as randomise_encoder

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.pretrainer import PretrainingModel
from mobilebert_exp.modeling.variables import (
    encoder_variables,
    masked_lm_variables,
    next_sentence_variables,
    parameters,
    pretraining_variables,
)

WITH_MASKED_LM = {
    "opt": 36_596_538,
    "qat": 36_596_538,
    "base": 36_596_538,
    "tiny": 27_500_346,
    "teacher": 306_482_490,
    "multilingual": 82_266_363,
}
POSITIONS = tf.constant([[1, 5, 5, 0], [19, 2, 0, 0], [0, 1, 0, 0]])  # the last ones stand for none


def randomise(model: PretrainingModel) -> None:
    """Every weight random: kernels and biases at 0.02, the table at 0.1, the norm's gamma around 0.6."""
    randomise_encoder(model.encoder)
    for name, variable in model.weights.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("/gamma"):
            variable.assign(rng.uniform(0.4, 0.8, variable.shape).astype(np.float32))
        else:
            deviation = np.float32(0.1 if name.endswith("/table") else 0.02)
            variable.assign(rng.standard_normal(variable.shape, np.float32) * deviation)


def their_head(model: PretrainingModel, encoder: MobileBERTEncoder) -> MobileBertMaskedLM:
    """tf-models' head with our weights, each of its variables exactly once."""
    config = model.encoder.config
    head = MobileBertMaskedLM(
        embedding_table=encoder.get_embedding_table(),
        activation=tf_utils.get_activation(config.hidden_act.name),
        name="cls/predictions",
    )
    head(tf.zeros([1, 1, config.hidden_size]), tf.zeros([1, 1], tf.int32))  # builds it
    variables = head_variables(head)
    assert len(head.trainable_variables) == len(variables) + 1, "the word table is among them"
    assert variables.keys() == {spec.name for spec in masked_lm_variables(config)}
    for name, variable in variables.items():
        variable.assign(model.weights[name])
    return head


def head_variables(head: MobileBertMaskedLM) -> dict[str, tf.Variable]:
    """tf-models' variables by our names."""
    return {
        "heads/masked_lm/transform/kernel": head.dense.kernel,
        "heads/masked_lm/transform/bias": head.dense.bias,
        "heads/masked_lm/norm/gamma": head.layer_norm.gamma,
        "heads/masked_lm/norm/beta": head.layer_norm.beta,
        "heads/masked_lm/extra/table": head.extra_output_weights,
        "heads/masked_lm/output/bias": head.bias,
    }


def loss(scores: tf.Tensor) -> tf.Tensor:
    """One that every score moves, differently."""
    rng = np.random.default_rng(4)
    return tf.reduce_sum(scores * rng.standard_normal(scores.shape, np.float32)) / np.float32(scores.shape[-1])


def both(config: ModelConfig) -> tuple[PretrainingModel, MobileBERTEncoder, MobileBertMaskedLM]:
    ours, encoder = PretrainingModel(config), original(config)
    randomise(ours)
    copy(ours.encoder, encoder)
    return ours, encoder, their_head(ours, encoder)


@pytest.mark.parametrize("name", ["opt", "tiny", "teacher"])
def test_masked_words_equal_tf_models(name: str) -> None:
    config = preset(name, layers=2, vocabulary=307)
    ours, encoder, head = both(config)
    for padded in (False, True):
        check(ours, encoder, head, batch(config, rows=3, length=20, padded=padded))


def check(
    ours: PretrainingModel,
    encoder: MobileBERTEncoder,
    head: MobileBertMaskedLM,
    inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
) -> None:
    """Scores and their gradients; those of the word table come through both of its uses."""
    with tf.GradientTape() as tape:
        found = ours(*inputs, POSITIONS)
        our_loss = loss(found.masked_lm_BPV)
    with tf.GradientTape() as their_tape:
        encoded = encoder(keyed(inputs))
        expected = head(encoded["sequence_output"], POSITIONS)
        their_loss = loss(expected)
    assert found.masked_lm_BPV.shape == (3, 4, 307)
    assert difference(found.masked_lm_BPV, expected) <= TOLERANCE
    assert 0.5 < float(tf.reduce_max(tf.abs(expected))) < 20

    words = "embeddings/word/table"
    variables = {words: encoder.get_embedding_table(), **head_variables(head)}
    kept = [{**ours.encoder.weights, **ours.weights}[name] for name in variables]
    pairs = zip(tape.gradient(our_loss, kept), their_tape.gradient(their_loss, list(variables.values())), strict=True)
    for name, (gradient, expected_gradient) in zip(variables, pairs, strict=True):
        values = tf.convert_to_tensor(expected_gradient)
        scale = float(tf.reduce_max(tf.abs(values)))
        assert difference(tf.convert_to_tensor(gradient), values) <= min(TOLERANCE, 1e-3 * scale), name


@pytest.mark.parametrize("name", ["opt", "teacher"])
def test_pairs_are_scored_from_the_pooled_vector(name: str) -> None:
    model = PretrainingModel(preset(name, layers=1, vocabulary=307))
    randomise(model)
    inputs = batch(model.encoder.config, rows=3, length=20, padded=True)
    found = model(*inputs, POSITIONS)
    kernel, bias = (model.weights[f"heads/next_sentence/{part}"].numpy() for part in ("kernel", "bias"))
    assert difference(found.next_sentence_B2, model.encoder(*inputs).pooled_BH.numpy() @ kernel + bias) <= 1e-6
    if model.encoder.config.classifier_activation:
        assert float(tf.reduce_max(tf.abs(found.encoded.pooled_BH))) < 1


def test_a_place_is_scored_by_itself() -> None:
    """Neither the other places nor their order matter, and a place asked for twice is scored twice."""
    model = PretrainingModel(preset("opt", layers=1, vocabulary=307))
    randomise(model)
    inputs = batch(model.encoder.config, rows=2, length=9, padded=False)
    every = model(*inputs, tf.tile(tf.range(9)[None], [2, 1])).masked_lm_BPV.numpy()
    asked = model(*inputs, tf.constant([[7, 0, 7], [3, 2, 8]])).masked_lm_BPV.numpy()
    expected = np.stack([every[0, [7, 0, 7]], every[1, [3, 2, 8]]])
    np.testing.assert_allclose(asked, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(asked[0, 0], asked[0, 2])


@pytest.mark.parametrize(("name", "expected"), WITH_MASKED_LM.items())
def test_counts_what_the_reference_counts(name: str, expected: int) -> None:
    config = preset(name)
    assert parameters(encoder_variables(config)) == PARAMETERS[name]
    assert parameters([*encoder_variables(config), *masked_lm_variables(config)]) == expected
    assert parameters(next_sentence_variables(config)) == 1_026


def test_the_plan_names_what_is_built() -> None:
    config = preset("opt", layers=2, vocabulary=307)

    def shapes(variables: Sequence[tf.Variable]) -> dict[str, tuple[int, ...]]:
        return {variable.name.split(":")[0]: tuple(variable.shape) for variable in variables}

    specs = [*encoder_variables(config), *pretraining_variables(config)]
    assert shapes(PretrainingModel(config).trainable_variables) == {spec.name: spec.shape for spec in specs}
