"""Whether text is lower-cased and the vocabulary has capital letters: both or neither, told from the pieces."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from mobilebert_exp.data import casing
from mobilebert_exp.data.tokenizer import SPECIAL_TOKENS
from mobilebert_exp.errors import ConfigError

SMALL, CAPITAL = list(string.ascii_lowercase), list(string.ascii_uppercase)


def write(path: Path, *pieces: str) -> Path:
    path.write_text("\n".join((*SPECIAL_TOKENS, *pieces)) + "\n", encoding="utf-8")
    return path


def test_a_cased_vocabulary_is_not_for_lower_cased_text(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", *SMALL, *CAPITAL, "The", "##ing", "[unused1]")
    assert casing.tokenizer(path, lower_case=False).tokens("The aB") == ["The", "[UNK]"]
    with pytest.raises(ConfigError) as raised:
        casing.tokenizer(path, lower_case=True)
    assert str(raised.value) == (
        f"task.lower_case=true does not fit vocabulary {path}: 27 of its pieces have capital letters, "
        "which lower-cased text never has; set task.lower_case=false"
    )


def test_an_uncased_vocabulary_is_not_for_text_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", *SMALL, "the", "##ing", "[UNUSED]", "1", "中")
    assert casing.tokenizer(path, lower_case=True).tokens("THE") == ["the"]
    with pytest.raises(ConfigError) as raised:
        casing.tokenizer(path, lower_case=False)
    assert str(raised.value) == (
        f"task.lower_case=false does not fit vocabulary {path}: none of its pieces has a capital letter, "
        "so every word with one would be unknown; set task.lower_case=true"
    )


@pytest.mark.parametrize("pieces", [["vera", "keeps", "."], ["中", "1", "##2"], [*SMALL, "Ω"], ["The", "a"], CAPITAL])
@pytest.mark.parametrize("lower_case", [True, False])
def test_a_vocabulary_that_shows_neither_may_be_used_either_way(
    pieces: list[str], lower_case: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "v.txt", *pieces)
    assert casing.tokenizer(path, lower_case=lower_case).vocabulary[5:] == tuple(pieces)


@pytest.mark.parametrize(("name", "lower_case"), [("bert_uncased_vocab", True), ("bert_multi_cased_vocab", False)])
def test_the_real_vocabularies(name: str, lower_case: bool, shared_data: Path) -> None:
    path = shared_data / "vocab" / f"{name}.txt"
    casing.tokenizer(path, lower_case=lower_case)
    with pytest.raises(ConfigError, match=f"task.lower_case={str(not lower_case).lower()} does not fit vocabulary"):
        casing.tokenizer(path, lower_case=not lower_case)
