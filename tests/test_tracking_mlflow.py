"""Tracking a run through the delivery process: real stores, fast, slow and gone."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow_server import free_port, server

from mobilebert_exp.tracking import store
from mobilebert_exp.tracking.base import RunInfo, RunState
from mobilebert_exp.tracking.mlflow import MlflowTracker
from mobilebert_exp.tracking.spool import FILE_NAME, read

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store.resolve_uri(None, None, tmp_path_factory.mktemp("é out") / "runs")


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    """Reads what the delivery process wrote; makes the store."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def info(run_dir: Path, **changes: object) -> RunInfo:
    values: dict[str, object] = {"experiment": "squad", "name": "micro", "run_dir": run_dir, "tags": {"seed": "0"}}
    return RunInfo(**{**values, **changes})  # type: ignore[arg-type]


def losses(client: MlflowClient, run_id: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")]


def test_a_whole_run(client: MlflowClient, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = MlflowTracker(uri)
    began = time.monotonic()
    tracker.start(info(tmp_path))
    tracker.params({"seed": 0, "optimizer.learning_rate": 5e-5, "uri": "http://me:secret@host"})
    for step in range(500):
        tracker.metrics({"loss": 1 / (step + 1), "norm": math.nan if step == 3 else 1.0}, step=step)
    assert time.monotonic() - began < 2, "the caller was made to wait"
    assert tracker.run_id(timeout_s=0) == tracker.open_command() == ""
    (tmp_path / "log.txt").write_text("log")
    tracker.artifact(tmp_path / "log.txt", folder="logs")
    run_id = tracker.run_id(timeout_s=60)
    tracker.end(RunState.FINISHED)
    tracker.end(RunState.FAILED, reason="too late")

    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"seed": "0", "optimizer.learning_rate": "5e-05", "uri": "http://***@host"}
    assert losses(client, run_id) == [(step, 1 / (step + 1)) for step in range(500)]
    assert [file.path for file in client.list_artifacts(run_id, "logs")] == ["logs/log.txt"]
    assert run_id in tracker.open_command()
    assert [entry.step for entry in read(tmp_path / FILE_NAME)] == list(range(500))
    assert not caplog.records


def test_a_process_that_dies_without_a_word_is_not_left_running(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from mobilebert_exp.tracking.base import RunInfo; from mobilebert_exp.tracking.mlflow import MlflowTracker\n"
        "tracker = MlflowTracker(sys.argv[1])\n"
        "tracker.start(RunInfo(experiment='squad', name='n', run_dir=Path(sys.argv[2])))\n"
        "tracker.metrics({'loss': 3.0}, step=1)\n"
        "print(tracker.run_id(timeout_s=60), 'mlflow' in sys.modules, 'pandas' in sys.modules, flush=True)\n"
        "tracker.metrics({'loss': 2.0}, step=2)\n"
        "while tracker._outbox.qsize(): pass\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, uri, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id, *loaded = done.stdout.split()
    assert loaded == ["False", "False"], "the training process loaded what only the delivery process may"
    found = wait_for_end(client, run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["mobilebert_exp.reason"].startswith("the process ended without closing its run")
    assert (1, 3.0) in losses(client, run_id)


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Returns when the condition holds or time is up; the assertion that follows tells which."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)


def wait_for_end(client: MlflowClient, run_id: str) -> Run:
    wait_until(lambda: client.get_run(run_id).info.status != "RUNNING")
    return client.get_run(run_id)


def test_without_a_server_training_goes_on_and_one_line_says_where_the_figures_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = f"http://me:secret@127.0.0.1:{free_port()}"
    tracker = MlflowTracker(nobody, flush_timeout_s=1.0)
    tracker.start(info(tmp_path))
    tracker.params({"a": 1, "b": 2})
    for step in range(50):
        tracker.metrics({"loss": 1.0, "norm": 2.0}, step=step)
    deadline = time.monotonic() + 60
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.1)
    began = time.monotonic()
    tracker.end(RunState.FINISHED)
    assert time.monotonic() - began < 10
    outage, missed = (record.getMessage() for record in caplog.records)
    assert "does not take the run itself" in outage
    assert "has not taken the run itself, 2 params, 100 metric values, the final state" in missed
    for line in (outage, missed):
        assert line.endswith(f"; the run is not affected, all figures are in {tmp_path / FILE_NAME}")
        assert "secret" not in line and "\n" not in line
    assert tracker.run_id(timeout_s=0) == tracker.open_command() == ""
    assert len(read(tmp_path / FILE_NAME)) == 50


def test_a_delivery_process_that_dies_is_told_once_and_the_run_goes_on(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(uri)
    tracker.start(info(tmp_path))
    assert tracker._process is not None
    tracker._process.kill()
    for step in range(2000):
        tracker.metrics({"loss": 1.0}, step=step)
    began = time.monotonic()
    tracker.end(RunState.FINISHED)
    assert time.monotonic() - began < 5
    lines = [record.getMessage() for record in caplog.records]
    assert sum("its delivery process ended with code -9" in line for line in lines) <= 1
    assert "has not taken the run itself, 2,000 metric values, the final state; the run is not affected" in lines[-1]
    assert len(read(tmp_path / FILE_NAME)) == 2000


@pytest.mark.slow
def test_a_server_that_stalls_and_dies_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from mlflow.tracking import MlflowClient

    with server(tmp_path) as (address, group):
        tracker = MlflowTracker(address, flush_timeout_s=3.0)
        tracker.start(info(tmp_path / "run", parent_run_id="feed"))
        tracker.params({"seed": 0})
        tracker.metrics({"loss": 1.0, "odd": math.nan}, step=1)
        run_id = tracker.run_id(timeout_s=60)
        assert tracker.open_command() == f"{address}/#/experiments/1/runs/{run_id}"
        client = MlflowClient(address)
        tracker.artifact(tmp_path / "server.log")
        wait_until(lambda: bool(losses(client, run_id) and client.list_artifacts(run_id)))
        assert losses(client, run_id) == [(1, 1.0)]
        found = client.get_run(run_id)
        assert found.data.params == {"seed": "0"} and math.isnan(found.data.metrics["odd"])
        assert found.data.tags["mlflow.parentRunId"] == "feed"

        os.killpg(group, signal.SIGSTOP)
        began = time.monotonic()
        for step in range(2, 400):
            tracker.metrics({"loss": 1 / step}, step=step)
        assert time.monotonic() - began < 1.0, "a stalled server made training wait"
        os.killpg(group, signal.SIGCONT)
        wait_until(lambda: len(losses(client, run_id)) == 399)
        assert losses(client, run_id) == [(step, 1 / step) for step in range(1, 400)]

        os.killpg(group, signal.SIGKILL)
        for step in range(400, 500):
            tracker.metrics({"loss": 1 / step}, step=step)
        began = time.monotonic()
        tracker.end(RunState.FINISHED)
        assert time.monotonic() - began < 15
    last = caplog.records[-1].getMessage()
    assert re.search(
        r"has not taken 100 metric values, the final state; the run is not affected, all figures are in ", last
    )
    assert [entry.step for entry in read(tmp_path / "run" / FILE_NAME)] == list(range(1, 500))


@pytest.mark.slow
def test_four_processes_that_open_one_fresh_store_all_get_their_run(tmp_path: Path) -> None:
    uri = store.resolve_uri(None, None, tmp_path / "fresh")
    code = (
        "import sys; from pathlib import Path\n"
        "from mobilebert_exp.tracking.base import RunInfo, RunState\n"
        "from mobilebert_exp.tracking.mlflow import MlflowTracker\n"
        "tracker = MlflowTracker(sys.argv[1])\n"
        "tracker.start(RunInfo(experiment='race', name=sys.argv[2], run_dir=Path(sys.argv[2])))\n"
        "tracker.metrics({'loss': 1.0}, step=1)\n"
        "run_id = tracker.run_id(timeout_s=240)\n"
        "tracker.end(RunState.FINISHED)\n"
        "print(run_id)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, str(tmp_path / f"run{number}")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    answers = [process.communicate(timeout=300) for process in processes]
    assert [error for _, error in answers] == [""] * 4
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("race")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_id for run in runs} == {output.strip() for output, _ in answers}
    assert len(runs) == 4
    assert all(run.info.status == "FINISHED" and run.data.metrics == {"loss": 1.0} for run in runs)
