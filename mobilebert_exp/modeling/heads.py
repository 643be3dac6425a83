"""Heads over the encoder. Shapes: B batch, L tokens, H hidden size."""

from __future__ import annotations

import tensorflow as tf

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.block import dense
from mobilebert_exp.modeling.encoder import MobileBertEncoder, create_variables
from mobilebert_exp.modeling.variables import span_variables


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
