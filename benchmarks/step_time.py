"""How long one training step of the full `opt` takes, against tf-models' and Hugging Face's encoders.

Forward, backward, clip by the global norm and AdamW, float32, attention dropout active, two threads, the same random
tokens. Each implementation sits in a process of its own and takes a few steps whenever it is its turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measurement import Comparison, Goal, in_turn
from benchmarks.processes import BenchmarkError, Worker, require
from mobilebert_exp import compose
from mobilebert_exp.config import leaves

ROUNDS = 6
TARGET = 1.05
STEPS_PER_TURN = 3
THREADS = 2
TOTAL_STEPS, WARMUP_STEPS = 1000, 100  # of the learning rate's schedule; no run takes so many
SIZES = ((8, 128), (4, 384))
OURS = "mobilebert_exp"
MODULES = {
    OURS: "benchmarks.peers.ours",
    "tf-models": "benchmarks.peers.tf_models",
    "Hugging Face, PyTorch eager": "benchmarks.peers.hugging_face",
}


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """One comparison for each size of batch."""
    require("official", "torch", "transformers", purpose="step_time")
    return [_compare(batch, length, rounds=rounds, tell=tell) for batch, length in SIZES]


def job(*, batch: int, length: int, overrides: tuple[str, ...] = ("model=opt",)) -> dict[str, object]:
    """What every implementation is told: ours by its command line, the others by what follows from it."""
    command = [
        "cache_dir=cache",  # a task wants to know one; nothing is read or written
        *("task=squad_v1", f"task.max_seq_length={length}", "task.doc_stride=32", "task.max_query_length=32"),
        *(f"task.global_batch_size={batch}", f"task.eval_batch_size={batch}", f"hardware.threads={THREADS}"),
        *(f"trainer.max_steps={TOTAL_STEPS}", f"task.optimizer.warmup_steps={WARMUP_STEPS}", *overrides),
    ]
    config = compose(command)
    return {
        "overrides": command,
        "architecture": leaves(config.model),
        "optimizer": leaves(config.task.optimizer),
        "batch": batch,
        "length": length,
        "threads": THREADS,
        "total_steps": TOTAL_STEPS,
        "warmup_steps": WARMUP_STEPS,
    }


def _compare(batch: int, length: int, *, rounds: int, tell: Callable[[str], None]) -> Comparison:
    told = job(batch=batch, length=length)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-")))
        workers = {}
        for name, module in MODULES.items():
            tell(f"{batch} × {length}: {name} builds and compiles its model")
            workers[name] = stack.enter_context(Worker(module, told, folder=folder))
            workers[name].wait_until_ready()
        sizes = {name: worker.parameters for name, worker in workers.items()}
        if len(set(sizes.values())) != 1:
            raise BenchmarkError(f"the models differ in size: {sizes}")
        programs = {name: lambda worker=worker: worker.steps(STEPS_PER_TURN) for name, worker in workers.items()}
        found = in_turn(programs, rounds=rounds, tell=tell)
    return Comparison(
        title=f"Step time: one training step of `opt`, {batch} × {length}, {THREADS} threads, float32",
        ours=found[OURS],
        peers=tuple(samples for name, samples in found.items() if name != OURS),
        goal=Goal.at_most,
        target=TARGET,
        notes=(f"Each trains {sizes[OURS]:,} parameters.",),
    )
