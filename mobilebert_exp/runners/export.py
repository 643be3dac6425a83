"""mode=export: a run's model as files for devices and servers, each whole or not at all."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilebert_exp import __version__, location
from mobilebert_exp.architecture import FakeQuantization
from mobilebert_exp.config import leaves
from mobilebert_exp.deployment import Answer, ExportFormat
from mobilebert_exp.errors import NoSuchFormError, OutputError
from mobilebert_exp.files import whole_folder, write_bytes, write_json
from mobilebert_exp.lite import cards, metadata, write
from mobilebert_exp.lite.metadata import Card
from mobilebert_exp.modeling import quantizers
from mobilebert_exp.modeling.checkpoints import saved_model
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import QUANTIZERS
from mobilebert_exp.runners import calibration, evaluations, initial, peak_memory
from mobilebert_exp.runners.base import Job, Outcome, quiet_libraries
from mobilebert_exp.storage.place import is_remote
from mobilebert_exp.tasks.base import Deployable

log = logging.getLogger(__name__)
NAMES = {  # what each format is called in the run's folder, TFLite's as the original calls them
    ExportFormat.savedmodel: "saved_model",
    ExportFormat.tflite_float: "model_float.tflite",
    ExportFormat.tflite_float16: "model_float16.tflite",
    ExportFormat.tflite_dynamic: "model_dynamic.tflite",
    ExportFormat.tflite_int8: "model_int8.tflite",
    ExportFormat.tflite_int8_strict: "model_int8_strict.tflite",
}
DIGEST = "sha256."  # before the name of a file, as a param


@dataclass(kw_only=True, frozen=True, slots=True)
class Written:
    """A file, or a SavedModel's folder, and what it took; `sha256` as in `evaluations.digest`."""

    file: str
    bytes: int
    sha256: str
    seconds: float
    peak_memory_bytes: int


def run(job: Job) -> Outcome:
    """Writes `export.format`, or every format that the model has, of `init.checkpoint`.

    Raises:
      NoSuchFormError: the model has no such form.
      ExportError: it cannot be exported at all, e.g. as it has diverged.
    """
    quiet_libraries()
    config, folder = job.config, job.run_dir / location.EXPORTS
    rows = calibration.rows(job) if config.is_calibrated else []
    found = initial.read(job, whole=True)
    exporter = _Exporter(job, found.weights, {name: found.weights.values[name] for name in found.account.loaded}, rows)
    written: dict[str, Written] = {}
    left_out: dict[str, str] = {}
    folder.mkdir(exist_ok=True)
    is_each = config.export.format is ExportFormat.all
    for each in NAMES if is_each else [config.export.format]:
        try:
            written[each.name] = exporter.write(each, folder / NAMES[each])
        except NoSuchFormError as problem:
            if not is_each:
                raise
            left_out[each.name] = str(problem)
            log.warning("no %s is written: %s", each.name, problem)
    _record(job, written, left_out, exporter.source)
    return Outcome(
        metrics={f"{name}_megabytes": each.bytes / 1e6 for name, each in written.items()},
        timings={f"{name}_s": each.seconds for name, each in written.items()},
        paths={"exports": str(folder)},
        text=_table(written),
    )


class _Exporter:
    """Writes one model, `values` by name, in any format."""

    def __init__(
        self,
        job: Job,
        weights: Weights,
        values: Mapping[str, np.ndarray],
        rows: list[dict[str, np.ndarray]],
    ) -> None:
        assert isinstance(job.task, Deployable), "told before"
        self._config, self._head, self._deployment = job.config, job.task.head, job.task.deployment()
        self._values = {name: value for name, value in values.items() if not name.startswith(QUANTIZERS)}
        self._ranges, self._rows = quantizers.ranges(weights.values), rows
        self.source = _source(job, weights)

    def write(self, format: ExportFormat, path: Path) -> Written:
        """Raises ExportError where the model cannot be exported so, OutputError where it cannot be written."""
        started = time.monotonic()
        with peak_memory.measured() as peak:
            if format is ExportFormat.savedmodel:
                self._saved_model(path)
            else:
                content = self._tflite(format)
            seconds, most = time.monotonic() - started, peak()
        if format is not ExportFormat.savedmodel:
            _put(path, content)
        log.info("%s took %.1f s", path, seconds)
        return Written(
            file=path.name,
            bytes=evaluations.size(path),
            sha256=evaluations.digest(path),
            seconds=seconds,
            peak_memory_bytes=most,
        )

    def _tflite(self, format: ExportFormat) -> bytes:
        export, card = self._config.export, self._card(format)
        model = write.tflite(
            self._values,
            model=self._config.model,
            head=Answer(card.head),
            format=format,
            length=card.length,
            dynamic_length=card.dynamic_length,
            ranges=self._ranges,
            calibration_rows=self._rows,
            mask_value=export.mask_value,
            metadata={metadata.BUFFER: metadata.described(card)},
        )
        return metadata.with_files(model, metadata.files(card))

    def _saved_model(self, folder: Path) -> None:
        """In float, whatever the model was trained with; its inputs may be of any length."""
        model = dataclasses.replace(self._config.model, fake_quantization=FakeQuantization.none)
        weights = Weights(
            values=self._values,
            model=leaves(model),
            head=self._head,
            vocabulary=self._deployment.vocabulary,
            lower_case=self._config.task.lower_case,
        )
        with whole_folder(folder) as partial:
            saved_model.write(weights, partial)
            cards.put_beside(self._card(ExportFormat.savedmodel), partial)

    def _card(self, format: ExportFormat) -> Card:
        config, deployment, is_served = self._config, self._deployment, format is ExportFormat.savedmodel
        return Card(
            task=config.task.name,
            head=deployment.answer.value,
            labels=deployment.labels,
            vocabulary=deployment.vocabulary,
            lower_case=config.task.lower_case,
            length=config.model.max_positions if is_served else config.task.max_seq_length,
            dynamic_length=config.export.dynamic_length or is_served,
            preprocessing=deployment.preprocessing,
            source=self.source,
            format=format.name,
        )


def _source(job: Job, weights: Weights) -> dict[str, str]:
    """Where the weights come from, for the card.

    No place of this machine, which is nobody else's business, and nothing of this run: equal weights give equal files.
    """
    config = job.config
    assert config.init.checkpoint is not None, "checked in the configuration"
    main = config.task.main_metric
    result = location.read(location.run_of(config.init.checkpoint) / location.RESULT_FILE).get("metrics", {})
    known = {
        cards.HEAD: job.task.head,
        cards.SOURCE_RUN: job.source_run_id,
        cards.CHECKPOINT: weights.digest,
        "model": config.model.name,
        "main_metric": f"{main}={result[main]:.2f}" if main in result else main,
        "mobilebert_exp": __version__,
    }
    return {name: value for name, value in known.items() if value}


def _put(path: Path, content: bytes) -> None:
    try:
        write_bytes(path, content)
    except OSError as problem:
        raise OutputError(
            f"{path} cannot be written ({problem.strerror}); make room there, or set output_dir elsewhere"
        ) from None


def _record(job: Job, written: Mapping[str, Written], left_out: Mapping[str, str], source: Mapping[str, str]) -> None:
    """Writes `exports.json` and tells the tracker: files, their sha256, and what they took."""
    config, folder = job.config, job.run_dir / location.EXPORTS
    record = {
        "run_id": job.tracker.run_id(),
        "task": config.task.name,
        "length": config.task.max_seq_length,
        "dynamic_length": config.export.dynamic_length,
        "checkpoint": _place_of(config.init.checkpoint or ""),
        "source": dict(source),
        "files": {name: dataclasses.asdict(each) for name, each in written.items()},
        "left_out": dict(left_out),
    }
    write_json(folder / location.EXPORTS_FILE, record)
    job.tracker.params({f"{DIGEST}{each.file}": each.sha256 for each in written.values()})
    for name, each in written.items():
        figures = {"bytes": each.bytes, "seconds": each.seconds, "peak_memory_bytes": each.peak_memory_bytes}
        job.tracker.metrics({f"export/{name}/{figure}": value for figure, value in figures.items()}, step=0)
    job.tracker.artifact(folder)


def _place_of(checkpoint: str) -> str:
    """Where whoever reads the record finds it, from any folder; what lies elsewhere is called the same from all."""
    return checkpoint if is_remote(checkpoint) else str(Path(checkpoint).expanduser().absolute())


def _table(written: Mapping[str, Written]) -> str:
    rows = [("format", "file", "MB", "seconds", "peak MiB")] + [
        (name, each.file, f"{each.bytes / 1e6:.2f}", f"{each.seconds:.1f}", f"{each.peak_memory_bytes / 2**20:,.0f}")
        for name, each in written.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if at < 2 else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
