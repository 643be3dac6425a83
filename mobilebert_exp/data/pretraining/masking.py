"""From pairs to the rows of a record, and their masks: 15 % of the tokens, 80/10/10, by token or by whole word.

All rows of a batch are drawn at once. Keys that are all different (random bits, then the place) make the choice
independent of how a processor sorts.

Shapes: N rows, L tokens, P predictions, V entries of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilebert_exp.data.pretraining.settings import KEPT, MASKED, Settings, masked_of
from mobilebert_exp.data.tokenizer import Tokenizer

_LAST = np.uint32(0xFFFFFFFF)  # the key of what is never chosen


@dataclass(kw_only=True, frozen=True, slots=True)
class Vocabulary:
    """What masking knows of a vocabulary; `continues_V` marks the pieces that go on with a word."""

    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    continues_V: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        return cls(
            size=len(tokenizer.vocabulary),
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            mask_id=tokenizer.mask_id,
            continues_V=np.array([token.startswith("##") for token in tokenizer.vocabulary]),
        )


@dataclass(kw_only=True, frozen=True, slots=True)
class Rows:
    """Records to be.

    Attributes:
      ids_NL: tokens, masked; padded.
      used_N: tokens of each row that are no padding.
      second_N: how many of them, the last ones, belong to the second text and its [SEP].
      positions_NP, labels_NP: where tokens were masked, rising, and what they were; zeros where there are fewer.
      masked_N: how many were masked.
      is_random_N: 1 where the second text is a random one.
    """

    ids_NL: NDArray[np.int32]
    used_N: NDArray[np.int64]
    second_N: NDArray[np.int64]
    positions_NP: NDArray[np.int64]
    labels_NP: NDArray[np.int32]
    masked_N: NDArray[np.int64]
    is_random_N: NDArray[np.int64]


def masked(
    tokens: NDArray[np.int32],
    pairs_N5: NDArray[np.int64],
    vocabulary: Vocabulary,
    settings: Settings,
    rng: np.random.Generator,
) -> Rows:
    """Rows for pairs that fit, of a block's tokens."""
    ids_NL, words_NL, used_N, second_N = _laid_out(tokens, pairs_N5, vocabulary, settings.max_seq_length)
    wanted_N = _wanted(used_N, settings)
    if settings.whole_word_mask:
        positions_NP, masked_N = _by_word(ids_NL, words_NL, wanted_N, vocabulary, settings, rng)
    else:
        positions_NP, masked_N = _by_token(words_NL, wanted_N, settings, rng)
    rows_N1 = np.arange(len(ids_NL))[:, None]
    is_masked_NP = np.arange(positions_NP.shape[1]) < masked_N[:, None]
    labels_NP = np.where(is_masked_NP, ids_NL[rows_N1, positions_NP], 0)
    ids_NL[rows_N1, positions_NP] = np.where(
        is_masked_NP, _replaced(labels_NP, vocabulary, rng), ids_NL[rows_N1, positions_NP]
    )
    return Rows(
        ids_NL=ids_NL,
        used_N=used_N,
        second_N=second_N,
        positions_NP=positions_NP,
        labels_NP=labels_NP,
        masked_N=masked_N,
        is_random_N=pairs_N5[:, 4],
    )


def _laid_out(
    tokens: NDArray[np.int32], pairs_N5: NDArray[np.int64], vocabulary: Vocabulary, length: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """`[CLS] a [SEP] b [SEP]` and padding; where a and b stand; how many tokens are used, how many by b and its end."""
    a_start, a_stop, b_start, b_stop, _ = (column[:, None] for column in pairs_N5.T)
    end_a, end_b = a_stop - a_start + 1, a_stop - a_start + b_stop - b_start + 2  # where the two [SEP] stand
    place_L = np.arange(length)
    in_a_NL = (place_L > 0) & (place_L < end_a)
    in_b_NL = (place_L > end_a) & (place_L < end_b)
    source_NL = np.where(place_L < end_a, a_start - 1, b_start - end_a - 1) + place_L
    words_NL = in_a_NL | in_b_NL
    ids_NL = tokens[np.where(words_NL, source_NL, 0)]
    ids_NL[~words_NL] = vocabulary.pad_id
    ids_NL[:, 0] = vocabulary.cls_id
    np.put_along_axis(ids_NL, np.hstack([end_a, end_b]), vocabulary.sep_id, axis=1)
    return ids_NL, words_NL, end_b[:, 0] + 1, (end_b - end_a)[:, 0]


def _wanted(used_N: NDArray[np.int64], settings: Settings) -> NDArray[np.int64]:
    """How many tokens to mask; [CLS] and [SEP] count for the share, and are never masked."""
    by_length = [masked_of(used, settings.masked_lm_prob) for used in range(settings.max_seq_length + 1)]
    return np.minimum(np.minimum(np.array(by_length)[used_N], settings.max_predictions_per_seq), used_N - 3)


def _keys(allowed_NL: NDArray[np.bool_], rng: np.random.Generator) -> tuple[NDArray[np.uint32], int]:
    """Random numbers whose low bits are the place, and how many bits that is."""
    rows, length = allowed_NL.shape
    bits = length.bit_length()
    drawn_NL = rng.integers(0, 2**32, size=(rows, length), dtype=np.uint32)
    keys_NL = (drawn_NL >> np.uint32(bits) << np.uint32(bits)) | np.arange(length, dtype=np.uint32)
    return np.where(allowed_NL, keys_NL, _LAST), bits


def _by_token(
    words_NL: NDArray[np.bool_], wanted_N: NDArray[np.int64], settings: Settings, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Any tokens, all equally likely: those with the smallest keys."""
    most = min(settings.max_predictions_per_seq, words_NL.shape[1])
    keys_NL, bits = _keys(words_NL, rng)
    smallest_NP = np.sort(np.partition(keys_NL, most - 1, axis=1)[:, :most], axis=1)
    places_NP = (smallest_NP & np.uint32(2**bits - 1)).astype(np.int64)
    return _rising(places_NP, np.arange(most) < wanted_N[:, None], settings), wanted_N


def _rising(places_NK: NDArray[np.int64], chosen_NK: NDArray[np.bool_], settings: Settings) -> NDArray[np.int64]:
    """The chosen places of each row in order, then zeros: `[N, P]`."""
    beyond, most = settings.max_seq_length, settings.max_predictions_per_seq
    sorted_NK = np.sort(np.where(chosen_NK, places_NK, beyond), axis=1)[:, :most]
    sorted_NK[sorted_NK == beyond] = 0
    return np.pad(sorted_NK, [(0, 0), (0, most - sorted_NK.shape[1])])


def _by_word(
    ids_NL: NDArray[np.int32],
    words_NL: NDArray[np.bool_],
    wanted_N: NDArray[np.int64],
    vocabulary: Vocabulary,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole words in random order; one for which there is no room any more is left out, and the next one tried."""
    rows, length = ids_NL.shape
    goes_on_NL = vocabulary.continues_V[ids_NL] & words_NL
    goes_on_NL[:, 1:] &= words_NL[:, :-1]  # after [CLS] and [SEP] a word begins, whatever it begins with
    goes_on_NL[:, 0] = False
    starts_NL = words_NL & ~goes_on_NL
    start_of_NL = np.maximum.accumulate(np.where(starts_NL | ~words_NL, np.arange(length), 0), axis=1)
    rows_N = np.arange(rows)
    flat = (rows_N[:, None] * length + start_of_NL)[words_NL]
    size_NL = np.bincount(flat, minlength=rows * length).reshape(rows, length)
    keys_NL, bits = _keys(starts_NL, rng)
    order_NL = np.sort(keys_NL, axis=1)
    chosen_NL, masked_N, open_N = np.zeros((rows, length), bool), np.zeros(rows, np.int64), rows_N
    for rank in range(length):
        keys = order_NL[open_N, rank]
        still = (keys != _LAST) & (masked_N[open_N] < wanted_N[open_N])
        open_N, places = open_N[still], (keys[still] & np.uint32(2**bits - 1)).astype(np.int64)
        if not len(open_N):
            break
        size = size_NL[open_N, places]
        fits = masked_N[open_N] + size <= wanted_N[open_N]
        chosen_NL[open_N[fits], places[fits]] = True
        masked_N[open_N[fits]] += size[fits]
    chosen_NL = np.take_along_axis(chosen_NL, start_of_NL, axis=1) & words_NL
    return _rising(np.broadcast_to(np.arange(length), (rows, length)), chosen_NL, settings), masked_N


def _replaced(labels_NP: NDArray[np.int32], vocabulary: Vocabulary, rng: np.random.Generator) -> NDArray[np.int32]:
    """What stands in place of each token: [MASK], the token, or any entry of the vocabulary."""
    coin_NP = rng.random(labels_NP.shape)
    random_NP = rng.integers(0, vocabulary.size, size=labels_NP.shape, dtype=np.int32)
    other_NP = np.where(coin_NP < KEPT, labels_NP, random_NP)
    return np.where(coin_NP < MASKED, np.int32(vocabulary.mask_id), other_NP)
