"""How much faster the input pipeline makes batches than the full `opt` consumes them.

The pipeline reads, shuffles, batches and parses feature files as a training run does, and nobody trains on them; `opt`
takes training steps on a batch that lies in memory. Both in the sizes of `step_time`, with two threads each, in turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import step_time, texts
from benchmarks.measurement import Comparison, Goal, in_turn
from benchmarks.processes import Worker

ROUNDS = 4
TARGET = 20.0
QUESTIONS = 10_000
BATCHES_A_TURN, STEPS_A_TURN = 500, 2
OURS, CONSUMER = "input pipeline", "training step of opt"
FEEDING = "benchmarks.peers.feeding"


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """One comparison for each size of batch."""
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tell("inventing questions")
        texts.write_squad(folder / "train.json", questions=QUESTIONS)
        texts.write_vocabulary(folder / "vocab.txt")
        return [_compare(batch, length, folder, rounds=rounds, tell=tell) for batch, length in step_time.SIZES]


def _compare(batch: int, length: int, folder: Path, *, rounds: int, tell: Callable[[str], None]) -> Comparison:
    told = step_time.job(batch=batch, length=length)
    feeding = [
        *("task=squad_v1", f"task.train_file={folder}/train.json", f"task.vocab_file={folder}/vocab.txt"),
        *(f"task.max_seq_length={length}", "task.doc_stride=32", "task.max_query_length=32", f"cache_dir={folder}"),
    ]
    modules = {OURS: FEEDING, CONSUMER: step_time.MODULES[step_time.OURS]}
    with ExitStack() as stack:
        workers = {}
        for name, module in modules.items():
            tell(f"{batch} × {length}: {name} gets ready")
            workers[name] = stack.enter_context(Worker(module, {**told, "feeding": feeding}, folder=folder))
            workers[name].wait_until_ready()
        programs = {
            OURS: lambda: [sum(workers[OURS].steps(BATCHES_A_TURN)) / BATCHES_A_TURN],
            CONSUMER: lambda: workers[CONSUMER].steps(STEPS_A_TURN),
        }
        found = in_turn(programs, rounds=rounds, tell=tell)
    return Comparison(
        title=f"Input pipeline: one batch of {batch} × {length}",
        ours=found[OURS],
        peers=(found[CONSUMER],),
        goal=Goal.at_least,
        target=TARGET,
        notes=(
            f"The pipeline's value: the mean of {BATCHES_A_TURN} batches, not of the first, which fills the shuffle.",
        ),
    )
