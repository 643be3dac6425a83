"""With which vocabulary records were made, wherever they lie: a manifest tells it, beside them or of one file alone."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

import documents
import pytest
from command_line import here

from mobilebert_exp.data import cache, sources
from mobilebert_exp.data.pretraining import feature_files, inputs
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError, OutputError, StorageError
from mobilebert_exp.files import making
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place

OURS = documents.tokenizer()
# As many entries, the same special ones, and every id is one of both.
OTHER = Tokenizer([*documents.pieces()[:-2], *documents.pieces()[:-3:-1]], lower_case=True)


class Killed(BaseException):
    """What nothing catches."""


def made(folder: Path, *where: str) -> None:
    documents.write(folder / "text.txt", 20)
    ended = here(
        "create_pretraining_data", f"input_file={folder}/text.txt", f"vocab_file={documents.vocabulary(folder)}",
        f"cache_dir={folder}/cache", "dupe_factor=3", *where,
    )  # fmt: skip
    assert ended.code == 0, ended.err


def named(pattern: str | Place, folder: Path) -> list[Path]:
    """The files that a setting means, looked up as a new process does it."""
    for remembers in (sources._object, inputs._fetch_manifests):
        remembers.cache_clear()
    return inputs.files(str(pattern), cache_dir=folder / "cache")


def told(files: list[Path]) -> str:
    """What is said of records that are read with another vocabulary, of their files' names; nothing where it is not."""
    assert feature_files.read(files, tokenizer=OURS).records > 0
    try:
        feature_files.read(files, tokenizer=OTHER)
    except DataError as problem:
        return str(problem).replace(f"{files[0].parent}/", "")
    return ""


def test_files_that_were_joined_have_manifests_of_their_own(tmp_path: Path) -> None:
    names = ("a.tfrecord", "b.tfrecord")
    made(tmp_path, f"output_file={','.join(f'{tmp_path}/out/{name}' for name in names)}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        each for name in names for each in (name, f"manifest.{name}.json")
    }
    files = named(f"{tmp_path}/out/*", tmp_path)
    assert [path.name for path in files] == [*names]
    assert told(files) == (
        "a.tfrecord: made with another vocabulary, as manifest.a.tfrecord.json beside it says; name the one they were "
        "made with in task.vocab_file"
    )
    feature_files.manifest_of(files[0]).unlink()
    assert told(files).startswith("b.tfrecord: made with another vocabulary, as manifest.b.tfrecord.json beside it")
    files[1].write_bytes(2 * files[1].read_bytes())
    assert told(files) == "", "what it tells of is another file"


def test_what_a_killed_command_left_tells_of_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the new file is told of: the earlier manifest is gone, and the same command goes on."""
    where = f"output_file={tmp_path}/a.tfrecord"
    made(tmp_path, where)

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("mobilebert_exp.pretraining_data.write_text", dies)
        made(tmp_path, where, "random_seed=2")
    assert told([tmp_path / "a.tfrecord"]) == ""
    made(tmp_path, where, "random_seed=2")
    assert "as manifest.a.tfrecord.json beside it says" in told([tmp_path / "a.tfrecord"])


@pytest.mark.usefixtures("cloud")
def test_manifests_in_a_bucket_are_read_too(tmp_path: Path, place: Place) -> None:
    made(tmp_path, f"output_dir={place}/data")
    bucket, manifest = Bucket(place.bucket), (place / f"data/{cache.MANIFEST}").name
    shards = named(f"{place}/data/*.tfrecord", tmp_path)
    assert named(f"{place}/data/*", tmp_path) == shards and len(shards) == 3
    assert told(shards) == (
        f"{shards[0].name} and 2 more: made with another vocabulary, as manifest.json beside it says; name the one "
        "they were made with in task.vocab_file"
    )
    assert told(shards[1:2]).startswith(f"{shards[1].name}: made with another vocabulary")
    (stored,) = bucket.list(manifest).values()
    content = bucket.read(manifest)
    bucket.delete(manifest, generation=stored.generation)
    assert told(named(f"{place}/data/*.tfrecord", tmp_path)) == "", "an earlier copy of it tells nothing"
    theirs = json.loads(content)
    theirs["key"]["vocabulary"] = OTHER.digest
    bucket.write(manifest, json.dumps(theirs).encode(), generation=0)
    with pytest.raises(DataError, match=r"made with another vocabulary, as manifest\.json beside it says"):
        feature_files.read(named(f"{place}/data/pass-00-*", tmp_path), tokenizer=OURS)


@pytest.mark.usefixtures("cloud")
def test_a_file_and_its_manifest_may_lie_in_a_bucket(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, f"output_file={tmp_path}/out/a.tfrecord")
    bucket = Bucket(place.bucket)
    for path in (tmp_path / "out").iterdir():
        bucket.write((place / path.name).name, path.read_bytes(), generation=0)
    assert "as manifest.a.tfrecord.json beside it says" in told(named(place / "a.tfrecord", tmp_path))

    asked = []

    def refuses(_: Bucket, prefix: str) -> None:
        asked.append(prefix)
        raise StorageError("gs://b is not allowed to this account")

    monkeypatch.setattr(Bucket, "list", refuses)
    (file,) = named(place / "a.tfrecord", tmp_path / "elsewhere")
    for key in ("task.train_file", "task.train_file", "task.dev_file"):  # a run asks for them again and again
        assert inputs.files(str(place / "a.tfrecord"), cache_dir=tmp_path / "elsewhere/cache", key=key) == [file]
    assert caplog.messages == [
        f"whether manifests lie beside the records in {file.parent} is not known "
        "(gs://b is not allowed to this account)"
    ]
    assert asked == [(place / "manifest.").name]


@pytest.mark.usefixtures("cloud")
def test_what_another_process_fetched_meanwhile_stays(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock first, finds a manifest that was not there a moment ago, and relies on its copy."""
    made(tmp_path, f"output_file={tmp_path}/out/a.tfrecord")
    records, manifest = (tmp_path / "out" / name for name in ("a.tfrecord", "manifest.a.tfrecord.json"))
    bucket = Bucket(place.bucket)
    bucket.write((place / records.name).name, records.read_bytes(), generation=0)

    def after_another(target: Path) -> AbstractContextManager[None]:
        if target.name.startswith("manifest"):
            monkeypatch.setattr("mobilebert_exp.data.sources.making", making)
            bucket.write((place / manifest.name).name, manifest.read_bytes(), generation=0)
            sources.fetch_beside(target.parent, feature_files.MANIFESTS, cache_dir=tmp_path / "cache")
            assert (target.parent / manifest.name).is_file()
        return making(target)

    monkeypatch.setattr("mobilebert_exp.data.sources.making", after_another)
    files = named(place / "a.tfrecord", tmp_path)
    assert "as manifest.a.tfrecord.json beside it says" in told(files)


@pytest.mark.usefixtures("cloud")
def test_an_earlier_copy_that_cannot_be_removed_is_one_line(tmp_path: Path, place: Place) -> None:
    """A folder in its place, which nobody can unlink, root or not."""
    made(tmp_path, f"output_file={tmp_path}/out/a.tfrecord")
    Bucket(place.bucket).write((place / "a").name, (tmp_path / "out/a.tfrecord").read_bytes(), generation=0)
    (file,) = named(place / "a", tmp_path)
    (file.parent / "manifest.old.json").mkdir()
    with pytest.raises(
        OutputError, match=r"/manifest\.old\.json cannot be removed \(.+\), and its bucket has it no more; "
    ):
        named(place / "a", tmp_path)


@pytest.mark.usefixtures("cloud")
def test_a_run_on_records_of_a_bucket_with_another_vocabulary_is_refused(tmp_path: Path, place: Place) -> None:
    made(tmp_path, f"output_dir={place}/data")
    (tmp_path / "other.txt").write_text("\n".join(OTHER.vocabulary) + "\n", encoding="utf-8")
    ended = here(
        "mode=prepare", "task=pretrain", "model=micro", f"task.train_file={place}/data/*", "tracking=none",
        f"task.dev_file={place}/data/pass-00*", f"task.vocab_file={tmp_path}/other.txt", "task.max_seq_length=128",
        f"cache_dir={tmp_path}/cache", f"output_dir={tmp_path}/out",
    )  # fmt: skip
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert ended.err.startswith("error: ")
    assert "made with another vocabulary, as manifest.json beside it says; name the one they were made " in ended.err
