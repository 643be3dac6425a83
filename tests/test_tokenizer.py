"""The tokenizer equals the original on whatever text may hold, and refuses what is no vocabulary."""

from __future__ import annotations

import json
import pickle
import random
import unicodedata
from collections.abc import Iterator
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


def _generated(rng: random.Random) -> str:
    """A few parts of any script and kind, with or without something between them."""
    draws = (
        lambda: rng.choice(originals.AWKWARD),
        lambda: rng.choice(originals.WORDS).upper(),
        lambda: "".join(chr(rng.randrange(0x20, 0x7F)) for _ in range(rng.randint(1, 8))),
        lambda: "".join(chr(rng.randrange(0xA0, 0x250)) for _ in range(rng.randint(1, 4))),
        lambda: rng.choice("aeiouncAEIOUNC") + chr(rng.randrange(0x300, 0x370)) * rng.randint(1, 3),
        lambda: chr(rng.randrange(0x2000, 0x2070)),  # spaces, joiners, directions, punctuation
        lambda: chr(rng.randrange(0x2E80, 0xA000)) * rng.randint(1, 3),
        lambda: chr(rng.randrange(0x1F300, 0x1FB00)) + rng.choice(("", "\ufe0f", "\u200d", "\U0001f3fd")),
        lambda: chr(rng.randrange(0x20)) + rng.choice(("", "\r\n")),
        lambda: rng.choice("xyz\u00e9\u4e2d") * (rng.choice((200, 399, 400, 401)) if rng.random() < 0.01 else 9),
        lambda: chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))),
        lambda: rng.choice(("[CLS]", "[UNK]", "[MASK]", "##", "##ing", "I'm", "e-mail", "3.14", "U.S.", "#1")),
    )
    return "".join(rng.choice(draws)() + rng.choice(("", "", " ", " ", "\t", "\n")) for _ in range(rng.randint(0, 6)))


def test_ten_thousand_strings_are_split_as_the_original_does(pair: Pair) -> None:
    """Of every kind of text that is known to be awkward; with the other casing twenty thousand."""
    rng = random.Random(20_000 + pair[0].lower_case)
    texts = {_generated(rng) for _ in range(14_000)}
    assert len(texts) > 10_000
    assert "" in texts
    for text in texts:
        _assert_equal(pair, text)


def test_many_chunks_are_forgotten_and_split_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilebert_exp.data.tokenizer._MEMO_CHUNKS", 3)
    for text in ("the old tower was built by old people", "new people who made the old bell"):
        _assert_equal(pair, text)


def test_another_process_gets_the_same_tokenizer(pair: Pair) -> None:
    ours = pair[0]
    ours.tokens("the old tower")
    other = pickle.loads(pickle.dumps(ours))
    assert (other.vocabulary, other.lower_case, other.digest) == (ours.vocabulary, ours.lower_case, ours.digest)
    assert other.tokens("The old\u00a0T\u00f6wer") == ours.tokens("The old\u00a0T\u00f6wer")


def test_chunks_have_the_ids_of_their_tokens(pair: Pair) -> None:
    ours = pair[0]
    chunks = ["the", "o\xa0ld,", "Töwer", "\u200b", "(1907)"]
    assert ours.encode_chunks(chunks) == [tuple(ours.ids(ours.tokens(chunk))) for chunk in chunks]
    assert ours.encode(" ".join(chunks)) == [index for ids in ours.encode_chunks(chunks) for index in ids]
    assert ours.named(ours.encode(" ".join(chunks))) == ours.tokens(" ".join(chunks))


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


UNCASED, CASED = "vocab/bert_uncased_vocab.txt", "vocab/bert_multi_cased_vocab.txt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "least_lines", "vocabulary"),
    [
        ("squad", 17_000, UNCASED),
        ("squad", 17_000, CASED),
        ("glue", 100_000, UNCASED),
        ("xnli", 40_000, CASED),
        ("books", 100_000, UNCASED),
    ],
)
def test_all_shared_text_is_split_as_the_original_does(
    shared_data: Path, folder: str, least_lines: int, vocabulary: str
) -> None:
    """Every line of every file, whole: columns, quotes, other scripts, and bytes that are no UTF-8."""
    lines = set()
    for path in sorted((shared_data / folder).rglob("*.*")):
        if path.suffix == ".json":
            lines |= set(_strings(json.loads(path.read_text(encoding="utf-8"))))
        elif path.suffix in (".tsv", ".txt"):
            lines |= set(path.read_text(encoding="utf-8", errors="replace").split("\n"))
    assert len(lines) > least_lines
    lower_case = vocabulary == UNCASED
    ours = Tokenizer.from_file(shared_data / vocabulary, lower_case=lower_case)
    original = originals.tokenizer(shared_data / vocabulary, lower_case=lower_case)
    for line in lines:
        assert ours.tokens(line) == original.tokenize(line), line


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from _strings(inner)


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
