"""Brings a virtual environment to what a lock says: `python3.11 requirements/install.py run`; `make` calls it.

Needs nothing but Python 3.11. A complete environment is left as it is, in a blink. One that an interrupted install
left, or that was made from other locks, is made anew and never patched, so what runs is always what the locks say.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
CHECKOUT = LOCKS.parent
PARTS = {  # what each environment needs, in order; `build` builds the rest
    "run": ("build", "run"),
    "test": ("build", "test"),
    "bench": ("build", "run", "bench"),
}
OWNER_FILE = "made-by-make"  # says that the environment is ours to remove
RECORD_FILE = "installed.json"  # absent while an install is at work
PACKAGE, PLACE = "package", "place"  # what the record holds beside the locks' digests
HASHED = ("--no-deps", "--require-hashes")
UNHASHED = ("bench",)  # PyTorch's file differs between indexes (CPU, CUDA), and so do its dependencies


def main() -> int:
    arguments = _arguments()
    if sys.version_info[:2] != (3, 11):
        return _refuse(f"{sys.executable} is Python {sys.version.split()[0]} and 3.11 is needed; name one with PYTHON=")
    target = Path(arguments.venv).resolve()
    if target.exists() and not (target / OWNER_FILE).exists():
        return _refuse(f"{target} was not made by make; move it away, or name another place with VENV=")
    try:
        with _alone() as lock:
            _bring(target, name=arguments.lock, lock=lock)
    except subprocess.CalledProcessError:
        return _refuse(f"the install into {target} failed, for the reason above; mend it and try again")
    except KeyboardInterrupt:
        return _refuse("interrupted; the next command starts the install afresh")
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[int]:
    """Waits until no other install is at work. The folder itself is locked, so that no file is left behind."""
    descriptor = os.open(LOCKS, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another install in this checkout", file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _bring(target: Path, *, name: str, lock: int) -> None:
    """Installs lock `name` and this package into `target`, unless they are there."""
    installed = _installed(target)
    package = _package_digest()
    if name in installed and installed[PACKAGE] == package:
        return
    if not installed:
        _create(target, lock=lock)
    (target / RECORD_FILE).unlink(missing_ok=True)
    for part in PARTS[name]:
        if part not in installed:
            print(f"installing requirements/{part}.lock into {target.name}", file=sys.stderr, flush=True)
            flags = () if part in UNHASHED else HASHED
            _pip(target, *flags, "--requirement", str(_lock_file(part)), lock=lock)
            installed[part] = _digest(part)
    _pip(target, "--no-deps", "--editable", str(CHECKOUT), lock=lock)
    installed |= {PACKAGE: package, PLACE: str(target)}
    _record(target, installed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lock", choices=PARTS)
    parser.add_argument("--venv", default=str(CHECKOUT / ".venv"))
    return parser.parse_args()


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _installed(target: Path) -> dict[str, str]:
    """What a complete environment was made from; empty if it is torn, was moved, or a lock has changed since."""
    try:
        found: dict[str, str] = json.loads((target / RECORD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    is_current = all(digest == _digest(lock) for lock, digest in found.items() if lock not in (PACKAGE, PLACE))
    is_whole = found[PLACE] == str(target) and _python(target).exists()  # its scripts name their place
    return found if is_current and is_whole else {}


def _digest(lock: str) -> str:
    return hashlib.sha256(_lock_file(lock).read_bytes()).hexdigest()


def _lock_file(lock: str) -> Path:
    return LOCKS / f"{lock}.lock"


def _package_digest() -> str:
    """Changes with what an editable install writes down: the package's metadata."""
    return hashlib.sha256((CHECKOUT / "pyproject.toml").read_bytes()).hexdigest()


def _create(target: Path, *, lock: int) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / OWNER_FILE).touch()
    subprocess.run([sys.executable, "-I", "-m", "venv", str(target)], check=True, pass_fds=(lock,))


def _python(target: Path) -> Path:
    return target / "bin" / "python"


def _pip(target: Path, *arguments: str, lock: int) -> None:
    """`pip install`; the child holds the lock too, so that one which outlives us still keeps others out."""
    always = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-build-isolation")
    command = [str(_python(target)), "-I", "-m", "pip", "install", *always, *arguments]
    subprocess.run(command, check=True, pass_fds=(lock,))


def _record(target: Path, installed: dict[str, str]) -> None:
    """Written last, and whole or not at all."""
    temporary = target / f"{RECORD_FILE}.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(installed, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target / RECORD_FILE)


if __name__ == "__main__":
    sys.exit(main())
