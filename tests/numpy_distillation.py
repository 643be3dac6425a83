"""What distillation teaches and how an update moves the weights, in NumPy float64, from the original's description.

Shapes: as in `numpy_mobilebert`; A layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy_mobilebert import Arrays, Encoded, absolute, layer_norm, log_softmax

from mobilebert_exp.config import OptimizerConfig
from mobilebert_exp.modeling.transfer import LowerLayers, Padding, Semantics, Strategy, TransferConfig


def transfer(
    student: Encoded, teacher: Encoded, mask_BL: np.ndarray, *, layer: int, matching: int, config: TransferConfig
) -> dict[str, np.ndarray]:
    """The component losses of the student's `layer` under the teacher's layer `matching`, both from 0; whole batch."""
    ours, theirs = student.hidden[layer + 1], teacher.hidden[matching + 1]
    all_theirs = teacher.hidden if config.semantics is Semantics.tf1_exact else [theirs]
    their_logs, our_logs = log_softmax(teacher.scores[matching]), log_softmax(student.scores[layer])
    crossed = -(np.exp(their_logs) * our_logs).sum(-1)
    entropy = -(np.exp(their_logs) * their_logs).sum(-1)
    by_token = {
        "hidden": ((layer_norm(theirs) - layer_norm(ours)) ** 2).mean(-1),
        "mean": sum((each.mean(-1) - ours.mean(-1)) ** 2 for each in all_theirs) / len(all_theirs),
        "variance": sum(absolute(_variance(each) - _variance(ours)) for each in all_theirs) / len(all_theirs),
        "attention": crossed.mean(1),
        "attention_kl": (crossed - entropy).mean(1),
    }
    counted_BL = np.ones_like(mask_BL) if config.padding is Padding.counted else mask_BL
    return {
        name: np.mean([value_L[used_L > 0].mean() for value_L, used_L in zip(values, counted_BL, strict=True)])
        for name, values in by_token.items()
    }


def _variance(x: np.ndarray) -> np.ndarray:
    return ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1)


def weighted(losses: Mapping[str, np.ndarray], config: TransferConfig, *, layers: int) -> np.ndarray:
    """What a layer is taught."""
    return (
        config.hidden_factor / layers * losses["hidden"]
        + config.mean_factor / layers * losses["mean"]
        + config.variance_factor / layers * losses["variance"]
        + config.attention_factor / layers * losses["attention"]
    )


def pretraining(
    words_BPV: np.ndarray,
    follows_B2: np.ndarray,
    batch: Arrays,
    *,
    teacher_BPV: np.ndarray,
    ratio: float,
    temperature: float,
) -> np.ndarray:
    """Masked words under the right word and the teacher's answer, and the next sentence."""
    right_BPV = np.eye(words_BPV.shape[-1])[batch["masked_lm_ids"]]
    answers_BPV = np.exp(log_softmax(teacher_BPV / temperature))
    right_BP = -(right_BPV * log_softmax(words_BPV)).sum(-1)
    taught_BP = -(answers_BPV * log_softmax(words_BPV / temperature)).sum(-1)
    weights_BP = batch["masked_lm_weights"].astype(np.float64)
    places_BP = weights_BP * (ratio * right_BP + (1 - ratio) * temperature**2 * taught_BP)
    sentences = -np.take_along_axis(log_softmax(follows_B2), batch["next_sentence_labels"], axis=1).mean()
    return places_BP.sum() / (weights_BP.sum() + 1e-5) + sentences


def warm(t: int, p: int) -> float:
    return min(0.9 + 0.1 * math.sqrt(1 - t / p), 10 * t / p) if p > 1 else 1.0


def rates(config: TransferConfig, step: int, *, layers: int) -> list[float]:
    """Of each layer, as shares of the optimizer's."""
    if config.strategy is Strategy.joint:
        return [config.learning_rate_factor * warm(step, config.steps)] * layers
    p = config.steps // layers
    turn, lower = step // p, config.lower_factor if config.lower_layers is LowerLayers.slow else 0.0
    shares = [lower if layer < turn else float(layer == turn) for layer in range(layers)]
    return [config.learning_rate_factor * warm(step % p, p) * share for share in shares]


class Lamb:
    """LAMB as the original's, over lists of single layers' arrays, with a factor for each."""

    def __init__(self, weights: Arrays, config: OptimizerConfig) -> None:
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self._config = config
        self.first = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.second = {name: np.zeros_like(value) for name, value in self.weights.items()}

    def update(self, gradients: Arrays, *, rate: float, factors: Sequence[float] | None) -> float:
        """One step; `factors` by layer, with 0 for everything else, or None for 1 everywhere. Returns the norm."""
        norm = math.sqrt(sum(float((value**2).sum()) for value in gradients.values()))
        clip = self._config.gradient_clip_norm
        for name, gradient in gradients.items():
            scaled = gradient * clip / max(norm, clip)
            if not name.startswith("layers/"):
                self._move(name, ..., scaled, rate if factors is None else 0.0)
                continue
            for layer in range(scaled.shape[0]):
                self._move(name, layer, scaled[layer], rate * (1.0 if factors is None else factors[layer]))
        return norm

    def _move(self, name: str, place: Any, gradient: np.ndarray, rate: float) -> None:
        config, weights = self._config, self.weights[name]
        if rate == 0:
            self.first[name][place] = self.second[name][place] = 0
            return
        first = config.beta_1 * self.first[name][place] + (1 - config.beta_1) * gradient
        second = config.beta_2 * self.second[name][place] + (1 - config.beta_2) * gradient**2
        self.first[name][place], self.second[name][place] = first, second
        update, ratio = first / (np.sqrt(second) + config.epsilon), 1.0
        if name.endswith(("/kernel", "/table")):
            update = update + config.weight_decay * weights[place]
            sizes = np.linalg.norm(weights[place]), np.linalg.norm(update)
            ratio = float(sizes[0] / sizes[1]) if min(sizes) > 0 else 1.0
        weights[place] = weights[place] - rate * ratio * update
