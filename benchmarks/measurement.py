"""What a benchmark finds: what each program took, measured in turn, compared by medians with a target."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Goal(enum.Enum):
    """Which way a ratio counts: the time of ours over the peer's, or the peer's over ours."""

    at_most = "at most"
    at_least = "at least"


@dataclass(kw_only=True, frozen=True, slots=True)
class Samples:
    """What one program took, run by run: seconds, or another unit."""

    name: str
    values: tuple[float, ...]
    unit: str = "s"

    def __post_init__(self) -> None:
        if not self.values or not all(0 < value < math.inf for value in self.values):
            raise ValueError(f"{self.name}: {self.values} are not times")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def record(self) -> dict[str, Any]:
        low, high, values = min(self.values), max(self.values), list(self.values)
        return {
            "name": self.name,
            **{"unit": self.unit, "median": self.median, "min": low, "max": high, "values": values},
        }


@dataclass(kw_only=True, frozen=True, slots=True)
class Comparison:
    """Ours against its fastest peer.

    Attributes:
      title: what was measured.
      ours: our program.
      peers: the others, one at least; the one with the smallest median is what ours is held against.
      goal: whether ours may take `target` times the peer's time at most, or the peer must take that of ours at least.
      target: the ratio aimed at.
      beside: shown with them and no part of the ratio.
      notes: what a reader must know to judge the figures.
    """

    title: str
    ours: Samples
    peers: tuple[Samples, ...]
    goal: Goal
    target: float
    beside: tuple[Samples, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fastest_peer(self) -> Samples:
        return min(self.peers, key=lambda peer: peer.median)

    @property
    def ratio(self) -> float:
        share = self.ours.median / self.fastest_peer.median
        return share if self.goal is Goal.at_most else 1 / share

    @property
    def is_met(self) -> bool:
        return self.ratio <= self.target if self.goal is Goal.at_most else self.ratio >= self.target

    def record(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "ours": self.ours.record(),
            "peers": [peer.record() for peer in self.peers],
            "beside": [samples.record() for samples in self.beside],
            "fastest_peer": self.fastest_peer.name,
            "ratio": self.ratio,
            "goal": self.goal.value,
            "target": self.target,
            "is_met": self.is_met,
            "notes": list(self.notes),
        }


def in_turn(
    programs: Mapping[str, Callable[[], Sequence[float]]], *, rounds: int, tell: Callable[[str], None]
) -> dict[str, Samples]:
    """Times A B C A B C …, so that a machine that speeds up or slows down does so for all of them.

    Args:
      programs: by name, what runs the program and returns the seconds of one or more measurements.
      rounds: turns that each program gets.
      tell: hears what comes next.
    """
    found: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(1, rounds + 1):
        for name, measure in programs.items():
            tell(f"round {number} of {rounds}: {name}")
            found[name].extend(measure())
    return {name: Samples(name=name, values=tuple(seconds)) for name, seconds in found.items()}
