"""SQuAD examples as windows of tokens: what the original featuriser makes of them, field by field.

A paragraph too long for one sequence is cut into overlapping windows. A token may stand in several of them; the one
with the most context on its poorer side may answer with it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mobilebert_exp.data.squad import SquadExample
from mobilebert_exp.data.tokenizer import CLS, SEP, Tokenizer
from mobilebert_exp.errors import ConfigError

FIRST_UNIQUE_ID = 1_000_000_000


@dataclass(kw_only=True, frozen=True, slots=True)
class Window:
    """One model input: `[CLS] question [SEP] part of the paragraph [SEP]` and padding.

    Attributes:
      unique_id: counts windows, from the original's first number on.
      example_index: the example's place in the sequence that the windows were made of.
      doc_span_index: counts the windows of an example.
      tokens: without padding.
      input_ids: padded to the full length.
      context_start: position of the paragraph's first token.
      context_words: word of the paragraph that each of its tokens here belongs to.
      context_is_best: for each of these tokens, whether no other window gives it more context.
      start_position, end_position: the answer's first and last token; 0 when this window does not hold it.
      is_impossible: whether this window lacks the answer; always true when not made for training.
    """

    unique_id: int
    example_index: int
    doc_span_index: int
    tokens: list[str]
    input_ids: list[int]
    context_start: int
    context_words: list[int]
    context_is_best: list[bool]
    start_position: int
    end_position: int
    is_impossible: bool

    @property
    def input_mask(self) -> list[int]:
        """1 for tokens, 0 for padding."""
        return [1] * len(self.tokens) + [0] * (len(self.input_ids) - len(self.tokens))

    @property
    def segment_ids(self) -> list[int]:
        """1 for the paragraph and its [SEP], 0 before it and for padding."""
        num_padding = len(self.input_ids) - len(self.tokens)
        return [0] * self.context_start + [1] * (len(self.tokens) - self.context_start) + [0] * num_padding

    @property
    def token_to_orig_map(self) -> dict[int, int]:
        """Word of the paragraph by position."""
        return dict(enumerate(self.context_words, start=self.context_start))

    @property
    def token_is_max_context(self) -> dict[int, bool]:
        """Whether this window may answer with a token, by its position."""
        return dict(enumerate(self.context_is_best, start=self.context_start))

    def row(self, *, training: bool) -> dict[str, list[int]]:
        """The record under the original's keys; the positions only for training."""
        row = {
            "unique_ids": [self.unique_id],
            "input_ids": self.input_ids,
            "input_mask": self.input_mask,
            "segment_ids": self.segment_ids,
        }
        if training:
            row["start_positions"] = [self.start_position]
            row["end_positions"] = [self.end_position]
            row["is_impossible"] = [int(self.is_impossible)]
        return row


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

    Raises:
      ConfigError: nothing of the paragraph fits beside a question, or the stride does not move.
    """
    context_of = functools.cache(lambda words: _Context.of(words, tokenizer))
    unique_ids = itertools.count(FIRST_UNIQUE_ID)
    for example_index, example in enumerate(examples):
        if training and not example.is_trainable:
            continue
        context: _Context = context_of(example.words)
        head = _head(example, tokenizer, max_seq_length=max_seq_length, max_query_length=max_query_length)
        answer = context.answer(example, tokenizer) if training and not example.is_impossible else None
        spans = _spans(len(context.tokens), room=max_seq_length - len(head) - 1, stride=doc_stride)
        for doc_span_index, (span, context_is_best) in enumerate(zip(spans, _best(spans), strict=True)):
            tokens = [*head, *context.tokens[span.start : span.stop], SEP]
            positions = _positions(answer, span, context_start=len(head))
            yield Window(
                unique_id=next(unique_ids),
                example_index=example_index,
                doc_span_index=doc_span_index,
                tokens=tokens,
                input_ids=tokenizer.ids(tokens) + [tokenizer.pad_id] * (max_seq_length - len(tokens)),
                context_start=len(head),
                context_words=context.words[span.start : span.stop],
                context_is_best=context_is_best,
                start_position=positions[0] if positions else 0,
                end_position=positions[1] if positions else 0,
                is_impossible=positions is None,
            )


def _head(example: SquadExample, tokenizer: Tokenizer, *, max_seq_length: int, max_query_length: int) -> list[str]:
    """What stands before the paragraph."""
    question = tokenizer.tokens(example.question)[:max_query_length]
    if max_seq_length < len(question) + 4:  # [CLS], [SEP], one token of the paragraph, [SEP]
        raise ConfigError(
            f"task.max_seq_length={max_seq_length} has no room for text beside question {example.id!r} of "
            f"{len(question)} tokens; raise it, or lower task.max_query_length={max_query_length}"
        )
    return [CLS, *question, SEP]


@dataclass(frozen=True, slots=True)
class _Context:
    """A paragraph in tokens: the word of each, and the first token of each word."""

    tokens: list[str]
    words: list[int]
    first_tokens: list[int]

    @classmethod
    def of(cls, words: Sequence[str], tokenizer: Tokenizer) -> _Context:
        tokens: list[str] = []
        first_tokens: list[int] = []
        word_of_token: list[int] = []
        for index, word in enumerate(words):
            first_tokens.append(len(tokens))
            tokens.extend(tokenizer.tokens(word))
            word_of_token.extend([index] * (len(tokens) - len(word_of_token)))
        return cls(tokens, word_of_token, first_tokens)

    def answer(self, example: SquadExample, tokenizer: Tokenizer) -> tuple[int, int]:
        """First and last token of the answer: its words, narrowed to its own tokens where they stand among them."""
        first = self.first_tokens[example.start_word]
        is_last_word = example.end_word == len(self.first_tokens) - 1
        last = (len(self.tokens) if is_last_word else self.first_tokens[example.end_word + 1]) - 1
        wanted = tokenizer.tokens(example.answers[0])
        for start in range(first, last - len(wanted) + 2):
            if wanted and self.tokens[start : start + len(wanted)] == wanted:
                return start, start + len(wanted) - 1
        return first, last


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


def _best(spans: Sequence[range]) -> list[list[bool]]:
    """For each token of each span, whether the span gives it the most context: the least of left and right.

    The original adds a hundredth of the span's length, in floating point; of equals the first span wins.
    """
    if len(spans) == 1:
        return [[True] * len(spans[0])]
    best: dict[int, tuple[float, int]] = {}
    for index, span in enumerate(spans):
        for token in span:
            score = min(token - span.start, span.stop - 1 - token) + 0.01 * len(span)
            if token not in best or score > best[token][0]:
                best[token] = score, index
    return [[best[token][1] == index for token in span] for index, span in enumerate(spans)]
