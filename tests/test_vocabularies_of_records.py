"""With which vocabulary records were made, wherever they lie: a manifest tells it, beside them or of one file alone."""

from __future__ import annotations

import json
from pathlib import Path

import documents
import pytest
from command_line import here

from mobilebert_exp.data import cache, sources
from mobilebert_exp.data.pretraining import feature_files, inputs
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError, StorageError
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
    for remembers in (sources._object, sources._fetch_beside):
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

    def refuses(*_: object) -> None:
        raise StorageError("gs://b is not allowed to this account")

    monkeypatch.setattr(Bucket, "list", refuses)
    assert named(place / "a.tfrecord", tmp_path / "elsewhere")
    assert caplog.messages == [
        "task.train_file: whether manifests lie beside these records is not known (gs://b is not allowed to this "
        "account)"
    ]


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
