"""Every metric of every step on the local disk, before any server hears of it.

`metrics.jsonl` holds one strict JSON object a call:

    {"step": 50, "time_ms": 1700000000000, "metrics": {"loss": 2.5, "grad_norm": "NaN"}}

JSON has no word for what is not finite, so it stands as "NaN", "Infinity" or "-Infinity". Each call is one write that
the operating system has when the call returns: a process that dies loses at most a torn last line.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilebert_exp.errors import DataError, OutputError

FILE_NAME = "metrics.jsonl"

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True, slots=True)
class Entry:
    """The figures of one call; `time_ms` is Unix time."""

    step: int
    time_ms: int
    metrics: Mapping[str, float]


class Spool:
    """Appends to one file; a torn last line, left by a process that died, is cut off first.

    Raises:
      OutputError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            os.ftruncate(self._file.fileno(), _whole_bytes(path))
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror}); choose another output_dir") from None

    def write(self, entry: Entry) -> None:
        """Appends one line; a disk that refuses it costs one warning, never the run."""
        metrics = {name: _to_json(float(value)) for name, value in entry.metrics.items()}
        line = json.dumps({"step": entry.step, "time_ms": entry.time_ms, "metrics": metrics}, allow_nan=False)
        try:
            self._file.write(line.encode() + b"\n")
        except OSError as error:
            if not self._told:
                _log.warning("%s takes no more figures (%s); the run goes on without it", self.path, error.strerror)
            self._told = True

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Entry]:
    """All entries of a spool in order; a torn last line is left out.

    Raises:
      DataError: a line before the last is not an entry.
    """
    lines = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entries.append(_entry(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}:{number} is not a line of metrics; restore or delete it") from None
    return entries


def _entry(line: bytes) -> Entry:
    fields = json.loads(line)
    metrics = {name: float(value) for name, value in fields["metrics"].items()}
    return Entry(step=int(fields["step"]), time_ms=int(fields["time_ms"]), metrics=metrics)


def _to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _whole_bytes(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            cut = file.read(end - start).rfind(b"\n")
            if cut >= 0:
                return start + cut + 1
            end = start
    return 0
