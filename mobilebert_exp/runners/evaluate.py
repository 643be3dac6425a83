"""mode=evaluate: the metrics and prediction files of a checkpoint on the dev split."""

from __future__ import annotations

import time

from mobilebert_exp.runners import initial
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.runners.evaluation import Evaluator, write_files
from mobilebert_exp.runners.strategy import create_strategy
from mobilebert_exp.tasks.base import Evaluation, Split


def run(job: Job) -> Outcome:
    """Evaluates `init.checkpoint`."""
    evaluation, seconds = score_checkpoint(job, Split.dev)
    job.tracker.metrics({f"dev/{name}": value for name, value in evaluation.metrics.items()}, step=0)
    return Outcome(
        metrics=dict(evaluation.metrics),
        timings={"evaluate_s": seconds},
        paths={"predictions": str(job.run_dir / "predictions")},
    )


def score_checkpoint(job: Job, split: Split) -> tuple[Evaluation, float]:
    """Restores the checkpoint, scores the split, writes its files; also returns the seconds that took."""
    config = job.config
    with create_strategy(config.hardware).scope():
        # What is wrong with the data, or with the checkpoint, is better told before a model is built; both are kept.
        job.task.features(split, limit=config.trainer.limit_eval)
        weights = initial.read(job, whole=True)
        module = job.task.build(config.model, seed=config.seed, dtype=config.hardware.dtype.value)
        weights.give(module)
        evaluator = Evaluator(task=job.task, module=module, config=config, split=split)
        started = time.monotonic()
        evaluation = evaluator.evaluate()
    write_files(evaluation, job.run_dir / "predictions")
    return evaluation, time.monotonic() - started
