"""Feature records: TFRecord files of `tf.train.Example`, written whole or not at all, and without TensorFlow.

An Example is plain protobuf (a map from names to lists) and a TFRecord file a sequence of lengths, checksums and
bytes: https://protobuf.dev/programming-guides/encoding, https://www.tensorflow.org/tutorials/load_data/tfrecord.
Writing the bytes themselves is many times faster than filling message objects, and needs no TensorFlow.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from mobilebert_exp.errors import OutputError

Row = Mapping[str, Sequence[int] | Sequence[float]]
_BUFFER_BYTES = 2**20
_MEMO_INTEGERS = 2**17
_FLOATS, _INTEGERS = b"\x12", b"\x1a"  # of a Feature: which kind of list it is
_FIRST, _SECOND = b"\x0a", b"\x12"  # a message's first and second field, of known length


def write(path: str | Path, rows: Iterable[Row | bytes]) -> int:
    """Writes one record a row, and returns how many.

    Args:
      path: the file; its folder must exist.
      rows: by name integers, which become an int64 list, or floats, a float list; or an Example made by `example`.

    Raises:
      OutputError: the place cannot be written; whatever stood at `path` before still does.
    """
    count = 0
    with _replacing(Path(path)) as file:
        for row in rows:
            file.write(framed(row if isinstance(row, bytes) else example(*_entries(row))))
            count += 1
    return count


def write_framed(path: str | Path, parts: Iterable[bytes]) -> None:
    """Writes what `framed` made, in parts of any number of records; raises OutputError as `write` does."""
    with _replacing(Path(path)) as file:
        for part in parts:
            file.write(part)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block is left without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); make room, or choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)


def framed(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file: its length, the length's checksum, itself, its own checksum."""
    return frame_head(len(record)) + record + _checksum(record)


@functools.lru_cache(maxsize=2**16)
def frame_head(size: int) -> bytes:
    """What stands in a TFRecord file before a record of so many bytes: their number, and its checksum."""
    length = struct.pack("<Q", size)
    return length + _checksum(length)


def _checksum(content: bytes) -> bytes:
    """CRC-32C, masked as the format wants it."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def example(*entries: bytes) -> bytes:
    """A serialised Example of entries that `entry` made; several may be joined before."""
    content = b"".join(entries)
    return example_head(len(content)) + content


@functools.lru_cache(maxsize=2**16)
def example_head(size: int) -> bytes:
    """What stands in an Example before so many bytes of entries."""
    return _FIRST + varint(size)


def entry(name: str, values: bytes) -> bytes:
    """A named list of integers, given as their varints one after another."""
    return entry_head(name, len(values)) + values


@functools.lru_cache(maxsize=2**16)
def number(name: str, value: int) -> bytes:
    """An entry of one small integer."""
    return entry(name, varint(value))


def score(name: str, value: float) -> bytes:
    """An entry of one float."""
    return floats(name, [value])


def floats(name: str, values: Sequence[float]) -> bytes:
    """An entry of floats."""
    packed = struct.pack(f"<{len(values)}f", *values)
    return _entry_head(name, len(packed), kind=_FLOATS) + packed


@functools.lru_cache(maxsize=2**16)
def entry_head(name: str, size: int) -> bytes:
    """What stands in an entry before `size` bytes of varints."""
    return _entry_head(name, size, kind=_INTEGERS)


def varint(value: int) -> bytes:
    """An integer in base 128, least digits first; a negative one as what it is in 64 bits, unsigned."""
    value &= 0xFFFFFFFFFFFFFFFF
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _entry_head(name: str, size: int, *, kind: bytes) -> bytes:
    """The map's entry holds key and Feature, the Feature a list of some kind, the list its packed values."""
    packed = _FIRST + varint(size)
    values = kind + varint(len(packed) + size) + packed
    key = name.encode()
    content = _FIRST + varint(len(key)) + key + _SECOND + varint(len(values) + size) + values
    return _FIRST + varint(len(content) + size) + content


def _entries(row: Row) -> Iterable[bytes]:
    for name, values in row.items():
        if any(isinstance(value, float) for value in values):
            yield floats(name, values)
        else:
            yield entry(name, varints(map(int, values)))


def varints(values: Iterable[int]) -> bytes:
    """The varints of small integers one after another, as `entry` wants them."""
    return b"".join(map(_varints.__getitem__, values))


class _Varints(dict[int, bytes]):
    """The varints of the integers met so far; ids come again and again."""

    def __missing__(self, value: int) -> bytes:
        if len(self) >= _MEMO_INTEGERS:
            self.clear()
        self[value] = found = varint(value)
        return found


_varints = _Varints()
