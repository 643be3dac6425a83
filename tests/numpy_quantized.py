"""A MobileBERT of 8 bits in NumPy, written from what a quantised file computes, not from our code.

Shapes: B batch, L tokens, N heads, D head size, H hidden, I intra-bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy_mobilebert import activation, log_softmax

from mobilebert_exp.config import FakeQuantization, ModelConfig

Arrays = Mapping[str, np.ndarray]


def activations(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """256 steps from `low` to `high`, moved so that one of them is 0; halves go up."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    zero = min(max(math.floor(-low / step + 0.5), 0), 255)
    integers = np.floor(np.clip(x, -zero * step, (255 - zero) * step) / step + zero + 0.5)
    return (integers - zero) * step


def weights(values: np.ndarray, *, channels: bool) -> np.ndarray:
    """Integers from -127 to 127 times a scale; with `channels` one for each column."""
    scale = np.abs(values).max(axis=0 if channels else None, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale)
    return np.round(values / scale) * scale


class Quantized:
    """One forward pass.

    Args:
      values: variables by our names.
      ranges: smallest and largest value by `embeddings/POINT`, and `layers/POINT` for each layer.
    """

    def __init__(self, values: Arrays, ranges: Arrays, config: ModelConfig) -> None:
        self._values = {name: value.astype(np.float64) for name, value in values.items()}
        self._ranges, self._config = ranges, config
        self._channels = config.fake_quantization is FakeQuantization.per_channel

    def embeddings(self, ids_BL: np.ndarray, segments_BL: np.ndarray) -> np.ndarray:
        values = self._values
        words_BLE = weights(values["embeddings/word/table"], channels=False)[ids_BL]
        nothing = np.zeros_like(words_BLE[:, :1])
        trigram = np.concatenate(
            [
                np.concatenate([words_BLE[:, 1:], nothing], 1),
                words_BLE,
                np.concatenate([nothing, words_BLE[:, :-1]], 1),
            ],
            axis=-1,
        )
        gamma, beta = values["embeddings/norm/gamma"], values["embeddings/norm/beta"]
        kernel = weights(values["embeddings/projection/kernel"] * gamma, channels=self._channels)
        projection = self._at("embeddings/projection", trigram @ kernel + values["embeddings/projection/bias"] * gamma)
        place = values["embeddings/type/table"][segments_BL] + values["embeddings/position/table"][: ids_BL.shape[1]]
        return self._at("embeddings/norm", projection + self._at("embeddings/place", place * gamma + beta))

    def block(self, x: np.ndarray, mask_BL: np.ndarray, layer: int) -> np.ndarray:
        config = self._config
        narrow = self._dense(x, "bottleneck_input", layer, norm="bottleneck_input/norm")
        compared = x
        if config.use_bottleneck_attention:
            compared = narrow
        elif config.key_query_shared_bottleneck:
            compared = self._dense(x, "bottleneck_query_key", layer, norm="bottleneck_query_key/norm")
        size = config.intra_bottleneck_size // config.num_heads
        query = self._dense(compared, "attention/query", layer, factor=1 / math.sqrt(size))
        key = self._dense(compared, "attention/key", layer)
        value = self._dense(narrow if config.use_bottleneck_attention else x, "attention/value", layer)
        query, key, value = (
            part.reshape(*part.shape[:2], config.num_heads, size).swapaxes(1, 2) for part in (query, key, value)
        )
        scores = query @ key.swapaxes(-1, -2) + (1.0 - mask_BL)[:, None, None, :] * config.attention_mask_value
        context = (np.exp(log_softmax(scores)) @ value).swapaxes(1, 2).reshape(narrow.shape)
        context = self._at("layers/attention/context", context, layer)
        h = self._sum(context, narrow, "attention/output", "attention", layer)
        for number in range(config.num_feedforward_networks):
            ffn = f"ffn_{number}"
            wide = self._dense(h, f"{ffn}/intermediate", layer, activated=True)
            h = self._sum(wide, h, f"{ffn}/output", ffn, layer)
        return self._sum(h, x, "bottleneck_output", "bottleneck_output", layer)

    def _at(self, point: str, x: np.ndarray, layer: int | None = None) -> np.ndarray:
        low, high = self._ranges[point] if layer is None else self._ranges[point][layer]
        return activations(x, float(low), float(high))

    def _dense(
        self, x: np.ndarray, name: str, layer: int, *, norm: str = "", factor: float = 1.0, activated: bool = False
    ) -> np.ndarray:
        kernel, bias = (self._values[f"layers/{name}/{part}"][layer] * factor for part in ("kernel", "bias"))
        if norm:
            gamma, beta = (self._values[f"layers/{norm}/{part}"][layer] for part in ("gamma", "beta"))
            kernel, bias = kernel * gamma, bias * gamma + beta
        found = x @ weights(kernel, channels=self._channels) + bias
        return self._at(f"layers/{name}", activation(found, self._config.hidden_act) if activated else found, layer)

    def _sum(self, x: np.ndarray, residual: np.ndarray, name: str, group: str, layer: int) -> np.ndarray:
        output = self._dense(x, name, layer, norm=f"{group}/norm")
        gamma = weights(self._values[f"layers/{group}/norm/gamma"][layer], channels=False)
        kept = self._at(f"layers/{group}/residual", residual * gamma, layer)
        return self._at(f"layers/{group}/norm", output + kept, layer)
