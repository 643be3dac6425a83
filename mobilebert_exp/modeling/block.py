"""One MobileBERT block as a pure function of its input and its slice of the stacked variables (paper, section 3.2).

Shapes: B batch, L tokens (M keys), T = B * L, N heads, D head size, H hidden size (between blocks), I intra-bottleneck
size, F intermediate size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

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


def dims(x: tf.Tensor) -> list[int | tf.Tensor]:
    """The shape of `x`, as numbers where they are known: what is computed from them then needs no operation."""
    if x.shape.is_fully_defined():
        return list(x.shape)
    dynamic = tf.unstack(tf.shape(x))
    return [known if known is not None else size for known, size in zip(x.shape, dynamic, strict=True)]


def dense(x: tf.Tensor, params: Params, name: str) -> tf.Tensor:
    """`x [..., in] @ kernel [in, out] + bias`; leading axes are flattened around one matrix product."""
    kernel, bias = params[f"{name}/kernel"], params[f"{name}/bias"]
    if x.shape.rank == 2:
        return tf.nn.bias_add(tf.matmul(x, kernel), bias)
    width_in, width_out = kernel.shape
    y = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, width_in]), kernel), bias)
    return tf.reshape(y, [*dims(x)[:-1], width_out])


def normalize(x: tf.Tensor, params: Params, name: str, config: ModelConfig) -> tf.Tensor:
    """NoNorm is `gamma * x + beta`; LayerNorm standardises the last axis first, in float32."""
    gamma, beta = params[f"{name}/gamma"], params[f"{name}/beta"]
    if config.normalization is Normalization.no_norm:
        return tf.nn.bias_add(scaled(x, gamma), beta)
    return layer_norm(x, gamma, beta)


@tf.custom_gradient
def scaled(x: tf.Tensor, gamma: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """`x [..., in] * gamma [in]`; what flows back to `gamma` is summed by the kernel that does so for biases.

    TensorFlow's own gradient of a broadcast product works out the axes and sums them in general, which takes longer.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return upstream * gamma, tf.raw_ops.BiasAddGrad(out_backprop=upstream * x)

    return x * gamma, gradient


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
    shape = dims(x)
    size = math.prod(shape) if x.shape.is_fully_defined() else tf.size(x)
    words = tf.random.stateless_uniform([(size + 1) // 2], seed, minval=None, maxval=None, dtype=tf.int32)
    bits = tf.reshape(tf.reshape(tf.bitcast(words, tf.int16), [-1])[:size], shape)
    return tf.where(bits >= dropped - 32768, x * tf.constant(65536 / (65536 - dropped), x.dtype), tf.zeros([], x.dtype))


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
    batch, length, _ = dims(x_BLH)
    x_TH = tf.reshape(x_BLH, [-1, config.hidden_size])
    input_TI, *projected = _project(x_TH, params, config)
    query_BNLD, key_BNMD, value_BNMD = (
        tf.transpose(tf.reshape(x_TI, [batch, length, config.num_heads, config.head_size]), [0, 2, 1, 3])
        for x_TI in projected
    )
    scores_BNLM = tf.matmul(query_BNLD, key_BNMD, transpose_b=True) + bias_B11M
    probabilities_BNLM = tf.cast(tf.nn.softmax(tf.cast(scores_BNLM, tf.float32)), x_BLH.dtype)
    probabilities_BNLM = dropout(probabilities_BNLM, rate=config.attention_dropout, seed=fold(seed, 0))
    context_BLND = tf.transpose(tf.matmul(probabilities_BNLM, value_BNMD), [0, 2, 1, 3])
    context_TI = tf.reshape(context_BLND, [-1, config.intra_bottleneck_size])

    h_TI = normalize(dense(context_TI, params, "attention/output") + input_TI, params, "attention/norm", config)
    h_TI = _feed_forward(h_TI, params, config)
    out_TH = dropout(dense(h_TI, params, "bottleneck_output"), rate=config.hidden_dropout, seed=fold(seed, 1))
    out_TH = normalize(out_TH + x_TH, params, "bottleneck_output/norm", config)
    return tf.reshape(out_TH, [batch, length, config.hidden_size]), scores_BNLM


def _project(x_TH: tf.Tensor, params: Params, config: ModelConfig) -> tuple[tf.Tensor, ...]:
    """Input bottleneck, scaled queries, keys and values, each `[T, I]`."""
    input_TI = normalize(dense(x_TH, params, "bottleneck_input"), params, "bottleneck_input/norm", config)
    query_key = value = x_TH
    if config.use_bottleneck_attention:
        query_key = value = input_TI
    elif shares_query_key(config):
        shared = dense(x_TH, params, "bottleneck_query_key")
        query_key = normalize(shared, params, "bottleneck_query_key/norm", config)
    query, key = (dense(query_key, params, f"attention/{name}") for name in ("query", "key"))
    return input_TI, query * (1 / math.sqrt(config.head_size)), key, dense(value, params, "attention/value")


def _feed_forward(h_TI: tf.Tensor, params: Params, config: ModelConfig) -> tf.Tensor:
    """The stack of feed-forward networks, each with its own residual and norm."""
    for k in range(config.num_feedforward_networks):
        ffn = f"ffn_{k}"
        wide_TF = ACTIVATIONS[config.hidden_act](dense(h_TI, params, f"{ffn}/intermediate"))
        h_TI = normalize(dense(wide_TF, params, f"{ffn}/output") + h_TI, params, f"{ffn}/norm", config)
    return h_TI
