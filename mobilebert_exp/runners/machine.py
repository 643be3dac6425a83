"""The machine and the libraries that figures were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
LIBRARIES = ("ai-edge-litert", "tensorflow", "numpy")
# What decides how fast products of small numbers are: of Intel and AMD (dot products of 8 bits, 16-bit floats) and ARM.
INTEL = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16")
ARM = ("asimd", "asimddp", "i8mm", "bf16", "fphp", "sve")
BUSY = 0.3  # processes that wanted a core, for each that there is
DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def described() -> dict[str, object]:
    """What the figures depend on: CPU, its cores and instructions, how busy it is, versions."""
    known = _cpu()
    present = set(known.get("flags", known.get("Features", "")).split())
    return {
        "cpu": known.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in INTEL + ARM if flag in present],
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def has_dot_products(machine: Mapping[str, object]) -> bool:
    """Whether the CPU multiplies and adds 8-bit numbers in one instruction."""
    found = machine["instructions"]
    assert isinstance(found, list)
    return bool(DOT_PRODUCTS & set(found))


def is_busy(machine: Mapping[str, object]) -> bool:
    """Whether others had so much of it, before anything was measured, that figures say more of them."""
    load, cores = machine["load_before"], machine["cores"]
    assert isinstance(load, float) and isinstance(cores, int)
    return load > BUSY * cores


def _cpu() -> dict[str, str]:
    """What Linux says of the first core."""
    if not CPU_INFO.is_file():
        return {}
    first = CPU_INFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
