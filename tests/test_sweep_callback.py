"""A real Hydra multirun: its own run in the tracker, one table at its end, whatever became of its jobs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeTracker
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from mobilebert_exp.sweeping import callback as module
from mobilebert_exp.sweeping.callback import SweepCallback
from mobilebert_exp.sweeping.parent import parent_run_id
from mobilebert_exp.tracking.base import RunState

ROOT = Path(__file__).resolve().parents[1]

APPLICATION = """
import json, os, sys
from pathlib import Path
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from mobilebert_exp.sweeping.parent import parent_run_id

def main(config):
    job = HydraConfig.get()
    if config.seed == config.breaks:
        raise ValueError(f"seed {config.seed} [is] bad\\nand a second line")
    if config.seed == config.dies:
        raise KeyboardInterrupt
    result = {"run_id": f"r{job.job.num}", "state": "FINISHED", "reason": "", "overrides": list(job.overrides.task),
              "metrics": {"loss": 1.5, "f1": 80.0 + config.seed}, "main_metric": "f1", "timings": {"total_s": 2.5},
              "parent": parent_run_id(Path(job.sweep.dir))}
    Path(job.runtime.output_dir, "result.json").write_text(json.dumps(result))

ConfigStore.instance().store(name="config", node=OmegaConf.create({
    "mode": "train", "seed": 0, "lr": 0.1, "breaks": -1, "dies": -1, "output_dir": "out", "task": {"name": "squad_v1"},
    "tracking": {"kind": "none", "uri": None, "experiment": None},
    "hydra": {
        "job": {"chdir": False},
        "sweep": {"dir": "${output_dir}/sweeps/${now:%H-%M-%S-%f}", "subdir": "${hydra.job.num}"},
        "callbacks": {"sweep": {"_target_": "mobilebert_exp.sweeping.callback.SweepCallback",
                                "env_uri": "${oc.env:MLFLOW_TRACKING_URI,null}"}}}}))
hydra.main(version_base="1.3", config_path=None, config_name="config")(main)()
"""


def multirun(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    application = folder / "application.py"
    application.write_text(APPLICATION)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = sys.argv[1:]; exec(open(sys.argv[0]).read())"
    command = [sys.executable, "-c", code, str(application), "-m", *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)


def rows(folder: Path, name: str = "sweep.csv") -> list[dict[str, str]]:
    (found,) = folder.glob(f"out/sweeps/*/{name}")
    with found.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_job_is_in_the_table_and_seeds_have_statistics(tmp_path: Path) -> None:
    done = multirun(tmp_path, "seed=0,1,2", "lr=1e-4,3e-4")
    assert done.returncode == 0, done.stderr
    table = rows(tmp_path)
    assert [(row["job"], row["seed"], row["lr"], row["f1"]) for row in table] == [
        (str(2 * seed + index), str(seed), lr, f"{80.0 + seed}")
        for seed in range(3)
        for index, lr in enumerate(("0.0001", "0.0003"))
    ]
    assert {row["state"] for row in table} == {"FINISHED"}
    groups = rows(tmp_path, "sweep_seeds.csv")
    assert [(row["lr"], row["finished"], row["f1_mean"], row["f1_std"]) for row in groups] == [
        ("0.0001", "3", "81.0", "1.0"),
        ("0.0003", "3", "81.0", "1.0"),
    ]
    assert "Sweep" in done.stdout and "Over seeds" in done.stdout and "0.0001" in done.stdout
    assert {json.loads(path.read_text())["parent"] for path in tmp_path.rglob("result.json")} == {""}


def test_jobs_that_fail_or_are_interrupted_are_in_the_table_with_their_reason(tmp_path: Path) -> None:
    done = multirun(tmp_path, "seed=0,1,2,3", "breaks=1", "dies=2")
    assert done.returncode != 0
    table = rows(tmp_path)
    assert [(row["seed"], row["state"], row["f1"]) for row in table] == [
        ("0", "FINISHED", "80.0"),
        ("1", "FAILED", ""),
        ("2", "FAILED", ""),
    ]
    assert table[1]["reason"] == "ValueError: seed 1 [is] bad"
    assert table[2]["reason"] == "left no final result.json"
    assert "seed 1 [is] bad" in done.stdout


@pytest.mark.slow
def test_the_sweep_has_its_own_run_in_mlflow_which_fails_with_its_jobs(tmp_path: Path) -> None:
    done = multirun(tmp_path, "seed=0,1,2", "breaks=1", "tracking.kind=mlflow")
    assert done.returncode != 0
    (sweep_file,) = tmp_path.glob("out/sweeps/*/sweep.json")
    about = json.loads(sweep_file.read_text())
    run_id = parent_run_id(sweep_file.parent)
    uri = f"sqlite:///{tmp_path}/out/mlflow.db"
    assert about == {
        "parent_run_id": run_id,
        "name": "sweep seed=0,1,2 breaks=1 tracking.kind=mlflow",
        "uri": uri,
        "experiment": "squad_v1",
    }
    assert {json.loads(path.read_text())["parent"] for path in tmp_path.rglob("result.json")} == {run_id}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert (
        run.data.tags["mobilebert_exp.reason"]
        == "1 of 3 jobs did not finish: job 1 FAILED (ValueError: seed 1 [is] bad)"
    )
    assert run.data.tags["sweep.overrides"] == "seed=0,1,2 breaks=1 tracking.kind=mlflow"
    assert run.data.metrics["jobs_finished"] == 2
    assert run.data.metrics["f1_mean"] == 81.0
    assert {file.path for file in client.list_artifacts(run_id)} == {"sweep.csv", "sweep_seeds.csv"}
    assert f"#/experiments/{run.info.experiment_id}/runs/{run_id}" in done.stdout


def test_a_store_that_cannot_be_opened_is_one_line_before_any_job(tmp_path: Path) -> None:
    done = multirun(tmp_path, "seed=0,1", "tracking.kind=mlflow", "tracking.uri=file:///mlruns")
    assert done.returncode == 2
    assert (
        "tracking.uri=file:///mlruns is a file store, which MLflow cannot open; use tracking.uri=sqlite:///"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("overrides.yaml"))


def test_a_plan_of_many_has_no_table(tmp_path: Path) -> None:
    done = multirun(tmp_path, "seed=0,1", "mode=plan")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("sweep.*"))


class Sweep:
    """The callback, told by hand what Hydra would tell it, with a tracker in memory."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        typed: Sequence[str] = ("seed=0,1",),
        searched: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.typed, self.searched = folder, list(typed), searched
        self.tracker = FakeTracker(id="parent")
        monkeypatch.setattr(module, "_tracker", lambda config, *, env_uri: (self.tracker, "http://me:secret@host"))
        self.callback = SweepCallback()
        self.callback.on_multirun_start(self.config())

    def config(self, job: Path | None = None) -> DictConfig:
        return OmegaConf.create(
            {
                "mode": "train",
                "output_dir": str(self.folder),
                "task": {"name": "squad_v1"},
                "hydra": {
                    "sweep": {"dir": str(self.folder / "sweep")},
                    "output_subdir": ".hydra",
                    "overrides": {"task": self.typed},
                    "sweeper": {"params": self.searched},
                    "runtime": {"output_dir": str(job)},
                },
            }
        )

    def job(self, name: str, result: str | dict[str, Any] | None, *, raised: Exception | None = None) -> None:
        folder = self.folder / "sweep" / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(f"- seed={name}\n")
        if result is not None:
            (folder / "result.json").write_text(result if isinstance(result, str) else json.dumps(result))
        status = JobStatus.FAILED if raised else JobStatus.COMPLETED
        self.callback.on_job_end(self.config(folder), JobReturn(status=status, _return_value=raised))

    def end(self) -> FakeTracker:
        self.callback.on_multirun_end(self.config())
        return self.tracker


FINISHED = {
    "state": "FINISHED",
    "run_id": "r",
    "metrics": {"f1": 80.0},
    "main_metric": "f1",
    "timings": {"total_s": 1.0},
}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    return Sweep(tmp_path, monkeypatch)


def test_a_sweep_is_finished_when_all_its_jobs_are(sweep: Sweep) -> None:
    assert parent_run_id(sweep.folder / "sweep") == "parent"
    assert "secret" not in (sweep.folder / "sweep" / "sweep.json").read_text()
    for number in (10, 9):
        sweep.job(str(number), {**FINISHED, "overrides": [f"seed={number}"]})
    tracker = sweep.end()
    assert (tracker.state, tracker.reason) == (RunState.FINISHED, "")
    assert tracker.run is not None and tracker.run.tags["sweep.params"] == "seed=0,1"
    assert tracker.run.experiment == "squad_v1"
    assert [path.name for path, _ in tracker.artifacts] == ["sweep.csv", "sweep_seeds.csv"]
    assert tracker.series("jobs_finished") == [(0, 2.0)] and tracker.series("f1_mean") == [(0, 80.0)]
    with (sweep.folder / "sweep" / "sweep.csv").open(newline="") as file:
        assert [row["job"] for row in csv.DictReader(file)] == ["9", "10"]


@pytest.mark.parametrize(
    ("typed", "searched", "told"),
    [
        (["seed=0,1", "lr=1e-3,2e-3", "mode=train"], None, "seed=0,1 lr=1e-3,2e-3"),  # -m
        (["+sweep=seeds", "lr=1e-3"], {"seed": "0,1"}, "seed=0,1"),
        (["+sweep=seeds", "lr=1e-3,2e-3"], {"seed": "0,1"}, "seed=0,1 lr=1e-3,2e-3"),
        (["seed=range(3)", "+tag=choice(a,b)", "name='a,b'"], None, "seed=range(3) +tag=choice(a,b)"),
        (["seed=1"], None, None),
        (["+sweep=seeds", "seed=5"], {"seed": "0,1"}, None),
        (["+sweep=seeds", "++seed=5", "lr=1,2"], {"seed": "0,1"}, "lr=1,2"),
        (["+sweep=seeds", "seed=5,6,7"], {"seed": "0,1", "lr": "1,2"}, "seed=5,6,7 lr=1,2"),
        (["+sweep=seeds", "++seed=5,6"], {"seed": "3"}, "++seed=5,6"),
        (["+sweep=seeds", "seed=1,2", "seed=4"], {"seed": "3,4", "lr": "7"}, None),
        (["++seed=5", "seed=1,2"], None, "seed=1,2"),
    ],
)
def test_the_search_space_is_a_tag_wherever_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], searched: dict[str, str] | None, told: str | None
) -> None:
    sweep = Sweep(tmp_path, monkeypatch, typed=typed, searched=searched)
    assert sweep.tracker.run is not None and sweep.tracker.run.tags.get("sweep.params") == told
    sweep.callback._finish(complete=False)
    assert varying([f"{key}={value}" for key, value in (searched or {}).items()] + typed) == {
        each.partition("=")[0].lstrip("+") for each in (told or "").split()
    }


def test_a_search_space_that_is_no_value_is_left_to_the_sweeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tmp_path, monkeypatch, searched={"seed": "choice(0,"})
    assert sweep.tracker.run is not None and "sweep.params" not in sweep.tracker.run.tags
    sweep.callback._finish(complete=False)


def varying(overrides: list[str]) -> set[str]:
    """The keys in which the jobs that Hydra's sweeper makes differ: in a job the last value of a key is its value."""
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    pairs = [dict(each.lstrip("+").split("=", 1) for each in job) for job in jobs]
    return {key for key in pairs[0] if len({job[key] for job in pairs}) > 1}


@pytest.mark.parametrize(
    ("result", "raised", "reason"),
    [
        (None, None, "FAILED (left no final result.json)"),
        ("{torn", None, "FAILED (result.json is unreadable (JSONDecodeError))"),
        ("[]", None, "FAILED (result.json is no result)"),
        ({**FINISHED, "state": "RUNNING"}, None, "FAILED (left no final result.json)"),
        ({**FINISHED, "state": "KILLED", "reason": "stopped by signal 2"}, None, "KILLED (stopped by signal 2)"),
        (FINISHED, OSError("disk full"), "FAILED (OSError: disk full)"),
        ({"state": "FAILED", "reason": "its own words"}, OSError("other words"), "FAILED (its own words)"),
    ],
)
def test_a_sweep_fails_with_any_of_its_jobs(
    sweep: Sweep, result: str | dict[str, Any] | None, raised: Exception | None, reason: str
) -> None:
    sweep.job("0", FINISHED)
    sweep.job("1", result, raised=raised)
    tracker = sweep.end()
    assert tracker.state is RunState.FAILED
    assert tracker.reason == f"1 of 2 jobs did not finish: job 1 {reason}"


def test_a_sweep_that_was_stopped_has_not_finished(sweep: Sweep) -> None:
    sweep.job("0", FINISHED)
    sweep.callback._finish(complete=False)
    assert (sweep.tracker.state, sweep.tracker.reason) == (RunState.FAILED, "the sweep was stopped before its end")
    sweep.end()  # a second end changes nothing
    assert sweep.tracker.reason == "the sweep was stopped before its end"


def test_a_sweep_without_jobs_has_not_finished(sweep: Sweep) -> None:
    tracker = sweep.end()
    assert (tracker.state, tracker.reason) == (RunState.FAILED, "no job was started")
