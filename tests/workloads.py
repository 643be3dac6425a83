"""Work that worker processes can import; it loads nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mobilebert_exp.errors import DataError


@dataclass(frozen=True)
class Traced:
    """Doubles numbers; notes in a folder which process did which chunk, and what it had imported."""

    folder: Path
    seconds: float = 0.0

    def __call__(self, chunk: list[int]) -> list[int]:
        heavy = sorted({"tensorflow", "hydra", "mlflow", "numpy", "workload_main"} & set(sys.modules))
        (self.folder / f"{chunk[0]}").write_text(f"{os.getpid()} {' '.join(heavy)}", encoding="utf-8")
        time.sleep(self.seconds * (chunk[0] % 3))
        print("what is printed is no answer")
        return [2 * number for number in chunk]


def refused_at(chunk: list[int]) -> list[int]:
    """A user's mistake in the chunk that holds 40, a defect in the one with 60."""
    if 40 in chunk:
        raise DataError("number 40 is no good; choose another")
    if 60 in chunk:
        raise ZeroDivisionError("sixty")
    return chunk


def killed_at(chunk: list[int]) -> list[int]:
    """Kills its own process in the chunk that holds 40, as a system without memory does."""
    if 40 in chunk:
        os.kill(os.getpid(), signal.SIGKILL)
    return chunk


def leaves_at(chunk: list[int]) -> list[int]:
    if 40 in chunk:
        os._exit(3)
    return chunk
