"""mode=evaluate of an exported file: the whole dev split through the interpreter, and the model's figures beside it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from mobilebert_exp.config import ExperimentConfig
from mobilebert_exp.data.pipeline import ROW_WEIGHT, evaluation_batches
from mobilebert_exp.lite import cards
from mobilebert_exp.runners import evaluations
from mobilebert_exp.runners.base import Job, Outcome, ShortfallError
from mobilebert_exp.runners.evaluation import Scored, of_checkpoint, write_files
from mobilebert_exp.tasks.base import Deployable, Evaluation, Features, Split

log = logging.getLogger(__name__)
TELL_EVERY_S = 60.0
SCORE_TOLERANCE = 0.05  # of STS-B's scores, from 0 to 5
EQUAL = "equal_answers"  # share of questions, or rows, to which file and model give the same answer, in percent


class Runnable(Protocol):
    """An exported file, opened."""

    def outputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of rows by the names of the signature, each `[B, …]`."""


def run(job: Job) -> Outcome:
    """Evaluates `export.path`, and `init.checkpoint` if there is one.

    Raises:
      ShortfallError: the file's main metric is lower than the model's by more than `export.max_drop`.
      ExportError: the file cannot be run.
    """
    path, main = Path(job.config.export.path or ""), job.config.task.main_metric
    opened = _opened(path, job.config)  # what is wrong with it is better told first
    job.tracker.params({"export.sha256": evaluations.digest(path)})
    model = of_checkpoint(job, Split.dev) if job.config.init.checkpoint is not None else None
    if model is not None:
        _compare_origin(path, model)
        write_files(model.evaluation, job.run_dir / "predictions" / "model")
    started = time.monotonic()
    file = _evaluated(job, opened)
    seconds = time.monotonic() - started
    write_files(file, job.run_dir / "predictions")
    _note(job, path, file, model)
    figures = {"file_megabytes": evaluations.size(path) / 1e6}
    job.tracker.metrics({f"dev/{name}": value for name, value in file.metrics.items()}, step=0)
    if model is not None:
        theirs = model.evaluation.metrics
        figures |= {EQUAL: _equal(job, model.evaluation, file), f"model_{main}": theirs[main]}
        job.tracker.metrics({f"model/{name}": value for name, value in theirs.items()}, step=0)
    outcome = Outcome(
        metrics={**file.metrics, **figures},
        timings={"evaluate_file_s": seconds, **({"evaluate_s": model.seconds} if model else {})},
        paths={"predictions": str(job.run_dir / "predictions")},
        text=_table(path, model.evaluation if model else None, file, figures),
    )
    if model is not None and (shortfall := _shortfall(job.config, file.metrics[main], than=theirs[main])):
        raise ShortfallError(f"export.path={path}: {shortfall}", outcome=outcome)
    return outcome


def _note(job: Job, path: Path, file: Evaluation, model: Scored | None) -> None:
    """Leaves the figures beside the file, unless they are of a part of the split."""
    if job.config.trainer.limit_eval is not None:
        log.info(
            "trainer.limit_eval=%d: figures of a part are not noted beside %s", job.config.trainer.limit_eval, path
        )
        return
    worth = evaluations.Worth(
        metrics=file.metrics,
        model_metrics=model.evaluation.metrics if model else {},
        checkpoint_sha256=model.checkpoint_sha256 if model else "",
    )
    evaluations.record(path, worth, terms=evaluations.terms(job.config, job.task))


def _shortfall(config: ExperimentConfig, value: float, *, than: float) -> str:
    """Why a file's main metric is too low, and what to try; "" if it is not."""
    main, most = config.task.main_metric, config.export.max_drop
    if most is None or than - value <= most:
        return ""
    return (
        f"{main} is {value:.2f}, {than - value:.2f} below the model's {than:.2f}, and export.max_drop={most:g}; try "
        "another export.format, export.mask_value=null, more export.calibration_examples, or training with "
        "model.fake_quantization=per_channel"
    )


def _opened(path: Path, config: ExperimentConfig) -> Runnable:
    if path.is_dir():
        from mobilebert_exp.runners.served import ServedModel

        return ServedModel(path)
    from mobilebert_exp.lite.interpreter import LiteModel, without_notes

    with without_notes():
        return LiteModel(path, threads=config.hardware.threads or len(os.sched_getaffinity(0)))


def _compare_origin(path: Path, model: Scored) -> None:
    """Warns where the file was made of another checkpoint than it is compared with."""
    known = cards.card_of(path).source.get(cards.CHECKPOINT, "")
    if known and model.checkpoint_sha256 and known != model.checkpoint_sha256:
        log.warning(
            "export.path=%s was made of another checkpoint (sha256 %s…) than init.checkpoint (%s…)",
            *(path, known[:12], model.checkpoint_sha256[:12]),
        )


def _evaluated(job: Job, opened: Runnable) -> Evaluation:
    """The task's judgement of what the file answers."""
    task, limit = job.task, job.config.trainer.limit_eval
    assert isinstance(task, Deployable), "told before"
    features = task.features(Split.dev, limit=limit)
    log.info("%s: %d features, one after another", job.config.export.path, features.num_features)
    outputs = _outputs(opened, features, batch_size=job.config.task.eval_batch_size)
    return task.score(task.of_exported(outputs), Split.dev, limit=limit)


def _outputs(opened: Runnable, features: Features, *, batch_size: int) -> dict[str, np.ndarray]:
    """Of every feature, in order; a line each minute says how many are done."""
    found: dict[str, list[np.ndarray]] = {}
    done, told = 0, time.monotonic()
    for batch in evaluation_batches(features, batch_size=batch_size):
        columns = {name: value.numpy() for name, value in batch.items()}
        is_real = columns.pop(ROW_WEIGHT) > 0
        for name, value in opened.outputs({name: value[is_real] for name, value in columns.items()}).items():
            found.setdefault(name, []).append(value)
        done += int(is_real.sum())
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            log.info("%d of %d features", done, features.num_features)
    return {name: np.concatenate(values) for name, values in found.items()}


def _equal(job: Job, model: Evaluation, file: Evaluation) -> float:
    assert isinstance(job.task, Deployable), "told before"
    theirs, ours = (job.task.answers(evaluation) for evaluation in (model, file))
    return 100 * sum(is_equal(ours[name], answer) for name, answer in theirs.items()) / len(theirs)


def is_equal(one: object, other: object) -> bool:
    """Whether two answers are the same: texts and classes to the letter, scores within `SCORE_TOLERANCE`."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= SCORE_TOLERANCE
    return one == other


def _table(path: Path, model: Evaluation | None, file: Evaluation, figures: Mapping[str, float]) -> str:
    rows = [("metric", "model", "file", "difference")]
    for name, value in file.metrics.items():
        other = None if model is None else model.metrics.get(name)
        beside = ("", "") if other is None else (f"{other:.2f}", f"{value - other:+.2f}")
        rows.append((name, beside[0], f"{value:.2f}", beside[1]))
    width = max(len(row[0]) for row in rows)
    lines = [f"{path}: {figures['file_megabytes']:.2f} MB"]
    lines += [f"  {name:<{width}}  {a:>8}  {b:>8}  {c:>10}" for name, a, b, c in rows]
    if model is None:
        return "\n".join([*lines, "  no model to compare with; init.checkpoint=RUN names one"])
    return "\n".join([*lines, f"  equal answers: {figures[EQUAL]:.2f} %"])
