"""A table for a terminal of any width: short headers, the columns that matter most, a block a row where none would fit.

What a column is called in full stands once, above the tables.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table

NARROWEST = 20
_GAP = 2  # between two columns; half of it, rounded up, at both ends
_LONGEST_VALUE = 36  # a longer one goes on in the next line of its cell
_NAME_PART = re.compile(r"[^_.]*[_.]*")


@dataclass(kw_only=True, frozen=True, slots=True)
class Column:
    """A header, and a cell a row. `rank` 0 always stands; of the others the lowest are the last to go."""

    name: str
    cells: Sequence[str]
    rank: int = 0
    is_figure: bool = False

    @property
    def header(self) -> str:
        """The name in lines no longer than they must be, broken after an underscore or a dot."""
        parts = [part for part in _NAME_PART.findall(self.name) if part]
        room = max(*map(cell_len, parts), self._widest_cell, 1)
        lines = [""]
        for part in parts:
            if lines[-1] and cell_len(lines[-1] + part) > room:
                lines.append("")
            lines[-1] += part
        return "\n".join(lines)

    @property
    def width(self) -> int:
        return max(self._widest_cell, *map(cell_len, self.header.split("\n")))

    @property
    def _widest_cell(self) -> int:
        return min(_LONGEST_VALUE, max(map(cell_len, self.cells), default=0))


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key; of those that end alike, as many parts as tell them apart."""
    keys = list(keys)
    return {key: _shortest(key, [other for other in keys if other != key]) for key in keys}


def _shortest(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    for count in range(1, len(parts)):
        name = ".".join(parts[-count:])
        if not any(f".{other}".endswith(f".{name}") for other in others):
            return name
    return key


def legend(names: Mapping[str, str], *, width: int) -> str:
    """What the headers stand for, where they are not the whole key; "" where all are."""
    shown = [f"{name} is {key}" for key, name in names.items() if name != key]
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ") for line in shown)


def fitted(columns: Sequence[Column], *, width: int) -> list[Column]:
    """Those columns for which there is room, in the order given; none where not even the first rank has any."""
    ranked = sorted(range(len(columns)), key=lambda place: columns[place].rank)
    kept = [place for place in ranked if not columns[place].rank]
    if _width([columns[place] for place in kept]) > width:
        return []
    for place in ranked[len(kept) :]:
        if _width([columns[each] for each in (*kept, place)]) <= width:
            kept.append(place)
    return [columns[place] for place in sorted(kept)]


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width + _GAP for column in columns)


def drawn(columns: Sequence[Column], *, title: str, width: int) -> str:
    """The rows as a table, or as blocks of text where no table fits; a last line names the columns left out."""
    width = max(width, NARROWEST)
    shown = fitted(columns, width=width)
    text = _table(shown, width=width) if shown else "\n".join(_blocks(columns, width=width))
    lines = [textwrap.fill(title, width), text]
    if left_out := [column.name for column in columns if shown and column not in shown]:
        lines.append(textwrap.fill(f"no room for {', '.join(left_out)}", width, subsequent_indent="  "))
    return "\n".join(lines)


def _table(columns: Sequence[Column], *, width: int) -> str:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        align: JustifyMethod = "right" if column.is_figure else "left"
        table.add_column(column.header, width=column.width, overflow="fold", justify=align, vertical="bottom")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    console = Console(width=max(width, _width(columns)), markup=False, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _blocks(columns: Sequence[Column], *, width: int) -> Iterator[str]:
    for row in zip(*(column.cells for column in columns), strict=True):
        told = [(column, f"{column.name}={cell}") for column, cell in zip(columns, row, strict=True) if cell]
        kept = [text for column, text in told if not column.rank or cell_len(text) <= width - 2]
        yield textwrap.fill("  ".join(kept), width, subsequent_indent="  ", break_on_hyphens=False)
