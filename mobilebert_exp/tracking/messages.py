"""What a tracker and its delivery process say to each other: one JSON object a line.

tracker → delivery    Start, then any number of Params, Metrics and Artifact, then End
delivery → tracker    Opened once; Delivered for what arrived; Warned for what a person should read
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeAlias


@dataclass(kw_only=True, frozen=True, slots=True)
class Start:
    """Opens a run; `time_ms` is Unix time, here and below."""

    uri: str
    artifact_root: str
    experiment: str
    name: str
    parent_run_id: str
    tags: Mapping[str, str]
    resume_run_id: str
    time_ms: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Params:
    values: Mapping[str, str]


@dataclass(kw_only=True, frozen=True, slots=True)
class Metrics:
    values: Mapping[str, float]
    step: int
    time_ms: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Artifact:
    path: str
    folder: str


@dataclass(kw_only=True, frozen=True, slots=True)
class End:
    """Closes the run; what has not arrived `timeout_s` later is given up."""

    state: str
    reason: str
    time_ms: int
    timeout_s: float


@dataclass(kw_only=True, frozen=True, slots=True)
class Opened:
    """The run's ids; both "" when it cannot be opened."""

    run_id: str
    experiment_id: str


@dataclass(kw_only=True, frozen=True, slots=True)
class Delivered:
    kind: str
    count: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Warned:
    text: str


Message: TypeAlias = Start | Params | Metrics | Artifact | End
Report: TypeAlias = Opened | Delivered | Warned

_TYPES = {kind.__name__: kind for kind in (Start, Params, Metrics, Artifact, End, Opened, Delivered, Warned)}


def encode(message: Message | Report) -> bytes:
    return json.dumps({"type": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message | Report:
    fields = json.loads(line)
    return _TYPES[fields.pop("type")](**fields)


def weight(message: Message) -> tuple[str, int]:
    """What a message carries and how many of it, e.g. `("metric values", 3)`."""
    match message:
        case Start():
            return "the run itself", 1
        case Params():
            return "params", len(message.values)
        case Metrics():
            return "metric values", len(message.values)
        case Artifact():
            return "artifacts", 1
        case End():
            return "the final state", 1
