"""Which runs an experiment's weights, or its exported file, came from: tags of a run that lead to them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from mobilebert_exp import location
from mobilebert_exp.config import ExperimentConfig, Mode
from mobilebert_exp.data import sources
from mobilebert_exp.deploying import FILES
from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite import cards
from mobilebert_exp.tracking import states, weights

# The run that has the weights, the one that wrote the file, the one of the teacher.
SOURCE_TAG, EXPORT_TAG, TEACHER_TAG = cards.SOURCE_RUN, "export_run_id", "teacher_run_id"
SOURCE_STATE_TAG = "source_run_state"  # how far the run of the weights came, where it did not finish


def tags(asked: ExperimentConfig, found: ExperimentConfig) -> dict[str, str]:
    """Ids by tag, as far as they are known; and what of the run of the weights is unfinished, where none are trained.

    Args:
      asked: as the user has it, `mlflow:RUN_ID` included.
      found: as `deploying.with_weights` returns it; `asked` itself for a run that goes on, whose starting weights are
        not fetched again.
    """
    ids: dict[str, str] = {}
    if found.export.path is not None and found.mode in FILES:
        path = Path(found.export.path)
        record = _record(path)
        source = cards.card_of(path).source if found.mode is Mode.evaluate else record.get("source", {})
        ids[SOURCE_TAG] = source.get(cards.SOURCE_RUN, "")
        ids[EXPORT_TAG] = record.get("run_id", "") if record.get("source") == source else ""
    if asked.init.checkpoint is not None and found.init.checkpoint is not None:
        place = found.init.checkpoint
        if found is not asked:
            place = sources.checkpoint(place, cache_dir=found.cache_dir)
        if source_id := weights.run_id_in(asked.init.checkpoint) or _run_id_of(place):
            ids[SOURCE_TAG] = source_id
        if found.mode is not Mode.train:
            ids[SOURCE_STATE_TAG] = states.how_far(place)
    if teacher := getattr(asked.task, "teacher_checkpoint", None):
        ids[TEACHER_TAG] = _run_id_of(teacher)
    return {tag: value for tag, value in ids.items() if value}


def _run_id_of(place: str) -> str:
    """The run that a checkpoint on this machine is of, or was exported from."""
    if (Path(place) / cards.BESIDE).is_file():
        with contextlib.suppress(ExportError):  # of a damaged card: its weights may be whole
            return cards.card_of(Path(place)).source.get(cards.SOURCE_RUN, "")
    return states.run_id_of(location.run_of(place))


def _record(path: Path) -> dict[str, Any]:
    """What an export noted beside a file, in a folder of files, or in its run's; empty where there is none."""
    folders = (path / location.EXPORTS, path, path.parent)
    return next(filter(None, (location.read(folder / location.EXPORTS_FILE) for folder in folders)), {})
