"""The tokenizer equals the original on whatever text may hold, and refuses what is no vocabulary."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import originals
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_exp.data.tokenizer import SPECIAL_TOKENS, Tokenizer, basic_words
from mobilebert_exp.errors import DataError

Pair = tuple[Tokenizer, Any]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Ours and the original, on an invented vocabulary."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(originals.vocabulary()) + "\n", encoding="utf-8")
    lower_case = request.param
    return Tokenizer.from_file(path, lower_case=lower_case), originals.tokenizer(path, lower_case=lower_case)


def _assert_equal(pair: Pair, text: str) -> None:
    ours, original = pair
    assert ours.words(text) == original.basic_tokenizer.tokenize(text)
    tokens = ours.tokens(text)
    assert tokens == original.tokenize(text)
    assert ours.ids(tokens) == original.convert_tokens_to_ids(tokens)


@pytest.mark.parametrize("text", originals.AWKWARD, ids=ascii)
def test_awkward_text_is_split_as_the_original_does(pair: Pair, text: str) -> None:
    for surrounded in (text, f"a{text}b", f"19{text} {text}43,", f"{text}{text}"):
        _assert_equal(pair, surrounded)


def test_every_character_is_split_as_the_original_does(pair: Pair) -> None:
    ours, original = pair
    codes = [code for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    codes += [0x378, 0xE000, 0xF8FF, 0xF0000, 0x10FFFF]  # unassigned and private ones
    assert len(codes) > 140_000
    codes = [code for code in codes if not 0xAC00 <= code < 0xD7A4 or code % 28 == 0]  # Hangul is regular
    for begin in range(0, len(codes), 64):
        block = codes[begin : begin + 64]
        text = " ".join(f"a{chr(code)}b" for code in block)
        assert ours.words(text) == original.basic_tokenizer.tokenize(text), hex(block[0])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.lists(st.text(max_size=8) | st.sampled_from(originals.AWKWARD + originals.WORDS)).map("".join))
def test_any_text_is_split_as_the_original_does(pair: Pair, text: str) -> None:
    _assert_equal(pair, text)


def test_a_text_has_the_tokens_of_its_words(pair: Pair) -> None:
    ours, _ = pair
    rng = random.Random(0)
    words = [rng.choice(originals.AWKWARD + originals.WORDS) for _ in range(500)]
    text = "\n".join(words)
    assert ours.tokens(text) == [token for word in words for token in ours.tokens(word)]


def test_words_of_the_shared_files_are_split_as_the_original_does(shared_data: Path) -> None:
    path = shared_data / "vocab/bert_uncased_vocab.txt"
    texts = set()
    for name in ("train-v1.1", "dev-v1.1", "train-v2.0", "dev-v2.0"):
        for article in json.loads((shared_data / f"squad/{name}.json").read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                texts.update(paragraph["context"].split(" "))
                texts.update(question["question"] for question in paragraph["qas"])
    assert len(texts) > 40_000
    pair = (Tokenizer.from_file(path, lower_case=True), originals.tokenizer(path, lower_case=True))
    for text in texts:
        assert pair[0].tokens(text) == pair[1].tokenize(text), text


def test_multilingual_text_is_split_as_the_original_does(shared_data: Path) -> None:
    path = shared_data / "vocab/bert_multi_cased_vocab.txt"
    pair = (Tokenizer.from_file(path, lower_case=False), originals.tokenizer(path, lower_case=False))
    assert len(pair[0].vocabulary) == 119_547
    rows = (shared_data / "xnli/xnli.test.tsv").read_text(encoding="utf-8").splitlines()
    for row in rows[1::35]:
        _assert_equal(pair, row)


def test_ids_and_digest() -> None:
    tokenizer = Tokenizer([*SPECIAL_TOKENS, "a"], lower_case=True)
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokenizer.ids(["a", "[SEP]"]) == [5, 3]
    others = [Tokenizer([*SPECIAL_TOKENS, "a"], lower_case=False), Tokenizer([*SPECIAL_TOKENS, "b"], lower_case=True)]
    assert len({tokenizer.digest, *(other.digest for other in others)}) == 3
    assert tokenizer.digest == Tokenizer([*SPECIAL_TOKENS, "a"], lower_case=True).digest
    assert len(tokenizer.digest) == 64


def test_line_ends_do_not_change_a_vocabulary(tmp_path: Path) -> None:
    digests = set()
    for index, end in enumerate(("\n", "\r\n")):
        path = tmp_path / f"{index}.txt"
        path.write_bytes(end.join([*SPECIAL_TOKENS, "caf\u00e9\u2028", ""]).encode())
        tokenizer = Tokenizer.from_file(path, lower_case=False)
        assert tokenizer.vocabulary == (*SPECIAL_TOKENS, "caf\u00e9")
        digests.add(tokenizer.digest)
    assert len(digests) == 1


def test_basic_words_needs_no_vocabulary() -> None:
    assert basic_words("Steve Smith's caf\u00e9", lower_case=True) == ["steve", "smith", "'", "s", "cafe"]
    assert basic_words("Steve Smith's caf\u00e9", lower_case=False) == ["Steve", "Smith", "'", "s", "caf\u00e9"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "it is empty; a vocabulary has one token a line"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", "it lacks [MASK]; a BERT vocabulary has"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n", "'a' stands on lines 6 and 8; remove one"),
        (b"[PAD]\n\n[UNK]\n", "line 2 is blank"),
        (b"[PAD]\n\xff\n", "is not UTF-8 at byte 6"),
    ],
    ids=["empty", "special", "duplicate", "blank", "binary"],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        Tokenizer.from_file(path, lower_case=True)
    assert complaint in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.txt cannot be read \(No such file or directory\); name a BERT"):
        Tokenizer.from_file(tmp_path / "nowhere.txt", lower_case=True)
