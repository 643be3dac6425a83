"""The outputs of a model over a whole split, and what they are worth."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_exp.config import ExperimentConfig
from mobilebert_exp.data.pipeline import ROW_WEIGHT, evaluation_batches
from mobilebert_exp.files import write_json, write_text
from mobilebert_exp.runners import initial
from mobilebert_exp.runners.base import Job
from mobilebert_exp.runners.strategy import create_strategy
from mobilebert_exp.tasks.base import Evaluation, Split, Task


class Evaluator:
    """Evaluates one module on one split, as often as asked; the step is compiled once."""

    def __init__(self, *, task: Task, module: tf.Module, config: ExperimentConfig, split: Split = Split.dev) -> None:
        self._task, self._split, self._limit = task, split, config.trainer.limit_eval
        self._strategy = tf.distribute.get_strategy()
        self._features = task.features(split, limit=self._limit)
        self._batch_size = config.task.eval_batch_size
        config.check_batches(num_replicas=self._strategy.num_replicas_in_sync)
        self._step = tf.function(lambda batch: self._strategy.run(self._outputs, args=(module, batch)), autograph=False)

    def evaluate(self) -> Evaluation:
        """Runs every feature through the model, in order, and lets the task score them."""
        batches = evaluation_batches(self._features, batch_size=self._batch_size)
        found: dict[str, list[np.ndarray]] = {}
        for batch in self._strategy.experimental_distribute_dataset(batches):
            outputs = {k: self._strategy.gather(v, axis=0).numpy() for k, v in self._step(batch).items()}
            real = outputs.pop(ROW_WEIGHT) > 0
            for name, value in outputs.items():
                found.setdefault(name, []).append(value[real])
        outputs = {name: np.concatenate(values) for name, values in found.items()}
        return self._task.score(outputs, self._split, limit=self._limit)

    def _outputs(self, module: tf.Module, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        columns = {name: value for name, value in batch.items() if name != ROW_WEIGHT}
        return {**self._task.outputs(module, columns), ROW_WEIGHT: batch[ROW_WEIGHT]}


@dataclass(kw_only=True, frozen=True, slots=True)
class Scored:
    """An evaluation, how long it took once all was built, and sha256 of the checkpoint, where it bears one."""

    evaluation: Evaluation
    seconds: float
    checkpoint_sha256: str


def of_checkpoint(job: Job, split: Split) -> Scored:
    """Restores `init.checkpoint` and scores the split."""
    config = job.config
    with create_strategy(config.hardware).scope():
        # What is wrong with the data, or with the checkpoint, is better told before a model is built; both are kept.
        job.task.features(split, limit=config.trainer.limit_eval)
        found = initial.read(job, whole=True)
        module = job.task.build(config.model, seed=config.seed, dtype=config.hardware.dtype.value)
        found.give(module)
        evaluator = Evaluator(task=job.task, module=module, config=config, split=split)
        started = time.monotonic()
        evaluation = evaluator.evaluate()
    seconds = time.monotonic() - started
    return Scored(evaluation=evaluation, seconds=seconds, checkpoint_sha256=found.weights.digest)


def write_files(evaluation: Evaluation, folder: Path) -> None:
    """Writes the evaluation's files into `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in evaluation.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            write_text(folder / name, content)
        else:
            write_json(folder / name, content)
