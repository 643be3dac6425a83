"""What messages become in MLflow: a real SQLite store, written from this process."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mobilebert_exp.tracking import limits, store
from mobilebert_exp.tracking.base import RunState
from mobilebert_exp.tracking.delivery import RefusedError
from mobilebert_exp.tracking.destination import MlflowRun
from mobilebert_exp.tracking.messages import End, Metrics, Start

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def one_try() -> Iterator[None]:
    """The delivery process's own setting, for the calls that tests make in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        patch.setenv("MLFLOW_LOGGING_LEVEL", "CRITICAL")
        yield


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store.resolve_uri(None, None, tmp_path_factory.mktemp("é out") / "runs")


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    run = MlflowRun()
    run.open(start(uri))
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def start(uri: str, **changes: object) -> Start:
    values: dict[str, object] = {
        "uri": uri,
        "artifact_root": store.artifact_root(uri),
        "experiment": "squad",
        "name": "micro-seed0",
        "parent_run_id": "",
        "tags": {"git.commit": "abc", "seed": "0"},
        "resume_run_id": "",
        "time_ms": 1_700_000_000_000,
    }
    return Start(**{**values, **changes})  # type: ignore[arg-type]


def end(state: RunState, reason: str = "") -> End:
    return End(state=state.value, reason=reason, time_ms=1_700_000_060_000, timeout_s=5.0)


def figures(step: int, **values: float) -> Metrics:
    return Metrics(values=values, step=step, time_ms=1_700_000_000_000 + step)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (RunState.FINISHED, "FINISHED"),
        (RunState.FAILED, "FAILED"),
        (RunState.KILLED, "KILLED"),
        (RunState.PREEMPTED, "KILLED"),
    ],
)
def test_a_run_ends_in_its_true_state(client: MlflowClient, uri: str, state: RunState, status: str) -> None:
    reason = "" if state is RunState.FINISHED else "ValueError: it broke"
    run = MlflowRun()
    opened = run.open(start(uri, parent_run_id="abc"))
    assert client.get_run(opened.run_id).info.status == "RUNNING"
    run.end(end(state, reason))
    found = client.get_run(opened.run_id)
    assert (found.info.status, found.info.end_time - found.info.start_time) == (status, 60_000)
    tags = found.data.tags
    assert tags["mobilebert_exp.state"] == state.value
    assert tags.get("mobilebert_exp.reason", "") == reason
    assert tags.get("mlflow.note.content", "") == (f"{state.value}: {reason}" if reason else "")
    assert tags["mlflow.parentRunId"] == "abc"
    assert tags["mlflow.source.git.commit"] == tags["git.commit"] == "abc"
    assert client.get_experiment(opened.experiment_id).name == "squad"


def test_a_resumed_run_goes_on_and_a_changed_param_becomes_a_tag(client: MlflowClient, uri: str) -> None:
    first = MlflowRun()
    opened = first.open(start(uri))
    first.params({"seed": "1", "trainer.max_steps": "100", "long": "x" * 9000})
    first.metrics([figures(1, loss=2.0)])
    first.end(end(RunState.KILLED, "stopped by signal 2"))

    again = MlflowRun()
    assert again.open(start(uri, resume_run_id=opened.run_id)) == opened
    found = client.get_run(opened.run_id)
    assert found.info.status == "RUNNING"
    assert not {"mobilebert_exp.reason", "mlflow.note.content"} & set(found.data.tags)
    again.params({"seed": "1", "trainer.max_steps": "200", "long": "x" * 9000, "new": "2"})
    again.metrics([figures(2, loss=1.0)])
    again.end(end(RunState.FINISHED))

    found = client.get_run(opened.run_id)
    assert found.info.status == "FINISHED"
    assert {name: found.data.params[name] for name in ("seed", "trainer.max_steps", "new")} == {
        "seed": "1",
        "trainer.max_steps": "100",
        "new": "2",
    }
    resumed = {name: value for name, value in found.data.tags.items() if name.startswith("resumed.")}
    assert resumed == {"resumed.trainer.max_steps": "200"}
    assert [(point.step, point.value) for point in client.get_metric_history(opened.run_id, "loss")] == [(1, 2), (2, 1)]


def test_a_run_that_the_store_does_not_have_starts_anew_and_says_so(client: MlflowClient, uri: str) -> None:
    opened = MlflowRun().open(start(uri, resume_run_id="0" * 32))
    assert opened.run_id != "0" * 32
    assert client.get_run(opened.run_id).data.tags["mobilebert_exp.resumed_from"] == "0" * 32


def test_everything_can_be_said_twice(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    run = MlflowRun()
    opened = run.open(start(uri))
    assert run.open(start(uri)) == opened  # the first answer was lost
    (tmp_path / "a.txt").write_text("a")
    for _ in range(2):
        run.params({"a": "1"})
        run.metrics([figures(1, loss=2.0, bad=math.nan), figures(2, loss=1.0)])
        run.artifact(tmp_path / "a.txt", folder="texts")
        run.end(end(RunState.FINISHED))
    assert [point.value for point in client.get_metric_history(opened.run_id, "loss")] == [2, 1]
    assert len(client.get_metric_history(opened.run_id, "bad")) == 1
    assert [file.path for file in client.list_artifacts(opened.run_id, "texts")] == ["texts/a.txt"]


def test_many_and_long_params_fit_and_nothing_is_lost(client: MlflowClient, uri: str) -> None:
    run = MlflowRun()
    opened = run.open(start(uri, tags={"note": "t" * 9000}))
    values = {f"key {number}/@{number}": str(number) for number in range(250)}
    run.params({**values, "text": "é" * 7000, "k" * 300: "long key"})
    found = client.get_run(opened.run_id)
    assert len(found.data.params) == 252
    assert all(found.data.params[limits.key(name)] == value for name, value in values.items())
    assert found.data.params[limits.key("k" * 300)] == "long key"
    assert len(found.data.params["text"]) == limits.MAX_PARAM_LENGTH
    assert "[7000 characters" in found.data.params["text"]
    assert Path(client.download_artifacts(opened.run_id, "long_values/text.txt")).read_text() == "é" * 7000
    assert Path(client.download_artifacts(opened.run_id, "long_values/note.txt")).read_text() == "t" * 9000


def test_figures_that_are_not_finite_are_told_as_they_are(client: MlflowClient, uri: str) -> None:
    run = MlflowRun()
    opened = run.open(start(uri))
    run.metrics([figures(1, loss=1.0, big=1.0), figures(2, loss=math.nan, big=math.inf, small=-math.inf)])
    run.metrics([figures(3, loss=math.nan, big=math.inf)])
    history = [point.value for point in client.get_metric_history(opened.run_id, "loss")]
    assert history[0] == 1.0 and all(math.isnan(value) for value in history[1:])
    tags = client.get_run(opened.run_id).data.tags
    marks = {name: value for name, value in tags.items() if "not_finite" in name}
    prefix = "mobilebert_exp.not_finite."
    assert marks == {
        prefix + "loss": "nan at step 2",
        prefix + "big": "inf at step 2",
        prefix + "small": "-inf at step 2",
    }


def test_many_figures_at_once_all_arrive(client: MlflowClient, uri: str) -> None:
    run = MlflowRun()
    opened = run.open(start(uri))
    run.metrics([Metrics(values={f"m{number}": float(number) for number in range(2500)}, step=1, time_ms=1)])
    assert client.get_run(opened.run_id).data.metrics == {f"m{number}": float(number) for number in range(2500)}


def test_artifacts_lie_beside_the_database(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    run = MlflowRun()
    opened = run.open(start(uri))
    folder = tmp_path / "predictions"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.json").write_text("{}")
    run.artifact(folder, folder="dev")
    run.artifact(folder / "deep" / "a.json", folder="")
    database = store.sqlite_file(uri)
    assert database is not None
    root = database.parent / "mlartifacts" / opened.run_id / "artifacts"
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert files == ["a.json", "dev/predictions/deep/a.json"]
    with pytest.raises(RefusedError, match=r"gone is not there any more"):
        run.artifact(tmp_path / "gone", folder="")


def test_an_experiment_in_the_bin_is_one_line_with_the_remedy(client: MlflowClient, uri: str) -> None:
    opened = MlflowRun().open(start(uri, experiment="binned"))
    client.delete_experiment(opened.experiment_id)
    with pytest.raises(
        RefusedError, match=rf"restore it \(mlflow experiments restore --experiment-id {opened.experiment_id}\)"
    ):
        MlflowRun().open(start(uri, experiment="binned"))


def test_a_file_that_is_no_store_is_refused_at_once(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, not a database")
    began = time.monotonic()
    with pytest.raises(RefusedError, match=r"notes\.db is not a SQLite database; move it away or set tracking\.uri"):
        MlflowRun().open(start(f"sqlite:///{tmp_path}/notes.db"))
    assert time.monotonic() - began < 2


def test_what_mlflow_will_never_take_is_refused(client: MlflowClient, uri: str) -> None:
    with pytest.raises(RefusedError, match="name"):
        MlflowRun().open(start(uri, experiment=""))


def test_a_store_of_an_older_mlflow_is_refused_with_the_remedy(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    database = store.sqlite_file(uri)
    assert database is not None
    with sqlite3.connect(database) as source, sqlite3.connect(tmp_path / "old.db") as old:
        source.backup(old)
        old.execute("UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(RefusedError, match=r"out-of-date database schema .* run 'mlflow db upgrade"):
        MlflowRun().open(start(f"sqlite:///{tmp_path}/old.db"))
