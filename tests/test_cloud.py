"""What stands on buckets: data and checkpoints read from them, a cache that is shared, runs that go on elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cloud import BUCKET
from command_line import here
from faults import Fault, Proxy

from mobilebert_exp import mirror
from mobilebert_exp.data import cache, shared, sources
from mobilebert_exp.errors import CheckpointError, DataError, StorageError
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket, RacedError
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tracking import states
from mobilebert_exp.tracking.base import RunState

SHORT_S = 1.0


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in folders.files_of(folder)}


def test_a_bucket_as_data_root(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    bucket = Bucket(BUCKET)
    bucket.write((place / "squad/dev-v1.1.json").name, b"{}", generation=0)
    found = sources.find("squad/dev-v1.1.json", data_root=str(place), cache_dir=tmp_path)
    assert found.read_bytes() == b"{}"
    assert sources.fetched(f"{place}/squad/dev-v1.1.json", cache_dir=tmp_path) == found
    with pytest.raises(DataError, match=rf"^{place}/squad/no.json is not there; name another object, or upload it$"):
        sources.find("squad/no.json", data_root=str(place), cache_dir=tmp_path)


def test_a_copy_follows_its_object(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    first = Bucket(BUCKET).write((place / "x").name, b"1", generation=0)
    assert sources.fetched(f"{place}/x", cache_dir=tmp_path).read_bytes() == b"1"
    Bucket(BUCKET).write((place / "x").name, b"22", generation=first)
    sources._object.cache_clear()  # as in another process
    assert sources.fetched(f"{place}/x", cache_dir=tmp_path).read_bytes() == b"22"


def test_a_checkpoint_in_a_bucket(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in (
        "checkpoints/checkpoint",
        "checkpoints/ckpt-5.index",
        "checkpoints/best/ckpt-3.index",
        "model.json",
        "x.log",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    folders.upload(run, place, names=folders.files_of(run))
    found = {
        wanted: Path(sources.checkpoint(f"{place}{wanted}", cache_dir=tmp_path / wanted.strip("/")))
        for wanted in ("", "/best", "/last")
    }
    fetched = {wanted: set(folders.files_of(at if not wanted else at.parent)) for wanted, at in found.items()}
    newest = {"checkpoints/checkpoint", "checkpoints/ckpt-5.index"}
    assert fetched[""] == {*newest, "checkpoints/best/ckpt-3.index", "model.json"}
    assert fetched["/best"] == {"checkpoints/best/ckpt-3.index", "model.json"}
    assert fetched["/last"] == {*newest, "model.json"}
    prefix = sources.checkpoint(f"{place}/checkpoints/ckpt-5", cache_dir=tmp_path / "prefix")
    assert Path(f"{prefix}.index").is_file()
    with pytest.raises(CheckpointError, match=rf"^init.checkpoint={place}/none: no checkpoint there; "):
        sources.checkpoint(f"{place}/none", cache_dir=tmp_path / "none")


def test_an_experiment_whose_files_lie_in_a_bucket(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwho\n?\nvera\n", encoding="utf-8")
    question = {"id": "q", "question": "Who?", "answers": [{"text": "Vera", "answer_start": 0}]}
    article = {"title": "t", "paragraphs": [{"context": "Vera", "qas": [question]}]}
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": [article]}), encoding="utf-8")
    folders.upload(tmp_path, place, names=["vocab.txt", "squad.json"])
    named = [f"task.{key}_file={place}/{name}" for key, name in (("train", "squad.json"), ("vocab", "vocab.txt"))]
    settings = ["mode=plan", *named, "task.global_batch_size=1", f"cache_dir={tmp_path}/cache", "trainer.max_steps=1"]
    planned = here(*settings, f"task.dev_file={place}/squad.json")
    assert (planned.code, planned.err) == (0, "")
    assert "train examples per epoch  1" in planned.out
    refused = here(*settings, f"task.dev_file={place}/dev.json")
    assert refused.err == f"error: {place}/dev.json is not there; name another object, or upload it\n"
    assert refused.code == 2


def _features(cache_dir: Path, built: list[str], *, content: bytes = b"rows" * 1000) -> tuple[Path, cache.Metadata]:
    def build(folder: Path) -> cache.Metadata:
        built.append(folder.name)
        (folder / "features.tfrecord").write_bytes(content)
        return {"num_features": 7}

    return cache.cached(cache_dir / "features", key={"task": "x"}, build=build)


def test_a_shared_cache_is_built_once(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    built: list[str] = []
    with shared.at(str(place)):
        folder, _ = _features(tmp_path / "first", built)
        first, second = shared.give(folder), shared.give(folder)
        assert first is not None and second is not None
        assert (first.moved, second.moved, second.skipped) == (2, 0, 2)
        there, metadata = _features(tmp_path / "second", built)
    assert len(built) == 1
    assert metadata == {"num_features": 7}
    assert _contents(there) == _contents(folder)
    assert shared.give(folder) is None, "outside the block nothing is shared"


@pytest.mark.parametrize("spoil", ["altered", "without a manifest", "half of a file gone"])
def test_a_shared_folder_that_is_not_whole_is_built_here(spoil: str, cloud: Proxy, tmp_path: Path) -> None:
    place = Place(BUCKET, spoil)
    built: list[str] = []
    with shared.at(str(place)):
        folder, _ = _features(tmp_path / "first", built)
        shared.give(folder)
        inside = shared.place_of(folder)
        assert inside is not None
        bucket = Bucket(BUCKET)
        name = (inside / ("manifest.json" if "manifest" in spoil else "features.tfrecord")).name
        stored = bucket.stat(name)
        assert stored is not None
        if "manifest" in spoil:
            bucket.delete(name, generation=stored.generation)
        else:
            bucket.write(name, b"rowz" * (500 if "half" in spoil else 1000), generation=stored.generation)
        there, _ = _features(tmp_path / "second", built)
        assert len(built) == 2
        assert _contents(there) == _contents(folder)
        shared.give(there)
        _features(tmp_path / "third", built)
    assert len(built) == 2, "mended in the bucket too"


def _record(run_dir: Path, state: RunState, *, step: int) -> None:
    """A run's folder after a step, one checkpoint kept."""
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for old in checkpoints.glob("ckpt-*"):
        old.unlink()
    (checkpoints / f"ckpt-{step}.index").write_text(str(step))
    (checkpoints / "checkpoint").write_text(f"ckpt-{step}")
    (run_dir / "model.json").write_text("{}")
    (run_dir / "big.log").write_text("not needed to go on")
    states.write(run_dir, identity="abc", state=state, run_id="run-1")


def _mirror(place: Place, run_dir: Path, *, at: Place | None = None) -> mirror.Mirror:
    return mirror.Mirror(str(place), run_dir, identity="abc", place=at, name="task/today")


def test_a_run_goes_on_on_another_machine(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    _record(here, RunState.RUNNING, step=1)
    first = _mirror(place, here)
    assert mirror.find_unfinished(str(place), identity="abc") is None
    first.claim()
    first.update()
    _record(here, RunState.RUNNING, step=2)
    first.update()
    kept = [name for name in Bucket(BUCKET).list(place.name) if "ckpt" in name]
    assert kept == [f"{place.name}/task/today/checkpoints/ckpt-2.index"], "what the run no longer keeps is gone"

    found = mirror.find_unfinished(str(place), identity="abc")
    assert found is not None and (found.place, found.run_id) == (place / "task/today", "run-1")
    mirror.restore(found, there)
    assert folders.files_of(there) == ["checkpoints/checkpoint", "checkpoints/ckpt-2.index", "model.json", "state.json"]
    assert mirror.find_unfinished(str(place), identity="another") is None

    second = _mirror(place, there, at=found.place)
    second.claim()
    _record(there, RunState.FINISHED, step=3)
    second.update()
    _record(here, RunState.RUNNING, step=9)
    first.update()  # it was thought dead, and is not: it must not touch what the other has taken over
    assert mirror.find_unfinished(str(place), identity="abc") is None, "finished"
    assert json.loads(Bucket(BUCKET).read((found.place / "state.json").name))["state"] == "FINISHED"
    assert Bucket(BUCKET).stat((found.place / "checkpoints/ckpt-9.index").name) is None


def test_an_upload_that_fails_stops_no_training(
    cloud: Proxy, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "RETRY_S", SHORT_S)
    _record(tmp_path, RunState.RUNNING, step=1)
    copy = _mirror(place, tmp_path)
    copy.claim()
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
    copy.claim()
    copy.update()
    assert cloud.faults[0].times == 0
    assert Bucket(BUCKET).stat((copy.place / "checkpoints/ckpt-1.index").name) is not None
    bucket = Bucket(BUCKET)
    with pytest.raises(RacedError):
        bucket.write((copy.place / "model.json").name, b"another's", generation=0)


def test_a_bucket_that_is_not_there_is_told_before_training(cloud: Proxy, tmp_path: Path) -> None:
    copy = mirror.Mirror("gs://no-bucket/runs", tmp_path, identity="abc", place=None, name="task/today")
    with pytest.raises(
        StorageError, match=r"^gs://no-bucket/runs/task/today/owner.json is not there; check the bucket"
    ):
        copy.claim()
