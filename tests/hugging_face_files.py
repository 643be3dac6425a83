"""Checkpoints in the layout of Hugging Face, small and made of random numbers."""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mobilebert_exp import compose
from mobilebert_exp.config import ModelConfig, Normalization, leaves
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import hugging_face
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import (
    VariableSpec,
    classifier_variables,
    encoder_variables,
    pretraining_variables,
    span_variables,
)

PUBLISHED = {  # `config.json` of google/mobilebert-uncased
    "attention_probs_dropout_prob": 0.1, "classifier_activation": False, "embedding_size": 128, "hidden_act": "relu",
    "hidden_dropout_prob": 0.0, "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 512,
    "intra_bottleneck_size": 128, "key_query_shared_bottleneck": True, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "mobilebert", "normalization_type": "no_norm",
    "num_attention_heads": 4, "num_feedforward_networks": 4, "num_hidden_layers": 24, "pad_token_id": 0,
    "trigram_input": True, "true_hidden_size": 128, "type_vocab_size": 2, "use_bottleneck": True,
    "use_bottleneck_attention": False, "vocab_size": 30522,
}  # fmt: skip
NARROW = ("embedding_size=8", "hidden_size=16", "intra_bottleneck_size=8", "intermediate_size=12", "num_heads=2",
          "vocab_size=23")  # fmt: skip


@functools.cache
def preset(name: str, *changes: str, layers: int | None = 2, vocabulary: int | None = 307) -> ModelConfig:
    """A shipped preset; depth and vocabulary may be cut."""
    cut = [*changes]
    cut += [f"num_layers={layers}"] * (layers is not None) + [f"vocab_size={vocabulary}"] * (vocabulary is not None)
    return compose([f"model={name}", *(f"model.{change}" for change in cut)]).model


def narrow(name: str = "opt", *changes: str) -> ModelConfig:
    """A preset's kind of model with two layers that are a few numbers wide."""
    return dataclasses.replace(preset(name, *NARROW, *changes, vocabulary=None), name="narrow")


def random_weights(model: ModelConfig, specs: list[VariableSpec] | None = None, **about: Any) -> Weights:
    """A whole encoder, the heads of pre-training and what else `specs` names; no norm is at 1 and 0.

    Deviations: gamma 0.1 around 0.9 (NoNorm) or 0.6 (LayerNorm), tables and biases 0.1, kernels 0.7 over the root of
    their inputs, about 0.03 for 512 of them, and 1 over it for queries and keys, so that attention has a content.
    """
    middle = 0.9 if model.normalization is Normalization.no_norm else 0.6
    values = {}
    for spec in [*encoder_variables(model), *(pretraining_variables(model) if specs is None else specs)]:
        rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
        drawn = rng.standard_normal(spec.shape, np.float32)
        if spec.name.endswith("/gamma"):
            values[spec.name] = np.float32(middle) + np.float32(0.1) * drawn
            continue
        width = 0.1
        if spec.name.endswith("/kernel"):
            is_score = spec.name.endswith(("query/kernel", "key/kernel"))
            width = (1.0 if is_score else 0.7) / np.sqrt(spec.shape[-2])
        values[spec.name] = drawn * np.float32(width)
    return Weights(values=values, model=leaves(model), **about)


def with_every_head(model: ModelConfig) -> list[VariableSpec]:
    """The classifier has three classes."""
    return [*pretraining_variables(model), *span_variables(model), *classifier_variables(model, num_outputs=3)]


def written(folder: Path, model: ModelConfig | None = None, **about: Any) -> Path:
    """A whole small checkpoint."""
    hugging_face.write(random_weights(model or narrow(), **about), folder)
    return folder


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Those of `model.safetensors`, to be changed."""
    from safetensors.numpy import load_file

    return {name: value.copy() for name, value in load_file(folder / "model.safetensors").items()}


def rewrite(folder: Path, values: Mapping[str, np.ndarray]) -> None:
    """As another program writes them: without our digest."""
    save_file(dict(values), folder / "model.safetensors", metadata={"format": "pt"})


def reconfigure(folder: Path, **changes: Any) -> None:
    """Changes keys of `config.json`; None removes one. What this project alone writes there goes away."""
    file = folder / "config.json"
    stated = {**json.loads(file.read_text()), "mobilebert_exp": None, **changes}
    file.write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))


def forged(header: Mapping[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header, which may lie about its own length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def same(one: Weights, other: Weights) -> bool:
    """Bit by bit, and in all that lies beside the values."""
    assert one.values.keys() == other.values.keys()
    for name, value in one.values.items():
        assert value.dtype == np.float32 and value.shape == other.values[name].shape, name
        assert value.tobytes() == other.values[name].tobytes(), name
    return dataclasses.replace(one, values={}) == dataclasses.replace(other, values={})


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        hugging_face.read(path)
    text = str(refused.value)
    assert "\n" not in text and str(path) in text and "; " in text
    return text
