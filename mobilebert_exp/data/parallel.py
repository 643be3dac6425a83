"""Work shared among the cores: an ordered map over chunks, in processes that import only what the work needs.

Not `multiprocessing`: forking copies the locks of TensorFlow's threads, and spawning runs the caller's main script once
more in every worker (https://docs.python.org/3.11/library/multiprocessing.html#the-spawn-and-forkserver-start-methods),
which a script without a guard does not survive. A worker here is a plain Python process on two pipes. It ends when the
pipe does, so none outlives the process that started it, in whatever way that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

from mobilebert_exp.data import cores
from mobilebert_exp.errors import UserError, WorkerError

_INLINE_CHUNKS = 12  # fewer are done before the first worker has started
_MOST_WORKERS = 16  # unless asked: one process reads the data and writes the records, and feeds no more
_CHUNKS_A_WORKER = 2  # one in its hands and one waiting: enough to keep it busy, and all that is in memory
_PIPE_BYTES = 2**20  # a chunk, and most of a result: a worker then hands it over at once, and waits for nobody
_SERVE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from mobilebert_exp.data import parallel as p; p.serve()"
)

# Tasks hand on examples and need not know who works on them, so it stands beside the call.
_ASKED: ContextVar[int | None] = ContextVar("worker processes", default=None)

_Item = TypeVar("_Item")
_Chunk = TypeVar("_Chunk")
_Result = TypeVar("_Result")


def chunked(items: Iterable[_Item], *, size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items; the last may be shorter."""
    ahead = iter(items)
    while chunk := list(itertools.islice(ahead, size)):
        yield chunk


@contextlib.contextmanager
def shared_among(workers: int | None) -> Iterator[None]:
    """Inside the block, so many processes share the work; None leaves it to `team_size`."""
    token = _ASKED.set(workers)
    try:
        yield
    finally:
        _ASKED.reset(token)


def team_size() -> int:
    """How many processes share the work: what was asked for, or one for each core this one may use, at most 16."""
    return _ASKED.get() or min(cores.usable(), _MOST_WORKERS)


def ordered(
    work: Callable[[_Chunk], _Result], chunks: Iterable[_Chunk], *, workers: int | None = None
) -> Generator[_Result, None, None]:
    """Yields `work(chunk)` for each chunk, in their order; few chunks are worked on here, without a process.

    Args:
      work: an instance or a function that can be pickled; importing its module should be cheap. It is sent once.
      chunks: read as the results are taken: at most two for each worker are in memory. Best 10 to 100 ms of work each.
      workers: how many processes at most; by default `team_size()`. One starts when a chunk waits and none is free.

    Close the iterator (`contextlib.closing`) when leaving before its end, and its processes end there and then.

    Raises:
      WorkerError: a worker was killed, or cannot be started.
      Exception: whatever `work` raised, when its turn comes.
    """
    workers = team_size() if workers is None else workers
    ahead = iter(chunks)
    first = list(itertools.islice(ahead, _INLINE_CHUNKS)) if workers > 1 else []
    every = itertools.chain(first, ahead)
    if workers < 2 or len(first) < _INLINE_CHUNKS:
        yield from map(work, every)
        return
    with _team(work, size=workers) as submit:
        waiting: deque[Future[_Result]] = deque()
        for chunk in every:
            waiting.append(submit(chunk))
            if len(waiting) >= _CHUNKS_A_WORKER * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def _team(work: Callable[[Any], Any], *, size: int) -> Iterator[Callable[[Any], Future[Any]]]:
    """What hands a chunk to the next free of at most `size` workers. They are gone when the block is left."""
    content = pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
    members: list[_Worker] = []
    starting, is_over = threading.Lock(), threading.Event()
    own = threading.local()

    def done_by_one(chunk: Any) -> Any:
        if not hasattr(own, "worker"):
            with starting:
                if is_over.is_set():
                    raise CancelledError  # nobody would end it
                own.worker = _Worker(content)
                members.append(own.worker)
        return own.worker.ask(chunk)

    # Each thread waits for the pipe of its worker; the pool starts one only when a chunk waits and no other is idle.
    with ThreadPoolExecutor(size, thread_name_prefix="worker") as threads:
        try:
            yield lambda chunk: threads.submit(done_by_one, chunk)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            with starting:
                is_over.set()
            for worker in members:
                worker.end()


class _Worker:
    """A process that answers one chunk after another."""

    def __init__(self, work: bytes) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a terminal's Ctrl-C is for the command, which ends its workers
            )
        except OSError as error:
            raise WorkerError(f"no process to make features in can be started ({error.strerror}); {_REMEDY}") from None
        for pipe in filter(None, (self._process.stdin, self._process.stdout)):
            with contextlib.suppress(OSError):  # a user is given only so much of it: then pipes stay as they are
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._work = work

    def ask(self, chunk: Any) -> Any:
        """The work done on a chunk; raises what it raised."""
        chunks, results = self._process.stdin, self._process.stdout
        assert chunks is not None and results is not None
        try:
            chunks.write(self._work)
            self._work = b""  # sent with the first chunk, by the thread that waits for this process
            pickle.dump(chunk, chunks, protocol=pickle.HIGHEST_PROTOCOL)
            chunks.flush()
            is_done, value = pickle.load(results)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            raise WorkerError(f"a process that makes features {self._end_of_it()}; {_REMEDY}") from None
        if not is_done:
            raise value
        return value

    def end(self) -> None:
        """Kills it: it keeps nothing that would have to be put away."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was written to it last is lost, and may be
                pipe.close()

    def _end_of_it(self) -> str:
        code = self._process.wait()
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


_REMEDY = "start again, with more memory if the system ran out of it; nothing half-made was kept"


def serve() -> None:
    """The worker's side: reads the work, then chunks, from standard input, and answers each on standard output."""
    for number in (signal.SIGINT, signal.SIGTERM):  # to all processes of a job: the other side's to handle, who ends us
        signal.signal(number, signal.SIG_IGN)
    has_ended = contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError)  # the other side
    with has_ended, os.fdopen(os.dup(sys.stdout.fileno()), "wb") as results:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that nothing printed gets among the answers
        work = pickle.load(sys.stdin.buffer)
        while True:
            chunk = pickle.load(sys.stdin.buffer)
            pickle.dump(_answer(work, chunk), results, protocol=pickle.HIGHEST_PROTOCOL)
            results.flush()


def _answer(work: Callable[[Any], Any], chunk: Any) -> tuple[bool, Any]:
    try:
        return True, work(chunk)
    except UserError as mistake:
        return False, mistake
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        return False, error
