"""The command line in a process that is killed (SIGKILL, by itself) in the middle of its second save:

python tests/mortal.py MOMENT [argument …]
"""

from __future__ import annotations

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # as the command line sets it, before any import of TensorFlow

import itertools
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilebert_exp import manifest
from mobilebert_exp.modeling.checkpoints import native


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def second_time(then: Callable[..., Any]) -> Callable[..., Any]:
    """Does what `then` does from the second call on; nothing at the first."""
    calls = itertools.count(1)
    return lambda *found: then(*found) if next(calls) > 1 else None


def _before(owner: Any, name: str, dies: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    def replaced(*arguments: Any, **more: Any) -> Any:
        dies(*arguments)
        return original(*arguments, **more)

    setattr(owner, name, replaced)


def _after(owner: Any, name: str, dies: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    def replaced(*arguments: Any, **more: Any) -> Any:
        found = original(*arguments, **more)
        dies(*arguments)
        return found

    setattr(owner, name, replaced)


def _torn(prefix: Path) -> None:
    """As a power cut leaves what was not yet on the disk."""
    (data,) = prefix.parent.glob(f"{prefix.name}.data-*")
    os.truncate(data, data.stat().st_size // 2)
    die()


def _writing() -> None:
    """TensorFlow writes both files from a thread of its own: killed as soon as the first appears."""
    original = native.write_whole

    def watched(checkpoint: Any, prefix: Path, **more: Any) -> None:
        def watch() -> None:
            while not list(prefix.parent.glob(f"{prefix.name}[._]*")):
                pass
            die()

        threading.Thread(target=watch, daemon=True).start()
        original(checkpoint, prefix, **more)

    calls = itertools.count(1)
    native.write_whole = lambda *a, **k: (watched if next(calls) > 1 else original)(*a, **k)


def _twice_if_manifest() -> Callable[..., None]:
    calls = itertools.count(1)

    def dies(path: Path, *_: Any) -> None:
        name = path.name.removeprefix(".").rpartition(".")[0]  # .ckpt-40.json.4711
        if manifest.step_of(name) is not None and next(calls) > 1:
            die()

    return dies


def _when_uncommitted() -> Callable[..., None]:
    """When the manifest of one that was whole has just been removed, its files not yet."""
    seen: set[Path] = set()

    def dies(prefix: Path) -> None:
        if prefix in seen and not manifest.has_one(prefix):
            die()
        seen.update(manifest.committed(prefix.parent))

    return dies


MOMENTS: dict[str, Callable[[], None]] = {
    "before": lambda: _before(native, "write_whole", second_time(lambda *_: die())),
    "writing": _writing,
    "torn": lambda: _before(manifest, "commit", second_time(_torn)),
    "written": lambda: _before(manifest, "commit", second_time(lambda *_: die())),
    "summed": lambda: _before(manifest, "write_json", second_time(lambda *_: die())),
    "named": lambda: _before(Path, "replace", _twice_if_manifest()),
    "committed": lambda: _after(manifest, "commit", second_time(lambda *_: die())),
    "removing": lambda: _before(manifest, "_all_of", _when_uncommitted()),
}


if __name__ == "__main__":
    moment = sys.argv.pop(1)
    MOMENTS[moment]()
    runpy.run_module("mobilebert_exp", run_name="__main__", alter_sys=True)
