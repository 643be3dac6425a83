"""Records of one text or two equal those of tf-models' classifier, and their number and order are the rows'."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import originals
import pytest

from mobilebert_exp.data import pairs
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import OutputError


def _row(text_a: str, text_b: str | None, label: int | float | None) -> Example:
    return Example(id="0", text_a=text_a, text_b=text_b, label=label)


def _rows(count: int, *, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)

    def text(most: int) -> str:
        return " ".join(rng.choice(originals.AWKWARD + originals.WORDS * 3) for _ in range(rng.randint(0, most)))

    return [_row(text(14), rng.choice((None, "", text(14))), rng.randrange(3)) for _ in range(count)]


def _parsed(path: Path) -> list[Any]:
    import tensorflow as tf

    return [
        tf.train.Example.FromString(record).features.feature
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]


@pytest.mark.parametrize("length", [5, 12, 13, 48])
def test_records_are_those_of_the_original(tmp_path: Path, length: int) -> None:
    from official.nlp.data import classifier_data_lib

    rows = _rows(150)
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_text("\n".join(originals.vocabulary()) + "\n", encoding="utf-8")
    examples = [
        classifier_data_lib.InputExample(guid=str(number), text_a=row.text_a, text_b=row.text_b, label=str(row.label))
        for number, row in enumerate(rows)
    ]
    classifier_data_lib.file_based_convert_examples_to_features(
        examples, ["0", "1", "2"], length, originals.tokenizer(vocab_file, lower_case=True), str(tmp_path / "theirs")
    )
    tokenizer = Tokenizer.from_file(vocab_file, lower_case=True)
    told: list[int] = []
    count = pairs.write(tmp_path / "ours", rows, tokenizer, max_seq_length=length, made=told.append)
    assert count == told[-1] == len(rows)
    names = ("input_ids", "input_mask", "segment_ids", "label_ids")
    for one, other in zip(_parsed(tmp_path / "ours"), _parsed(tmp_path / "theirs"), strict=True):
        assert {name: one[name] for name in names} == {name: other[name] for name in names}
        assert set(one) == set(names)


def test_any_number_of_processes_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_CHUNK_EXAMPLES", 10)
    tokenizer = Tokenizer(originals.vocabulary(), lower_case=True)
    rows = iter(_rows(203)), iter(_rows(203))
    for workers, some in enumerate(rows, start=1):
        path = tmp_path / str(workers)
        assert pairs.write(
            path, some, tokenizer, max_seq_length=24, made=lambda count: None, workers=workers
        ) == 203  # fmt: skip
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_scores_are_floats_and_unknown_labels_zero(tmp_path: Path) -> None:
    rows = [_row("the tower", None, 2.5), _row("the tower", "a bell", 0.0), _row("the", None, None)]
    tokenizer = Tokenizer(originals.vocabulary(), lower_case=True)
    pairs.write(tmp_path / "f", rows, tokenizer, max_seq_length=12, made=lambda count: None)
    first, second, third = _parsed(tmp_path / "f")
    assert list(first["label_ids"].float_list.value) == [2.5]
    assert list(second["label_ids"].float_list.value) == [0.0]
    assert list(third["label_ids"].int64_list.value) == [0]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer(originals.vocabulary(), lower_case=True)
    with pytest.raises(OutputError, match=r"nowhere/f cannot be written \(No such file or directory\); make room"):
        pairs.write(tmp_path / "nowhere/f", _rows(3), tokenizer, max_seq_length=12, made=lambda count: None)


@pytest.mark.parametrize("room", [0, 1, 2, 5, 6])
def test_of_two_texts_the_longer_is_cut(room: int) -> None:
    for first in range(10):
        for second in range(10):
            rest = [first, second]
            while sum(rest) > room:
                rest[0 if rest[0] > rest[1] else 1] -= 1
            assert pairs.kept(first, second, room=room) == tuple(rest)
