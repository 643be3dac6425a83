"""Heads over the encoder. Shapes: B batch, L tokens, H hidden size, C outputs of a classifier."""

from __future__ import annotations

import tensorflow as tf

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.block import dense, dropout, fold
from mobilebert_exp.modeling.encoder import MobileBertEncoder, create_variables
from mobilebert_exp.modeling.variables import classifier_variables, span_variables

HEAD_DROPOUT = 1_000_033  # beside the encoder's seeds


class SpanModel(tf.Module):
    """An encoder that points at the first and the last token of an answer."""

    def __init__(self, config: ModelConfig, *, seed: int, dtype: str) -> None:
        super().__init__(name="span_model")
        self.encoder = MobileBertEncoder(config, seed=seed, dtype=dtype, pooled=False)
        self.weights = create_variables(span_variables(config), config, seed=seed)

    def __call__(
        self,
        input_ids_BL: tf.Tensor,
        input_mask_BL: tf.Tensor,
        segment_ids_BL: tf.Tensor,
        *,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Start and end logits, each `[B, L]` float32; `seed` as for the encoder."""
        encoded = self.encoder(input_ids_BL, input_mask_BL, segment_ids_BL, seed=seed)
        start_BL, end_BL = tf.unstack(dense(encoded.sequence_BLH, self.weights, "heads/span"), axis=-1)
        return start_BL, end_BL


def span_losses(
    start_logits_BL: tf.Tensor, end_logits_BL: tf.Tensor, start_positions_B: tf.Tensor, end_positions_B: tf.Tensor
) -> tf.Tensor:
    """Mean of the start and the end cross-entropy of each example, `[B]`."""
    start_B = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=start_positions_B, logits=start_logits_BL)
    end_B = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=end_positions_B, logits=end_logits_BL)
    return (start_B + end_B) / 2


class ClassifierModel(tf.Module):
    """An encoder whose first token's vector is classified, or scored, after dropout (the original's classifier).

    Args:
      config: the architecture; with `classifier_activation` the vector goes through the pooler first.
      num_outputs: C, the classes; 1 for a score.
      dropout_rate: share of the vector that training drops.
      seed, dtype: as for the encoder.
    """

    def __init__(self, config: ModelConfig, *, num_outputs: int, dropout_rate: float, seed: int, dtype: str) -> None:
        super().__init__(name="classifier_model")
        self.encoder = MobileBertEncoder(config, seed=seed, dtype=dtype)
        self.weights = create_variables(classifier_variables(config, num_outputs=num_outputs), config, seed=seed)
        self._dropout_rate = dropout_rate

    def __call__(
        self,
        input_ids_BL: tf.Tensor,
        input_mask_BL: tf.Tensor,
        segment_ids_BL: tf.Tensor,
        *,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Logits, or scores, `[B, C]` float32; `seed` as for the encoder."""
        encoded = self.encoder(input_ids_BL, input_mask_BL, segment_ids_BL, seed=seed)
        first_BH = dropout(encoded.pooled_BH, rate=self._dropout_rate, seed=fold(seed, HEAD_DROPOUT))
        return dense(first_BH, self.weights, "heads/classifier")


def class_losses(logits_BC: tf.Tensor, labels_B: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of each example, `[B]`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels_B, logits=logits_BC)


def score_losses(scores_B1: tf.Tensor, labels_B: tf.Tensor) -> tf.Tensor:
    """Squared error of each example, `[B]`."""
    return tf.square(scores_B1[:, 0] - labels_B)
