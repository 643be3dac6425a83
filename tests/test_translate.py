"""The verb `translate`: commands of the original scripts come out as commands of ours that mean the same."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import here, process

from mobilebert_exp import compose
from mobilebert_exp.config import leaves
from mobilebert_exp.groups import options
from mobilebert_exp.translate.flags import SCRIPTS

COMMAND = ["python", "-m", "mobilebert_exp"]
OPT, QAT = (f"config/uncased_L-24_H-128_B-512_A-4_F-4_{name}.json" for name in ("OPT", "OPT_QAT"))
FINE_TUNING = """--data_dir=${DATA_DIR} --do_lower_case --do_predict --do_train --doc_stride=128
--init_checkpoint=${INIT_CHECKPOINT}/mobilebert.ckpt --learning_rate=4e-05 --max_answer_length=30 --max_query_length=64
--max_seq_length=384 --n_best_size=20 --num_train_epochs=5 --output_dir=${OUTPUT_DIR}
--predict_file=/path/to/squad/dev-v1.1.json --train_batch_size=32 --train_file=/path/to/squad/train-v1.1.json --use_tpu
--tpu_name=${TPU_NAME} --vocab_file=${INIT_CHECKPOINT}/vocab.txt --warmup_proportion=0.1"""
VARIABLES = {"DATA_DIR": "/d ata/", "INIT_CHECKPOINT": "/in,it", "OUTPUT_DIR": "/o=ut/{x}", "TPU_NAME": "12", "S": "/s"}
BASE = ["run_squad.py", "--vocab_file=V", f"--bert_config_file={OPT}", "--output_dir=O", "--do_train", "--train_file=T"]
BASE += ["--predict_file=P"]
PREDICT = [word for word in BASE if "train" not in word]
CLASSIFIER = ["run_classifier.py", "--vocab_file=V", "--output_dir=O", "--task_name=MRPC", "--data_dir=D", BASE[2]]


def _lines(script: str, flags: str) -> str:
    """As READMEs print a command: one flag a line, each but the last with a backslash."""
    return f"python3 {script} \\\n  " + " \\\n  ".join(flags.split())


def _translated(*arguments: str, composes: bool = True) -> list[str]:
    """The settings printed, as words of a shell that fills in no variable, which compose unless it is said."""
    ended = here("translate", "--", *arguments)
    assert ended.code == 0, ended.err
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == ["note"] * ended.err.count("\n")
    (line,) = ended.out.splitlines()
    found = shlex.split(line)
    start = found.index(COMMAND[0])
    assert found[start : start + 3] == COMMAND
    if composes:
        compose(found[start + 3 :])
    return found[start + 3 :]


def _in_shell(command: str) -> list[str]:
    """The arguments that a real shell hands to the program."""
    script = "python() { printf '%s\\0' \"$@\"; }; " + command
    ran = subprocess.run(["bash", "-c", script], env=VARIABLES, check=True, capture_output=True, text=True)
    return ran.stdout.split("\0")[:-1]


def _set(*overrides: str) -> dict[str, Any]:
    return leaves(compose(overrides))


def test_the_readmes_fine_tuning_is_one_command() -> None:
    text = _lines("run_squad.py", f"--bert_config_file={OPT} {FINE_TUNING}")
    ended = here("translate", "--", text)
    assert ended.code == 0
    assert ended.err == (
        "note: model=opt is what was published as uncased_L-24_H-128_B-512_A-4_F-4_OPT; if yours differs, "
        "model.from_json=FILE\n"
        "note: the flags do not say how large the TPU is; hardware=tpu_v3_8 is one board of 8 cores\n"
    )
    expected = {
        **{
            "mode": "train",
            "cache_dir": "/d ata/",
            "output_dir": "/o=ut/{x}",
            "init.checkpoint": "/in,it/mobilebert.ckpt",
        },
        **{"task.train_file": "/path/to/squad/train-v1.1.json", "task.dev_file": "/path/to/squad/dev-v1.1.json"},
        **{"task.vocab_file": "/in,it/vocab.txt", "task.lower_case": True, "task.doc_stride": 128},
        **{
            "task.max_answer_length": 30,
            "task.max_query_length": 64,
            "task.max_seq_length": 384,
            "task.n_best_size": 20,
        },
        **{"task.num_train_epochs": 5.0, "task.global_batch_size": 32, "task.optimizer.learning_rate": 4e-5},
        **{"task.optimizer.warmup_proportion": 0.1, "hardware.dtype": "float32", "hardware.tpu_name": "12"},
    }
    found = _set(*_in_shell(ended.out)[2:])
    assert {key: found[key] for key in expected} == expected
    rest = _set("model=opt", "task=squad_v1", "hardware=tpu_v3_8")
    assert {key: value for key, value in found.items() if key not in expected} == {
        key: value for key, value in rest.items() if key not in expected
    }


def test_a_line_that_lost_its_backslash_goes_on() -> None:
    """So the quantised fine-tuning is printed upstream: `--warmup_proportion=0.1`, a bare line end, one more flag."""
    text = _lines("run_squad.py", f"--bert_config_file={QAT} {FINE_TUNING}") + "\n  --nouse_quantized_training\n"
    found = _translated(text, composes=False)  # its variables are open
    assert {"model=qat", "model.fake_quantization=none"} <= set(found)


def test_the_second_readmes_checkpoints_name_their_models() -> None:
    """It has no command; its downloads are folders with published names."""
    for folder, model in (("uncased_L-24_H-128_B-512_A-4_F-4_OPT", "opt"),
                          ("multi_cased_L-24_H-128_B-512_A-4_F-4_OPT", "multilingual")):  # fmt: skip
        named = [word for word in BASE if "bert_config_file" not in word]
        assert f"model={model}" in _translated(*named, f"--bert_config_file=/models/{folder}/bert_config.json")


def test_every_flag_with_a_value_sets_it() -> None:
    flags = """--data_dir=C --init_checkpoint=I --nodo_lower_case --max_seq_length=200 --doc_stride=50
    --max_query_length 32 --train_batch_size=0x40 --predict_batch_size=16 --learning_rate=3E-5 --num_train_epochs=2.5
    --warmup_proportion=.25 --save_checkpoints_steps=77 --iterations_per_loop=9 --n_best_size=7 --max_answer_length=11
    --verbose_logging --version_2_with_negative=1 --null_score_diff_threshold=-1.5 --use_tpu=T --tpu_name=N --tpu_zone=Z
    --gcp_project=G"""
    settings = _translated(*BASE, *flags.split())
    expected = {
        **{"cache_dir": "C", "init.checkpoint": "I", "task.lower_case": False, "task.max_seq_length": 200},
        **{
            "task.doc_stride": 50,
            "task.max_query_length": 32,
            "task.global_batch_size": 64,
            "task.eval_batch_size": 16,
        },
        **{
            "task.optimizer.learning_rate": 3e-5,
            "task.num_train_epochs": 2.5,
            "task.optimizer.warmup_proportion": 0.25,
        },
        **{"trainer.checkpoint_every_steps": 77, "hardware.steps_per_loop": 9, "task.n_best_size": 7},
        **{"task.max_answer_length": 11, "task.verbose_logging": True, "task.null_score_diff_threshold": -1.5},
        **{"hardware.tpu_name": "N", "hardware.tpu_zone": "Z", "hardware.gcp_project": "G", "output_dir": "O"},
        **{"task.vocab_file": "V", "task.train_file": "T", "task.dev_file": "P", "hardware.dtype": "float32"},
        **{"task.version_2_with_negative": True, "task.name": "squad_v2", "hardware.name": "tpu_v3_8", "mode": "train"},
    }
    found = _set(*settings)
    assert {key: found[key] for key in expected} == expected
    keys = {flag.key for flag in SCRIPTS["run_squad.py"].flags.values() if flag.key}
    assert keys <= set(expected), "a flag that no line here tries"


def test_what_is_not_given_is_as_it_was() -> None:
    """But for batches of predictions and steps between two looks, which change no result."""
    found, no_result = _set(*_translated(*BASE)), {"predict_batch_size", "iterations_per_loop"}
    flags = [flag for flag in SCRIPTS["run_squad.py"].flags.values() if flag.key and flag.default]
    assert len(flags) > 10
    for flag in flags:
        if flag.name not in no_result:
            default: Any = {"true": True, "false": False}.get(flag.default) if flag.kind.name == "switch" else None
            assert found[flag.key] == (float(flag.default) if default is None else default), flag.name


def test_every_key_of_the_flags_is_one() -> None:
    known = {key for task in ("squad_v1", "glue", "pretrain", "distill") for key in leaves(compose([f"task={task}"]))}
    experiments = (script for script in SCRIPTS.values() if not script.verb)
    assert {flag.key for script in experiments for flag in script.flags.values()} - known == {""}


def test_a_flag_that_is_refused_says_why() -> None:
    refused = [flag for flag in SCRIPTS["run_squad.py"].flags.values() if flag.refused]
    assert refused
    for flag in refused:
        ended = here("translate", *BASE, f"--{flag.name}=x")
        assert ended.err == f"error: --{flag.name}: {flag.refused}; without it the rest translates\n"
        assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize(
    ("flags", "hardware"),
    [
        ([], {"name": "cpu"}),
        (["--use_tpu", "--tpu_name=a"], {"name": "tpu_v3_8", "num_replicas": 8, "tpu_name": "a", "dtype": "float32"}),
        (["--use_tpu", "--master=grpc://1.2.3.4:8470"], {"name": "tpu_v3_8", "tpu_name": "grpc://1.2.3.4:8470"}),
        (["--use_tpu", "--master=m", "--tpu_name=a"], {"tpu_name": "a"}),
        (["--nouse_tpu", "--tpu_name=a", "--tpu_zone=z"], {"name": "cpu", "tpu_name": None, "tpu_zone": None}),
    ],
)
def test_hardware(flags: list[str], hardware: dict[str, Any]) -> None:
    found = _set(*_translated(*BASE, *flags))
    assert {key: found[f"hardware.{key}"] for key in hardware} == hardware


@pytest.mark.parametrize(("cores", "name"), [("8", "tpu_v3_8"), ("256", "tpu_v3_256"), ("32", "tpu_v3_8")])
def test_the_cores_of_a_tpu(cores: str, name: str) -> None:
    batch = [] if cores != "256" else ["--train_batch_size=256", "--eval_batch_size=256"]  # as the original wants it
    settings = _translated(*CLASSIFIER, "--do_train", "--use_tpu", f"--num_tpu_cores={cores}", *batch)
    found = _set(*(word for word in settings if word.startswith("hardware")), "task.global_batch_size=256",
                 "task.eval_batch_size=256")  # fmt: skip
    assert (found["hardware.name"], found["hardware.num_replicas"]) == (name, int(cores))


def test_only_predicting_wants_a_run() -> None:
    ended = here("translate", *PREDICT, "--do_predict", "--predict_batch_size=16")
    assert "mode=predict" in ended.out and "init.checkpoint=RUN" in ended.out
    assert "put the folder of the training run in place of RUN" in ended.err
    named = _set(*_translated(*PREDICT, "--do_predict", "--init_checkpoint=runs/x"))
    assert (named["mode"], named["init.checkpoint"], named["task.eval_batch_size"]) == ("predict", "runs/x", 32)


def test_a_file_of_ones_own_is_read() -> None:
    own = [word for word in BASE if "bert_config_file" not in word]
    assert "model.from_json=b/c.json" in _translated(
        *own, "--bert_config_file=b/c.json", composes=False
    )  # no such file


@pytest.mark.parametrize(
    ("flags", "expected", "notes"),
    [
        ("--do_train --do_eval", {"mode": "train"}, 0),
        ("--do_eval=true --init_checkpoint=I", {"mode": "evaluate", "init.checkpoint": "I"}, 0),
        ("--do_predict --predict_batch_size=4", {"mode": "predict", "task.eval_batch_size": "4"}, 0),
        ("--do_train --do_predict --predict_batch_size=4 --eval_batch_size=2", {"task.eval_batch_size": "2"}, 1),
        ("--do_train --tfrecord_dir=R", {"cache_dir": "R", "task.train_file": "D/train.tsv"}, 0),
        ("--do_train --data_dir=/d/glue/MRPC/", {"data_root": "/d"}, 0),
        ("--do_train --data_dir=./glue/MRPC", {"data_root": "'.'"}, 0),
        ("--do_train --data_dir=glue/MRPC", {"data_root": "'.'"}, 0),
        ("--do_train --data_dir=/glue/MRPC", {"data_root": "/"}, 0),
        ("--do_train --task_name=sst-2", {"task": "glue", "task.dataset": "sst2"}, 0),
        ("--do_train --task_name=MNLI", {"task.dataset": "mnli", "task.dev_file": "D/dev_matched.tsv"}, 0),
        ("--do_train", {"task.optimizer.learning_rate": "5e-5", "task.num_train_epochs": "3"}, 0),
        ("--do_train", {"task.max_seq_length": "128", "task.global_batch_size": "32", "task.lower_case": "true"}, 0),
        ("--do_train --learning_rate=1e-5 --nodo_lower_case", {"task.optimizer.learning_rate": "1e-05"}, 0),
        ("--do_eval --task_name=xnli --data_dir=/d/xnli", {"data_root": "/d", "task.train_languages": "[zh]"}, 0),
    ],
)
def test_classification(flags: str, expected: dict[str, str], notes: int) -> None:
    words = [*CLASSIFIER, *flags.split()]
    found = dict(word.split("=", 1) for word in _translated(*words))
    assert {key: found[key] for key in expected} == expected
    assert here("translate", *words).err.count("a second command") == notes
    if found["task"] in options("task"):
        compose([f"{key}={value}" for key, value in found.items()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--experiment=x"], "train.py is configured by YAML files, which are not translated; docs/"),
        (["python", "run_squat.py"], "run_squat.py is not a script that can be translated; did you mean run_squad.py?"),
        (["ls"], "the command is not a script that can be translated; it may be run_squad.py, run_classifier.py, "),
        ([*BASE, "--learnin_rate=1"], "--learnin_rate is not a flag of run_squad.py; did you mean --learning_rate?"),
        ([*BASE, "--train-file=T"], "--train-file is not a flag of run_squad.py; did you mean --train_file?"),
        ([*BASE, "--qqqq"], "--qqqq is not a flag of run_squad.py; leave it out"),
        ([*BASE, "--nodoc_stride"], "--nodoc_stride is not a flag of run_squad.py; did you mean --doc_stride?"),
        ([*BASE, "--use_tpu", "true"], "true stands apart from --use_tpu; write --use_tpu=true"),
        ([*BASE, "more"], "more is no flag, and run_squad.py reads none after it; leave it out"),
        ([*BASE, "--", "--use_tpu"], "--use_tpu is no flag, and run_squad.py reads none after it; leave it out"),
        ([*BASE, "--doc_stride"], "--doc_stride has no value; write --doc_stride=…"),
        ([*BASE, "--doc_stride=1.5"], "--doc_stride=1.5 is not a whole number; give one"),
        ([*BASE, "--learning_rate=fast"], "--learning_rate=fast is not a number; give one"),
        ([*BASE, "--use_tpu=maybe"], "--use_tpu=maybe is neither true nor false; write one"),
        ([*BASE, "--data_dir="], "--data_dir is empty; give it a value (is a shell variable not set?)"),
        (BASE[:2], "--bert_config_file is missing, without which run_squad.py does not start; add it"),
        (PREDICT, "none of --do_train, --do_predict and --export_dir is given, so that the original does nothing"),
        ([*PREDICT, "--do_train"], "--train_file is missing, which --do_train needs; add it"),
        (BASE[:-1], "--predict_file is missing, which training needs here, because it ends with an evaluation; add it"),
        (CLASSIFIER, "none of --do_train, --do_eval, --do_predict and --export_dir is given; add one"),
        ([*CLASSIFIER, "--do_eval", "--task_name=MRCP"], "--task_name=mrcp is not a task of run_classifier.py; did "),
        ([*CLASSIFIER, "--do_eval", "--task_name=xnli"], "--data_dir=D: call the folder xnli, as data_root has it"),
        ([*CLASSIFIER, "--do_predict", "--task_name=xnli"], "--do_predict: the original has no test part of XNLI"),
        ([*BASE, "--master=m"], "--master: there is no session to connect to; hardware.distribution=multi_worker"),
        (["python3 run_squad.py --a=1 && echo"], "the command ends before '&& echo'; give one command, without what "),
        (["export A=b\npython3 run_squad.py"], "the command ends before 'python3 run_squad.py'; give one command"),
        (["python3 run_squad.py --a='b c"], "the quote before 'b c' is never closed; close it"),
        (["python3 run_squad.py --a=$(pwd)/x"], "'$(pwd)/x' is something only a shell can work out; put its result "),
        (['python3 run_squad.py --a="${B:-c}"'], "'${B:-c}\"' is something only a shell can work out; put its result "),
    ],
)  # fmt: skip
def test_what_cannot_be_translated_is_one_line(arguments: list[str], message: str) -> None:
    ended = here("translate", "--", *arguments)
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ("python3", ""),
        ("CUDA_VISIBLE_DEVICES='0 1' nohup /usr/bin/python3.7 -u", "CUDA_VISIBLE_DEVICES='0 1' "),
        ("A=$S python -m mobilebert.", 'A="${S}" '),
    ],
)
def test_what_stands_before_the_script(before: str, kept: str) -> None:
    joint = "" if before.endswith(".") else " ./"
    name = "run_squad" if before.endswith(".") else "run_squad.py"
    ended = here("translate", f"{before}{joint}{name} {' '.join(BASE[1:])}")
    assert ended.out.startswith(f"{kept}python -m mobilebert_exp mode=train ")


@pytest.mark.parametrize("value", ["a b", "x=1,y", "it's", "${HOME}/x", "\\${a}", "null", "1e5", "{a}", "x~", "!x'y"])
def test_an_awkward_place_composes_as_it_was(value: str) -> None:
    for found in (
        _translated(*BASE, "--data_dir", value),
        _in_shell(here("translate", *BASE, "--data_dir", value).out)[2:],
    ):
        assert _set(*found)["cache_dir"] == value


def test_variables_stay_open() -> None:
    found = _in_shell(here("translate", " ".join([*BASE, "--data_dir=$S/a", "--doc_stride=${TPU_NAME}"])).out)
    assert {"cache_dir='/s/a'", "task.doc_stride=12"} <= set(found)


def test_help_and_nothing() -> None:
    asked, nothing = here("translate", "--help"), here("translate")
    assert (asked.code, asked.err) == (0, "")
    assert (nothing.code, nothing.out) == (2, "")
    assert asked.out == nothing.err
    assert all(script in asked.out for script in SCRIPTS)
    assert "  translate -- python3 run_squad.py ..." in here("--help").out


def test_it_is_a_command_of_the_program(tmp_path: Path) -> None:
    ended = process("translate", "--", *BASE, cwd=tmp_path)
    assert (ended.code, shlex.split(ended.out)[:3]) == (0, COMMAND)
    assert not list(tmp_path.iterdir())
