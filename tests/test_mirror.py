"""Runs in buckets: they go on elsewhere, one machine at a time, and nobody's newer work is lost."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import committed
import pytest
import toy
from cloud import BUCKET
from faults import Fault, Proxy

from mobilebert_exp import experiment, manifest, mirror, registry
from mobilebert_exp.errors import RunStopped, StorageError
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket, RacedError
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tracking import states
from mobilebert_exp.tracking.base import RunState

SHORT_S = 1.0


def _record(run_dir: Path, state: RunState, *, step: int) -> None:
    """A run's folder after a step, one checkpoint kept."""
    _save(run_dir / "checkpoints", step)
    (run_dir / "model.json").write_text("{}")
    (run_dir / "big.log").write_text("not needed to go on")
    states.write(run_dir, identity="abc", state=state, run_id="run-1")


def _save(checkpoints: Path, step: int, *, keep: int = 1, content: str = "") -> None:
    """One checkpoint more, as training leaves them."""
    kept = [committed.checkpoint(checkpoints, step, content), *manifest.committed(checkpoints)]
    manifest.point(checkpoints, kept[:1])
    manifest.remove_others(checkpoints, keep=list(dict.fromkeys(kept))[:keep])


def _mirror(place: Place, run_dir: Path, *, at: Place | None = None) -> mirror.Mirror:
    return mirror.Mirror(str(place), run_dir, identity="abc", place=at, name="task/today")


@pytest.fixture
def machines_die(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sign of life outlives its moment, as if its machine were gone."""
    monkeypatch.setattr(mirror, "FRESH_S", -1.0)


@pytest.mark.usefixtures("machines_die")
def test_a_run_goes_on_on_another_machine(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    def found(identity: str = "abc") -> mirror.Unfinished | None:
        return mirror.find_unfinished(str(place), tmp_path / "elsewhere", identity=identity)

    here, there = tmp_path / "here", tmp_path / "there"
    _record(here, RunState.RUNNING, step=1)
    first = _mirror(place, here)
    assert found() is None
    with first.claimed():
        first.update()
        _record(here, RunState.RUNNING, step=2)
        first.update()
        assert _in_bucket(f"{place}/task/today") == [2], "what the run no longer keeps is gone"

        left = found()
        at = place / "task/today"
        assert left == mirror.Unfinished(run_dir=None, run_id="run-1", place=at, step=2)
        mirror.restore(at, there)
        parts = [f"checkpoints/ckpt-2.{part}" for part in ("data-00000-of-00001", "index", "json")]
        assert folders.files_of(there) == ["checkpoints/checkpoint", *parts, "model.json", "state.json"]
        assert found("another") is None

        second = _mirror(place, there, at=at)
        with second.claimed():
            _record(there, RunState.FINISHED, step=3)
            second.update()
            _record(here, RunState.RUNNING, step=9)
            with pytest.raises(mirror.TakenOverError, match=rf"^{at} was taken over by another machine, so this one s"):
                first.update()  # it was thought dead, and is not: it must not touch what the other has
    assert found() is None, "finished"
    assert json.loads(Bucket(BUCKET).read((at / "state.json").name))["state"] == "FINISHED"
    assert Bucket(BUCKET).stat((at / "checkpoints/ckpt-9.index").name) is None


def test_a_checkpoint_of_another_is_not_removed(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    other = (place / "task/today/checkpoints/ckpt-7.json").name
    _record(tmp_path, RunState.RUNNING, step=1)
    copy = _mirror(place, tmp_path)
    with copy.claimed():
        Bucket(BUCKET).write(other, b"7", generation=0)
        copy.update()
        _record(tmp_path, RunState.RUNNING, step=2)
        copy.update()
    assert _in_bucket(str(copy.place)) == [2, 7]


def test_an_upload_that_fails_stops_no_training(
    cloud: Proxy, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "RETRY_S", SHORT_S)
    _record(tmp_path, RunState.RUNNING, step=1)
    copy = _mirror(place, tmp_path)
    with copy.claimed():
        cloud.faults.append(Fault(pattern="", kind="status", status=403, times=10**6))
        copy.update()
        assert f"not uploaded this time: {place}/" in caplog.text
        cloud.faults.clear()
        copy.update()
    assert Bucket(BUCKET).stat((copy.place / "checkpoints/ckpt-1.index").name) is not None


def test_a_lost_answer_is_no_race(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    _record(tmp_path, RunState.RUNNING, step=1)
    copy = _mirror(place, tmp_path)
    cloud.faults.append(Fault(pattern=r"POST /upload", kind="lost", times=1))
    with copy.claimed():
        copy.update()
    assert cloud.faults[0].times == 0
    assert Bucket(BUCKET).stat((copy.place / "checkpoints/ckpt-1.index").name) is not None
    with pytest.raises(RacedError):
        Bucket(BUCKET).write((copy.place / "model.json").name, b"another's", generation=0)


def test_a_bucket_that_is_not_there_is_told_before_training(cloud: Proxy, tmp_path: Path) -> None:
    copy = mirror.Mirror("gs://no-bucket/runs", tmp_path, identity="abc", place=None, name="task/today")
    with (
        pytest.raises(StorageError, match=r"^gs://no-bucket/runs/task/today/owner.json is not there; check the bucket"),
        copy.claimed(),
    ):
        raise AssertionError("not reached")


def test_a_sign_of_life_is_left_again_and_again(
    cloud: Proxy, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "BEAT_S", 0.05)

    def until() -> float:
        told: float = json.loads(Bucket(BUCKET).read((place / "task/today/owner.json").name))["until"]
        return told

    with _mirror(place, tmp_path).claimed():
        first, deadline = until(), time.monotonic() + 30
        while until() <= first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert first > time.time()
    assert until() <= time.time(), "who ends gives the run back"


class Machine:
    """A disk of its own, on which the same command runs; what training does is given."""

    def __init__(self, place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self._runs = monkeypatch, 0
        self._config = toy.experiment(
            upload_to=str(place), output_dir=str(folder / "outputs"), cache_dir=str(folder / "cache")
        )
        self.outputs = folder / "outputs"

    def runs(self, does: Callable[[Job], None], *, name: str = "") -> experiment.Result:
        def run(job: Job) -> Outcome:
            does(job)
            return Outcome()

        runner = type("Fake", (), {"run": staticmethod(run)})
        self._runs += 1
        self._monkeypatch.setattr(registry, "create_task", lambda config: toy.task(config, self.outputs))
        self._monkeypatch.setattr(registry, "runner", lambda mode: runner)
        config = dataclasses.replace(self._config)
        return experiment.run(config, run_dir=self.outputs / (name or f"toy/{self.outputs.parent.name}-{self._runs}"))


@pytest.fixture
def machine(cloud: Proxy, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Machine]:
    return lambda name: Machine(place, tmp_path / name, monkeypatch)


def _trains(*, to: int, ends: int = 0, begun: int = 0) -> Callable[[Job], None]:
    """Goes on from the checkpoint of step `begun`, saves one at step `to`, and ends, or is stopped by a signal."""

    def does(job: Job) -> None:
        assert _steps(folders.files_of(job.run_dir)) == ([begun] if begun else [])
        _save(job.run_dir / "checkpoints", to)
        job.saved()
        if ends:
            raise RunStopped(ends)

    return does


def _steps(names: Iterable[str]) -> list[int]:
    """Of what is committed."""
    found = (manifest.step_of(name.rpartition("/")[2]) for name in names)
    return sorted(step for step in found if step is not None)


def _state(place: str) -> str:
    state: str = json.loads(Bucket(BUCKET).read(f"{Place.parse(place).name}/state.json"))["state"]
    return state


def _in_bucket(place: str) -> list[int]:
    return _steps(Bucket(BUCKET).list(f"{Place.parse(place).name}/"))


def test_an_old_machine_does_not_undo_what_finished_elsewhere(machine: Callable[[str], Machine], place: Place) -> None:
    old, new = machine("old"), machine("new")
    with pytest.raises(RunStopped):
        old.runs(_trains(to=1000, ends=15))
    there = f"{place}/toy/old-1"
    assert new.runs(_trains(begun=1000, to=5000)).paths["bucket"] == there
    again = old.runs(_trains(to=10))
    assert again.paths["bucket"] == f"{place}/toy/old-2", "a run of its own"
    assert (_state(there), _in_bucket(there)) == ("FINISHED", [5000])


def test_the_newer_copy_is_gone_on_with(machine: Callable[[str], Machine], place: Place) -> None:
    old, new = machine("old"), machine("new")
    for each, does in (
        (old, _trains(to=1000, ends=15)),
        (new, _trains(begun=1000, to=3000, ends=2)),
        (old, _trains(begun=3000, to=4000, ends=15)),
        (old, _trains(begun=4000, to=4500, ends=15)),  # which is newer on its own disk now, or as new
    ):
        with pytest.raises(RunStopped):
            each.runs(does)
        assert len(_in_bucket(f"{place}/toy/old-1")) == 1
    assert new.runs(_trains(begun=4500, to=5000)).paths["bucket"] == f"{place}/toy/old-1"


def test_the_same_command_twice_is_two_runs(
    machine: Callable[[str], Machine], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = machine("first"), machine("other")

    def meanwhile(job: Job) -> None:
        _trains(to=10)(job)
        assert first.runs(_trains(to=20)).paths["bucket"] == f"{place}/toy/first-2"
        alone = first.outputs / ".runs"
        for file in alone.iterdir():
            file.unlink()  # so that nothing on this disk tells
        _point(place, "toy/first-1")
        assert other.runs(_trains(to=30)).paths["bucket"] == f"{place}/toy/other-1"
        assert f"works on {place}/toy/first-1; starting another run" in caplog.text
        job.saved()

    assert first.runs(meanwhile).paths["bucket"] == f"{place}/toy/first-1"
    assert _in_bucket(f"{place}/toy/first-1") == [10]


def _point(place: Place, run: str) -> None:
    """Makes the bucket's index name a run."""
    bucket = Bucket(BUCKET)
    ((name, stored),) = bucket.list(f"{place.name}/.runs/").items()
    bucket.write(name, json.dumps({"run": run}).encode(), generation=stored.generation)


def test_who_is_taken_over_stops_with_its_checkpoint(machine: Callable[[str], Machine], place: Place) -> None:
    one = machine("one")
    owner = (place / "toy/one-1/owner.json").name

    def taken(job: Job) -> None:
        stored = Bucket(BUCKET).stat(owner)
        assert stored is not None
        Bucket(BUCKET).write(owner, b"{}", generation=stored.generation)
        _trains(to=10)(job)

    with pytest.raises(mirror.TakenOverError) as told:
        one.runs(taken)
    assert "\n" not in str(told.value)
    assert _steps(folders.files_of(one.outputs / "toy/one-1")) == [10]
    assert _in_bucket(f"{place}/toy/one-1") == []
    assert Bucket(BUCKET).read(owner) == b"{}"


def test_a_name_that_another_machine_has_is_not_taken(machine: Callable[[str], Machine], place: Place) -> None:
    machine("one").runs(_trains(to=10), name="toy/same")
    assert machine("two").runs(_trains(to=20), name="toy/same").paths["bucket"] == f"{place}/toy/same-2"
    assert _in_bucket(f"{place}/toy/same") == [10]


@pytest.mark.usefixtures("machines_die")
def test_a_run_whose_last_upload_fails_has_finished_and_says_so(
    machine: Callable[[str], Machine], cloud: Proxy, place: Place
) -> None:
    one = machine("one")

    def cut_off(job: Job) -> None:
        _trains(to=10)(job)
        cloud.faults.append(Fault(pattern="POST", kind="status", status=403, times=10**6))

    with pytest.raises(StorageError, match=rf"^the run finished, its copy in {place}/toy/one-1 did not: {place}/.+$"):
        one.runs(cut_off)
    for file in ("result.json", "state.json"):
        assert json.loads((one.outputs / "toy/one-1" / file).read_text())["state"] == "FINISHED"
    assert "bucket" not in json.loads((one.outputs / "toy/one-1/result.json").read_text())["paths"]
    cloud.faults.clear()
    assert _state(f"{place}/toy/one-1") == "RUNNING"
    assert one.runs(_trains(to=20)).paths["bucket"] == f"{place}/toy/one-2", "what has finished is not gone on with"


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"run": 7, "run_dir": 7}', b"\xff", b"{}"])
def test_a_damaged_index_counts_as_absent(
    content: bytes, cloud: Proxy, place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def found() -> mirror.Unfinished | None:
        return mirror.find_unfinished(str(place), tmp_path, identity="abc")

    bucket, index = Bucket(BUCKET), (place / ".runs/abc.json").name
    (tmp_path / ".runs").mkdir()
    (tmp_path / ".runs/abc.json").write_bytes(content)
    bucket.write(index, content, generation=0)
    assert found() is None
    told = "is damaged, or no record of a run; going on without it"
    assert caplog.text.count(told) == (0 if content.startswith(b"{") else 2)
    (tmp_path / "run").mkdir()
    states.enter(tmp_path, tmp_path / "run", identity="abc")
    (tmp_path / "run/state.json").write_bytes(content)
    stored = bucket.stat(index)
    assert stored is not None
    bucket.write(index, b'{"run": "run"}', generation=stored.generation)
    bucket.write((place / "run/state.json").name, content, generation=0)
    assert found() is None


WRITES = "^(POST|PUT|DELETE) "


@pytest.mark.parametrize("anew", [False, True], ids=["another step", "a step made anew"])
def test_whoever_reads_a_bucket_finds_whole_checkpoints_alone(
    anew: bool, cloud: Proxy, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is cut off after each request, and a reader comes before it goes on."""
    monkeypatch.setattr(mirror, "RETRY_S", SHORT_S)
    checkpoints, steps = tmp_path / "run/checkpoints", {2, 3} if anew else {2, 3, 4}
    copy, last = _mirror(place, tmp_path / "run"), 3 if anew else 4
    for step in (2, 3):
        _save(checkpoints, step, keep=2)
    with copy.claimed():
        copy.update()
        _save(checkpoints, last, keep=2, content="anew")
        expected = manifest.check(manifest.prefix_of(checkpoints, step=last)).sha256
        for requests in range(40):
            cloud.faults[:] = [
                Fault(pattern=WRITES, kind="passed on", times=2),  # the sign of life, and one more
                Fault(pattern=WRITES, kind="status", status=403, times=10**6),
            ]
            copy.update()
            is_done = cloud.faults[1].times == 10**6
            cloud.faults.clear()
            reader = tmp_path / f"reader-{requests}"
            folders.download(copy.place, reader)
            found, problems = manifest.first_whole(manifest.committed(reader / "checkpoints"))
            assert found is not None and problems == []
            assert found.step in steps
            if is_done:
                break
    assert requests >= (3 if anew else 5)
    assert found is not None and (found.step, found.sha256) == (last, expected)
    assert len(_in_bucket(str(copy.place))) == 2


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001", "json"])
def test_what_damages_a_checkpoint_here_does_not_reach_its_copy(
    part: str, machine: Callable[[str], Machine], place: Place
) -> None:
    """The copy is newer than what is whole here, so it is gone on with."""
    one = machine("one")

    def damaged(job: Job) -> None:
        _save(job.run_dir / "checkpoints", 10, keep=2)
        _save(job.run_dir / "checkpoints", 20, keep=2)
        job.saved()
        committed.flip(job.run_dir / f"checkpoints/ckpt-20.{part}")
        job.saved()
        raise RunStopped(15)

    with pytest.raises(RunStopped):
        one.runs(damaged)

    def goes_on(job: Job) -> None:
        assert manifest.newest_step(job.run_dir / "checkpoints") == 20

    again = one.runs(goes_on)
    assert again.paths["bucket"] == f"{place}/toy/one-1"
    assert again.run_dir.endswith("toy/one-2")
