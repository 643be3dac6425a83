"""The programs that are measured, each in a process of its own, all with the same environment."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

CHECKOUT = Path(__file__).resolve().parent.parent
LIMIT_S = 600.0  # a program that takes longer hangs, and is ended
LEFT_OUT = (  # what somebody's shell may say; every program is measured with its own defaults
    *("PYTHONDONTWRITEBYTECODE", "PYTHONOPTIMIZE", "PYTHONPROFILEIMPORTTIME", "PYTHONWARNINGS"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    *("TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS", "XLA_FLAGS"),
    *("FORCE_COLOR", "TTY_COMPATIBLE"),  # they would turn our lines of progress into a bar
    "MLFLOW_TRACKING_URI",  # a person's own server is no place for these runs
)
SETTINGS = {
    "TF_USE_LEGACY_KERAS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",  # every claim is about the processor
    "PYTHONUNBUFFERED": "1",  # a line is seen when it is printed
}


class BenchmarkError(RuntimeError):
    """A benchmark cannot be run, or a program in it failed; one line says why."""


def require(*modules: str, purpose: str) -> None:
    """Raises BenchmarkError where a peer is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise BenchmarkError(f"{purpose} needs {' and '.join(missing)}, not installed here; `make bench` installs them")


def environment() -> dict[str, str]:
    """This process' environment without what would change a measurement; the checkout comes first on the path."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    path = os.pathsep.join(filter(None, [str(CHECKOUT), kept.get("PYTHONPATH", "")]))
    return {**kept, **SETTINGS, "PYTHONPATH": path}


def seconds_of(arguments: Sequence[str], *, folder: Path) -> float:
    """How long `python ARGUMENTS` takes from its start to its end, in `folder`."""
    return _watched(arguments, folder=folder, line=None)


def seconds_until(arguments: Sequence[str], *, folder: Path, line: str) -> float:
    """How long `python ARGUMENTS` takes to print a line that the pattern `line` matches; it then runs to its end."""
    return _watched(arguments, folder=folder, line=re.compile(line))


def answer_of(arguments: Sequence[str], *, folder: Path) -> dict[str, Any]:
    """What `python ARGUMENTS` prints as its last line of standard output: a JSON object."""
    with (
        tempfile.TemporaryFile("w+") as said,
        _started(arguments, folder=folder, stdin=subprocess.DEVNULL, stderr=said) as process,
        _limited(process),
    ):
        assert process.stdout is not None
        lines = process.stdout.readlines()
        if code := process.wait():
            said.seek(0)
            raise _failure(arguments, code, said.read())
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _watched(arguments: Sequence[str], *, folder: Path, line: re.Pattern[str] | None) -> float:
    started = time.perf_counter()
    seen_at = None
    last_lines: deque[str] = deque(maxlen=5)
    with (
        _started(arguments, folder=folder, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process,
        _limited(process),
    ):
        assert process.stdout is not None
        for text in process.stdout:
            if seen_at is None and line is not None and line.match(text):
                seen_at = time.perf_counter()
            last_lines.append(text)
        code = process.wait()
    ended = time.perf_counter()
    if code != 0:
        raise _failure(arguments, code, "".join(last_lines))
    if line is None:
        return ended - started
    if seen_at is None:
        raise BenchmarkError(f"python {' '.join(arguments[:3])} … ended without a line like {line.pattern!r}")
    return seen_at - started


@contextmanager
def _started(
    arguments: Sequence[str], *, folder: Path, stdin: int, stderr: int | IO[str]
) -> Iterator[subprocess.Popen[str]]:
    """A running `python ARGUMENTS`; it does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder, env=environment(), stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True, bufsize=1,
    ) as process:  # fmt: skip
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@contextmanager
def _limited(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends a process that takes longer than LIMIT_S for what the block waits for."""
    clock = threading.Timer(LIMIT_S, process.kill)
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def _failure(arguments: Sequence[str], code: int, said: str) -> BenchmarkError:
    lines = said.strip().splitlines()
    reason = lines[-1].strip() if lines else "it said nothing"
    if code == -signal.SIGKILL:
        reason = f"killed, after {LIMIT_S:.0f} s without an answer or for want of memory"
    return BenchmarkError(f"python {' '.join(arguments[:3])} … ended with exit code {code}: {reason}")


class Worker:
    """A process that keeps a model and takes training steps when told to; a context manager.

    Its module hands `peers.worker.serve` what builds the model.

    Attributes:
      parameters: how many numbers its model trains.
    """

    def __init__(self, module: str, job: Mapping[str, Any], *, folder: Path) -> None:
        self._arguments = ["-m", module, json.dumps(job)]
        self._folder = folder
        self.parameters = 0

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile("w+")
        self._running = _started(self._arguments, folder=self._folder, stdin=subprocess.PIPE, stderr=self._said)
        self._process = self._running.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._running.__exit__(kind, error, trace)
        finally:
            self._said.close()

    def wait_until_ready(self) -> None:
        """Returns when the model is built, compiled and warm."""
        self.parameters = int(self._answer()["parameters"])

    def steps(self, count: int) -> list[float]:
        """The seconds of each of `count` training steps."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, and reading its answer says why
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
        return [float(value) for value in self._answer()["seconds"]]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with _limited(self._process):
            text = self._process.stdout.readline()
        if not text:
            code = self._process.wait()
            self._said.seek(0)
            raise _failure(self._arguments[:2], code, self._said.read())
        answer: dict[str, Any] = json.loads(text)
        return answer
