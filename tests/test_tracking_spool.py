"""The local spool: nothing that was written is lost, nothing that was torn is believed."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_exp.errors import DataError, OutputError
from mobilebert_exp.tracking.base import RunInfo, RunState
from mobilebert_exp.tracking.nothing import NoTracker
from mobilebert_exp.tracking.spool import FILE_NAME, Entry, Spool, read

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = st.builds(
    Entry,
    step=st.integers(0, 10**9),
    time_ms=st.integers(0, 2**53),
    metrics=st.dictionaries(st.text(max_size=8), st.floats(), max_size=4),
)


def same(left: list[Entry], right: list[Entry]) -> bool:
    return repr(left) == repr(right)  # repr tells nan from nan by value, == does not


@settings(deadline=None, max_examples=60)
@given(entries=st.lists(ENTRIES, max_size=6), torn=st.integers(1, 30))
def test_what_is_written_is_read_even_after_a_torn_line(
    entries: list[Entry], torn: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("spool") / FILE_NAME
    spool = Spool(path)
    for entry in entries:
        spool.write(entry)
    spool.close()
    assert same(read(path), entries)

    whole = path.read_bytes()
    line = json.dumps({"step": 1, "time_ms": 2, "metrics": {"loss": 3.0}}).encode()
    path.write_bytes(whole + line[:torn])
    assert same(read(path), entries)

    again = Spool(path)
    last = Entry(step=7, time_ms=8, metrics={"loss": math.inf})
    again.write(last)
    again.close()
    assert same(read(path), [*entries, last])


def test_cut_anywhere_a_spool_gives_its_first_entries(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    entries = [Entry(step=step, time_ms=step, metrics={"loss": 1 / (step + 1), "é": math.nan}) for step in range(5)]
    spool = Spool(path)
    for entry in entries:
        spool.write(entry)
    spool.close()
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert same(read(path), entries[: content[:size].count(b"\n")])


def test_lines_are_strict_json_and_truthful(tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    spool = Spool(tmp_path / FILE_NAME)
    spool.write(Entry(step=3, time_ms=4, metrics={"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1}))
    spool.close()
    (line,) = (tmp_path / FILE_NAME).read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["metrics"] == {
        "a": "NaN",
        "b": "Infinity",
        "c": "-Infinity",
        "d": 0.1,
    }


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    good = b'{"step": 1, "time_ms": 2, "metrics": {}}\n'
    for bad in (b"{\n", b"7\n", b'{"step": 1}\n', b'{"step": 1, "time_ms": 2, "metrics": {"a": "x"}}\n'):
        path.write_bytes(good + bad + good)
        with pytest.raises(DataError, match=r"metrics\.jsonl:2 is not a line of metrics; restore or delete it"):
            read(path)


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path; from mobilebert_exp.tracking.spool import Entry, Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "for step in range(200): spool.write(Entry(step=step, time_ms=0, metrics={'loss': step}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / FILE_NAME
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert [entry.step for entry in read(path)] == list(range(200))


def test_a_full_disk_costs_one_warning_and_no_exception(tmp_path: Path) -> None:
    code = (
        "import sys, resource; from pathlib import Path; from mobilebert_exp.tracking.spool import Entry, Spool\n"
        "spool = Spool(Path(sys.argv[1])); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for step in range(200): spool.write(Entry(step=step, time_ms=0, metrics={'loss': step}))\n"
        "print('trained on')"
    )
    path = tmp_path / FILE_NAME
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "trained on\n"
    assert done.stderr.count("takes no more figures") == 1
    entries = read(path)
    assert entries and [entry.step for entry in entries] == list(range(len(entries)))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"metrics\.jsonl cannot be written \(.+\); choose another output_dir"):
        Spool(tmp_path / "file" / "run" / FILE_NAME)


def test_no_tracker_keeps_the_spool_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = NoTracker()
    with caplog.at_level(logging.WARNING):
        tracker.start(RunInfo(experiment="e", name="n", run_dir=tmp_path))
        tracker.params({"seed": 1})
        tracker.metrics({"loss": 2.0}, step=5)
        tracker.artifact(tmp_path)
        tracker.end(RunState.FINISHED)
        tracker.end(RunState.FAILED, reason="late")
    assert [(entry.step, dict(entry.metrics)) for entry in read(tmp_path / FILE_NAME)] == [(5, {"loss": 2.0})]
    assert tracker.run_id() == tracker.open_command() == ""
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert not caplog.records
