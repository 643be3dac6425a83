"""Checkpoints of our own with TensorFlow's real files: damage, fallbacks, leftovers, and what earlier versions made."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import committed
import numpy as np
import pytest
import tensorflow as tf
import toy
from fakes import FakeTracker

from mobilebert_exp import manifest
from mobilebert_exp.errors import CheckpointError, OutputError
from mobilebert_exp.modeling.checkpoints import native
from mobilebert_exp.modeling.checkpoints.series import Series
from mobilebert_exp.runners.base import StopRequest

DATA, INDEX = "data-00000-of-00001", "index"


def weights(value: float) -> tf.train.Checkpoint:
    """Something to save, that tells which step it is of."""
    return tf.train.Checkpoint(variable=tf.Variable(tf.fill([50, 4], float(value))))


def values(prefix: str) -> float:
    restored = weights(-1.0)
    native.restore(restored, prefix)
    (value,) = set(restored.variable.numpy().ravel())
    return float(value)


def series(folder: Path, *steps: int, keep: int = 2) -> Series:
    made = Series(folder, keep=keep, model=toy.model(), head="toy: a span", vocabulary="words")
    for step in steps:
        made.save(weights(step), step=step)
        made.prune()
    return made


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_newest_stay(tmp_path: Path) -> None:
    made = series(tmp_path / "checkpoints", 2, 4, 11)
    assert [prefix.name for prefix in manifest.committed(tmp_path / "checkpoints")] == ["ckpt-11", "ckpt-4"]
    assert made.newest() == str(tmp_path / "checkpoints/ckpt-11")
    assert values(made.newest()) == 11
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")) == made.newest(), "for TensorFlow's own tools"
    names = {f"ckpt-{step}.{part}" for step in (4, 11) for part in (DATA, INDEX, "json")}
    assert set(os.listdir(tmp_path / "checkpoints")) == names | {"checkpoint"}


@pytest.mark.parametrize("part", [DATA, INDEX, "json"])
@pytest.mark.parametrize("how", committed.DAMAGE)
def test_the_one_before_is_used_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str, how: str
) -> None:
    series(tmp_path, 2, 4)
    committed.DAMAGE[how](tmp_path / f"ckpt-4.{part}")
    made = series(tmp_path)
    assert values(made.newest()) == 2
    if (part, how) == ("json", "removed"):  # then it is as if it had never been committed
        assert warnings(caplog) == []
    else:
        (told,) = warnings(caplog)
        assert re.fullmatch(rf"ckpt-4 is damaged \(ckpt-4\.{part} [^;\n]+\); using {tmp_path}/ckpt-2 instead", told)
    made.save(weights(3.0), step=3)
    made.prune()
    assert [prefix.name for prefix in manifest.committed(tmp_path)] == ["ckpt-3", "ckpt-2"]
    assert not list(tmp_path.glob("ckpt-4*")), "its step will be done again"


def test_damage_that_tensorflow_does_not_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A byte after the end of the data; one of the index that stands outside its blocks; the files of another step."""
    series(tmp_path, 1, 2, 3, 4, 5, keep=5)
    committed.lengthen(tmp_path / f"ckpt-5.{DATA}")
    index = tmp_path / "ckpt-4.index"
    committed.flip(index, bit=8 * (index.stat().st_size - 20))  # between the footer's handles and its magic number
    for part in (DATA, INDEX):
        shutil.copy(tmp_path / f"ckpt-1.{part}", tmp_path / f"ckpt-3.{part}")
    assert [values(str(tmp_path / f"ckpt-{step}")) for step in (5, 4, 3)] == [5, 4, 1]
    assert values(series(tmp_path).newest()) == 2
    (told,) = warnings(caplog)
    assert told.count("is damaged") == 3


def test_where_none_is_whole_nothing_is_begun_anew(tmp_path: Path) -> None:
    series(tmp_path, 2, 4)
    committed.flip(tmp_path / f"ckpt-2.{DATA}")
    (tmp_path / f"ckpt-4.{INDEX}").unlink()
    with pytest.raises(CheckpointError) as told:
        series(tmp_path).newest()
    assert str(told.value) == (
        f"no checkpoint in {tmp_path} is whole: ckpt-4 is damaged (ckpt-4.index is missing); "
        f"ckpt-2 is damaged (ckpt-2.{DATA} has another crc32c than when it was written); "
        "bring back the files, name another checkpoint, or start afresh (resume=never)"
    )


def test_what_was_never_committed_is_none(tmp_path: Path) -> None:
    """The first save was interrupted before its manifest, and so was a later one."""
    weights(1.0).write(str(tmp_path / "ckpt-1"))
    assert series(tmp_path).newest() == ""
    series(tmp_path, 2)
    weights(3.0).write(str(tmp_path / "ckpt-3"))
    (tmp_path / ".ckpt-3.json.123").write_text("{")
    made = series(tmp_path)
    assert values(made.newest()) == 2
    with pytest.raises(CheckpointError, match=r"ckpt-3 is what an interrupted save left; name the run, "):
        native.located(str(tmp_path / "ckpt-3"))
    made.save(weights(5.0), step=5)
    assert {name.split(".")[0] for name in os.listdir(tmp_path)} == {"ckpt-2", "ckpt-5", "checkpoint"}


def test_what_is_read_back_must_be_what_was_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps something else: nothing is committed, nothing is left, and the one before stays."""
    made = series(tmp_path, 2)
    write = tf.train.Checkpoint.write

    def spoilt(checkpoint: tf.train.Checkpoint, prefix: str) -> None:
        write(checkpoint, prefix)
        committed.flip(Path(f"{prefix}.{DATA}"))

    monkeypatch.setattr(tf.train.Checkpoint, "write", spoilt)
    with pytest.raises(OutputError, match=rf"^cannot save a checkpoint in {tmp_path} \([^\n]+\); free space there$"):
        made.save(weights(4.0), step=4)
    assert not list(tmp_path.glob("*ckpt-4*"))
    assert values(made.newest()) == 2


def test_a_step_made_anew_takes_the_place_of_the_first(tmp_path: Path) -> None:
    made = series(tmp_path, 2, 4)
    made.save(weights(40.0), step=4)
    made.prune()
    assert values(series(tmp_path).newest()) == 40
    assert [prefix.name for prefix in manifest.committed(tmp_path)] == ["ckpt-4", "ckpt-2"]


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = tf.train.CheckpointManager(weights(6.0), str(tmp_path), max_to_keep=2)
    for step in (4, 6):
        manager.save(checkpoint_number=step)
    with caplog.at_level(logging.INFO):
        made = series(tmp_path)
        assert values(made.newest()) == 6
    assert "ckpt-6 has no manifest (an earlier version made it)" in caplog.text
    made.save(weights(8.0), step=8)
    made.prune()
    assert (tmp_path / "ckpt-6.index").is_file(), "it counts as one of those that are kept"
    assert values(series(tmp_path).newest()) == 8


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run's folder: best after step 3, newest after steps 4 and 5."""
    native.write_model(tmp_path, toy.model(), head="toy: a span", vocabulary="", total_steps=8)
    series(tmp_path / native.FOLDER / native.BEST, 3)
    series(tmp_path / native.FOLDER, 4, 5)
    yield tmp_path


def test_what_a_place_means(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place, expected in {"": 3, "/best": 3, "/last": 5, "/checkpoints/ckpt-4": 4}.items():
        found = native.located(f"{run}{place}")
        assert (values(found.prefix), found.head, found.model["name"]) == (expected, "toy: a span", "toy"), place
        assert len(found.sha256) == 64
    assert caplog.text == ""


def test_what_a_place_means_where_it_is_damaged(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a run the next best is taken, and it is said; what was asked for by name is not replaced."""
    committed.flip(run / f"checkpoints/best/ckpt-3.{DATA}")
    assert values(native.located(str(run)).prefix) == 5
    with pytest.raises(CheckpointError, match=r"^no checkpoint in .+/best is whole: ckpt-3 is damaged \("):
        native.located(f"{run}/best")
    committed.flip(run / f"checkpoints/ckpt-5.{INDEX}")
    for place in (str(run), f"{run}/last"):
        caplog.clear()
        assert values(native.located(place).prefix) == 4
        (told,) = warnings(caplog)
        assert told.endswith(f"; using {run}/checkpoints/ckpt-4 instead") or told.count("damaged") == 1
    with pytest.raises(CheckpointError) as refused:
        native.located(f"{run}/checkpoints/ckpt-5")
    assert str(refused.value) == (
        f"checkpoint {run}/checkpoints/ckpt-5 is damaged "
        "(ckpt-5.index has another crc32c than when it was written); choose another"
    )


def test_a_checkpoint_stands_by_itself(run: Path, tmp_path: Path) -> None:
    """Its manifest tells the architecture and the head, whatever became of the files around it."""
    alone = tmp_path / "alone"
    shutil.copytree(run / "checkpoints/best", alone)
    found = native.located(str(alone / "ckpt-3"))
    assert found.head == "toy: a span"
    assert found.model["hidden_size"] == toy.model().hidden_size


class Stopping(FakeTracker):
    """Has the run stopped, as SIGTERM would, once it hears of step 5."""

    stop: StopRequest

    def metrics(self, values: object, *, step: int) -> None:
        super().metrics(values, step=step)  # type: ignore[arg-type]
        if step >= 5:
            self.stop.signal_number = 15


@pytest.mark.slow
def test_a_run_whose_newest_is_damaged_ends_as_if_it_were_not(tmp_path: Path) -> None:
    """Bit for bit: it does the steps after the one before again."""
    config = toy.experiment(hardware__steps_per_loop=1, trainer__checkpoint_every_steps=2, trainer__eval_every_steps=3)
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, max_steps=8))
    toy.run(config, toy.task(config, tmp_path), tmp_path / "whole")
    tracker = toy.started(Stopping())
    tracker.stop = StopRequest()
    with pytest.raises(BaseException, match="stopped by signal 15"):
        toy.run(config, toy.task(config, tmp_path), tmp_path / "other", tracker=tracker, stop=tracker.stop)
    folder = tmp_path / "other" / native.FOLDER
    assert [prefix.name for prefix in manifest.committed(folder)] == ["ckpt-5", "ckpt-4"]
    committed.flip(folder / f"ckpt-5.{DATA}")
    again = toy.started(FakeTracker())
    toy.run(config, toy.task(config, tmp_path), tmp_path / "other", tracker=again)
    assert again.series("train/loss")[0][0] == 5
    whole, other = (toy.weights(str(tmp_path / name / native.FOLDER / "ckpt-8")) for name in ("whole", "other"))
    assert whole.keys() == other.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
