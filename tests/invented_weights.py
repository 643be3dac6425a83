"""Weights of a MobileBERT, whole and with every head, made of random numbers of a realistic scale."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mobilebert_exp import compose
from mobilebert_exp.config import ModelConfig, Normalization, leaves
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import (
    VariableSpec,
    classifier_variables,
    encoder_variables,
    pretraining_variables,
    span_variables,
)

PRESETS = ("opt", "tiny", "teacher", "base", "multilingual")
VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\né\n##s\n".encode()


def narrow(name: str, *, layers: int = 2, mask_value: float = -1e9) -> ModelConfig:
    """A preset's architecture, a few numbers wide; by default with tf-models' mask value."""
    return dataclasses.replace(
        compose([f"model={name}"]).model,
        embedding_size=16,
        hidden_size=32,
        intra_bottleneck_size=64 if name == "teacher" else 16,
        intermediate_size=48,
        max_positions=24,
        vocab_size=61,
        num_layers=layers,
        attention_mask_value=mask_value,
    )


def every_head(config: ModelConfig) -> list[VariableSpec]:
    return [*pretraining_variables(config), *span_variables(config), *classifier_variables(config, num_outputs=3)]


def invented(config: ModelConfig, heads: Sequence[VariableSpec] | None = None, **about: Any) -> Weights:
    """An encoder with `heads`, by default those of pre-training; each value is a function of its variable's name.

    Norms are not at 1 and 0, and queries and keys so wide that attention has a content.
    """
    low, high = (0.8, 1.2) if config.normalization is Normalization.no_norm else (0.4, 0.8)
    values = {}
    for spec in [*encoder_variables(config), *(pretraining_variables(config) if heads is None else heads)]:
        rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
        if spec.name.endswith("/gamma"):
            values[spec.name] = rng.uniform(low, high, spec.shape).astype(np.float32)
            continue
        width = 0.1 if spec.name.endswith("/table") else min(0.1, 0.4 / np.sqrt(spec.shape[-1]))
        if spec.name.endswith(("query/kernel", "key/kernel")):
            width = 1 / np.sqrt(spec.shape[-2])
        values[spec.name] = rng.standard_normal(spec.shape, np.float32) * np.float32(width)
    return Weights(values=values, model=leaves(config), **about)


def assign(module: tf.Module, weights: Weights) -> None:
    """Gives every variable of a model its value."""
    for variable in module.variables:
        variable.assign(weights.values[variable.name.split(":")[0]])


def assert_same_values(found: Weights, expected: Weights) -> None:
    """Bit for bit, and none more."""
    assert found.values.keys() == expected.values.keys()
    for name, value in expected.values.items():
        assert found.values[name].dtype == np.float32, name
        np.testing.assert_array_equal(found.values[name], value, err_msg=name)
    assert not found.faults
