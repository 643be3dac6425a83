"""The nine GLUE data sets and the AX diagnostic: their files, columns, labels and metrics (arXiv 1804.07461).

Labels stand in the order of the original's processors, which the rows of a released classifier's head follow.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mobilebert_exp.data import tables
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.errors import DataError

log = logging.getLogger(__name__)
HIGHEST_SCORE = 5.0  # of STS-B, from 0
MALFORMED_SHARE = 0.01  # of QQP's rows at most; the published files have a handful in several hundred thousand
BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("contradiction", "entailment", "neutral")


class Dataset(enum.Enum):
    """What `task.dataset` takes."""

    cola = "cola"
    sst2 = "sst2"
    mrpc = "mrpc"
    qqp = "qqp"
    stsb = "stsb"
    mnli = "mnli"
    qnli = "qnli"
    rte = "rte"
    wnli = "wnli"
    ax = "ax"


@dataclass(kw_only=True, frozen=True, slots=True)
class Part:
    """One file of a data set.

    Attributes:
      file: where it lies under `glue/`.
      text_a, text_b, label, id: names of its columns; "" where there is none. Without an id column a row goes by its
        number, from 0.
      columns: all names, where the file has no header line.
      name: tells it from the split's other parts; "" where it is the only one.
      submission: what the server calls the predictions of this part.
    """

    file: str
    text_a: str
    text_b: str = ""
    label: str = ""
    id: str = ""
    columns: tuple[str, ...] = ()
    name: str = ""
    submission: str = ""


@dataclass(kw_only=True, frozen=True, slots=True)
class Description:
    """One data set.

    Attributes:
      labels: words by class; none where the label is a score.
      metrics: what is measured on dev, the main ones first.
      num_scored: how many of `metrics`, from the first on, GLUE averages into the data set's score.
      train: None where there is nothing to train on.
      skips_malformed: whether rows of another width are left out where labels are read, as the original's reader does.
    """

    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    num_scored: int = 1
    train: Part | None
    dev: tuple[Part, ...]
    test: tuple[Part, ...]
    skips_malformed: bool = False


def read(path: str | Path, part: Part, description: Description, *, labelled: bool) -> Iterator[Example]:
    """The rows of a part, in the file's order.

    Args:
      labelled: whether every row must have its label; else labels are passed over.

    Raises:
      DataError: the file is malformed, a label is unknown, an id stands twice, or there is no row.
    """
    needed = [part.text_a, part.text_b, part.label if labelled else ""]
    found = tables.rows(
        path,
        needed=[name for name in needed if name],
        columns=part.columns,
        free_text="" if part.text_b else part.text_a,
        skip_malformed=labelled and description.skips_malformed,  # a submission must have a row for each
    )
    seen, count, skipped = _Seen(), 0, 0
    for row in found:
        if not row.fields:
            skipped += 1
            continue
        name = row.fields.get(part.id, str(row.line - (1 if part.columns else 2)))
        if part.id in row.fields and not seen.add(name):
            tables.fail(path, row.line, f"{part.id} {name} stands twice; give every row its own")
        label = _label(row.fields[part.label], description.labels, path, row.line) if labelled else None
        second = row.fields[part.text_b] if part.text_b else None
        count += 1
        yield Example(id=name, text_a=row.fields[part.text_a], text_b=second, label=label, part=part.name)
    _check_skipped(path, skipped, count)


def _label(text: str, labels: tuple[str, ...], path: str | Path, line: int) -> int | float:
    if labels:
        if text not in labels:
            tables.fail(path, line, f"label {text!r} is not one of {', '.join(labels)}; correct it")
        return labels.index(text)
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= HIGHEST_SCORE:
        tables.fail(path, line, f"score {text!r} is not a number from 0 to {HIGHEST_SCORE:g}; correct it")
    return score


def _check_skipped(path: str | Path, skipped: int, count: int) -> None:
    if skipped > max(1, MALFORMED_SHARE * (skipped + count)):
        raise DataError(
            f"{path}: {skipped} of {skipped + count} rows have another number of columns than the header; "
            f"{tables.FETCH}"
        )
    if skipped > 0:
        log.warning("%s: %d rows of another width than the header are left out, as by the original", path, skipped)


class _Seen:
    """Ids met so far: a bit each for the usual numbers, so that memory hardly grows with the file."""

    def __init__(self) -> None:
        self._numbers = bytearray()
        self._others: set[str] = set()

    def add(self, name: str) -> bool:
        """False if it was there already."""
        if not (name.isascii() and name.isdecimal() and len(name) <= 8) or name != str(int(name)):
            known = name in self._others
            self._others.add(name)
            return not known
        byte, bit = divmod(int(name), 8)
        if byte >= len(self._numbers):
            self._numbers.extend(bytes(byte + 1 - len(self._numbers)))
        known = bool(self._numbers[byte] >> bit & 1)
        self._numbers[byte] |= 1 << bit
        return not known


def _usual(
    folder: str,
    *,
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    num_scored: int = 1,
    text_a: str,
    text_b: str = "",
    label: str,
    id: str = "",
    columns: tuple[str, ...] = (),
    skips_malformed: bool = False,
) -> Description:
    """A train, a dev and a test file; the test file has a header and an index wherever the others may have none."""
    train = Part(file=f"{folder}/train.tsv", text_a=text_a, text_b=text_b, label=label, id=id, columns=columns)
    test = Part(
        file=f"{folder}/test.tsv",
        text_a=text_a,
        text_b=text_b,
        id="id" if skips_malformed else "index",
        submission=f"{folder}.tsv",
    )
    return Description(
        labels=labels,
        metrics=metrics,
        num_scored=num_scored,
        train=train,
        dev=(replace(train, file=f"{folder}/dev.tsv"),),
        test=(test,),
        skips_malformed=skips_malformed,
    )


def _mnli() -> Description:
    train = Part(file="MNLI/train.tsv", text_a="sentence1", text_b="sentence2", label="gold_label", id="index")
    names = {"matched": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"}
    return Description(
        labels=INFERENCE,
        metrics=tuple(f"accuracy_{name}" for name in names),
        num_scored=2,
        train=train,
        dev=tuple(replace(train, file=f"MNLI/dev_{name}.tsv", name=name) for name in names),
        test=tuple(
            replace(train, file=f"MNLI/test_{name}.tsv", name=name, label="", submission=submission)
            for name, submission in names.items()
        ),
    )


def _ax() -> Description:
    full = Part(file="diagnostic/diagnostic-full.tsv", text_a="Premise", text_b="Hypothesis", label="Label")
    test = Part(
        file="diagnostic/diagnostic.tsv", text_a="sentence1", text_b="sentence2", id="index", submission="AX.tsv"
    )
    return Description(
        labels=INFERENCE, metrics=("mcc", "accuracy"), num_scored=0, train=None, dev=(full,), test=(test,)
    )


def _sentences(folder: str, labels: tuple[str, ...]) -> Description:
    return _usual(
        folder,
        labels=labels,
        metrics=("accuracy",),
        text_a="sentence1",
        text_b="sentence2",
        label="label",
        id="index",
    )


DESCRIPTIONS: dict[Dataset, Description] = {
    Dataset.cola: _usual(
        "CoLA",
        labels=BINARY,
        metrics=("mcc", "accuracy"),
        text_a="sentence",
        label="label",
        columns=("source", "label", "notation", "sentence"),
    ),
    Dataset.sst2: _usual("SST-2", labels=BINARY, metrics=("accuracy",), text_a="sentence", label="label"),
    Dataset.mrpc: _usual(
        "MRPC",
        labels=BINARY,
        metrics=("f1", "accuracy"),
        num_scored=2,
        text_a="#1 String",
        text_b="#2 String",
        label="Quality",
    ),
    Dataset.qqp: _usual(
        "QQP",
        labels=BINARY,
        metrics=("f1", "accuracy"),
        num_scored=2,
        text_a="question1",
        text_b="question2",
        label="is_duplicate",
        skips_malformed=True,
    ),
    Dataset.stsb: _usual(
        "STS-B",
        labels=(),
        metrics=("pearson", "spearman"),
        num_scored=2,
        text_a="sentence1",
        text_b="sentence2",
        label="score",
        id="index",
    ),
    Dataset.mnli: _mnli(),
    Dataset.qnli: _usual(
        "QNLI",
        labels=ENTAILMENT,
        metrics=("accuracy",),
        text_a="question",
        text_b="sentence",
        label="label",
        id="index",
    ),
    Dataset.rte: _sentences("RTE", ENTAILMENT),
    Dataset.wnli: _sentences("WNLI", BINARY),
    Dataset.ax: _ax(),
}


def head(dataset: Dataset) -> str:
    """What a classifier of a data set answers; AX asks what MNLI and XNLI ask. See `tasks.base.Task`."""
    labels = DESCRIPTIONS[dataset].labels
    name = "inference" if labels == INFERENCE else f"GLUE {dataset.name}"
    return f"{name}: {', '.join(labels) or 'a score'}"
