"""The layout as a law: who may import whom, what starts light, who reads the environment, how long a file may be."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

_Node = TypeVar("_Node", bound=ast.AST)
PACKAGE = Path(__file__).resolve().parent.parent / "mobilebert_exp"
CHECKOUT = PACKAGE.parent

# A module belongs to the layer with the longest prefix here; a layer imports itself and what stands beside it.
GROUND = "ground"
LAYERS: dict[str, tuple[str, set[str]]] = {
    "architecture": (GROUND, set()),
    "checks": (GROUND, set()),
    "config": (GROUND, set()),
    "deployment": (GROUND, set()),
    "errors": (GROUND, set()),
    "files": (GROUND, set()),
    "layout": (GROUND, set()),
    "location": (GROUND, set()),
    "manifest": (GROUND, set()),
    "metrics": (GROUND, set()),
    "original_json": (GROUND, set()),
    "spelling": (GROUND, set()),
    "storage.place": (GROUND, set()),
    "storage": ("storage", set()),
    "data.shared": ("shared cache", {"storage"}),
    "data.cores": ("workers", set()),
    "data.parallel": ("workers", set()),
    "data": ("data", {"storage", "shared cache", "workers"}),
    "data.sources": ("sources", {"storage", "data"}),
    "data.patterns": ("sources", {"storage"}),
    "data.pretraining.inputs": ("sources", {"data"}),  # names texts and records wherever they lie
    "modeling": ("modeling", set()),
    "lite": ("lite", {"modeling"}),  # files for devices: written, read, run
    "tasks.base": ("task interface", {"modeling"}),
    "tasks._classification": ("task part", {"data", "sources", "modeling", "task interface"}),  # what some tasks share
    "tasks._pretraining": ("task part", {"data", "sources", "modeling", "task interface"}),
    "tasks._budget": ("task part", {"data", "sources", "modeling", "task interface"}),
    "tasks._starter": ("task part", {"data", "sources", "modeling", "task interface"}),
    "tasks": ("tasks", {"data", "sources", "modeling", "task interface", "task part"}),
    "data.pipeline": ("pipeline", {"data", "task interface"}),
    "tracking.base": ("tracker interface", set()),
    "tracking": ("tracking", {"tracker interface"}),
    "runners.peak_memory": (GROUND, set()),
    "runners.base": ("runner interface", {"task interface", "tracker interface"}),
    "runners": (
        "runners",
        {
            "modeling",
            "lite",
            "pipeline",
            "sources",
            "shared cache",
            "task interface",
            "tracker interface",
            "runner interface",
            "front",  # its version
        },
    ),
    "mirror": ("mirror", {"storage", "tracking"}),
    "registry": ("registry", {"task interface", "runner interface"}),
    "composition": ("composition", {"registry"}),
    "groups": ("composition", {"registry"}),
    "sweeping.parent": ("sweep's note", {"tracking", "tracker interface"}),  # what a sweep leaves for its jobs
    "identity": ("identity", {"task interface", "tracking"}),
    "fitting": ("fitting", {"task interface", "sources", "modeling", "tracking"}),
    "deploying": (
        "deploying",
        {"fitting", "task interface", "storage", "sources", "modeling", "lite", "tracking", "tracker interface"},
    ),
    "lineage": ("lineage", {"deploying", "sources", "lite", "tracking"}),  # where a run's weights came from
    "experiment": (
        "experiment",
        {"registry", "task interface", "runner interface", "tracking", "tracker interface", "sweep's note"}
        | {"fitting", "deploying", "identity", "lineage", "shared cache", "workers", "mirror"},
    ),
    "sweeping": ("sweeping", {"experiment", "tracking", "tracker interface", "sweep's note"}),
    "verbs": ("verbs", set()),  # which names the modules below, and imports the one that is asked for
    "doctor": ("doctor", {"storage", "tracking"}),
    "pretraining_data": ("pre-training data", {"storage", "data", "sources", "workers"}),
    "translate": ("translation", set()),
    "convert": ("conversion", {"composition", "sources", "data", "modeling", "tracking"}),
    "__main__": ("entry", {"composition", "experiment", "verbs"}),
    "loading": ("loading", {"modeling", "sources"}),
    # the package itself: a lazy front
    "": ("front", {"composition", "experiment", "loading"}),
}
HOLDERS = {  # who may import a library at all
    "ai_edge_litert": ("lite",),
    "apache_beam": ("data.pretraining.beam",),
    "hydra": ("__main__", "composition", "groups", "sweeping"),
    "omegaconf": ("__main__", "composition", "groups", "sweeping"),
    "google": ("storage",),
    "google_crc32c": ("storage", "data.records", "manifest"),
    "mlflow": ("tracking",),
    "optuna": ("sweeping",),
    "orbit": ("runners",),
    "official": ("modeling.checkpoints",),
    "safetensors": ("modeling.checkpoints",),
    "torch": ("modeling.checkpoints",),
    "transformers": ("modeling.checkpoints",),
}
HEAVY = {"ai_edge_litert", "apache_beam", "keras", "mlflow", "official", "optuna", "orbit", "pandas"}
HEAVY |= {"tensorflow", "tf_keras", "torch", "transformers"}
LIGHT = ("__main__", "composition", "config", "experiment", "metrics", "registry", "runners.base", "runners.plan",
         "tasks", "tracking.base", "translate", "verbs")  # fmt: skip
# The delivery is a process of its own; the doctor looks at what the others would read.
READS_ENVIRONMENT = {"__main__", "convert", "doctor", "runners.strategy", "tracking.__main__"}
KNOWS_NO_TASK = (
    "__main__",
    "composition",
    "experiment",
    "fitting",
    "groups",
    "registry",
    "runners",
    "sweeping",
    "tracking",
)
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_ENTRY = 400, 40, 60
NO_CONCEPT = {"common", "helper", "helpers", "misc", "util", "utils"}


@dataclass(kw_only=True, frozen=True, slots=True)
class Import:
    """One imported module; `loads` if importing the importer imports it too."""

    name: str
    loads: bool


def _files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (CHECKOUT / folder).rglob("*.py"))


def _name(path: Path) -> str:
    """`runners.train` for mobilebert_exp/runners/train.py; the package itself is the empty string."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _modules() -> dict[str, ast.Module]:
    return {_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in _files(PACKAGE.name)}


def _is_under(name: str, prefixes: tuple[str, ...] | set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _layer(name: str) -> str:
    prefix = max((prefix for prefix in LAYERS if prefix and _is_under(name, {prefix})), key=len, default="")
    assert prefix or name == "", f"{name} is in no layer; say in LAYERS where it stands"
    return LAYERS[prefix][0]


def _imports(name: str) -> list[Import]:
    """Everything a module imports: ours by their names inside the package, others by their first word."""
    return list(_walk(_modules()[name], loads=True))


def _walk(node: ast.AST, *, loads: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(name=target, loads=loads) for alias in child.names for target in _targets(alias.name))
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports hide where a module stands"
            for alias in child.names:
                yield from (Import(name=target, loads=loads) for target in _targets(child.module or "", alias.name))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk(child, loads=False)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (found for part in child.body for found in _walk(ast.Module([part], []), loads=False))
            yield from (found for part in child.orelse for found in _walk(ast.Module([part], []), loads=loads))
        else:
            yield from _walk(child, loads=loads)


def _targets(module: str, attribute: str = "") -> list[str]:
    """The module meant by `import module` or `from module import attribute`, ours without the package's name."""
    if module.partition(".")[0] != PACKAGE.name:
        return [module.partition(".")[0]]
    inside = module.partition(".")[2]
    deeper = f"{inside}.{attribute}".strip(".")
    return [f"{PACKAGE.name}:{deeper if deeper in _modules() else inside}"]


def _ours(name: str) -> set[str]:
    """Modules of ours that `name` imports. A package with nothing in it is only a name, so it is no edge."""
    found = {one.name.partition(":")[2] for one in _imports(name) if one.name.startswith(f"{PACKAGE.name}:")}
    return {target for target in found if _modules()[target].body}


@pytest.mark.parametrize("name", sorted(_modules()))
def test_imports_point_down(name: str) -> None:
    layer = _layer(name)
    allowed = {layer, GROUND}.union(*(below for own, below in LAYERS.values() if own == layer))
    wrong = sorted(target for target in _ours(name) if _layer(target) not in allowed)
    assert wrong == [], f"{name or PACKAGE.name} ({layer}) imports {', '.join(wrong)}; it may import {sorted(allowed)}"


def test_no_task_imports_a_task() -> None:
    tasks = {name for name in _modules() if _layer(name) == "tasks" and name != "tasks"}
    assert tasks
    assert {(name, target) for name in tasks for target in _ours(name) & tasks - {name}} == set()


def test_no_modules_import_each_other() -> None:
    loads = {
        name: {one.name.partition(":")[2] for one in _imports(name) if one.loads and ":" in one.name}
        for name in _modules()
    }
    while free := {name for name, targets in loads.items() if not targets & loads.keys()}:
        loads = {name: targets for name, targets in loads.items() if name not in free}
    assert loads == {}, "these import each other in a circle"


@pytest.mark.parametrize("library", sorted(HOLDERS))
def test_a_library_has_its_place(library: str) -> None:
    holders = {name for name in _modules() if library in {one.name for one in _imports(name)}}
    assert {name for name in holders if not _is_under(name, HOLDERS[library])} == set()


@pytest.mark.parametrize("name", sorted(name for name in _modules() if _is_under(name, LIGHT)))
def test_a_light_module_loads_nothing_heavy(name: str) -> None:
    path = _way_to_heavy(name, seen=set())
    assert path == [], f"importing {' imports '.join(path)}"


def _way_to_heavy(name: str, *, seen: set[str]) -> list[str]:
    """The chain of imports from `name` to a heavy library; empty if there is none."""
    seen.add(name)
    for one in _imports(name):
        if not one.loads:
            continue
        if one.name in HEAVY:
            return [name, one.name]
        target = one.name.partition(":")[2]
        # Importing a.b.c runs the packages a and a.b first.
        for step in (target.rsplit(".", count)[0] for count in range(target.count("."), -1, -1)):
            if step in _modules() and step not in seen and (rest := _way_to_heavy(step, seen=seen)):
                return [name, *rest]
    return []


def test_only_the_rim_reads_the_environment() -> None:
    ways = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
    assert _users(ways) == READS_ENVIRONMENT
    imported = {
        (name, alias.name)
        for name, module in _modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
        if f"os.{alias.name}" in ways
    }
    assert imported == set(), "write os.environ, so that its readers can be found"


def test_only_the_pipeline_uses_tf_data() -> None:
    assert _users({"tf.data"}) == {"data.pipeline"}


def _users(names: set[str]) -> set[str]:
    """Modules in which one of the dotted `names` stands."""
    return {
        name
        for name, module in _modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in names
    }


def test_what_serves_every_task_names_none() -> None:
    kinds = {name.partition(".")[2] for name in _modules() if _layer(name) == "tasks"} - {""}
    named = {
        (name, text)
        for name, module in _modules().items()
        if _is_under(name, KNOWS_NO_TASK)
        for text in _words(module)
        if kinds & set(re.findall(r"[a-z0-9]+", text.lower()))
    }
    assert named == set()


def test_every_constant_is_used() -> None:
    """One that only its own line names is dead."""
    used = {node.id for node in _nodes(ast.Name) if isinstance(node.ctx, ast.Load)}
    used |= {node.attr for node in _nodes(ast.Attribute)} | {node.name for node in _nodes(ast.alias)}
    dead = {
        (name, target.id)
        for name, module in _modules().items()
        for line in module.body
        if isinstance(line, ast.Assign | ast.AnnAssign)
        for target in (line.targets if isinstance(line, ast.Assign) else [line.target])
        if isinstance(target, ast.Name) and target.id.isupper() and target.id not in used
    }
    assert dead == set()


def test_no_long_constant_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for name, module in _modules().items():
        for line in module.body:
            value = line.value if isinstance(line, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Tuple | ast.List | ast.Set) and len(value.elts) > 4:
                places.setdefault(ast.dump(value), []).append(name)
    assert [names for names in places.values() if len(names) > 1] == []


def _nodes(kind: type[_Node]) -> Iterator[_Node]:
    return (node for module in _modules().values() for node in ast.walk(module) if isinstance(node, kind))


def _words(module: ast.Module) -> Iterator[str]:
    """Names and strings of a module, docstrings apart."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize(
    "file",
    [str(path.relative_to(CHECKOUT)) for path in _files("mobilebert_exp", "tests", "benchmarks", "requirements")],
)
def test_files_and_functions_stay_readable(file: str) -> None:
    path = CHECKOUT / file
    text = path.read_text(encoding="utf-8")
    limit = LONGEST_ENTRY if path == PACKAGE / "__main__.py" else LONGEST_FILE
    assert text.count("\n") <= limit
    assert path.stem.lower() not in NO_CONCEPT, "name the concept"
    long = {
        node.name: length
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert long == {}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["--cfg", "job", "model=opt", "hardware=tpu_v3_256"], id="cfg"),
        pytest.param(["mode=plan", "+preset=starter", "task.starter.train_articles=60", "task.starter.dev_articles=10"],
                     id="plan"),
    ],
)  # fmt: skip
def test_the_command_line_answers_without_tensorflow(arguments: list[str], tmp_path: Path) -> None:
    places = [f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"] if "mode=plan" in arguments else []
    watch = (
        "import json, runpy, sys\n"
        "try:\n"
        "    runpy.run_module('mobilebert_exp', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(
        [sys.executable, "-c", watch, *arguments, *places],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    *shown, loaded = ended.stdout.strip().splitlines()
    assert len(shown) > 10
    needless = HEAVY if "mode=plan" in arguments else HEAVY | {"numpy"}
    assert needless & set(json.loads(loaded)) == set()
