"""The toy task in three phases: two rounds under one optimizer, then another optimizer with rates by variable."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf
import toy

from mobilebert_exp.config import OptimizerConfig, OptimizerKind
from mobilebert_exp.tasks.base import Features, Phase, Rates, Split

STEPS = (3, 4, 5)
LAMB = OptimizerConfig(name=OptimizerKind.lamb, learning_rate=3e-3, warmup_steps=0)


@dataclass(kw_only=True, frozen=True)
class Weighted:
    """A mean whose weights differ from row to row; what it is divided by, only the whole batch tells.

    `resting`: a part of the variables' names whose rate is 0 until the second step of the phase.
    """

    task: toy.ToyTask
    has_dropout: bool = True
    resting: str | None = None
    figures: tuple[str, ...] = ("weight", "unweighted")

    def totals(self, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        return {"weight": tf.reduce_sum(self._weights(batch))}

    def _weights(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return tf.cast(batch["number"][:, 0] % 3, tf.float32)  # 0 for a third of the rows

    def loss(
        self,
        module: tf.Module,
        batch: Mapping[str, tf.Tensor],
        *,
        totals: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        losses = self.task.losses(module, batch, seed=seed if self.has_dropout else None)
        weights = self._weights(batch)
        figures = {"weight": tf.reduce_sum(weights), "unweighted": tf.reduce_sum(losses)}
        return tf.reduce_sum(losses * weights) / (totals["weight"] + 1e-5), figures

    def rates(self, step: tf.Tensor) -> Rates | None:
        if self.resting is None:
            return None
        moves = tf.cast(step >= 2, tf.float32)
        names = [spec.name for spec in self.task.variables(toy.model()) if self.resting in spec.name]
        return Rates(factors=dict.fromkeys(names, moves), groups={"resting": moves, "others": tf.constant(1.0)})


class PhasedTask(toy.ToyTask):
    """See `tasks.base.Phased`."""

    steps: Sequence[int] = STEPS

    def phases(self) -> list[Phase]:
        first, second, third = self.steps
        whole = functools.partial(self.features, Split.train)
        return [
            Phase(
                name="first round",
                steps=first,
                global_batch_size=8,
                max_seq_length=toy.LENGTH,
                features=whole,
                objective=Weighted(task=self),
                optimizer=self.config.optimizer,
            ),
            Phase(
                name="second round",
                steps=second,
                global_batch_size=4,
                max_seq_length=toy.LENGTH,
                features=self._fewer,
                objective=Weighted(task=self),
                augment=_turned,
            ),
            Phase(
                name="distillation",
                steps=third,
                global_batch_size=8,
                max_seq_length=toy.LENGTH,
                features=whole,
                objective=Weighted(task=self, has_dropout=False, resting="layers/"),
                optimizer=LAMB,
            ),
        ]

    def _fewer(self) -> Features:
        return toy.ToyTask(config=self.config, folder=self.folder / "fewer", train_rows=11).features(Split.train)


def _turned(batch: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Some of the ids are others, each time."""
    ids = batch["input_ids"]
    drawn = tf.random.stateless_uniform(
        tf.shape(ids), seed=seed, minval=toy.END + 1, maxval=toy.VOCABULARY, dtype=tf.int32
    )
    is_turned = tf.random.stateless_uniform(tf.shape(ids), seed=seed + 1) < 0.2
    return {**batch, "input_ids": tf.where(tf.logical_and(is_turned, ids > toy.END), drawn, ids)}
