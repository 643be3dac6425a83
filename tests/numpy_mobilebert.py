"""MobileBERT and its distillation in NumPy, written from the paper and the original's description, not from our code.

Everything works on complex numbers too, so that gradients come from complex steps: the imaginary part of f(x + ih) / h
is the derivative to the last digit of float64, without a line of differentiation to get wrong (Squire and Trapp 1998).

Shapes: B batch, L tokens, N heads, D head size, H hidden, I intra-bottleneck, P masked places, V words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from mobilebert_exp.config import Activation, ModelConfig, Normalization

Arrays = Mapping[str, np.ndarray]
STEP = 1e-30  # of the imaginary part


@dataclass(kw_only=True, frozen=True)
class Encoded:
    """Outputs of the embeddings and of each block, and each block's scores before the softmax."""

    hidden: list[np.ndarray]
    scores: list[np.ndarray]
    pooled_BH: np.ndarray


def layer_norm(x: np.ndarray) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-12)


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.real.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def absolute(x: np.ndarray) -> np.ndarray:
    return np.where(x.real < 0, -x, x)


def activation(x: np.ndarray, kind: Activation) -> np.ndarray:
    if kind is Activation.gelu:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    positive = np.where(x.real > 0, x, 0)
    return np.where(positive.real < 6, positive, 6) if kind is Activation.relu6 else positive


class Model:
    """One forward pass over `weights`, by our names."""

    def __init__(self, weights: Arrays, config: ModelConfig) -> None:
        self._weights, self._config = weights, config

    def _dense(self, x: np.ndarray, name: str, layer: int | None = None) -> np.ndarray:
        kernel, bias = self._weights[f"{name}/kernel"], self._weights[f"{name}/bias"]
        return x @ (kernel if layer is None else kernel[layer]) + (bias if layer is None else bias[layer])

    def _norm(self, x: np.ndarray, name: str, layer: int | None = None) -> np.ndarray:
        gamma, beta = self._weights[f"{name}/gamma"], self._weights[f"{name}/beta"]
        x = x if self._config.normalization is Normalization.no_norm else layer_norm(x)
        return x * (gamma if layer is None else gamma[layer]) + (beta if layer is None else beta[layer])

    def encode(self, ids_BL: np.ndarray, mask_BL: np.ndarray, segments_BL: np.ndarray) -> Encoded:
        weights, config = self._weights, self._config
        words_BLE = weights["embeddings/word/table"][ids_BL]
        nothing = np.zeros_like(words_BLE[:, :1])
        following = np.concatenate([words_BLE[:, 1:], nothing], axis=1)
        preceding = np.concatenate([nothing, words_BLE[:, :-1]], axis=1)
        x = self._dense(np.concatenate([following, words_BLE, preceding], axis=-1), "embeddings/projection")
        x = x + weights["embeddings/type/table"][segments_BL]
        x = x + weights["embeddings/position/table"][: ids_BL.shape[1]]
        hidden, scores = [self._norm(x, "embeddings/norm")], []
        for layer in range(config.num_layers):
            x, found = self._block(hidden[-1], (1.0 - mask_BL) * config.attention_mask_value, layer)
            hidden.append(x)
            scores.append(found)
        first = hidden[-1][:, 0]
        pooled = np.tanh(self._dense(first, "pooler")) if config.classifier_activation else first
        return Encoded(hidden=hidden, scores=scores, pooled_BH=pooled)

    def _block(self, x: np.ndarray, added_BL: np.ndarray, layer: int) -> tuple[np.ndarray, np.ndarray]:
        config = self._config

        def projected(source: np.ndarray, name: str) -> np.ndarray:
            name = f"layers/{name}"
            return self._norm(self._dense(source, name, layer), f"{name}/norm", layer)

        def heads(source: np.ndarray, name: str) -> np.ndarray:
            flat = self._dense(source, f"layers/attention/{name}", layer)
            return flat.reshape(*flat.shape[:2], config.num_heads, -1).swapaxes(1, 2)

        narrow = projected(x, "bottleneck_input")
        compared = x
        if config.use_bottleneck_attention:
            compared = narrow
        elif config.key_query_shared_bottleneck:
            compared = projected(x, "bottleneck_query_key")
        query, key = heads(compared, "query"), heads(compared, "key")
        value = heads(narrow if config.use_bottleneck_attention else x, "value")
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(config.head_size) + added_BL[:, None, None, :]
        context = (np.exp(log_softmax(scores)) @ value).swapaxes(1, 2).reshape(narrow.shape)
        h = self._norm(self._dense(context, "layers/attention/output", layer) + narrow, "layers/attention/norm", layer)
        for number in range(config.num_feedforward_networks):
            ffn = f"layers/ffn_{number}"
            wide = activation(self._dense(h, f"{ffn}/intermediate", layer), config.hidden_act)
            h = self._norm(self._dense(wide, f"{ffn}/output", layer) + h, f"{ffn}/norm", layer)
        name = "layers/bottleneck_output"
        return self._norm(self._dense(h, name, layer) + x, f"{name}/norm", layer), scores

    def words(self, encoded: Encoded, positions_BP: np.ndarray) -> np.ndarray:
        """`[B, P, V]` scores of words at the masked places."""
        weights = self._weights
        places = np.take_along_axis(encoded.hidden[-1], positions_BP[:, :, None], axis=1)
        x = layer_norm(activation(self._dense(places, "heads/masked_lm/transform"), self._config.hidden_act))
        x = x * weights["heads/masked_lm/norm/gamma"] + weights["heads/masked_lm/norm/beta"]
        table = np.concatenate([weights["embeddings/word/table"], weights["heads/masked_lm/extra/table"]], axis=1)
        return x @ table.T + weights["heads/masked_lm/output/bias"]

    def follows(self, encoded: Encoded) -> np.ndarray:
        return self._dense(encoded.pooled_BH, "heads/next_sentence")


def gradients(
    loss: Callable[[Arrays], np.ndarray], weights: Arrays, *, layers: Collection[int], others: bool
) -> dict[str, np.ndarray]:
    """The derivative of a real function at `weights`, number by number; 0 where it is not asked for.

    Args:
      layers: those of the blocks to ask for.
      others: whether to ask for all that is no block's.
    """
    found = {name: np.zeros(value.shape) for name, value in weights.items()}
    moved = {name: value.astype(np.complex128) for name, value in weights.items()}
    for name, value in moved.items():
        for place in np.ndindex(value.shape):
            if place[0] in layers if name.startswith("layers/") else others:
                value[place] += 1j * STEP
                found[name][place] = loss(moved).imag / STEP
                value[place] = value[place].real
    return found
