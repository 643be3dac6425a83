"""SQuAD examples to feature records, shared among the cores.

The windows are those of `squad_windows`; here they become bytes. What many records share is made once: the varints of
a paragraph's tokens serve all its questions, and masks and segments are runs of ones and zeros.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from mobilebert_exp.data import parallel, records
from mobilebert_exp.data.squad import SquadExample
from mobilebert_exp.data.squad_windows import FIRST_UNIQUE_ID, Context, Window, windows
from mobilebert_exp.data.tokenizer import Tokenizer

_CHUNK_EXAMPLES = 500  # about 20 ms of work, and 1 MB of records

# A paragraph's words between blanks, which no word holds, and of each question: id, text, answer, words, impossible.
_Questions = list[tuple[str, str, tuple[str, ...], int, int, bool]]
_Packed = list[tuple[str, _Questions]]


@dataclass(kw_only=True, slots=True)
class Counts:
    """What was read and written.

    Attributes:
      examples: questions read.
      left_out: those among them that have an answer and are not trained on, since it is not where the file says.
      trainable: those that are trained on.
      features: records written.
    """

    examples: int = 0
    left_out: int = 0
    trainable: int = 0
    features: int = 0

    def add(self, example: SquadExample) -> None:
        self.examples += 1
        self.left_out += example.is_left_out
        self.trainable += example.is_trainable


@dataclass(kw_only=True, frozen=True, slots=True)
class Sizes:
    """How paragraphs are cut, in tokens; see `tasks.squad.Config`."""

    max_seq_length: int
    doc_stride: int
    max_query_length: int


def write(
    path: Path,
    examples: Iterable[SquadExample],
    tokenizer: Tokenizer,
    *,
    sizes: Sizes,
    training: bool,
    made: Callable[[int], None],
    workers: int | None = None,
) -> Counts:
    """Writes the records of all examples to one file, in their order, and counts.

    Args:
      examples: taken as they are needed; a few thousand at most are in memory.
      training: whether records tell where the answer is; untrainable examples are then left out.
      made: told how many examples are done, from time to time.
      workers: see `parallel.ordered`.

    Raises:
      OutputError: the file cannot be written.
      WorkerError: a worker process was killed.
    """
    counts = Counts()
    serializer = Serializer(tokenizer=tokenizer, sizes=sizes, training=training)

    def packed() -> Iterator[_Packed]:
        for chunk in parallel.chunked(examples, size=_CHUNK_EXAMPLES):
            for example in chunk:
                counts.add(example)
            yield _packed(chunk)

    def told(results: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
        for done, result in enumerate(results, start=1):
            yield result
            made(min(done * _CHUNK_EXAMPLES, counts.examples))

    with closing(parallel.ordered(serializer, packed(), workers=workers)) as results:
        counts.features = records.write(path, _numbered(told(results)))
    return counts


def _numbered(chunks: Iterable[list[bytes]]) -> Iterator[bytes]:
    """The records of all chunks, with the ids that count them."""
    unique_ids = itertools.count(FIRST_UNIQUE_ID)
    for chunk in chunks:
        for entries in chunk:
            yield records.example(records.entry("unique_ids", records.varint(next(unique_ids))), entries)


def _packed(examples: Iterable[SquadExample]) -> _Packed:
    """Paragraphs with their questions: far quicker to send to another process than examples are."""
    found: _Packed = []
    words: tuple[str, ...] | None = None
    for example in examples:
        if example.words is not words:
            words = example.words
            found.append((" ".join(words), []))
        question = (example.id, example.question, example.answers[:1], example.start_word, example.end_word)
        found[-1][1].append((*question, example.is_impossible))
    return found


def _unpacked(packed: _Packed) -> Iterator[SquadExample]:
    for text, questions in packed:
        words = tuple(text.split(" ")) if text else ()
        for name, question, answers, start_word, end_word, is_impossible in questions:
            yield SquadExample(
                id=name,
                title="",
                question=question,
                words=words,
                answers=answers,
                start_word=start_word,
                end_word=end_word,
                is_impossible=is_impossible,
            )


@dataclass(kw_only=True, slots=True)
class Serializer:
    """Makes of a chunk of examples the entries of their records, all but the unique ids, which count the whole file."""

    tokenizer: Tokenizer
    sizes: Sizes
    training: bool
    _separator: bytes = field(init=False)
    _padding: bytes = field(init=False)
    _context: Context | None = field(default=None, init=False)
    _context_bytes: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self._separator, self._padding = map(records.varint, (self.tokenizer.sep_id, self.tokenizer.pad_id))

    def __call__(self, chunk: _Packed) -> list[bytes]:
        sizes = self.sizes
        found = windows(
            _unpacked(chunk),
            self.tokenizer,
            max_seq_length=sizes.max_seq_length,
            doc_stride=sizes.doc_stride,
            max_query_length=sizes.max_query_length,
            training=self.training,
        )
        return [self._entries(window) for window in found]

    def _entries(self, window: Window) -> bytes:
        length, used, first = self.sizes.max_seq_length, window.num_tokens, window.context_start
        padding = b"\0" * (length - used)
        head, context = records.varints(window.head), self._context_part(window.context, window.start, window.stop)
        ids = b"".join((head, context, self._separator, self._padding * (length - used)))
        parts = [
            *(records.entry_head("input_ids", len(ids)), ids),
            *(records.entry_head("input_mask", length), b"\1" * used, padding),
            *(records.entry_head("segment_ids", length), b"\0" * first, b"\1" * (used - first), padding),
        ]
        if self.training:
            parts.append(records.number("start_positions", window.start_position))
            parts.append(records.number("end_positions", window.end_position))
            parts.append(records.number("is_impossible", int(window.is_impossible)))
        return b"".join(parts)

    def _context_part(self, context: Context, start: int, stop: int) -> bytes:
        """A part of a paragraph; the whole is kept for its other questions."""
        if stop - start < len(context.ids):
            return records.varints(context.ids[start:stop])
        if context is not self._context:
            self._context, self._context_bytes = context, records.varints(context.ids)
        return self._context_bytes
