"""Ranges of activations that training follows: calibrated before the first step, moved in each, fixed late in training.

A range is the moving average of the extremes of each global batch, whatever it was cut into: replicas and micro-batches
agree on its extremes first. Extremes are kept as a reach, `(-smallest, largest)`, so that all of them join by `max`.

Shapes: S rows of all ranges below each other, R replicas.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from mobilebert_exp.config import QuantizationConfig
from mobilebert_exp.errors import DivergedError
from mobilebert_exp.modeling.fake_quant import Observed, observing
from mobilebert_exp.modeling.micro_batches import Batch, micro_batch
from mobilebert_exp.modeling.variables import QUANTIZERS

log = logging.getLogger(__name__)
TO_REACH = (-1.0, 1.0)  # and back


class MovingRanges:
    """The ranges of a module; one without quantisation has none, and nothing is done.

    Args:
      module: as a task builds it.
      config: how ranges are found.
      total_steps: updates of the whole run.
    """

    def __init__(self, module: tf.Module, config: QuantizationConfig, *, total_steps: int) -> None:
        by_name = {variable.name.partition(":")[0]: variable for variable in module.non_trainable_variables}
        self._variables = {name: variable for name, variable in by_name.items() if name.startswith(QUANTIZERS)}
        self._rows = [math.prod(variable.shape) // 2 for variable in self._variables.values()]
        self._config = config
        self.moving_steps = config.moving_steps(of=total_steps)

    def __bool__(self) -> bool:
        return bool(self._variables)

    def nothing(self) -> tf.Tensor:
        """The reach of no batch at all, `[S, 2]`."""
        return tf.fill([sum(self._rows), 2], -math.inf)

    def reach(self, observed: Observed) -> tf.Tensor:
        """That of what was observed, `[S, 2]`."""
        if not self:
            return self.nothing()
        extremes = [tf.reshape(observed.extremes[name], [-1, 2]) for name in self._variables]
        return tf.concat(extremes, axis=0) * TO_REACH

    def move(self, reach_S2: tf.Tensor, *, step: tf.Tensor) -> None:
        """After the update that followed `step` others; called by every replica with the reach of its share."""
        if not self:
            return
        batch_S2 = _joined(reach_S2) * TO_REACH
        kept = self._config.moving_average
        for variable, new in zip(self._variables.values(), tf.split(batch_S2, self._rows), strict=True):
            old = tf.convert_to_tensor(variable)
            new = tf.reshape(new, variable.shape)
            moves = tf.logical_and(step < self.moving_steps, tf.math.is_finite(new))
            variable.assign(tf.where(moves, kept * old + (1 - kept) * new, old))

    def calibrate(self, forward: Callable[[Any], Any], batches: Iterable[Any], *, parts: int = 1) -> None:
        """Starts each range from the mean of the extremes of batches, which is what the moving average tends to.

        The widest of all would let one odd batch decide for thousands of steps.

        Args:
          forward: runs the module on a replica's share of a batch, without dropout.
          batches: distributed over the current strategy.
          parts: micro-batches that a replica's share is cut into.

        Raises:
          DivergedError: the weights give numbers that are infinite, or none.
        """
        strategy = tf.distribute.get_strategy()

        def share(batch: Batch) -> tf.Tensor:
            def wider(part: tf.Tensor, reach_S2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                with observing(calibrating=True) as observed:
                    forward(micro_batch(batch, part, parts=parts))
                return part + 1, tf.maximum(reach_S2, self.reach(observed))

            start = (tf.constant(0), self.nothing())
            _, reach_S2 = tf.while_loop(lambda part, _: part < parts, wider, start, maximum_iterations=parts)
            return _joined(reach_S2)

        run = tf.function(lambda batch: strategy.run(share, args=(batch,)), autograph=False)
        found = [strategy.experimental_local_results(run(batch))[0].numpy().astype(np.float64) for batch in batches]
        mean_S2 = np.mean(found, axis=0) * TO_REACH
        means = np.split(mean_S2, np.cumsum(self._rows)[:-1])
        for (name, variable), mean in zip(self._variables.items(), means, strict=True):
            if not np.isfinite(mean).all():
                raise DivergedError(
                    f"activations of {name.removeprefix(QUANTIZERS)} are infinite or no numbers while their ranges are "
                    "calibrated; start from other weights"
                )
            variable.assign(mean.reshape(variable.shape).astype(np.float32))
        log.info("calibrated the ranges of %d points on %d batches", len(self._variables), len(found))


def _joined(reach_S2: tf.Tensor) -> tf.Tensor:
    """Over all replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return reach_S2
    return tf.reduce_max(context.all_gather(reach_S2[None], axis=0), axis=0)
