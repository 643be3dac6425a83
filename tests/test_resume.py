"""Real processes, real signals: what was stopped goes on with the same command, and ends as if it never had."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mortal
import numpy as np
import pytest
import replicas
import toy
from cloud import BUCKET
from faults import Proxy

from mobilebert_exp import manifest
from mobilebert_exp.modeling.checkpoints import native
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place

STEPS = 120
COMMAND = [
    "task=squad_v1",
    "task.starter.train_articles=12",
    "task.starter.dev_articles=2",
    "task.starter.vocabulary_size=300",
    "task.max_seq_length=128",
    "task.doc_stride=64",
    "task.max_query_length=32",
    "task.global_batch_size=4",
    "task.num_train_epochs=100",
    "model=micro",
    "model.initialization=bert",
    "model.num_layers=1",
    "model.num_feedforward_networks=1",
    "model.hidden_size=32",
    "model.intra_bottleneck_size=16",
    "model.embedding_size=16",
    "model.hidden_dropout=0.1",
    "model.attention_dropout=0.1",
    f"trainer.max_steps={STEPS}",
    "trainer.checkpoint_every_steps=20",
    "trainer.eval_every_steps=50",
    "hardware.steps_per_loop=2",
]


@contextlib.contextmanager
def process(
    folder: Path, *more: str, tracking: str, program: Sequence[str] = ("-m", "mobilebert_exp")
) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, from any folder; never left running."""
    command = [sys.executable, *program, *COMMAND, f"tracking={tracking}", *more]
    places = [f"output_dir={folder / 'outputs'}", f"cache_dir={folder.parent / 'cache'}"]
    log = (folder / "stderr.txt").open("a+", encoding="utf-8")
    running = subprocess.Popen(
        [*command, *places], stdout=subprocess.DEVNULL, stderr=log, text=True, env=replicas.environment()
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        log.close()


def said(folder: Path) -> str:
    return (folder / "stderr.txt").read_text(encoding="utf-8")


def run_dirs(folder: Path) -> list[Path]:
    """Folders in which a run has a state."""
    return sorted(path.parent for path in (folder / "outputs").glob("*/*/*/state.json"))


def last_step(folder: Path) -> int:
    """The newest step that any run below has recorded."""
    files = (folder / "outputs").glob("*/*/*/metrics.jsonl")  # checkpoints come and go, so no folder below is looked at
    lines = [line for path in files for line in path.read_text().splitlines()]
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def stopped(folder: Path, number: signal.Signals, *more: str, after: int, tracking: str = "none") -> int:
    """Starts the command, sends it `number` once step `after` is recorded, returns the exit code."""
    with process(folder, *more, tracking=tracking) as running:
        deadline = time.monotonic() + 300
        while last_step(folder) < after:
            assert running.poll() is None and time.monotonic() < deadline, said(folder)
            time.sleep(0.005)
        running.send_signal(number)
        return running.wait(timeout=120)


def finished(folder: Path, *more: str, tracking: str = "none") -> None:
    with process(folder, *more, tracking=tracking) as running:
        assert running.wait(timeout=300) == 0, said(folder)


def record(folder: Path, file: str) -> dict[str, Any]:
    """`state.json` or `result.json` of the only run there is."""
    (run_dir,) = run_dirs(folder)
    found: dict[str, Any] = json.loads((run_dir / file).read_text(encoding="utf-8"))
    return found


def check_state(folder: Path, state: str, reason: str) -> None:
    for file in ("state.json", "result.json"):
        found = record(folder, file)
        assert (found["state"], found["reason"]) == (state, reason), file


def final_weights(folder: Path) -> dict[str, np.ndarray]:
    (run_dir,) = run_dirs(folder)
    return toy.weights(str(run_dir / native.FOLDER / f"ckpt-{STEPS}"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    folder.mkdir()
    finished(folder)
    check_state(folder, "FINISHED", "")
    return folder


def sibling(uninterrupted: Path, name: str) -> Path:
    """A folder beside it, so that the features are made once."""
    folder = uninterrupted.parent / name
    folder.mkdir()
    return folder


def check_same_end(found: Path, expected: Path) -> None:
    """Weights, moments and step, bit for bit; and the predictions made from them."""
    ours, theirs = final_weights(found), final_weights(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    (ours_dir,), (theirs_dir,) = run_dirs(found), run_dirs(expected)
    for file in ("predictions/predictions.json", "checkpoints/best/best.json"):
        assert (ours_dir / file).read_text() == (theirs_dir / file).read_text(), file


@pytest.mark.slow
def test_terminated_killed_and_interrupted_ends_as_if_it_never_had(uninterrupted: Path) -> None:
    """One run dies four deaths: SIGTERM (a preempted machine), a mistake, SIGKILL (no time for a word), Ctrl-C."""
    folder = sibling(uninterrupted, "interrupted")

    assert stopped(folder, signal.SIGTERM, after=11) == 128 + signal.SIGTERM
    check_state(folder, "PREEMPTED", "stopped by signal 15")
    (run_dir,) = run_dirs(folder)
    step = last_step(folder)
    assert (run_dir / native.FOLDER / f"ckpt-{step}.index").is_file(), "saved where it stopped"
    assert 11 <= step < 40

    (weights,) = (run_dir / native.FOLDER).glob(f"ckpt-{step}.data-*")
    hidden = weights.rename(folder / "hidden")
    with process(folder, tracking="none") as running:
        assert running.wait(timeout=300) == 2, said(folder)
    check_state(folder, "FAILED", record(folder, "result.json")["reason"])
    assert record(folder, "result.json")["reason"].startswith("CheckpointError: ")
    hidden.rename(weights)  # a mistake that was mended costs nothing

    assert stopped(folder, signal.SIGKILL, after=step + 25) == -signal.SIGKILL
    assert record(folder, "state.json")["state"] == "RUNNING", "nobody was left to say otherwise"
    assert f"continuing at step {step} from " in "".join(log.read_text() for log in folder.rglob("*.log"))

    assert stopped(folder, signal.SIGINT, after=last_step(folder) + 3) == 128 + signal.SIGINT
    check_state(folder, "KILLED", "stopped by signal 2")

    finished(folder)
    check_state(folder, "FINISHED", "")
    assert run_dirs(folder) == [run_dir], "one run from first to last"
    check_same_end(folder, uninterrupted)


@pytest.mark.slow
def test_killed_while_saving_at_any_moment(uninterrupted: Path) -> None:
    """One run is killed eight times, each time in the middle of a save, and never goes on from half a checkpoint."""
    folder, often = sibling(uninterrupted, "killed"), "trainer.checkpoint_every_steps=10"
    begun = [0]
    for moment in mortal.MOMENTS:
        with process(folder, often, tracking="none", program=[mortal.__file__, moment]) as running:
            assert running.wait(timeout=300) == -signal.SIGKILL, (moment, said(folder))
        (run_dir,) = run_dirs(folder)
        prefixes = manifest.committed(run_dir / native.FOLDER)
        assert manifest.first_whole(prefixes)[1] == [], moment
        begun.append(manifest.newest_step(run_dir / native.FOLDER))
    assert begun == sorted(begun) and begun[-1] >= 60, "none lost what the one before had committed"
    finished(folder, often)
    check_state(folder, "FINISHED", "")
    check_same_end(folder, uninterrupted)
    parts = {path.name.split(".")[0] for path in (run_dir / native.FOLDER).iterdir()}
    assert parts == {f"ckpt-{STEPS}", f"ckpt-{STEPS - 10}", "best", "checkpoint"}, "nothing is left of them"


@pytest.mark.slow
def test_the_same_command_makes_a_new_run_once_the_first_has_finished(uninterrupted: Path) -> None:
    """And the same seed gives the same weights, in another process."""
    folder = sibling(uninterrupted, "twice")
    finished(folder)
    first = final_weights(folder)
    for name, value in final_weights(uninterrupted).items():
        np.testing.assert_array_equal(first[name], value, err_msg=name)
    finished(folder)
    assert len(run_dirs(folder)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_another_machine_goes_on_from_the_bucket(
    number: signal.Signals, cloud: Proxy, place: Place, uninterrupted: Path
) -> None:
    """A run that was stopped, and one that was killed, whose own disk is gone: the bucket has what it takes."""
    gone, fresh = sibling(uninterrupted, f"gone-{number}"), sibling(uninterrupted, f"fresh-{number}")
    stopped(gone, number, f"upload_to={place}", after=33)
    first_dir = run_dirs(gone)[0].relative_to(gone / "outputs").as_posix()
    shutil.rmtree(gone / "outputs")
    finished(fresh, f"upload_to={place}")
    check_state(fresh, "FINISHED", "")
    check_same_end(fresh, uninterrupted)
    assert f"continuing the unfinished run {place}/{first_dir}" in "".join(
        log.read_text() for log in fresh.rglob("*.log")
    )
    copied = Bucket(BUCKET).list(f"{place.name}/{first_dir}/")
    steps = {name.rsplit("ckpt-")[1].split(".")[0] for name in copied if "/checkpoints/ckpt-" in name}
    assert steps == {str(STEPS - 20), str(STEPS)}, "the newest two, as on the disk"
    assert json.loads(Bucket(BUCKET).read(f"{place.name}/{first_dir}/result.json"))["state"] == "FINISHED"


@pytest.mark.slow
def test_a_run_in_a_bucket_is_evaluated(cloud: Proxy, place: Place, uninterrupted: Path) -> None:
    folder = sibling(uninterrupted, "evaluated")
    (run_dir,) = run_dirs(uninterrupted)
    folders.upload(run_dir, place, names=folders.files_of(run_dir))
    finished(folder, "mode=evaluate", f"init.checkpoint={place}/best")
    trained = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))["metrics"]
    assert record(folder, "result.json")["metrics"]["f1"] == trained["best_checkpoint_f1"]


@pytest.mark.slow
def test_mlflow_sees_one_run(uninterrupted: Path) -> None:
    """Preempted and continued: one MLflow run, FINISHED, with the metrics of both halves."""
    from mlflow import MlflowClient

    folder = sibling(uninterrupted, "mlflow")
    assert stopped(folder, signal.SIGTERM, after=31, tracking="mlflow") == 128 + signal.SIGTERM
    check_state(folder, "PREEMPTED", "stopped by signal 15")
    run_id = record(folder, "result.json")["run_id"]
    assert run_id
    client = MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")
    assert client.get_run(run_id).info.status == "KILLED"
    assert client.get_run(run_id).data.tags["mobilebert_exp.state"] == "PREEMPTED"

    finished(folder, tracking="mlflow")
    check_state(folder, "FINISHED", "")
    assert record(folder, "result.json")["run_id"] == run_id
    experiment = client.get_run(run_id).info.experiment_id
    assert [run.info.run_id for run in client.search_runs([experiment])] == [run_id]
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
    assert steps == sorted(set(steps)), "each step once, in order"
    assert (steps[0], steps[-1]) == (1, STEPS)
    check_same_end(folder, uninterrupted)
