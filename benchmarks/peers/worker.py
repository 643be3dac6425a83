"""The far end of `processes.Worker`: builds a model from the JSON on its command line, then steps when asked.

A line with a number on stdin asks for so many steps; a line of JSON on stdout answers. Whatever libraries print goes
to stderr. Shapes: B batch, L tokens.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

WARM_UP_STEPS = 2  # the first compiles, the second finds its memory


@dataclass(kw_only=True, frozen=True, slots=True)
class Model:
    """Something to train: `step` takes one training step and returns its loss; `parameters` counts what it trains."""

    step: Callable[[], float]
    parameters: int


def serve(build: Callable[[Mapping[str, Any]], Model]) -> None:
    """Runs the protocol until stdin ends; a loss that is no number ends it with an error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        model = build(json.loads(sys.argv[1]))
        _timed_steps(model, WARM_UP_STEPS)
        answers.write(json.dumps({"parameters": model.parameters}) + "\n")
        for line in sys.stdin:
            answers.write(json.dumps({"seconds": _timed_steps(model, int(line))}) + "\n")


def _timed_steps(model: Model, count: int) -> list[float]:
    found = []
    for _ in range(count):
        started = time.perf_counter()
        loss = model.step()
        found.append(time.perf_counter() - started)
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss is {loss}")
    return found


def random_batch(job: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Random tokens without padding, two segments, random answers: ids, mask and segments `[B, L]`, positions `[B]`."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (job["batch"], job["length"])
    positions = np.sort(rng.integers(1, job["length"], (job["batch"], 2)), axis=1).astype(np.int32)
    return {
        "input_ids": rng.integers(5, job["architecture"]["vocab_size"], shape).astype(np.int32),
        "input_mask": np.ones(shape, np.int32),
        "segment_ids": np.broadcast_to(np.arange(shape[1]) >= shape[1] // 4, shape).astype(np.int32),
        "start_positions": positions[:, 0],
        "end_positions": positions[:, 1],
    }
