"""SQuAD spelled out: all questions of a file at once, and a window field by field under the original's names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from mobilebert_exp.data import squad
from mobilebert_exp.data.squad import SquadExample
from mobilebert_exp.data.squad_windows import Window


def read(path: str | Path, *, version_2: bool, labelled: bool = True) -> list[SquadExample]:
    return list(squad.stream(path, version_2=version_2, labelled=labelled))


def spelled(window: Window) -> SimpleNamespace:
    """What the original keeps of a window: written down plainly, to hold the quick way of `squad_features` against."""
    ids = [*window.head, *window.context.ids[window.start : window.stop], window.tokenizer.sep_id]
    padding = window.max_seq_length - len(ids)
    positions = range(len(window.head), len(ids) - 1)
    return SimpleNamespace(
        unique_id=window.unique_id,
        example_index=window.example_index,
        doc_span_index=window.doc_span_index,
        tokens=window.tokenizer.named(ids),
        token_to_orig_map={position: window.word_at(position) for position in positions},
        token_is_max_context=dict(zip(positions, window.context_is_best, strict=True)),
        input_ids=ids + [window.tokenizer.pad_id] * padding,
        input_mask=[1] * len(ids) + [0] * padding,
        segment_ids=[0] * len(window.head) + [1] * (len(ids) - len(window.head)) + [0] * padding,
        paragraph_mask=None,
        class_index=None,
        start_position=window.start_position,
        end_position=window.end_position,
        is_impossible=window.is_impossible,
    )


def row(window: Window, *, training: bool) -> dict[str, list[int]]:
    """The record of a window under the original's keys; the positions only for training."""
    fields = spelled(window)
    found: dict[str, list[int]] = {
        "unique_ids": [fields.unique_id],
        "input_ids": fields.input_ids,
        "input_mask": fields.input_mask,
        "segment_ids": fields.segment_ids,
    }
    if training:
        found["start_positions"] = [fields.start_position]
        found["end_positions"] = [fields.end_position]
        found["is_impossible"] = [int(fields.is_impossible)]
    return found
