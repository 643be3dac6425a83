"""One MLflow run, written through `MlflowClient` alone: no fluent API, no active run, no global tracking URI.

Every method can be called again after it failed half-way: what is there already is found or overwritten, not doubled.
"""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mobilebert_exp.tracking import limits, store
from mobilebert_exp.tracking.delivery import LARGEST_BATCH, RefusedError
from mobilebert_exp.tracking.messages import End, Metrics, Opened, Start

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

STATE_TAG = "mobilebert_exp.state"
REASON_TAG = "mobilebert_exp.reason"
_START_TAG = "mobilebert_exp.start"
_NOTE_TAG = "mlflow.note.content"
_PARENT_TAG = "mlflow.parentRunId"
_LOCK_TIMEOUT_S = 120.0
_SHOWN_BY_MLFLOW = {"git.commit": "mlflow.source.git.commit", "command": "mlflow.source.name"}


class MlflowRun:
    """The destination of one run's messages; `open` comes first.

    Args:
      patience: a context in which a call to MLflow may take so many seconds longer.
    """

    def __init__(self, *, patience: Callable[[float], AbstractContextManager[object]] = contextlib.nullcontext) -> None:
        self._patience = patience
        self._client: MlflowClient
        self._run_id = ""
        self._recorded: dict[str, str] = {}
        self._not_finite: set[str] = set()
        self._start_mark = uuid.uuid4().hex
        self._tried = False

    def open(self, start: Start) -> Opened:
        with _refusals():
            self._client = _connect(start.uri)
            run_id = self._continued(start.resume_run_id) if start.resume_run_id else ""
            if not run_id:
                run_id = self._created(start, experiment=self._experiment(start))
            run = self._client.get_run(run_id)
            self._run_id = run_id
            self._recorded = dict(run.data.params)
            self._set_tags({STATE_TAG: "RUNNING", **start.tags, **_source_tags(start.tags)})
            return Opened(run_id=run_id, experiment_id=run.info.experiment_id)

    def params(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        with _refusals():
            fitted = self._fitted(values, limit=limits.MAX_PARAM_LENGTH)
            new = [Param(name, text) for name, text in fitted.items() if name not in self._recorded]
            changed = {
                f"resumed.{name}": text for name, text in fitted.items() if self._recorded.get(name, text) != text
            }
            for first in range(0, len(new), limits.PARAMS_PER_CALL):
                self._client.log_batch(self._run_id, params=new[first : first + limits.PARAMS_PER_CALL])
            self._recorded.update((param.key, param.value) for param in new)
            self._set_tags(changed)

    def metrics(self, batch: Sequence[Metrics]) -> None:
        from mlflow.entities import Metric

        with _refusals():
            rows = [
                Metric(limits.key(name), value, figures.time_ms, figures.step)
                for figures in batch
                for name, value in figures.values.items()
            ]
            for first in range(0, len(rows), LARGEST_BATCH):
                self._client.log_batch(self._run_id, metrics=rows[first : first + LARGEST_BATCH])
            self._tag_not_finite(batch)

    def artifact(self, path: Path, *, folder: str) -> None:
        with _refusals(), self._patience(limits.extra_s(path)):
            if path.is_dir():
                self._client.log_artifacts(self._run_id, str(path), "/".join(filter(None, (folder, path.name))))
            elif path.is_file():
                self._client.log_artifact(self._run_id, str(path), folder or None)
            else:
                raise RefusedError(f"{path} is not there any more")

    def end(self, end: End) -> None:
        with _refusals():
            tags = {STATE_TAG: end.state}
            if end.reason:
                tags |= {REASON_TAG: end.reason, _NOTE_TAG: f"{end.state}: {end.reason}"}
            self._set_tags(tags)
            status = "KILLED" if end.state == "PREEMPTED" else end.state
            self._client.set_terminated(self._run_id, status, end_time=end.time_ms)

    def _experiment(self, start: Start) -> str:
        """The id of the experiment, made if need be."""
        found = self._active(start.experiment)
        if found is not None:
            return str(found.experiment_id)
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.create_experiment(start.experiment, artifact_location=start.artifact_root or None))
        except MlflowException as error:
            made_meanwhile = self._active(start.experiment) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if made_meanwhile is None:
                raise
            return str(made_meanwhile.experiment_id)

    def _active(self, name: str) -> Experiment | None:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise RefusedError(
                f"the experiment {name} is in MLflow's bin; restore it "
                f"(mlflow experiments restore --experiment-id {experiment.experiment_id}) or set tracking.experiment"
            )
        return experiment

    def _created(self, start: Start, *, experiment: str) -> str:
        if self._tried:  # an answer that was lost may have left a run behind
            found = self._client.search_runs([experiment], f"tags.`{_START_TAG}` = '{self._start_mark}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        self._tried = True
        tags = {_START_TAG: self._start_mark, "mlflow.source.type": "LOCAL"}
        if start.parent_run_id:
            tags[_PARENT_TAG] = start.parent_run_id
        if start.resume_run_id:
            tags["mobilebert_exp.resumed_from"] = start.resume_run_id
        run = self._client.create_run(experiment, start_time=start.time_ms, tags=tags, run_name=start.name)
        return str(run.info.run_id)

    def _continued(self, run_id: str) -> str:
        """The run to resume, RUNNING again; "" when the store does not have it."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        if run.info.lifecycle_stage == "deleted":
            return ""
        self._client.update_run(run_id, status="RUNNING")
        for tag in (REASON_TAG, _NOTE_TAG):
            if tag in run.data.tags:
                self._client.delete_tag(run_id, tag)
        return run_id

    def _set_tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, text) for name, text in self._fitted(values, limit=limits.MAX_TAG_LENGTH).items()]
        for first in range(0, len(tags), limits.PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, tags=tags[first : first + limits.PARAMS_PER_CALL])

    def _fitted(self, values: Mapping[str, str], *, limit: int) -> dict[str, str]:
        """Names and texts as MLflow takes them; of a text that is too long the head, and the whole as an artifact."""
        fitted = {}
        for name, text in values.items():
            key = limits.key(name)
            fitted[key] = text
            if len(text) > limit:
                whole = f"long_values/{key}.txt"
                self._client.log_text(self._run_id, text, whole)
                fitted[key] = limits.cut(text, limit=limit, whole=whole)
        return fitted

    def _tag_not_finite(self, batch: Sequence[Metrics]) -> None:
        """Names the first step of a metric that is not finite: SQL stores keep an infinity as the largest float."""
        tags = {}
        for figures in batch:
            for name, value in figures.values.items():
                if not math.isfinite(value) and name not in self._not_finite and name not in tags:
                    tags[name] = f"{value} at step {figures.step}"
        if tags:
            self._set_tags({f"mobilebert_exp.not_finite.{name}": text for name, text in tags.items()})
            self._not_finite.update(tags)


def _connect(uri: str) -> MlflowClient:
    """A client whose store is ready.

    MLflow itself retries an unusable SQLite file for 100 s, and lets fresh processes race through its migrations;
    so the file is looked at first, and opened under a lock.
    """
    from mlflow.tracking import MlflowClient

    database = store.sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    from filelock import FileLock

    database.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(database if database.exists() else database.parent, os.W_OK):
        raise RefusedError(f"{database} cannot be written; set tracking.uri or output_dir to a place that can")
    with FileLock(f"{database}.lock", timeout=_LOCK_TIMEOUT_S):
        if database.exists():
            with database.open("rb") as file:
                head = file.read(16)
            if head not in (b"", b"SQLite format 3\0"):
                raise RefusedError(f"{database} is not a SQLite database; move it away or set tracking.uri")
        return MlflowClient(uri)


def _source_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """What MLflow's own columns for the source show."""
    return {theirs: tags[ours] for ours, theirs in _SHOWN_BY_MLFLOW.items() if ours in tags}


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns an answer that will stay the same (HTTP 4xx but for 408 and 429, an old schema) into RefusedError."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    try:
        yield
    except MlflowException as error:
        outdated = "out-of-date database schema" in str(error)
        status = cast("Callable[[], int]", error.get_http_status_code)()
        if outdated or _is_final(status):
            raise RefusedError(str(error).splitlines()[0]) from error
        raise
    except HTTPError as error:
        if error.response is not None and _is_final(error.response.status_code):
            raise RefusedError(str(error).splitlines()[0]) from error
        raise


def _is_final(status: int) -> bool:
    return 400 <= status < 500 and status not in (408, 429)
