"""Tracking with MLflow, which is slow to import, slow to open and sometimes away: none of it in this process.

training ── metrics.jsonl (spool)
   └─ queue ─ thread ─ pipe ─ `mobilebert_exp.tracking.__main__` ─ MLflow
                           └─ reports ─ thread ─ warnings, run id, what arrived
"""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mobilebert_exp.tracking import limits, store
from mobilebert_exp.tracking.base import RunInfo, RunState
from mobilebert_exp.tracking.messages import (
    Artifact,
    Delivered,
    End,
    Message,
    Metrics,
    Opened,
    Params,
    Start,
    Warned,
    decode,
    encode,
    weight,
)
from mobilebert_exp.tracking.spool import FILE_NAME, Entry, Spool

# The package may be on this process's path alone (a checkout, a test), hence the path as an argument.
_DELIVERY = "import sys; sys.path.append(sys.argv[1]); from mobilebert_exp.tracking.__main__ import main; main()"
_GRACE_S = 5.0  # beyond the flush timeout, for the final state's own try

_log = logging.getLogger(__name__)


class MlflowTracker:
    """Reports one run to the MLflow store at `uri`.

    Args:
      uri: from `store.resolve_uri`.
      flush_timeout_s: how long `end` waits for what has not arrived yet; longer where there are large files.
    """

    def __init__(self, uri: str, *, flush_timeout_s: float = 60.0) -> None:
        self._uri = uri
        self._flush_timeout_s = flush_timeout_s
        self._spool: Spool | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._known = threading.Event()
        self._opened = Opened(run_id="", experiment_id="")
        self._sent: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()
        self._ended = False

    def start(self, run: RunInfo) -> None:
        self._spool = Spool(run.run_dir / FILE_NAME)
        self._begin_delivery()
        self._send(
            Start(
                uri=self._uri,
                artifact_root=store.artifact_root(self._uri),
                experiment=run.experiment,
                name=run.name,
                parent_run_id=run.parent_run_id,
                tags={name: store.public(str(value)) for name, value in run.tags.items()},
                resume_run_id=run.resume_run_id,
                time_ms=_now_ms(),
            )
        )

    def params(self, values: Mapping[str, object]) -> None:
        self._send(Params(values={name: store.public(str(value)) for name, value in values.items()}))

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        assert self._spool is not None, "start() comes first"
        figures = {name: float(value) for name, value in values.items()}
        entry = Entry(step=int(step), time_ms=_now_ms(), metrics=figures)
        self._spool.write(entry)
        self._send(Metrics(values=figures, step=entry.step, time_ms=entry.time_ms))

    def artifact(self, path: Path, *, folder: str = "") -> None:
        self._flush_timeout_s += limits.extra_s(path)
        self._send(Artifact(path=str(path.absolute()), folder=folder))

    def end(self, state: RunState, *, reason: str = "") -> None:
        if self._spool is None or self._ended:
            return
        self._ended = True
        self._send(
            End(state=state.value, reason=store.public(reason), time_ms=_now_ms(), timeout_s=self._flush_timeout_s)
        )
        self._finish_delivery()
        self._spool.close()
        missing = self._sent - self._delivered
        if missing:
            what = ", ".join(f"{count:,} {kind}" if kind[:3] != "the" else kind for kind, count in missing.items())
            self._warn(f"has not taken {what}")

    def run_id(self, *, timeout_s: float = 30.0) -> str:
        if self._spool is not None:
            self._known.wait(timeout_s)
        return self._opened.run_id

    def open_command(self) -> str:
        """Knows the run as soon as `run_id` does; does not wait."""
        if not self._opened.run_id:
            return ""
        return store.open_command(self._uri, experiment_id=self._opened.experiment_id, run_id=self._opened.run_id)

    def _begin_delivery(self) -> None:
        package_root = str(Path(__file__).resolve().parents[2])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DELIVERY, package_root],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is for the run, which then says how it ended
            )
        except OSError as error:
            self._known.set()
            self._warn(f"cannot be reached, its delivery process does not start ({error})")
            return
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()
        threading.Thread(target=self._feed, args=(self._process,), daemon=True).start()

    def _finish_delivery(self) -> None:
        if self._process is None or self._listener is None:
            return
        self._listener.join(self._flush_timeout_s + _GRACE_S)
        if self._listener.is_alive():
            self._process.kill()
        self._outbox.put(None)
        self._process.wait()
        self._listener.join()

    def _send(self, message: Message) -> None:
        assert self._spool is not None, "start() comes first"
        kind, count = weight(message)
        self._sent[kind] += count
        self._outbox.put(encode(message))

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        """Writes to the pipe, which may be full for a while, so that no caller has to."""
        assert process.stdin is not None
        try:
            for line in iter(self._outbox.get, None):
                process.stdin.write(line)
                process.stdin.flush()
            process.stdin.close()
        except OSError:
            pass  # the process is gone, and the listener says so

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                match decode(line):
                    case Opened() as opened:
                        self._opened = opened
                        self._known.set()
                    case Delivered(kind=kind, count=count):
                        self._delivered[kind] += count
                    case Warned(text=text):
                        self._warn(text)
        self._known.set()
        if not self._ended:
            self._warn(f"gets no more of this run: its delivery process ended with code {process.wait()}")

    def _warn(self, text: str) -> None:
        kept = f"; the run is not affected, all figures are in {self._spool.path}" if self._spool else ""
        _log.warning("%s", store.public(f"MLflow at {self._uri} {text}{kept}"))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
