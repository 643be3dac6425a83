"""Runs whose weights are invented rather than trained, to be exported and evaluated in seconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import glue_files
import numpy as np
from command_line import Ended, here
from invented_weights import invented

from mobilebert_exp import compose, fitting, registry
from mobilebert_exp.config import ModelConfig
from mobilebert_exp.data.pipeline import evaluation_batches
from mobilebert_exp.modeling.checkpoints import native_weights
from mobilebert_exp.tasks.base import Split
from mobilebert_exp.tracking import states
from mobilebert_exp.tracking.base import RunState

NARROW = ["model.num_layers=2", "model.hidden_size=64", "model.intra_bottleneck_size=32", "model.intermediate_size=64"]
STARTER = [
    *("+preset=starter", "task.starter.train_articles=12", "task.starter.dev_articles=4"),
    "task.starter.vocabulary_size=300",
]


def glue(root: Path, dataset: str) -> list[str]:
    """Settings of an invented data set below `root`."""
    glue_files.vocabulary(root)
    {"sst2": glue_files.sst2, "rte": glue_files.rte}[dataset](root)
    return ["task=glue", f"task.dataset={dataset}", f"data_root={root}", "task.max_seq_length=12"]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A folder with runs, and the settings that all its commands share."""

    folder: Path
    settings: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, *settings: str) -> Bench:
        places = (f"output_dir={folder}/outputs", f"cache_dir={folder}/cache", "tracking=none")
        return cls(folder, (*settings, *NARROW, *places))

    def run(self, *more: str, to: str) -> Ended:
        return here(*self.settings, *more, f"hydra.run.dir={self.folder}/{to}")

    def succeeds(self, *more: str, to: str) -> Path:
        """The folder of a run that finished."""
        ended = self.run(*more, to=to)
        assert ended.code == 0, ended.err
        assert result(self.folder / to)["state"] == "FINISHED"
        return self.folder / to

    def refuses(self, *more: str, to: str = "refused") -> str:
        """What was said, in one line, by a command that ended with code 2."""
        ended = self.run(*more, to=to)
        *_, last = ended.err.splitlines()
        assert (ended.code, last.startswith("error: "), "Traceback" in ended.err) == (2, True, False), ended.err
        return last.removeprefix("error: ")

    def trained(
        self,
        name: str,
        *more: str,
        state: RunState = RunState.FINISHED,
        is_undecided: bool = False,
        change: Callable[[dict[str, Any]], object] = lambda values: None,
    ) -> Path:
        """A run with invented weights, which `change` may alter; `run-NAME` is what the tracker calls it.

        `is_undecided`: of two classes each is given to half of the dev rows.
        """
        config = compose([*self.settings, *more])
        task = registry.create_task(config)
        config = fitting.resolved(config, task)
        heads = [spec for spec in task.variables(config.model) if spec.name.startswith("heads/")]
        weights = invented(config.model, heads, head=task.head)
        values = dict(weights.values)
        if is_undecided:
            _undecide(values, task, config.model)
        change(values)
        native_weights.write(dataclasses.replace(weights, values=values), self.folder / name)
        states.write(self.folder / name, identity="abc", state=state, run_id=f"run-{name}")
        return self.folder / name


def _undecide(values: dict[str, Any], task: Any, model: ModelConfig) -> None:
    """A head so wide that rows differ, and a bias between them."""
    values["heads/classifier/kernel"] = values["heads/classifier/kernel"] * np.float32(100)
    module = task.build(model, seed=0, dtype="float32")
    for variable in module.variables:
        variable.assign(values[variable.name.split(":")[0]])
    (batch,) = evaluation_batches(task.features(Split.dev), batch_size=task.num_examples(Split.dev))
    logits = task.outputs(module, batch)["outputs"].numpy()
    values["heads/classifier/bias"] = values["heads/classifier/bias"] + [0, np.median(logits[:, 0] - logits[:, 1])]


def result(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    return found
