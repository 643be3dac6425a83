"""Which vocabulary `task.lower_case` asks for, and whether one fits it, told from the vocabulary's own pieces."""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path

from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import ConfigError

VOCABULARIES = {True: "vocab/bert_uncased_vocab.txt", False: "vocab/bert_multi_cased_vocab.txt"}  # by lower_case
SMALL, CAPITAL = frozenset(string.ascii_lowercase), frozenset(string.ascii_uppercase)


def tokenizer(path: str | Path, *, lower_case: bool) -> Tokenizer:
    """The tokenizer of a vocabulary file.

    A vocabulary that holds both alphabets is cased, one that holds the small letters and nothing with a capital is
    uncased; what shows neither (a vocabulary of a few words, of another script) may be used either way.

    Raises:
      DataError: the file is no vocabulary.
      ConfigError: a cased vocabulary is to be used with lower-casing, or an uncased one without.
    """
    found = Tokenizer.from_file(path, lower_case=lower_case)
    pieces = set(found.vocabulary)
    has_small, has_capital = (letters <= pieces for letters in (SMALL, CAPITAL))
    if lower_case and has_small and has_capital:
        count = sum(map(_has_capital, pieces))
        raise ConfigError(
            f"task.lower_case=true does not fit vocabulary {path}: {count:,} of its pieces have capital letters, "
            "which lower-cased text never has; set task.lower_case=false"
        )
    if not lower_case and has_small and not any(map(_has_capital, pieces)):
        raise ConfigError(
            f"task.lower_case=false does not fit vocabulary {path}: none of its pieces has a capital letter, "
            "so every word with one would be unknown; set task.lower_case=true"
        )
    return found


def is_lower_case(pieces: Iterable[str]) -> bool | None:
    """Whether a vocabulary is of lower-cased text; None where it shows neither."""
    every = set(pieces)
    if any(map(_has_capital, every)):
        return False
    return True if every >= SMALL else None


def _has_capital(piece: str) -> bool:
    """Whether lower-casing would change it; `[CLS]` and its like are no text."""
    return not (piece.startswith("[") and piece.endswith("]")) and piece != piece.lower()
