"""mode=plan: its figures are those computed by hand, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import CHECKOUT, here

from mobilebert_exp.composition import compose
from mobilebert_exp.config import ExperimentConfig, ModelConfig, leaves
from mobilebert_exp.errors import ConfigError, DataError
from mobilebert_exp.modeling.variables import VariableSpec, encoder_variables, span_variables
from mobilebert_exp.runners import plan
from mobilebert_exp.runners.base import Job, StopRequest
from mobilebert_exp.runners.schedule import PlannedPhase, planned, schedule, unreached
from mobilebert_exp.tasks.base import Split
from mobilebert_exp.tracking.nothing import NoTracker

TRAIN, DEV = 87_599, 10_570  # questions of SQuAD v1.1


@dataclass
class CountedTask:
    """As many examples as SQuAD v1.1 has, and a task's variables; a plan asks for nothing else."""

    config: Any

    def num_examples(self, split: Split) -> int:
        return TRAIN if split is Split.train else DEV

    def variables(self, model: ModelConfig) -> list[VariableSpec]:
        return encoder_variables(model) + span_variables(model)


def _job(*overrides: str) -> Job:
    config = compose(overrides)
    task: Any = CountedTask(config.task)
    return Job(config=config, task=task, run_dir=Path.cwd(), tracker=NoTracker(), stop=StopRequest())


def _planned(*overrides: str) -> tuple[dict[str, str], dict[str, float]]:
    """The plan's rows by their names, and the figures it hands on."""
    outcome = plan.run(_job(*overrides))
    lines = outcome.text.partition("\nplan\n")[2].splitlines()
    return {line[:26].strip(): line[26:].strip() for line in lines}, outcome.metrics


def test_the_original_fine_tuning() -> None:
    rows, figures = _planned("model=opt", "task=squad_v1")
    assert rows["parameters"] == "24,582,914"  # the encoder's 24,581,888 and a head of 512 x 2 + 2
    assert rows["embeddings"] == "4,368,128"
    assert rows["layers"] == "20,213,760  (24 x 842,240)"
    assert rows["heads"] == "1,026"
    assert (rows["train examples per epoch"], rows["dev examples"]) == ("87,599", "10,570")
    assert rows["steps"] == "8,212  (3.00 epochs)"  # int(87599 / 32 * 3)
    assert rows["warm-up"] == "821"  # int(8212 * 0.1)
    assert rows["per epoch"] == "2,737.5"
    assert rows["tokens"] == "100,909,056"  # 8212 x 32 x 384
    assert rows["learning rate"] == "0 to 5e-05 over the warm-up, to 5e-09 at the end"
    assert (rows["global batch"], rows["replicas"], rows["per replica"], rows["micro-batch"]) == ("32", "1", "32", "32")
    assert figures == {"parameters": 24_582_914.0, "steps": 8212.0}


def test_opt_on_256_cores_with_the_batch_of_the_original_distillation() -> None:
    batches = ["task.global_batch_size=2048", "task.eval_batch_size=256", "trainer.gradient_accumulation_steps=2"]
    rows, _ = _planned("model=opt", "task=squad_v1", "hardware=tpu_v3_256", *batches)
    assert rows["steps"] == "128  (2.99 epochs)"  # int(87599 / 2048 * 3) = int(128.3)
    assert rows["warm-up"] == "12"
    assert rows["per epoch"] == "42.8"
    assert rows["tokens"] == "100,663,296"  # 128 x 2048 x 384
    assert (rows["global batch"], rows["replicas"], rows["per replica"]) == ("2,048", "256", "8")
    assert rows["micro-batch"] == "4"


def test_the_pooler_is_a_part_of_the_teacher() -> None:
    rows, _ = _planned("model=teacher")
    assert rows["pooler"] == "262,656"  # 512 x 512 + 512
    assert rows["layers"] == "289,837,056  (24 x 12,076,544)"


def test_devices_that_are_not_counted_yet() -> None:
    rows, _ = _planned("model=opt", "hardware=gpu", "trainer.gradient_accumulation_steps=2")
    assert rows["replicas"] == "all visible devices"
    assert rows["per replica"] == "a share, in 2 micro-batch(es)"


def _schedule(*overrides: str, num_examples: int = TRAIN) -> tuple[int, int]:
    found = schedule(compose(overrides), num_examples=num_examples)
    return found.total_steps, found.warmup_steps


def test_steps_and_warm_up() -> None:
    assert _schedule("trainer.max_steps=100") == (100, 10)
    assert _schedule("trainer.max_steps=100000") == (8212, 821)
    assert _schedule("task.optimizer.warmup_steps=7") == (8212, 7)
    assert _schedule("task.optimizer.warmup_steps=0") == (8212, 0)
    assert _schedule("task.optimizer.warmup_proportion=0") == (8212, 0)
    assert _schedule("task.num_train_epochs=0.5") == (1368, 136)
    assert _schedule("trainer.overfit_batches=1", "trainer.max_steps=50", num_examples=33) == (50, 5)
    assert _schedule(num_examples=11) == (1, 0)  # int(11 / 32 * 3) = int(1.03)


def test_a_schedule_that_cannot_work() -> None:
    with pytest.raises(
        ConfigError, match=r"^task.optimizer.warmup_steps=9000 exceeds the 8212 steps of the run; lower it$"
    ):
        _schedule("task.optimizer.warmup_steps=9000")
    with pytest.raises(ConfigError, match=r"gives no whole step; lower the batch or raise the epochs$"):
        _schedule(num_examples=10)
    with pytest.raises(DataError, match="has no example to learn from"):
        _schedule(num_examples=0)


STARTER = ["mode=plan", "+preset=starter", "task.starter.train_articles=30", "task.starter.dev_articles=6"]


def test_a_plan_leaves_nothing_but_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for overrides in ([], ["-m", "seed=0,1"]):
        ended = here(*overrides, *STARTER, f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.count("\nplan\n") == max(1, len(overrides))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "here"]
        assert not list((tmp_path / "here").iterdir())


def _configuration(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """What was set, and all other settings, each by its whole name."""
    first, _, rest = text.partition("\nplan\n")[0].partition("\nall other settings\n")
    chosen = dict(line.strip().split(maxsplit=1) for line in first.splitlines()[1:] if line)
    others: dict[str, str] = {}
    section = ""
    for line in rest.splitlines():
        if found := re.match(r"([a-z.]+): ", line):
            section = found[1]
        for name, value in re.findall(r"(?<!\S)(\w+)=(\S*)", line):
            others[f"{section}.{name}".strip(".")] = value
    return chosen, others


def test_a_plan_shows_the_whole_configuration_and_what_was_set_first(tmp_path: Path) -> None:
    settings = [*STARTER, f"output_dir={tmp_path}", f"cache_dir={tmp_path}/cache", "seed=5", "tracking=none"]
    ended = here(*settings, "+tracking.tags.purpose=trial")
    chosen, others = _configuration(ended.out)
    assert chosen == {
        **{"seed": "5", "output_dir": str(tmp_path), "cache_dir": f"{tmp_path}/cache", "trainer.max_steps": "1800"},
        **{"task.starter.train_articles": "30", "task.starter.dev_articles": "6", "tracking.tags.purpose": "trial"},
        **{"task.max_seq_length": "68", "task.doc_stride": "32", "task.max_query_length": "16"},
        **{"task.eval_batch_size": "64", "task.optimizer.learning_rate": "0.001"},
        **{"task.optimizer.bias_correction": "true", "model.layer_loop": "unroll", "tracking.kind": "none"},
    }
    assert others["model.vocab_size"].isdecimal(), "taken from the vocabulary"
    assert (others["task.vocab_file"], others["hardware.xla"], others["mode"]) == ("null", "false", "plan")
    assert {*chosen, *others} == {*leaves(compose(settings)), "tracking.tags.purpose"} - {"tracking.tags"}
    assert not set(chosen) & set(others)
    assert ended.out.count("\n") < 75, "a screen or two"
    assert max(map(len, ended.out.splitlines())) <= max(80, len(str(tmp_path)) + 40)


def test_a_cap_that_the_epochs_do_not_reach_is_told() -> None:
    job = _job("model=opt", "trainer.max_steps=100000", "task.num_train_epochs=1.5")
    note = "trainer.max_steps=100000 is a cap, and task.num_train_epochs=1.5 gives 4,106 steps; "
    assert note in " ".join(plan.run(job).text.split())
    assert unreached(job.config, _phases(job.config)) == f"{note}raise task.num_train_epochs for more"
    for enough in ("trainer.max_steps=4106", "trainer.max_steps=null"):
        reached = compose(["task.num_train_epochs=1.5", enough])
        assert unreached(reached, _phases(reached)) == ""
    overfit = compose(["trainer.overfit_batches=1", "trainer.max_steps=100000"])
    assert unreached(overfit, _phases(overfit)) == ""


def _phases(config: ExperimentConfig) -> list[PlannedPhase]:
    task: Any = CountedTask(config.task)
    return planned(config, task, num_examples=lambda: TRAIN)


def test_a_plan_loads_neither_tensorflow_nor_mlflow(tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "from command_line import here\n"
        "ended = here(*json.loads(sys.argv[1]))\n"
        "heavy = {'tensorflow', 'mlflow', 'pandas', 'orbit', 'keras'} & set(sys.modules)\n"
        "print(json.dumps([ended.code, sorted(heavy)]))\n"
    )
    arguments = [*STARTER, f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"]
    ended = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.stdout == "[0, []]\n", ended.stderr


def test_experiment_config_is_what_a_plan_is_about() -> None:
    assert isinstance(compose(["mode=plan"]), ExperimentConfig)
