"""TFRecord files and Examples read back, without TensorFlow: how many records, and what a record holds.

The other direction of `records`; its docstring names the formats.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mobilebert_exp.data.records import frame_head
from mobilebert_exp.errors import DataError, MissingDataError

HEAD_BYTES, TAIL_BYTES = 12, 4  # a record's length with its checksum stands before it, its own checksum after it
GZIP = b"\x1f\x8b"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields on the wire


@dataclass(kw_only=True, frozen=True, slots=True)
class Values:
    """A list of an Example: integers, or floats."""

    is_float: bool
    numbers: tuple[int, ...] | tuple[float, ...]


def count(path: str | Path) -> int:
    """How many records a file holds, by their lengths alone.

    Raises:
      DataError: it is no TFRecord file, is compressed, or ends within a record.
    """
    path = Path(path)
    found = 0
    with opened(path) as file:
        size = path.stat().st_size
        at = 0
        while head := file.read(HEAD_BYTES):
            at = _end(head, at, path, found)
            if at > size:
                raise _cut(path, found)
            file.seek(at)
            found += 1
    return found


def first(path: str | Path, *, limit: int) -> Iterator[dict[str, Values]]:
    """The first `limit` Examples of a file; raises DataError as `count` does, or where a record is no Example."""
    path = Path(path)
    with opened(path) as file:
        at = 0
        for number in itertools.islice(itertools.count(), limit):
            head = file.read(HEAD_BYTES)
            if not head:
                return
            end = _end(head, at, path, number)
            record = file.read(end - at - HEAD_BYTES - TAIL_BYTES)
            if len(file.read(TAIL_BYTES)) < TAIL_BYTES:
                raise _cut(path, number)
            at = end
            try:
                yield parsed(record)
            except (IndexError, struct.error, UnicodeDecodeError, ValueError):
                raise DataError(f"{path}: record {number + 1} is no tf.train.Example; name other files") from None


def opened(path: Path, *, compressed: bool = False) -> BinaryIO:
    """A file to read; raises DataError where it cannot be, or is compressed and must not."""
    try:
        file = path.open("rb", buffering=2**20)
    except FileNotFoundError:
        raise MissingDataError(f"{path} is not there; name files that are") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from None
    start = b"" if compressed else file.read(2)
    file.seek(0)
    if start == GZIP:
        file.close()
        raise DataError(f"{path} is compressed; unpack it (gunzip -S '' FILE), or write it without compression")
    return file


def _cut(path: Path, before: int) -> DataError:
    return DataError(f"{path} ends within record {before + 1}; fetch or make it anew")


def _end(head: bytes, at: int, path: Path, number: int) -> int:
    """Where the record that begins at byte `at` with this head ends."""
    if not is_head(head):
        if number == 0:
            raise DataError(f"{path} is no TFRecord file; name files of features")
        raise DataError(f"{path} is damaged after record {number}; fetch or make it anew")
    return at + HEAD_BYTES + int.from_bytes(head[:8], "little") + TAIL_BYTES


def is_head(content: bytes) -> bool:
    """Whether this is a length and its checksum, as they stand before a record."""
    return len(content) == HEAD_BYTES and frame_head(int.from_bytes(content[:8], "little")) == content


def parsed(record: bytes) -> dict[str, Values]:
    """The lists of a serialised Example by name; raises ValueError, IndexError or struct.error where it is none."""
    found = {}
    for features in _fields(record, 1):
        for entry in _fields(features, 1):
            (name,), (feature,) = _fields(entry, 1), _fields(entry, 2)
            found[name.decode()] = _values(feature)
    if not found:
        raise ValueError("an Example without a feature")
    return found


def _values(feature: bytes) -> Values:
    floats, integers = _fields(feature, 2), _fields(feature, 3)
    if floats:
        packed = b"".join(_fields(floats[0], 1))
        return Values(is_float=True, numbers=struct.unpack(f"<{len(packed) // 4}f", packed))
    packed, at, numbers = b"".join(_fields(integers[0], 1)) if integers else b"", 0, []
    while at < len(packed):
        number, at = _varint(packed, at)
        numbers.append(number)
    return Values(is_float=False, numbers=tuple(numbers))


def _fields(message: bytes, wanted: int) -> list[bytes]:
    """The values of a message's field of this number, as bytes; numbers that stand alone as they would be packed."""
    found, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        start, kind = at, tag & 7
        if kind == _BYTES:
            size, start = _varint(message, at)
            at = start + size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > len(message):
            raise ValueError("a field that goes on beyond its message")
        if tag >> 3 == wanted:
            found.append(message[start:at])
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
