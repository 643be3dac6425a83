"""Mistakes that lie outside the command: a sweep's file, a full disk, a place without rights, missing hardware.

As in test_bad_input, each gives one line and exit code 2; the ones that need a process of their own are here.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CHECKOUT, here, process

from mobilebert_exp import location

SMALL = ["task.starter.train_articles=20", "task.starter.dev_articles=4"]


def _places(folder: Path) -> list[str]:
    return [f"output_dir={folder}/outputs", f"cache_dir={folder}/cache", "tracking=none"]


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `sweeps` folder of a working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweeps"
    folder.mkdir()
    return folder


def test_a_typo_in_a_sweep_file_is_told_to_who_chooses_it(sweeps: Path) -> None:
    (sweeps / "mine.yaml").write_text("hydra:\n  mode: MULTIRUN\n  sweeper\n    params: x\n", encoding="utf-8")
    ended = here("+sweep=mine", "mode=plan")
    assert (
        ended.err == f"error: {sweeps}/mine.yaml, line 4, column 11: could not find expected ':'; mend the YAML there\n"
    )
    assert ended.code == 2
    assert here("--help").code == 0


def test_a_sweep_file_that_is_a_list(sweeps: Path) -> None:
    (sweeps / "mine.yaml").write_text("- seed: 1\n", encoding="utf-8")
    ended = here("+sweep=mine", "mode=plan")
    assert (
        ended.err
        == f"error: {sweeps}/mine.yaml is no mapping of keys to values; see the shipped sweeps for the layout\n"
    )
    assert ended.code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "task: {optimizer: {learnin_rate: 1}}",
            "task.optimizer.learnin_rate is not a key of this experiment; did you mean task.optimizer.learning_rate?",
        ),
        ("task: {max_seq_length: abc}", "task.max_seq_length=abc is not a whole number; give one, e.g. 384"),
        (
            "mode: trian",
            "mode=trian is not one of train, evaluate, predict, plan, prepare, export, benchmark; did you mean train?",
        ),
    ],
    ids=["key", "value", "word"],
)
def test_a_mistake_in_a_sweep_file_names_the_file(content: str, message: str, sweeps: Path) -> None:
    (sweeps / "mine.yaml").write_text(f"{content}\n", encoding="utf-8")
    ended = here("+sweep=mine")
    assert ended.err == f"error: sweeps/mine.yaml: {message}\n"
    assert ended.code == 2


def test_a_sweep_that_is_not_there(sweeps: Path) -> None:
    (sweeps / "rates.yaml").write_text("seed: 1\n", encoding="utf-8")
    ended = here("+sweep=rate", "mode=plan")
    assert (
        ended.err == "error: +sweep=rate is not an option; did you mean rates? "
        "options: distillation, glue, learning_rate, rates, seeds\n"
    )
    assert ended.code == 2


def test_a_mistake_in_one_job_of_a_multirun_stops_no_other(tmp_path: Path) -> None:
    ended = here("-m", "mode=plan", "task.doc_stride=400,128", *SMALL, "+preset=starter",
                 "task.max_seq_length=384", "task.max_query_length=64", *_places(tmp_path))  # fmt: skip
    assert ended.err == (
        "error: job 0: task.doc_stride=400 is not within the window of 317 paragraph tokens "
        "(task.max_seq_length=384 less the question); lower it\n"
    )
    assert ended.code == 2
    assert ended.out.count("parameters  ") == 1, "the other job is planned"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("task.max_seq_length=abc,128", "task.max_seq_length=abc is not a whole number; give one, e.g. 384"),
        (
            "hardware=cpu,cpx",
            "hardware=cpx is not an option; did you mean cpu? options: cpu, gpu, tpu_v3_256, tpu_v3_8",
        ),
        ("lr=1,2", "lr is not a key of this experiment; did you mean task.optimizer.learning_rate?"),
    ],
    ids=["value", "option", "key"],
)
def test_a_multirun_that_cannot_be_composed_starts_no_job(typed: str, message: str, tmp_path: Path) -> None:
    ended = here("-m", typed, *_places(tmp_path))
    assert (ended.code, ended.err) == (2, f"error: {message}\n")
    assert not list(tmp_path.glob("**/state.json"))


def test_an_output_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    ended = here("+preset=starter", *_places(tmp_path), f"output_dir={tmp_path}/file/runs", *SMALL)
    before, after = "cannot write ", " (Not a directory); make room there, or set output_dir and cache_dir elsewhere"
    assert ended.err.startswith(f"error: {before}{tmp_path}/file/runs/squad_v1/")
    assert ended.err.endswith(f"{after}\n") and ended.err.count("\n") == 1
    assert ended.code == 2


def test_a_cache_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    ended = here("mode=plan", "+preset=starter", f"cache_dir={tmp_path}/file/cache", *SMALL)
    assert ended.err == (
        f"error: cache_dir {tmp_path}/file/cache/starter cannot be written (Not a directory); "
        "make room, or choose another\n"
    )
    assert ended.code == 2


def test_a_name_too_long_for_a_folder(tmp_path: Path) -> None:
    ended = here("+preset=starter", *_places(tmp_path), f"output_dir={tmp_path}/{'x' * 300}", *SMALL)
    assert "(File name too long); make room there, or set output_dir and cache_dir elsewhere\n" in ended.err
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_no_room_for_the_data(tmp_path: Path) -> None:
    """A limit on the size of files fails a write as a full disk does, for every user, without mounting one."""
    plan = ["mode=plan", "+preset=starter", "task.starter.train_articles=100", "task.starter.dev_articles=4"]
    ended = process(*plan, *_places(tmp_path), cwd=tmp_path, before=_files_of_at_most_32_kib)
    assert ended.err == (
        f"error: cache_dir {tmp_path}/cache/starter cannot be written (File too large); make room, or choose another\n"
    )
    assert ended.code == 2
    assert not list(tmp_path.glob("**/train.json")), "nothing half-written stays"


def _files_of_at_most_32_kib() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))


def test_no_room_for_the_run(tmp_path: Path) -> None:
    ended = process("+preset=starter", *_places(tmp_path), *SMALL, cwd=tmp_path, before=_files_of_nothing)
    assert ended.err.startswith("error: cannot write ")
    assert ended.err.endswith(" (File too large); make room there, or set output_dir and cache_dir elsewhere\n")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def _files_of_nothing() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.slow
def test_no_room_for_a_checkpoint(tmp_path: Path) -> None:
    """The data fit, a model with its optimizer does not: what was trained is lost, and the run says why and where."""
    short = ["trainer.max_steps=2", "task.eval_batch_size=8"]
    ended = process("+preset=starter", *_places(tmp_path), *SMALL, *short, cwd=tmp_path, before=_files_of_at_most_1_mib)
    (folder,) = tmp_path.glob("outputs/squad_v1/*/*")
    *_, last = ended.err.splitlines()
    assert last == f"error: cannot save a checkpoint in {folder}/checkpoints (File too large); free space there"
    assert "Traceback" not in ended.err
    assert ended.code == 2
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["state"] == "FAILED"


def _files_of_at_most_1_mib() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))


MACHINE = """
import json, sys
from command_line import here
for line in json.load(sys.stdin):
    ended = here(*line)
    print("ENDED " + json.dumps([ended.code, ended.err]), file=sys.__stdout__)
"""


@pytest.mark.slow
def test_hardware_and_checkpoints_that_are_not_there(tmp_path: Path) -> None:
    """In one process, because each of them loads TensorFlow, which is told that there is no GPU."""
    common = ["+preset=starter", *_places(tmp_path), *SMALL]
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/torn.index").write_bytes(b"no table")
    (tmp_path / "damaged/torn.data-00000-of-00001").write_bytes(b"no data")
    lines = [
        [*common, "hardware=gpu"],
        [*common, "hardware=tpu_v3_8"],
        [*common, "mode=evaluate", f"init.checkpoint={tmp_path}/nowhere"],
        [*common, "mode=predict", f"init.checkpoint={tmp_path}"],
        [*common, "mode=evaluate", f"init.checkpoint={tmp_path}/damaged/torn"],
    ]
    ended = subprocess.run(
        [sys.executable, "-c", MACHINE],
        input=json.dumps(lines),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    found = [json.loads(line.removeprefix("ENDED ")) for line in ended.stdout.splitlines() if line.startswith("ENDED ")]
    assert len(found) == len(lines), ended.stderr
    gpu, tpu, nowhere, no_run, torn = (message for _, message in found)
    assert gpu == (
        "error: hardware=gpu asks for 1 GPU(s) and TensorFlow sees 0; set hardware=cpu, "
        "or install the driver and tensorflow[and-cuda]\n"
    )
    assert tpu.startswith("error: hardware=tpu_v3_8: no TPU answers as 'local' (")
    assert tpu.endswith(
        "; set hardware.tpu_name, tpu_zone and gcp_project, or use hardware=cpu; "
        "mode=plan shows the experiment without the hardware\n"
    )
    assert nowhere == f"error: {location.missing(f'{tmp_path}/nowhere')}\n"
    assert no_run == f"error: {location.missing(str(tmp_path))}\n"
    assert torn.startswith(f"error: checkpoint {tmp_path}/damaged/torn cannot be read (")
    assert torn.endswith("); choose another\n")
    assert [(code, message.count("\n")) for code, message in found] == [(2, 1)] * len(lines)
