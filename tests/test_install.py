"""The environment that `make` keeps: complete ones are left alone, torn and outdated ones are made anew."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@dataclass(kw_only=True, slots=True)
class Commands:
    """Stands for venv and pip: notes what each was asked for, and is interrupted at command number `stop_at`."""

    done: list[str] = field(default_factory=list)
    stop_at: int | None = None

    def run(self, command: Sequence[str], **_: Any) -> None:
        if len(self.done) == self.stop_at:
            raise KeyboardInterrupt
        self.done.append(Path(command[-1]).name)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir()
            (Path(command[-1]) / "bin" / "python").touch()

    def taken(self) -> list[str]:
        """What was asked for since the last look."""
        done, self.done = self.done, []
        return done


@pytest.fixture
def place(checkout: Path, tmp_path: Path) -> Path:
    """A checkout of its own, with one-line locks."""
    place = tmp_path / "place"
    (place / "requirements").mkdir(parents=True)
    shutil.copy(checkout / "requirements" / "install.py", place / "requirements")
    for lock in ("build", "run", "test", "bench"):
        (place / "requirements" / f"{lock}.lock").write_text(f"{lock}==1\n")
    (place / "pyproject.toml").write_text("[project]\n")
    return place


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(subprocess, "run", commands.run)
    return commands


def _module(place: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", place / "requirements" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bring(place: Path, lock: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["install.py", lock])
    return int(_module(place).main())


RUN = [".venv", "build.lock", "run.lock", "place"]


def test_a_complete_environment_is_left_alone(place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _bring(place, "run", monkeypatch) == 0
    assert commands.taken() == RUN
    assert _bring(place, "run", monkeypatch) == 0
    assert commands.taken() == []


def test_locks_add_up(place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    for lock, expected in (("run", RUN), ("test", ["test.lock", "place"]), ("bench", ["bench.lock", "place"])):
        assert _bring(place, lock, monkeypatch) == 0
        assert commands.taken() == expected
    assert [_bring(place, lock, monkeypatch) for lock in ("run", "test", "bench")] == [0, 0, 0]
    assert commands.taken() == []


@pytest.mark.parametrize("stop_at", range(len(RUN)))
def test_an_interrupted_install_is_made_anew(
    place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    commands.stop_at = stop_at
    assert _bring(place, "run", monkeypatch) == 2
    commands.taken()
    torn = place / ".venv" / "torn"
    torn.touch()
    commands.stop_at = None
    assert _bring(place, "run", monkeypatch) == 0
    assert commands.taken() == RUN
    assert not torn.exists()


def test_an_interrupted_addition_is_made_anew(place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _bring(place, "run", monkeypatch) == 0
    commands.taken()
    commands.stop_at = 1
    assert _bring(place, "test", monkeypatch) == 2
    commands.taken()
    commands.stop_at = None
    assert _bring(place, "run", monkeypatch) == 0
    assert commands.taken() == RUN


def test_a_changed_lock_a_lost_python_and_a_move_make_it_anew(
    place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _bring(place, "run", monkeypatch) == 0
    commands.taken()
    (place / "requirements" / "run.lock").write_text("run==2\n")
    assert _bring(place, "run", monkeypatch) == 0
    assert commands.taken() == RUN
    (place / ".venv" / "bin" / "python").unlink()
    assert _bring(place, "run", monkeypatch) == 0
    assert commands.taken() == RUN
    moved = place.rename(place.with_name("moved"))
    assert _bring(moved, "run", monkeypatch) == 0
    assert commands.taken() == [*RUN[:-1], "moved"]


def test_changed_metadata_reinstalls_the_package_and_no_more(
    place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _bring(place, "run", monkeypatch) == 0
    commands.taken()
    (place / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert _bring(place, "run", monkeypatch) == 0
    assert commands.taken() == ["place"]


def test_a_stranger_is_not_removed(
    place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / ".venv" / "mine").mkdir(parents=True)
    assert _bring(place, "run", monkeypatch) == 2
    assert commands.taken() == []
    assert (place / ".venv" / "mine").exists()
    expected = f"error: {place}/.venv was not made by make; move it away, or name another place with VENV=\n"
    assert capsys.readouterr().err == expected


def test_a_failing_install_says_so_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(command: Sequence[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    assert _bring(place, "run", monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: the install into {place}/.venv failed, for the reason above; mend it and try again"


def test_another_python_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.version_info", (3, 12, 1))
    assert _bring(place, "run", monkeypatch) == 2
    assert "3.11 is needed; name one with PYTHON=" in capsys.readouterr().err
    assert not (place / ".venv").exists()


@pytest.mark.parametrize("target", ["run", "test", "test-slow", "test-interop", "bench", "lint"])
def test_make_says_which_python_is_missing(checkout: Path, target: str) -> None:
    ended = subprocess.run(
        ["make", target, "PYTHON=python3.11-absent"], cwd=checkout, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[0] == (
        "error: 'python3.11-absent' was not found; "
        f"install Python 3.11, or name it: make {target} PYTHON=/path/to/python3.11"
    )
