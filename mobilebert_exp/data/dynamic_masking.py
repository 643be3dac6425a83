"""Masks drawn anew for each batch while it is read, in TensorFlow: another mask each time a record comes by.

The tokens that a record's mask took away stand in `masked_lm_ids`, so any record can be masked again, whichever script
wrote it. Which mask is drawn is a function of the seed alone, so a resumed run draws the same.

Shapes: B batch, L tokens, P predictions, K special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mobilebert_exp.data.pretraining.settings import KEPT, MASKED

if TYPE_CHECKING:
    import tensorflow as tf


def remasked(
    batch: Mapping[str, tf.Tensor],
    *,
    seed: tf.Tensor,
    share: float,
    mask_id: int,
    special_ids: Sequence[int],
    vocab_size: int,
) -> dict[str, tf.Tensor]:
    """The batch with other masks, token by token; what it holds beside them stays.

    Args:
      batch: `input_ids`, `input_mask` [B, L] and `masked_lm_positions`, `_ids`, `_weights` [B, P], among others.
      seed: int `[2]`, another one for each batch.
      share: of a row's tokens that are masked, as far as P allows.
      special_ids: what is never masked: [CLS] and [SEP].
    """
    import tensorflow as tf

    draw = tf.random.experimental.stateless_fold_in
    ids_BL = unmasked(batch)
    allowed_BL = tf.cast(batch["input_mask"], tf.bool)
    for special in special_ids:
        allowed_BL &= ids_BL != special
    most = batch["masked_lm_positions"].shape[1]
    is_masked_BP = tf.range(most)[None] < _wanted(batch["input_mask"], allowed_BL, share)[:, None]
    places_BP = _places(allowed_BL, is_masked_BP, seed=draw(seed, 0))
    labels_BP = tf.gather(ids_BL, places_BP, batch_dims=1)
    coin_BP = tf.random.stateless_uniform(tf.shape(places_BP), draw(seed, 1))
    random_BP = tf.random.stateless_uniform(tf.shape(places_BP), draw(seed, 2), 0, vocab_size, tf.int32)
    new_BP = tf.where(coin_BP < KEPT, labels_BP, tf.cast(random_BP, ids_BL.dtype))
    new_BP = tf.where(coin_BP < MASKED, tf.cast(mask_id, ids_BL.dtype), new_BP)
    return {
        **batch,
        "input_ids": _put(ids_BL, places_BP, new_BP, is_masked_BP),
        "masked_lm_positions": tf.cast(places_BP, batch["masked_lm_positions"].dtype),
        "masked_lm_ids": tf.cast(tf.where(is_masked_BP, labels_BP, 0), batch["masked_lm_ids"].dtype),
        "masked_lm_weights": tf.cast(is_masked_BP, tf.float32),
    }


def _wanted(mask_BL: tf.Tensor, allowed_BL: tf.Tensor, share: float) -> tf.Tensor:
    """How many tokens of each row are to be masked, rounded as the original rounds."""
    import tensorflow as tf

    used_B, most_B = (tf.reduce_sum(tf.cast(of_BL, tf.int32), axis=1) for of_BL in (mask_BL, allowed_BL))
    return tf.minimum(tf.maximum(tf.cast(tf.round(tf.cast(used_B, tf.float32) * share), tf.int32), 1), most_B)


def _places(allowed_BL: tf.Tensor, is_masked_BP: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
    """As many places `[B, P]` of a row as are to be masked, drawn from those that may be, rising; then zeros."""
    import tensorflow as tf

    length, most = allowed_BL.shape[1], is_masked_BP.shape[1]
    keys_BL = tf.random.stateless_uniform(tf.shape(allowed_BL), seed)
    _, drawn_BP = tf.math.top_k(tf.where(allowed_BL, keys_BL, -1.0), k=min(most, length))
    drawn_BP = tf.pad(drawn_BP, [[0, 0], [0, max(0, most - length)]])
    return tf.where(is_masked_BP, tf.sort(tf.where(is_masked_BP, drawn_BP, length), axis=1), 0)


def unmasked(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The tokens `[B, L]` as they were before a record's mask."""
    import tensorflow as tf

    labels_BP = tf.cast(batch["masked_lm_ids"], batch["input_ids"].dtype)
    return _put(
        batch["input_ids"], tf.cast(batch["masked_lm_positions"], tf.int32), labels_BP, batch["masked_lm_weights"] > 0
    )


def _put(ids_BL: tf.Tensor, places_BP: tf.Tensor, new_BP: tf.Tensor, where_BP: tf.Tensor) -> tf.Tensor:
    """Other tokens in some places; what the rest of P names goes into a column that is cut off again."""
    import tensorflow as tf

    length = ids_BL.shape[1]
    rows_BP = tf.broadcast_to(tf.range(tf.shape(ids_BL)[0])[:, None], tf.shape(places_BP))
    at_BP2 = tf.stack([rows_BP, tf.where(where_BP, places_BP, length)], axis=2)
    return tf.tensor_scatter_nd_update(tf.pad(ids_BL, [[0, 0], [0, 1]]), at_BP2, new_BP)[:, :length]
