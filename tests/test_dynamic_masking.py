"""Masks drawn anew for each batch: the record's own are undone first, and the laws of masking hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import documents
import numpy as np
import pytest
import tensorflow as tf

from mobilebert_exp.data.dynamic_masking import remasked, unmasked
from mobilebert_exp.data.pretraining import masking, pairs
from mobilebert_exp.data.pretraining.masking import Vocabulary
from mobilebert_exp.data.pretraining.settings import Settings

TOKENIZER = documents.tokenizer()
SPECIAL = (TOKENIZER.cls_id, TOKENIZER.sep_id)


def batch_of(settings: Settings, *, rows: int) -> tuple[dict[str, tf.Tensor], np.ndarray]:
    """A batch as the pipeline gives it, and its tokens before any mask."""
    block = pairs.tokenised([documents.text(documents.documents(rows // 2)).encode()], TOKENIZER)
    rng = np.random.default_rng(0)
    found_N5 = pairs.cut(pairs.paired(block, settings, rng), room=settings.room, rng=rng)[:rows]
    made = masking.masked(block.tokens, found_N5, Vocabulary.of(TOKENIZER), settings, rng)
    mask_NL = np.arange(settings.max_seq_length) < made.used_N[:, None]
    is_masked_NP = np.arange(settings.max_predictions_per_seq) < made.masked_N[:, None]
    before_NL = made.ids_NL.copy()
    row_N = np.broadcast_to(np.arange(len(before_NL))[:, None], is_masked_NP.shape)[is_masked_NP]
    before_NL[row_N, made.positions_NP[is_masked_NP]] = made.labels_NP[is_masked_NP]
    columns: dict[str, np.ndarray] = {
        **{"input_ids": made.ids_NL, "input_mask": mask_NL, "masked_lm_positions": made.positions_NP},
        **{"masked_lm_ids": made.labels_NP, "next_sentence_labels": made.is_random_N[:, None]},
    }
    batch = {name: tf.constant(values.astype(np.int32)) for name, values in columns.items()}
    return {**batch, "masked_lm_weights": tf.constant(is_masked_NP.astype(np.float32))}, before_NL


def again(batch: dict[str, tf.Tensor], *, seed: tuple[int, int], share: float = 0.15) -> dict[str, tf.Tensor]:
    size = len(TOKENIZER.vocabulary)
    return remasked(
        batch, seed=tf.constant(seed), share=share, mask_id=TOKENIZER.mask_id, special_ids=SPECIAL, vocab_size=size
    )


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[dict[str, tf.Tensor], np.ndarray]]:
    yield batch_of(Settings(), rows=2000)


def test_a_records_mask_is_undone(made: tuple[dict[str, tf.Tensor], np.ndarray]) -> None:
    batch, before_BL = made
    assert (unmasked(batch).numpy() == before_BL).all()
    once = again(batch, seed=(1, 2))
    assert (unmasked(once).numpy() == before_BL).all()
    assert (unmasked(again(once, seed=(1, 3))).numpy() == before_BL).all()
    assert (once["input_ids"].numpy() != batch["input_ids"].numpy()).any(axis=1).mean() > 0.99


def test_a_seed_always_draws_the_same_and_another_another(made: tuple[dict[str, tf.Tensor], np.ndarray]) -> None:
    batch, _ = made
    one, same, other = (again(batch, seed=seed) for seed in ((7, 1), (7, 1), (7, 2)))
    assert all((one[name].numpy() == same[name].numpy()).all() for name in one)
    assert (one["masked_lm_positions"].numpy() != other["masked_lm_positions"].numpy()).any(axis=1).mean() > 0.99
    assert {name: (value.dtype, value.shape) for name, value in one.items()} == {
        name: (value.dtype, value.shape) for name, value in batch.items()
    }


def test_the_laws_of_masking_hold(made: tuple[dict[str, tf.Tensor], np.ndarray]) -> None:
    batch, before_BL = made
    found = {name: value.numpy() for name, value in again(batch, seed=(3, 4)).items()}
    used_B = found["input_mask"].sum(axis=1)
    weights_BP, places_BP = found["masked_lm_weights"], found["masked_lm_positions"]
    assert (weights_BP.sum(axis=1) == np.clip(np.rint(used_B * 0.15), 1, 20)).all()
    assert (weights_BP == (np.arange(20) < weights_BP.sum(axis=1)[:, None])).all()
    assert (np.diff(np.where(weights_BP > 0, places_BP, 1000 + np.arange(20)), axis=1) > 0).all()
    assert not places_BP[weights_BP == 0].any()
    assert not found["masked_lm_ids"][weights_BP == 0].any()
    was = found["masked_lm_ids"][weights_BP > 0]
    assert (was == np.take_along_axis(before_BL, places_BP, axis=1)[weights_BP > 0]).all()
    assert not set(was.tolist()) & {*SPECIAL, TOKENIZER.pad_id}
    now, count = np.take_along_axis(found["input_ids"], places_BP, axis=1)[weights_BP > 0], len(was)
    for share, number in ((0.8, (now == TOKENIZER.mask_id).sum()), (0.1, (now == was).sum())):
        assert abs(number - share * count) < 5 * math.sqrt(count * share * (1 - share)) + 0.001 * count
    assert (found["input_ids"] != before_BL).sum() <= count


def test_more_places_than_tokens() -> None:
    batch, before_BL = batch_of(Settings(max_seq_length=16, max_predictions_per_seq=20), rows=20)
    found = again(batch, seed=(1, 1), share=1.0)
    allowed_BL = (batch["input_mask"].numpy() > 0) & ~np.isin(before_BL, SPECIAL)
    assert (found["masked_lm_weights"].numpy().sum(axis=1) == allowed_BL.sum(axis=1)).all()
    assert (unmasked(found).numpy() == before_BL).all()


def test_in_a_pipeline_the_number_of_the_batch_is_enough(tmp_path: Path) -> None:
    """Begun at the third batch, it gives what the whole gives from there on."""
    batch, _ = batch_of(Settings(), rows=64)

    def from_batch(first: int) -> list[np.ndarray]:
        batches = tf.data.Dataset.from_tensor_slices(batch).batch(16, drop_remainder=True).enumerate().skip(first)
        drawn = batches.map(lambda number, rows: again_at(rows, number))
        return [rows["input_ids"].numpy() for rows in drawn]

    def again_at(rows: dict[str, tf.Tensor], number: tf.Tensor) -> dict[str, tf.Tensor]:
        return remasked(
            rows, seed=tf.stack([tf.constant(5, tf.int64), number]), share=0.15, mask_id=TOKENIZER.mask_id,
            special_ids=SPECIAL, vocab_size=len(TOKENIZER.vocabulary),
        )  # fmt: skip

    whole, rest = from_batch(0), from_batch(2)
    assert all((one == other).all() for one, other in zip(whole[2:], rest, strict=True))
    assert not (whole[0] == whole[1]).all()
