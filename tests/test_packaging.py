"""The wheel holds what a run needs and works far from the checkout; the locks hold what the code imports."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ("build", "run", "test", "bench")


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=checkout, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_package_its_configs_and_its_sweeps(checkout: Path, wheel: Path) -> None:
    sources = [
        *(checkout / "mobilebert_exp").rglob("*.py"),
        *(checkout / "conf").rglob("*.yaml"),
        *(checkout / "sweeps").rglob("*.yaml"),
    ]
    names = {path.relative_to(checkout).as_posix() for path in sources}
    expected = {name if name.startswith("mobilebert_exp/") else f"mobilebert_exp/{name}" for name in names}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    own = {name for name in held if ".dist-info/" not in name}
    assert own == expected
    assert any(name.startswith("mobilebert_exp/sweeps/") for name in own)
    assert {name.rsplit("/", 1)[-1] for name in held - own} >= {"LICENSE", "METADATA", "entry_points.txt"}


def test_the_wheel_needs_no_checkout(installed: Path, tmp_path: Path) -> None:
    where = _python(["-c", "import mobilebert_exp; print(mobilebert_exp.__file__)"], installed, tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed)

    shown = _python(["-m", "mobilebert_exp", "--cfg", "job", "model=opt", "hardware=tpu_v3_8"], installed, tmp_path)
    assert "num_layers: 24" in shown.stdout
    assert "num_replicas: 8" in shown.stdout

    listed = _python(["-m", "mobilebert_exp", "--help"], installed, tmp_path).stdout
    for sweep in (installed / "mobilebert_exp" / "sweeps").glob("*.yaml"):
        assert re.search(rf"\+sweep=.*\b{sweep.stem}\b", listed)
    assert list(tmp_path.iterdir()) == []


def test_the_console_script_is_the_module(project: Mapping[str, Any]) -> None:
    scripts = {entry.name: entry.value for entry in metadata.entry_points(group="console_scripts")}
    assert scripts["mobilebert_exp"] == "mobilebert_exp.__main__:main"
    assert project["project"]["scripts"] == {"mobilebert_exp": "mobilebert_exp.__main__:main"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("mobilebert_exp", ("beam", "interop")),
        ("tests", ("test", "interop", "beam")),
        ("benchmarks", ("test", "bench", "interop")),
    ],
)
def test_what_is_imported_is_declared(
    checkout: Path, project: Mapping[str, Any], folder: str, extras: tuple[str, ...]
) -> None:
    """A dependency that only another dependency brings goes away when that one changes its mind."""
    declared = _declared(project, extras)
    distributions = metadata.packages_distributions()
    undeclared = {
        name
        for name in _imports(checkout / folder) - _local(checkout)
        if not declared & {canonicalize_name(owner) for owner in distributions.get(name, [name])}
    }
    assert undeclared == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_everything_and_names_no_place(checkout: Path, lock: str) -> None:
    text = (checkout / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b", text, re.MULTILINE)
    for line in _pins(text):
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][a-z0-9.]*", line), f"{line} is not a plain pin"
    hashed = [block for block in re.split(r"\n(?=\S)", text) if "==" in block]
    assert all(("--hash=sha256:" in block) == (lock != "bench") for block in hashed)


def test_the_locks_agree_with_each_other_and_with_the_project(checkout: Path, project: Mapping[str, Any]) -> None:
    pins = {lock: _versions(checkout / "requirements" / f"{lock}.lock") for lock in LOCKS}
    for lock in LOCKS:
        shared = pins[lock].keys() & pins["run"].keys()
        assert {name: pins[lock][name] for name in shared} == {name: pins["run"][name] for name in shared}
    assert pins["run"].keys() <= pins["test"].keys()
    wanted = {"run": (), "test": ("test", "dev"), "bench": ("bench", "interop")}
    for lock, extras in wanted.items():
        for requirement in _requirements(project, extras):
            version = pins[lock].get(canonicalize_name(requirement.name))
            assert version is not None, f"{lock}.lock lacks {requirement.name}; run make lock"
            assert requirement.specifier.contains(version), f"{lock}.lock pins {version}, not {requirement}; make lock"


def _python(arguments: list[str], path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python in `folder` with `path` before everything that is installed."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )


def _requirements(project: Mapping[str, Any], extras: Iterable[str]) -> list[Requirement]:
    optional = project["project"]["optional-dependencies"]
    texts = [*project["project"]["dependencies"], *(text for extra in extras for text in optional[extra])]
    return [Requirement(text) for text in texts]


def _declared(project: Mapping[str, Any], extras: Iterable[str]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in _requirements(project, extras)}


def _imports(folder: Path) -> set[str]:
    """Top-level names of everything that the files under `folder` import, wherever in the file."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def _local(checkout: Path) -> set[str]:
    return {"mobilebert_exp", "benchmarks", "tests"} | {path.stem for path in (checkout / "tests").glob("*.py")}


def _pins(text: str) -> list[str]:
    """The requirement of each line that holds one, without its hashes."""
    return [line.rstrip(" \\") for line in text.splitlines() if line[:1].isalnum()]


def _versions(path: Path) -> dict[str, str]:
    return dict(line.split("==") for line in _pins(path.read_text(encoding="utf-8")))
