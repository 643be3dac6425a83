"""Feature files are written whole or not at all, and found again only when they are intact."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import originals
import pytest
import squad_rows

from mobilebert_exp.data import records
from mobilebert_exp.data.cache import cached, file_digest
from mobilebert_exp.data.squad_windows import windows
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import DataError, OutputError


@contextmanager
def _no_file_beyond(num_bytes: int) -> Iterator[None]:
    """The nearest to a full disk that a test may have: the kernel refuses to let files grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _no_rights(folder: Path) -> Iterator[None]:
    mode = folder.stat().st_mode
    folder.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


def test_rows_come_back_from_the_file(tmp_path: Path) -> None:
    import tensorflow as tf

    path = tmp_path / "rows.tfrecord"
    rows: list[records.Row] = [{"ids": [1, -2, 2**40], "scores": [0.5, 2.0]}, {"ids": [7], "scores": []}]
    assert records.write(path, iter(rows)) == 2
    read = [
        tf.train.Example.FromString(record).features.feature
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    assert [list(record["ids"].int64_list.value) for record in read] == [[1, -2, 2**40], [7]]
    assert [list(record["scores"].float_list.value) for record in read] == [[0.5, 2.0], []]
    assert os.listdir(tmp_path) == ["rows.tfrecord"]


def test_windows_are_written_as_the_original_writes_them(tmp_path: Path) -> None:
    """tf-models' FeatureWriter gives the same records, byte for byte once serialised in the same order."""
    import tensorflow as tf
    from official.nlp.data import squad_lib

    source = tmp_path / "squad.json"
    source.write_text(json.dumps(originals.invent(0, version_2=True)), encoding="utf-8")
    tokenizer = Tokenizer(originals.vocabulary(), lower_case=True)
    sizes: dict[str, Any] = {"max_seq_length": 48, "doc_stride": 11, "max_query_length": 10}
    for training in (True, False):
        examples = [example for example in squad_rows.read(source, version_2=True) if example.is_trainable]
        found = list(windows(examples, tokenizer, training=training, **sizes))
        ours, expected = tmp_path / "ours.tfrecord", tmp_path / "theirs.tfrecord"
        assert records.write(ours, (squad_rows.row(window, training=training) for window in found)) == len(found)
        writer = squad_lib.FeatureWriter(str(expected), training)
        for window in found:
            writer.process_feature(squad_rows.spelled(window))
        writer.close()
        pairs = zip(*(tf.data.TFRecordDataset(str(path)).as_numpy_iterator() for path in (ours, expected)), strict=True)
        for one, other in pairs:
            assert tf.train.Example.FromString(one) == tf.train.Example.FromString(other)


def test_a_failure_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.tfrecord"
    records.write(path, [{"ids": [1]}])
    before = path.read_bytes()

    def rows() -> Iterator[dict[str, list[int]]]:
        yield {"ids": [2]}
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        records.write(path, rows())
    with _no_file_beyond(2**16), pytest.raises(OutputError) as error:
        records.write(path, ({"ids": [2**60] * 1000} for _ in range(1000)))
    assert str(error.value).startswith(f"{path} cannot be written (")
    assert str(error.value).endswith("); make room, or choose another place")
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["rows.tfrecord"]


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"rows.tfrecord cannot be written"):
        records.write(tmp_path / "nowhere" / "rows.tfrecord", [{"ids": [1]}])


class _Builder:
    """Writes two files and counts how often it was asked to."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.count += 1
        (folder / "part").mkdir()
        (folder / "part" / "rows.bin").write_bytes(b"rows" * 1000)
        (folder / "notes.txt").write_text("notes")
        return {"num_features": 1000, "count": self.count}


KEY = {"data": "d" * 64, "max_seq_length": 384, "lower_case": True}


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    build = _Builder()
    folder, metadata = cached(tmp_path / "cache", key=KEY, build=build)
    assert metadata == {"num_features": 1000, "count": 1}
    assert (folder / "part" / "rows.bin").read_bytes() == b"rows" * 1000
    assert cached(tmp_path / "cache", key=dict(reversed(KEY.items())), build=build) == (folder, metadata)
    other, _ = cached(tmp_path / "cache", key=KEY | {"max_seq_length": 128}, build=build)
    assert build.count == 2
    assert other != folder
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".tmp")]


def test_other_code_makes_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = _Builder()
    folder, _ = cached(tmp_path, key=KEY, build=build)
    monkeypatch.setattr("mobilebert_exp.data.cache._code_digest", lambda: "other")
    assert cached(tmp_path, key=KEY, build=build)[0] != folder


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("part/rows.bin", b"rows" * 999, "part/rows.bin has 3996 bytes instead of 4000"),
        ("part/rows.bin", b"row\0" * 1000, "part/rows.bin was altered"),
        ("notes.txt", None, "notes.txt cannot be read|No such file.*notes.txt"),
        ("manifest.json", b'{"files": ', "manifest.json is not readable"),
        ("manifest.json", b"[]", "manifest.json is not readable"),
        ("manifest.json", b'{"files": {}}', "manifest.json is not readable"),
        ("manifest.json", None, "No such file.*manifest.json"),
    ],
)
def test_a_damaged_folder_is_built_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, content: bytes | None, complaint: str
) -> None:
    build = _Builder()
    folder, _ = cached(tmp_path, key=KEY, build=build)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again, metadata = cached(tmp_path, key=KEY, build=build)
    assert (again, metadata["count"]) == (folder, 2)
    assert (folder / "part" / "rows.bin").read_bytes() == b"rows" * 1000
    (record,) = caplog.records
    assert "\n" not in record.message
    assert re.search(rf"^cached .* is damaged \(.*({complaint}).*\); building it anew$", record.message)
    assert cached(tmp_path, key=KEY, build=build)[1]["count"] == 2


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "half").write_bytes(b"half")
        raise DataError("the data are wrong")

    with pytest.raises(DataError, match=r"^the data are wrong$"):
        cached(tmp_path, key=KEY, build=build)
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
    assert cached(tmp_path, key=KEY, build=_Builder())[1]["count"] == 1


def test_no_space_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        with (folder / "rows.bin").open("wb") as file:
            file.write(b"0" * 2**20)
        return {}

    with _no_file_beyond(2**12), pytest.raises(OutputError) as error:
        cached(tmp_path, key=KEY, build=build)
    expected = f"cache_dir {tmp_path} cannot be written (File too large); make room, or choose another"
    assert str(error.value) == expected

    def full(folder: Path) -> dict[str, Any]:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"0")
        return {}

    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        cached(tmp_path, key=KEY, build=full)
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(OutputError) as error:
            cached(place, key=KEY, build=_Builder())
        assert str(error.value).startswith(f"cache_dir {place} cannot be written (")
        assert "\n" not in str(error.value)
    (tmp_path / "locked").mkdir()
    with (
        _no_rights(tmp_path / "locked"),
        pytest.raises(OutputError, match=r"locked cannot be written \(Permission den"),
    ):
        cached(tmp_path / "locked", key=KEY, build=_Builder())


PROGRAM = """
import sys, time
from pathlib import Path
from mobilebert_exp.data.cache import cached

def build(folder):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (folder / "rows.bin").write_bytes(b"0" * 1000)
    time.sleep(float(sys.argv[3]))
    (folder / "rest.bin").write_bytes(b"1" * 1000)
    return {"size": 2000}

folder, metadata = cached(sys.argv[1], key={"a": 1}, build=build)
assert metadata == {"size": 2000}
assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rest.bin", "rows.bin"]
"""


def _start(tmp_path: Path, *, seconds: float) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "cache"), str(tmp_path / "log"), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments])


def test_processes_at_once_build_once(tmp_path: Path) -> None:
    processes = [_start(tmp_path, seconds=1.0) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_killed_build_is_done_again(tmp_path: Path) -> None:
    killed = _start(tmp_path, seconds=60)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("cache/.*.tmp/rows.bin")):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert not [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
    assert _start(tmp_path, seconds=0).wait(timeout=60) == 0
    assert (tmp_path / "log").read_text() == "built\n" * 2


def test_digest_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(DataError, match=r"nowhere does not exist; set data_root, or the task's file, to where it is"):
        file_digest(tmp_path / "nowhere")
