"""Rows as records: TFRecord frames of Examples with the original's keys, many rows at a time.

Shapes: N rows, K integers of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobilebert_exp.data import records
from mobilebert_exp.data.pretraining.masking import Rows

MOST_INTEGER = 2**21  # of what three bytes hold as a varint
_ONE_BYTE, _TWO_BYTES = 2**7 - 1, 2**14 - 1
INTEGERS = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids", "next_sentence_labels")
FLOATS = ("masked_lm_weights",)


@dataclass(kw_only=True, slots=True)
class Serializer:
    """Makes records of one length; entries that depend on counts alone are made once."""

    max_seq_length: int
    max_predictions_per_seq: int
    _masks: dict[tuple[int, int], bytes] = field(default_factory=dict, init=False)
    _weights: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        most = self.max_predictions_per_seq
        ones = ([1.0] * count + [0.0] * (most - count) for count in range(most + 1))
        self._weights = [records.floats("masked_lm_weights", weights) for weights in ones]

    def __call__(self, rows: Rows) -> bytes:
        """The rows as they stand in a file, on end."""
        columns = zip(
            _entries("input_ids", rows.ids_NL),
            _entries("masked_lm_positions", rows.positions_NP),
            _entries("masked_lm_ids", rows.labels_NP),
            zip(rows.used_N.tolist(), rows.second_N.tolist(), strict=True),
            rows.masked_N.tolist(),
            rows.is_random_N.tolist(),
            strict=True,
        )
        return b"".join([
            records.framed(records.example(
                ids, self._masks.get(sizes) or self._made_masks(sizes), positions, labels, self._weights[count],
                records.number("next_sentence_labels", label),
            ))
            for ids, positions, labels, sizes, count, label in columns
        ])  # fmt: skip

    def _made_masks(self, sizes: tuple[int, int]) -> bytes:
        used, second = sizes
        zeros = b"\0" * (self.max_seq_length - used)
        mask, segments = b"\1" * used + zeros, b"\0" * (used - second) + b"\1" * second + zeros
        made = records.entry("input_mask", mask) + records.entry("segment_ids", segments)
        self._masks[sizes] = made
        return made


def _entries(name: str, values_NK: NDArray[np.int32] | NDArray[np.int64]) -> Iterator[bytes]:
    """An entry of each row's integers, which are from 0 to below `MOST_INTEGER`."""
    if values_NK.max(initial=0) <= _ONE_BYTE:
        size, content = values_NK.shape[1], values_NK.astype(np.uint8).tobytes()
        head = records.entry_head(name, size)
        yield from (head + content[start : start + size] for start in range(0, len(content), size))
        return
    wide_NK3 = np.empty((*values_NK.shape, 3), np.uint8)
    needed_NK3 = np.empty(wide_NK3.shape, bool)
    needed_NK3[:, :, 0] = True
    needed_NK3[:, :, 1], needed_NK3[:, :, 2] = values_NK > _ONE_BYTE, values_NK > _TWO_BYTES
    wide_NK3[:, :, 0], wide_NK3[:, :, 1], wide_NK3[:, :, 2] = values_NK & 0x7F, values_NK >> 7 & 0x7F, values_NK >> 14
    wide_NK3[:, :, :2] |= needed_NK3[:, :, 1:].view(np.uint8) << 7  # another byte follows
    content = wide_NK3[needed_NK3].tobytes()
    start = 0
    for size in needed_NK3.sum(axis=(1, 2)).tolist():
        yield records.entry_head(name, size) + content[start : start + size]
        start += size
