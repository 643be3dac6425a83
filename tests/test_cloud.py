"""What stands on buckets: data and checkpoints read from them, a cache that is shared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from archives import packed_tar
from cloud import BUCKET
from command_line import here
from faults import Proxy

from mobilebert_exp import location
from mobilebert_exp.data import cache, shared, sources
from mobilebert_exp.errors import CheckpointError, DataError
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place


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
        "state.json",
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
    newest, told = {"checkpoints/checkpoint", "checkpoints/ckpt-5.index"}, {"model.json", "state.json"}
    assert fetched[""] == {*newest, "checkpoints/best/ckpt-3.index", *told}
    assert fetched["/best"] == {"checkpoints/best/ckpt-3.index", *told}
    assert fetched["/last"] == {*newest, *told}
    for inside in ("checkpoints/ckpt-5", "checkpoints", "checkpoints/best"):
        at = Path(sources.checkpoint(f"{place}/{inside}", cache_dir=tmp_path / inside))
        named = location.run_of(str(at))
        assert at.relative_to(named).as_posix() == inside
        assert told <= set(folders.files_of(named)), "the run, and what it says of itself"
    with pytest.raises(CheckpointError, match=rf"^init.checkpoint={place}/none: no checkpoint there; "):
        sources.checkpoint(f"{place}/none", cache_dir=tmp_path / "none")


def test_a_checkpoint_of_other_code_in_a_bucket(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    """A folder, one checkpoint of a folder with what lies beside it, or an archive; no logs and no deep folders."""
    parts = {"checkpoint", "mobilebert.ckpt.index", "mobilebert.ckpt.data-00000-of-00001", "bert_config.json"}
    parts |= {"vocab.txt", "variables/variables.index"}
    folder = tmp_path / "made"
    for name in (*parts, "train.log", "a/b/other.index"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    packed_tar(folder / "packed.tar.gz", {"top/mobilebert.ckpt.index": b"i", "top/vocab.txt": b""})
    folders.upload(folder, place, names=folders.files_of(folder))
    whole = Path(sources.checkpoint(str(place), cache_dir=tmp_path / "whole"))
    assert set(folders.files_of(whole)) == parts
    prefix = Path(sources.checkpoint(f"{place}/mobilebert.ckpt", cache_dir=tmp_path / "prefix"))
    beside = {"bert_config.json", "vocab.txt"}
    assert set(folders.files_of(prefix.parent)) == {name for name in parts if name.startswith(prefix.name)} | beside
    unpacked = sources.checkpoint(f"{place}/packed.tar.gz", cache_dir=tmp_path / "packed")
    assert unpacked.endswith("/top/mobilebert.ckpt")
    with pytest.raises(CheckpointError, match=rf"^init.checkpoint={place}/none.tar.gz: no checkpoint there; "):
        sources.checkpoint(f"{place}/none.tar.gz", cache_dir=tmp_path / "none")


def test_a_fetched_checkpoint_of_other_code_has_nothing_of_an_earlier_one(
    cloud: Proxy, place: Place, tmp_path: Path
) -> None:
    def uploaded(*names: str) -> str:
        """These alone are in the bucket; the folder here, fetched as in another process."""
        bucket = Bucket(BUCKET)
        for name, stored in bucket.list(f"{place.name}/").items():
            bucket.delete(name, generation=stored.generation)
        for name in names:
            bucket.write((place / name).name, name.encode(), generation=0)
        sources._run_in_bucket.cache_clear()
        return str(place)

    def fetched(place: str) -> Path:
        return Path(sources.checkpoint(place, cache_dir=tmp_path))

    run = ("checkpoints/ckpt-5.index", "checkpoints/best/ckpt-3.index", "model.json")
    for names in (run, ("model.safetensors", "config.json"), ("pytorch_model.bin",)):
        assert set(folders.files_of(fetched(uploaded(*names)))) == set(names)
    prefix = {"x.ckpt.index", "x.ckpt.data-00000-of-00001"}
    fetched(f"{uploaded(*prefix, 'bert_config.json', 'vocab.txt')}/x.ckpt")
    there = fetched(f"{uploaded(*prefix, 'vocab.txt')}/x.ckpt").parent
    assert {*prefix, "vocab.txt"} == set(folders.files_of(there)) - {"pytorch_model.bin"}


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
