"""What the two heads of pre-training are asked, and what their answers are worth, example by example.

The masked-language-model loss of a batch is the sum of `w CE` over all masked places by the sum of `w`, plus 1e-5, over
the whole global batch (google-research/bert, run_pretraining.py), so a share of a batch is only worth something beside
the weights of the whole.

Shapes: B batch, P places that may be masked, V words.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mobilebert_exp.modeling.pretrainer import PretrainingModel, PretrainingOutput

NO_PLACES = 1e-5  # added to the sum of weights, which may be 0


def inputs(batch: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
    """What an encoder is given of a batch with the original's keys."""
    return [batch[name] for name in ("input_ids", "input_mask", "segment_ids")]


def answers(
    module: PretrainingModel,
    batch: Mapping[str, tf.Tensor],
    *,
    seed: tf.Tensor | None = None,
    all_layers: bool = False,
) -> PretrainingOutput:
    """The model's outputs for a batch with the original's keys; `seed` and `all_layers` as for the model."""
    ids, mask, segments = inputs(batch)
    return module(ids, mask, segments, batch["masked_lm_positions"], seed=seed, all_layers=all_layers)


def judged(output: PretrainingOutput, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Sums over each example, `[B]` float32 each.

    Returns:
      `masked_lm_loss` and `masked_lm_right`, weighted as `masked_lm_weight` says, which is the sum of the weights;
      `next_sentence_loss` and `next_sentence_right` (0 or 1).
    """
    weights_BP, ids_BP = batch["masked_lm_weights"], batch["masked_lm_ids"]
    losses_BP = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids_BP, logits=output.masked_lm_BPV)
    labels_B = batch["next_sentence_labels"][:, 0]
    return {
        "masked_lm_loss": tf.reduce_sum(weights_BP * losses_BP, axis=1),
        "masked_lm_right": tf.reduce_sum(weights_BP * _right(output.masked_lm_BPV, ids_BP), axis=1),
        "masked_lm_weight": tf.reduce_sum(weights_BP, axis=1),
        "next_sentence_loss": tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=labels_B, logits=output.next_sentence_B2
        ),
        "next_sentence_right": _right(output.next_sentence_B2, labels_B),
    }


def _right(scores: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """1 where the best score is the label's, float32."""
    return tf.cast(tf.equal(tf.argmax(scores, axis=-1, output_type=labels.dtype), labels), tf.float32)


def places(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The sum of the weights of all masked places in a share of a batch."""
    return tf.reduce_sum(batch["masked_lm_weights"])


def mean_over_places(losses_BP: tf.Tensor, batch: Mapping[str, tf.Tensor], *, places_in_batch: tf.Tensor) -> tf.Tensor:
    """A share's part of the mean of `losses_BP` over the masked places of the global batch."""
    return tf.reduce_sum(batch["masked_lm_weights"] * losses_BP) / (places_in_batch + NO_PLACES)


def figures(
    sums: Mapping[str, tf.Tensor], *, places_in_batch: tf.Tensor, global_batch_size: int
) -> dict[str, tf.Tensor]:
    """A share's part of the four means over the global batch, from what `judged` returns; accuracies of 100."""
    by_place = 1 / (places_in_batch + NO_PLACES)
    return {
        "masked_lm_loss": tf.reduce_sum(sums["masked_lm_loss"]) * by_place,
        "masked_lm_accuracy": 100 * tf.reduce_sum(sums["masked_lm_right"]) * by_place,
        "next_sentence_loss": tf.reduce_sum(sums["next_sentence_loss"]) / global_batch_size,
        "next_sentence_accuracy": 100 * tf.reduce_sum(sums["next_sentence_right"]) / global_batch_size,
    }
