"""Which steps an experiment takes, and in which phases; pure arithmetic, shared by training and planning."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mobilebert_exp.config import ExperimentConfig, OptimizerConfig
from mobilebert_exp.errors import ConfigError, DataError
from mobilebert_exp.tasks.base import PerExample, Phase, Phased, Split, Task

TRAINING = "training"  # what the phase of a task with one is called


@dataclass(kw_only=True, frozen=True, slots=True)
class Schedule:
    """Steps of a training run, all counted in optimizer updates."""

    total_steps: int
    warmup_steps: int
    steps_per_epoch: float


@dataclass(kw_only=True, frozen=True, slots=True)
class PlannedPhase:
    """A phase in its place; all counted in updates of the whole run.

    Attributes:
      first_step: updates before the phase.
      optimizer: its settings.
      optimizer_first_step: updates before the optimizer's first, from which its schedule counts.
      optimizer_steps: updates that its schedule spans.
      warmup_steps: how many of them have a rising rate.
    """

    phase: Phase
    number: int
    first_step: int
    optimizer: OptimizerConfig
    optimizer_first_step: int
    optimizer_steps: int
    warmup_steps: int

    @property
    def last_step(self) -> int:
        return self.first_step + self.phase.steps


def planned(
    config: ExperimentConfig, task: Task, *, num_examples: Callable[[], int] | None = None
) -> list[PlannedPhase]:
    """The phases of a run, in order.

    Args:
      num_examples: counts the train split, where steps follow from that; None asks the features, which are then made.

    Raises:
      ConfigError: no step would be taken, or the warm-up is longer than the run.
      DataError: there is nothing to train on.
    """
    phases = _capped(task.phases(), config) if isinstance(task, Phased) else [_only_phase(config, task, num_examples)]
    found: list[PlannedPhase] = []
    starts = list(itertools.accumulate((phase.steps for phase in phases), initial=0))
    for number, (phase, start) in enumerate(zip(phases, starts, strict=False)):
        before = found[-1] if found and phase.optimizer is None else None
        if before is not None:
            found.append(replace(before, phase=phase, number=number, first_step=start))
            continue
        assert phase.optimizer is not None, "the first phase brings the optimizer"
        rest = itertools.takewhile(lambda each: each.optimizer is None, phases[number + 1 :])
        steps = phase.steps + sum(each.steps for each in rest)
        found.append(
            PlannedPhase(
                phase=phase,
                number=number,
                first_step=start,
                optimizer=phase.optimizer,
                optimizer_first_step=start,
                optimizer_steps=steps,
                warmup_steps=_warmup(phase.optimizer, steps=steps),
            )
        )
    return found


def at(phases: Sequence[PlannedPhase], step: int) -> PlannedPhase:
    """The phase in which the update after `step` others is; after the last, the last phase."""
    return next((each for each in phases if step < each.last_step), phases[-1])


def _only_phase(config: ExperimentConfig, task: Task, num_examples: Callable[[], int] | None) -> Phase:
    features = functools.cache(lambda: task.features(Split.train))
    count = num_examples() if num_examples else features().num_examples
    return Phase(
        name=TRAINING,
        steps=schedule(config, num_examples=count).total_steps,
        global_batch_size=config.task.global_batch_size,
        max_seq_length=config.task.max_seq_length,
        features=features,
        objective=PerExample(task=task, global_batch_size=config.task.global_batch_size),
        optimizer=config.task.optimizer,
    )


def _capped(phases: Sequence[Phase], config: ExperimentConfig) -> list[Phase]:
    """The phases that take any step, cut off where `trainer.max_steps` says."""
    left = config.trainer.max_steps
    found: list[Phase] = []
    brought: OptimizerConfig | None = None  # by a phase without a step, for the one after it
    for phase in phases:
        steps = phase.steps if left is None else min(phase.steps, left)
        left = None if left is None else left - steps
        brought = phase.optimizer or brought
        if steps:
            found.append(replace(phase, steps=steps, optimizer=brought))
            brought = None
    if not found:
        raise ConfigError(f"task={config.task.name} takes no step in any phase; raise its numbers of steps")
    return found


def schedule(config: ExperimentConfig, *, num_examples: int) -> Schedule:
    """The original's rule: `int(examples / batch * epochs)` steps, `int(steps * proportion)` of them warm-up.

    Raises:
      ConfigError: no step would be taken, or the warm-up is longer than the run.
      DataError: there is nothing to train on.
    """
    if num_examples == 0:
        raise DataError("the train split has no example to learn from; name another file, or another data_root")
    task, trainer = config.task, config.trainer
    per_epoch = num_examples / task.global_batch_size
    total = int(per_epoch * task.num_train_epochs)
    if trainer.max_steps is not None:
        total = min(total, trainer.max_steps) if trainer.overfit_batches is None else trainer.max_steps
    if total < 1:
        raise ConfigError(
            f"task.global_batch_size={task.global_batch_size} with {num_examples} examples and "
            f"task.num_train_epochs={task.num_train_epochs} gives no whole step; lower the batch or raise the epochs"
        )
    warmup = _warmup(task.optimizer, steps=total)
    return Schedule(total_steps=total, warmup_steps=warmup, steps_per_epoch=per_epoch)


def _warmup(optimizer: OptimizerConfig, *, steps: int) -> int:
    warmup = optimizer.warmup_steps
    if warmup is None:
        warmup = int(steps * optimizer.warmup_proportion)
    if warmup > steps:
        raise ConfigError(f"task.optimizer.warmup_steps={warmup} exceeds the {steps} steps of the run; lower it")
    return warmup


def unreached(config: ExperimentConfig, phases: Sequence[PlannedPhase]) -> str:
    """What to tell of a `trainer.max_steps` that the epochs, or the phases, do not reach; "" where they do."""
    asked, total = config.trainer.max_steps, phases[-1].last_step
    if asked is None or asked <= total:
        return ""
    if phases[0].phase.name != TRAINING:
        return f"trainer.max_steps={asked} is a cap, and the phases have {total:,} steps; raise theirs for more"
    return (
        f"trainer.max_steps={asked} is a cap, and task.num_train_epochs={config.task.num_train_epochs:g} gives "
        f"{total:,} steps; raise task.num_train_epochs for more"
    )
