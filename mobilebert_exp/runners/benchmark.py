"""mode=benchmark: how fast, how large and how good exported files and their model are, on this machine's CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import statistics
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mobilebert_exp.config import ExperimentConfig
from mobilebert_exp.files import write_bytes, write_json, write_text
from mobilebert_exp.lite import cards, census
from mobilebert_exp.runners import evaluations, machine, pareto
from mobilebert_exp.runners.base import Job, Outcome, quiet_libraries
from mobilebert_exp.runners.pareto import Latency, Point
from mobilebert_exp.runners.stopwatch import Process, Subject
from mobilebert_exp.tasks.base import Split

log = logging.getLogger(__name__)
FOLDER = "benchmark"
TABLE_FILE = "table.txt"
_WHOLE = 1_000  # columns of a terminal in which nothing is left out
LIVE = "checkpoint"  # what the model of init.checkpoint is called among the files


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found of one subject: milliseconds by threads, and what its last process told."""

    subject: Subject
    milliseconds: Mapping[int, Sequence[float]]
    told: Mapping[str, Any]
    op_times: Sequence[Mapping[str, Any]]


def run(job: Job) -> Outcome:
    """Measures `export.path` and `init.checkpoint`, whichever are named.

    Raises:
      ExportError: there is no exported file, or one cannot be run.
      WorkerError: a process that measures ended.
    """
    config, folder = job.config, job.run_dir / FOLDER
    about = machine.described()
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp_") as scratch:
        subjects = found(Path(config.export.path)) if config.export.path is not None else []
        rows, live_sha256 = _rows(job, Path(scratch)), ""
        if config.init.checkpoint is not None:
            live, live_sha256 = _live(job, Path(scratch))
            subjects.append(live)
        measured = _measured(subjects, config, rows=rows)
        points = _points(measured, _metrics(job, subjects, live_sha256=live_sha256))
    metric = config.task.main_metric
    record = {
        "machine": about,
        "settings": dataclasses.asdict(config.benchmark),
        "length": config.task.max_seq_length,
        "metric": metric,
        "models": [_record(each, point) for each, point in zip(measured, points, strict=True)],
    }
    remarks = _remarks(about, measured)
    folder.mkdir(exist_ok=True)
    write_json(folder / "benchmark.json", record)
    write_text(folder / TABLE_FILE, "\n".join([pareto.table(points, metric=metric, width=_WHOLE), "", *remarks, ""]))
    write_bytes(folder / "pareto.png", pareto.plot(points, metric=metric))
    _tell(job, about, points)
    width = Console().width
    return Outcome(
        metrics={f"{point.name}_p50_ms": point.latency for point in points},
        paths={FOLDER: str(folder)},
        text=_shown(pareto.table(points, metric=metric, width=width), remarks, folder, width=width),
    )


def _shown(table: str, remarks: Sequence[str], folder: Path, *, width: int) -> str:
    """What fits the terminal, and where the rest is."""
    folded = [textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False) for line in remarks]
    return "\n".join([table, "", *folded, f"every column is in {folder / TABLE_FILE}"])


def found(path: Path) -> list[Subject]:
    """What lies at a place, each by a name of its own; as `cards.models_at`."""
    paths = cards.models_at(path)
    is_apart = len({each.stem for each in paths}) == len(paths)
    return [Subject(name=each.stem if is_apart else each.name, path=each.absolute()) for each in paths]


def _rows(job: Job, scratch: Path) -> Path:
    """A file with rows of the dev split, by column."""
    from mobilebert_exp.data.pipeline import ROW_WEIGHT, evaluation_batches

    count = job.config.benchmark.examples
    features = job.task.features(Split.dev, limit=count)
    batch = {name: value.numpy() for name, value in next(iter(evaluation_batches(features, batch_size=count))).items()}
    is_real = batch.pop(ROW_WEIGHT) > 0
    columns: dict[str, Any] = {name: value[is_real] for name, value in batch.items()}
    columns.setdefault("segment_ids", np.zeros_like(columns["input_ids"]))
    np.savez(scratch / "rows.npz", **columns)
    return scratch / "rows.npz"


def _live(job: Job, scratch: Path) -> tuple[Subject, str]:
    """The checkpoint's model as every mode runs it, one row at a time, and sha256 of the checkpoint.

    It is saved, to run in a process of its own.
    """
    import tensorflow as tf

    from mobilebert_exp.runners import initial

    config = job.config
    initially = initial.read(job, whole=True)
    module = job.task.build(config.model, seed=config.seed, dtype=config.hardware.dtype.value)
    initially.give(module)
    columns = job.task.features(Split.dev, limit=config.benchmark.examples).columns
    types = {"int64": tf.int32, "float32": tf.float32}  # as the pipeline gives them
    specs = {
        name: tf.TensorSpec([1, *column.shape], types[column.dtype], name=name) for name, column in columns.items()
    }

    @tf.function(autograph=False)
    def outputs(**batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(job.task.outputs(module, {"segment_ids": tf.zeros_like(batch["input_ids"]), **batch}))

    quiet_libraries()
    owner = tf.Module()
    owner.module, owner.outputs = module, outputs  # what a function uses is saved with whoever holds it
    tf.saved_model.save(owner, str(scratch / LIVE), signatures=outputs.get_concrete_function(**specs))
    return Subject(name=LIVE, path=scratch / LIVE, is_live=True), initially.weights.digest


def _measured(subjects: Sequence[Subject], config: ExperimentConfig, *, rows: Path) -> list[Measured]:
    """Runs of all subjects in turn, for one number of threads after another."""
    settings = config.benchmark
    milliseconds: dict[str, dict[int, list[float]]] = {subject.name: {} for subject in subjects}
    told: dict[str, dict[str, Any]] = {}
    op_times: dict[str, list[dict[str, Any]]] = {}
    for threads in settings.threads:
        with _processes(subjects, rows=rows, threads=threads) as processes:
            log.info("%d model(s), %d thread(s): %d runs each", len(subjects), threads, settings.runs)
            for number in range(settings.warmup_runs):
                for process in processes.values():
                    process.run(number)
            for name in processes:
                milliseconds[name][threads] = []
            for number in range(settings.runs):
                for name, process in processes.items():
                    milliseconds[name][threads].append(1e3 * process.run(number))
            told = {name: process.ended() for name, process in processes.items()}
            if threads == max(settings.threads):
                op_times = {name: process.profile() for name, process in processes.items()}
    return [
        Measured(
            subject=subject,
            milliseconds=milliseconds[subject.name],
            told=told[subject.name],
            op_times=op_times[subject.name],
        )
        for subject in subjects
    ]


@contextlib.contextmanager
def _processes(subjects: Sequence[Subject], *, rows: Path, threads: int) -> Iterator[dict[str, Process]]:
    with contextlib.ExitStack() as stack:
        opened = {}
        for subject in subjects:
            opened[subject.name] = Process(subject, rows=rows, threads=threads)
            stack.callback(opened[subject.name].close)
        yield opened


def _metrics(job: Job, subjects: Sequence[Subject], *, live_sha256: str) -> dict[str, float]:
    """The main metric by name, as far as `mode=evaluate` noted it; of the live model, beside a file of any name."""
    main, terms = job.config.task.main_metric, evaluations.terms(job.config, job.task)
    notes = {each.name: evaluations.noted(each.path, terms=terms) for each in subjects if not each.is_live}
    found = {name: note.metrics[main] for name, note in notes.items() if main in note.metrics}
    for note in notes.values():
        if live_sha256 and note.checkpoint_sha256 == live_sha256 and main in note.model_metrics:
            found[LIVE] = note.model_metrics[main]
    return found


def _points(measured: Sequence[Measured], metrics: Mapping[str, float]) -> list[Point]:
    points = []
    for each in measured:
        name, path = each.subject.name, each.subject.path
        points.append(
            Point(
                name=name,
                bytes=evaluations.size(path / "variables" if each.subject.is_live else path),
                latencies=[_latency(threads, taken) for threads, taken in each.milliseconds.items()],
                peak_bytes=each.told["memory_bytes"],
                model_bytes=each.told["memory_bytes"] - each.told["before_bytes"],
                metric=metrics.get(name),
            )
        )
    return points


def _latency(threads: int, milliseconds: Sequence[float]) -> Latency:
    p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, [50, 90, 99]))
    return Latency(threads=threads, p50=p50, p90=p90, p99=p99)


def _record(each: Measured, point: Point) -> dict[str, Any]:
    record = {
        **dataclasses.asdict(point),
        "sha256": "" if each.subject.is_live else evaluations.digest(each.subject.path),
        "milliseconds": {str(threads): list(taken) for threads, taken in each.milliseconds.items()},
    }
    if each.subject.is_lite:
        record |= {"xnnpack": each.told["xnnpack"], "op_times": list(each.op_times)}
        record["census"] = census.as_record(census.of(each.subject.path))
    return record


def _remarks(about: Mapping[str, object], measured: Sequence[Measured]) -> list[str]:
    """Where the time goes, and on what."""
    lines = []
    for each in measured:
        if not each.subject.is_lite:
            continue
        xnnpack, threads = each.told["xnnpack"], max(each.milliseconds)
        left = ", ".join(f"{count} {name}" for name, count in xnnpack["left"].items()) or "none"
        whole, parts = statistics.median(each.milliseconds[threads]), sum(op["milliseconds"] for op in each.op_times)
        lines.append(
            f"{each.subject.name}: XNNPACK has {xnnpack['delegated']:,} ops in {xnnpack['partitions']} partition(s); "
            f"left: {left}"
        )
        shown = ", ".join(f"{op['name']} {op['milliseconds']:.2f}" for op in each.op_times[:6])
        lines.append(f"  ms by op, each run alone with {threads} thread(s): {shown}; all {parts:.2f} of {whole:.2f}")
    named = ", ".join(f"{name} {value}" for name, value in about.items() if name in machine.LIBRARIES)
    instructions = about["instructions"]
    assert isinstance(instructions, list)
    cpu = f"{about['cpu']}, {about['cores']} core(s), {' '.join(instructions)}"
    lines.append(f"{cpu}; load {about['load_before']}; {named}")
    if machine.is_busy(about):
        lines.append("others were at work on this machine; measure again when it is idle")
    if not machine.has_dot_products(about):
        lines.append("this CPU has no 8-bit dot products, without which int8 gains little: measure on the device")
    return lines


def _tell(job: Job, about: Mapping[str, object], points: Sequence[Point]) -> None:
    job.tracker.params({f"machine.{name}": value for name, value in about.items()})
    for point in points:
        figures = {"bytes": float(point.bytes), "peak_bytes": float(point.peak_bytes)}
        figures |= {"model_bytes": float(point.model_bytes)}
        for latency in point.latencies:
            shares = {"p50": latency.p50, "p90": latency.p90, "p99": latency.p99}
            figures |= {f"threads_{latency.threads}/{share}_ms": value for share, value in shares.items()}
        job.tracker.metrics({f"{FOLDER}/{point.name}/{name}": value for name, value in figures.items()}, step=0)
    job.tracker.artifact(job.run_dir / FOLDER)
