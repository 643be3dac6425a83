"""Names to tasks and runners: a task is `tasks/<kind>.py`, a runner `runners/<mode>.py`. Listing imports nothing."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import cast

from mobilebert_exp import runners, tasks
from mobilebert_exp.config import ExperimentConfig, Mode
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.runners.base import Runner
from mobilebert_exp.spelling import nearest
from mobilebert_exp.tasks.base import Task


def task_kinds() -> list[str]:
    """Every task there is, sorted: the modules of `tasks`, but for the interface and those that begin with `_`."""
    names = [module.name for module in pkgutil.iter_modules(tasks.__path__)]
    return sorted(name for name in names if name != "base" and not name.startswith("_"))


def task_module(kind: str) -> ModuleType:
    """The module of a task, with its `Config` and `create`; loads no TensorFlow."""
    kinds = task_kinds()
    if kind not in kinds:
        near = nearest(kind, kinds)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(kinds)}"
        raise ConfigError(f"task.kind={kind} is not a task; {hint}")
    return importlib.import_module(f"{tasks.__name__}.{kind}")


def create_task(config: ExperimentConfig) -> Task:
    """The task of an experiment; opens no file."""
    create = task_module(config.task.kind).create
    return cast(Task, create(config.task, data_root=config.data_root, cache_dir=config.cache_dir))


def runner(mode: Mode) -> Runner:
    """The runner of a mode; this is where TensorFlow is loaded, if the mode needs it."""
    return cast(Runner, importlib.import_module(f"{runners.__name__}.{mode.name}"))
