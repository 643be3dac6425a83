"""A batch in equal pieces, one after another, so that memory is a piece's."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

Batch = Mapping[str, tf.Tensor]


def micro_batch(batch: Batch, part: tf.Tensor, *, parts: int) -> dict[str, tf.Tensor]:
    """The piece number `part` of `parts`: of each tensor `[B, …]` the rows `[B / parts, …]`."""
    return {
        name: tf.reshape(rows, [parts, rows.shape[0] // parts, *rows.shape[1:]])[part] for name, rows in batch.items()
    }
