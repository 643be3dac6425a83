"""SQuAD files, v1.1 and v2.0, as examples (Rajpurkar et al., arXiv 1606.05250 and 1806.03822)."""

from __future__ import annotations

import bisect
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mobilebert_exp.errors import DataError

_LOG = logging.getLogger(__name__)
_WORD = re.compile("[^ \t\r\n\u202f]+")  # the original's whitespace; a no-break space stays inside a word
_T = TypeVar("_T")


@dataclass(kw_only=True, frozen=True, slots=True)
class SquadExample:
    """A question about a paragraph.

    Attributes:
      words: the paragraph, split at whitespace; shared by all its questions.
      answers: every accepted answer; none if it is impossible.
      start_word, end_word: first and last word of the first answer; -1 when there is none, or when it does not
        stand where the file says (training leaves such a question out, as the original does).
      kind: the grade that our own data give a question; empty elsewhere.
    """

    id: str
    title: str
    question: str
    words: tuple[str, ...]
    answers: tuple[str, ...]
    start_word: int
    end_word: int
    is_impossible: bool
    kind: str = ""

    @property
    def is_trainable(self) -> bool:
        """Whether it is known where the answer stands, or that there is none."""
        return self.is_impossible or self.start_word >= 0


def read(path: str | Path, *, version_2: bool, labelled: bool = True) -> list[SquadExample]:
    """Reads all questions, in the file's order.

    Args:
      version_2: whether questions may be impossible to answer.
      labelled: whether every question must have its answers; without them it can only be predicted.

    Raises:
      DataError: the file is missing, cut short or not SQuAD, an id stands twice, or an answer is not in its text.
    """
    reader = _Reader(path=Path(path), version_2=version_2, labelled=labelled)
    examples = list(reader.examples())
    left_out = sum(bool(example.answers) and not example.is_trainable for example in examples)
    if left_out:
        _LOG.warning(
            "%s: %d of %d answers do not stand at their answer_start; training leaves these questions out",
            path,
            left_out,
            len(examples),
        )
    return examples


@dataclass(frozen=True, slots=True)
class _Paragraph:
    context: str
    words: tuple[str, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, context: str) -> _Paragraph:
        matches = list(_WORD.finditer(context))
        return cls(context, tuple(match.group() for match in matches), tuple(match.start() for match in matches))

    def word_at(self, offset: int) -> int:
        """The word that holds a character, or the one before a whitespace; -1 before the first."""
        return bisect.bisect_right(self.starts, offset) - 1

    def find(self, text: str, *, start: int) -> tuple[int, int] | None:
        """First and last word of an answer, if it stands there."""
        first, last = self.word_at(start), self.word_at(start + len(text) - 1)
        if " ".join(text.split()) not in " ".join(self.words[first : last + 1]):
            return None
        return max(first, 0), last

    def holds(self, text: str) -> bool:
        return text in self.context or " ".join(text.split()) in " ".join(self.words)


class _Reader:
    """Walks through a file and knows where it is, so that a complaint can say so."""

    def __init__(self, *, path: Path, version_2: bool, labelled: bool) -> None:
        self._path = path
        self._version_2 = version_2
        self._labelled = labelled
        self._place = ""
        self._title = ""
        self._ids: set[str] = set()

    def examples(self) -> Iterator[SquadExample]:
        for number, article in enumerate(self._field(_load(self._path), "data", list), start=1):
            self._place = f"article {number}"
            self._title = self._field(article, "title", str, default="")
            self._place = f"article {self._title or number!r}"
            for paragraph in self._field(article, "paragraphs", list):
                yield from self._paragraph(paragraph)

    def _paragraph(self, record: object) -> Iterator[SquadExample]:
        paragraph = _Paragraph.of(self._field(record, "context", str))
        article = self._place
        for number, question in enumerate(self._field(record, "qas", list), start=1):
            self._place = f"{article}: question {number} about {paragraph.context[:30]!r}"
            name = self._field(question, "id", str)
            self._place = f"{article}: question {name!r}"
            if name in self._ids:
                self._fail("its id stands twice; give every question its own")
            self._ids.add(name)
            yield self._question(question, name, paragraph)
        self._place = article

    def _question(self, record: dict[str, Any], name: str, paragraph: _Paragraph) -> SquadExample:
        is_impossible = self._field(record, "is_impossible", bool, default=False)
        if is_impossible and not self._version_2:
            self._fail("it is impossible to answer, which only SQuAD v2.0 has; use task=squad_v2")
        # The answers that v2.0 gives an impossible question are no answers to it.
        entries = [] if is_impossible else self._field(record, "answers", list, default=[])
        answers = tuple(self._field(entry, "text", str) for entry in entries)
        if not answers and not is_impossible and self._labelled:
            self._fail("it has no answer; give it one, or (v2.0) mark it is_impossible")
        span = self._span(entries[0], paragraph) if answers else None
        start_word, end_word = span or (-1, -1)
        return SquadExample(
            id=name,
            title=self._title,
            question=self._field(record, "question", str),
            words=paragraph.words,
            answers=answers,
            start_word=start_word,
            end_word=end_word,
            is_impossible=is_impossible,
            kind=self._field(record, "kind", str, default=""),
        )

    def _span(self, answer: dict[str, Any], paragraph: _Paragraph) -> tuple[int, int] | None:
        text, start = answer["text"], self._field(answer, "answer_start", int)
        if not text.strip():
            self._fail("its answer is blank; give the text, or (v2.0) mark it is_impossible")
        if not 0 <= start <= len(paragraph.context) - len(text):
            size = len(paragraph.context)
            self._fail(f"answer_start={start} puts {text!r} outside its context of {size} characters; correct it")
        if not paragraph.holds(text):
            self._fail(f"answer {text!r} is not in its context; correct the text")
        return paragraph.find(text, start=start)

    def _field(self, record: object, name: str, kind: type[_T], *, default: _T | None = None) -> _T:
        if not isinstance(record, dict):
            self._fail(f"{type(record).__name__} where an object with {name!r} belongs; restore SQuAD's layout")
        if name not in record and default is not None:
            return default
        if name not in record:
            self._fail(f"{name!r} is missing; restore SQuAD's layout")
        value = record[name]
        if type(value) is not kind:  # not isinstance: true is no answer_start
            self._fail(f"{name!r} is {type(value).__name__}, not {kind.__name__}; restore SQuAD's layout")
        return value

    def _fail(self, complaint: str) -> NoReturn:
        raise DataError(": ".join(part for part in (str(self._path), self._place, complaint) if part))


def _load(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; set data_root, or the task's file, to where it is") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}; fetch it again") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        fault = "is cut short" if is_cut else f"is not JSON ({error.msg})"
        place = f"line {error.lineno}, column {error.colno}{_nearest(text[: error.pos])}"
        raise DataError(f"{path} {fault} at {place}; fetch it again") from None


def _nearest(text: str) -> str:
    """The last article and question that a broken file shows before its fault."""
    titles, ids = (re.findall(rf'"{key}"\s*:\s*"([^"]*)"', text) for key in ("title", "id"))
    article = f", after article {titles[-1]!r}" if titles else ""
    return article + (f", question {ids[-1]!r}" if ids else "")
