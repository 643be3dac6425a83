"""Weights of a run that did not finish: usable, and told wherever figures of them are compared."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import toy
from exports import Bench, glue
from fakes import FakeTracker

from mobilebert_exp import experiment, lineage, location, manifest
from mobilebert_exp.errors import RunStopped
from mobilebert_exp.runners.base import StopRequest
from mobilebert_exp.tracking import states
from mobilebert_exp.tracking.base import RunState


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two runs of 120 steps, one finished, the other killed; both have a checkpoint of step 0."""
    root = tmp_path_factory.mktemp("glue")
    bench = Bench.of(root, *glue(root, "sst2"))
    for state in (RunState.FINISHED, RunState.KILLED):
        run = bench.trained(state.name, state=state)
        record = json.loads((run / location.MODEL_FILE).read_text())
        (run / location.MODEL_FILE).write_text(json.dumps({**record, location.STEPS: 120}))
    return bench


@pytest.mark.parametrize(
    ("mode", "place"),
    [
        ("evaluate", "KILLED"),
        ("predict", "KILLED/last"),
        ("evaluate", "KILLED/checkpoints"),
        ("predict", "KILLED/checkpoints/ckpt-0.index"),
    ],
)
def test_a_warning_and_a_tag(bench: Bench, monkeypatch: pytest.MonkeyPatch, mode: str, place: str) -> None:
    said, tags = _told(bench, monkeypatch, mode, place)
    assert said == [
        f"init.checkpoint={bench.folder}/{place} is of a run that did not finish (KILLED at step 0 of 120); "
        "let it finish before you compare figures"
    ]
    assert tags[lineage.SOURCE_STATE_TAG] == "KILLED at step 0 of 120"


def test_a_run_that_finished_has_neither(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said, tags = _told(bench, monkeypatch, "evaluate", "FINISHED")
    assert said == []
    assert lineage.SOURCE_STATE_TAG not in tags and tags["source_run_id"] == "run-FINISHED"


def _told(bench: Bench, monkeypatch: pytest.MonkeyPatch, mode: str, place: str) -> tuple[list[str], Mapping[str, str]]:
    """The warnings of a run that reads weights, and its tags; its name begins with its mode."""
    tracker = FakeTracker()
    monkeypatch.setattr(experiment, "_tracker", lambda *_, **__: tracker)
    ended = bench.run(f"mode={mode}", f"init.checkpoint={bench.folder}/{place}", to=f"{mode}-{place}")
    assert ended.code == 0, ended.err
    assert tracker.run is not None and tracker.run.name == f"{mode}-glue_sst2-micro-seed0"
    return [line.partition(" WARNING ")[2] for line in ended.out.splitlines() if "did not" in line], tracker.run.tags


def test_a_run_that_was_stopped_tells_the_step_of_each_of_its_checkpoints(tmp_path: Path) -> None:
    """The best of all is of step 4 of 12, the newest of the step after which the signal was heard."""
    config = toy.experiment(trainer__max_steps=12, trainer__eval_every_steps=4, trainer__checkpoint_every_steps=4)
    stop, run = StopRequest(), tmp_path / "run"
    task = toy.task(config, tmp_path / "data")

    class Signalling(FakeTracker):
        def metrics(self, values: dict[str, float], *, step: int) -> None:  # type: ignore[override]
            if step >= 6:
                stop.signal_number = signal.SIGTERM

    with pytest.raises(RunStopped):
        toy.run(config, task, run, tracker=toy.started(Signalling()), stop=stop)
    states.write(run, identity="abc", state=RunState.PREEMPTED)
    best, newest = (
        manifest.committed(run / folder)[0] for folder in (f"{location.FOLDER}/{location.BEST}", location.FOLDER)
    )
    assert best.name == "ckpt-4" != newest.name
    step = newest.name.removeprefix("ckpt-")
    assert states.how_far(str(run)) == states.how_far(f"{run}/best") == "PREEMPTED at step 4 of 12"
    assert states.how_far(f"{best.parent}") == states.how_far(f"{best}.index") == "PREEMPTED at step 4 of 12"
    for same in (f"{run}/last", newest, f"{newest}.index", f"{newest}.data-00000-of-00001", newest.parent):
        assert states.how_far(str(same)) == f"PREEMPTED at step {step} of 12"
    states.write(run, identity="abc", state=RunState.FINISHED)
    assert states.how_far(str(run)) == states.how_far(f"{run}/last") == ""


def test_nothing_is_said_of_what_is_no_run_of_ours(tmp_path: Path) -> None:
    assert states.how_far(str(tmp_path / "bert_model.ckpt")) == ""
    states.write(tmp_path, identity="abc", state=RunState.RUNNING)
    assert states.how_far(str(tmp_path)) == "", "it has no checkpoints"


def test_a_folder_called_checkpoints_is_a_run_s_only_where_a_run_is_around_it(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign/checkpoints"
    (foreign / "best").mkdir(parents=True)
    (foreign / "bert_model.ckpt.index").touch()
    assert location.parts(str(foreign)) == (foreign, "")
    of_that_name = tmp_path / "outputs/checkpoints"
    (of_that_name / "checkpoints").mkdir(parents=True)
    (of_that_name.parent / location.STATE_FILE).touch()
    assert location.parts(str(of_that_name)) == (of_that_name, "")
    assert location.parts(f"{of_that_name}/best") == (of_that_name, "best")
    alone = of_that_name / "checkpoints"
    assert location.parts(str(alone)) == (alone, ""), "nothing tells of a run around it"
    (of_that_name / location.MODEL_FILE).touch()
    assert location.parts(f"{of_that_name}/checkpoints") == (of_that_name, "last")
    assert location.parts(f"{of_that_name}/checkpoints/best") == (of_that_name, "best")
