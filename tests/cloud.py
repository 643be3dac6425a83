"""The server of gcs.py as a process, a bad network before it, and this process told to talk to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults import Proxy, spoiling

BUCKET = "one-bucket"
VARIABLE = "STORAGE_EMULATOR_HOST"


@contextmanager
def emulator() -> Iterator[str]:
    """A server with the bucket `BUCKET`; gives its address."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("gcs.py")), BUCKET], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@contextmanager
def spoilt() -> Iterator[Proxy]:
    """A server of its own behind a proxy."""
    with emulator() as upstream, spoiling(upstream) as proxy:
        yield proxy
