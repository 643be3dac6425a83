"""SQuAD files, v1.1 and v2.0, as examples (Rajpurkar et al., arXiv 1606.05250 and 1806.03822)."""

from __future__ import annotations

import bisect
import json
import logging
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mobilebert_exp.data.json_stream import NotStreamableError, elements
from mobilebert_exp.errors import DataError, MissingDataError

_LOG = logging.getLogger(__name__)
_OTHER_BLANKS = "\t\r\n\u202f"
_WORD = re.compile(f"[^ {_OTHER_BLANKS}]+")  # the original's whitespace; a no-break space stays inside a word
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a \\ud83d without its other half: JSON allows it, UTF-8 does not
_HASH_PARTS = 256
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

    @property
    def is_left_out(self) -> bool:
        """Whether training leaves it out although it has an answer."""
        return bool(self.answers) and not self.is_trainable


def stream(
    path: str | Path, *, version_2: bool, labelled: bool = True, heard: Callable[[float], None] | None = None
) -> Iterator[SquadExample]:
    """Yields all questions in the file's order, while one article at a time is in memory.

    Args:
      version_2: whether questions may be impossible to answer.
      labelled: whether every question must have its answers; without them it can only be predicted.
      heard: told after each article which share of the file has been read.

    Raises:
      DataError: the file is missing, cut short or not SQuAD, or an answer is not in its text; at the file's end, that
        an id stands twice. What was yielded before is then of no use.
    """
    reader = _Reader(path=Path(path), version_2=version_2, labelled=labelled, heard=heard)
    yield from reader.examples()
    if reader.repeats_ids:
        # Ids are only known to be equal by their hashes, so that they take little room: now the question is named.
        exact = _Reader(path=Path(path), version_2=version_2, labelled=labelled, heard=None, names=set())
        deque(exact.examples(), maxlen=0)


def warn_of_left_out(path: str | Path, *, count: int, of: int) -> None:
    """Says that `count` questions `of` a file are not trained on, if there are any."""
    if count:
        _LOG.warning(
            "%s: %d of %d answers do not stand at their answer_start; training leaves these questions out",
            path,
            count,
            of,
        )


@dataclass(frozen=True, slots=True)
class _Paragraph:
    """A context and its words; their places are only looked up where they do not follow from single blanks."""

    context: str
    words: tuple[str, ...]
    starts: tuple[int, ...] | None

    @classmethod
    def of(cls, context: str) -> _Paragraph:
        words = tuple(context.split(" "))
        if "" not in words and not any(char in context for char in _OTHER_BLANKS):
            return cls(context, words, None)
        matches = list(_WORD.finditer(context))
        return cls(context, tuple(match.group() for match in matches), tuple(match.start() for match in matches))

    def word_at(self, offset: int) -> int:
        """The word that holds a character, or the one before a whitespace; -1 before the first."""
        if self.starts is None:
            return self.context.count(" ", 0, offset)
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

    def __init__(
        self,
        *,
        path: Path,
        version_2: bool,
        labelled: bool,
        heard: Callable[[float], None] | None,
        names: set[str] | None = None,
    ) -> None:
        self._path = path
        self._version_2 = version_2
        self._labelled = labelled
        self._heard = heard
        self._place = ""
        self._title = ""
        self._names = names
        self._hashes = [array("q") for _ in range(_HASH_PARTS)]

    @property
    def repeats_ids(self) -> bool:
        """Whether two ids have one hash. Eight bytes an id are kept: a million of them stay far below 100 MB."""
        return any(len(set(part)) < len(part) for part in self._hashes)

    def examples(self) -> Iterator[SquadExample]:
        for number, article in enumerate(self._articles(), start=1):
            self._place = f"article {number}"
            self._title = self._field(article, "title", str, default="")
            self._place = f"article {self._title or number!r}"
            for paragraph in self._field(article, "paragraphs", list):
                yield from self._paragraph(paragraph)

    def _articles(self) -> Iterator[object]:
        count = 0
        try:
            for article, share in elements(self._path, key="data"):
                count += 1
                yield article
                if self._heard:
                    self._heard(share)
        except NotStreamableError:  # read as a whole it either shows what is wrong with it, or is read to its end
            self._place = ""
            yield from self._field(_load(self._path), "data", list)[count:]

    def _paragraph(self, record: object) -> Iterator[SquadExample]:
        paragraph = _Paragraph.of(self._field(record, "context", str))
        article = self._place
        for number, question in enumerate(self._field(record, "qas", list), start=1):
            self._place = f"{article}: question {number} about {paragraph.context[:30]!r}"
            name = self._field(question, "id", str)
            self._place = f"{article}: question {name!r}"
            self._note(name)
            yield self._question(question, name, paragraph)
        self._place = article

    def _note(self, name: str) -> None:
        if self._names is None:
            digest = hash(name)
            self._hashes[digest % _HASH_PARTS].append(digest)
        elif name in self._names:
            self._fail("its id stands twice; give every question its own")
        else:
            self._names.add(name)

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
        if isinstance(value, str) and not value.isascii() and (half := _HALF_CHARACTER.search(value)):
            self._fail(f"{name!r} holds half a character ({half.group()!a}); write it whole")
        return value

    def _fail(self, complaint: str) -> NoReturn:
        raise DataError(": ".join(part for part in (str(self._path), self._place, complaint) if part))


def _load(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingDataError(f"{path} does not exist; set data_root, or the task's file, to where it is") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}; fetch it again") from None
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{path} is nested deeper than any SQuAD file; restore SQuAD's layout") from None
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
