"""How many cores this process may use, which is often fewer than the machine has.

Affinity is what `taskset` and cpusets give. A container's share (`docker --cpus`, a Kubernetes limit, a Slurm job)
is a quota of time instead, which its control group and each group above it state:
https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files,
https://docs.kernel.org/scheduler/sched-bwc.html (v1).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable(*, root: Path = Path("/")) -> int:
    """By affinity and by quota, of which a part of a core counts as one; `root` holds `proc` and `sys`."""
    return min([len(os.sched_getaffinity(0)), *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time for each group that limits it; one that cannot be read does not."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            own = PurePosixPath(name.strip("/"))
            for group in (own, *own.parents):
                yield from _quota(mounted / group, is_first_version=bool(controllers))


def _quota(group: Path, *, is_first_version: bool) -> Iterator[float]:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_first_version else ("cpu.max",)
    with contextlib.suppress(OSError):  # seen from inside a container, groups above its own are not there
        quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in names).split()
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
