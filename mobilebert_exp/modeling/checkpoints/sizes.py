"""The architecture that the shapes of weights tell, as far as they do: what an error can name, and a person can set."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_NETWORK = re.compile(r"layers/ffn_(\d+)/intermediate/bias")


def told_by(values: Mapping[str, np.ndarray]) -> dict[str, object]:
    """Fields of `ModelConfig` that follow from the variables that are there.

    From vectors and tables, which a kernel that lies the other way around does not disturb.
    """
    found: dict[str, object] = {}
    for field, (name, axis) in {
        "vocab_size": ("embeddings/word/table", 0),
        "embedding_size": ("embeddings/word/table", 1),
        "hidden_size": ("embeddings/norm/gamma", 0),
        "max_positions": ("embeddings/position/table", 0),
        "type_vocab_size": ("embeddings/type/table", 0),
        "num_layers": ("layers/bottleneck_input/bias", 0),
        "intra_bottleneck_size": ("layers/bottleneck_input/bias", 1),
        "intermediate_size": ("layers/ffn_0/intermediate/bias", 1),
    }.items():
        if name in values and values[name].ndim > axis:
            found[field] = values[name].shape[axis]
    if networks := [int(match[1]) for name in values if (match := _NETWORK.fullmatch(name))]:
        found["num_feedforward_networks"] = 1 + max(networks)
    return {**found, "classifier_activation": "pooler/kernel" in values, **_attention(values, found)}


def _attention(values: Mapping[str, np.ndarray], sizes: Mapping[str, object]) -> dict[str, object]:
    """Where queries, keys and values come from; nothing where both widths are one, or a part is missing."""
    if "layers/bottleneck_query_key/kernel" in values:
        return {"use_bottleneck_attention": False, "key_query_shared_bottleneck": True}
    kernels = [values.get(f"layers/attention/{name}/kernel") for name in ("query", "value")]
    widths = [None if kernel is None or kernel.ndim < 2 else kernel.shape[1] for kernel in kernels]
    hidden, intra = sizes.get("hidden_size"), sizes.get("intra_bottleneck_size")
    if hidden != intra and widths == [intra, intra]:
        return {"use_bottleneck_attention": True}
    if hidden != intra and widths == [hidden, hidden]:
        return {"use_bottleneck_attention": False, "key_query_shared_bottleneck": False}
    return {}
