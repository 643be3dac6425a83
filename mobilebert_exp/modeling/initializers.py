"""Initial values of variables, each a function of (seed, name) alone: adding a variable never changes another.

`bert` draws kernels and embeddings from a normal truncated at two standard deviations, `initializer_range` wide, as
BERT does. At narrow widths that leaves a fresh model with activations near zero, and it learns little within minutes.

`scaled` is for narrow models that train from scratch. Kernels have variance 1 / fan-in and embeddings unit scale; what
is added to a residual stream starts small, so that NoNorm, which rescales nothing, is stable. The attention heads
start in two kinds: half have queries equal to their keys, so that a token attends to tokens like itself and to its
neighbours (in the spirit of arXiv 2305.09828), and half have zero queries, so that they average over the whole input
and bring the question to every token.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import tensorflow as tf

from mobilebert_exp.config import Initialization, ModelConfig
from mobilebert_exp.modeling.variables import TRIGRAM, Fill, VariableSpec

TRUNCATED_DEVIATION = 0.8796256610342398  # standard deviation of a unit normal truncated at +-2
# What is added to a residual stream, and the head.
RESIDUAL = ("/output/kernel", "bottleneck_output/kernel", "heads/span/kernel")
RESIDUAL_GAIN = 0.1
QUERY_KEY_GAIN = 1.5  # scores of like tokens stand out from the noise of unlike ones
TYPE_GAIN = 0.3
POSITION_GAIN = 0.4
CURRENT_TOKEN_SHARE = 0.7  # of the variance that the trigram projection passes on; its neighbours share the rest


def initial_value(spec: VariableSpec, config: ModelConfig, *, seed: int) -> tf.Tensor:
    """The start of one variable, float32, of `spec.shape`."""
    if spec.fill in (Fill.zeros, Fill.ones):
        return tf.fill(spec.shape, 0.0 if spec.fill is Fill.zeros else 1.0)
    if config.initialization is Initialization.bert:
        return _normal(spec, deviation=config.initializer_range, seed=seed, name=spec.name)
    if spec.fill is Fill.position:
        return tf.constant(sinusoids(*spec.shape) * (math.sqrt(2.0) * POSITION_GAIN), tf.float32)
    fan_in = 1 if spec.fill is Fill.embedding else spec.shape[-2]
    name = spec.name.replace("attention/key", "attention/query")  # the same draw for both
    value = _normal(spec, deviation=_gain(spec) / (math.sqrt(fan_in) * TRUNCATED_DEVIATION), seed=seed, name=name)
    return value * _pattern(spec)


def _gain(spec: VariableSpec) -> float:
    if spec.name.endswith(RESIDUAL):
        return RESIDUAL_GAIN
    if spec.name.startswith(("layers/attention/query", "layers/attention/key")):
        return QUERY_KEY_GAIN
    return TYPE_GAIN if spec.name.startswith("embeddings/type") else 1.0


def _pattern(spec: VariableSpec) -> tf.Tensor:
    """What a kernel is multiplied by: the weights of the trigram's parts, the averaging half of the heads."""
    if spec.name == "embeddings/projection/kernel":
        beside = math.sqrt(TRIGRAM * (1 - CURRENT_TOKEN_SHARE) / 2)
        weights = [beside, math.sqrt(TRIGRAM * CURRENT_TOKEN_SHARE), beside]
        return tf.repeat(tf.constant(weights), spec.shape[0] // TRIGRAM)[:, None]
    if spec.name == "layers/attention/query/kernel":
        return tf.cast(tf.range(spec.shape[-1]) < spec.shape[-1] // 2, tf.float32)
    return tf.constant(1.0)


def _normal(spec: VariableSpec, *, deviation: float, seed: int, name: str) -> tf.Tensor:
    key = [seed, zlib.crc32(name.encode()) & 0x7FFFFFFF]
    return tf.random.stateless_truncated_normal(spec.shape, seed=key, stddev=deviation)


def sinusoids(positions: int, width: int) -> np.ndarray:
    """Sines and cosines of geometrically growing wave lengths (arXiv 1706.03762, section 3.5), `[positions, width]`."""
    rate = np.exp(-math.log(10000.0) * np.arange(0, width, 2) / width)
    angle = np.arange(positions)[:, None] * rate[None, :]
    table = np.zeros((positions, width), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle[:, : width // 2])
    return table
