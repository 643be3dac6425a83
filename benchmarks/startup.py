"""How long the command line takes to answer, against a bare Hydra program that is asked the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measurement import Comparison, Goal, in_turn
from benchmarks.processes import seconds_of

ROUNDS = 9
TARGET = 2.0
QUESTIONS = (("--help",), ("--cfg", "job"))
BARE = Path(__file__).resolve().parent / "peers" / "bare_hydra.py"
OURS, PEER = "mobilebert_exp", "bare Hydra program"


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """Each question by itself: program start to program end."""
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-") as name:
        return [_compare(list(question), folder=Path(name), rounds=rounds, tell=tell) for question in QUESTIONS]


def _compare(question: list[str], *, folder: Path, rounds: int, tell: Callable[[str], None]) -> Comparison:
    commands = {OURS: ["-m", "mobilebert_exp", *question], PEER: [str(BARE), *question]}
    tell(f"{' '.join(question)}: both once, so that what they read is in memory")
    for command in commands.values():
        seconds_of(command, folder=folder)
    programs = {
        name: lambda command=command: [seconds_of(command, folder=folder)] for name, command in commands.items()
    }
    found = in_turn(programs, rounds=rounds, tell=tell)
    return Comparison(
        title=f"Start-up: `python -m mobilebert_exp {' '.join(question)}`, start to end",
        ours=found[OURS],
        peers=(found[PEER],),
        goal=Goal.at_most,
        target=TARGET,
    )
