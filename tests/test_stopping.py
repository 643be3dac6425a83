"""Signals before and beside training: a run that makes features ends at once, truthfully, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import replicas

from mobilebert_exp.errors import RunStopped
from mobilebert_exp.runners.base import StopRequest

SIGNALS = {signal.SIGTERM: "PREEMPTED", signal.SIGINT: "KILLED"}
WORDS = ["who", "saw", "the", "river", "in", "spring", "and", "then", "went", "home", "over", "hills"]
PARAGRAPHS, QUESTIONS = 5_000, 10  # several seconds of work, after the 6,000 that are made without workers


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_at_once_and_is_held_where_that_is_asked(number: signal.Signals) -> None:
    passed: list[str] = []
    with StopRequest().listening() as stop, pytest.raises(RunStopped) as stopped, stop.at_once():
        with stop.held():
            os.kill(os.getpid(), number)
            passed.append("held")
            with pytest.raises(RunStopped):
                stop.check()
        with pytest.raises(RunStopped), stop.at_once():
            passed.append("too late")
        os.kill(os.getpid(), number)
        passed.append("went on")
    assert (passed, stopped.value.exit_code) == (["held"], 128 + number)


def test_a_signal_outside_is_remembered(capfd: pytest.CaptureFixture[str]) -> None:
    with StopRequest().listening() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
        told = "\nstopping: saves first, after the steps under way; once more ends at once\n"
        assert capfd.readouterr().err == told
        with pytest.raises(RunStopped, match="signal 2"):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The settings that name generated files: many questions to train on, and few to evaluate."""
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("train", PARAGRAPHS), ("dev", 1)):
        articles = [{"title": f"{number}", "paragraphs": [_paragraph(number)]} for number in range(count)]
        (folder / f"{part}.json").write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *map(str, range(10)),
        *(f"##{n}" for n in range(10)),
    ]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return [f"task.{part}_file={folder}/{part}.json" for part in ("train", "dev")] + [
        f"task.vocab_file={folder}/vocab.txt"
    ]


def _paragraph(number: int) -> dict[str, object]:
    context = " ".join(f"{WORDS[(number + at) % len(WORDS)]} {number * 7 + at}" for at in range(60))
    answer = {"text": context.split()[0], "answer_start": 0}
    return {
        "context": context,
        "qas": [
            {"id": f"{number}-{each}", "question": f"who saw {each}", "answers": [answer]} for each in range(QUESTIONS)
        ],
    }


def _children(process: int) -> list[int]:
    """Of all its threads: each worker is started by one of its own."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    with contextlib.suppress(OSError):
        return [int(each) for file in files for each in file.read_text(encoding="utf-8").split()]
    return []


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(is_so: Callable[[], bool], *, of: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert of.poll() is None and time.monotonic() < deadline, of.communicate()
        time.sleep(0.01)


def _started(folder: Path, *settings: str) -> subprocess.Popen[str]:
    places = [f"output_dir={folder}/outputs", f"cache_dir={folder}/cache", "tracking=none", "model=micro"]
    return subprocess.Popen(
        [sys.executable, "-m", "mobilebert_exp", "task=squad_v1", *settings, *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=replicas.environment(),
    )


def _kept(folder: Path) -> list[Path]:
    """What lies in the caches, finished or half-made, but for the locks."""
    return [path for path in folder.glob("cache/*/*") if not path.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("mode", "number"), [("prepare", signal.SIGTERM), ("prepare", signal.SIGINT), ("train", signal.SIGTERM)]
)
def test_features_that_are_being_made_end_with_the_run(
    mode: str, number: signal.Signals, data: Sequence[str], tmp_path: Path
) -> None:
    with _started(tmp_path, f"mode={mode}", "task.max_seq_length=128", "task.doc_stride=32", *data) as running:
        workers: list[int] = []
        try:
            _wait_for(lambda: any(tmp_path.glob("cache/features/.*.tmp/.*.tmp")), of=running)
            if len(os.sched_getaffinity(0)) > 1:
                _wait_for(lambda: bool(_children(running.pid)), of=running)
            workers = _children(running.pid)
            assert workers or len(os.sched_getaffinity(0)) == 1
            running.send_signal(number)
            said, complained = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, complained.count("Traceback")) == (128 + number, 0), complained
    assert not any(map(_is_alive, workers))
    assert not _kept(tmp_path)
    (run_dir,) = {path.parent for path in tmp_path.glob("outputs/*/*/*/state.json")}
    for file in ("state.json", "result.json"):
        found = json.loads((run_dir / file).read_text(encoding="utf-8"))
        assert (found["state"], found["reason"]) == (SIGNALS[number], f"stopped by signal {number.value}")
    assert SIGNALS[number] in said
    assert said.endswith("nothing is saved; the same command starts again\n")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_starter_data_that_are_being_made_end_with_the_command(number: signal.Signals, tmp_path: Path) -> None:
    with _started(tmp_path, "mode=prepare", "task.starter.train_articles=300000") as running:
        try:
            _wait_for(lambda: any(tmp_path.glob("cache/*/.*.tmp")), of=running)
            running.send_signal(number)
            _, complained = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, complained) == (128 + number, "")
    assert not _kept(tmp_path)
    assert not list(tmp_path.glob("outputs/*")), "no run had begun"
