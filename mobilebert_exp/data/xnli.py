"""XNLI and what models are trained on for it (arXiv 1809.05053): three layouts, told apart by their header lines."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilebert_exp.data import tables
from mobilebert_exp.data.pairs import Example
from mobilebert_exp.errors import DataError
from mobilebert_exp.spelling import nearest

LABELS = ("contradiction", "entailment", "neutral")  # in the original's order
TRANSLATED_LABELS = {"contradictory": "contradiction"}  # what the machine-translated files call it
LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
ENGLISH = "en"


class Part(enum.Enum):
    """What evaluation reads."""

    dev = "dev"
    test = "test"


@dataclass(kw_only=True, frozen=True, slots=True)
class Layout:
    """Names of the columns; `language` is "" where a file has one language throughout."""

    text_a: str
    text_b: str
    label: str
    language: str = ""


XNLI = Layout(text_a="sentence1", text_b="sentence2", label="gold_label", language="language")
MNLI = Layout(text_a="sentence1", text_b="sentence2", label="gold_label")
TRANSLATED = Layout(text_a="premise", text_b="hypo", label="label")


def read(
    path: str | Path, *, language: str = ENGLISH, only: Collection[str] = (), labelled: bool = True
) -> Iterator[Example]:
    """The pairs of a file in its order, each in the part of its language, numbered there from 0.

    Args:
      language: of a file that does not say.
      only: keep to these languages, where rows say theirs; empty keeps all.
      labelled: whether every row must have its label; else labels are passed over.

    Raises:
      DataError: the file is malformed, a label is unknown, or it has no row in one of the languages asked for.
    """
    layout = _layout(path)
    if not layout.language and only and language not in only:
        raise DataError(
            f"{path} says no language, so it counts as {language}, which task.train_languages leaves out; "
            "name a file of the languages that are wanted, or set task.translate_train=true"
        )
    needed = [layout.text_a, layout.text_b, *([layout.language] if layout.language else [])]
    counts: dict[str, int] = {}
    for row in tables.rows(path, needed=[*needed, *([layout.label] if labelled else [])]):
        spoken = row.fields[layout.language] if layout.language else language
        if not spoken.isalpha():  # it becomes the name of a metric
            tables.fail(path, row.line, f"language {spoken!r} is not a code such as en; correct it")
        number = counts[spoken] = counts.get(spoken, -1) + 1
        if layout.language and only and spoken not in only:
            continue
        yield Example(
            id=str(number),
            text_a=row.fields[layout.text_a],
            text_b=row.fields[layout.text_b],
            label=_label(row.fields[layout.label], path, row.line) if labelled else None,
            part=spoken,
        )
    if layout.language:
        _check_languages(path, counts, only)


def _check_languages(path: str | Path, counts: Collection[str], only: Collection[str]) -> None:
    missing = [each for each in only if each not in counts]
    if missing:
        raise DataError(
            f"{path} has no row in {', '.join(missing)}; it has {', '.join(counts) or 'none at all'}; "
            "set task.train_languages to some of these, or name another file"
        )


def _layout(path: str | Path) -> Layout:
    names = tables.header(path)
    for layout in (XNLI, MNLI, TRANSLATED):
        if {layout.text_a, layout.text_b, layout.language or layout.text_a} <= set(names):
            return layout
    tables.fail(
        path,
        1,
        "the header is none of XNLI's (language, gold_label, sentence1, sentence2), MNLI's (sentence1, sentence2, "
        "gold_label) or the translated files' (premise, hypo, label); name a file of one of them",
    )


def _label(text: str, path: str | Path, line: int) -> int:
    word = TRANSLATED_LABELS.get(text, text)
    if word not in LABELS:
        near = nearest(word, LABELS)
        hint = f"; did you mean {near}?" if near else f"; the labels are {', '.join(LABELS)}"
        tables.fail(path, line, f"label {text!r} is unknown{hint}")
    return LABELS.index(word)
