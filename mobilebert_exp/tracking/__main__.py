"""The delivery process: reads messages on its standard input, writes reports to its standard output.

`answer` is the other process that knows MLflow: one question about a run's weights, one answer, in the same way.

It is a process of its own because `import mlflow` and the migrations of a fresh store hold Python's lock for seconds: a
thread would take them from the training process while its first step is being built.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, cast

from mobilebert_exp.tracking import weights
from mobilebert_exp.tracking.delivery import Delivery
from mobilebert_exp.tracking.destination import MlflowRun
from mobilebert_exp.tracking.messages import End, Message, Report, decode, encode

# One try a call, and a short one: Delivery does the retrying. The rest keeps MLflow from talking and phoning home.
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"  # seconds
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    _TIMEOUT: "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "GIT_PYTHON_REFRESH": "quiet",
}
_LEFT_ALONE_TIMEOUT_S = 60.0


def main() -> None:
    reports = _own_stdout()
    # The run decides when its delivery ends: a Ctrl-C or a SIGTERM to all processes of a job is the run's to handle.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _set_defaults()

    def report(what: Report) -> None:
        with contextlib.suppress(OSError):  # the run is gone; what it said is delivered all the same
            reports.write(encode(what))

    delivery = Delivery(MlflowRun(patience=_patience), report=report)
    threading.Thread(target=_read, args=(delivery,), daemon=True).start()
    delivery.run()
    os._exit(0)  # the reading thread may sit in a read, which an orderly exit would wait for


def answer() -> None:
    """Answers the question on standard input; see `weights.answered`."""
    answers = _own_stdout()
    _set_defaults()
    with answers:
        answers.write(weights.answered(sys.stdin.read()).encode())


def _set_defaults() -> None:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _patience(extra_s: float) -> Iterator[None]:
    """Inside the block a call may take so much longer."""
    before = os.environ[_TIMEOUT]
    os.environ[_TIMEOUT] = str(int(before) + math.ceil(extra_s))
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = before


def _own_stdout() -> BinaryIO:
    """Standard output for reports only; whatever MLflow prints goes to standard error."""
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return cast("BinaryIO", reports)


def _read(delivery: Delivery) -> None:
    with open(os.dup(sys.stdin.fileno()), "rb") as messages:
        for line in messages:
            message = decode(line)
            delivery.put(cast("Message", message))
            if isinstance(message, End):
                return
    delivery.put(_left_alone())


def _left_alone() -> End:
    """What is true when the messages stop without an End: the process died."""
    return End(
        state="FAILED",
        reason="the process ended without closing its run (killed, or out of memory)",
        time_ms=time.time_ns() // 1_000_000,
        timeout_s=_LEFT_ALONE_TIMEOUT_S,
    )


if __name__ == "__main__":
    main()
