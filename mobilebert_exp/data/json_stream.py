"""The elements of a long list in a JSON file, one at a time."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_BLOCK_CHARS = 2**19
_BLANK = re.compile(r"[ \t\n\r]*")
_MARKS = set(",:]} \t\n\r")
_DECODER = json.JSONDecoder()


class NotStreamableError(Exception):
    """The file is no JSON object with a list under the key, or cannot be read; reading it whole says which."""


def elements(path: Path, *, key: str) -> Iterator[tuple[Any, float]]:
    """Yields each element of the list under `key` of the file's object, and the share of the file read by then.

    One element at a time is in memory, whatever the file's size.
    Raises NotStreamableError where the file turns out to be otherwise, perhaps after some elements.
    """
    try:
        size = max(path.stat().st_size, 1)
        with path.open("rb") as content, io.TextIOWrapper(content, encoding="utf-8-sig") as file:
            for element in _elements(_Text(file), key=key):
                yield element, content.tell() / size
    except (OSError, UnicodeDecodeError):
        raise NotStreamableError from None


def _elements(text: _Text, *, key: str) -> Iterator[Any]:
    is_found = False
    for _ in text.items("{", "}"):
        if text.peek() != '"':
            raise NotStreamableError
        name = text.value()
        text.take(":")
        if name == key:
            is_found = True
            for _ in text.items("[", "]"):
                yield text.value()
        else:
            text.value()
    if not is_found or text.peek():
        raise NotStreamableError


class _Text:
    """A place in a JSON text, of which only a part is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._part = ""
        self._at = 0

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Stops before each member of a list or an object, which the caller then reads."""
        self.take(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self.take(",")
                yield
        self.take(closing)

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            blank = _BLANK.match(self._part, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._part) or not self._read():
                return self._part[self._at : self._at + 1]

    def take(self, char: str) -> None:
        if self.peek() != char:
            raise NotStreamableError
        self._at += 1

    def value(self) -> Any:
        """The value that begins here. More is read until it is whole, each time twice as much."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._part, self._at)
            except json.JSONDecodeError:
                if not self._read():
                    raise NotStreamableError from None
            except RecursionError:
                raise NotStreamableError from None
            else:
                size = end - self._at
                # Without a mark behind it, a number may go on in what was not read yet: of 1.5 perhaps 1 or 1. is here.
                if self._part[end : end + 1] in _MARKS or not self._read():
                    self._at += size
                    return value

    def _read(self) -> bool:
        """Forgets what is behind this place, and reads on; whether there was more."""
        rest = self._part[self._at :]
        more = self._file.read(max(_BLOCK_CHARS, len(rest)))
        self._part, self._at = rest + more, 0
        return bool(more)
