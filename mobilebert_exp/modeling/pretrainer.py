"""The model of pre-training: an encoder with both of its heads, as BERT's, but for the output kernel in two pieces.

Shapes: B batch, L tokens, P places that are masked, H hidden size, E embedding size, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.block import ACTIVATIONS, Params, dense, layer_norm
from mobilebert_exp.modeling.encoder import EncoderOutput, MobileBertEncoder, create_variables
from mobilebert_exp.modeling.variables import pretraining_variables


class PretrainingOutput(NamedTuple):
    """What the model returns.

    Attributes:
      encoded: the encoder's outputs.
      masked_lm_BPV: a score for each word at each of the places asked for, float32.
      next_sentence_B2: scores of "follows" and "does not", float32.
    """

    encoded: EncoderOutput
    masked_lm_BPV: tf.Tensor
    next_sentence_B2: tf.Tensor


class PretrainingModel(tf.Module):
    """An encoder that names masked words and tells whether two texts follow each other.

    Args:
      config: the architecture.
      seed, dtype: as for the encoder.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0, dtype: str = "float32") -> None:
        super().__init__(name="pretraining_model")
        self.encoder = MobileBertEncoder(config, seed=seed, dtype=dtype)
        self.weights = create_variables(pretraining_variables(config), config, seed=seed)

    def __call__(
        self,
        input_ids_BL: tf.Tensor,
        input_mask_BL: tf.Tensor,
        segment_ids_BL: tf.Tensor,
        positions_BP: tf.Tensor,
        *,
        seed: tf.Tensor | None = None,
        all_layers: bool = False,
    ) -> PretrainingOutput:
        """Scores of words at `positions_BP` and of the pair of texts; the rest is as for the encoder."""
        encoded = self.encoder(input_ids_BL, input_mask_BL, segment_ids_BL, seed=seed, all_layers=all_layers)
        places_BPH = tf.gather(encoded.sequence_BLH, positions_BP, batch_dims=1)
        words_VE = self.encoder.weights["embeddings/word/table"]
        return PretrainingOutput(
            encoded,
            masked_lm_scores(places_BPH, words_VE, self.weights, self.encoder.config),
            dense(encoded.pooled_BH, self.weights, "heads/next_sentence"),
        )


def masked_lm_scores(places_BPH: tf.Tensor, words_VE: tf.Tensor, params: Params, config: ModelConfig) -> tf.Tensor:
    """`[B, P, V]`: dense and LayerNorm, then the product with the word table and, for the rest of H, with `extra`."""
    x_BPH = ACTIVATIONS[config.hidden_act](dense(places_BPH, params, "heads/masked_lm/transform"))
    gamma, beta = (params[f"heads/masked_lm/norm/{part}"] for part in ("gamma", "beta"))
    x_BPH = layer_norm(x_BPH, gamma, beta, epsilon=config.layer_norm_epsilon)
    kernel_VH = tf.concat([words_VE, params["heads/masked_lm/extra/table"]], axis=1)
    scores_BPV = tf.einsum("bph,vh->bpv", x_BPH, kernel_VH)
    return scores_BPV + params["heads/masked_lm/output/bias"]
