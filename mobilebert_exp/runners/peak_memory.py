"""The most memory that this process held while something was done; Linux alone tells."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_highest = 0  # of what the resets have wiped out


@contextlib.contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """Gives what tells the peak since the block began, in bytes; since the process did where that cannot be told."""
    global _highest
    _highest = run_peak_bytes()
    with contextlib.suppress(OSError):
        _RESET.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size, that of getrusage too
    yield peak_bytes


def run_peak_bytes() -> int:
    """The most since the process began, whatever was `measured` since."""
    return max(_highest, peak_bytes())


def peak_bytes() -> int:
    """The most since the process began, or since it was last `measured`.

    `getrusage` tells of a process that was started by another what that one had.
    """
    with contextlib.suppress(OSError):
        if found := _PEAK.search(_STATUS.read_text(encoding="ascii", errors="replace")):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
