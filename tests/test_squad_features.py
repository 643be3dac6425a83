"""Feature files hold the original's records, however many processes make them, and no accident leaves a wrong one."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import originals
import pytest
import squad_rows

from mobilebert_exp.data import records, squad, squad_features
from mobilebert_exp.data.progress import BuildProgress
from mobilebert_exp.data.squad_features import Counts, Sizes
from mobilebert_exp.data.squad_windows import windows
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError, OutputError, UserError, WorkerError
from mobilebert_exp.tasks.base import Split
from mobilebert_exp.tasks.squad import Config, Squad

CHECKOUT = Path(__file__).resolve().parent.parent
SIZES = Sizes(max_seq_length=48, doc_stride=11, max_query_length=10)
KEYS = {"max_seq_length": 48, "doc_stride": 11, "max_query_length": 10}


def _parsed(path: Path) -> list[Any]:
    import tensorflow as tf

    return [tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]


@pytest.fixture
def few_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small file keeps several processes busy."""
    monkeypatch.setattr(squad_features, "_CHUNK_EXAMPLES", 7)


@pytest.mark.parametrize("training", [True, False], ids=["training", "prediction"])
def test_records_are_those_of_the_windows(tmp_path: Path, training: bool, few_a_chunk: None) -> None:
    source = tmp_path / "squad.json"
    source.write_text(json.dumps(originals.invent(3, version_2=True, paragraphs=40)), encoding="utf-8")
    tokenizer = Tokenizer(originals.vocabulary(), lower_case=True)
    examples = squad_rows.read(source, version_2=True)
    rows = [
        squad_rows.row(window, training=training) for window in windows(examples, tokenizer, training=training, **KEYS)
    ]
    records.write(tmp_path / "rows", rows)
    told: list[int] = []
    files = []
    for workers in (1, 2, 3):
        files.append(tmp_path / f"by{workers}")
        counts = squad_features.write(
            files[-1], iter(examples), tokenizer, sizes=SIZES, training=training, made=told.append, workers=workers
        )
        assert counts == Counts(
            examples=len(examples),
            left_out=sum(example.is_left_out for example in examples),
            trainable=sum(example.is_trainable for example in examples),
            features=len(rows),
        )
        assert told[-1] == len(examples)
    assert 0 < counts.left_out < counts.trainable
    assert len({file.read_bytes() for file in files}) == 1
    assert _parsed(files[0]) == _parsed(tmp_path / "rows")


def test_other_ids_of_special_tokens_are_kept(tmp_path: Path) -> None:
    """The original's vocabulary has [PAD] first; not every vocabulary does, and an id may take three bytes."""
    letters = originals.vocabulary()
    pieces = [*letters[5:], *(f"[unused{number}]" for number in range(20_000)), *letters[:5]]
    tokenizer = Tokenizer(pieces, lower_case=True)
    source = tmp_path / "squad.json"
    source.write_text(json.dumps(originals.invent(3, paragraphs=2)), encoding="utf-8")
    examples = squad_rows.read(source, version_2=False)
    squad_features.write(tmp_path / "f", examples, tokenizer, sizes=SIZES, training=True, made=lambda count: None)
    expected = [squad_rows.row(window, training=True) for window in windows(examples, tokenizer, training=True, **KEYS)]
    found = [
        {name: list(value.int64_list.value) for name, value in example.features.feature.items()}
        for example in _parsed(tmp_path / "f")
    ]
    assert found == expected
    assert tokenizer.pad_id > 2**14


def test_examples_are_taken_as_they_are_needed(tmp_path: Path, few_a_chunk: None) -> None:
    source = tmp_path / "squad.json"
    source.write_text(json.dumps(originals.invent(3, paragraphs=300)), encoding="utf-8")
    taken = 0
    ahead: list[int] = []

    def counted() -> Iterator[squad.SquadExample]:
        nonlocal taken
        for example in squad.stream(source, version_2=False):
            taken += 1
            yield example

    squad_features.write(
        tmp_path / "f",
        counted(),
        Tokenizer(originals.vocabulary(), lower_case=True),
        sizes=SIZES,
        training=True,
        made=lambda count: ahead.append(taken - count),
        workers=2,
    )
    assert taken > 1000
    assert max(ahead) <= 12 * 7, "twelve chunks: those that decide whether processes are worth it, or two for each"


# The task: its features from its files, through the cache.


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A train and a dev file with a vocabulary."""
    for name, seed in (("train", 1), ("dev", 2)):
        content = originals.invent(seed, paragraphs=30)
        for article in content["data"]:
            for question in article["paragraphs"][0]["qas"]:
                question["id"] = f"{name}-{question['id']}"
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("\n".join(originals.vocabulary()) + "\n", encoding="utf-8")
    return {
        **{f"{name}_file": str(tmp_path / f"{name}.json") for name in ("train", "dev")},
        "vocab_file": str(tmp_path / "vocab.txt"),
    }


def _config(files: dict[str, str]) -> Config:
    from mobilebert_exp import compose

    named = [f"task.{key}={value}" for key, value in files.items()]
    config = compose(["task=squad_v1", *named, *(f"task.{key}={value}" for key, value in KEYS.items())])
    assert isinstance(config.task, Config)
    return config.task


def _task(files: dict[str, str], tmp_path: Path) -> Squad:
    return Squad(_config(files), data_root=None, cache_dir=str(tmp_path / "cache"))


def _left(tmp_path: Path) -> list[str]:
    """What stands in the cache, beside the locks."""
    return [path.name for path in (tmp_path / "cache/features").glob("*") if not path.name.endswith(".lock")]


def test_counts_come_from_the_file_and_then_from_the_cache(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = {
        split: squad_rows.read(files[f"{split.value}_file"], version_2=False) for split in (Split.train, Split.dev)
    }
    expected = {
        Split.train: sum(example.is_trainable for example in examples[Split.train]),
        Split.dev: len(examples[Split.dev]),
    }
    assert expected[Split.train] < len(examples[Split.train])
    task = _task(files, tmp_path)
    caplog.clear()
    assert {split: task.num_examples(split) for split in expected} == expected
    features = {split: task.features(split) for split in expected}
    assert {split: found.num_examples for split, found in features.items()} == expected
    assert sum("training leaves these questions out" in record.message for record in caplog.records) == 2, "once a file"
    few = task.features(Split.dev, limit=5)
    assert (few.num_examples, len(_parsed(few.files[0]))) == (5, few.num_features)
    monkeypatch.setattr(squad, "stream", lambda *arguments, **settings: pytest.fail("the file is read again"))
    again = _task(files, tmp_path)
    assert {split: again.features(split) for split in expected} == features
    assert {split: again.num_examples(split) for split in expected} == expected


def _spoil(content: str, how: str) -> bytes:
    data = json.loads(content)
    questions = data["data"][20]["paragraphs"][0]["qas"]
    match how:
        case "utf8":
            return content.encode().replace(b'"data"', b'"data\xff"', 1)
        case "cut":
            return content.encode()[: len(content) * 2 // 3]
        case "twice":
            questions[0]["id"] = data["data"][0]["paragraphs"][0]["qas"][0]["id"]
        case "answer":
            questions[0]["answers"][0]["text"] = "a zebra"
        case "half":
            questions[0]["question"] = "who \ud83d?"
        case "deep":
            return b'{"data": ' + b"[" * 100_000
        case _:
            data["data"] = []
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("utf8", "is not UTF-8 at byte"),
        ("cut", "is cut short at line 1, column"),
        ("twice", "article 't20': question 'dev-q0-0': its id stands twice; give every question its own"),
        ("answer", "answer 'a zebra' is not in its context; correct the text"),
        ("half", "'question' holds half a character ('\\ud83d'); write it whole"),
        ("deep", "is nested deeper than any SQuAD file; restore SQuAD's layout"),
        ("empty", "has no question; name another file, or another data_root"),
    ],
)
def test_a_bad_file_is_named_and_leaves_nothing_in_the_cache(
    files: dict[str, str], tmp_path: Path, how: str, complaint: str, few_a_chunk: None
) -> None:
    path = Path(files["dev_file"])
    good = path.read_text(encoding="utf-8")
    path.write_bytes(_spoil(good, how))
    for attempt in (lambda task: task.features(Split.dev), lambda task: task.num_examples(Split.dev)):
        with pytest.raises(DataError) as error:
            attempt(_task(files, tmp_path))
        assert str(error.value).startswith(str(path)) and complaint in str(error.value)
        assert "\n" not in str(error.value)
    assert _left(tmp_path) == []
    path.write_text(good, encoding="utf-8")
    assert len(_parsed(_task(files, tmp_path).features(Split.dev).files[0])) > 100


@pytest.mark.parametrize("how", ["half", "altered", "no manifest"])
def test_a_spoilt_cache_is_made_anew(
    files: dict[str, str], tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    features = _task(files, tmp_path).features(Split.train)
    (path,) = features.files
    content = path.read_bytes()
    match how:
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "altered":
            path.write_bytes(content[:-1] + b"?")
        case _:
            (path.parent / "manifest.json").unlink()
    assert _task(files, tmp_path).features(Split.train) == features
    assert path.read_bytes() == content
    assert sum("is damaged" in record.message for record in caplog.records) == 1


def test_no_room_for_features_is_one_line_and_leaves_nothing(files: dict[str, str], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))  # a file that may not grow: as on a full disk
    try:
        with pytest.raises(OutputError) as error:
            _task(files, tmp_path).features(Split.train)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value).startswith(f"{tmp_path}/cache/features/")
    assert str(error.value).endswith("cannot be written (File too large); make room, or choose another place")
    assert _left(tmp_path) == []
    assert _task(files, tmp_path).features(Split.train).num_features > 100


def _children() -> list[int]:
    """Processes that this one started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_killed_worker_is_one_line_and_leaves_nothing(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_a_chunk: None
) -> None:
    before = set(_children())
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})

    def kill_one(progress: BuildProgress, count: int) -> None:
        for worker in set(_children()) - before:
            os.kill(worker, signal.SIGKILL)

    with monkeypatch.context() as patched, pytest.raises(WorkerError) as error:
        patched.setattr(BuildProgress, "made", kill_one)
        _task(files, tmp_path).features(Split.train)
    assert isinstance(error.value, UserError)
    assert str(error.value).startswith("a process that makes features was killed (SIGKILL); start again")
    assert _left(tmp_path) == []
    assert set(_children()) <= before
    assert _task(files, tmp_path).features(Split.train).num_features > 100


PROGRAM = """
import json, sys, time
from pathlib import Path
from mobilebert_exp import compose, registry
from mobilebert_exp.data import squad_features
from mobilebert_exp.tasks.base import Split

write = squad_features.write

def slow(*arguments, **settings):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(1)
    return write(*arguments, **settings)

squad_features.write = slow
features = registry.create_task(compose(json.loads(sys.argv[2]))).features(Split.train)
print(features.files[0], features.num_features, features.num_examples)
assert "tensorflow" not in sys.modules
"""


def test_processes_at_once_make_features_once(files: dict[str, str], tmp_path: Path) -> None:
    overrides = [f"task.{key}={value}" for key, value in {**files, **KEYS}.items()]
    told = json.dumps(["task=squad_v1", *overrides, f"cache_dir={tmp_path}/cache"])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), told],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 3
    assert len(said) == 1 and Path(said.pop().split()[0]).is_file()
    assert (tmp_path / "log").read_text(encoding="utf-8") == "built\n"


def test_long_work_is_told_in_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with BuildProgress("train features") as progress:
        progress.read(0.25)
        progress.made(1000)
        assert capsys.readouterr().err == "", "what is done soon is not worth a line"
        progress.read(0.5)
        monkeypatch.setattr("mobilebert_exp.data.progress.PLAIN_INTERVAL_S", 0.0)
        progress.made(2000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train features: 50% read, 2,000 examples  ")
    assert line.endswith(" examples/s")


def test_long_work_is_told_by_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with BuildProgress("train features") as progress:
        progress.read(0.25)
        progress.made(1000)
        assert shown.getvalue() == "", "what is done soon is not worth a bar"
        monkeypatch.setattr("mobilebert_exp.data.progress._PATIENCE_S", 0.0)
        progress.made(2000)
    assert "train features" in shown.getvalue() and "2,000 examples" in shown.getvalue() and "25%" in shown.getvalue()
