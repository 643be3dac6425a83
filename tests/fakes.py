"""In-memory stand-ins for the project's interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mobilebert_exp.tracking.base import RunInfo, RunState


@dataclass(kw_only=True, slots=True)
class FakeTracker:
    """A Tracker that remembers what it was told; `run` is None until it is started, `state` until it is ended."""

    id: str = "run-1"
    run: RunInfo | None = None
    recorded_params: dict[str, object] = field(default_factory=dict)
    recorded_metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    artifacts: list[tuple[Path, str]] = field(default_factory=list)
    state: RunState | None = None
    reason: str = ""

    def start(self, run: RunInfo) -> None:
        assert self.run is None, "started twice"
        self.run = run

    def params(self, values: Mapping[str, object]) -> None:
        assert self.run is not None, "start() comes first"
        self.recorded_params = {**values, **self.recorded_params}

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        assert self.run is not None, "start() comes first"
        self.recorded_metrics.append((step, {name: float(value) for name, value in values.items()}))

    def artifact(self, path: Path, *, folder: str = "") -> None:
        assert self.run is not None, "start() comes first"
        assert path.exists(), f"{path} does not exist"
        self.artifacts.append((path, folder))

    def end(self, state: RunState, *, reason: str = "") -> None:
        if self.state is None:
            self.state, self.reason = state, reason

    def run_id(self, *, timeout_s: float = 30.0) -> str:
        return self.id

    def open_command(self) -> str:
        return f"open {self.id}"

    def series(self, name: str) -> list[tuple[int, float]]:
        """`(step, value)` of one metric, in the order it was recorded."""
        return [(step, values[name]) for step, values in self.recorded_metrics if name in values]
