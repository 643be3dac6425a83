"""One table of a sweep, from what its jobs left in `result.json`.

A result is a mapping with `overrides` (["seed=1", …]), `state`, `reason`, `run_id`, `task`, `metrics`, `main_metric`
and `timings.total_s`; whatever a job that died could not write may be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SEED = "seed"
SCORE_SUFFIX = "_score"  # a metric so named means the same in several tasks, so their scores can be averaged
MEAN_OF = "mean of"
_OWN_COLUMNS = ("job", "state", "seconds", "run_id", "reason")


def table(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a job, in the order given: the overrides that vary, state, metrics (the main one first), seconds, run id.

    Overrides stand as Hydra passed them on; a metric that a job does not have is NaN.
    """
    import pandas as pd

    settings = varying(results)
    names = metric_names(results)
    rows = []
    for number, result in enumerate(results):
        own = overrides(result)
        rows.append(
            {
                "job": result.get("job", number),
                **{_setting_column(key): own.get(key, "") for key in settings},
                "state": result.get("state", ""),
                **{_metric_column(name, settings): _metric(result, name) for name in names},
                "seconds": float((result.get("timings") or {}).get("total_s", "nan")),
                "run_id": result.get("run_id", ""),
                "reason": result.get("reason", ""),
            }
        )
    columns = ["job", *map(_setting_column, settings), "state"]
    columns += [_metric_column(name, settings) for name in names] + ["seconds", "run_id", "reason"]
    return pd.DataFrame(rows, columns=columns)


def seed_groups(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Mean and sample standard deviation of each metric over the jobs that differ by their seed alone.

    One row a group of otherwise equal overrides; `finished` of its `jobs` count. Empty when no seed varies.
    """
    import pandas as pd

    settings = varying(results)
    if SEED not in settings:
        return pd.DataFrame()
    settings = [key for key in settings if key != SEED]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        own = overrides(result)
        groups.setdefault(tuple(own.get(key, "") for key in settings), []).append(result)
    rows = []
    for values, members in groups.items():
        finished = [member for member in members if member.get("state") == "FINISHED"]
        row: dict[str, Any] = dict(zip(map(_setting_column, settings), values, strict=True))
        row |= {"jobs": len(members), "finished": len(finished)}
        for name in metric_names(results):
            figures = pd.Series([_metric(member, name) for member in finished], dtype=float)
            row[f"{name}_mean"] = figures.mean()
            row[f"{name}_std"] = figures.std(ddof=1)
        rows.append(row)
    return pd.DataFrame(rows)


def task_scores(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Of each metric that ends in `_score`, the best finished job of each task, and the mean over the tasks.

    Columns `score`, `task`, `value`, `job`, `run_id`; the mean's row names the number of tasks instead of one. Empty
    when no two tasks have such a metric.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    finished = [(number, result) for number, result in enumerate(results) if result.get("state") == "FINISHED"]
    for name in (name for name in metric_names(results) if name.endswith(SCORE_SUFFIX)):
        best: dict[str, dict[str, Any]] = {}
        for number, result in finished:
            value, task = _metric(result, name), str(result.get("task", ""))
            if value == value and (task not in best or value > best[task]["value"]):  # nan equals nothing
                job, run_id = result.get("job", number), result.get("run_id", "")
                best[task] = {"score": name, "task": task, "value": value, "job": job, "run_id": run_id}
        if len(best) > 1:
            mean = sum(row["value"] for row in best.values()) / len(best)
            rows += [
                *best.values(),
                {"score": name, "task": f"{MEAN_OF} {len(best)}", "value": mean, "job": "", "run_id": ""},
            ]
    return pd.DataFrame(rows)


def varying(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the overrides that are not the same in all jobs, in the order they were given."""
    each = [overrides(result) for result in results]
    keys = dict.fromkeys(key for own in each for key in own)
    return [key for key in keys if len({own.get(key) for own in each}) > 1]


def metric_names(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of all metrics, main ones first."""
    mains: dict[str, None] = {}
    others: dict[str, None] = {}
    for result in results:
        metrics = result.get("metrics") or {}
        if result.get("main_metric") in metrics:
            mains[result["main_metric"]] = None
        others |= dict.fromkeys(metrics)
    return list(mains | others)


def overrides(result: Mapping[str, Any]) -> dict[str, str]:
    """`["+a=1", "~b"]` as `{"a": "1", "~b": ""}`; the last of two equal keys counts."""
    pairs = (override.partition("=") for override in result.get("overrides") or ())
    return {key.lstrip("+"): value for key, _, value in pairs}


def _metric(result: Mapping[str, Any], name: str) -> float:
    value = (result.get("metrics") or {}).get(name)
    return float("nan") if value is None else float(value)


def _setting_column(key: str) -> str:
    return f"override.{key}" if key in _OWN_COLUMNS else key


def _metric_column(name: str, settings: Sequence[str]) -> str:
    return f"metric.{name}" if name in settings or name in _OWN_COLUMNS else name
