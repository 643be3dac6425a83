"""How long converting a checkpoint of the full `opt`, heads of pre-training included, takes, and how much memory.

From ours to each other format and back, by the verb `convert`, each in a process of its own. Memory is held against the
size of the file that is converted: the peak of the process, and beside it what is above the libraries it imports.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measurement import Comparison, Goal, Samples, in_turn
from benchmarks.processes import answer_of, require

ROUNDS = 3
MEMORY_TARGET = 3.0
LIMIT_S = 10.0
MODULE = "benchmarks.peers.converting"
OTHERS = ("tf1", "tf_models", "huggingface")  # a SavedModel holds graphs too, which have to be traced


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """Seconds and memory of each direction."""
    require("safetensors", purpose="convert")
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tell("inventing a checkpoint of opt")
        _answer({"invent": str(folder / "native")}, folder)
        found = []
        for other in OTHERS:
            for source, to in (("native", other), (other, "native")):
                found += _measured(folder, f"{source} → {to}", source=source, to=to, rounds=rounds, tell=tell)
        return found


def _measured(
    folder: Path, title: str, *, source: str, to: str, rounds: int, tell: Callable[[str], None]
) -> list[Comparison]:
    answers: list[dict[str, Any]] = []

    def once() -> list[float]:
        number = len(answers)
        target = folder / (to if to != "native" and not number else f"{source}-{to}-{number}")
        answers.append(_answer({"source": str(folder / source), "target": str(target), "to": to}, folder))
        return [answers[-1]["seconds"]]

    seconds = in_turn({title: once}, rounds=rounds, tell=tell)[title]
    figures = {key: tuple(answer[key] for answer in answers) for key in ("peak_mib", "above_mib", "file_mib")}
    peak, above, file = (
        Samples(name=name, values=figures[key], unit="MiB")
        for name, key in (("the process", "peak_mib"), ("above the imports", "above_mib"), ("the file", "file_mib"))
    )
    limit = Samples(name="the limit", values=(LIMIT_S,))
    return [
        Comparison(
            title=f"Converting `opt`, {title}: seconds, the libraries being imported",
            ours=seconds,
            peers=(limit,),
            goal=Goal.at_most,
            target=1.0,
        ),
        Comparison(
            title=f"Converting `opt`, {title}: peak memory, held against the file",
            ours=above,
            peers=(file,),
            goal=Goal.at_most,
            target=MEMORY_TARGET,
            beside=(peak,),
            notes=(f"With the libraries the process takes {peak.median / file.median:.2f} times the file.",),
        ),
    ]


def _answer(job: dict[str, str], folder: Path) -> dict[str, Any]:
    return answer_of(["-m", MODULE, json.dumps(job)], folder=folder)
