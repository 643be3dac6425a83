"""The assembler: config to task, model, runner and tracker; the run's identity, its folder and its one true state."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import json
import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobilebert_exp import deploying, fitting, identity, lineage, location, manifest, mirror, registry
from mobilebert_exp.config import Distribution, ExperimentConfig, Mode, Resume, TrackerKind, leaves
from mobilebert_exp.data import parallel, shared
from mobilebert_exp.errors import ConfigError, DivergedError, OutputError, RunStopped, StorageError, UserError
from mobilebert_exp.files import write_json
from mobilebert_exp.runners import peak_memory
from mobilebert_exp.runners.base import Job, Outcome, ShortfallError, StopRequest
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tasks.base import Demanding, Task
from mobilebert_exp.tracking import provenance, states, store, weights
from mobilebert_exp.tracking.base import RunInfo, RunState, Tracker
from mobilebert_exp.tracking.report import end_table

log = logging.getLogger(__name__)
RESULT_FILE = location.RESULT_FILE
RUN_ID_TIMEOUT_S = 60.0
DEFAULT_CACHE = "~/.cache/mobilebert_exp"


@dataclass(kw_only=True, slots=True)
class Result:
    """What `result.json` holds."""

    run_id: str
    run_dir: str
    state: str
    reason: str
    experiment: str
    overrides: list[str]
    main_metric: str
    task: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    paths: dict[str, str] = field(default_factory=dict)


def run(
    config: ExperimentConfig,
    *,
    run_dir: str | Path,
    overrides: Sequence[str] = (),
    sweep_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    tf_config: str | None = None,
) -> Result:
    """Runs one experiment to its end.

    Args:
      config: the experiment.
      run_dir: its folder; created. A continued run goes on in its first folder instead.
      overrides: what the command line changed, for the record.
      sweep_dir: folder of the sweep it belongs to.
      tracking_uri: MLflow's address where `config.tracking.uri` names none.
      tf_config: TF_CONFIG, which names the workers of `hardware.distribution=multi_worker` and this one's number.

    Raises:
      UserError: a mistake that the user can mend.
      RunStopped: a signal asked it to stop; what it had is saved.
    """
    workers, stop = parallel.shared_among(config.hardware.feature_workers), StopRequest()
    with shared.at(config.shared_cache), workers, stop.listening():
        with stop.at_once():
            config, task = _assembled(config)
            if config.mode is Mode.plan:
                return _plan(config, task, run_dir=Path(run_dir), overrides=overrides, stop=stop, uri=tracking_uri)
            opened = _Run(
                config,
                task,
                run_dir=Path(run_dir),
                overrides=overrides,
                sweep_dir=sweep_dir,
                uri=tracking_uri,
                tf_config=tf_config,
                stop=stop,
            )
        return opened.execute()


@contextlib.contextmanager
def unbegun_leaves_nothing(run_dir: str | Path, *, made: Collection[str]) -> Iterator[None]:
    """A run that fails before it begins has no folder afterwards; `made` are the names of what was put there for it."""
    try:
        yield
    except BaseException:
        states.forget_unbegun(Path(run_dir), made=made)
        raise


def _assembled(config: ExperimentConfig) -> tuple[ExperimentConfig, Task]:
    """The task, and the configuration with what was left open."""
    config = dataclasses.replace(config, cache_dir=str(Path(config.cache_dir or DEFAULT_CACHE).expanduser().resolve()))
    task = registry.create_task(config)
    config = fitting.resolved(config, task)
    deploying.check_task(config, task)
    if isinstance(task, Demanding):
        task.check_model(config.model)
    return config, task


def _plan(
    config: ExperimentConfig,
    task: Task,
    *,
    run_dir: Path,
    overrides: Sequence[str],
    stop: StopRequest,
    uri: str | None,
) -> Result:
    config = fitting.with_weights(config, task, uri=uri)
    job = Job(config=config, task=task, run_dir=run_dir, tracker=_tracker(config, None), stop=stop)
    outcome = registry.runner(Mode.plan).run(job)
    print(outcome.text)
    return Result(
        run_id="",
        run_dir=str(run_dir),
        state=RunState.FINISHED.name,
        reason="",
        experiment=config.tracking.experiment or config.task.name,
        overrides=list(overrides),
        main_metric=config.task.main_metric,
        task=config.task.name,
        metrics=outcome.metrics,
    )


def worker_index(config: ExperimentConfig, tf_config: str | None) -> int:
    """This process' number among the workers; 0 for the chief, who alone tracks, and wherever there is one process."""
    if config.hardware.distribution is not Distribution.multi_worker or not tf_config:
        return 0
    try:
        named = json.loads(tf_config)
        kind, index = str(named["task"]["type"]), int(named["task"]["index"])
        chiefs = len(named["cluster"].get("chief", ()))
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise ConfigError(
            f"TF_CONFIG cannot be read ({type(problem).__name__}: {problem}); "
            'it is JSON, {"cluster": {"worker": [addresses]}, "task": {"type": "worker", "index": number}}'
        ) from None
    return index + (chiefs if kind == "worker" else 0)


def _tracker(config: ExperimentConfig, uri: str | None, *, worker: int = 0) -> Tracker:
    if config.tracking.kind is TrackerKind.none or config.mode is Mode.plan or worker:
        from mobilebert_exp.tracking.nothing import NoTracker

        return NoTracker()
    from mobilebert_exp.tracking.mlflow import MlflowTracker

    return MlflowTracker(store.resolve_uri(config.tracking.uri, uri, config.output_dir))


class _Run:
    """One tracked run: opened, executed, and closed in the state it really ended in."""

    def __init__(
        self,
        config: ExperimentConfig,
        task: Task,
        *,
        run_dir: Path,
        overrides: Sequence[str],
        sweep_dir: str | Path | None,
        uri: str | None,
        tf_config: str | None,
        stop: StopRequest,
    ) -> None:
        self._config, self._task, self._stop = config, task, stop
        self._overrides, self._sweep_dir = list(overrides), sweep_dir
        self._digests = identity.digests(config, task)
        self._identity = identity.of(config, self._digests)
        self._output_dir = Path(config.output_dir).resolve()
        self._worker = worker_index(config, tf_config)
        self._is_one_of_several = config.hardware.distribution is Distribution.multi_worker
        self._asked_dir = (run_dir / f"worker-{self._worker}" if self._worker else run_dir).resolve()
        unfinished = self._unfinished()
        self._run_dir = ((unfinished and unfinished.run_dir) or self._asked_dir).resolve()
        self._resume_id = unfinished.run_id if unfinished else ""
        has_own = config.mode is Mode.train and manifest.committed(self._run_dir / location.FOLDER)
        self._for_runner = config if has_own else deploying.with_weights(config, task, uri=uri)
        self._origin = lineage.tags(config, self._for_runner)
        self._mirror = self._copy(unfinished.place if unfinished else None)
        self._tracker = _tracker(config, uri, worker=self._worker)
        self._noting = threading.Thread(target=self._note_run_id, daemon=True)
        self._closing = threading.Event()
        self._started = time.monotonic()

    def _may_continue(self) -> bool:
        is_asked = self._config.resume is not Resume.never and self._config.mode is Mode.train
        return is_asked and not self._is_one_of_several  # each of which has a part of its own to find

    def _copy(self, place: Place | None) -> mirror.Mirror | None:
        """The run's copy in a bucket, if it is to have one; the chief's alone."""
        if self._config.upload_to is None or self._worker:
            return None
        inside = self._run_dir.is_relative_to(self._output_dir)
        name = self._run_dir.relative_to(self._output_dir).as_posix() if inside else self._run_dir.name
        return mirror.Mirror(self._config.upload_to, self._run_dir, identity=self._identity, place=place, name=name)

    def _unfinished(self) -> mirror.Unfinished | None:
        """The run to go on with, its files fetched where another machine left it."""
        if not self._may_continue():
            return None
        found = mirror.find_unfinished(self._config.upload_to, self._output_dir, identity=self._identity)
        if found is None:
            return None
        log.info("continuing the unfinished run %s; resume=never starts afresh", found.run_dir or found.place)
        if found.run_dir is None and found.place is not None:
            mirror.restore(found.place, self._asked_dir)
        return found

    def execute(self) -> Result:
        # A process that ends searches all it holds for garbage: of TensorFlow, seconds; the system frees it at once.
        atexit.register(gc.freeze)
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            if not self._worker:
                states.enter(self._output_dir, self._run_dir, identity=self._identity)
        except OSError as problem:
            raise OutputError(
                f"cannot write {problem.filename}: {problem.strerror}; set output_dir elsewhere"
            ) from None
        claimed = self._mirror.claimed() if self._mirror else contextlib.nullcontext()
        with claimed, states.alive(self._run_dir):
            self._open()
            try:
                with self._stop.at_once():
                    outcome = registry.runner(self._config.mode).run(self._job())
                self._stop.check()
            except RunStopped as stopped:
                state = RunState.PREEMPTED if stopped.signal_number == 15 else RunState.KILLED
                self._close(state, reason=str(stopped))
                print(self._how_to_go_on())
                raise
            except BaseException as problem:
                mendable = isinstance(problem, UserError) and not isinstance(problem, DivergedError)
                reason = f"{type(problem).__name__}: {problem}"
                found = problem.outcome if isinstance(problem, ShortfallError) else None
                self._close(RunState.FAILED, reason=reason, outcome=found, mendable=mendable)
                raise
            return self._close(RunState.FINISHED, outcome=outcome)

    def _job(self) -> Job:
        return Job(
            config=self._for_runner,
            task=self._task,
            run_dir=self._run_dir,
            tracker=self._tracker,
            stop=self._stop,
            saved=self._mirror.update if self._mirror else lambda: None,
            source_run_id=self._origin.get(lineage.SOURCE_TAG, ""),
        )

    def _open(self) -> None:
        config = self._config
        known = provenance.provenance(Path(__file__).resolve().parent.parent)
        digests = {f"data.{key}": value for key, value in self._digests.items()}
        own = {
            "identity": self._identity,
            "seed": str(config.seed),
            "mode": config.mode.name,
            weights.RUN_DIR_TAG: str(self._run_dir),
            **({weights.BUCKET_TAG: str(self._mirror.place)} if self._mirror else {}),
            **self._origin,
        }
        info = RunInfo(
            experiment=config.tracking.experiment or config.task.name,
            name=config.tracking.run_name or identity.name(config),
            run_dir=self._run_dir,
            parent_run_id=self._parent_run_id(),
            tags={**known.tags, **digests, **own, **config.tracking.tags},
            resume_run_id=self._resume_id,
        )
        self._tracker.start(info)
        self._tracker.params(leaves(config))
        self._record_files(known.files)
        states.write(self._run_dir, identity=self._identity, state=RunState.RUNNING, run_id=self._resume_id)
        self._noting.start()

    def _note_run_id(self) -> None:
        """Keeps the tracker's id on disk as soon as it is known, for a run that dies without a word."""
        run_id = self._tracker.run_id(timeout_s=RUN_ID_TIMEOUT_S)
        if run_id and not self._closing.is_set():
            states.write(self._run_dir, identity=self._identity, state=RunState.RUNNING, run_id=run_id)

    def _parent_run_id(self) -> str:
        if self._sweep_dir is None:
            return ""
        from mobilebert_exp.sweeping.parent import parent_run_id

        return parent_run_id(Path(self._sweep_dir))

    def _record_files(self, files: dict[str, str]) -> None:
        folder = self._run_dir / "provenance"
        folder.mkdir(exist_ok=True)
        for name, content in {**files, "config.json": json.dumps(leaves(self._config), indent=2, default=str)}.items():
            (folder / name).write_text(content, encoding="utf-8")
        self._tracker.artifact(folder)

    def _close(
        self, state: RunState, *, reason: str = "", outcome: Outcome | None = None, mendable: bool = False
    ) -> Result:
        """Writes `result.json`, sends the artifacts, closes the run and shows the end.

        A run that failed of what the user can mend goes on from its checkpoint, if it has one, with the same command.
        Raises StorageError where the run finished and its copy in a bucket did not.
        """
        outcome = outcome or Outcome()
        self._closing.set()
        peak = peak_memory.run_peak_bytes()
        self._report(state, outcome, peak_memory_bytes=peak)
        run_id = self._tracker.run_id()
        self._noting.join(timeout=RUN_ID_TIMEOUT_S)
        resumable = mendable and bool(manifest.committed(self._run_dir / location.FOLDER))
        states.write(
            self._run_dir, identity=self._identity, state=state, reason=reason, run_id=run_id, resumable=resumable
        )
        result = Result(
            run_id=run_id,
            run_dir=str(self._run_dir),
            state=state.name,
            reason=reason,
            experiment=self._config.tracking.experiment or self._config.task.name,
            overrides=self._overrides,
            main_metric=self._config.task.main_metric,
            task=self._config.task.name,
            metrics=outcome.metrics,
            timings={**outcome.timings, "total_s": time.monotonic() - self._started},
            peak_memory_bytes=peak,
            paths=dict(outcome.paths),
        )
        missed = self._write(result)
        self._tracker.end(state, reason=reason)
        if outcome.text:
            print(outcome.text)
        print(end_table(dataclasses.asdict(result), open_command=self._tracker.open_command()))
        if missed and state is RunState.FINISHED:
            raise StorageError(f"the run finished, {missed}")
        return result

    def _how_to_go_on(self) -> str:
        """One line for whoever has stopped the run: what is saved, and what goes on from there."""
        committed = manifest.committed(self._run_dir / location.FOLDER) if self._config.mode is Mode.train else []
        if not committed:
            return "nothing is saved; the same command starts again"
        if self._is_one_of_several:
            how = f"init.checkpoint={self._run_dir}/{location.LAST} starts a new run from its weights"
        else:
            never = " with resume=auto" if self._config.resume is Resume.never else ""
            how = f"the same command{never} goes on from there"
        step = manifest.step_of(manifest.file_of(committed[0]).name)
        return f"saved: step {step}, {committed[0]}; {how}"

    def _write(self, result: Result) -> str:
        """Writes the result, and copies the folder for the last time; returns why that failed, "" if it did not."""
        missed = ""
        if self._mirror:
            result.paths["bucket"] = str(self._mirror.place)
            self._write_files(result)
            if reason := self._mirror.finish():
                missed = f"its copy in {result.paths.pop('bucket')} did not: {reason}"
        self._write_files(result)
        self._tracker.artifact(self._run_dir / RESULT_FILE)
        return missed

    def _write_files(self, result: Result) -> None:
        for folder in {self._run_dir, self._asked_dir}:  # a sweep looks where it sent the job, wherever that went on
            if folder.is_dir():
                write_json(folder / RESULT_FILE, dataclasses.asdict(result))

    def _report(self, state: RunState, outcome: Outcome, *, peak_memory_bytes: int) -> None:
        """Tells the tracker the last figures and files."""
        figures = {f"final/{name}": value for name, value in outcome.metrics.items()}
        timings = {f"timing/{name}": value for name, value in outcome.timings.items()}
        self._tracker.metrics({**figures, **timings, "system/peak_memory_bytes": float(peak_memory_bytes)}, step=0)
        for handler in logging.getLogger().handlers:
            handler.flush()
        for path in (self._run_dir / "predictions", *sorted(self._asked_dir.glob("*.log")), self._asked_dir / ".hydra"):
            if path.exists():
                self._tracker.artifact(path)
        if state is RunState.FINISHED:
            weights.record(self._tracker, self._run_dir, self._config.tracking.log_checkpoints)
