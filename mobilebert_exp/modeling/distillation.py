"""The losses of distillation, and when each layer is taught: pure functions of what the models return.

Sources: paper, sections 3.3 to 3.5; google-research/google-research mobilebert/{run_pretraining,distill_util}.py. The
teacher's outputs come in as they are: no gradient goes through them here.

Shapes: … any leading axes, such as the layers compared; B batch, L tokens, M keys, N heads, H hidden size, A the
student's layers, P masked places, V words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf

from mobilebert_exp.modeling.transfer import LowerLayers, Strategy, TransferConfig
from mobilebert_exp.modeling.variables import STACKED, VariableSpec

EPSILON = 1e-12  # of the original's contrib layer_norm
FINISHED, ITS_TURN = 0.9, 10.0  # of the rate of a layer's turn: where it falls to, and the slope it rises with


class LayerOutput(NamedTuple):
    """What one block, or several, returned: `[…, B, L, H]`, and `[…, B, N, L, M]` scores before the softmax."""

    hidden: tf.Tensor
    scores: tf.Tensor


class TransferLosses(NamedTuple):
    """How far a student's layers are from their teacher's, each `[…, B]` float32, without factors.

    Attributes:
      hidden: mean squared difference of the standardised feature maps.
      mean: mean squared difference of their means over H.
      variance: mean absolute difference of their variances over H.
      attention: cross-entropy of the student's attention under the teacher's.
      attention_kl: that less the teacher's own entropy, which is 0 where both attend alike; reported, not taught.
    """

    hidden: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    attention: tf.Tensor
    attention_kl: tf.Tensor

    def total(self, config: TransferConfig, *, layers: int) -> tf.Tensor:
        """`[…, B]`: what is taught, with the factors of `config` over the student's layers."""
        return (
            config.hidden_factor * self.hidden
            + config.mean_factor * self.mean
            + config.variance_factor * self.variance
            + config.attention_factor * self.attention
        ) / layers


def transfer_losses(
    student: LayerOutput, teacher: LayerOutput, *, counted_BL: tf.Tensor, all_hidden: tf.Tensor | None = None
) -> TransferLosses:
    """Compares layers with their teachers.

    Args:
      student: the layers that learn.
      teacher: the layers they learn from, of the same shapes.
      counted_BL: 1 where a position counts; each example's losses are means over those.
      all_hidden: `[T, B, L, H]`, outputs of all the teacher's layers, embeddings first: then means and variances are
        compared with each of them, and averaged, which is the original's mistake. None compares matching layers.
    """
    ours, (theirs, their_scores) = student, (tf.stop_gradient(part) for part in teacher)
    hidden = tf.reduce_mean(tf.math.squared_difference(_standardised(theirs), _standardised(ours.hidden)), axis=-1)
    mean, variance = _moments(ours.hidden)
    if all_hidden is None:
        their_mean, their_variance = _moments(theirs)
        from_mean, from_variance = tf.math.squared_difference(their_mean, mean), tf.abs(their_variance - variance)
    else:
        their_means_TBL, their_variances_TBL = _moments(tf.stop_gradient(all_hidden))
        from_mean = tf.reduce_mean(tf.math.squared_difference(their_means_TBL, mean[..., None, :, :]), axis=-3)
        from_variance = tf.reduce_mean(tf.abs(their_variances_TBL - variance[..., None, :, :]), axis=-3)
    crossed, entropy = _attention(ours.scores, their_scores)
    found = (hidden, from_mean, from_variance, crossed, crossed - entropy)
    return TransferLosses(*(_mean_of_counted(values, counted_BL) for values in found))


def _standardised(hidden: tf.Tensor) -> tf.Tensor:
    """LayerNorm without scale and shift, in float32."""
    wide = tf.cast(hidden, tf.float32)
    mean, variance = tf.nn.moments(wide, axes=[-1], keepdims=True)
    return (wide - mean) * tf.math.rsqrt(variance + EPSILON)


def _moments(hidden: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mean, variance = tf.nn.moments(tf.cast(hidden, tf.float32), axes=[-1])
    return mean, variance


def _attention(ours: tf.Tensor, theirs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`[…, B, L]` each, means over the heads: the cross-entropy, and the teacher's entropy."""
    logs, their_logs = (tf.nn.log_softmax(tf.cast(scores, tf.float32)) for scores in (ours, theirs))
    probabilities = tf.exp(their_logs)
    return tuple(-tf.reduce_mean(tf.reduce_sum(probabilities * part, axis=-1), axis=-2) for part in (logs, their_logs))


def _mean_of_counted(values: tf.Tensor, counted_BL: tf.Tensor) -> tf.Tensor:
    """`[…, B]`: means over the positions that count."""
    weights_BL = tf.cast(counted_BL, tf.float32)
    return tf.reduce_sum(values * weights_BL, axis=-1) / tf.maximum(tf.reduce_sum(weights_BL, axis=-1), 1.0)


def layer_in_turn(step: tf.Tensor, *, steps_per_layer: int, layers: int) -> tf.Tensor:
    """The student's layer, from 0, that is taught by the update after `step` others; the last one's turn never ends."""
    return tf.minimum(tf.cast(step // steps_per_layer, tf.int32), layers - 1)


def warm(step: tf.Tensor, *, steps_per_layer: int) -> tf.Tensor:
    """Share of the rate within a turn: up by a slope of 10 to about 0.97, then slowly down to 0.9; 0 at its start."""
    if steps_per_layer == 1:
        return tf.constant(1.0)
    done = tf.cast(step % steps_per_layer, tf.float32) / steps_per_layer
    return tf.minimum(FINISHED + (1 - FINISHED) * tf.sqrt(1 - done), ITS_TURN * done)


def rate_factors(
    specs: Iterable[VariableSpec], config: TransferConfig, step: tf.Tensor, *, steps_per_layer: int, layers: int
) -> dict[str, tf.Tensor | float]:
    """What the learning rate of each variable is multiplied by in KT: `[A, 1, …]` over the layers.

    Embeddings and heads rest, which a plain 0.0 says. In a progressive phase so do the layers above the one in turn.
    """
    rate = config.learning_rate_factor * warm(step, steps_per_layer=steps_per_layer)
    of_layers_A = tf.ones([layers])
    if config.strategy is Strategy.progressive:
        turn = layer_in_turn(step, steps_per_layer=steps_per_layer, layers=layers)
        lower = config.lower_factor if config.lower_layers is LowerLayers.slow else 0.0
        places_A = tf.range(layers)
        of_layers_A = tf.where(places_A == turn, 1.0, tf.where(places_A < turn, lower, 0.0))
    factors_A = rate * of_layers_A
    return {
        spec.name: tf.reshape(factors_A, [layers] + [1] * (len(spec.shape) - 1))
        if spec.name.startswith(STACKED)
        else 0.0
        for spec in specs
    }


def rate_groups(config: TransferConfig, step: tf.Tensor, *, steps_per_layer: int) -> dict[str, tf.Tensor]:
    """The factors of `rate_factors` by what they are for, to be recorded."""
    rate, nothing = config.learning_rate_factor * warm(step, steps_per_layer=steps_per_layer), tf.constant(0.0)
    rest = {"embeddings": nothing, "heads": nothing}
    if config.strategy is not Strategy.progressive:
        return {**rest, "layers": rate}
    lower = config.lower_factor if config.lower_layers is LowerLayers.slow else 0.0
    return {**rest, "layer_in_turn": rate, "layers_below": rate * lower, "layers_above": nothing}


def word_losses(
    student_BPV: tf.Tensor,
    words_BP: tf.Tensor,
    *,
    teacher_BPV: tf.Tensor | None,
    ground_truth_ratio: float,
    temperature: float,
) -> tf.Tensor:
    """Cross-entropy of each masked place, `[B, P]`, under the right word and under the teacher's answer.

    The original's temperature scaled what a LayerNorm then undid. Here it divides the logits of both, and the teacher's
    part is multiplied by its square, so that the size of its gradients stays (Hinton and others 2015, section 2).

    Args:
      student_BPV: its scores.
      words_BP: the right words.
      teacher_BPV: its scores; None teaches the right words alone.
      ground_truth_ratio: the share of the right word, the rest is the teacher's.
      temperature: 1 takes the teacher's answer as it is.
    """
    right_BP = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=words_BP, logits=student_BPV)
    if teacher_BPV is None:
        return right_BP
    answer_BPV = tf.stop_gradient(tf.nn.softmax(teacher_BPV / temperature))
    taught_BP = tf.nn.softmax_cross_entropy_with_logits(labels=answer_BPV, logits=student_BPV / temperature)
    return ground_truth_ratio * right_BP + (1 - ground_truth_ratio) * temperature**2 * taught_BP
