"""MobileBERT as a file of 8 bits computes it: weights and activations are rounded to what such a file keeps of them.

The graph is that of an exported file, operation by operation: NoNorm's gamma is multiplied into the kernel before it,
its beta added to the bias; what remains of it is the product of the residual. Between queries, keys and values and the
context it is float, as in `tflite_int8`. Gradients go straight through the rounding of weights, and of activations
inside their range; outside they are 0 (arXiv 1712.05877, section 3).

Shapes: B batch, L tokens (M keys), T = B * L, N heads, D head size, H hidden size, A layers, P points of a block.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from mobilebert_exp.config import FakeQuantization, ModelConfig
from mobilebert_exp.modeling.block import ACTIVATIONS, affine, dims, dropout, fold, is_plain
from mobilebert_exp.modeling.quantizers import NARROWEST
from mobilebert_exp.modeling.variables import (
    EMBEDDING_POINTS,
    QUANTIZERS,
    STACKED,
    block_points,
    shares_query_key,
)

LARGEST = 127  # of the integers that weights become; -128 is left out, so that 0 is in the middle
RANGES = "ranges"  # beside the weights of a block, `[P, 2]`
BLOCK_INPUT = "input"
Params = Mapping[str, tf.Tensor]


@dataclass
class Observed:
    """What was seen at the points of quantisation: smallest and largest values, by the names of their variables.

    Attributes:
      is_calibrating: whether activations are left as they are, since no range is known yet.
    """

    is_calibrating: bool = False
    extremes: dict[str, tf.Tensor] = field(default_factory=dict)


_OBSERVED: contextvars.ContextVar[Observed | None] = contextvars.ContextVar("observed", default=None)


@contextlib.contextmanager
def observing(*, calibrating: bool = False) -> Iterator[Observed]:
    """What is traced inside also finds out the extremes of all activations that are rounded."""
    observed = Observed(is_calibrating=calibrating)
    token = _OBSERVED.set(observed)
    try:
        yield observed
    finally:
        _OBSERVED.reset(token)


class Points:
    """The points of quantisation through which the activations of the embeddings, or of one block, pass in order."""

    def __init__(self, names: Sequence[str], ranges_P2: tf.Tensor) -> None:
        flat = tf.unstack(tf.reshape(tf.stop_gradient(ranges_P2), [-1]), num=2 * len(names))
        self._names, self._ranges = names, dict(zip(names, zip(flat[::2], flat[1::2], strict=True), strict=True))
        self._observed = _OBSERVED.get()
        self._seen: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}

    def __call__(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """The activations as 8 bits keep them."""
        self.look(x, name)
        if self._observed is not None and self._observed.is_calibrating:
            return x
        return rounded(x, *self._ranges[name])

    def look(self, x: tf.Tensor, name: str) -> None:
        """Takes note of activations that are not rounded."""
        if self._observed is not None:
            fixed = tf.stop_gradient(x)
            self._seen[name] = tf.reduce_min(fixed), tf.reduce_max(fixed)

    @property
    def seen_P2(self) -> tf.Tensor | None:
        """Smallest and largest value at each point; None where nobody asks."""
        if self._observed is None:
            return None
        return tf.reshape(tf.stack([bound for name in self._names for bound in self._seen[name]]), [-1, 2])


def rounded(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """`x` on the 256 steps of a range that includes 0; the gradient is 0 where `x` is outside."""
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=8)


def rounded_weights(weights: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Weights on the steps of `scale_of` all of them; the gradient goes straight through."""
    return tf.round(weights / scale) * scale if is_plain() else _rounded_weights(weights, scale)


@tf.custom_gradient
def _rounded_weights(
    weights: tf.Tensor, scale: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
    """Not `fake_quant_with_min_max_vars_per_channel`: it takes channels one by one, and loses gradients at the ends."""
    return tf.round(weights / scale) * scale, lambda upstream: (upstream, None)


def scale_of(weights: tf.Tensor, *, shared: Sequence[int]) -> tf.Tensor:
    """The step between two of 255 values around 0, of which the outermost are the largest weight's; of zeros it is 1.

    Args:
      shared: axes over which one step holds.
    """
    largest = tf.reduce_max(tf.abs(tf.stop_gradient(weights)), axis=list(shared), keepdims=True)
    return tf.where(largest > 0, largest / LARGEST, tf.ones([], weights.dtype))


def usable(ranges_X2: tf.Tensor) -> tf.Tensor:
    """As `quantizers.usable`."""
    low, high = tf.unstack(ranges_X2, axis=-1)
    low, high = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
    return tf.stack([low, tf.maximum(high, low + NARROWEST)], axis=-1)


def _kernel(kernel: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    per_channel = config.fake_quantization is FakeQuantization.per_channel
    return rounded_weights(kernel, scale_of(kernel, shared=(-2,) if per_channel else (-2, -1)))


def embedded(params: Params, input_ids_BL: tf.Tensor, segment_ids_BL: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """`[B, L, H]`, what the first block reads."""
    ranges_P2 = usable(tf.stack([params[f"{QUANTIZERS}{name}"] for name in EMBEDDING_POINTS]))
    points = Points(EMBEDDING_POINTS, ranges_P2)
    gamma, beta = params["embeddings/norm/gamma"], params["embeddings/norm/beta"]
    table = params["embeddings/word/table"]
    word_BLE = rounded_weights(tf.gather(table, input_ids_BL), scale_of(table, shared=(0, 1)))
    following = tf.pad(word_BLE[:, 1:], [[0, 0], [0, 1], [0, 0]])
    preceding = tf.pad(word_BLE[:, :-1], [[0, 0], [1, 0], [0, 0]])
    trigram_BLC = tf.concat([following, word_BLE, preceding], axis=-1)
    kernel = _kernel(params["embeddings/projection/kernel"] * gamma, config)
    batch, length, width = dims(trigram_BLC)
    projection_TH = affine(tf.reshape(trigram_BLC, [-1, width]), kernel, params["embeddings/projection/bias"] * gamma)
    projection_BLH = points(tf.reshape(projection_TH, [batch, length, config.hidden_size]), "embeddings/projection")
    types_BLY = tf.one_hot(segment_ids_BL, config.type_vocab_size, dtype=word_BLE.dtype)
    place_BLH = tf.tensordot(types_BLY, params["embeddings/type/table"], axes=1)
    place_BLH += params["embeddings/position/table"][None, :length]
    x_BLH = points(projection_BLH + points(place_BLH * gamma + beta, "embeddings/place"), "embeddings/norm")
    if is_observed():
        pairs = zip(EMBEDDING_POINTS, tf.unstack(points.seen_P2), strict=True)
        _note({f"{QUANTIZERS}{name}": pair for name, pair in pairs})
    return x_BLH


def note_blocks(seen_AP2: tf.Tensor | None, config: ModelConfig) -> None:
    """Tells whoever observes what all blocks have seen."""
    if seen_AP2 is not None:
        pairs = zip(block_points(config), tf.unstack(seen_AP2, axis=1), strict=True)
        _note({f"{QUANTIZERS}{STACKED}{name}": pair_A2 for name, pair_A2 in pairs})


def _note(extremes: Mapping[str, tf.Tensor]) -> None:
    observed = _OBSERVED.get()
    assert observed is not None, "asked before"
    observed.extremes |= extremes


def is_observed() -> bool:
    """Whether anybody wants to know what is seen at the points."""
    return _OBSERVED.get() is not None


def _projected(config: ModelConfig) -> dict[str, list[str]]:
    """Which dense layers read the block's input, and which a bottleneck: each list is one matrix product."""
    attention = ["attention/query", "attention/key", "attention/value"]
    if config.use_bottleneck_attention:
        return {BLOCK_INPUT: ["bottleneck_input"], "bottleneck_input": attention}
    if shares_query_key(config):
        both = ["bottleneck_input", "bottleneck_query_key", "attention/value"]
        return {BLOCK_INPUT: both, "bottleneck_query_key": attention[:2]}
    return {BLOCK_INPUT: ["bottleneck_input", *attention]}


def _norms(config: ModelConfig) -> dict[str, str]:
    """The dense layers before a norm and a residual, with that norm."""
    ffns = [f"ffn_{k}" for k in range(config.num_feedforward_networks)]
    return {
        "attention/output": "attention/norm",
        **{f"{ffn}/output": f"{ffn}/norm" for ffn in ffns},
        "bottleneck_output": "bottleneck_output/norm",
    }


def lowered(stacked: Params, config: ModelConfig) -> dict[str, tf.Tensor]:
    """All blocks' weights as a file of 8 bits has them, and their ranges.

    Args:
      stacked: the variables of the blocks and their ranges, `[A, …]`, as `encoder` names them: without `layers/`.
    """

    def folded(name: str, norm: str) -> tuple[tf.Tensor, tf.Tensor]:
        kernel, bias = stacked[f"{name}/kernel"], stacked[f"{name}/bias"]
        if f"{norm}/gamma" in stacked:
            gamma_AO, beta_AO = stacked[f"{norm}/gamma"], stacked[f"{norm}/beta"]
            kernel, bias = kernel * gamma_AO[:, None], bias * gamma_AO + beta_AO
        elif name == "attention/query":
            kernel, bias = (part * (1 / math.sqrt(config.head_size)) for part in (kernel, bias))
        return _kernel(kernel, config), bias

    found = {}
    for source, names in _projected(config).items():
        parts = [folded(name, f"{name}/norm") for name in names]
        found[f"{source}/kernel"] = tf.concat([kernel for kernel, _ in parts], axis=-1)
        found[f"{source}/bias"] = tf.concat([bias for _, bias in parts], axis=-1)
    for name, norm in _norms(config).items():
        found[f"{name}/kernel"], found[f"{name}/bias"] = folded(name, norm)
        gamma_AO = stacked[f"{norm}/gamma"]
        found[f"{norm}/gamma"] = rounded_weights(gamma_AO, scale_of(gamma_AO, shared=(-1,)))
        found[f"{norm}/beta"] = stacked[f"{norm}/beta"]
    for k in range(config.num_feedforward_networks):
        name = f"ffn_{k}/intermediate"
        found[f"{name}/kernel"], found[f"{name}/bias"] = folded(name, name)
    ranges = [stacked[f"{QUANTIZERS}{point}"] for point in block_points(config)]
    return {**found, RANGES: usable(tf.stack(ranges, axis=1))}


def quantized_block(
    x_BLH: tf.Tensor, params: Params, bias_B11M: tf.Tensor, *, config: ModelConfig, seed: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """One layer, as `block.block`.

    Args:
      params: this layer's part of what `lowered` returns.

    Returns:
      `[B, L, H]` output, `[B, N, L, M]` scaled, masked scores, and what was seen at the points, `[P, 2]`, if anybody
      observes.
    """
    batch, length, _ = dims(x_BLH)
    points = Points(block_points(config), params[RANGES])
    found = {BLOCK_INPUT: tf.reshape(x_BLH, [-1, config.hidden_size])}
    for source, names in _projected(config).items():
        joined = affine(found[source], params[f"{source}/kernel"], params[f"{source}/bias"])
        for name, part in zip(names, tf.split(joined, len(names), axis=1), strict=True):
            found[name] = points(part, name)
    query_BNLD, key_BNMD, value_BNMD = (
        tf.transpose(tf.reshape(found[f"attention/{name}"], [batch, length, config.num_heads, -1]), [0, 2, 1, 3])
        for name in ("query", "key", "value")
    )
    scores_BNLM = tf.matmul(query_BNLD, key_BNMD, transpose_b=True)
    points.look(scores_BNLM, "attention/scores")
    scores_BNLM += bias_B11M
    probabilities_BNLM = dropout(tf.nn.softmax(scores_BNLM), rate=config.attention_dropout, seed=fold(seed, 0))
    context_BLND = tf.transpose(tf.matmul(probabilities_BNLM, value_BNMD), [0, 2, 1, 3])
    h_TI = points(tf.reshape(context_BLND, [-1, config.intra_bottleneck_size]), "attention/context")

    h_TI = _normalized_sum(h_TI, found["bottleneck_input"], params, "attention/output", "attention", config, points)
    for k in range(config.num_feedforward_networks):
        name = f"ffn_{k}/intermediate"
        wide_TF = ACTIVATIONS[config.hidden_act](affine(h_TI, params[f"{name}/kernel"], params[f"{name}/bias"]))
        h_TI = _normalized_sum(points(wide_TF, name), h_TI, params, f"ffn_{k}/output", f"ffn_{k}", config, points)
    out_TH = _normalized_sum(
        h_TI, found[BLOCK_INPUT], params, "bottleneck_output", "bottleneck_output", config, points,
        rate=config.hidden_dropout, seed=fold(seed, 1),
    )  # fmt: skip
    return tf.reshape(out_TH, [batch, length, config.hidden_size]), scores_BNLM, points.seen_P2


def _normalized_sum(
    x: tf.Tensor,
    residual: tf.Tensor,
    params: Params,
    name: str,
    group: str,
    config: ModelConfig,
    points: Points,
    *,
    rate: float = 0.0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """NoNorm of a dense layer and a residual as three operations: the folded dense layer, a product, their sum."""
    output = affine(x, params[f"{name}/kernel"], params[f"{name}/bias"])
    if rate > 0 and seed is not None:  # what is dropped is the dense layer's output, not the norm's beta
        beta = params[f"{group}/norm/beta"]
        output = dropout(output - beta, rate=rate, seed=seed) + beta
    output = points(output, name)
    kept = points(residual * params[f"{group}/norm/gamma"], f"{group}/residual")
    return points(output + kept, f"{group}/norm")
