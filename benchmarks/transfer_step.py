"""How long one step of knowledge transfer to the last layer of `opt` takes with the layers below frozen, and trained.

The turn of layer 24: forward passes of student and teacher (`base`: as wide and as deep), the losses, backward, LAMB;
float32, two threads, random tokens. With frozen lower layers the backward pass touches one layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measurement import Comparison, Goal, in_turn
from benchmarks.processes import Worker
from benchmarks.step_time import THREADS
from mobilebert_exp.modeling.transfer import LowerLayers

ROUNDS = 5
TARGET = 0.5
STEPS_PER_TURN = 3
BATCH, LENGTH = 8, 128
MODULE = "benchmarks.peers.our_transfer"


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """The one comparison there is."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-")))
        workers = {}
        for lower in (LowerLayers.frozen, LowerLayers.slow):
            tell(f"{lower.name} lower layers: builds and compiles")
            workers[lower.name] = stack.enter_context(Worker(MODULE, job(lower), folder=folder))
            workers[lower.name].wait_until_ready()
        programs = {name: lambda worker=worker: worker.steps(STEPS_PER_TURN) for name, worker in workers.items()}
        found = in_turn(programs, rounds=rounds, tell=tell)
    return [
        Comparison(
            title=f"Knowledge transfer: one step of layer 24 of `opt`, {BATCH} × {LENGTH}, {THREADS} threads, float32",
            ours=found[LowerLayers.frozen.name],
            peers=(found[LowerLayers.slow.name],),
            goal=Goal.at_most,
            target=TARGET,
            notes=("Lower layers frozen, against lower layers trained slowly, as the original does.",),
        )
    ]


def job(lower: LowerLayers, *overrides: str) -> dict[str, object]:
    """What the program is told."""
    return {
        "overrides": [
            *("cache_dir=cache", "task=distill", "model@task.teacher=base"),  # nothing is read or written
            *(f"task.transfer.lower_layers={lower.name}", f"task.max_seq_length={LENGTH}"),
            *(f"task.global_batch_size={BATCH}", f"task.eval_batch_size={BATCH}", f"hardware.threads={THREADS}"),
            *overrides,
        ],
        "threads": THREADS,
    }
