"""`init.checkpoint=mlflow:RUN_ID`: the weights of a run that MLflow knows, from wherever they can be had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import committed
import pytest
import toy
from command_line import here
from fakes import FakeTracker
from mlflow_server import free_port, server

from mobilebert_exp import experiment, fitting, location, manifest, registry
from mobilebert_exp.config import Mode, Resume
from mobilebert_exp.errors import CheckpointError, ConfigError, UserError
from mobilebert_exp.location import Logged
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.tracking import states, store, weights
from mobilebert_exp.tracking.base import RunInfo, RunState

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield store.resolve_uri(None, None, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    made = MlflowClient(uri)
    made.create_experiment("squad", artifact_location=store.artifact_root(uri))
    return made


def told(run_dir: Path, which: Logged) -> FakeTracker:
    """What a run logs of its checkpoints."""
    tracker = FakeTracker()
    tracker.start(RunInfo(experiment="squad", name="micro", run_dir=run_dir))
    weights.record(tracker, run_dir, which)
    return tracker


class Recorded:
    """A run in MLflow, and its folder."""

    def __init__(self, client: MlflowClient, run_dir: Path, **tags: str) -> None:
        self.client, self.run_dir = client, run_dir
        experiment = client.get_experiment_by_name("squad")
        assert experiment is not None
        told = {weights.RUN_DIR_TAG: str(run_dir), "mode": Mode.train.name, **tags}
        self.id: str = client.create_run(experiment.experiment_id, tags=told, run_name="micro").info.run_id

    def folder(self, *, best: int = 0, last: int = 0) -> Recorded:
        """With its folder, and the checkpoints of these steps."""
        self.run_dir.mkdir(parents=True)
        states.write(self.run_dir, identity="abc", state=RunState.FINISHED, run_id=self.id)
        for step, below in ((best, weights.ARTIFACTS["best"]), (last, weights.ARTIFACTS["last"])):
            if step:
                committed.checkpoint(self.run_dir / below, step)
        return self

    def logs(self, which: Logged) -> Recorded:
        tracker = told(self.run_dir, which)
        for name, value in tracker.recorded_params.items():
            self.client.log_param(self.id, name, value)
        for file, folder in tracker.artifacts:
            self.client.log_artifact(self.id, str(file), folder)
        return self

    def moves_away(self) -> Recorded:
        shutil.rmtree(self.run_dir)
        return self


@pytest.fixture
def recorded(client: MlflowClient, tmp_path: Path) -> Callable[..., Recorded]:
    return lambda **tags: Recorded(client, tmp_path / f"run-{uuid.uuid4().hex[:6]}", **tags)


@pytest.fixture
def found(uri: str, tmp_path: Path) -> Callable[[str, str], str]:
    """The place of a run's weights, as the process that asks MLflow finds it."""

    def place(run_id: str, wanted: str = "") -> str:
        cache = str(tmp_path / "cache")
        return weights.place_of(weights.Question(uri=uri, run_id=run_id, wanted=wanted, cache_dir=cache))

    return place


def test_the_runs_own_folder_comes_first(recorded: Callable[..., Recorded], found: Callable[..., str]) -> None:
    run = recorded().folder(best=3, last=5).logs(Logged.best)
    for wanted, suffix in {"": "", "best": "/best", "last": "/last"}.items():
        assert found(run.id, wanted) == f"{run.run_dir}{suffix}"


def test_a_folder_that_another_run_has_now_is_not_taken(
    recorded: Callable[..., Recorded], found: Callable[..., str]
) -> None:
    run = recorded().folder(best=3)
    states.write(run.run_dir, identity="abc", state=RunState.FINISHED, run_id="another")
    with pytest.raises(CheckpointError, match=r"^run micro \(train\) has no checkpoint that can be had here: not in "):
        found(run.id)


def test_artifacts_are_fetched_once_and_checked(
    recorded: Callable[..., Recorded], found: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recorded().folder(best=3, last=5).logs(Logged.best)
    prefix = manifest.prefix_of(run.run_dir / weights.ARTIFACTS["best"], step=3)
    expected = manifest.check(prefix).sha256
    run.moves_away()
    place = tmp_path / "cache/downloads/mlflow" / run.id
    for wanted, suffix in {"": "", "best": "/best"}.items():
        assert found(run.id, wanted) == f"{place}{suffix}"
    copy = manifest.prefix_of(place / "checkpoints/best", step=3)
    assert manifest.check(copy).sha256 == expected
    assert sorted(os.listdir(place)) == ["checkpoints"]

    stamps = {file: file.stat().st_mtime_ns for file in copy.parent.iterdir()}
    found(run.id)
    assert {file: file.stat().st_mtime_ns for file in copy.parent.iterdir()} == stamps, "not fetched again"
    committed.flip(Path(f"{copy}.index"))
    found(run.id)
    assert manifest.check(copy).sha256 == expected, "what was damaged in the cache is fetched again"
    with pytest.raises(CheckpointError, match=r"^run micro \(train\) has no last that can be had here: "):
        found(run.id, "last")


def test_a_later_checkpoint_is_fetched_when_there_is_one(
    recorded: Callable[..., Recorded], found: Callable[..., str], tmp_path: Path
) -> None:
    run = recorded().folder(last=5).logs(Logged.last)
    committed.checkpoint(run.run_dir / "checkpoints", 9)
    copy = tmp_path / "cache/downloads/mlflow" / run.id / "checkpoints"
    states.write(run.run_dir, identity="abc", state=RunState.FINISHED, run_id="hidden")
    found(run.id, "last")
    assert [prefix.name for prefix in manifest.committed(copy)] == ["ckpt-5"]
    run.logs(Logged.last)
    found(run.id)
    assert [prefix.name for prefix in manifest.committed(copy)] == ["ckpt-9", "ckpt-5"]


def test_the_bucket_has_what_neither_the_folder_nor_mlflow_has(
    recorded: Callable[..., Recorded], found: Callable[..., str], tmp_path: Path
) -> None:
    run = recorded(bucket="gs://one-bucket/squad/today").folder(best=3, last=5)
    run.logs(Logged.last).moves_away()
    assert found(run.id) == "gs://one-bucket/squad/today", "the best is there, and MLflow has but the newest"
    assert found(run.id, "best") == "gs://one-bucket/squad/today/best"
    assert found(run.id, "last") == str(tmp_path / "cache/downloads/mlflow" / run.id / "last")


def test_damaged_artifacts_are_one_line(
    recorded: Callable[..., Recorded], found: Callable[..., str], client: MlflowClient, tmp_path: Path
) -> None:
    run = recorded().folder(best=3).logs(Logged.best)
    run.moves_away()
    torn = tmp_path / "ckpt-3.index"
    torn.write_text("torn")
    client.log_artifact(run.id, str(torn), "checkpoints/best")
    with pytest.raises(CheckpointError) as refused:
        found(run.id)
    assert str(refused.value) == (
        "what MLflow has of it is damaged: ckpt-3 is damaged (ckpt-3.index has 4 bytes, not 7); "
        "name another checkpoint or run"
    )
    assert not list((tmp_path / "cache").rglob("*.index")), "nothing of it stays"


def test_artifacts_must_be_those_that_the_run_recorded(
    recorded: Callable[..., Recorded], found: Callable[..., str], client: MlflowClient, tmp_path: Path
) -> None:
    run = recorded().folder(best=3).logs(Logged.best)
    run.moves_away()
    other = committed.checkpoint(tmp_path / "other", 3, "of another run")
    for file in other.parent.iterdir():
        client.log_artifact(run.id, str(file), "checkpoints/best")
    with pytest.raises(
        CheckpointError, match=r"ckpt-3\.data-00000-of-00001 has another sha256 than the run recorded; "
    ):
        found(run.id)


def test_what_cannot_be_had_is_one_line(
    recorded: Callable[..., Recorded], found: Callable[..., str], client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r" has no run of this id; look it up there, or set tracking.uri to the "):
        found(uuid.uuid4().hex)
    run = recorded(mode="evaluate").folder()
    with pytest.raises(CheckpointError, match=rf"^run micro \(evaluate\) has no checkpoint .+ folder {run.run_dir} o"):
        found(run.id)
    client.delete_run(run.id)
    with pytest.raises(CheckpointError, match=rf"MLflow's bin; restore it \(mlflow runs restore --run-id {run.id}\)"):
        found(run.id)
    nowhere = store.resolve_uri(None, None, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=rf"^there is no MLflow store at {tmp_path}/nowhere/mlflow.db; set trackin"):
        weights.place_of(weights.Question(uri=nowhere, run_id="a", wanted="", cache_dir=str(tmp_path)))
    assert not (tmp_path / "nowhere").exists(), "nobody makes a store to look into it"


@pytest.mark.parametrize("place", ["mlflow:", "mlflow:a/b", "mlflow:../x", "mlflow:a/best/", "mlflow:a b", "mlflow:ä"])
def test_a_name_that_is_none_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r" names no run; write mlflow:RUN_ID, or RUN_ID/best, or RUN_ID/last$"):
        weights.resolve(place, uri="sqlite:///none.db", cache_dir=tmp_path)


def test_the_process_that_asks_answers(recorded: Callable[..., Recorded], uri: str, tmp_path: Path) -> None:
    run = recorded().folder(best=3)
    assert weights.resolve(f"mlflow:{run.id}/best", uri=uri, cache_dir=tmp_path) == f"{run.run_dir}/best"
    nobody = f"http://me:secret@127.0.0.1:{free_port()}"
    with pytest.raises(UserError) as refused:
        weights.resolve(f"mlflow:{run.id}", uri=nobody, cache_dir=tmp_path)
    address = nobody.replace("me:secret", "***")
    assert str(refused.value) == (
        f"init.checkpoint=mlflow:{run.id}: {address} does not answer; start the server, or set tracking.uri"
    )


def test_a_run_s_own_folder_is_gone_on_with_in_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in the folder that an evaluation is given: its weights are those that it names."""
    committed.checkpoint(tmp_path / "run/checkpoints", 4)
    place, given = f"mlflow:{uuid.uuid4().hex}", []

    def run(job: Job) -> Outcome:
        given.append(job.config.init.checkpoint)
        return Outcome()

    runner = type("Fake", (), {"run": staticmethod(run)})
    monkeypatch.setattr(registry, "create_task", lambda config: toy.task(config, tmp_path / "toy"))
    monkeypatch.setattr(registry, "runner", lambda mode: runner)
    monkeypatch.setattr(weights, "resolve", lambda place, **_: str(tmp_path / "run"))
    changes = {"init__checkpoint": place, "output_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    monkeypatch.setattr(fitting, "_check", lambda *_: None)
    monkeypatch.setattr(location, "check", lambda _: None)
    for mode in (Mode.evaluate, Mode.train):
        config = toy.experiment(**changes, mode=mode, resume=Resume.never)
        experiment.run(config, run_dir=tmp_path / "run")
    assert given == [str(tmp_path / "run"), place]


def test_only_what_is_asked_for_and_whole_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    committed.checkpoint(tmp_path / "checkpoints", 4)
    committed.checkpoint(tmp_path / "checkpoints", 5)
    committed.flip(tmp_path / "checkpoints/ckpt-5.index")

    def logged(which: Logged) -> list[tuple[str, str]]:
        return [(path.name, folder) for path, folder in told(tmp_path, which).artifacts]

    assert logged(Logged.none) == logged(Logged.best) == []
    parts = ("data-00000-of-00001", "index", "json")
    assert logged(Logged.last) == [(f"ckpt-4.{part}", "checkpoints") for part in parts], "the manifest last"
    assert (
        "ckpt-5 is damaged (ckpt-5.index has another crc32c than when it was written); it is not logged" in caplog.text
    )


STARTER = [
    "+preset=starter",
    "task.starter.train_articles=12",
    "task.starter.dev_articles=2",
    "task.starter.vocabulary_size=300",
    "task.max_seq_length=128",
    "task.global_batch_size=4",
    "trainer.max_steps=3",
    "model.num_layers=1",
    "hardware.steps_per_loop=1",
]


class Machine:
    """A place of its own, which shares nothing with others but the server's address."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self._settings = [f"output_dir={folder}/out", f"cache_dir={folder}/cache", f"tracking.uri={address}"]

    def runs(self, *more: str) -> tuple[int, str, Path]:
        """The exit code, what was said to stderr, and the run's folder."""
        run_dir = self.folder / f"run-{uuid.uuid4().hex[:6]}"
        ended = here(*STARTER, *self._settings, f"hydra.run.dir={run_dir}", *more)
        return ended.code, ended.err, run_dir

    def finishes(self, *more: str) -> tuple[dict[str, Any], Path]:
        code, error, run_dir = self.runs(*more)
        assert code == 0, error
        return json.loads((run_dir / "result.json").read_text()), run_dir

    def refuses(self, place: str, reason: str) -> None:
        """In one line."""
        code, error, _ = self.runs("mode=evaluate", f"init.checkpoint={place}")
        assert (code, error.count("\n")) == (2, 1), error
        assert error.startswith(f"error: init.checkpoint={place}: ") and reason in error


@pytest.mark.slow
def test_weights_travel_through_a_real_server(tmp_path: Path) -> None:
    """Trained on one machine, evaluated and trained on from another."""
    from mlflow.tracking import MlflowClient

    with server(tmp_path) as (address, group):
        one, other, third = (Machine(tmp_path / name, address) for name in ("one", "other", "third"))
        first, trained = one.finishes("tracking.log_checkpoints=best")
        place = f"mlflow:{first['run_id']}"
        shutil.rmtree(trained)

        second, _ = other.finishes("mode=evaluate", f"init.checkpoint={place}")
        assert second["metrics"]["f1"] == first["metrics"]["best_checkpoint_f1"]
        other.finishes(f"init.checkpoint={place}/best", "seed=1")
        code, error, _ = other.runs("mode=evaluate", f"init.checkpoint={place}", "task.starter.seed=1")
        assert code == 2 and "was trained with another vocabulary of as many entries" in error
        params = MlflowClient(address).get_run(second["run_id"]).data.params
        assert params["init.checkpoint"] == place
        copy = other.folder / "cache/downloads/mlflow" / first["run_id"] / "checkpoints/best"
        assert params["init.sha256"] == manifest.check(manifest.committed(copy)[0]).sha256

        converted = here("convert", place, f"{tmp_path}/tf1", "--to", "tf1", "--tracking-uri", address)
        assert converted.code == 0, converted.err
        assert (tmp_path / "tf1/mobilebert.ckpt.index").is_file()

        third.refuses(f"mlflow:{second['run_id']}", "(evaluate) has no checkpoint that can be had here")
        third.refuses(f"{place}/last", "(train) has no last that can be had here")
        third.refuses(f"mlflow:{'0' * 32}", f"{address} has no run of this id; look it up there, or set tracking.uri")
        os.killpg(group, signal.SIGKILL)
        third.refuses(place, f"{address} does not answer; start the server, or set tracking.uri")
