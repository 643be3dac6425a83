"""One text or two to feature records, as the original has them: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mobilebert_exp.data import parallel, records
from mobilebert_exp.data.tokenizer import Memo, Tokenizer, chunks

_CHUNK_EXAMPLES = 2000  # about 20 ms of work, and 1 MB of records of length 128

SPECIAL_TOKENS = 3  # at most: [CLS] a [SEP] b [SEP]
_VARINT = re.compile(rb"[\x80-\xff]*[\x00-\x7f]", re.DOTALL)
_CONTINUED = bytes(range(128, 256))

_Texts = tuple[str, str | None, int | float]


class Example(NamedTuple):
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
    count = 0

    def parts() -> Iterator[list[_Texts]]:
        nonlocal count
        texts = ((one.text_a, one.text_b, 0 if one.label is None else one.label) for one in examples)
        for chunk in parallel.chunked(texts, size=_CHUNK_EXAMPLES):
            count += len(chunk)
            yield chunk

    def told(results: Iterable[bytes]) -> Iterator[bytes]:
        for done, result in enumerate(results, start=1):
            yield result
            made(min(done * _CHUNK_EXAMPLES, count))

    serializer = Serializer(tokenizer=tokenizer, max_seq_length=max_seq_length)
    with closing(parallel.ordered(serializer, parts(), workers=workers)) as results:
        records.write_framed(path, told(results))
    return count


@dataclass(kw_only=True, slots=True)
class Serializer:
    """Makes of a chunk of texts their records, as they stand in a file."""

    tokenizer: Tokenizer
    max_seq_length: int
    _begin: bytes = field(init=False)
    _end: bytes = field(init=False)
    _padding: bytes = field(init=False)
    _tails: dict[tuple[int, int], bytes] = field(default_factory=dict, init=False)
    _pieces: Memo[bytes] | None = field(default=None, init=False)  # made where it is used: the memo of a process

    def __post_init__(self) -> None:
        ids = (self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.pad_id)
        self._begin, self._end, self._padding = map(records.varint, ids)

    def __call__(self, chunk: list[_Texts]) -> bytes:
        if self._pieces is None:
            self._pieces = Memo(lambda chunk: records.varints(self.tokenizer.split_chunk(chunk)))
            self._pieces.update({word: records.varint(index) for word, index in self.tokenizer.plain_words()})
        pieces, framed = self._pieces.__getitem__, records.framed
        # The varints of a text's ids are put together from those of its chunks: no id is looked at one by one.
        return b"".join(
            [
                framed(
                    self._record(
                        b"".join(map(pieces, chunks(first))),
                        b"".join(map(pieces, chunks(second))) if second else b"",
                        label,
                    )
                )
                for first, second, label in chunk
            ]
        )

    def _record(self, first: bytes, second: bytes, label: int | float) -> bytes:
        size_a, size_b = _count(first), _count(second) if second else 0
        if size_a + size_b > self.max_seq_length - SPECIAL_TOKENS:
            first, second = self._cut(first, second)
            size_a, size_b = _count(first), _count(second)
        if second:
            size_b += 1
            second += self._end
        used = size_a + 2 + size_b
        named = records.score("label_ids", label) if isinstance(label, float) else records.number("label_ids", label)
        tail = self._tails.get((used, size_b)) or self._made_tail(used, size_b)
        ids = len(self._begin) + len(first) + len(self._end) + len(second)
        entry = records.entry_head("input_ids", ids + len(self._padding) * (self.max_seq_length - used))
        head = records.example_head(len(entry) + ids + len(tail) + len(named))
        return b"".join((head, entry, self._begin, first, self._end, second, tail, named))

    def _made_tail(self, used: int, size_b: int) -> bytes:
        """What depends on lengths alone, of which there are at most some thousand: padding, mask and segments."""
        room = self.max_seq_length - used
        mask, segments = b"\1" * used + b"\0" * room, b"\0" * (used - size_b) + b"\1" * size_b + b"\0" * room
        made = self._padding * room + records.entry("input_mask", mask) + records.entry("segment_ids", segments)
        self._tails[used, size_b] = made
        return made

    def _cut(self, first: bytes, second: bytes) -> tuple[bytes, bytes]:
        """Texts that are too long, cut as the original cuts them; of an empty second text it makes a single one."""
        ones = [_VARINT.findall(text) for text in (first, second)]
        sizes = len(ones[0]), len(ones[1])
        room = self.max_seq_length - SPECIAL_TOKENS
        keep_a, keep_b = kept(*sizes, room=room) if second else (min(sizes[0], room + 1), 0)
        return b"".join(ones[0][:keep_a]), b"".join(ones[1][:keep_b])


def _count(ids: bytes) -> int:
    """How many integers: a varint's last byte, and no other, is below 128."""
    return len(ids.translate(None, _CONTINUED))


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
