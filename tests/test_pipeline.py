"""Batches: the order is the seed's, and nothing is lost, doubled or moved by how it is read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_exp.data import pipeline, records
from mobilebert_exp.data.pipeline import ROW_WEIGHT, evaluation_batches, training_batches
from mobilebert_exp.tasks.base import Column, Features

ROWS = 23


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """Numbered rows in two files."""
    folder = tmp_path_factory.mktemp("features")
    files = (folder / "a.tfrecord", folder / "b.tfrecord")
    numbers = (range(9), range(9, ROWS))
    for file, part in zip(files, numbers, strict=True):
        records.write(file, ({"number": [row], "triple": [row, 0, 7], "share": [row / 2]} for row in part))
    columns = {
        "number": Column(shape=(1,)),
        "triple": Column(shape=(3,)),
        "share": Column(shape=(1,), dtype="float32"),
    }
    return Features(files=files, columns=columns, num_features=ROWS, num_examples=ROWS)


def numbers(features: Features, *, batches: int, batch_size: int = 5, skip: int = 0, seed: int = 1) -> list[int]:
    """Row numbers of the first batches, one after another."""
    dataset = training_batches(features, batch_size=batch_size, seed=seed, skip_batches=skip, only_batches=None)
    return [int(row) for batch in dataset.take(batches) for row in batch["number"][:, 0]]


def epochs(rows: list[int]) -> Iterator[list[int]]:
    return (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))


def test_every_epoch_holds_every_row_once_in_an_order_of_its_own(features: Features) -> None:
    found = list(epochs(numbers(features, batches=ROWS, batch_size=4)))
    assert len(found) == 4
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in found)
    assert len({tuple(epoch) for epoch in found} | {tuple(range(ROWS))}) == 5


def test_the_order_is_the_seeds(features: Features) -> None:
    first = numbers(features, batches=10)
    tf.random.set_seed(99)
    assert numbers(features, batches=10) == first, "TensorFlow's global seed has no say"
    assert numbers(features, batches=10, seed=2) != first


def test_the_order_is_mixed_across_files_and_far(features: Features) -> None:
    """Each row lands anywhere: over 120 epochs, each place of an epoch sees each row about equally often."""
    places = np.zeros((ROWS, ROWS))
    for epoch in epochs(numbers(features, batches=120, batch_size=ROWS)):
        places[np.arange(ROWS), epoch] += 1
    expected = 120 / ROWS
    chi_square = float(((places - expected) ** 2 / expected).sum())
    assert 380 < chi_square < 600, "484 degrees of freedom: 484 +- 31"


def test_rows_do_not_depend_on_the_batch_they_come_in(features: Features) -> None:
    assert numbers(features, batches=60, batch_size=1) == numbers(features, batches=10, batch_size=6)


@pytest.mark.parametrize("skip", [1, 4, 5, 9, 23, 50])
def test_skipping_goes_on_exactly(features: Features, skip: int) -> None:
    """4 batches of 5 end before the first epoch does, the 5th crosses it, 23 batches are whole epochs."""
    whole = numbers(features, batches=skip + 7)
    assert numbers(features, batches=7, skip=skip) == whole[skip * 5 :]


def test_blocks_are_mixed_within_themselves(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SHUFFLE_BLOCK", 10)
    epoch = numbers(features, batches=1, batch_size=ROWS)
    blocks = [epoch[:10], epoch[10:20], epoch[20:]]
    assert [sorted(block) for block in blocks] == [list(range(10)), list(range(10, 20)), list(range(20, ROWS))]
    assert blocks[0] != sorted(blocks[0])
    assert [row - 10 for row in blocks[1]] != blocks[0], "each block in its own order"


@pytest.mark.parametrize("skip", [0, 1, 3])
def test_overfitting_repeats_the_first_batches_unshuffled(features: Features, skip: int) -> None:
    dataset = training_batches(features, batch_size=4, seed=1, skip_batches=skip, only_batches=2)
    found = [int(row) for batch in dataset.take(4) for row in batch["number"][:, 0]]
    assert found == ([*range(8)] * 4)[skip * 4 :][:16]


def test_batches_carry_the_columns(features: Features) -> None:
    dataset = training_batches(features, batch_size=5, seed=1, skip_batches=0, only_batches=None)
    spec = dataset.element_spec
    assert {name: (one.dtype, one.shape.as_list()) for name, one in spec.items()} == {
        "number": (tf.int32, [5, 1]),
        "triple": (tf.int32, [5, 3]),
        "share": (tf.float32, [5, 1]),
    }
    batch = next(iter(dataset))
    np.testing.assert_array_equal(batch["triple"][:, 0], batch["number"][:, 0])
    np.testing.assert_array_equal(batch["share"], batch["number"].numpy() / 2)


@pytest.mark.parametrize("batch_size", [1, 5, ROWS, 40])
def test_evaluation_reads_every_row_once_in_order(features: Features, batch_size: int) -> None:
    real, sizes = [], set()
    for batch in evaluation_batches(features, batch_size=batch_size):
        kept = batch[ROW_WEIGHT].numpy() > 0
        sizes.add(len(kept))
        real += batch["number"].numpy()[kept, 0].tolist()
        assert not batch["triple"].numpy()[~kept].any()
    assert real == list(range(ROWS))
    assert sizes == {batch_size}, "the last batch is filled up, so one compiled function serves all"
