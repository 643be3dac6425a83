"""Pairs and masks of pre-training hold the laws of the original, on a million tokens."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from pathlib import Path

import documents
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobilebert_exp.data import example_reading, records
from mobilebert_exp.data.pretraining import masking, pairs
from mobilebert_exp.data.pretraining.masking import Rows, Vocabulary
from mobilebert_exp.data.pretraining.pairs import Block
from mobilebert_exp.data.pretraining.rows import Serializer
from mobilebert_exp.data.pretraining.settings import Settings, advice, check, masked_of
from mobilebert_exp.errors import ConfigError

TOKENIZER = documents.tokenizer()
VOCABULARY = Vocabulary.of(TOKENIZER)
SPECIAL = (TOKENIZER.cls_id, TOKENIZER.sep_id, TOKENIZER.pad_id)


@functools.cache
def million() -> Block:
    """About a million tokens in documents of thousands of sentences, so that the ends of documents hardly count."""
    texts = documents.documents(3, sentences=(2300, 2700)) * 10
    return pairs.tokenised([documents.text(texts).encode()], TOKENIZER)


@functools.cache
def few() -> Block:
    return pairs.tokenised([documents.text(documents.documents(200)).encode()], TOKENIZER)


def rows_of(block: Block, settings: Settings, *, seed: int = 0) -> tuple[NDArray[np.int64], Rows]:
    rng = np.random.default_rng(seed)
    found_N5 = pairs.cut(pairs.paired(block, settings, rng), room=settings.room, rng=rng)
    return found_N5, masking.masked(block.tokens, found_N5, VOCABULARY, settings, rng)


def is_about(found: int, trials: int, share: float) -> bool:
    """Within five standard deviations of a binomial: a miss in two million."""
    return abs(found - trials * share) <= 5 * math.sqrt(trials * share * (1 - share)) + 1


def test_there_are_a_million_tokens() -> None:
    assert len(million().tokens) >= 1_000_000


def test_sentences_and_documents_are_those_of_the_text() -> None:
    found = documents.documents(50, seed=3)
    block = pairs.tokenised([documents.text(found).encode()], TOKENIZER)
    spans = [block.tokens[start:stop].tolist() for start, stop in pairwise(block.sentences)]
    assert spans == [TOKENIZER.encode(sentence) for document in found for sentence in document]
    sizes = [stop - start for start, stop in pairwise(block.documents)]
    assert sizes == [len(document) for document in found]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"bada.\nbafa.\n\nbaga.", id="plain"),
        pytest.param(b"bada.\r\nbafa.\r\n\r\nbaga.\r\n", id="CRLF"),
        pytest.param(b"\n\n\n  bada.  \n\tbafa.\n \t \n\n\nbaga.\n\n\n", id="blanks"),
        pytest.param("\ufeffbada.\nbafa.\n\u3000\nbaga.".encode(), id="a mark at the beginning, an ideographic space"),
        pytest.param(b"bada.\nbafa.\n\xff\xfe\nbaga.\n\x80\n", id="bytes that are dropped"),
        pytest.param("bada.\nbafa.\n\n\u200b\n\nbaga.\n\x07\n".encode(), id="sentences without a token"),
    ],
)
def test_what_is_no_sentence_leaves_no_trace(content: bytes) -> None:
    block = pairs.tokenised([content], TOKENIZER)
    spans = [TOKENIZER.named(block.tokens[start:stop]) for start, stop in pairwise(block.sentences)]
    assert spans == [["bada", "."], ["bafa", "."], ["baga", "."]]
    assert block.documents == [0, 2, 3]


def test_a_text_begins_a_document() -> None:
    assert pairs.tokenised([b"bada.", b"", b"bafa.\nbaga."], TOKENIZER).documents == [0, 1, 3]
    assert pairs.tokenised([], TOKENIZER).num_documents == 0


@pytest.mark.parametrize("length", [16, 128, 512])
def test_first_texts_and_those_that_follow_are_the_text_once(length: int) -> None:
    """Before anything is cut: what a random text displaces comes again, and nothing is lost or doubled."""
    block = few()
    found_N5 = pairs.paired(block, Settings(max_seq_length=length), np.random.default_rng(1))
    spans = [(a_start, a_stop) for a_start, a_stop, *_ in found_N5.tolist()]
    spans += [(b_start, b_stop) for *_, b_start, b_stop, is_random in found_N5.tolist() if not is_random]
    spans.sort()
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert spans[-1][1] == len(block.tokens)


def test_a_text_that_follows_does_and_a_random_one_is_from_another_document() -> None:
    block = few()
    bounds = np.array(block.sentences)[block.documents]
    found_N5 = pairs.paired(block, Settings(), np.random.default_rng(2))
    a_start, a_stop, b_start, b_stop, is_random = found_N5.T
    document_a, document_b = (np.searchsorted(bounds, start, side="right") for start in (a_start, b_start))
    follows = is_random == 0
    assert (a_stop[follows] == b_start[follows]).all()
    assert (document_a[~follows] != document_b[~follows]).all()
    assert (np.searchsorted(bounds, b_stop - 1, side="right") == document_b).all()
    counts = np.bincount(document_b[~follows], minlength=len(bounds))[1:]
    mean = counts.mean()
    assert abs(((counts - mean) ** 2).sum() / mean - len(counts)) < 5 * math.sqrt(2 * len(counts)), "all alike"


def test_half_of_the_pairs_are_random() -> None:
    """Where there is a choice: a chunk of one sentence has no other second text."""
    block = million()
    found_N5 = pairs.paired(block, Settings(short_seq_prob=0.0), np.random.default_rng(3))
    assert len(found_N5) > 8000
    assert is_about(int(found_N5[:, 4].sum()), len(found_N5), 0.5)


def test_documents_of_one_sentence_are_followed_by_others() -> None:
    block = pairs.tokenised([b"bada.\n\nbafa.\n\nbaga."], TOKENIZER)
    found_N5 = pairs.paired(block, Settings(), np.random.default_rng(4))
    assert found_N5[:, 4].tolist() == [1, 1, 1]
    assert (found_N5[:, 0] != found_N5[:, 2]).all()


def test_the_only_document_is_its_own_random_one() -> None:
    found_N5 = pairs.paired(pairs.tokenised([b"bada."], TOKENIZER), Settings(), np.random.default_rng(4))
    assert found_N5.tolist() == [[0, 2, 0, 2, 1]]


def test_a_share_of_the_documents_is_cut_short() -> None:
    """With a sentence a token, a pair that goes on has just as many tokens as were aimed at."""
    lines = "\n\n".join("\n".join(["bada"] * 250) for _ in range(1500))
    block = pairs.tokenised([lines.encode()], TOKENIZER)
    settings = Settings(max_seq_length=67, short_seq_prob=0.1)
    found_N5 = pairs.paired(block, settings, np.random.default_rng(5))
    follows_N5 = found_N5[found_N5[:, 4] == 0]
    _, first = np.unique(follows_N5[:, 0] // 250, return_index=True)
    sizes = follows_N5[first, 3] - follows_N5[first, 0]
    short = sizes[sizes < settings.room]
    assert is_about(len(short), len(sizes), 0.1 * (1 - 1 / (settings.room - 1)))
    assert short.min() <= 8
    assert abs(short.mean() - (2 + settings.room - 1) / 2) < 5 * (settings.room / math.sqrt(12 * len(short)))


@given(a=st.integers(1, 40), b=st.integers(1, 40), room=st.integers(2, 40))
def test_pairs_are_cut_as_if_token_by_token(a: int, b: int, room: int) -> None:
    sizes = [a, b]
    while sum(sizes) > room:
        sizes[0 if sizes[0] > sizes[1] else 1] -= 1
    found_N5 = pairs.cut(np.array([[100, 100 + a, 300, 300 + b, 1]]), room=room, rng=np.random.default_rng(a * b))
    a_start, a_stop, b_start, b_stop, is_random = found_N5[0].tolist()
    assert [a_stop - a_start, b_stop - b_start, is_random] == [*sizes, 1]
    assert 100 <= a_start < a_stop <= 100 + a
    assert 300 <= b_start < b_stop <= 300 + b


def test_tokens_go_from_both_ends_alike() -> None:
    many_N5 = np.tile([[0, 100, 200, 210, 0]], (4000, 1))
    fronts = pairs.cut(many_N5, room=50, rng=np.random.default_rng(6))[:, 0]
    assert is_about(int(fronts.sum()), 4000 * 60, 0.5)
    assert abs(fronts.var() - 60 / 4) < 2


@pytest.mark.parametrize("whole_word", [False, True])
def test_rows_are_laid_out_as_the_original_lays_them(whole_word: bool) -> None:
    settings = Settings(whole_word_mask=whole_word)
    found_N5, rows = rows_of(few(), settings)
    tokens = few().tokens
    assert len(found_N5) > 500
    for row, (a_start, a_stop, b_start, b_stop, is_random) in enumerate(found_N5.tolist()):
        ids = rows.ids_NL[row].copy()
        count = int(rows.masked_N[row])
        places, labels = rows.positions_NP[row], rows.labels_NP[row]
        assert (np.diff(places[:count]) > 0).all()
        assert not places[count:].any()
        assert not labels[count:].any()
        ids[places[:count]] = labels[:count]
        first, second = tokens[a_start:a_stop].tolist(), tokens[b_start:b_stop].tolist()
        expected = [TOKENIZER.cls_id, *first, TOKENIZER.sep_id, *second, TOKENIZER.sep_id]
        assert ids.tolist() == expected + [TOKENIZER.pad_id] * (128 - len(expected))
        assert (rows.used_N[row], rows.second_N[row]) == (len(expected), len(second) + 1)
        assert rows.is_random_N[row] == is_random


@pytest.mark.parametrize(
    ("length", "most", "share"), [(128, 20, 0.15), (512, 20, 0.15), (512, 77, 0.15), (64, 20, 0.4), (16, 40, 1.0)]
)
def test_as_many_tokens_are_masked_as_the_original_masks(length: int, most: int, share: float) -> None:
    settings = Settings(max_seq_length=length, max_predictions_per_seq=most, masked_lm_prob=share)
    _, rows = rows_of(few(), settings)
    wanted = [min(most, masked_of(used, share), used - 3) for used in rows.used_N.tolist()]
    assert rows.masked_N.tolist() == wanted


def test_fifteen_percent_of_a_million_tokens_are_masked_80_10_10() -> None:
    _, rows = rows_of(million(), Settings())
    used, masked = int(rows.used_N.sum()), int(rows.masked_N.sum())
    assert used > 1_000_000
    assert abs(masked / used - 0.15) < 0.002, "rounded row by row"
    is_masked_NP = np.arange(20) < rows.masked_N[:, None]
    now = np.take_along_axis(rows.ids_NL, rows.positions_NP, axis=1)[is_masked_NP]
    was = rows.labels_NP[is_masked_NP]
    same = 0.1 / VOCABULARY.size  # a random entry may be the token itself, or [MASK]
    assert is_about(int((now == TOKENIZER.mask_id).sum()), masked, 0.8 + same)
    assert is_about(int((now == was).sum()), masked, 0.1 + same)
    others = now[(now != was) & (now != TOKENIZER.mask_id)]
    assert is_about(len(others), masked, 0.1 - 2 * same)
    counts = np.bincount(others, minlength=VOCABULARY.size)
    expected = len(others) / VOCABULARY.size
    assert abs(counts - expected).max() < 6 * math.sqrt(expected) + 3, "all entries alike"


@pytest.mark.parametrize("whole_word", [False, True])
def test_no_place_is_masked_more_often_than_another(whole_word: bool) -> None:
    _, rows = rows_of(million(), Settings(whole_word_mask=whole_word))
    full = rows.used_N == 128
    places = rows.positions_NP[full][np.arange(20) < rows.masked_N[full][:, None]]
    separators = np.argmax(rows.ids_NL[full] == TOKENIZER.sep_id, axis=1)
    is_first_third = (places >= 1) & (places <= 42)
    allowed = (42 - (separators <= 42)).sum() / (full.sum() * 125)
    assert is_about(int(is_first_third.sum()), len(places), float(allowed))


def test_special_tokens_are_never_masked() -> None:
    for whole_word in (False, True):
        _, rows = rows_of(few(), Settings(whole_word_mask=whole_word))
        labels = rows.labels_NP[np.arange(20) < rows.masked_N[:, None]]
        assert not set(labels.tolist()) & set(SPECIAL)


@pytest.mark.parametrize(("length", "most"), [(128, 20), (32, 4), (128, 3)])
def test_a_word_is_masked_whole_or_not_at_all(length: int, most: int) -> None:
    settings = Settings(max_seq_length=length, max_predictions_per_seq=most, whole_word_mask=True)
    _, rows = rows_of(few(), settings)
    continues = VOCABULARY.continues_V
    several = 0
    for row in range(len(rows.used_N)):
        ids, count = rows.ids_NL[row].copy(), int(rows.masked_N[row])
        ids[rows.positions_NP[row, :count]] = rows.labels_NP[row, :count]
        masked = set(rows.positions_NP[row, :count].tolist())
        words: list[list[int]] = []
        for place in range(1, int(rows.used_N[row])):
            if ids[place] in SPECIAL:
                continue
            if continues[ids[place]] and ids[place - 1] not in SPECIAL:
                words[-1].append(place)
            else:
                words.append([place])
        assert all(len(masked & set(word)) in (0, len(word)) for word in words)
        wanted = min(most, masked_of(int(rows.used_N[row]), 0.15))
        left = [len(word) for word in words if not masked & set(word)]
        assert count <= wanted
        assert count == wanted or min(left, default=most + 1) > wanted - count, (
            "a word for which there is room is taken"
        )
        several += sum(len(word) > 1 and word[0] in masked for word in words)
    assert most < 4 or several > 100


def test_long_sentences_are_cut_and_nothing_breaks() -> None:
    line = " ".join(documents.WORDS * 5)
    block = pairs.tokenised([f"{line}\n{line}\n\nbada.\n\n{line}".encode()], TOKENIZER)
    found_N5, rows = rows_of(block, Settings(short_seq_prob=0.5))
    assert (found_N5[:, 1] > found_N5[:, 0]).all()
    assert (found_N5[:, 3] > found_N5[:, 2]).all()
    assert rows.used_N.max() == 128


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_seq_length": 4}, "task.max_seq_length=4 is below 5; raise it"),
        ({"max_seq_length": 2**15}, "task.max_seq_length=32768 is above 16384; lower it"),
        ({"max_predictions_per_seq": 0}, "task.max_predictions_per_seq=0 is below 1; raise it"),
        ({"dupe_factor": 0}, "task.dupe_factor=0 is below 1; raise it"),
        ({"random_seed": -1}, "task.random_seed=-1 is not between 0 and 2^63; choose another"),
        ({"masked_lm_prob": 0.0}, "task.masked_lm_prob=0.0 is not a share above 0; choose one in (0, 1]"),
        ({"masked_lm_prob": math.nan}, "task.masked_lm_prob=nan is not a share above 0; choose one in (0, 1]"),
        ({"short_seq_prob": 1.5}, "task.short_seq_prob=1.5 is not a probability; choose one in [0, 1]"),
    ],
)
def test_settings_that_cannot_work(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(Settings(**changed), section="task.")  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize("length", [5, 6, 17])
def test_the_shortest_records_work(length: int) -> None:
    for whole_word in (False, True):
        _, rows = rows_of(few(), Settings(max_seq_length=length, whole_word_mask=whole_word, short_seq_prob=0.5))
        assert rows.used_N.max() == length
        assert rows.masked_N.max() >= 1


def test_too_few_predictions_are_told_with_the_number() -> None:
    assert advice(Settings()) is None
    assert advice(Settings(max_seq_length=512, max_predictions_per_seq=77)) is None
    assert advice(Settings(max_seq_length=512), section="task.") == (
        "task.max_predictions_per_seq=20 masks 3.9% of 512 tokens, and task.masked_lm_prob=0.15 asks for 77: "
        "raise it to 77"
    )


def test_records_hold_any_ids(tmp_path: Path) -> None:
    """Those at which a varint grows by a byte among them."""
    edges = [0, 1, 127, 128, 129, 255, 256, 16_383, 16_384, 16_385, 2**21 - 1]
    ids_NL = np.random.default_rng(0).choice(np.array(edges, np.int32), size=(50, 12))
    made = Rows(
        ids_NL=ids_NL,
        used_N=np.full(50, 11),
        second_N=np.full(50, 4),
        positions_NP=np.tile([0, 127, 128], (50, 1)),
        labels_NP=ids_NL[:, :3],
        masked_N=np.arange(50) % 4,
        is_random_N=np.arange(50) % 2,
    )
    content = Serializer(max_seq_length=12, max_predictions_per_seq=3)(made)
    records.write_framed(tmp_path / "x", [content])
    found = list(example_reading.first(tmp_path / "x", limit=100))
    assert [list(record["input_ids"].numbers) for record in found] == ids_NL.tolist()
    assert [list(record["masked_lm_ids"].numbers) for record in found] == ids_NL[:, :3].tolist()
    assert {record["masked_lm_positions"].numbers for record in found} == {(0, 127, 128)}
    assert [sum(record["masked_lm_weights"].numbers) for record in found] == [row % 4 for row in range(50)]
    assert [record["next_sentence_labels"].numbers for record in found] == [(row % 2,) for row in range(50)]
    assert {record["input_mask"].numbers for record in found} == {(1,) * 11 + (0,)}
    assert {record["segment_ids"].numbers for record in found} == {(0,) * 7 + (1,) * 4 + (0,)}
