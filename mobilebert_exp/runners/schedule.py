"""How many steps an experiment takes; pure arithmetic, shared by training and planning."""

from __future__ import annotations

from dataclasses import dataclass

from mobilebert_exp.config import ExperimentConfig
from mobilebert_exp.errors import ConfigError, DataError


@dataclass(kw_only=True, frozen=True, slots=True)
class Schedule:
    """Steps of a training run, all counted in optimizer updates."""

    total_steps: int
    warmup_steps: int
    steps_per_epoch: float


def schedule(config: ExperimentConfig, *, num_examples: int) -> Schedule:
    """The original's rule: `int(examples / batch * epochs)` steps, `int(steps * proportion)` of them warm-up.

    Raises:
      ConfigError: no step would be taken, or the warm-up is longer than the run.
      DataError: there is nothing to train on.
    """
    if num_examples == 0:
        raise DataError("the train split has no example to learn from; name another file, or another data_root")
    task, trainer, optimizer = config.task, config.trainer, config.task.optimizer
    per_epoch = num_examples / task.global_batch_size
    total = int(per_epoch * task.num_train_epochs)
    if trainer.max_steps is not None:
        total = min(total, trainer.max_steps) if trainer.overfit_batches is None else trainer.max_steps
    if total < 1:
        raise ConfigError(
            f"task.global_batch_size={task.global_batch_size} with {num_examples} examples and "
            f"task.num_train_epochs={task.num_train_epochs} gives no whole step; lower the batch or raise the epochs"
        )
    warmup = optimizer.warmup_steps
    if warmup is None:
        warmup = int(total * optimizer.warmup_proportion)
    if warmup > total:
        raise ConfigError(f"task.optimizer.warmup_steps={warmup} exceeds the {total} steps of the run; lower it")
    return Schedule(total_steps=total, warmup_steps=warmup, steps_per_epoch=per_epoch)


def unreached(config: ExperimentConfig, planned: Schedule) -> str:
    """What to tell of a `trainer.max_steps` that the epochs do not reach; "" where they do."""
    asked = config.trainer.max_steps
    if asked is None or asked <= planned.total_steps:
        return ""
    return (
        f"trainer.max_steps={asked} is a cap, and task.num_train_epochs={config.task.num_train_epochs:g} gives "
        f"{planned.total_steps:,} steps; raise task.num_train_epochs for more"
    )
