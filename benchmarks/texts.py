"""Invented questions and sentences of SQuAD's and GLUE's sizes, whose words recur about as often as words do.

Speed depends on how many words are new: texts of few words would flatter a featuriser that remembers them. So words
are drawn by Zipf's law, rank r with weight 1/r, from so many that an invented text has somewhat more different words,
and more that the vocabulary lacks, than a real one of its length (SQuAD's paragraphs, MRPC, QNLI: 0.13 to 0.20
different ones a word, 6 % not in the vocabulary; here 0.18 to 0.21, and 8 %).
"""

from __future__ import annotations

import csv
import itertools
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilebert_exp.data.tokenizer import SPECIAL_TOKENS

WORDS = 40_000
PIECES = 20_000  # most frequent words that are a piece of the vocabulary; other words are cut
WORDS_A_SENTENCE, SENTENCES_A_DOCUMENT = 18, (5, 60)
WORDS_A_PARAGRAPH, WORDS_A_QUESTION, QUESTIONS_A_PARAGRAPH, PARAGRAPHS_AN_ARTICLE = 120, 10, 5, 40


class Writer:
    """Writes text of a seed, and the vocabulary that goes with it."""

    def __init__(self, seed: int) -> None:
        letters = random.Random("words")  # whatever the seed: one language
        self._rng = random.Random(seed)
        made = ("".join(letters.choices(string.ascii_lowercase, k=2 + rank % 9)) for rank in itertools.count())
        distinct: dict[str, None] = {}
        while len(distinct) < WORDS:
            distinct[next(made)] = None
        self._words = list(distinct)
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, WORDS + 1)))

    def vocabulary(self) -> list[str]:
        """Frequent words, pieces of three letters and less, punctuation."""
        pieces = [*string.ascii_lowercase, *string.digits, *string.punctuation, *self._words[:PIECES]]
        letters = ["".join(some) for size in (1, 2) for some in itertools.product(string.ascii_lowercase, repeat=size)]
        continuing = [f"##{some}" for some in (*letters, *string.digits)]
        return list(dict.fromkeys([*SPECIAL_TOKENS, *pieces, *continuing]))

    def words(self, count: int) -> list[str]:
        """Words as they stand in a text: some capitalised, a year here and there, with commas and full stops."""
        found = self._rng.choices(self._words, cum_weights=self._weights, k=count)
        for index in range(count):
            kind = self._rng.random()
            if kind < 0.12:
                found[index] = found[index].capitalize()
            elif kind < 0.14:
                found[index] = str(self._rng.randrange(1000, 2030))
            if kind > 0.93:
                found[index] += "," if kind < 0.98 else "."
        return found

    def squad(self, questions: int) -> dict[str, Any]:
        """SQuAD v1.1's layout: articles of some dozens of paragraphs."""
        names = iter(f"{number:024x}" for number in range(questions))
        paragraphs = [self._paragraph(names) for _ in range(questions // QUESTIONS_A_PARAGRAPH)]
        steps = range(0, len(paragraphs), PARAGRAPHS_AN_ARTICLE)
        articles = [
            {"title": f"Article {at}", "paragraphs": paragraphs[at : at + PARAGRAPHS_AN_ARTICLE]} for at in steps
        ]
        return {"version": "invented", "data": articles}

    def _paragraph(self, names: Iterator[str]) -> dict[str, Any]:
        words = self.words(max(20, int(self._rng.gauss(WORDS_A_PARAGRAPH, 50))))
        context = " ".join(words)
        questions = []
        for name in itertools.islice(names, QUESTIONS_A_PARAGRAPH):
            first = self._rng.randrange(len(words) - 3)
            text = " ".join(words[first : first + self._rng.randint(1, 3)])
            answer = {"answer_start": len(" ".join(words[:first])) + (first > 0), "text": text}
            question = f"{' '.join(self.words(WORDS_A_QUESTION)).rstrip(',.')}?"
            questions.append({"id": name, "question": question, "answers": [answer]})
        return {"context": context, "qas": questions}

    def documents(self, sentences: int) -> Iterator[str]:
        """Sentences of a text for pre-training, a line each, with an empty line after every document."""
        while sentences > 0:
            count = min(sentences, self._rng.randint(*SENTENCES_A_DOCUMENT))
            for _ in range(count):
                yield " ".join(self.words(max(3, int(self._rng.gauss(WORDS_A_SENTENCE, 7)))))
            yield ""
            sentences -= count

    def rows(self, count: int, *, words_a: int, words_b: int) -> Iterator[tuple[str, str, str]]:
        """Two texts, the second empty if it has no words, and a label."""
        for _ in range(count):
            lengths = (max(2, int(self._rng.gauss(words, words / 3))) if words else 0 for words in (words_a, words_b))
            text_a, text_b = (" ".join(self.words(length)) for length in lengths)
            yield text_a, text_b, self._rng.choice("01")


def write_squad(path: Path, *, questions: int, seed: int = 0) -> None:
    path.write_text(json.dumps(Writer(seed).squad(questions)), encoding="utf-8")


def write_documents(path: Path, *, sentences: int) -> None:
    path.write_text("\n".join(Writer(2).documents(sentences)) + "\n", encoding="utf-8")


def write_vocabulary(path: Path) -> None:
    path.write_text("\n".join(Writer(0).vocabulary()) + "\n", encoding="utf-8")


def write_rows(path: Path, *, count: int, words_a: int, words_b: int) -> None:
    """Tab-separated, one row a line, nothing quoted, as GLUE's files are."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        table.writerows(Writer(1).rows(count, words_a=words_a, words_b=words_b))
