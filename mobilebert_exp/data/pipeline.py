"""From feature files to batches; the only file that knows tf.data.

The order of an epoch is a function of (seed, epoch) alone (TensorFlow's global seed has no part in it), so a resumed
run goes on exactly where it stopped.
Shapes: B global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from mobilebert_exp.tasks.base import Column, Features

SHUFFLE_BLOCK = 140_000  # records mixed as one; SQuAD 2.0's training set makes 131,944 windows
ROW_WEIGHT = "row_weight"  # 1 for a real row of an evaluation batch, 0 for one that fills it up


Batch = Mapping[str, tf.Tensor]


def training_batches(
    features: Features,
    *,
    batch_size: int,
    seed: int,
    skip_batches: int,
    only_batches: int | None,
    augment: Callable[[Batch, tf.Tensor], Batch] | None = None,
) -> tf.data.Dataset:
    """Endless batches, reshuffled each epoch; one may end an epoch and begin the next.

    Args:
      features: what to read.
      batch_size: B, the global batch; no batch is smaller.
      seed: of the order.
      skip_batches: how many a run has already used.
      only_batches: keep to the first so many batches, unshuffled (to overfit them); None for all.
      augment: see `tasks.base.Phase`.
    """
    records = _records(features)
    used = skip_batches * batch_size
    if only_batches is None:
        epoch, used = divmod(used, features.num_features)
        records = _shuffled(records, seed=seed, first_epoch=epoch)
    else:
        records = records.take(only_batches * batch_size).cache().repeat()
    batches = records.skip(used).batch(batch_size, drop_remainder=True)
    parsed = _parsed(batches, features.columns)
    if augment is not None:
        parsed = _augmented(parsed, augment, seed=seed, first=skip_batches)
    return parsed.prefetch(2)


def _augmented(
    batches: tf.data.Dataset, augment: Callable[[Batch, tf.Tensor], Batch], *, seed: int, first: int
) -> tf.data.Dataset:
    """Each batch as `augment` makes it; its random numbers go by the number of the batch in the whole phase."""

    def made(number: tf.Tensor, batch: Batch) -> Batch:
        key = tf.random.experimental.stateless_fold_in(tf.constant([seed, 1], tf.int32), tf.cast(number, tf.int32))
        return augment(batch, key)

    return batches.enumerate(start=first).map(made, num_parallel_calls=1)


def _shuffled(records: tf.data.Dataset, *, seed: int, first_epoch: int) -> tf.data.Dataset:
    """Endless epochs from the `first_epoch`-th on, each mixed block by block."""
    fold = tf.random.experimental.stateless_fold_in

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        def mixed(number: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
            key = fold(fold(tf.constant([seed, 0], tf.int64), epoch), number)
            return tf.gather(block, tf.random.experimental.stateless_shuffle(tf.range(tf.size(block)), seed=key))

        return records.batch(SHUFFLE_BLOCK).enumerate().map(mixed).unbatch()

    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_of)


def evaluation_batches(features: Features, *, batch_size: int) -> tf.data.Dataset:
    """Every record once, in order; the last batch is filled up with empty rows whose `row_weight` is 0."""
    batches = _parsed(_records(features).batch(batch_size), features.columns)
    return batches.map(lambda batch: _filled(batch, batch_size)).prefetch(2)


def _records(features: Features) -> tf.data.Dataset:
    """Records in order; workers share each batch, not the files, so that any number of them sees the same batches."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    records = tf.data.TFRecordDataset([str(path) for path in features.files])
    return records.take(features.num_features).with_options(options)


def _parsed(batches: tf.data.Dataset, columns: Mapping[str, Column]) -> tf.data.Dataset:
    spec = {name: tf.io.FixedLenFeature(column.shape, column.dtype) for name, column in columns.items()}

    def parse(serialized_B: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(serialized_B, spec)
        return {k: tf.cast(v, tf.int32) if v.dtype == tf.int64 else v for k, v in parsed.items()}

    return batches.map(parse, num_parallel_calls=1)


def _filled(batch: Mapping[str, tf.Tensor], batch_size: int) -> dict[str, tf.Tensor]:
    rows = tf.shape(next(iter(batch.values())))[0]
    full = {}
    for name, value in batch.items():
        padding = [[0, batch_size - rows]] + [[0, 0]] * (value.shape.rank - 1)
        full[name] = tf.ensure_shape(tf.pad(value, padding), [batch_size, *value.shape[1:]])
    full[ROW_WEIGHT] = tf.cast(tf.range(batch_size) < rows, tf.float32)
    return full
