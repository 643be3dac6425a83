"""mode=train: Orbit's outer loop over `TrainingLoop`, with evaluation, checkpoints and resumption."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbit
import tensorflow as tf

from mobilebert_exp.data.pipeline import training_batches
from mobilebert_exp.errors import DivergedError
from mobilebert_exp.modeling import optimizers
from mobilebert_exp.modeling.checkpoints import native
from mobilebert_exp.modeling.checkpoints.series import Series
from mobilebert_exp.modeling.moving_ranges import MovingRanges
from mobilebert_exp.runners import initial
from mobilebert_exp.runners.base import Job, Outcome, quiet_libraries
from mobilebert_exp.runners.evaluation import Evaluator, write_files
from mobilebert_exp.runners.loop import TrainingLoop
from mobilebert_exp.runners.progress import TrainingProgress
from mobilebert_exp.runners.schedule import PlannedPhase, at, planned, unreached
from mobilebert_exp.runners.strategy import create_strategy
from mobilebert_exp.runners.summaries import Summaries
from mobilebert_exp.tasks.base import Evaluation, Split, Taught

log = logging.getLogger(__name__)


def run(job: Job) -> Outcome:
    """Trains, evaluates at the end and as often as asked, keeps the newest checkpoints and the best."""
    started = time.monotonic()
    quiet_libraries()
    with create_strategy(job.config.hardware).scope():
        phases = planned(job.config, job.task)
        # What is wrong with any data is better told now than after hours of training; features stay in the cache.
        for each in phases:
            each.phase.features()
        job.task.features(Split.dev, limit=job.config.trainer.limit_eval)
        training = _Training(job, phases)
        prepared = time.monotonic()
        with job.stop.held():
            training.run()
        trained = time.monotonic()
        evaluation = training.last_evaluation
    return Outcome(
        metrics={
            **evaluation.metrics,
            **training.best.figures(job.config.task.main_metric),
            **({} if training.last_loss is None else {"train_loss": training.last_loss}),
        },
        timings={
            "prepare_s": prepared - started,
            "first_step_s": training.first_step_s,
            "train_s": trained - prepared - training.evaluation_s,
            "evaluate_s": training.evaluation_s,
        },
        paths={"checkpoints": str(job.run_dir / native.FOLDER), "predictions": str(job.run_dir / "predictions")},
    )


class _Training:
    """The objects of one training run and the actions between its loops. Built under the strategy's scope."""

    def __init__(self, job: Job, phases: list[PlannedPhase]) -> None:
        config = job.config
        self._job, self._phases = job, phases
        self._total = phases[-1].last_step
        if note := unreached(config, phases):
            log.warning("%s", note)
        self._step = tf.Variable(
            0, dtype=tf.int64, trainable=False, name="step", aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
        self._module = job.task.build(config.model, seed=config.seed, dtype=config.hardware.dtype.value)
        if isinstance(job.task, Taught):
            job.task.learn_from_teacher(self._module, dtype=config.hardware.dtype.value)
        self._words = job.task.digests([]).get("vocabulary", "")
        series = functools.partial(Series, model=config.model, head=job.task.head, vocabulary=self._words)
        self._newest = series(job.run_dir / native.FOLDER, keep=config.trainer.keep_checkpoints)
        self._best_one = series(job.run_dir / native.FOLDER / native.BEST, keep=1)
        self._restore()
        self._loop = self._training_loop(at(phases, self._saved_step))
        self._evaluator: Evaluator | None = None
        self._summaries = Summaries(job.run_dir, wanted=config.task.use_summary)
        self.best = native.Best.read(job.run_dir)
        self.last_evaluation = Evaluation(metrics={})
        self.last_loss: float | None = None  # of a run that had steps left
        self.first_step_s = self.evaluation_s = 0.0
        self._started = 0.0

    def _restore(self) -> None:
        """Continues from the run's own newest checkpoint, else starts from `init.checkpoint`, else from scratch."""
        job = self._job
        model = job.config.model
        native.write_model(job.run_dir, model, head=job.task.head, vocabulary=self._words, total_steps=self._total)
        if newest := self._newest.newest():
            native.restore(tf.train.Checkpoint(step=self._step), newest)
        self._saved_step = int(self._step.numpy())
        phase = at(self._phases, self._saved_step)
        objects = self._new_optimizer(phase)
        if newest:
            if phase.optimizer_first_step == self._saved_step:  # the moments in it are those of the optimizer before
                objects.pop("optimizer")
            native.restore(tf.train.Checkpoint(**objects), newest)
            log.info("continuing at step %d from %s", self._saved_step, newest)
            return
        if job.config.init.checkpoint is not None:
            initial.read(job, whole=False).give(self._module)
        self._calibrate(phase)

    def _calibrate(self, phase: PlannedPhase) -> None:
        """Before the first step of a run, and never again: what goes on has its ranges."""
        settings = self._job.config.quantization
        if ranges := MovingRanges(self._module, settings, total_steps=self._total):
            ranges.calibrate(
                lambda batch: self._job.task.losses(self._module, batch, seed=None),
                _distributed(self._batches(phase).take(settings.calibration_batches)),
                parts=self._job.config.trainer.gradient_accumulation_steps,
            )

    def _new_optimizer(self, phase: PlannedPhase) -> dict[str, tf.Module | tf.Variable]:
        """Begins with the optimizer of a phase; returns all that a checkpoint holds from now on."""
        self._optimizer = optimizers.create(
            {variable.name.split(":")[0]: variable for variable in self._module.trainable_variables},
            phase.optimizer,
            total_steps=phase.optimizer_steps,
            warmup_steps=phase.warmup_steps,
        )
        objects = {"model": self._module, "optimizer": self._optimizer, "step": self._step}
        self._whole = tf.train.Checkpoint(**objects)
        return objects

    def _batches(self, phase: PlannedPhase) -> Any:
        """Global batches of a phase, from the next one on."""
        config = self._job.config
        return training_batches(
            phase.phase.features(),
            batch_size=phase.phase.global_batch_size,
            seed=config.seed + phase.number,
            skip_batches=int(self._step.numpy()) - phase.first_step,
            only_batches=config.trainer.overfit_batches,
            augment=phase.phase.augment,
        )

    def _training_loop(self, phase: PlannedPhase) -> TrainingLoop:
        return TrainingLoop(
            planned=phase,
            module=self._module,
            optimizer=self._optimizer,
            step=self._step,
            batches=_distributed(self._batches(phase)),
            config=self._job.config,
        )

    def run(self) -> None:
        """All steps that are left, phase by phase, then the last evaluation."""
        first = int(self._step.numpy())
        if self.best.evaluated < first < self._total and first % self._interval == 0:
            self._evaluate()  # it was stopped after the step, before its figures
        self._started = time.monotonic()
        with TrainingProgress(total_steps=self._total, done_steps=first) as self._progress:
            for phase in self._phases[at(self._phases, first).number :]:
                if phase.first_step > first:
                    self._begin(phase)
                self._run_phase(phase)
        self._evaluate()

    @property
    def _interval(self) -> int:
        """Steps between two evaluations."""
        return self._job.config.trainer.eval_every_steps or self._total

    def _begin(self, phase: PlannedPhase) -> None:
        """From one phase to the next, where the checkpoint of the former is whole on disk."""
        self._save()
        log.info("phase %s: steps %d to %d", phase.phase.name, phase.first_step + 1, phase.last_step)
        if phase.optimizer_first_step == phase.first_step:
            self._new_optimizer(phase)
        self._loop = self._training_loop(phase)

    def _run_phase(self, phase: PlannedPhase) -> None:
        first = int(self._step.numpy())
        self._batch_size = phase.phase.global_batch_size
        controller = orbit.Controller(
            global_step=self._step,
            trainer=self._loop,
            steps_per_loop=lambda step: 1 if step == first else self._job.config.hardware.steps_per_loop,
            train_actions=[self._after_loop],
        )
        while (done := int(self._step.numpy())) < phase.last_step:
            stop_at = min(phase.last_step, (done // self._interval + 1) * self._interval)
            with contextlib.redirect_stdout(io.StringIO()):  # what Orbit prints is in our log and progress already
                controller.train(stop_at)
            if stop_at < self._total and stop_at % self._interval == 0:
                self._evaluate()
                self._progress.resume()

    def _save(self) -> None:
        """Saves the newest state, once a step."""
        step = int(self._step.numpy())
        if step > self._saved_step:
            self._newest.save(self._whole, step=step)
            self._newest.prune()
            self._saved_step = step
            self._job.saved()

    def _after_loop(self, figures: Mapping[str, tf.Tensor]) -> None:
        """Checks, shows and records the steps of one loop; leaves if asked to."""
        step = int(self._step.numpy())
        values = {name: value.numpy() for name, value in figures.items()}
        self.first_step_s = self.first_step_s or time.monotonic() - self._started
        first = step - len(values["loss"]) + 1
        finite = np.isfinite(values["loss"]) & np.isfinite(values["gradient_norm"])
        if not finite.all():
            bad = int(np.argmin(finite))
            raise DivergedError(
                f"loss {values['loss'][bad]} and gradient norm {values['gradient_norm'][bad]} at step {first + bad}; "
                "lower task.optimizer.learning_rate or lengthen the warm-up"
            )
        self.last_loss = float(values["loss"].mean())
        speed = self._progress.update(step, loss=self.last_loss, batch_size=self._batch_size)
        # What is no number says nothing of its step: the losses of a layer whose turn it is not.
        told = {name: value[~np.isnan(value)] for name, value in values.items()}
        means = {f"train/{name}": float(value.mean()) for name, value in told.items() if value.size}
        self._record({**means, "train/steps_per_second": speed}, step=step)
        interval = self._job.config.trainer.checkpoint_every_steps
        if self._job.stop.signal_number or (interval and step // interval > self._saved_step // interval):
            self._save()
        self._job.stop.check()

    def _record(self, figures: Mapping[str, float], *, step: int) -> None:
        self._job.tracker.metrics(figures, step=step)
        self._summaries.write(figures, step=step)

    def _evaluate(self) -> None:
        """Scores the dev split, keeps the best weights, writes the predictions."""
        started, step = time.monotonic(), int(self._step.numpy())
        self._save()
        if self._evaluator is None:
            self._evaluator = Evaluator(task=self._job.task, module=self._module, config=self._job.config)
        self.last_evaluation = evaluation = self._evaluator.evaluate()
        write_files(evaluation, self._job.run_dir / "predictions")
        self._record({f"dev/{name}": value for name, value in evaluation.metrics.items()}, step=step)
        main, best = evaluation.metrics[self._job.config.task.main_metric], (self.best.value, self.best.step)
        if main > self.best.value:
            self._best_one.save(tf.train.Checkpoint(model=self._module), step=step)
            best = (main, step)
        self.best = native.Best(value=best[0], step=best[1], evaluated=step)
        self.best.write(self._job.run_dir)
        self._best_one.prune()  # not before the record of the new one: a run that dies here has one best or two
        self._job.saved()
        self._job.stop.check()
        self.evaluation_s += time.monotonic() - started
        log.info("step %d: %s", step, "  ".join(f"{k} {v:.2f}" for k, v in evaluation.metrics.items()))


def _distributed(batches: Any) -> tf.distribute.DistributedDataset:
    return tf.distribute.get_strategy().experimental_distribute_dataset(batches)
