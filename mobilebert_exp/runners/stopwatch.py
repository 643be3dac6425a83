"""Runs exported models in processes of their own, one call at a time, and reads the clock there.

A process of its own for each model and number of threads: so peak memory is that model's, TensorFlow's threads, which
cannot change once it has started, are as many as asked, and a `.tflite` is measured without TensorFlow in memory. The
process that asks decides who runs when: models that take turns have the machine's noise in common.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mobilebert_exp.deployment import SIGNATURE
from mobilebert_exp.errors import ExportError, WorkerError
from mobilebert_exp.lite.model_file import SUFFIX, opened
from mobilebert_exp.runners import peak_memory

if TYPE_CHECKING:
    import numpy as np

    Row = Mapping[str, np.ndarray]

SERVE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mobilebert_exp.runners import stopwatch as s; s.serve(json.loads(sys.argv[2]))"
)
PROFILE_RUNS = 10  # of each distinct op


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
      name: unique among those measured together.
      path: a `.tflite`, or the folder of a SavedModel.
      is_live: whether it is the checkpoint's own model, saved for the purpose.
    """

    name: str
    path: Path
    is_live: bool = False

    @property
    def is_lite(self) -> bool:
        return self.path.suffix == SUFFIX


class Process:
    """A process in which one model is ready to run.

    Raises:
      ExportError: the model cannot be run.
      WorkerError: the process ended.
    """

    def __init__(self, subject: Subject, *, rows: Path, threads: int) -> None:
        self._name = subject.name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        request = {"path": str(subject.path), "rows": str(rows), "threads": threads, "is_live": subject.is_live}
        arguments = [sys.executable, "-c", SERVE, json.dumps(sys.path), json.dumps(request)]
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        try:
            self._hear()
        except BaseException:
            self.close()
            raise

    @property
    def number(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    def run(self, row: int) -> float:
        """Seconds of one run on the row of this number; the first of all follows the last."""
        return float(self._ask(row))

    def ended(self) -> dict[str, Any]:
        """What there is to know when all runs are done: see `serve`."""
        found: dict[str, Any] = self._ask("end")
        return found

    def profile(self) -> list[dict[str, Any]]:
        """Times by kind of op; what `ended` says of memory is to be asked before."""
        found: list[dict[str, Any]] = self._ask("profile")
        return found

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # it ended with something unread
                    stream.close()
        self._process.kill()
        self._process.wait()
        self._said.close()

    def _ask(self, word: object) -> Any:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it says, or that it says nothing, tells more
            self._process.stdin.write(json.dumps(word) + "\n")
            self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"the process that measures {self._name} ended ({self._last_words()}); run it again")
        answer = json.loads(line)
        if "error" in answer:
            raise ExportError(answer["error"])
        return answer["answer"]

    def _last_words(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        if code == -signal.SIGKILL:
            return "killed, perhaps for want of memory"
        return f"signal {-code}: {lines[-1]}" if code < 0 else lines[-1]


def serve(request: Mapping[str, Any]) -> None:
    """The process's side: gets the model ready, then answers lines until there are no more.

    A number asks for a run on that row; "end" for `memory_bytes` (the process's peak, and `before_bytes`, what it had
    before the model was there), and, of a `.tflite`, what XNNPACK has of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the one that asks decides
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # libraries print too
        for answer in _answers(request, sys.stdin):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _answers(request: Mapping[str, Any], questions: IO[str]) -> Iterator[dict[str, Any]]:
    try:
        model = _open(request)
        yield {"answer": "ready"}
        for line in questions:
            yield {"answer": model.answer(json.loads(line))}
    except ExportError as problem:
        yield {"error": str(problem)}


def _open(request: Mapping[str, Any]) -> _Opened:
    import numpy as np

    with np.load(request["rows"], allow_pickle=False) as columns:
        batch = dict(columns)
    count = len(next(iter(batch.values())))
    rows: list[Row] = [{name: values[row : row + 1] for name, values in batch.items()} for row in range(count)]
    path = Path(request["path"])
    opens = _lite if path.suffix == SUFFIX else _saved_model
    return opens(path, rows, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    rows: list[Row]
    run: Callable[[Row], object]
    before_bytes: int
    about: Callable[[], dict[str, Any]]
    profile: Callable[[], list[dict[str, Any]]]
    held: object = None

    def answer(self, question: object) -> Any:
        if question == "end":
            return {"memory_bytes": peak_memory.peak_bytes(), "before_bytes": self.before_bytes, **self.about()}
        if question == "profile":
            return self.profile()
        assert isinstance(question, int)
        row = self.rows[question % len(self.rows)]
        started = time.perf_counter()
        self.run(row)
        return time.perf_counter() - started


def _lite(path: Path, rows: list[Row], request: Mapping[str, Any]) -> _Opened:
    import dataclasses

    from mobilebert_exp.lite.interpreter import LiteModel, load_runtime
    from mobilebert_exp.lite.op_profile import profile

    load_runtime()
    opened(path)  # which takes memory that the model's own opening takes again
    before = peak_memory.peak_bytes()
    model = LiteModel(path, request["threads"])

    def about() -> dict[str, Any]:
        return {"xnnpack": dataclasses.asdict(model.delegation())}

    def times() -> list[dict[str, Any]]:
        found = profile(path, rows[0], threads=request["threads"], runs=PROFILE_RUNS)
        return [dataclasses.asdict(each) for each in found]

    return _Opened(rows=rows, run=model.outputs, before_bytes=before, about=about, profile=times)


def _saved_model(path: Path, rows: list[Row], request: Mapping[str, Any]) -> _Opened:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(request["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(request["threads"])
    if request["is_live"]:  # as every mode runs it on CPU
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    before = peak_memory.peak_bytes()
    try:
        loaded = tf.saved_model.load(str(path))
        function = loaded.signatures[SIGNATURE]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as problem:
        reason = " ".join(str(problem).split())
        raise ExportError(
            f"{path} is no SavedModel with a signature {SIGNATURE} ({reason}); name one, or export it again"
        ) from None
    wanted = function.structured_input_signature[1]
    if missing := sorted(set(wanted) - set(rows[0])):
        raise ExportError(
            f"{path} wants {', '.join(missing)}, which the task's features do not have; name the task that it is for"
        )
    given: list[Row] = [{name: tf.constant(row[name], wanted[name].dtype) for name in wanted} for row in rows]

    def run(row: Row) -> object:
        return [value.numpy() for value in function(**row).values()]

    # `loaded` is named so that it lives as long: the signature alone lets go of its variables.
    return _Opened(rows=given, run=run, before_bytes=before, about=lambda: {}, profile=list, held=loaded)
