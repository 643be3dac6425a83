"""SQuAD examples as windows of tokens: what the original featuriser makes of them, field by field.

A paragraph too long for one sequence is cut into overlapping windows. A token may stand in several of them; the one
with the most context on its poorer side may answer with it.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mobilebert_exp.data.squad import SquadExample
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import ConfigError

FIRST_UNIQUE_ID = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Context:
    """A paragraph in tokens, made once for all its questions.

    Attributes:
      ids: its tokens' ids.
      first_tokens: the place of each word's first token; a word without tokens has that of the next.
    """

    ids: list[int]
    first_tokens: list[int]

    @classmethod
    def of(cls, words: Sequence[str], tokenizer: Tokenizer) -> Context:
        pieces = tokenizer.encode_chunks(words)
        first_tokens = list(itertools.accumulate(map(len, pieces), initial=0))
        return cls(list(itertools.chain.from_iterable(pieces)), first_tokens[:-1])

    def word_of(self, token: int) -> int:
        """The word that a token belongs to."""
        return bisect.bisect_right(self.first_tokens, token) - 1

    def answer(self, example: SquadExample, tokenizer: Tokenizer) -> tuple[int, int]:
        """First and last token of the answer: its words, narrowed to its own tokens where they stand among them."""
        first = self.first_tokens[example.start_word]
        is_last_word = example.end_word == len(self.first_tokens) - 1
        last = (len(self.ids) if is_last_word else self.first_tokens[example.end_word + 1]) - 1
        wanted = tokenizer.encode(example.answers[0])
        for start in range(first, last - len(wanted) + 2):
            if wanted and self.ids[start : start + len(wanted)] == wanted:
                return start, start + len(wanted) - 1
        return first, last


@dataclass(kw_only=True, frozen=True, slots=True)
class Window:
    """One model input: `[CLS] question [SEP] part of the paragraph [SEP]` and padding.

    It holds what it shares with others, and derives the rest: a thousand windows are little more than their paragraphs.

    Attributes:
      unique_id: counts windows, from the original's first number on.
      example_index: the example's place in the sequence that the windows were made of.
      doc_span_index: counts the windows of an example.
      head: ids of `[CLS] question [SEP]`.
      context: the paragraph.
      start, stop: the part of the paragraph's tokens that is in this window.
      doc_stride: how far the paragraph's windows lie apart.
      max_seq_length: tokens with padding.
      start_position, end_position: the answer's first and last token; 0 when this window does not hold it.
      is_impossible: whether this window lacks the answer; always true when not made for training.
    """

    unique_id: int
    example_index: int
    doc_span_index: int
    head: list[int]
    context: Context
    start: int
    stop: int
    doc_stride: int
    max_seq_length: int
    tokenizer: Tokenizer
    start_position: int
    end_position: int
    is_impossible: bool

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return len(self.head) + self.stop - self.start + 1

    @property
    def context_start(self) -> int:
        """Position of the paragraph's first token."""
        return len(self.head)

    @property
    def context_is_best(self) -> list[bool]:
        """For each of the paragraph's tokens here, whether no other window gives it more context."""
        room = self.max_seq_length - len(self.head) - 1
        return _best(len(self.context.ids), room, self.doc_stride)[self.doc_span_index]

    def word_at(self, position: int) -> int:
        """The paragraph's word at a position."""
        return self.context.word_of(self.start + position - self.context_start)

    def tokens_at(self, first: int, last: int) -> list[str]:
        """The paragraph's tokens at the positions from `first` to `last`."""
        begin = self.start - self.context_start
        return self.tokenizer.named(self.context.ids[begin + first : begin + last + 1])


def windows(
    examples: Iterable[SquadExample],
    tokenizer: Tokenizer,
    *,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
    training: bool,
) -> Iterator[Window]:
    """Yields the windows of each example in turn; for training without the examples that are not trainable.

    Raises ConfigError where nothing of the paragraph fits beside a question, or the stride does not move.
    """
    words: tuple[str, ...] | None = None
    unique_ids = itertools.count(FIRST_UNIQUE_ID)
    for example_index, example in enumerate(examples):
        if training and not example.is_trainable:
            continue
        if example.words is not words:  # the questions of a paragraph come one after another, and share its words
            context = Context.of(words := example.words, tokenizer)
        head = _head(example, tokenizer, max_seq_length=max_seq_length, max_query_length=max_query_length)
        answer = context.answer(example, tokenizer) if training and not example.is_impossible else None
        room = max_seq_length - len(head) - 1
        for doc_span_index, span in enumerate(_spans(len(context.ids), room=room, stride=doc_stride)):
            positions = _positions(answer, span, context_start=len(head))
            yield Window(
                unique_id=next(unique_ids),
                example_index=example_index,
                doc_span_index=doc_span_index,
                head=head,
                context=context,
                start=span.start,
                stop=span.stop,
                doc_stride=doc_stride,
                max_seq_length=max_seq_length,
                tokenizer=tokenizer,
                start_position=positions[0] if positions else 0,
                end_position=positions[1] if positions else 0,
                is_impossible=positions is None,
            )


def _head(example: SquadExample, tokenizer: Tokenizer, *, max_seq_length: int, max_query_length: int) -> list[int]:
    """What stands before the paragraph."""
    question = tokenizer.encode(example.question)[:max_query_length]
    if max_seq_length < len(question) + 4:  # [CLS], [SEP], one token of the paragraph, [SEP]
        raise ConfigError(
            f"task.max_seq_length={max_seq_length} has no room for text beside question {example.id!r} of "
            f"{len(question)} tokens; raise it, or lower task.max_query_length={max_query_length}"
        )
    return [tokenizer.cls_id, *question, tokenizer.sep_id]


def _positions(answer: tuple[int, int] | None, span: range, *, context_start: int) -> tuple[int, int] | None:
    """Where an answer stands in a window; None if it does not stand there whole."""
    if answer is None or answer[0] < span.start or answer[1] >= span.stop:
        return None
    return answer[0] - span.start + context_start, answer[1] - span.start + context_start


def _spans(num_tokens: int, *, room: int, stride: int) -> list[range]:
    if stride < 1:
        raise ConfigError(f"task.doc_stride={stride} does not move the window; raise it")
    spans: list[range] = []
    start = 0
    while start < num_tokens:
        spans.append(range(start, min(start + room, num_tokens)))
        if spans[-1].stop == num_tokens:
            break
        start += min(room, stride)
    return spans


@functools.lru_cache(maxsize=2**10)
def _best(num_tokens: int, room: int, stride: int) -> list[list[bool]]:
    """For each token of each span, whether the span gives it the most context: the least of left and right.

    The original adds a hundredth of the span's length, in floating point; of equals the first span wins.
    """
    spans = _spans(num_tokens, room=room, stride=stride)
    if len(spans) == 1:
        return [[True] * len(spans[0])]
    best: dict[int, tuple[float, int]] = {}
    for index, span in enumerate(spans):
        for token in span:
            score = min(token - span.start, span.stop - 1 - token) + 0.01 * len(span)
            if token not in best or score > best[token][0]:
                best[token] = score, index
    return [[best[token][1] == index for token in span] for index, span in enumerate(spans)]
