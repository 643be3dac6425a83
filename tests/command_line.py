"""The command line under test: in this process, which is fast, or as a process of its own, as people run it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilebert_exp import __main__ as entry

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def here(*arguments: str) -> Ended:
    """Runs the command in this process; what it raises is raised, except an exit."""
    out, err = io.StringIO(), io.StringIO()
    with _as_it_was(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["mobilebert_exp", *arguments]
        try:
            code = entry.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Restores what a command changes for its process."""
    arguments, environment, raises = sys.argv, dict(os.environ), logging.raiseExceptions
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        sys.argv, logging.raiseExceptions = arguments, raises
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


def process(
    *arguments: str,
    cwd: Path,
    checkout: Path = CHECKOUT,
    timeout_s: float = 300,
    before: Callable[[], None] | None = None,
) -> Ended:
    """Runs `python -m mobilebert_exp` of a checkout; `before` is called in the new process, ahead of Python."""
    ended = subprocess.run(
        [sys.executable, "-m", "mobilebert_exp", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        preexec_fn=before,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)
