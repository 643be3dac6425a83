"""One MobileBERT block as a pure function of its input and its slice of the stacked variables (paper, section 3.2).

Shapes: B batch, L tokens (M keys), N heads, D head size, H hidden size (between blocks), I intra-bottleneck size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import tensorflow as tf

from mobilebert_exp.config import Activation, ModelConfig, Normalization
from mobilebert_exp.modeling.variables import shares_query_key

LAYER_NORM_EPSILON = 1e-12
Params = Mapping[str, tf.Tensor]

ACTIVATIONS = {
    Activation.relu: tf.nn.relu,
    Activation.relu6: tf.nn.relu6,
    Activation.gelu: lambda x: tf.nn.gelu(x, approximate=True),
}


def dense(x: tf.Tensor, params: Params, name: str) -> tf.Tensor:
    """`x [..., in] @ kernel [in, out] + bias`; leading axes are flattened around one matrix product."""
    return matmul(x, params[f"{name}/kernel"], params[f"{name}/bias"])


def matmul(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """`x [..., in] @ kernel [in, out] + bias [out]`."""
    width_in, width_out = kernel.shape
    y = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, width_in]), kernel), bias)
    return tf.reshape(y, tf.concat([tf.shape(x)[:-1], [width_out]], 0))


def normalize(x: tf.Tensor, params: Params, name: str, config: ModelConfig) -> tf.Tensor:
    """NoNorm is `gamma * x + beta`; LayerNorm standardises the last axis first, in float32."""
    gamma, beta = params[f"{name}/gamma"], params[f"{name}/beta"]
    if config.normalization is Normalization.no_norm:
        return gamma * x + beta
    return layer_norm(x, gamma, beta)


def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """Mean 0 and variance 1 over the last axis, in float32, then `gamma` and `beta`."""
    wide = tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(wide, axes=[-1], keepdims=True)
    return tf.cast((wide - mean) * tf.math.rsqrt(variance + LAYER_NORM_EPSILON), x.dtype) * gamma + beta


def dropout(x: tf.Tensor, *, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Zeroes a share `rate` of `x` and scales the rest; `seed` (int32 `[2]`) None leaves `x` alone.

    Sixteen random bits decide an element: the generator's 32-bit words are cut in two, which halves their cost. The
    rate is exact to 2**-17, and what is kept is scaled for the rate that is drawn.
    """
    dropped = min(round(rate * 65536), 65535)  # of 65536 equally likely values
    if seed is None or dropped == 0:
        return x
    size = tf.size(x)
    words = tf.random.stateless_uniform([(size + 1) // 2], seed, minval=None, maxval=None, dtype=tf.int32)
    bits = tf.reshape(tf.reshape(tf.bitcast(words, tf.int16), [-1])[:size], tf.shape(x))
    keep = tf.cast(bits >= dropped - 32768, x.dtype)
    return x * (keep * tf.constant(65536 / (65536 - dropped), x.dtype))


def fold(seed: tf.Tensor | None, data: tf.Tensor | int) -> tf.Tensor | None:
    """An independent seed for each value of `data`; None stays None."""
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, data)


def block(
    x_BLH: tf.Tensor, params: Params, bias_B11M: tf.Tensor, *, config: ModelConfig, seed: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """One layer.

    Args:
      x_BLH: output of the layer below.
      params: this layer's variables, names without the `layers/` prefix, in the dtype of `x_BLH`.
      bias_B11M: 0 for a real key, `config.attention_mask_value` for padding.
      config: the architecture.
      seed: int32 `[2]` for dropout, None for none.

    Returns:
      `[B, L, H]` output and `[B, N, L, M]` scaled, masked scores before the softmax.
    """
    input_BLI, query_BNLD, key_BNMD, value_BNMD = _project(x_BLH, params, config)
    scores_BNLM = tf.matmul(query_BNLD, key_BNMD, transpose_b=True) * (1 / math.sqrt(config.head_size)) + bias_B11M
    probabilities_BNLM = tf.cast(tf.nn.softmax(tf.cast(scores_BNLM, tf.float32)), x_BLH.dtype)
    probabilities_BNLM = dropout(probabilities_BNLM, rate=config.attention_dropout, seed=fold(seed, 0))
    context_BLI = _merge_heads(tf.matmul(probabilities_BNLM, value_BNMD), config)

    h_BLI = normalize(dense(context_BLI, params, "attention/output") + input_BLI, params, "attention/norm", config)
    activation = ACTIVATIONS[config.hidden_act]
    for k in range(config.num_feedforward_networks):
        ffn = f"ffn_{k}"
        wide_BLF = activation(dense(h_BLI, params, f"{ffn}/intermediate"))
        h_BLI = normalize(dense(wide_BLF, params, f"{ffn}/output") + h_BLI, params, f"{ffn}/norm", config)

    out_BLH = dropout(dense(h_BLI, params, "bottleneck_output"), rate=config.hidden_dropout, seed=fold(seed, 1))
    return normalize(out_BLH + x_BLH, params, "bottleneck_output/norm", config), scores_BNLM


def _project(x_BLH: tf.Tensor, params: Params, config: ModelConfig) -> tuple[tf.Tensor, ...]:
    """Input bottleneck, and the heads of queries, keys and values; what reads the same input is one product."""
    if config.use_bottleneck_attention:
        (input_BLI,) = _dense_many(x_BLH, params, ["bottleneck_input"])
        input_BLI = normalize(input_BLI, params, "bottleneck_input/norm", config)
        query, key, value = _dense_many(input_BLI, params, ["attention/query", "attention/key", "attention/value"])
    elif shares_query_key(config):
        names = ["bottleneck_input", "bottleneck_query_key", "attention/value"]
        input_BLI, shared_BLI, value = _dense_many(x_BLH, params, names)
        input_BLI = normalize(input_BLI, params, "bottleneck_input/norm", config)
        shared_BLI = normalize(shared_BLI, params, "bottleneck_query_key/norm", config)
        query, key = _dense_many(shared_BLI, params, ["attention/query", "attention/key"])
    else:
        names = ["bottleneck_input", "attention/query", "attention/key", "attention/value"]
        input_BLI, query, key, value = _dense_many(x_BLH, params, names)
        input_BLI = normalize(input_BLI, params, "bottleneck_input/norm", config)
    return input_BLI, _split_heads(query, config), _split_heads(key, config), _split_heads(value, config)


def _dense_many(x: tf.Tensor, params: Params, names: list[str]) -> list[tf.Tensor]:
    kernel = tf.concat([params[f"{name}/kernel"] for name in names], axis=-1)
    bias = tf.concat([params[f"{name}/bias"] for name in names], axis=-1)
    return tf.split(matmul(x, kernel, bias), len(names), axis=-1)


def _split_heads(x_BLI: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    batch, length = tf.unstack(tf.shape(x_BLI)[:2])
    return tf.transpose(tf.reshape(x_BLI, [batch, length, config.num_heads, config.head_size]), [0, 2, 1, 3])


def _merge_heads(x_BNLD: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    batch, _, length, _ = tf.unstack(tf.shape(x_BNLD))
    return tf.reshape(tf.transpose(x_BNLD, [0, 2, 1, 3]), [batch, length, config.intra_bottleneck_size])
