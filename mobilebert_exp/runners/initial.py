"""What `init.checkpoint` names, accounted for before a model is built, and given to it afterwards."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import tensorflow as tf

from mobilebert_exp.data import sources
from mobilebert_exp.modeling.checkpoints import formats
from mobilebert_exp.modeling.checkpoints.account import Account, Demand, account, assign
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.runners.base import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Initial:
    """Weights, and what of them is loaded."""

    weights: Weights
    account: Account

    def give(self, module: tf.Module) -> None:
        """Loads what is to be loaded; the other variables keep their values."""
        assign(module, self.weights, self.account)


def read(job: Job, *, whole: bool) -> Initial:
    """The weights behind `init.checkpoint`; the log says what is loaded, starts anew and is ignored, by name.

    Args:
      whole: whether they must be all of the model, its head included; else training starts from them.

    Raises:
      CheckpointError: nothing is there, or it does not fit.
    """
    config = job.config
    assert config.init.checkpoint is not None, "asked for by whoever calls"
    source = f"init.checkpoint={config.init.checkpoint}"
    weights = formats.read(sources.checkpoint(config.init.checkpoint, cache_dir=config.cache_dir))
    demand = Demand.whole if whole else Demand.encoder if config.init.strict else Demand.some
    found = account(
        weights,
        wanted=job.task.variables(config.model),
        model=config.model,
        head=job.task.head,
        demand=demand,
        source=source,
    )
    for warning in found.warnings:
        log.warning("%s", warning)
    anew = weights.head and weights.head != job.task.head and found.initialised
    log.info("%s: %s%s", source, found, f"; the head starts anew: it was for {weights.head}" if anew else "")
    if weights.digest:
        job.tracker.params({"init.sha256": weights.digest})
    return Initial(weights, found)
