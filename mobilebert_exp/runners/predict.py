"""mode=predict: the prediction files of a checkpoint; the data need no answers, and no metric is reported."""

from __future__ import annotations

from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.runners.evaluate import score_checkpoint
from mobilebert_exp.tasks.base import Split


def run(job: Job) -> Outcome:
    """Predicts with `init.checkpoint`."""
    evaluation, seconds = score_checkpoint(job, Split.predict)
    folder = job.run_dir / "predictions"
    return Outcome(
        timings={"predict_s": seconds},
        paths={"predictions": str(folder)},
        text="\n".join(str(folder / name) for name in evaluation.files),
    )
