"""Shards of pre-training data: the same whoever makes them, whole or absent, gone on with where a run was killed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import documents
import numpy as np
import pytest

from mobilebert_exp.data import cache, example_reading, parallel
from mobilebert_exp.data.pretraining import build as building
from mobilebert_exp.data.pretraining import corpus as corpora
from mobilebert_exp.data.pretraining import feature_files, inputs
from mobilebert_exp.data.pretraining.build import Text, Writer
from mobilebert_exp.data.pretraining.settings import BadBytes, Settings
from mobilebert_exp.errors import DataError, OutputError

CHECKOUT = Path(__file__).resolve().parent.parent
TOKENIZER = documents.tokenizer()
SLOW = pytest.mark.slow
SETTINGS = Settings(max_seq_length=64, max_predictions_per_seq=10, dupe_factor=2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a hundred kilobytes are many groups."""
    monkeypatch.setattr(corpora, "LEAST_SEGMENT", 1000)
    monkeypatch.setattr(corpora, "LEAST_GROUP", 5000)


def text_of(*files: Path, settings: Settings = SETTINGS, least_groups: int = 1) -> Text:
    corpus = inputs.corpus(files, bad_bytes=BadBytes.refuse)
    return Text(corpus=corpus, tokenizer=TOKENIZER, settings=settings, least_groups=least_groups)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder, by name; nothing hidden."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.usefixtures("small")
def test_any_number_of_workers_makes_the_same_files(tmp_path: Path) -> None:
    text = text_of(documents.write(tmp_path / "a.txt", 200))
    found = []
    for workers in (1, 2, 4):
        with parallel.shared_among(workers):
            made = feature_files.made_in(tmp_path / f"by{workers}", text)
        found.append((contents(tmp_path / f"by{workers}"), made.records, made.counts))
    assert found[0] == found[1] == found[2]
    names = list(found[0][0])
    assert len(text.groups()) > 12, "fewer are made without a worker"
    assert len(names) == 3 * len(text.groups()) + 1
    assert "pass-01-shard-00003-of-00029.tfrecord" in names or f"of-{len(text.groups()):05d}" in names[-1]


@pytest.mark.usefixtures("small")
def test_the_manifest_is_true(tmp_path: Path) -> None:
    made = feature_files.made_in(tmp_path / "data", text_of(documents.write(tmp_path / "a.txt", 50)))
    manifest = json.loads((tmp_path / "data" / cache.MANIFEST).read_text(encoding="utf-8"))
    there = contents(tmp_path / "data")
    assert {name: file["sha256"] for name, file in manifest["files"].items()} | {
        cache.MANIFEST: there[cache.MANIFEST]
    } == there
    assert all((tmp_path / "data" / name).stat().st_size == file["bytes"] for name, file in manifest["files"].items())
    assert made.records == sum(example_reading.count(file) for file in made.files) == manifest["metadata"]["records"]
    assert made.counts is not None
    assert (made.counts.documents, made.counts.records) == (50, made.records)
    masked = sum(
        sum(record["masked_lm_weights"].numbers)
        for file in made.files
        for record in example_reading.first(file, limit=10**6)
    )
    assert masked == made.counts.masked


@pytest.mark.usefixtures("small")
def test_each_seed_and_each_pass_draws_anew(tmp_path: Path) -> None:
    file = documents.write(tmp_path / "a.txt", 20)
    digests = []
    for number, seed in enumerate((1, 1, 2)):
        settings = Settings(max_seq_length=64, dupe_factor=3, random_seed=seed)
        feature_files.made_in(tmp_path / str(number), text_of(file, settings=settings))
        digests.append({name: digest for name, digest in contents(tmp_path / str(number)).items() if "pass" in name})
    assert digests[0] == digests[1]
    assert not set(digests[0].values()) & set(digests[2].values())
    assert len(set(digests[0].values())) == len(digests[0]), "no shard is another's twin"


@pytest.mark.usefixtures("small")
def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(documents.write(tmp_path / "a.txt", 60))
    first = feature_files.made(text, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(Writer, "__call__", lambda self, group: pytest.fail("made again"))
    assert feature_files.made(text, cache_dir=tmp_path / "cache") == first
    assert [path.name for path in (tmp_path / "cache/features").iterdir() if not path.name.startswith(".")] == [
        first.digest
    ]


@pytest.mark.usefixtures("small")
def test_a_build_that_failed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the cache, and in a named folder: groups that were finished are taken as they are, to the same end."""
    text = text_of(documents.write(tmp_path / "a.txt", 60))
    feature_files.made_in(tmp_path / "whole", text)
    make = Writer.__call__
    calls: list[int] = []

    def fails_at_the_fourth(self: Writer, group: corpora.Group) -> building.Made:
        calls.append(group.number)
        if len(calls) == 4:
            raise OutputError("the disk is full; make room")
        return make(self, group)

    for ways in ("cache", "folder"):
        with (
            monkeypatch.context() as patched,
            pytest.raises(OutputError, match="the disk is full"),
            parallel.shared_among(1),
        ):
            calls.clear()
            patched.setattr(Writer, "__call__", fails_at_the_fourth)
            _made(ways, text, tmp_path)
        (torn,) = [tmp_path / "folder"] if ways == "folder" else (tmp_path / "cache/features").glob(".*.tmp")
        stamps = {path: path.stat().st_mtime_ns for path in torn.rglob("*.tfrecord")}
        assert len(stamps) == 6
        (torn / ".pass-00-shard.tfrecord.1.tmp").write_bytes(b"torn")
        lost, cut = (path for path in sorted(stamps) if "shard-00000" in path.name)
        lost.unlink()  # as after a loss of power
        cut.write_bytes(cut.read_bytes()[:-1])
        (torn / building.note_name(1)).write_text("{", encoding="utf-8")
        kept = {path.name: stamp for path, stamp in stamps.items() if "shard-00002" in path.name}
        folder = _made(ways, text, tmp_path)
        assert contents(folder) == contents(tmp_path / "whole")
        assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
        assert not [path for path in folder.rglob(".*") if path.suffix == ".tmp"]


def _made(ways: str, text: Text, place: Path) -> Path:
    if ways == "folder":
        return feature_files.made_in(place / "folder", text).files[0].parent
    return feature_files.made(text, cache_dir=place / "cache").files[0].parent


@pytest.mark.usefixtures("small")
def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    one, two = (text_of(documents.write(tmp_path / f"{seed}.txt", 20, seed=seed)) for seed in (1, 2))
    folder = tmp_path / "data"
    feature_files.made_in(folder, one)
    before = contents(folder)
    with pytest.raises(OutputError) as error:
        feature_files.made_in(folder, two)
    assert str(error.value) == (
        f"{folder} holds data of other texts, another vocabulary or other settings; choose another folder, or delete "
        "what is there"
    )
    assert contents(folder) == before
    feature_files.made_in(folder, one)
    (folder / cache.MANIFEST).rename(folder / cache.BEGUN)
    with pytest.raises(OutputError, match=r"holds the beginning of other data, or of another version's; choose"):
        feature_files.made_in(folder, two)
    with pytest.raises(OutputError, match=r"data/groups holds other files; choose another folder"):
        feature_files.made_in(folder / "groups", two)
    (folder / cache.BEGUN).write_text("[1", encoding="utf-8")
    with pytest.raises(OutputError, match=r"holds something else under these names; choose"):
        feature_files.made_in(folder, two)


@pytest.mark.usefixtures("small")
def test_a_damaged_shard_is_not_taken_for_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = text_of(documents.write(tmp_path / "a.txt", 20))
    made = feature_files.made(text, cache_dir=tmp_path)
    whole = contents(made.files[0].parent)
    made.files[1].write_bytes(made.files[1].read_bytes()[:-3])
    again = feature_files.made(text, cache_dir=tmp_path)
    assert contents(again.files[0].parent) == whole
    assert "is damaged" in caplog.text


def test_one_document_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.txt"
    path.write_text("bada.\nbafa.\nbaga.\n", encoding="utf-8")
    made = feature_files.made_in(tmp_path / "data", text_of(path))
    assert made.records >= 1
    assert "the text is one document, and random sentences are its own" in caplog.text


def test_texts_of_which_no_token_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\x07\n\x08\n", encoding="utf-8")
    with pytest.raises(DataError, match="the texts hold no sentence"):
        feature_files.made_in(tmp_path / "data", text_of(path))


def _kill_when(process: subprocess.Popen[bytes], folder: Path, *, files: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(folder.rglob("*.tfrecord"))) >= files:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(
    ("workers", "size", "kills"),
    [(1, 1500, 1), pytest.param(1, 8000, 5, marks=SLOW), pytest.param(2, 8000, 5, marks=SLOW)],
)
def test_a_killed_command_goes_on_to_the_same_bytes(tmp_path: Path, workers: int, size: int, kills: int) -> None:
    """SIGKILL at random moments, again and again, with and without worker processes."""
    rng = random.Random(workers)
    file = documents.write(tmp_path / "a.txt", size)
    shards = 2 * round(file.stat().st_size / corpora.LEAST_GROUP)
    assert workers == 1 or shards > 24, "enough groups for workers"
    vocabulary = documents.vocabulary(tmp_path)
    command = [
        sys.executable,
        "-m",
        "mobilebert_exp",
        "create_pretraining_data",
        f"input_file={file}",
        f"workers={workers}",
    ]
    command += [f"vocab_file={vocabulary}", "dupe_factor=2"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    subprocess.run([*command, f"output_dir={tmp_path}/whole"], env=environment, check=True, capture_output=True)
    folder, wanted = tmp_path / "killed", sorted(rng.sample(range(shards - 1), kills))
    for files in wanted:
        process = subprocess.Popen(
            [*command, f"output_dir={folder}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _kill_when(process, folder, files=files)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / cache.MANIFEST).exists()
    subprocess.run([*command, f"output_dir={folder}"], env=environment, check=True, capture_output=True)
    assert contents(folder) == contents(tmp_path / "whole")


MEASURE = """
import json, os, resource, sys
from pathlib import Path
from mobilebert_exp.__main__ import main
sys.argv = ["mobilebert_exp", *sys.argv[1:]]
code = main()
own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"code": code, "own_mib": own / 1024, "worker_mib": workers / 1024}))
"""


@pytest.mark.slow
def test_ten_times_the_text_takes_no_more_memory(tmp_path: Path) -> None:
    vocabulary = documents.vocabulary(tmp_path)
    once = documents.write(tmp_path / "once.txt", 9000)
    many = tmp_path / "many.txt"
    many.write_bytes((once.read_bytes() + b"\n") * 10)
    peaks = []
    for file in (once, many):
        ended = subprocess.run(
            [sys.executable, "-c", MEASURE, "create_pretraining_data", f"input_file={file}", f"vocab_file={vocabulary}",
             f"output_dir={tmp_path / file.stem}", "dupe_factor=1", "workers=2"],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        peaks.append(json.loads(ended.stdout.splitlines()[-1]))
    assert [peak["code"] for peak in peaks] == [0, 0]
    for who in ("own_mib", "worker_mib"):
        assert peaks[1][who] < 1.25 * peaks[0][who], peaks


def test_shards_are_mixed(tmp_path: Path) -> None:
    """Neighbours in a file are no neighbours in the text."""
    text = text_of(documents.write(tmp_path / "a.txt", 300), settings=Settings(dupe_factor=1))
    made = feature_files.made_in(tmp_path / "data", text)
    block_order = [
        record["input_ids"].numbers[1] for file in made.files for record in example_reading.first(file, limit=500)
    ]
    again = itertools.pairwise(block_order)
    assert np.mean([one == other for one, other in again]) < 0.05
