"""Work shared among processes comes back in order, and nothing of it outlives the one who asked."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import workloads

from mobilebert_exp.data import cores, parallel
from mobilebert_exp.errors import DataError, WorkerError

CHECKOUT = Path(__file__).resolve().parent.parent


def _chunks(count: int) -> Iterator[list[int]]:
    return parallel.chunked(range(count), size=5)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 3, 55, 56, 203])
def test_results_come_in_the_order_of_chunks(tmp_path: Path, count: int, workers: int) -> None:
    work = workloads.Traced(tmp_path, seconds=0.002)
    found = list(itertools.chain.from_iterable(parallel.ordered(work, _chunks(count), workers=workers)))
    assert found == [2 * number for number in range(count)]
    notes = [path.read_text(encoding="utf-8").split(" ", 1) for path in tmp_path.iterdir()]
    processes = {process for process, _ in notes}
    if count < 56 or workers == 1:
        assert processes <= {str(os.getpid())}, "few chunks are worked on here"
    else:
        assert str(os.getpid()) not in processes
        assert 1 < len(processes) <= workers
        assert {heavy for _, heavy in notes} == {""}, "workers import what the work needs"


def test_a_user_who_may_have_no_larger_pipes_has_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(pipe: object, command: int, size: int) -> int:
        asked.append(command)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    work = workloads.Traced(tmp_path, seconds=0.0)
    found = list(itertools.chain.from_iterable(parallel.ordered(work, _chunks(203), workers=2)))
    assert found == [2 * number for number in range(203)]
    assert set(asked) == {fcntl.F_SETPIPE_SZ}


def test_chunks_are_read_as_results_are_taken(tmp_path: Path) -> None:
    read = 0

    def counted() -> Iterator[list[int]]:
        nonlocal read
        for chunk in _chunks(10_000):
            read += 1
            yield chunk

    with closing(parallel.ordered(workloads.Traced(tmp_path), counted(), workers=2)) as results:
        for taken, _ in zip(range(1, 101), results, strict=False):
            assert read <= max(taken + 4, 12)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_work_raises_is_raised_in_its_turn(workers: int) -> None:
    results = parallel.ordered(workloads.refused_at, _chunks(200), workers=workers)
    assert [chunk[0] for _, chunk in zip(range(8), results, strict=False)] == [*range(0, 40, 5)]
    with pytest.raises(DataError, match=r"^number 40 is no good; choose another$"):
        next(results)
    assert next(results, None) is None


def test_a_defect_in_a_worker_shows_where(tmp_path: Path) -> None:
    chunks = (chunk for chunk in _chunks(200) if 40 not in chunk)
    with pytest.raises(ZeroDivisionError) as error:
        list(parallel.ordered(workloads.refused_at, chunks, workers=2))
    assert "in refused_at" in "".join(error.value.__notes__)


@pytest.mark.parametrize(
    ("work", "complaint"),
    [(workloads.killed_at, "was killed (SIGKILL)"), (workloads.leaves_at, "ended with exit code 3")],
)
def test_a_worker_that_is_gone_is_one_line(work: Callable[[list[int]], list[int]], complaint: str) -> None:
    with pytest.raises(WorkerError) as error:
        list(parallel.ordered(work, _chunks(200), workers=2))
    assert str(error.value) == (
        f"a process that makes features {complaint}; start again, with more memory if the system ran out of it; "
        "nothing half-made was kept"
    )


def _workers(folder: Path) -> set[int]:
    return {int(path.read_text(encoding="utf-8").split()[0]) for path in folder.iterdir() if path.stat().st_size}


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    with closing(parallel.ordered(workloads.Traced(tmp_path), _chunks(100_000), workers=2)) as results:
        next(results)
    assert _workers(tmp_path)
    assert not any(map(_is_alive, _workers(tmp_path))), "at once, not when the garbage is collected"


@pytest.mark.parametrize(("chunks", "workers", "most"), [(14, 40, 14), (200, 2, 2)])
def test_no_more_workers_start_than_chunks_wait(
    chunks: int, workers: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Counted(parallel._Worker):
        def __init__(self, work: bytes) -> None:
            started.append(work)
            super().__init__(work)

    monkeypatch.setattr(parallel, "_Worker", Counted)
    assert len(list(parallel.ordered(workloads.Traced(tmp_path), _chunks(5 * chunks), workers=workers))) == chunks
    assert 1 <= len(started) <= most
    assert not any(map(_is_alive, _workers(tmp_path)))


def test_a_team_has_a_worker_a_core_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable", lambda: 192)
    assert parallel.team_size() == 16
    with parallel.shared_among(24):
        assert parallel.team_size() == 24
        with parallel.shared_among(None):
            assert parallel.team_size() == 16
    monkeypatch.setattr(cores, "usable", lambda: 3)
    assert parallel.team_size() == 3


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 8),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 3),
        ("0::/../elsewhere\n", {"cpu.max": "damaged\n"}, 8),
        ("4:memory:/a\n1:cpu,x:/a\n", {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("no such line\n", {}, 8),
    ],
)  # fmt: skip
def test_a_container_has_the_cores_of_its_quota(
    lines: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for name, content in {"proc/self/cgroup": lines, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert cores.usable(root=tmp_path) == expected


def test_this_machine_has_some() -> None:
    assert 1 <= cores.usable() <= len(os.sched_getaffinity(0))


def test_a_signal_to_all_processes_of_a_job_is_not_the_workers(tmp_path: Path) -> None:
    with closing(parallel.ordered(workloads.Traced(tmp_path), _chunks(200), workers=2)) as results:
        taken = [next(results)]
        for process in _workers(tmp_path) - {os.getpid()}:
            os.kill(process, signal.SIGTERM)
        taken += results
    assert len(taken) == 40


SCRIPT = """
import signal
import sys
from pathlib import Path

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
sys.modules["workload_main"] = sys.modules[__name__]  # seen in a worker, it would have run this script once more
print("the script runs", flush=True)

import workloads
from mobilebert_exp.data import parallel

chunks = parallel.chunked(range(10**6), size=5)
for result in parallel.ordered(workloads.Traced(Path(sys.argv[1]), seconds=0.01), chunks, workers=2):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_script_without_a_guard_runs_once_and_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")])
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "traces")],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        _wait_for(lambda: len(_workers(tmp_path / "traces")) == 2)
        script.send_signal(number)
        said, complained = script.communicate(timeout=30)
    assert said == "the script runs\n"
    assert complained.count("Traceback") == (number is signal.SIGINT), "its own KeyboardInterrupt, none of a worker"
    _wait_for(lambda: not any(map(_is_alive, _workers(tmp_path / "traces"))))
    assert all(path.read_text(encoding="utf-8").split()[1:] == [] for path in (tmp_path / "traces").iterdir())
