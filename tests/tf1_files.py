"""Checkpoints as the original code leaves them: its names, its layouts, written by TensorFlow 1's own Saver."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_exp import compose
from mobilebert_exp.config import ModelConfig, Normalization
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import VariableSpec, encoder_variables, pretraining_variables, span_variables

PRESETS = ("opt", "tiny", "teacher", "base", "multilingual")
VOCABULARY = 131
Shapes = dict[str, tuple[int, ...]]


def preset(name: str) -> ModelConfig:
    """A shipped architecture, cut to two layers and a small vocabulary."""
    return compose([f"model={name}", "model.num_layers=2", f"model.vocab_size={VOCABULARY}"]).model


def narrow(name: str) -> ModelConfig:
    """The same with narrow layers: what is wide and what is not stays as in the original."""
    intra, intermediate = (32, 40) if name == "teacher" else (12, 20)
    return dataclasses.replace(
        preset(name),
        embedding_size=8,
        hidden_size=24,
        intra_bottleneck_size=intra,
        intermediate_size=intermediate,
        max_positions=16,
    )


def values(specs: Iterable[VariableSpec], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers for variables of ours, of a trained model's scale: no norm is 1 and 0."""
    rng = np.random.default_rng(seed)
    found = {}
    for spec in specs:
        drawn = rng.standard_normal(spec.shape, np.float32) * np.float32(0.05)
        found[spec.name] = drawn + np.float32(0.8) if spec.name.endswith("/gamma") else drawn
    return found


def pretrained(model: ModelConfig, *, seed: int = 0, span: bool = False) -> Weights:
    """Weights with both heads of pre-training, or with SQuAD's."""
    heads = span_variables(model) if span else pretraining_variables(model)
    return Weights(values=values([*encoder_variables(model), *heads], seed=seed))


def names(model: ModelConfig) -> Shapes:
    """What the original's graph of pre-training calls its variables, and their shapes."""
    h, e, v = model.hidden_size, model.embedding_size, model.vocab_size
    assert v is not None
    found: Shapes = {
        "bert/embeddings/word_embeddings": (v, e),
        "bert/embeddings/token_type_embeddings": (model.type_vocab_size, h),
        "bert/embeddings/position_embeddings": (model.max_positions, h),
        **_dense("bert/embeddings/embedding_transformation", 3 * e, h),
        **_norm("bert/embeddings", h, model),
    }
    for layer in range(model.num_layers):
        found |= _layer(f"bert/encoder/layer_{layer}", model)
    if model.classifier_activation:
        found |= _dense("bert/pooler/dense", h, h)
    found |= _dense("cls/predictions/transform/dense", h, h)
    found |= {f"cls/predictions/transform/LayerNorm/{part}": (h,) for part in ("gamma", "beta")}
    found |= {"cls/predictions/output_bias": (v,), "cls/predictions/extra_output_weights": (v, h - e)}
    return found | {"cls/seq_relationship/output_weights": (2, h), "cls/seq_relationship/output_bias": (2,)}


def _layer(scope: str, model: ModelConfig) -> Shapes:
    h, i, f = model.hidden_size, model.intra_bottleneck_size, model.intermediate_size
    found = _dense(f"{scope}/bottleneck/input/dense", h, i) | _norm(f"{scope}/bottleneck/input", i, model)
    query = value = i if model.use_bottleneck_attention else h
    if model.key_query_shared_bottleneck and not model.use_bottleneck_attention:
        found |= _dense(f"{scope}/bottleneck/attention/dense", h, i) | _norm(f"{scope}/bottleneck/attention", i, model)
        query = i
    for part, width in (("query", query), ("key", query), ("value", value)):
        found |= _dense(f"{scope}/attention/self/{part}", width, i)
    found |= _dense(f"{scope}/attention/output/dense", i, i) | _norm(f"{scope}/attention/output", i, model)
    for number in range(model.num_feedforward_networks):
        is_last = number == model.num_feedforward_networks - 1
        below = scope if is_last else f"{scope}/ffn_layer_{number}"
        found |= _dense(f"{below}/intermediate/dense", i, f)
        found |= _dense(f"{below}/output/dense", f, i) | _norm(f"{below}/output", i, model)
    return found | _dense(f"{scope}/output/bottleneck/dense", i, h) | _norm(f"{scope}/output/bottleneck", h, model)


def _dense(scope: str, width_in: int, width_out: int) -> Shapes:
    return {f"{scope}/kernel": (width_in, width_out), f"{scope}/bias": (width_out,)}


def _norm(scope: str, width: int, model: ModelConfig) -> Shapes:
    name = "FakeLayerNorm" if model.normalization is Normalization.no_norm else "LayerNorm"
    return {f"{scope}/{name}/{part}": (width,) for part in ("gamma", "beta")}


def drawn(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def save(prefix: Path, tensors: Mapping[str, np.ndarray], *, step: int | None = None) -> Path:
    """Has TensorFlow 1's Saver write variables of these names; returns the prefix."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
        if step is not None:
            tf.compat.v1.train.get_or_create_global_step()
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        return Path(saver.save(session, str(prefix), global_step=step, write_meta_graph=False))


def optimizer_state(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The moments that the original's AdamW and LAMB keep beside each variable."""
    return {f"{name}/{slot}": np.zeros_like(value) for name, value in tensors.items() for slot in ("adam_m", "adam_v")}
