"""A Hydra callback that gives a multirun its own run in the tracker, and one table at its end.

    hydra:
      callbacks:
        sweep:
          _target_: mobilebert_exp.sweeping.callback.SweepCallback
          env_uri: ${oc.env:MLFLOW_TRACKING_URI,null}

Hydra announces the end of a multirun only when every job succeeded: it raises a failed job's exception instead. So
the end is also caught at the exit of the process, and whichever comes first counts.
"""

from __future__ import annotations

import atexit
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from mobilebert_exp.errors import UserError
from mobilebert_exp.sweeping import jobs, parent
from mobilebert_exp.tracking import store
from mobilebert_exp.tracking.base import RunInfo, RunState, Tracker
from mobilebert_exp.tracking.mlflow import MlflowTracker
from mobilebert_exp.tracking.nothing import NoTracker

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

_OPEN_TIMEOUT_S = 60.0


class SweepCallback(Callback):
    """One parent run and one table for a multirun.

    Args:
      env_uri: the environment's MLFLOW_TRACKING_URI.
    """

    def __init__(self, *, env_uri: str | None = None) -> None:
        self._env_uri = env_uri
        self._tracker: Tracker | None = None
        self._dir = Path()
        self._hydra_subdir = ""
        self._began_s = 0.0
        self._failures: dict[Path, str] = {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _name(config, "mode") == "plan":
            return
        self._dir = Path(str(config.hydra.sweep.dir)).absolute()
        self._hydra_subdir = str(OmegaConf.select(config, "hydra.output_subdir") or "")
        self._began_s = time.time() - 1.0  # file systems round their clocks
        try:
            self._tracker, uri = _tracker(config, env_uri=self._env_uri)
            self._dir.mkdir(parents=True, exist_ok=True)
            experiment = _name(config, "tracking.experiment") or _name(config, "task.name") or "sweep"
            overrides = cast("list[str]", OmegaConf.to_container(config.hydra.overrides.task))  # ${…} left as it stands
            run = RunInfo(
                experiment=experiment,
                name=" ".join(["sweep", *overrides])[:200],
                run_dir=self._dir,
                tags={
                    "sweep.overrides": " ".join(overrides),
                    "sweep.dir": str(self._dir),
                    **_searched(config, overrides),
                },
            )
            self._tracker.start(run)
        except UserError as error:  # Hydra turns what a callback raises into a warning, but lets an exit pass
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        # At exit the interpreter loads no module that wants threads; here it costs nothing, the store opens meanwhile.
        importlib.import_module("mobilebert_exp.sweeping.report")
        atexit.register(self._finish, complete=False)
        about = {"name": run.name, "uri": store.public(uri), "experiment": experiment}
        parent.write(self._dir, parent_run_id=self._tracker.run_id(timeout_s=_OPEN_TIMEOUT_S), about=about)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        error = job_return._return_value  # the property would raise it; a user's mistake is returned, not raised
        if self._tracker is not None and isinstance(error, Exception):
            lines = str(error).splitlines() or [""]
            self._failures[Path(config.hydra.runtime.output_dir)] = f"{type(error).__name__}: {lines[0]}"

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._finish(complete=True)

    def _finish(self, *, complete: bool) -> None:
        if self._tracker is None:
            return
        tracker, self._tracker = self._tracker, None
        atexit.unregister(self._finish)
        results = self._results()
        reason = jobs.unfinished(results) or ("" if complete else "the sweep was stopped before its end")
        if results:
            from mobilebert_exp.sweeping import report

            report.report(results, sweep_dir=self._dir, tracker=tracker)
        tracker.end(RunState.FAILED if reason else RunState.FINISHED, reason=reason)
        if tracker.open_command():
            print(f"The sweep in MLflow: {tracker.open_command()}")

    def _results(self) -> list[dict[str, Any]]:
        folders = jobs.job_dirs(self._dir, hydra_subdir=self._hydra_subdir, since_s=self._began_s)
        return [
            jobs.result(folder, hydra_subdir=self._hydra_subdir, failure=self._failures.get(folder, ""))
            for folder in folders
        ]


def _tracker(config: DictConfig, *, env_uri: str | None) -> tuple[Tracker, str]:
    if _name(config, "tracking.kind") != "mlflow":
        return NoTracker(), ""
    output_dir = str(config.output_dir)
    uri = store.resolve_uri(OmegaConf.select(config, "tracking.uri"), env_uri, output_dir)
    return MlflowTracker(uri), uri


def _name(config: DictConfig, key: str) -> str:
    """A setting as text, an enum by its name; "" when it is null or not given yet."""
    value = OmegaConf.select(config, key, throw_on_missing=False)
    return "" if value is None else str(getattr(value, "name", value))


def _searched(config: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """The search space: the keys that a `+sweep=` file, or the command line after it, gave a choice of values.

    Of a key given twice the last counts, as in the jobs: Hydra's basic sweeper puts what was typed after the file, and
    in its place where the key is spelt the same; `++seed=5` goes after `seed=0,1`, and is what each job then has.
    """
    given = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [*(f"{key}={value}" for key, value in given.items()), *overrides]
    try:
        parsed = OverridesParser.create().parse_overrides(lines)
    except HydraException:  # a slip in the file, which the sweeper meets next, and tells
        return {}
    spelt = {each.get_key_element(): each for each in parsed}
    last = {key.lstrip("+~"): each for key, each in spelt.items()}
    space = [str(each.input_line) for each in last.values() if each.is_sweep_override()]
    return {"sweep.params": " ".join(space)} if space else {}
