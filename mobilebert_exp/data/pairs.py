"""One text or two to feature records, as the original has them: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mobilebert_exp.data import parallel, records
from mobilebert_exp.data.tokenizer import Tokenizer

_CHUNK_EXAMPLES = 2000  # about 20 ms of work, and 1 MB of records of length 128

SPECIAL_TOKENS = 3  # at most: [CLS] a [SEP] b [SEP]

_Texts = tuple[str, str | None, int | float]


@dataclass(kw_only=True, frozen=True, slots=True)
class Example:
    """One or two texts and what is asked of them.

    Attributes:
      id: its name within its part.
      text_a, text_b: the texts; None where there is no second.
      label: a class by number, or a score; None where it is not known.
      part: which part of a split it belongs to ("matched", a language); "" where there is only one.
    """

    id: str
    text_a: str
    text_b: str | None
    label: int | float | None
    part: str = ""


def write(
    path: Path,
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    *,
    max_seq_length: int,
    made: Callable[[int], None],
    workers: int | None = None,
) -> int:
    """Writes one record an example to one file, in their order; returns how many.

    Records hold `input_ids`, `input_mask`, `segment_ids` and `label_ids` (0 where the label is not known).

    Args:
      examples: taken as they are needed; some ten thousand at most are in memory.
      made: told how many examples are done, from time to time.
      workers: see `parallel.ordered`.

    Raises:
      OutputError: the file cannot be written.
      WorkerError: a worker process was killed.
    """
    texts = ((one.text_a, one.text_b, 0 if one.label is None else one.label) for one in examples)
    chunks = parallel.chunked(texts, size=_CHUNK_EXAMPLES)
    serializer = Serializer(tokenizer=tokenizer, max_seq_length=max_seq_length)

    def rows(results: Iterable[list[bytes]]) -> Iterator[bytes]:
        done = 0
        for result in results:
            yield from result
            done += len(result)
            made(done)

    with closing(parallel.ordered(serializer, chunks, workers=workers)) as results:
        return records.write(path, rows(results))


@dataclass(kw_only=True, frozen=True, slots=True)
class Serializer:
    """Makes of a chunk of texts their records."""

    tokenizer: Tokenizer
    max_seq_length: int

    def __call__(self, chunk: list[_Texts]) -> list[bytes]:
        return [self._record(first, second, label) for first, second, label in chunk]

    def _record(self, text_a: str, text_b: str | None, label: int | float) -> bytes:
        tokenizer, length = self.tokenizer, self.max_seq_length
        first = tokenizer.encode(text_a)
        second = tokenizer.encode(text_b) if text_b else []
        if second:
            keep_first, keep_second = kept(len(first), len(second), room=length - SPECIAL_TOKENS)
            first, second = first[:keep_first], [*second[:keep_second], tokenizer.sep_id]
        else:  # of an empty second text, too, the original makes a single one
            first = first[: length - 2]
        ids = [tokenizer.cls_id, *first, tokenizer.sep_id, *second]
        used, padded = len(ids), length - len(ids)
        values = records.varints(ids) + records.varints((tokenizer.pad_id,)) * padded
        zeros = b"\0" * padded
        return records.example(
            *(records.entry_head("input_ids", len(values)), values),
            *(records.entry_head("input_mask", length), b"\1" * used, zeros),
            *(records.entry_head("segment_ids", length), b"\0" * (used - len(second)), b"\1" * len(second), zeros),
            records.score("label_ids", label) if isinstance(label, float) else records.number("label_ids", label),
        )


def kept(first: int, second: int, *, room: int) -> tuple[int, int]:
    """How many tokens of each text stay: the original drops the last token of the longer, of equals the second's."""
    if first + second <= room:
        return first, second
    half = room // 2
    if second <= half:
        return room - second, second
    if first <= room - half:
        return first, room - first
    return room - half, half
