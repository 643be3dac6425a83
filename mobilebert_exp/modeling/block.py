"""One MobileBERT block as a pure function of its input and its slice of the stacked variables (paper, section 3.2).

Shapes: B batch, L tokens (M keys), T = B * L, N heads, D head size, H hidden size (between blocks), I intra-bottleneck
size, F intermediate size.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow as tf

from mobilebert_exp.config import Activation, ModelConfig, Normalization
from mobilebert_exp.modeling.variables import shares_query_key

Params = Mapping[str, tf.Tensor]
_PLAIN_GRADIENTS = contextvars.ContextVar("plain_gradients", default=False)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Its tanh approximation; the cube as products, which take a fraction of the time of TensorFlow's power on CPU."""
    return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))


ACTIVATIONS = {
    Activation.relu: tf.nn.relu,
    Activation.relu6: tf.nn.relu6,
    Activation.gelu: gelu,
    Activation.gelu_exact: lambda x: tf.nn.gelu(x, approximate=False),
}


def dims(x: tf.Tensor) -> list[int | tf.Tensor]:
    """The shape of `x`, as numbers where they are known: what is computed from them then needs no operation."""
    if x.shape.is_fully_defined():
        return list(x.shape)
    dynamic = tf.unstack(tf.shape(x))
    return [known if known is not None else size for known, size in zip(x.shape, dynamic, strict=True)]


def dense(x: tf.Tensor, params: Params, name: str) -> tf.Tensor:
    """`x [..., in] @ kernel [in, out] + bias`; leading axes are flattened around one matrix product."""
    kernel, bias = (tf.convert_to_tensor(params[f"{name}/{part}"]) for part in ("kernel", "bias"))
    if x.shape.rank == 2:
        return affine(x, kernel, bias)
    width_in, width_out = kernel.shape
    return tf.reshape(affine(tf.reshape(x, [-1, width_in]), kernel, bias), [*dims(x)[:-1], width_out])


@contextlib.contextmanager
def plain_gradients() -> Iterator[None]:
    """What is traced inside has TensorFlow's gradients alone: a SavedModel would carry a function for each of ours."""
    token = _PLAIN_GRADIENTS.set(True)
    try:
        yield
    finally:
        _PLAIN_GRADIENTS.reset(token)


def is_plain() -> bool:
    """Whether what is traced now is to have TensorFlow's gradients alone."""
    return _PLAIN_GRADIENTS.get()


def affine(x_TC: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """`x @ kernel + bias`."""
    if is_plain():
        return tf.nn.bias_add(tf.matmul(x_TC, kernel), bias)
    return _affine(x_TC, kernel, bias)


@tf.custom_gradient
def _affine(
    x_TC: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, ...]]]:

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        from_x = tf.matmul(upstream, kernel, transpose_b=True)
        return from_x, tf.matmul(x_TC, upstream, transpose_a=True), _sum_rows(upstream)

    return tf.nn.bias_add(tf.matmul(x_TC, kernel), bias), gradient


def no_norm_affine(
    x_TC: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
) -> tf.Tensor:
    """`gamma * (x @ kernel + bias + residual) + beta`."""
    if is_plain():
        return tf.nn.bias_add((tf.matmul(x_TC, kernel) + residual) * gamma, gamma * bias + beta)
    return _no_norm_affine(x_TC, kernel, bias, residual, gamma, beta)


@tf.custom_gradient
def _no_norm_affine(
    x_TC: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, ...]]]:
    """One sum over the rows serves both vectors that are added."""
    inner = tf.matmul(x_TC, kernel) + residual

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        from_beta, inward = _sum_rows(upstream), upstream * gamma
        from_gamma = _sum_rows(upstream * inner) + bias * from_beta
        from_x = tf.matmul(inward, kernel, transpose_b=True)
        from_kernel = tf.matmul(x_TC, inward, transpose_a=True)
        return from_x, from_kernel, gamma * from_beta, inward, from_gamma, from_beta

    return tf.nn.bias_add(inner * gamma, gamma * bias + beta), gradient


def _sum_rows(x_TC: tf.Tensor) -> tf.Tensor:
    """As a matrix product, which on CPU takes a fraction of the time of the kernel for the gradients of biases."""
    count, width = dims(x_TC)
    return tf.reshape(tf.matmul(tf.ones([1, count], x_TC.dtype), x_TC), [width])


def normalize(x: tf.Tensor, params: Params, name: str, config: ModelConfig) -> tf.Tensor:
    """NoNorm is `gamma * x + beta`; LayerNorm standardises the last axis first, in float32."""
    gamma, beta = params[f"{name}/gamma"], params[f"{name}/beta"]
    if config.normalization is Normalization.no_norm:
        return tf.nn.bias_add(x * gamma, beta)
    return layer_norm(x, gamma, beta, epsilon=config.epsilon_of(name))


def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float) -> tf.Tensor:
    """Mean 0 and variance 1 over the last axis, in float32, then `gamma` and `beta`."""
    wide = tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(wide, axes=[-1], keepdims=True)
    return tf.cast((wide - mean) * tf.math.rsqrt(variance + epsilon), x.dtype) * gamma + beta


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

    h_TI = _normalized_sum(context_TI, input_TI, params, "attention/output", "attention/norm", config)
    h_TI = _feed_forward(h_TI, params, config)
    out_TH = _normalized_sum(
        h_TI, x_TH, params, "bottleneck_output", "bottleneck_output/norm", config,
        rate=config.hidden_dropout, seed=fold(seed, 1),
    )  # fmt: skip
    return tf.reshape(out_TH, [batch, length, config.hidden_size]), scores_BNLM


def _project(x_TH: tf.Tensor, params: Params, config: ModelConfig) -> tuple[tf.Tensor, ...]:
    """Input bottleneck, scaled queries, keys and values, each `[T, I]`."""
    bottlenecks = ["bottleneck_input"] + (["bottleneck_query_key"] if shares_query_key(config) else [])
    if config.use_bottleneck_attention:
        (input_TI,) = _projections(x_TH, params, config, normalized=bottlenecks)
        return input_TI, *_projections(input_TI, params, config, plain=["query", "key", "value"])
    if shares_query_key(config):
        input_TI, query_key_TI, value_TI = _projections(x_TH, params, config, normalized=bottlenecks, plain=["value"])
        query_TI, key_TI = _projections(query_key_TI, params, config, plain=["query", "key"])
        return input_TI, query_TI, key_TI, value_TI
    return tuple(_projections(x_TH, params, config, normalized=bottlenecks, plain=["query", "key", "value"]))


def _projections(
    x: tf.Tensor, params: Params, config: ModelConfig, *, normalized: Sequence[str] = (), plain: Sequence[str] = ()
) -> list[tf.Tensor]:
    """Bottlenecks with their norms, and attention's projections without one, as one matrix product.

    What only scales a product is multiplied into its kernel: NoNorm's gamma and the factor of the queries.
    """
    is_linear = config.normalization is Normalization.no_norm
    kernels, biases = [], []
    for name in (*normalized, *(f"attention/{part}" for part in plain)):
        kernel, bias = params[f"{name}/kernel"], params[f"{name}/bias"]
        if name in normalized and is_linear:
            gamma, beta = params[f"{name}/norm/gamma"], params[f"{name}/norm/beta"]
            kernel, bias = kernel * gamma, bias * gamma + beta
        elif name == "attention/query":
            kernel, bias = (part * (1 / math.sqrt(config.head_size)) for part in (kernel, bias))
        kernels.append(kernel)
        biases.append(bias)
    found = tf.split(affine(x, tf.concat(kernels, axis=1), tf.concat(biases, axis=0)), len(kernels), axis=1)
    if is_linear:
        return found
    return [
        normalize(part, params, f"{name}/norm", config) for name, part in zip(normalized, found, strict=False)
    ] + found[len(normalized) :]


def _normalized_sum(
    x: tf.Tensor,
    residual: tf.Tensor,
    params: Params,
    name: str,
    norm: str,
    config: ModelConfig,
    *,
    rate: float = 0.0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """`norm(dropout(dense(x)) + residual)`."""
    drops = rate > 0 and seed is not None
    if config.normalization is Normalization.no_norm and not drops:
        kernel, bias, gamma, beta = (
            params[key] for key in (f"{name}/kernel", f"{name}/bias", f"{norm}/gamma", f"{norm}/beta")
        )
        return no_norm_affine(x, kernel, bias, residual, gamma, beta)
    return normalize(dropout(dense(x, params, name), rate=rate, seed=seed) + residual, params, norm, config)


def _feed_forward(h_TI: tf.Tensor, params: Params, config: ModelConfig) -> tf.Tensor:
    """The stack of feed-forward networks, each with its own residual and norm."""
    for k in range(config.num_feedforward_networks):
        ffn = f"ffn_{k}"
        wide_TF = ACTIVATIONS[config.hidden_act](dense(h_TI, params, f"{ffn}/intermediate"))
        h_TI = _normalized_sum(wide_TF, h_TI, params, f"{ffn}/output", f"{ffn}/norm", config)
    return h_TI
