"""mode=prepare: the features of every split, made and kept without training, on any machine; no accelerator is used."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from mobilebert_exp.data import shared
from mobilebert_exp.errors import MissingDataError
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.tasks.base import Features, Phased, Split

log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True, slots=True)
class Prepared:
    """The features of a split, or of a phase: how many, how large, how long it took, and where they lie."""

    part: str
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
    for part, features in _parts(job).items():
        try:
            prepared.append(_prepared(part, features))
        except MissingDataError as missing:
            log.warning("no %s part is prepared: %s", part, missing)
            absent.append(missing)
    if not prepared:
        raise absent[0]
    return Outcome(
        metrics={f"{each.part}_features": float(each.features.num_features) for each in prepared},
        timings={f"prepare_{each.part}_s": each.seconds for each in prepared},
        paths={each.part: each.place for each in prepared},
        text=_table(prepared),
    )


def _parts(job: Job) -> dict[str, Callable[[], Features]]:
    """What is to be prepared by name: the splits, and in place of train the phases, where a task has its own."""
    task, limit = job.task, job.config.trainer.limit_eval
    parts: dict[str, Callable[[], Features]] = {Split.train.value: functools.partial(task.features, Split.train)}
    if isinstance(task, Phased):
        parts = {phase.name: phase.features for phase in task.phases() if phase.steps}
    return parts | {
        split.value: functools.partial(task.features, split, limit=limit) for split in (Split.dev, Split.predict)
    }


def _prepared(part: str, make: Callable[[], Features]) -> Prepared:
    started = time.monotonic()
    features = make()
    folder = features.files[0].parent
    given = shared.give(folder)
    return Prepared(
        part=part,
        features=features,
        size=sum(file.stat().st_size for file in features.files),
        seconds=time.monotonic() - started,
        place=str(folder if given is None else shared.place_of(folder)),
    )


def _table(prepared: list[Prepared]) -> str:
    rows = [("split", "examples", "features", "bytes", "seconds", "place")] + [
        (
            each.part,
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
