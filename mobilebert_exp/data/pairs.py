"""One text or two as a model's input, as the original has it: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`."""

from __future__ import annotations

from dataclasses import dataclass

from mobilebert_exp.data.tokenizer import CLS, SEP, Tokenizer

SPECIAL_TOKENS = 3  # at most: [CLS] a [SEP] b [SEP]


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


def row(example: Example, tokenizer: Tokenizer, *, max_seq_length: int) -> dict[str, list[int] | list[float]]:
    """The record under the original's keys; an unknown label is written as 0, as there."""
    first = tokenizer.tokens(example.text_a)
    second = tokenizer.tokens(example.text_b or "")
    if second:
        keep_first, keep_second = kept(len(first), len(second), room=max_seq_length - SPECIAL_TOKENS)
        first, second = first[:keep_first], [*second[:keep_second], SEP]
    else:  # of an empty second text, too, the original makes a single one
        first = first[: max_seq_length - 2]
    ids = tokenizer.ids([CLS, *first, SEP, *second])
    padding = [tokenizer.pad_id] * (max_seq_length - len(ids))
    zeros = [0] * len(padding)
    return {
        "input_ids": ids + padding,
        "input_mask": [1] * len(ids) + zeros,
        "segment_ids": [0] * (len(first) + 2) + [1] * len(second) + zeros,
        "label_ids": [0 if example.label is None else example.label],
    }


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
