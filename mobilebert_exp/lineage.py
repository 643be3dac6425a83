"""Which runs an experiment's weights, or its exported file, came from: tags of a run that lead to them."""

from __future__ import annotations

from pathlib import Path

from mobilebert_exp import location
from mobilebert_exp.config import ExperimentConfig, Mode
from mobilebert_exp.lite import cards
from mobilebert_exp.tracking import states, weights

SOURCE_TAG, EXPORT_TAG = cards.SOURCE_RUN, cards.EXPORT_RUN


def tags(asked: ExperimentConfig, found: ExperimentConfig) -> dict[str, str]:
    """Ids by tag, as far as they are known.

    Args:
      asked: as the user has it, `mlflow:RUN_ID` included.
      found: with places on this machine, as `deploying.with_weights` returns it.
    """
    ids: dict[str, str] = {}
    if found.mode is Mode.evaluate and found.export.path is not None:
        source = cards.card_of(Path(found.export.path)).source
        ids = {tag: source.get(tag, "") for tag in (SOURCE_TAG, EXPORT_TAG)}
    if asked.init.checkpoint is not None and found.init.checkpoint is not None:
        named = weights.run_id_in(asked.init.checkpoint)
        ids[SOURCE_TAG] = named or states.run_id_of(location.run_of(found.init.checkpoint))
    return {tag: run_id for tag, run_id in ids.items() if run_id}
