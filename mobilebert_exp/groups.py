"""What can be composed: the config groups with their options, the schemas behind them, and every key they bring."""

from __future__ import annotations

import enum
import functools
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mobilebert_exp import registry
from mobilebert_exp.checks import folder
from mobilebert_exp.config import ExperimentConfig, HardwareConfig, Mode, ModelConfig, TrackingConfig
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.spelling import same

SCHEMA = "schema"
VERSION_BASE = "1.3"  # of Hydra's behaviour
DEFAULT_GROUPS = ("model", "task", "hardware", "tracking")  # in the defaults list; the others are added with a plus
ADDED_GROUPS = ("preset", "sweep")
DATA_SET = "dataset"  # a field of those tasks that are several
FROM_JSON = "model.from_json"  # a setting that stands for others, and is none itself


def shipped(folder: str) -> Path:
    """`conf` or `sweeps`: inside the package where it is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / folder, package.parent / folder) if path.is_dir())


def register() -> None:
    """Tells Hydra the schemas, and makes each file of `sweeps/` (ours, and the working directory's) a `+sweep=NAME`."""
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    store = ConfigStore.instance()
    store.store(name=SCHEMA, node=ExperimentConfig)
    for group, node in (("model", ModelConfig), ("hardware", HardwareConfig), ("tracking", TrackingConfig)):
        store.store(group=group, name=SCHEMA, node=node)
    store.repo["task"] = _OnDemand(
        {f"{kind}_{SCHEMA}.yaml": functools.partial(_task_schema, kind) for kind in registry.task_kinds()}
    )
    store.repo["sweep"] = _OnDemand({f"{file.stem}.yaml": functools.partial(_sweep, file) for file in _sweep_files()})


class _OnDemand(dict[str, Any]):
    """Nodes of a group, made when Hydra first reads them: what nobody chose is not loaded, nor are its faults told."""

    def __getitem__(self, name: str) -> Any:
        found = dict.__getitem__(self, name)
        if isinstance(found, functools.partial):
            found = self[name] = found()
        return found


def _task_schema(kind: str) -> ConfigNode:
    node = OmegaConf.structured(registry.task_module(kind).Config)
    return ConfigNode(name=f"{kind}_{SCHEMA}.yaml", node=node, group="task", package=None, provider=None)


def _sweep(file: Path) -> ConfigNode:
    return ConfigNode(name=f"{file.stem}.yaml", node=_loaded(file), group="sweep", package="_global_", provider=None)


def options(group: str) -> list[str]:
    """What can be chosen in a group, schemas apart."""
    files = {file.stem for file in (shipped("conf") / group).glob("*.yaml")}
    if group == "sweep":
        files = {file.stem for file in _sweep_files()}
    stored = ConfigStore.instance().repo.get(group, {})
    return sorted(files | {name.removesuffix(".yaml") for name in stored if SCHEMA not in name})


def options_text() -> str:
    """Every group with its options, a line each, for --help."""
    rows = [(name, f"{name}=") for name in DEFAULT_GROUPS] + [(name, f"+{name}=") for name in ADDED_GROUPS]
    return "\n".join(f"  {shown:<10} {' | '.join(options(name))}" for name, shown in rows if options(name))


def data_set(name: str) -> str:
    """How a task that is several data sets is asked for one by this name: `task=T task.dataset=NAME`; "" if none is."""
    for kind in registry.task_kinds():
        known = typing.get_type_hints(registry.task_module(kind).Config).get(DATA_SET)
        names = list(known.__members__) if isinstance(known, enum.EnumType) else []
        if kind in options("task") and (found := same(name, names)):
            return f"task={kind} task.{DATA_SET}={found}"
    return ""


def keys(arguments: Iterable[str]) -> list[str]:
    """Dotted names of all that can be set once the groups among `arguments` are chosen, sections included."""
    groups = (*DEFAULT_GROUPS, *ADDED_GROUPS)
    pairs = [argument.partition("=") for argument in arguments]
    # Of several values, as a multirun has, the first stands for all.
    chosen = [f"{name}={value.split(',')[0]}" for name, _, value in pairs if name.lstrip("+") in groups]
    return [*(_composed_keys(chosen) or _composed_keys([])), FROM_JSON]


def _composed_keys(overrides: list[str]) -> list[str]:
    try:
        return list(walk(composed(overrides)))
    except (HydraException, OmegaConfBaseException):
        return []


def composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of the shipped `conf` and some overrides; a Hydra program that runs already is not disturbed."""
    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None
    try:
        with hydra.initialize_config_dir(str(shipped("conf")), version_base=VERSION_BASE):
            return hydra.compose("config", overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = running


def walk(node: DictConfig, *, prefix: str = "") -> Iterator[str]:
    """Dotted names of everything in a config, inner nodes too."""
    for name in map(str, node):
        key = f"{prefix}{name}"
        yield key
        is_open = OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name)
        child = None if is_open else node[name]
        if isinstance(child, DictConfig):
            yield from walk(child, prefix=f"{key}.")


def yaml_fault(problem: yaml.YAMLError) -> ConfigError:
    """File, line and fault of a YAML file that cannot be read."""
    mark = getattr(problem, "problem_mark", None) or getattr(problem, "context_mark", None)
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a config file"
    fault = getattr(problem, "problem", None) or str(problem).splitlines()[0]
    return ConfigError(f"{where}: {fault}; mend the YAML there")


def _sweep_files() -> list[Path]:
    return [file for folder in (shipped("sweeps"), Path.cwd() / "sweeps") for file in sorted(folder.glob("*.yaml"))]


def _loaded(file: Path) -> DictConfig:
    try:
        found = OmegaConf.load(file)
    except yaml.YAMLError as problem:
        raise yaml_fault(problem) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{file} cannot be read ({problem}); mend it or choose another sweep") from None
    if not isinstance(found, DictConfig):
        raise ConfigError(f"{file} is no mapping of keys to values; see the shipped sweeps for the layout")
    return found


def _run_dir(mode: Mode, output_dir: str, name: str) -> str:
    """Where a run's files go; a plan writes none, and Hydra needs a folder that exists."""
    return "." if mode is Mode.plan else f"{folder('output_dir', output_dir, instead='upload_to')}/{name}"


def _sweep_dir(mode: Mode, output_dir: str, name: str) -> str:
    """As `_run_dir`, for a multirun, of which Hydra keeps a record in any case."""
    return _scratch().name if mode is Mode.plan else f"{folder('output_dir', output_dir, instead='upload_to')}/{name}"


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mobilebert_exp_")


def _unless_plan(mode: Mode, value: Any) -> Any:
    return None if mode is Mode.plan else value


def _log_handlers(mode: Mode) -> list[str]:
    return ["console"] if mode is Mode.plan else ["console", "file"]


def _from_table(table: str, row: str | enum.Enum, column: str) -> Any:
    """A value of `conf/<table>.yaml`: for defaults that follow from another setting, and give way to any override."""
    file, name = shipped("conf") / f"{table}.yaml", row.name if isinstance(row, enum.Enum) else row
    found = OmegaConf.select(_loaded_table(file), f"{name}.{column}")
    if found is None:
        raise ConfigError(f"{file} has no {column} for {name}; add it there")
    return found


@functools.cache
def _loaded_table(file: Path) -> DictConfig:
    return _loaded(file)


RESOLVERS: dict[str, Callable[..., Any]] = {  # what files of conf/ call
    "from_table": _from_table,
    "options": options_text,
    "modes": lambda: " | ".join(mode.name for mode in Mode),
    "run_dir": _run_dir,
    "sweep_dir": _sweep_dir,
    "unless_plan": _unless_plan,
    "log_handlers": _log_handlers,
}
