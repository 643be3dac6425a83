"""GLUE's MRPC from the Microsoft Research Paraphrase Corpus: its train part is cut in two by a list of ids.

The layout is that of GLUE's download script (gist W4ngatang/60c2bdb54d156a41194446737ce03e2e): train.tsv and dev.tsv
keep the corpus' columns, test.tsv has a running index instead of the label.
"""

from __future__ import annotations

from pathlib import Path

from mobilebert_exp.errors import DataError

COLUMNS = 5  # label, two ids, two sentences
TEST_HEADER = ("index", "#1 ID", "#2 ID", "#1 String", "#2 String")


def parts(*, train: Path, test: Path, dev_ids: Path) -> dict[str, str]:
    """The contents of `train.tsv`, `dev.tsv` and `test.tsv`.

    Raises:
      DataError: a line has another number of columns.
    """
    header, *rows = _rows(train, columns=COLUMNS)
    _, *test_rows = _rows(test, columns=COLUMNS)
    held_out = {tuple(row) for row in _rows(dev_ids, columns=2)}
    dev = [row for row in rows if tuple(row[1:3]) in held_out]
    rest = [row for row in rows if tuple(row[1:3]) not in held_out]
    numbered = [[str(number), *row[1:]] for number, row in enumerate(test_rows)]
    return {
        "train.tsv": _text([header, *rest]),
        "dev.tsv": _text([header, *dev]),
        "test.tsv": _text([[*TEST_HEADER], *numbered]),
    }


def _rows(path: Path, *, columns: int) -> list[list[str]]:
    # The corpus begins with a byte order mark, and its lines end as on Windows.
    lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise DataError(
                f"{path}, line {number}: {len(row)} columns instead of {columns}; remove it, and fetch it again"
            )
    return rows


def _text(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)
