"""Laws of the encoder itself; `test_encoder_parity.py` holds it against tf-models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import toy
from scipy.special import erf

from mobilebert_exp.config import Activation, LayerLoop, ModelConfig, Normalization
from mobilebert_exp.modeling.block import ACTIVATIONS, dropout, normalize
from mobilebert_exp.modeling.encoder import EncoderOutput, MobileBertEncoder
from mobilebert_exp.modeling.heads import SpanModel, span_losses
from mobilebert_exp.modeling.initializers import TRUNCATED_DEVIATION, initial_value
from mobilebert_exp.modeling.variables import Fill, VariableSpec, encoder_variables

TOLERANCE = 1e-5
PINNED = [-0.00789768435060978, -0.018618883565068245, -0.016664989292621613]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "shared": {"normalization": Normalization.no_norm, "num_feedforward_networks": 2},
    "bottleneck": {"use_bottleneck_attention": True, "hidden_act": Activation.relu6},
    "wide": {"key_query_shared_bottleneck": False, "classifier_activation": True, "hidden_act": Activation.gelu},
}


def config(name: str = "shared", **changes: Any) -> ModelConfig:
    return toy.model(**{"num_layers": 3, "layer_loop": LayerLoop.scan, **ARCHITECTURES[name], **changes})


def batch(*, rows: int = 3, length: int = 9, padded: bool = True) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Random ids of two texts; row `i` ends `2 i` tokens early."""
    rng = np.random.default_rng(1)
    ends = length - 2 * np.arange(rows)[:, None] * padded
    mask = (np.arange(length) < ends).astype(np.int32)
    ids = rng.integers(1, toy.VOCABULARY, (rows, length)).astype(np.int32) * mask
    return tf.constant(ids), tf.constant(mask), tf.constant((np.arange(length) > 4).astype(np.int32) * mask)


def randomised(encoder: MobileBertEncoder) -> MobileBertEncoder:
    """Norms and biases that do something."""
    rng = np.random.default_rng(2)
    for name, variable in encoder.weights.items():
        if name.endswith(("/gamma", "/beta", "/bias")):
            variable.assign_add(rng.uniform(-0.3, 0.3, variable.shape).astype(np.float32))
    return encoder


def outputs_and_gradients(
    encoder: MobileBertEncoder, seed: tf.Tensor | None
) -> tuple[EncoderOutput, dict[str, np.ndarray]]:
    @tf.function(autograph=False)
    def compute() -> tuple[EncoderOutput, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            found = encoder(*batch(), seed=seed, all_layers=True)
            loss = tf.reduce_mean(found.hidden_ABLH**2) + tf.reduce_mean(tf.sin(found.pooled_BH))
        return found, [tf.convert_to_tensor(g) for g in tape.gradient(loss, list(encoder.weights.values()))]

    found, gradients = compute()
    return found, {name: value.numpy() for name, value in zip(encoder.weights, gradients, strict=True)}


@pytest.mark.parametrize("seed", [None, (3, 4)], ids=["plain", "dropout"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scan_and_unroll_are_one_function(name: str, seed: tuple[int, int] | None) -> None:
    found = {}
    for loop in LayerLoop:
        chosen = config(name, layer_loop=loop, hidden_dropout=0.2, attention_dropout=0.3)
        encoder = randomised(MobileBertEncoder(chosen, seed=8))
        found[loop] = outputs_and_gradients(encoder, None if seed is None else tf.constant(seed))
    (scan, scan_gradients), (unroll, unroll_gradients) = found[LayerLoop.scan], found[LayerLoop.unroll]
    for field, value in scan._asdict().items():
        np.testing.assert_allclose(value, getattr(unroll, field), rtol=TOLERANCE, atol=TOLERANCE, err_msg=field)
    for key, gradient in scan_gradients.items():
        assert key.endswith("attention/key/bias") or np.abs(gradient).max() > 1e-4, f"{key} has no gradient"
        allowed = TOLERANCE * np.abs(unroll_gradients[key]).max() + 1e-7
        np.testing.assert_allclose(gradient, unroll_gradients[key], rtol=1e-4, atol=allowed, err_msg=key)


@pytest.mark.parametrize(("loop", "grows"), [(LayerLoop.scan, False), (LayerLoop.unroll, True)])
def test_the_graph_of_a_scan_does_not_grow_with_depth(loop: LayerLoop, grows: bool) -> None:
    def operations(layers: int) -> int:
        encoder = MobileBertEncoder(config(num_layers=layers, layer_loop=loop))
        function = tf.function(lambda: encoder(*batch()).sequence_BLH, autograph=False).get_concrete_function()
        library = function.graph.as_graph_def().library.function
        return len(function.graph.get_operations()) + sum(len(one.node_def) for one in library)

    assert (operations(5) > operations(2)) is grows


@pytest.mark.parametrize("loop", LayerLoop)
def test_all_layers_are_the_embeddings_and_every_block(loop: LayerLoop) -> None:
    encoder = randomised(MobileBertEncoder(config(layer_loop=loop)))
    whole = encoder(*batch(), all_layers=True)
    assert whole.hidden_ABLH.shape == [4, 3, 9, 16]
    assert whole.scores_ABNLM.shape == [3, 3, 2, 9, 9]
    np.testing.assert_array_equal(whole.hidden_ABLH[-1], whole.sequence_BLH)
    shallow = randomised(MobileBertEncoder(config(layer_loop=loop, num_layers=1)))
    for name, variable in shallow.weights.items():
        source = encoder.weights[name]
        variable.assign(source[:1] if name.startswith("layers/") else source)
    np.testing.assert_allclose(shallow(*batch()).sequence_BLH, whole.hidden_ABLH[1], atol=TOLERANCE)
    plain = encoder(*batch())
    assert plain.hidden_ABLH is None
    assert plain.scores_ABNLM is None
    np.testing.assert_allclose(plain.sequence_BLH, whole.sequence_BLH, atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16_stays_close(name: str) -> None:
    exact, rough = (
        randomised(MobileBertEncoder(config(name), seed=8, dtype=dtype)) for dtype in ("float32", "bfloat16")
    )
    assert {variable.dtype for variable in rough.weights.values()} == {tf.float32}
    expected, found = exact(*batch(), all_layers=True), rough(*batch(), all_layers=True)
    assert (found.sequence_BLH.dtype, found.pooled_BH.dtype) == (tf.float32, tf.float32)
    assert (found.hidden_ABLH.dtype, found.scores_ABNLM.dtype) == (tf.bfloat16, tf.bfloat16)
    gap = np.abs(found.sequence_BLH.numpy() - expected.sequence_BLH.numpy())
    assert 0 < gap.max() < 0.1 * np.abs(expected.sequence_BLH.numpy()).max()


def test_a_row_does_not_see_its_neighbours() -> None:
    encoder = randomised(MobileBertEncoder(config()))
    whole = encoder(*batch()).sequence_BLH
    for row in range(3):
        alone = encoder(*(part[row : row + 1] for part in batch())).sequence_BLH
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-6)


def span_model() -> SpanModel:
    model = SpanModel(config(), seed=3, dtype="float32")
    randomised(model.encoder)
    return model


def test_more_padding_changes_no_logit() -> None:
    """Rows that end in padding anyway: five more [PAD] leave every logit of every real token alone."""
    model = span_model()
    short = [part[1:] for part in batch()]
    long = [tf.pad(part, [[0, 0], [0, 5]]) for part in short]
    for ours, theirs in zip(model(*short), model(*long), strict=True):
        real = short[1].numpy() > 0
        np.testing.assert_allclose(theirs.numpy()[:, :9][real], ours.numpy()[real], atol=1e-6)


def test_what_stands_under_padding_reaches_only_the_last_token_by_its_trigram() -> None:
    """The original's trigram input shows the last token the embedding that follows it, padding or not."""
    encoder = randomised(MobileBertEncoder(config(num_layers=1, use_bottleneck_attention=True)))
    ids, mask, segments = (part[2:] for part in batch())  # five real tokens of nine
    before = encoder(ids, mask, segments, all_layers=True)
    far = encoder(ids + tf.one_hot([7], 9, dtype=tf.int32), mask, segments, all_layers=True)
    np.testing.assert_allclose(far.sequence_BLH[:, :5], before.sequence_BLH[:, :5], atol=1e-6)
    near = encoder(ids + tf.one_hot([5], 9, dtype=tf.int32), mask, segments, all_layers=True)
    changed = np.abs((near.hidden_ABLH[0] - before.hidden_ABLH[0]).numpy()[0, :5]).max(axis=-1) > 1e-4
    assert changed.tolist() == [False, False, False, False, True]


def softmax_free(encoder: MobileBertEncoder, hidden_BLH: np.ndarray, mask: np.ndarray, layer: int) -> np.ndarray:
    """Scores of one layer in float64, from the definition."""
    chosen = encoder.config
    weights = {name: variable.numpy().astype(np.float64) for name, variable in encoder.weights.items()}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"layers/{name}/kernel"][layer] + weights[f"layers/{name}/bias"][layer]

    shared = dense(hidden_BLH.astype(np.float64), "bottleneck_query_key")
    norm = "layers/bottleneck_query_key/norm"
    shared = shared * weights[f"{norm}/gamma"][layer] + weights[f"{norm}/beta"][layer]
    heads = [*shared.shape[:2], chosen.num_heads, chosen.head_size]
    query, key = (dense(shared, f"attention/{name}").reshape(heads) for name in ("query", "key"))
    scores = np.einsum("blnd,bmnd->bnlm", query, key) / np.sqrt(chosen.head_size)
    return scores + (1 - mask[:, None, None, :]) * chosen.attention_mask_value


def test_scores_are_scaled_and_masked_and_before_the_softmax() -> None:
    encoder = randomised(MobileBertEncoder(config(attention_mask_value=-120.0)))
    found = encoder(*batch(), all_layers=True)
    for layer in range(3):
        expected = softmax_free(encoder, found.hidden_ABLH[layer].numpy(), batch()[1].numpy(), layer)
        np.testing.assert_allclose(found.scores_ABNLM[layer], expected, rtol=1e-5, atol=TOLERANCE)


def test_the_head_points_at_tokens() -> None:
    model = span_model()
    start, end = model(*batch())
    hidden = model.encoder(*batch()).sequence_BLH.numpy()
    kernel, bias = (model.weights[f"heads/span/{name}"].numpy() for name in ("kernel", "bias"))
    np.testing.assert_allclose(np.stack([start, end], -1), hidden @ kernel + bias, atol=TOLERANCE)
    places = tf.constant([0, 4, 2]), tf.constant([8, 4, 3])
    logits = [np.asarray(part, np.float64) for part in (start, end)]
    rows = np.arange(3)
    terms = [np.log(np.exp(x).sum(-1)) - x[rows, place.numpy()] for x, place in zip(logits, places, strict=True)]
    np.testing.assert_allclose(span_losses(start, end, *places), np.mean(terms, axis=0), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    count = 200_001  # odd: the last 32-bit word serves one element only
    found = dropout(tf.ones([count]), rate=rate, seed=tf.constant([1, 2])).numpy()
    assert set(np.unique(found).round(4)) == {0.0, np.float32(1 / (1 - rate)).round(4)}
    deviation = np.sqrt(rate * (1 - rate) / count)
    assert abs((found == 0).mean() - rate) < 5 * deviation
    pairs = (found[:-1] == 0) & (found[1:] == 0)
    assert abs(pairs.mean() - rate**2) < 5 * np.sqrt(rate**2 * (1 - rate**2) / count) * 2, "neighbours are independent"


def test_gelu_is_the_originals_and_gelu_exact_the_error_functions() -> None:
    x = np.linspace(-5, 5, 1001, dtype=np.float32)
    exact = x * 0.5 * (1 + erf(x / np.sqrt(2)))
    original = x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(ACTIVATIONS[Activation.gelu_exact](x), exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS[Activation.gelu](x), original, rtol=0, atol=1e-6)
    assert 1e-4 < np.max(np.abs(exact - original)) < 1e-3


@pytest.mark.parametrize("as_there", [False, True])
def test_a_layer_norm_adds_the_epsilon_of_its_place(as_there: bool) -> None:
    model = config("wide", num_feedforward_networks=2, layer_norm_epsilon=1e-3, hugging_face_norms=as_there)
    rng = np.random.default_rng(0)
    x, gamma, beta = (rng.standard_normal(shape).astype(np.float32) * 0.1 for shape in ((4, 8), (8,), (8,)))
    epsilons = {"embeddings/norm": 1e-5, "ffn_1/norm": 1e-5} if as_there else {}
    for name in ("embeddings/norm", "bottleneck_input/norm", "attention/norm", "ffn_0/norm", "ffn_1/norm"):
        found = normalize(tf.constant(x), {f"{name}/gamma": gamma, f"{name}/beta": beta}, name, model)
        root = np.sqrt(x.var(-1, keepdims=True) + epsilons.get(name, 1e-3))
        expected = (x - x.mean(-1, keepdims=True)) / root * gamma + beta
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)


def test_dropout_is_a_function_of_its_seed() -> None:
    x = tf.ones([64, 65])
    draws = [dropout(x, rate=0.5, seed=tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3], [2, 2])]
    np.testing.assert_array_equal(draws[0], draws[1])
    for other in draws[2:]:
        assert abs((draws[0] == other).mean() - 0.5) < 0.05
    assert dropout(x, rate=0.5, seed=None) is x
    assert dropout(x, rate=0.0, seed=tf.constant([1, 2])) is x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_survives_its_extremes(dtype: str) -> None:
    """A rate that rounds to all of the 65,536 values would divide by zero."""
    found = dropout(tf.ones([1000], dtype), rate=0.9999999, seed=tf.constant([1, 2]))
    assert found.dtype == tf.as_dtype(dtype)
    assert np.isfinite(found.numpy().astype(np.float32)).all()
    assert dropout(tf.ones([3], dtype), rate=1e-7, seed=tf.constant([1, 2])).numpy().tolist() == [1, 1, 1]


def test_gradients_pass_only_what_dropout_kept() -> None:
    x = tf.Variable(tf.ones([50]))
    with tf.GradientTape() as tape:
        y = dropout(x, rate=0.4, seed=tf.constant([5, 6]))
    np.testing.assert_array_equal(tape.gradient(y, x), y)


@pytest.mark.parametrize("kind", ["hidden_dropout", "attention_dropout"])
def test_the_encoder_drops_only_when_given_a_seed(kind: str) -> None:
    chosen = config("wide", **{kind: 0.3})
    encoder = MobileBertEncoder(chosen)
    still = MobileBertEncoder(dataclasses.replace(chosen, **{kind: 0.0}))

    def sequence(one: MobileBertEncoder, seed: Sequence[int] | None) -> np.ndarray:
        return one(*batch(), seed=None if seed is None else tf.constant(seed)).sequence_BLH.numpy()

    np.testing.assert_array_equal(sequence(encoder, None), sequence(still, None))
    np.testing.assert_array_equal(sequence(encoder, [1, 2]), sequence(encoder, [1, 2]))
    assert np.abs(sequence(encoder, [1, 2]) - sequence(encoder, [1, 3])).max() > 0.01
    np.testing.assert_array_equal(sequence(still, [1, 2]), sequence(still, None))


def test_every_layer_draws_its_own_dropout() -> None:
    """Three layers with equal weights and no attention to speak of: equal masks would make equal steps."""
    encoder = MobileBertEncoder(config(normalization=Normalization.no_norm, hidden_dropout=0.5))
    for name, variable in encoder.weights.items():
        if name.startswith("layers/"):
            variable.assign(tf.zeros_like(variable) + variable[:1])
        if name == "layers/bottleneck_output/bias":
            variable.assign(tf.ones_like(variable))
        if name == "layers/bottleneck_output/kernel":
            variable.assign(tf.zeros_like(variable))
    hidden = encoder(*batch(), seed=tf.constant([1, 2]), all_layers=True).hidden_ABLH.numpy()
    dropped = np.abs(np.diff(hidden, axis=0)) < 1e-3  # x + dropout(1): either nothing was added, or 2
    assert abs(dropped.mean() - 0.5) < 0.1
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert 0.3 < (dropped[a] == dropped[b]).mean() < 0.7


def test_initial_weights_are_a_function_of_seed_and_name() -> None:
    specs = encoder_variables(config(initializer_range=0.02))
    chosen = config(initializer_range=0.02)
    first = {spec.name: initial_value(spec, chosen, seed=4).numpy() for spec in specs}
    again = {spec.name: initial_value(spec, chosen, seed=4).numpy() for spec in reversed(specs)}
    other = {spec.name: initial_value(spec, chosen, seed=5).numpy() for spec in specs}
    random = [spec for spec in specs if spec.fill not in (Fill.zeros, Fill.ones)]
    assert len(random) >= 10
    for spec in specs:
        np.testing.assert_array_equal(again[spec.name], first[spec.name])
        assert np.array_equal(other[spec.name], first[spec.name]) is (spec not in random)
    flat = {spec.name: first[spec.name].ravel()[:50] for spec in random}
    assert len({values.tobytes() for values in flat.values()}) == len(random), "no two variables start alike"


def test_initial_weights_are_berts_truncated_normal() -> None:
    spec = VariableSpec("layers/attention/query/kernel", (4, 100, 100), Fill.kernel)
    found = initial_value(spec, config(initializer_range=0.02), seed=0).numpy()
    assert np.abs(found).max() <= 0.04
    assert found.std() == pytest.approx(0.02 * TRUNCATED_DEVIATION, rel=0.02)
    assert abs(found.mean()) < 5 * 0.02 / np.sqrt(found.size)
    np.testing.assert_allclose(found[0, 0, :3], PINNED, rtol=1e-6, err_msg="a seed must mean the same weights tomorrow")


def test_norms_and_biases_start_neutral() -> None:
    for name, variable in MobileBertEncoder(config("wide")).weights.items():
        if name.endswith(("/bias", "/beta")):
            assert not variable.numpy().any(), name
        elif name.endswith("/gamma"):
            assert (variable.numpy() == 1).all(), name
        else:
            assert variable.numpy().std() > 0, name
