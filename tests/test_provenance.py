"""Provenance: what it says of a checkout must be enough to rebuild it."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from mobilebert_exp.tracking import provenance as module
from mobilebert_exp.tracking.provenance import DIFF_FILE, UNTRACKED_FILE, code_digest, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("answer = 41\n")
    (folder / "data.bin").write_bytes(bytes(range(256)))
    (folder / ".gitignore").write_text("venv/\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    found = provenance(checkout)
    assert found.tags["git.commit"] == git(checkout, "rev-parse", "HEAD").strip()
    assert found.tags["git.dirty"] == "false"
    assert found.files == {}


def test_the_diff_rebuilds_the_working_tree(checkout: Path, tmp_path: Path) -> None:
    (checkout / "code.py").write_text("answer = 42  # é\n")
    (checkout / "data.bin").write_bytes(bytes(range(255, -1, -1)))
    (checkout / "new é.py").write_text("secret = 1\n")
    found = provenance(checkout)
    assert found.tags["git.dirty"] == "true"
    assert found.files[UNTRACKED_FILE] == "new é.py\n"
    assert "secret" not in "".join(found.files.values())

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(checkout), str(clone))
    (tmp_path / "the.diff").write_text(found.files[DIFF_FILE], encoding="utf-8")
    git(clone, "apply", str(tmp_path / "the.diff"))
    for name in ("code.py", "data.bin"):
        assert (clone / name).read_bytes() == (checkout / name).read_bytes()


def test_staged_changes_count(checkout: Path) -> None:
    (checkout / "code.py").write_text("answer = 43\n")
    git(checkout, "add", "code.py")
    assert "+answer = 43" in provenance(checkout).files[DIFF_FILE]


def test_a_huge_diff_is_cut_visibly(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DIFF_BYTES", 1000)
    (checkout / "code.py").write_text("x = 1\n" * 5000)
    diff = provenance(checkout).files[DIFF_FILE]
    assert len(diff) < 1100
    assert diff.endswith("[cut here, after 1000 bytes]\n")


def test_looking_changes_nothing(checkout: Path) -> None:
    (checkout / "code.py").write_text("answer = 44\n")
    before = {path: path.stat().st_mtime_ns for path in (checkout / ".git").rglob("*")}
    provenance(checkout)
    assert {path: path.stat().st_mtime_ns for path in (checkout / ".git").rglob("*")} == before


def test_outside_of_git_it_says_so(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    plain = tmp_path / "plain"
    plain.mkdir()
    assert provenance(plain).tags["git.commit"] == "none: not a git checkout, or no commit yet"
    git(plain, "init", "-q")
    assert provenance(plain).tags["git.commit"] == "none: not a git checkout, or no commit yet"
    assert provenance(tmp_path / "absent").tags["git.commit"] == "none: not a git checkout, or no commit yet"
    # An environment inside somebody's checkout must not take that checkout's commit for its own.
    (checkout / "venv" / "site-packages").mkdir(parents=True)
    assert provenance(checkout / "venv" / "site-packages").tags["git.commit"] == "none: not a git checkout"


def test_without_git_it_says_so(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = provenance(checkout)
    assert found.tags["git.commit"] == "none: git is not installed"
    assert found.files == {}


def test_versions_and_command_without_the_host(tmp_path: Path) -> None:
    tags = provenance(tmp_path).tags
    assert tags["version.numpy"] == importlib.metadata.version("numpy")
    assert "python" in tags["command"] or "pytest" in tags["command"]
    assert all(socket.gethostname() != value for value in tags.values())
    assert set(tags) >= {"python", "platform", "code.sha256"}


def test_the_code_digest_follows_the_code_alone(tmp_path: Path) -> None:
    package = Path(module.__file__).resolve().parents[1]
    copy = tmp_path / "copy"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_digest(copy) == code_digest()
    (copy / "notes.txt").write_text("no code")
    assert code_digest(copy) == code_digest()
    with (copy / "errors.py").open("a") as file:
        file.write("# changed\n")
    changed = code_digest(copy)
    assert changed != code_digest()
    (copy / "errors.py").rename(copy / "faults.py")
    assert code_digest(copy) not in (changed, code_digest())
