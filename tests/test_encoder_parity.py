"""Our encoder equals tf-models' `MobileBERTEncoder` when the weights are copied across, forward and backward.

Every weight is random, norms and biases too: kernels and biases at BERT's 0.02, tables at 0.3, queries and keys wide
enough that attention has a content, gamma around 1 (NoNorm) or 0.6 (LayerNorm); 1e-5 is then a few units in the last
place of the largest outputs. At full depth tables, NoNorm's queries and keys and LayerNorm's gammas (around 0.45) are
smaller, because rounding alone, carried through 24 layers, reaches 1.05e-5. The tests assert the scales, and gradients
are held to a thousandth of their own scale besides.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
from official.modeling import tf_utils
from official.nlp.modeling.networks import MobileBERTEncoder

from mobilebert_exp import compose
from mobilebert_exp.config import Activation, ModelConfig, Normalization
from mobilebert_exp.modeling.encoder import EncoderOutput, MobileBertEncoder
from mobilebert_exp.modeling.variables import encoder_variables, parameters

TOLERANCE = 1e-5
MASK_VALUE = -1e9  # what tf-models adds to the scores of padding
PARAMETERS = {
    "opt": 24_581_888,
    "qat": 24_581_888,
    "base": 24_581_888,
    "tiny": 15_485_696,
    "teacher": 294_467_840,
    "multilingual": 35_977_088,
}
CUT_DEPTHS = {"opt": 4, "base": 3, "tiny": 4, "teacher": 2, "multilingual": 2}
NAMES = (
    (r"^embeddings/(word|type|position)/table$", r"mobile_bert_embedding/\1_embedding/embeddings"),
    (r"^embeddings/projection/", "mobile_bert_embedding/embedding_projection/"),
    (r"^embeddings/norm/", "mobile_bert_embedding/embedding_norm/"),
    (r"^layers/bottleneck_(input|output)/(kernel|bias)$", r"{layer}/bottleneck_\1/dense/\2"),
    (r"^layers/bottleneck_query_key/(kernel|bias)$", r"{layer}/kq_shared_bottleneck/dense/\1"),
    (r"^layers/bottleneck_query_key/norm/", "{layer}/kq_shared_bottleneck/norm/"),
    (r"^layers/attention/output/", "{layer}/attention/attention_output/"),
    (r"^layers/ffn_(\d+)/(intermediate|output)/", r"{layer}/ffn_layer_\1/\2_dense/"),
    (r"^layers/ffn_(\d+)/norm/", r"{layer}/ffn_layer_\1/norm/"),
    (r"^layers/", "{layer}/"),
)


def preset(name: str, *, layers: int | None = None, vocabulary: int | None = None) -> ModelConfig:
    """A shipped preset, with tf-models' mask value; depth and vocabulary may be cut."""
    cut = [f"model.num_layers={layers}"] * (layers is not None) + [f"model.vocab_size={vocabulary}"] * (
        vocabulary is not None
    )
    return compose([f"model={name}", f"model.attention_mask_value={MASK_VALUE}", *cut]).model


def original(config: ModelConfig) -> MobileBERTEncoder:
    """tf-models' encoder of the same architecture, built as its own builder does (`gelu` is its tanh approximation)."""
    return MobileBERTEncoder(
        word_vocab_size=config.vocab_size,
        word_embed_size=config.embedding_size,
        type_vocab_size=config.type_vocab_size,
        max_sequence_length=config.max_positions,
        num_blocks=config.num_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        intermediate_act_fn=tf_utils.get_activation(config.hidden_act.name),
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        intra_bottleneck_size=config.intra_bottleneck_size,
        initializer_range=config.initializer_range,
        use_bottleneck_attention=config.use_bottleneck_attention,
        key_query_shared_bottleneck=config.key_query_shared_bottleneck,
        num_feedforward_networks=config.num_feedforward_networks,
        normalization_type=config.normalization.name,
        classifier_activation=config.classifier_activation,
    )


def original_names(name: str, *, layers: int) -> list[str]:
    """Where a variable of ours lies in tf-models: one name, or one for each layer of a stacked variable."""
    for pattern, replacement in NAMES:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return [name.format(layer=f"transformer_layer_{i}") for i in range(layers)] if "{layer}" in name else [name]


def by_name(encoder: MobileBERTEncoder) -> dict[str, tf.Variable]:
    """tf-models' variables; Keras numbers the embedding layers of a process."""
    return {
        re.sub(r"^mobile_bert_embedding_\d+/", "mobile_bert_embedding/", v.name.split(":")[0]): v
        for v in encoder.weights
    }


def randomise(encoder: MobileBertEncoder) -> None:
    """The weights of the module docstring, each a function of its name."""
    deep = encoder.config.num_layers > 4
    plain = encoder.config.normalization is Normalization.no_norm
    low, high = (0.8, 1.2) if plain else (0.3, 0.6) if deep else (0.4, 0.8)
    for name, variable in encoder.weights.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("/gamma"):
            variable.assign(rng.uniform(low, high, variable.shape).astype(np.float32))
            continue
        deviation = (0.2 if deep else 0.3) if name.endswith("/table") else 0.02
        if name.endswith(("query/kernel", "key/kernel")):
            deviation = (2.0 if plain and not deep else 1.5) / np.sqrt(variable.shape[-2])
        variable.assign(rng.standard_normal(variable.shape, np.float32) * np.float32(deviation))


def leave_the_kink(encoder: MobileBertEncoder) -> None:
    """Biases that switch each unit of the feed-forward networks clearly on or off.

    ReLU's derivative jumps at 0: of millions of inputs some lie within a rounding of it, where both answers are right.
    """
    for name, variable in encoder.weights.items():
        if name.endswith("/intermediate/bias"):
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            variable.assign(
                (rng.uniform(1, 2, variable.shape) * rng.choice((-1, 1), variable.shape)).astype(np.float32)
            )


def copy(ours: MobileBertEncoder, theirs: MobileBERTEncoder) -> None:
    """Gives tf-models' encoder our weights; each of its variables exactly once."""
    open_names = by_name(theirs)
    for name, variable in ours.weights.items():
        names = original_names(name, layers=ours.config.num_layers)
        values = variable.numpy() if name.startswith("layers/") else variable.numpy()[None]
        for other, value in zip(names, values, strict=True):
            target = open_names.pop(other)
            target.assign(value.reshape(target.shape))
    assert not open_names, "variables of tf-models that have no counterpart here"


def batch(config: ModelConfig, *, rows: int, length: int, padded: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Random ids of two texts; padded rows end at different places, the last after two tokens."""
    rng = np.random.default_rng(3)
    ends = np.linspace(length, 2, rows).astype(int) if padded else np.full(rows, length)
    mask = (np.arange(length) < ends[:, None]).astype(np.int32)
    ids = rng.integers(1, config.vocab_size, (rows, length)).astype(np.int32) * mask
    segments = (np.arange(length) >= ends[:, None] // 2).astype(np.int32) * mask
    return tf.constant(ids), tf.constant(mask), tf.constant(segments)


def weighted(outputs: Sequence[tf.Tensor]) -> tf.Tensor:
    """A loss that every element of every output moves, differently; a mean over tokens and outputs."""
    rng = np.random.default_rng(4)
    size = np.float32(np.prod(outputs[0].shape[:2]) * len(outputs))
    return tf.add_n([tf.reduce_sum(x * rng.standard_normal(x.shape, np.float32)) for x in outputs]) / size


def ours_of(encoder: MobileBertEncoder, inputs: Sequence[tf.Tensor]) -> tuple[EncoderOutput, dict[str, np.ndarray]]:
    with tf.GradientTape() as tape:
        found = encoder(*inputs, all_layers=True)
        loss = weighted([*tf.unstack(found.hidden_ABLH), found.pooled_BH])
    names, variables = zip(*encoder.weights.items(), strict=True)
    return found, {
        n: tf.convert_to_tensor(g).numpy() for n, g in zip(names, tape.gradient(loss, variables), strict=True)
    }


def keyed(inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    """The inputs as tf-models names them."""
    return dict(zip(("input_word_ids", "input_mask", "input_type_ids"), inputs, strict=True))


def theirs_of(
    encoder: MobileBERTEncoder, inputs: Sequence[tf.Tensor]
) -> tuple[dict[str, tf.Tensor], dict[str, np.ndarray]]:
    with tf.GradientTape() as tape:
        found = encoder(keyed(inputs))
        loss = weighted([*found["encoder_outputs"], found["pooled_output"]])
    named = by_name(encoder)
    gradients = tape.gradient(loss, list(named.values()))
    return found, {n: tf.convert_to_tensor(g).numpy() for n, g in zip(named, gradients, strict=True)}


def difference(ours: tf.Tensor, theirs: tf.Tensor) -> float:
    return float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs))))


def check_forward(ours: EncoderOutput, theirs: dict[str, tf.Tensor]) -> None:
    """Every layer's output, the pooled one, and the attention after the softmax, which is all tf-models shows."""
    assert len(theirs["encoder_outputs"]) == ours.hidden_ABLH.shape[0]
    for layer, output in enumerate(theirs["encoder_outputs"]):
        assert difference(ours.hidden_ABLH[layer], output) <= TOLERANCE, f"output {layer}"
    assert difference(ours.sequence_BLH, theirs["sequence_output"]) <= TOLERANCE
    assert difference(ours.pooled_BH, theirs["pooled_output"]) <= TOLERANCE
    for layer, probabilities in enumerate(theirs["attention_scores"]):
        assert difference(tf.nn.softmax(ours.scores_ABNLM[layer]), probabilities) <= TOLERANCE, f"attention {layer}"
    scale = float(tf.reduce_max(tf.abs(ours.hidden_ABLH)))
    assert 1 < scale < 20, f"layer outputs of up to {scale}"


def check_gradients(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], *, layers: int) -> None:
    """Absolute everywhere; relative too, except for the key's bias, whose gradient is zero but for rounding."""
    for name, gradient in ours.items():
        names = original_names(name, layers=layers)
        slices = gradient if name.startswith("layers/") else gradient[None]
        for other, value in zip(names, slices, strict=True):
            expected = theirs[other].reshape(value.shape)
            gap, scale = difference(value, expected), float(np.max(np.abs(expected)))
            assert gap <= TOLERANCE, f"{other}: {gap} of {scale}"
            if not name.endswith("attention/key/bias"):
                assert gap <= 1e-3 * scale, f"{other}: {gap} of {scale}"
    assert 0.05 < max(float(np.max(np.abs(value))) for value in ours.values()) < 5


def check(config: ModelConfig, *, rows: int, length: int) -> None:
    ours, theirs = MobileBertEncoder(config), original(config)
    randomise(ours)
    copy(ours, theirs)
    inputs = {padded: batch(config, rows=rows, length=length, padded=padded) for padded in (False, True)}
    for padded in (False, True):
        check_forward(ours(*inputs[padded], all_layers=True), theirs(keyed(inputs[padded])))
    if config.hidden_act is Activation.relu:
        leave_the_kink(ours)
        copy(ours, theirs)
    for padded in (False, True):
        output, gradients = ours_of(ours, inputs[padded])
        expected, expected_gradients = theirs_of(theirs, inputs[padded])
        check_forward(output, expected)
        check_gradients(gradients, expected_gradients, layers=config.num_layers)


@pytest.mark.parametrize(("name", "layers"), CUT_DEPTHS.items())
def test_equals_tf_models(name: str, layers: int) -> None:
    check(preset(name, layers=layers, vocabulary=307), rows=3, length=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", CUT_DEPTHS)
def test_equals_tf_models_at_full_depth_and_vocabulary(name: str) -> None:
    check(preset(name), rows=2, length=24)


def test_mask_value_matters_only_with_padding() -> None:
    config = preset("opt", layers=2, vocabulary=101)
    ours, theirs = (
        MobileBertEncoder(compose(["model=opt", "model.num_layers=2", "model.vocab_size=101"]).model),
        original(config),
    )
    assert ours.config.attention_mask_value == -10000
    randomise(ours)
    copy(ours, theirs)
    inputs = batch(config, rows=2, length=9, padded=False)
    check_forward(ours(*inputs, all_layers=True), theirs(keyed(inputs)))


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_counts_what_the_reference_counts(name: str, expected: int) -> None:
    assert parameters(encoder_variables(preset(name))) == expected


@pytest.mark.parametrize("name", CUT_DEPTHS)
def test_plan_names_what_is_built(name: str) -> None:
    config = preset(name, layers=2, vocabulary=307)
    built = {
        variable.name.split(":")[0]: tuple(variable.shape) for variable in MobileBertEncoder(config).trainable_variables
    }
    assert built == {spec.name: spec.shape for spec in encoder_variables(config)}
