"""Tab-separated files as GLUE and XNLI publish them: a column is what stands between two tabs, and quotes are text.

Lines end with a line feed alone (one carriage return before it is dropped): other characters that Unicode counts as
line ends stand inside texts. Rows are streamed, so memory does not grow with the file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from mobilebert_exp.errors import DataError, MissingDataError

FETCH = "fetch the file again"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table, by column name; `line` counts from 1."""

    line: int
    fields: dict[str, str]


def rows(
    path: str | Path,
    *,
    needed: Sequence[str],
    columns: Sequence[str] = (),
    free_text: str = "",
    skip_malformed: bool = False,
) -> Iterator[Row]:
    """The rows of a table.

    Args:
      path: a file, read through gzip where its name ends in `.gz`.
      needed: columns that must be there.
      columns: their names where the file has no header line.
      free_text: the column that surplus tabs belong to; "" where they could belong to several.
      skip_malformed: whether a row of another width comes back without fields instead of being an error.

    Raises:
      DataError: the file is missing, empty, cut short or not UTF-8, lacks a column, or a row has another width.
    """
    numbered = lines(path)
    names = list(columns) or _header(path, numbered, needed)
    place = names.index(free_text) if free_text else -1
    blank = 0  # the first of the blank lines just seen: at the end of a file they are no rows
    for number, text in numbered:
        if not text:
            blank = blank or number
            continue
        if blank and not skip_malformed:
            _wrong_width(path, blank, 0, names)
        yield from (Row(line, {}) for line in range(blank or number, number))
        blank = 0
        fields = text.split("\t")
        surplus = len(fields) - len(names)
        if surplus > 0 and place >= 0:
            fields[place : place + surplus + 1] = ["\t".join(fields[place : place + surplus + 1])]
        fits = len(fields) == len(names)
        if not fits and not skip_malformed:
            _wrong_width(path, number, len(fields), names)
        yield Row(number, dict(zip(names, fields, strict=True)) if fits else {})


def header(path: str | Path) -> list[str]:
    """The fields of a table's first line; raises DataError as `rows` does."""
    for _, text in lines(path):
        return text.split("\t")
    raise DataError(f"{path} is empty; {FETCH}, or name another")


def lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, a byte-order mark apart."""
    for number, raw in _raw_lines(Path(path)):
        content = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: byte {error.start + 1} of it is not UTF-8; {FETCH}, or convert it to UTF-8"
            ) from None
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def fail(path: str | Path, line: int, complaint: str) -> NoReturn:
    """Refuses a row; the complaint ends with the remedy."""
    raise DataError(f"{path}, line {line}: {complaint}")


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with _opened(path) as file:
            for number, raw in enumerate(file, start=1):
                yield number, raw
    except FileNotFoundError:
        raise MissingDataError(f"{path} does not exist; set data_root, or the task's file, to where it is") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fault = "is cut short" if isinstance(error, EOFError) else "is no whole gzip file"
        raise DataError(f"{path} {fault} after line {number}; {FETCH}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a readable file") from None


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _header(path: str | Path, numbered: Iterator[tuple[int, str]], needed: Sequence[str]) -> list[str]:
    _, text = next(numbered, (0, None))
    if text is None:
        raise DataError(f"{path} is empty; {FETCH}, or name another")
    names = text.split("\t")
    missing = [name for name in needed if name not in names]
    if missing:
        fail(path, 1, f"the header {_shown(text)} lacks {', '.join(missing)}; name a file of this data set and part")
    return names


def _wrong_width(path: str | Path, line: int, width: int, names: Sequence[str]) -> NoReturn:
    count = f"{width or 'no'} column{'s' if width != 1 else ''}"
    fail(path, line, f"{count} where {len(names)} belong ({', '.join(names)}); {FETCH}, or mend the line")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
