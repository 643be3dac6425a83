"""Initial values of variables, each a function of (seed, name) alone: adding a variable never changes another.

`bert` draws kernels and embeddings from a normal truncated at two standard deviations, `initializer_range` wide, as
BERT does. `structured` is for narrow models that train from scratch; see `modeling.structured`.
"""

from __future__ import annotations

import zlib

import tensorflow as tf

from mobilebert_exp.config import Initialization, ModelConfig
from mobilebert_exp.modeling import structured
from mobilebert_exp.modeling.variables import Fill, VariableSpec

TRUNCATED_DEVIATION = 0.8796256610342398  # standard deviation of a unit normal truncated at +-2


def initial_value(spec: VariableSpec, config: ModelConfig, *, seed: int) -> tf.Tensor:
    """The start of one variable, float32, of `spec.shape`."""
    if spec.fill is Fill.zeros:
        return tf.fill(spec.shape, 0.0)
    if spec.fill is Fill.ones:
        is_structured = config.initialization is Initialization.structured
        return tf.fill(spec.shape, structured.scale(spec.name, config) if is_structured else 1.0)
    if config.initialization is Initialization.bert:
        return _normal(spec, deviation=config.initializer_range, seed=seed, name=spec.name)
    drawn = _normal(spec, deviation=1 / TRUNCATED_DEVIATION, seed=seed, name=structured.drawn_as(spec.name))
    return tf.constant(structured.shaped(spec, config, drawn=drawn.numpy()), tf.float32)


def _normal(spec: VariableSpec, *, deviation: float, seed: int, name: str) -> tf.Tensor:
    key = [seed, zlib.crc32(name.encode()) & 0x7FFFFFFF]
    return tf.random.stateless_truncated_normal(spec.shape, seed=key, stddev=deviation)
