"""SIGKILL at random moments, while a distillation's data are made, in KT and in PD: it ends as if it had never been."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documents
import numpy as np
import pytest
import replicas
import toy
from test_distill_task import OF_TEACHER, SMALL, SMALL_TEACHER, ran, result
from test_pretraining_shards import contents

from mobilebert_exp.data.pretraining import corpus as corpora

SEED = 5
TRANSFER, ANSWERS = 60, 60  # updates
PASSES, DOCUMENTS = 2, 8000  # enough text for worker processes
KILLS = {"data": 3, "transfer": 4, "answers": 3}
LATEST_S = 0.05  # after the sign that a process is to be killed after


@dataclass(frozen=True, slots=True)
class Moment:
    """After so many shards, or the record of a step, and some time."""

    shards: int
    step: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """The one run below a folder, whose cache is its own."""

    folder: Path

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        places = [f"output_dir={self.folder}/outputs", f"cache_dir={self.folder}/cache"]
        with (self.folder / "stderr.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mobilebert_exp", *command, *places],
                stdout=subprocess.DEVNULL, stderr=log, env=replicas.environment(),
            )  # fmt: skip

    def finished(self, command: Sequence[str]) -> None:
        assert self.start(command).wait(timeout=600) == 0, self.said()

    def killed(self, command: Sequence[str], moment: Moment) -> str:
        """Starts the command, kills it, and returns what it was at."""
        shards, lines = self.shards(), len(self.lines())
        running = self.start(command)
        try:
            deadline = time.monotonic() + 300
            while not self.is_reached(moment, shards=shards, lines=lines):
                assert running.poll() is None and time.monotonic() < deadline, self.said()
                time.sleep(0.01)
            time.sleep(moment.delay_s)
        finally:
            running.kill()
        assert running.wait(timeout=60) == -signal.SIGKILL, "it had ended before"
        steps = [json.loads(line)["step"] for line in self.lines()]
        return "data" if not steps else "transfer" if max(steps) < TRANSFER else "answers"

    def is_reached(self, moment: Moment, *, shards: int, lines: int) -> bool:
        """Whether the process, which found so many shards and lines, has come that far."""
        if moment.step:
            new = self.lines()[lines:]
            return bool(new) and json.loads(new[-1])["step"] >= moment.step
        return self.shards() >= max(moment.shards, shards + 1)

    def shards(self) -> int:
        return len(list((self.folder / "cache" / "features").rglob("pass-*.tfrecord")))

    def lines(self) -> list[str]:
        """Whole lines of figures."""
        files = (self.folder / "outputs").glob("*/*/*/metrics.jsonl")
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def said(self) -> str:
        return (self.folder / "stderr.txt").read_text(encoding="utf-8")

    def dir(self) -> Path:
        (found,) = (path.parent for path in (self.folder / "outputs").glob("*/*/*/state.json"))
        return found


def moments(*, shards: int) -> list[Moment]:
    """Not so late in a part that the delay could lead into the next."""
    rng = random.Random(SEED)
    made = sorted(rng.sample(range(1, shards - 6), KILLS["data"]))
    taught = sorted(rng.sample(range(1, TRANSFER - 20), KILLS["transfer"]))
    answered = sorted(rng.sample(range(TRANSFER + 1, TRANSFER + ANSWERS - 20), KILLS["answers"]))
    places = [*((shard, 0) for shard in made), *((0, step) for step in (*taught, *answered))]
    return [Moment(*place, delay_s=rng.uniform(0, LATEST_S)) for place in places]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A student of a teacher that is there already, on texts of its own."""
    texts = {name: tmp_path / f"{name}.txt" for name in ("train", "dev")}
    documents.write(texts["train"], DOCUMENTS)
    documents.write(texts["dev"], 40, seed=1)
    data = [
        f"task.vocab_file={documents.vocabulary(tmp_path)}", f"task.dev_file={texts['dev']}",
        "task.max_seq_length=64", "task.max_predictions_per_seq=10", "task.global_batch_size=8",
        "task.eval_batch_size=64", "task.optimizer.warmup_steps=5", "tracking=none",
    ]  # fmt: skip
    few = [f"task.train_file={texts['dev']}", "task.num_train_steps=5", "task.dupe_factor=1"]
    made = ran("+preset=micro_teacher", *SMALL_TEACHER, *data, *few, folder=tmp_path / "teacher")
    assert made.code == 0, made.err
    return [
        "+preset=micro_student", *SMALL, *OF_TEACHER, *data, f"task.train_file={texts['train']}",
        f"task.teacher_checkpoint={result(tmp_path / 'teacher', 'pretrain')['run_dir']}",
        f"task.transfer.steps={TRANSFER}", f"task.num_train_steps={ANSWERS}", f"task.dupe_factor={PASSES}",
        "task.dynamic_masking=true", "trainer.eval_every_steps=25", "trainer.checkpoint_every_steps=7",
        "hardware.steps_per_loop=1", "hardware.feature_workers=2",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)  # twelve starts of TensorFlow, some minutes on a quiet machine
def test_ten_kills_leave_no_trace(command: list[str], tmp_path: Path) -> None:
    whole, torn = Run(tmp_path / "whole"), Run(tmp_path / "torn")
    for run in (whole, torn):
        run.folder.mkdir()
    whole.finished(command)
    shards = PASSES * round((tmp_path / "train.txt").stat().st_size / corpora.LEAST_GROUP)
    died = Counter(torn.killed(command, moment) for moment in moments(shards=shards))
    assert died == KILLS
    torn.finished(command)
    check_same(torn, whole)


def check_same(found: Run, expected: Run) -> None:
    """Data, weights, moments, step, the best weights and every figure of the end."""
    assert contents(found.folder / "cache" / "features") == contents(expected.folder / "cache" / "features")
    assert not list((found.folder / "cache" / "features").glob(".*.tmp")), "nothing is left of the torn ones"
    folders = [run.dir() / "checkpoints" for run in (found, expected)]
    names, others = ({path.relative_to(at) for path in at.rglob("*.index")} for at in folders)
    assert names == others
    for name in names:
        ours, theirs = (toy.weights(str((at / name).with_suffix(""))) for at in folders)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=f"{name} {key}")
    assert (folders[0] / "best" / "best.json").read_bytes() == (folders[1] / "best" / "best.json").read_bytes()
    results: list[dict[str, Any]] = [json.loads((at.parent / "result.json").read_bytes()) for at in folders]
    assert results[0]["state"] == "FINISHED"
    assert results[0]["metrics"] == results[1]["metrics"]
