"""The command line as a person meets it: help, exit codes, what starts, where files go, how fast it answers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CHECKOUT, here, process

from mobilebert_exp import experiment, verbs
from mobilebert_exp.config import ExperimentConfig, Mode
from mobilebert_exp.errors import RunStopped

SMALL = ["task.starter.train_articles=30", "task.starter.dev_articles=6"]


@pytest.fixture(scope="module")
def help_text() -> str:
    ended = here("--help")
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def test_help_shows_the_groups_and_their_options(help_text: str) -> None:
    groups = {
        "model=": "base | micro | micro_teacher | multilingual | opt | qat | teacher | tiny",
        "task=": "distill | glue | pretrain | squad_v1 | squad_v2 | xnli",
        "hardware=": "cpu | gpu | tpu_v3_256 | tpu_v3_8",
        "tracking=": "mlflow | none",
        "mode=": " | ".join(mode.name for mode in Mode),
        "+preset=": " | ".join(sorted(file.stem for file in (CHECKOUT / "conf" / "preset").glob("*.yaml"))),
        "+sweep=": " | ".join(sorted(file.stem for file in (CHECKOUT / "sweeps").glob("*.yaml"))),
    }
    for name, options in groups.items():
        assert f"  {name:<10} {options}\n" in help_text
    assert "schema" not in help_text
    assert "--cfg job" in help_text
    assert max(map(len, help_text.splitlines())) <= 110


def test_every_key_that_help_names_exists(help_text: str) -> None:
    shown = yaml.safe_load(here("--cfg", "job").out)
    named = re.findall(r"(?<![\w.+])([a-z_]+(?:\.[a-z_]+)*)=", help_text.partition("Keys")[2].partition("Useful")[0])
    assert len(named) >= 10
    for key in named:
        node: Any = shown
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def _commands(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.partition("Useful commands")[2].splitlines()]
    commands = [shlex.split(line)[3:] for line in lines if line.startswith("python -m mobilebert_exp")]
    return [command for command in commands if command[0] not in verbs.NAMES]  # the others are experiments


def _write_checkpoint(run_dir: Path) -> None:
    """As much of one as a plan looks for."""
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints" / "ckpt-1.index").touch()


def test_every_command_that_help_shows_composes_and_plans(help_text: str, tmp_path: Path) -> None:
    commands = _commands(help_text)
    assert len(commands) == 7
    _write_checkpoint(tmp_path)
    for command in commands:
        arguments = [each.replace("=DIR", f"={tmp_path}").replace("=RUN", f"={tmp_path}") for each in command]
        composed = here("--cfg", "job", *arguments)
        assert (composed.code, composed.err) == (0, ""), command
        if not any(each.startswith("data_root=") for each in arguments):
            places = [f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"]
            planned = here(*arguments, *SMALL, *places, "mode=plan")
            assert (planned.code, planned.err) == (0, ""), command
            assert "\nplan\n" in planned.out


def test_the_commands_on_real_data_plan(help_text: str, shared_data: Path, tmp_path: Path) -> None:
    _write_checkpoint(tmp_path)
    for command in _commands(help_text):
        arguments = [each.replace("=DIR", f"={shared_data}").replace("=RUN", f"={tmp_path}") for each in command]
        if any(each.startswith("data_root=") for each in arguments):
            planned = here(*arguments, "mode=plan", f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache")
            assert (planned.code, planned.err) == (0, ""), command
            assert "  train examples per epoch  4,705\n  dev examples              2,231\n" in planned.out


class Runs:
    """Stands where experiments are run, and remembers what it was to run."""

    def __init__(self, raises: BaseException | None = None) -> None:
        self.configs: list[ExperimentConfig] = []
        self.details: list[dict[str, Any]] = []
        self._raises = raises

    def __call__(self, config: ExperimentConfig, **details: Any) -> None:
        self.configs.append(config)
        self.details.append(details)
        if self._raises is not None:
            raise self._raises


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Runs]:
    """Replaces the running of experiments."""
    monkeypatch.chdir(tmp_path)

    def replace(raises: BaseException | None = None) -> Runs:
        runs = Runs(raises)
        monkeypatch.setattr(experiment, "run", runs)
        return runs

    return replace


def test_no_arguments_run_the_starter_experiment_and_say_so(run: Callable[..., Runs]) -> None:
    runs = run()
    ended = here()
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "no arguments: running the starter experiment, mobilebert_exp +preset=starter\n"
    (config,) = runs.configs
    (details,) = runs.details
    assert (config.mode, config.model.name, config.hardware.name) == (Mode.train, "micro", "cpu")
    assert details["overrides"] == ["+preset=starter"]


def test_a_run_lies_under_output_dir_by_task_and_time(run: Callable[..., Runs], tmp_path: Path) -> None:
    runs = run()
    assert here("task=squad_v2", f"output_dir={tmp_path}/my runs", "task.name=${model.name}").code == 0
    folder = Path(runs.details[0]["run_dir"])
    assert re.fullmatch(r"micro/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}", str(folder.relative_to(tmp_path / "my runs")))
    assert (folder / ".hydra" / "overrides.yaml").is_file()
    assert runs.details[0]["overrides"][-1] == "task.name=${model.name}"
    assert runs.details[0]["sweep_dir"] is None


def test_a_home_directory_is_one(run: Callable[..., Runs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    runs = run()
    assert here('output_dir="~/runs"').code == 0
    assert Path(runs.details[0]["run_dir"]).is_relative_to(tmp_path / "home" / "runs")
    assert runs.configs[0].output_dir == f"{tmp_path}/home/runs"


def test_the_environments_tracking_uri_is_handed_on(run: Callable[..., Runs], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    runs = run()
    assert here("seed=1").code == 0
    assert runs.details[0]["tracking_uri"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("place", [0, 3], ids=["before", "after"])
def test_a_multirun_runs_every_job(place: int, run: Callable[..., Runs], tmp_path: Path) -> None:
    runs = run()
    settings = ["seed=4,5", "tracking=none", f"output_dir={tmp_path}/o"]
    assert here(*settings[:place], "-m", *settings[place:]).code == 0
    assert [config.seed for config in runs.configs] == [4, 5]
    assert all(Path(details["sweep_dir"]).is_relative_to(tmp_path / "o" / "sweeps") for details in runs.details)


def test_a_sweep_by_name_needs_no_flag(run: Callable[..., Runs]) -> None:
    runs = run()
    assert here("+sweep=seeds", "tracking=none").code == 0
    assert [config.seed for config in runs.configs] == [0, 1, 2]


def test_a_sweep_of_ones_own_lies_in_the_working_directory(run: Callable[..., Runs], tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    content = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "7,8"}}}, "trainer": {"max_steps": 3}}
    (tmp_path / "sweeps" / "mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    runs = run()
    assert here("+sweep=mine", "tracking=none").code == 0
    assert [(config.seed, config.trainer.max_steps) for config in runs.configs] == [(7, 3), (8, 3)]


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_a_stopped_run_ends_the_whole_command(number: int, code: int, run: Callable[..., Runs]) -> None:
    runs = run(RunStopped(number))
    assert here("-m", "seed=4,5", "tracking=none", "~hydra.callbacks.sweep").code == code
    assert len(runs.configs) == 1
    assert here("seed=4").code == code


def test_ctrl_c_before_a_run_listens_shows_no_traceback(run: Callable[..., Runs]) -> None:
    run(KeyboardInterrupt())
    ended = here("seed=4")
    assert (ended.code, ended.err) == (130, "")


def test_a_defect_of_ours_shows_itself(run: Callable[..., Runs]) -> None:
    run(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        here("seed=4")


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    ended = process("model=opx", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err == (
        "error: model=opx is not an option; did you mean opt? "
        "options: base, micro, micro_teacher, multilingual, opt, qat, teacher, tiny\n"
    )
    assert ended.out == ""
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_a_run_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    ended = process("task.doc_stride=400", f"output_dir={tmp_path}/outputs", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err == (
        "error: task.doc_stride=400 is not within the window of 317 paragraph tokens "
        "(task.max_seq_length=384 less the question); lower it\n"
    )
    assert not list((tmp_path / "outputs").iterdir())
