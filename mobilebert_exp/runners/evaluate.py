"""mode=evaluate: the metrics and prediction files of a checkpoint, or of an exported file, on the dev split."""

from __future__ import annotations

from mobilebert_exp.runners import comparison
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.runners.evaluation import of_checkpoint, write_files
from mobilebert_exp.tasks.base import Evaluation, Split


def run(job: Job) -> Outcome:
    """Evaluates `export.path` beside the model it came from, or `init.checkpoint` alone."""
    if job.config.export.path is not None:
        return comparison.run(job)
    evaluation, seconds = score_checkpoint(job, Split.dev)
    job.tracker.metrics({f"dev/{name}": value for name, value in evaluation.metrics.items()}, step=0)
    return Outcome(
        metrics=dict(evaluation.metrics),
        timings={"evaluate_s": seconds},
        paths={"predictions": str(job.run_dir / "predictions")},
    )


def score_checkpoint(job: Job, split: Split) -> tuple[Evaluation, float]:
    """Restores the checkpoint, scores the split, writes its files; also returns the seconds that took."""
    scored = of_checkpoint(job, split)
    write_files(scored.evaluation, job.run_dir / "predictions")
    return scored.evaluation, scored.seconds
