"""Invented texts for pre-training: documents of sentences, and a vocabulary that cuts some of their words."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from mobilebert_exp.data.tokenizer import SPECIAL_TOKENS, Tokenizer

SYLLABLES = ["".join(pair) for pair in itertools.product("bdfgklmnprst", "aeiou")]
WORDS = ["".join(pair) for pair in itertools.product(SYLLABLES[:20], SYLLABLES[:20])]


def pieces() -> list[str]:
    """Entries of the vocabulary: 400 words, syllables to begin with and to go on with, letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    goes_on = [f"##{part}" for part in (*SYLLABLES, *letters)]
    return [*SPECIAL_TOKENS, ".", ",", *letters, *SYLLABLES, *WORDS, *goes_on]


def tokenizer() -> Tokenizer:
    return Tokenizer(pieces(), lower_case=True)


def vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(pieces()) + "\n", encoding="utf-8")
    return path


def documents(count: int, *, seed: int = 0, sentences: tuple[int, int] = (5, 30)) -> list[list[str]]:
    """So many documents, each of so many sentences; a fifth of the words are cut into several pieces."""
    rng = random.Random(seed)
    return [[_sentence(rng) for _ in range(rng.randint(*sentences))] for _ in range(count)]


def _sentence(rng: random.Random) -> str:
    words = rng.choices(WORDS, k=rng.randint(4, 16))
    for at in range(len(words)):
        if rng.random() < 0.2:
            words[at] += "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3)))
    return f"{' '.join(words).capitalize()}."


def text(found: list[list[str]]) -> str:
    return "\n\n".join("\n".join(document) for document in found) + "\n"


def write(path: Path, count: int, *, seed: int = 0, sentences: tuple[int, int] = (5, 30)) -> Path:
    """A file of invented documents."""
    path.write_text(text(documents(count, seed=seed, sentences=sentences)), encoding="utf-8")
    return path
