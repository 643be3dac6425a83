"""mode=prepare: the features of every split, made and kept without training, on any machine; no accelerator is used."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from mobilebert_exp.data import shared
from mobilebert_exp.errors import MissingDataError
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.tasks.base import Features, Split

log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True, slots=True)
class Prepared:
    """The features of one split: how many, how large, how long it took, and where they lie."""

    split: Split
    features: Features
    size: int
    seconds: float
    place: str


def run(job: Job) -> Outcome:
    """Prepares train and dev as training reads them, and what `mode=predict` reads, as far as the data have them.

    Raises:
      UserError: what is there is damaged, or nothing is there at all.
    """
    prepared: list[Prepared] = []
    absent: list[MissingDataError] = []
    for split in Split:
        try:
            prepared.append(_prepared(job, split))
        except MissingDataError as missing:
            log.warning("no %s part is prepared: %s", split.value, missing)
            absent.append(missing)
    if not prepared:
        raise absent[0]
    return Outcome(
        metrics={f"{each.split.value}_features": float(each.features.num_features) for each in prepared},
        timings={f"prepare_{each.split.value}_s": each.seconds for each in prepared},
        paths={each.split.value: each.place for each in prepared},
        text=_table(prepared),
    )


def _prepared(job: Job, split: Split) -> Prepared:
    started = time.monotonic()
    limit = None if split is Split.train else job.config.trainer.limit_eval
    features = job.task.features(split, limit=limit)
    folder = features.files[0].parent
    given = shared.give(folder)
    return Prepared(
        split=split,
        features=features,
        size=sum(file.stat().st_size for file in features.files),
        seconds=time.monotonic() - started,
        place=str(folder if given is None else shared.place_of(folder)),
    )


def _table(prepared: list[Prepared]) -> str:
    rows = [("split", "examples", "features", "bytes", "seconds", "place")] + [
        (
            each.split.value,
            f"{each.features.num_examples:,}",
            f"{each.features.num_features:,}",
            f"{each.size:,}",
            f"{each.seconds:.1f}",
            each.place,
        )
        for each in prepared
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:5], widths[1:5], strict=True))
        + f"  {row[5]}"
        for row in rows
    )
