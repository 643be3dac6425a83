"""Where a run's code came from: commit, uncommitted changes, package versions, command line. Never raises."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

MAX_DIFF_BYTES = 5_000_000
DIFF_FILE = "uncommitted.diff"
UNTRACKED_FILE = "untracked.txt"
_GIT_TIMEOUT_S = 20.0
_PACKAGES = (
    "mobilebert-exp",
    "tensorflow",
    "tf-keras",
    "tf-models-official",
    "numpy",
    "tokenizers",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "pandas",
)


@dataclass(kw_only=True, frozen=True, slots=True)
class Provenance:
    """Short facts as tags; long ones as contents by file name."""

    tags: dict[str, str]
    files: dict[str, str]


def provenance(checkout: Path) -> Provenance:
    """What identifies the code that runs, when it lives in `checkout` (or outside of any checkout)."""
    git_tags, files = _git_state(checkout)
    tags = {
        **git_tags,
        **_versions(),
        "code.sha256": code_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": shlex.join(sys.orig_argv),
    }
    return Provenance(tags=tags, files=files)


def code_digest(package: Path | None = None) -> str:
    """sha256 over the names and contents of a package's Python files; of this package's if none is given."""
    package = package or Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[f"version.{name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_state(checkout: Path) -> tuple[dict[str, str], dict[str, str]]:
    try:
        commit = _git(checkout, "rev-parse", "--verify", "HEAD")
        # A virtual environment inside somebody's checkout holds none of its tracked files: that commit is not ours.
        if not _git(checkout, "ls-files", "--", "."):
            return {"git.commit": "none: not a git checkout"}, {}
        diff = _git(checkout, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD", "--", ".")
        untracked = _git(checkout, "ls-files", "--others", "--exclude-standard", "--", ".")
    except FileNotFoundError:
        return {"git.commit": "none: git is not installed"}, {}
    except (subprocess.SubprocessError, OSError):
        return {"git.commit": "none: not a git checkout, or no commit yet"}, {}
    files = {DIFF_FILE: diff} if diff else {}
    if untracked:
        files[UNTRACKED_FILE] = untracked
    return {"git.commit": commit.strip(), "git.dirty": str(bool(files)).lower()}, files


def _git(checkout: Path, *arguments: str) -> str:
    """The output of a git command that changes nothing; read, and cut visibly, up to MAX_DIFF_BYTES."""
    options = ["--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotepath=off", "-C", str(checkout)]
    command = ["git", *options, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(_GIT_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            output = process.stdout.read(MAX_DIFF_BYTES + 1)
            if len(output) > MAX_DIFF_BYTES:
                process.kill()
        finally:
            watchdog.cancel()
    text = output[:MAX_DIFF_BYTES].decode(errors="replace")
    if len(output) > MAX_DIFF_BYTES:
        return f"{text}\n[cut here, after {MAX_DIFF_BYTES} bytes]\n"
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return text
