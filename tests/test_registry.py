"""The registry: tasks and runners by name, and a new task that is one Python file and one YAML file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CHECKOUT, process

from mobilebert_exp import registry
from mobilebert_exp.config import Mode
from mobilebert_exp.errors import ConfigError

PARITY = Path(__file__).parent / "data" / "parity"


@pytest.fixture
def checkout_with_parity(tmp_path: Path) -> Path:
    """A copy of package and configuration to which a task was added: its two files, and nothing else."""
    copy = tmp_path / "checkout"
    without_caches = shutil.ignore_patterns("__pycache__")
    for folder in ("mobilebert_exp", "conf", "sweeps"):
        shutil.copytree(CHECKOUT / folder, copy / folder, ignore=without_caches)
    shutil.copy(PARITY / "parity.py", copy / "mobilebert_exp" / "tasks")
    shutil.copy(PARITY / "parity.yaml", copy / "conf" / "task")
    return copy


def test_every_mode_has_its_runner() -> None:
    files = {file.stem for file in (CHECKOUT / "mobilebert_exp" / "runners").glob("*.py")}
    assert {mode.name for mode in Mode} <= files


def test_a_task_is_found_by_the_name_of_its_file() -> None:
    assert registry.task_kinds() == ["distill", "glue", "pretrain", "squad", "xnli"]
    module = registry.task_module("squad")
    assert {"Config", "create"} <= vars(module).keys()


def test_a_task_that_is_not_there_is_a_mistake_of_the_user() -> None:
    with pytest.raises(ConfigError, match=r"^task\.kind=sqad is not a task; did you mean squad\?$"):
        registry.task_module("sqad")
    with pytest.raises(
        ConfigError, match=r"^task\.kind=chess is not a task; there are distill, glue, pretrain, squad, xnli$"
    ):
        registry.task_module("chess")


def test_listing_and_loading_tasks_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from mobilebert_exp import registry\n"
        "kinds = registry.task_kinds()\n"
        "assert not [name for name in sys.modules if name.startswith('mobilebert_exp.tasks.') and 'base' not in name]\n"
        "modules = [registry.task_module(kind) for kind in kinds]\n"
        "print(sorted({'tensorflow', 'mlflow', 'pandas', 'orbit'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_a_task_of_two_files_is_listed_checked_and_planned(checkout_with_parity: Path, tmp_path: Path) -> None:
    helped = process("--help", cwd=tmp_path, checkout=checkout_with_parity)
    assert "  task=      distill | glue | parity | pretrain | squad_v1 | squad_v2 | xnli\n" in helped.out
    wrong = process("task=parity", "task.num_bits=8", "mode=plan", cwd=tmp_path, checkout=checkout_with_parity)
    assert (wrong.code, wrong.err) == (2, "error: task.max_seq_length=8 is below 9; raise it\n")
    places = [f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"]
    planned = process("task=parity", "mode=plan", *places, cwd=tmp_path, checkout=checkout_with_parity)
    assert planned.code == 0, planned.err
    assert "dev examples" in planned.out


@pytest.mark.slow
def test_a_task_of_two_files_is_learnt(checkout_with_parity: Path, tmp_path: Path) -> None:
    ended = process(
        *("-m", "task=parity", "model=micro", "seed=0"),
        *("task.optimizer.learning_rate=1e-3", "task.optimizer.bias_correction=true", "trainer.max_steps=600"),
        *(f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache", "tracking=none"),
        cwd=tmp_path,
        checkout=checkout_with_parity,
        timeout_s=600,
    )
    assert ended.code == 0, ended.err
    (found,) = (tmp_path / "outputs").glob("sweeps/**/result.json")
    result = json.loads(found.read_text(encoding="utf-8"))
    assert (result["state"], result["reason"], result["experiment"]) == ("FINISHED", "", "parity")
    assert result["main_metric"] == "accuracy"
    assert result["metrics"]["accuracy"] >= 95.0, result["metrics"]
    assert Path(result["run_dir"]) == found.parent
    assert Path(result["paths"]["checkpoints"]).is_dir()
