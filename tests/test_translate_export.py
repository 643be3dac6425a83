"""The verb `translate` on what leads to a device: quantised training, export, prediction through an exported file."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from command_line import here
from test_translate import BASE, CLASSIFIER, FINE_TUNING, OPT, PREDICT, QAT, _in_shell, _lines, _set, _translated

EXPORT = """--data_dir=${DATA_DIR} --output_dir=${OUTPUT_DIR} --vocab_file=${INIT_CHECKPOINT}/vocab.txt
--train_file=/path/to/squad/train-v1.1.json --export_dir=${EXPORT_DIR}"""
ONLY = [word for word in PREDICT if "predict_file" not in word] + ["--export_dir=E"]
RUN = "RUN being the folder of the first one's run"


def _composed(*arguments: str) -> dict[str, Any]:
    return _set(*_translated(*arguments, composes=False))  # once is enough


def _notes(*arguments: str) -> list[str]:
    ended = here("translate", "--", *arguments)
    assert ended.code == 0, ended.err
    return [line.removeprefix("note: ") for line in ended.err.splitlines()]


def _seconds(*arguments: str) -> dict[str, str]:
    """Settings of the commands that follow the first one, by flag."""
    found = (note.partition(": a ") for note in _notes(*arguments) if " command, the same with " in note)
    return {flag: rest.partition("the same with ")[2] for flag, _, rest in found}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(
            f"--use_post_quantization=true --activation_quantization=false --bert_config_file={OPT} {EXPORT}",
            {"model.name": "opt", "model.fake_quantization": "none", "export.format": "tflite_dynamic"},
            id="export",
        ),
        pytest.param(
            "--use_quantized_training=true --use_post_quantization=true --activation_quantization=true "
            f"--bert_config_file={QAT} {EXPORT}",
            {"model.name": "qat", "model.fake_quantization": "per_tensor", "export.format": "tflite_int8"},
            id="integer export",
        ),
    ],
)
def test_the_readmes_exports(flags: str, expected: dict[str, Any]) -> None:
    """Calibrated by the train file, of a run that only the person can name; and nothing else differs."""
    ended = here("translate", "--", _lines("run_squad.py", flags))
    assert ended.code == 0, ended.err
    assert "note: --export_dir=${EXPORT_DIR}: the file goes to exports/ of the run's folder" in ended.err
    assert "put the folder of the training run in place of RUN" in ended.err
    assert "hardware=gpu" not in ended.err
    found = _set(*_in_shell(ended.out)[2:])
    expected |= {"mode": "export", "cache_dir": "/d ata/", "output_dir": "/o=ut/{x}", "init.checkpoint": "RUN"}
    expected |= {"task.vocab_file": "/in,it/vocab.txt", "task.train_file": "/path/to/squad/train-v1.1.json"}
    assert {key: found[key] for key in expected} == expected
    rest = _set(f"model={expected['model.name']}", "task=squad_v1")
    assert {key: value for key, value in found.items() if key not in expected} == {
        key: value for key, value in rest.items() if key not in expected
    }


def test_the_readmes_quantised_fine_tuning() -> None:
    text = _lines("run_squad.py", f"--bert_config_file={QAT} {FINE_TUNING} --use_quantized_training=true")
    found = _set(*_in_shell(here("translate", "--", text).out)[2:])
    expected = {"mode": "train", "model.name": "qat", "model.hidden_act": "relu6", "hardware.dtype": "float32"}
    expected |= {"model.fake_quantization": "per_tensor"}
    assert {key: found[key] for key in expected} == expected
    assert [note for note in _notes(text) if "per_channel, model=qat's own" in note]


def test_quantised_training_is_what_the_flag_says() -> None:
    """Of any model file; that of quantisation does not quantise by itself."""
    own = _translated(*BASE, "--use_quantized_training", "--bert_config_file=mine.json", composes=False)
    assert {"model.from_json=mine.json", "model.fake_quantization=per_tensor"} <= set(own)
    assert _composed(*BASE, "--use_quantized_training")["model.fake_quantization"] == "per_tensor"
    for words in (BASE, [*BASE, f"--bert_config_file={QAT}"], [*PREDICT, "--do_predict", f"--bert_config_file={QAT}"]):
        assert _composed(*words, "--nouse_quantized_training")["model.fake_quantization"] == "none"
        assert not [note for note in _notes(*words) if "per_channel" in note]
    assert not [word for word in _translated(*BASE, composes=False) if "fake" in word]


def test_the_teacher_cannot_be_quantised() -> None:
    ended = here("translate", *BASE, "--use_quantized_training", "--bert_config_file=uncased_L-24_H-1024_B-512_A-4")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: --use_quantized_training: LayerNorm, which model=teacher has")


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (ONLY, "tflite_float"),
        ([*ONLY, "--use_post_quantization"], "tflite_dynamic"),
        ([*ONLY, "--use_post_quantization", "--activation_quantization", "--train_file=T"], "tflite_int8"),
        ([*ONLY, "--nouse_post_quantization", "--activation_quantization"], "tflite_float"),
        ([*CLASSIFIER, "--export_dir=E"], "tflite_float"),
        ([*CLASSIFIER, "--export_dir=E", "--use_post_quantization"], "tflite_dynamic"),
        ([*CLASSIFIER, "--export_dir=E", "--task_name=xnli", "--data_dir=/d/xnli"], "tflite_float"),
    ],
)
def test_what_is_written(words: list[str], written: str) -> None:
    found = _composed(*words)
    assert (found["mode"], found["export.format"], found["init.checkpoint"]) == ("export", written, "RUN")
    assert _composed(*words, "--init_checkpoint=runs/x")["init.checkpoint"] == "runs/x"
    in_float = "" if written == "tflite_float" else " and a TFLite file in float"
    assert f"the original writes a SavedModel{in_float} too; export.format=all writes every format" in _notes(*words)


def test_calibration_needs_examples() -> None:
    """The original has none either, and ends after it has written the file in float."""
    ended = here("translate", "--", *ONLY, "--use_post_quantization", "--activation_quantization")
    assert ended.err == "error: --train_file is missing, by which --activation_quantization calibrates; add it\n"
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize(
    ("words", "mode", "others"),
    [
        (
            [*BASE, "--do_predict", "--export_dir=E", "--use_post_quantization"],
            "train",
            {"--export_dir": f"mode=export export.format=tflite_dynamic init.checkpoint=RUN, {RUN}"},
        ),
        (
            [*PREDICT, "--do_predict", "--export_dir=E"],
            "predict",
            {"--export_dir": "mode=export export.format=tflite_float"},
        ),
        (
            [*BASE, "--do_predict", "--lite_model_path=f.tflite"],
            "train",
            {"--do_predict": "mode=evaluate export.path=f.tflite init.checkpoint=null"},
        ),
        ([*CLASSIFIER, "--do_eval", "--do_predict"], "evaluate", {"--do_predict": "mode=predict"}),
        (
            [*CLASSIFIER, "--do_eval", "--do_predict", "--export_dir=E", "--do_train"],
            "train",
            {
                "--do_predict": f"mode=predict init.checkpoint=RUN, {RUN}",
                "--export_dir": f"mode=export export.format=tflite_float init.checkpoint=RUN, {RUN}",
            },
        ),
        (
            [*CLASSIFIER, "--do_eval", "--do_predict", "--lite_model_path=f.tflite"],
            "evaluate",
            {
                "--do_predict": "mode=predict init.checkpoint=RUN export.path=null, "
                "RUN being the folder of the training run"
            },
        ),
    ],
)
def test_what_else_is_asked_is_another_command(words: list[str], mode: str, others: dict[str, str]) -> None:
    """The first is printed, each other one noted, and composes."""
    first = _translated(*words, composes=False)
    assert _set(*first)["mode"] == mode
    assert _seconds(*words) == others
    for settings in others.values():
        changes = shlex.split(settings.partition(", ")[0])
        _set(*first, *changes)


@pytest.mark.parametrize("words", [[*PREDICT, "--do_predict"], [*CLASSIFIER, "--do_eval"]])
def test_a_file_is_judged_without_a_model(words: list[str]) -> None:
    """`--init_checkpoint` says nothing then; the original does not open it."""
    words = [*words, "--lite_model_path=${S}/a b.tflite", "--init_checkpoint=I"]
    found = _composed(*words)
    expected = {"mode": "evaluate", "export.path": "${S}/a b.tflite", "init.checkpoint": None}
    assert {key: found[key] for key in expected} == expected
    (told,) = (note for note in _notes(*words) if "--lite_model_path" in note)
    assert "the model itself is not needed, metrics are printed too" in told
    assert not [note for note in _notes(*words) if "RUN" in note or "mode=predict" in note]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*BASE, "--use_post_quantization"], "--use_post_quantization: without --export_dir"),
        (
            [*BASE, "--activation_quantization"],
            "--activation_quantization: without --export_dir and --use_post_quantization",
        ),
        ([*ONLY, "--activation_quantization"], "--activation_quantization: without --use_post_quantization"),
        ([*BASE, "--lite_model_path=L"], "--lite_model_path: without --do_predict"),
        ([*ONLY, "--lite_model_path=L"], "--lite_model_path: without --do_predict"),
        ([*CLASSIFIER, "--do_predict", "--lite_model_path=L"], "--lite_model_path: without --do_eval"),
        ([*CLASSIFIER, "--do_train", "--use_post_quantization"], "--use_post_quantization: without --export_dir"),
    ],
)
def test_what_the_original_does_not_look_at_is_left_out(words: list[str], told: str) -> None:
    flag = told.partition(":")[0]
    without = [word for word in words if not word.startswith(flag)]
    assert _translated(*words) == _translated(*without, composes=False)
    left = [note for note in _notes(*words) if note not in _notes(*without)]
    assert left == [f"{told} the original does not look at it; left out"]


@pytest.mark.parametrize("flag", ["use_post_quantization", "activation_quantization", "use_quantized_training"])
def test_a_switch_that_is_off_says_nothing(flag: str) -> None:
    for words in (BASE, ONLY):
        assert here("translate", *words, f"--no{flag}") == here("translate", *words)
