"""A user's mistake: one line on stderr that says what, where and the remedy, exit code 2, and never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, here

from mobilebert_exp import experiment

SQUAD: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Lamps",
            "paragraphs": [
                {
                    "context": "Vera keeps seven lamps.",
                    "qas": [
                        {
                            "id": "q-lamps",
                            "question": "How many lamps has Vera?",
                            "answers": [{"text": "seven", "answer_start": 11}],
                        }
                    ],
                }
            ],
        }
    ],
}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "vera", "keeps", "seven", "lamps", ".", "?"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A SQuAD of one question, its vocabulary, and places of the test's own, as overrides of a plan."""
    (tmp_path / "squad.json").write_text(json.dumps(SQUAD), encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    named = [f"task.{part}_file={tmp_path}/squad.json" for part in ("train", "dev")]
    places = [f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"]
    return ["mode=plan", *named, f"task.vocab_file={tmp_path}/vocab.txt", "task.global_batch_size=1", *places]


def _is_refused(ended: Ended, message: str) -> None:
    assert ended.err == f"error: {message}\n"
    assert ended.code == 2


TASKS = "distill, glue, pretrain, squad_v1, squad_v2, xnli"
MODELS = "base, micro, micro_teacher, multilingual, opt, qat, teacher, tiny"
DATA_SETS = "cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, ax"
COMPOSITION = {
    # keys
    "lr=1": "lr is not a key of this experiment; did you mean task.optimizer.learning_rate?",
    "learning_rate=1": "learning_rate is not a key of this experiment; did you mean task.optimizer.learning_rate?",
    "task.optimizer.learnin_rate=1": (
        "task.optimizer.learnin_rate is not a key of this experiment; did you mean task.optimizer.learning_rate?"
    ),
    "optimizer.learning_rate=1": (
        "optimizer.learning_rate is not a key of this experiment; did you mean task.optimizer.learning_rate?"
    ),
    "train_batch_size=8": "train_batch_size is not a key of this experiment; did you mean task.global_batch_size?",
    "max_seq_len=8": "max_seq_len is not a key of this experiment; did you mean task.max_seq_length?",
    "tracking_uri=x": "tracking_uri is not a key of this experiment; did you mean tracking.uri?",
    "task.colour=red": "task.colour is not a key of this experiment; --cfg job lists the keys",
    "+task.optimizer.learnin_rate=1": (
        "task.optimizer.learnin_rate is not a key of this experiment; did you mean task.optimizer.learning_rate?"
    ),
    "+colour=red": "colour is not a key of this experiment; --cfg job lists the keys",
    "tracking.tags.why=x": "tracking.tags.why is not there yet; add it with a plus: +tracking.tags.why=x",
    "hydra.colour=red": "hydra.colour is not a key of Hydra's; --cfg hydra lists them",
    "+seed=3": "seed is there already; write seed=3 without the plus",
    "~model.num_heads": "~model.num_heads: a setting cannot be removed; give it another value",
    "~colour": "~colour removes nothing; leave it out",
    # groups and their options
    "model=opx": f"model=opx is not an option; did you mean opt? options: {MODELS}",
    "model=bert-large": f"model=bert-large is not an option; options: {MODELS}",
    "model=null": "model=null: a group takes the name of one of its options; see --help",
    "modl=opt": "modl is not a key of this experiment; did you mean model?",
    "+modl=opt": "modl is not a key of this experiment; did you mean model?",
    "task=squad": f"task=squad is not an option; did you mean squad_v1? options: {TASKS}",
    "task=squad_v2.0": f"task=squad_v2.0 is not an option; did you mean squad_v2? options: {TASKS}",
    "task=rte": f"task=rte is not an option; did you mean task=glue task.dataset=rte? options: {TASKS}",
    "task=SST-2": f"task=SST-2 is not an option; did you mean task=glue task.dataset=sst2? options: {TASKS}",
    "task=GLUE": f"task=GLUE is not an option; did you mean glue? options: {TASKS}",
    "model=mobilebert": f"model=mobilebert is not an option; did you mean opt? options: {MODELS}",
    "model=MobileBERT-tiny": f"model=MobileBERT-tiny is not an option; did you mean tiny? options: {MODELS}",
    "hardware=tpu": "hardware=tpu is not an option; did you mean tpu_v3_8? options: cpu, gpu, tpu_v3_256, tpu_v3_8",
    "hardware=GPU": "hardware=GPU is not an option; did you mean gpu? options: cpu, gpu, tpu_v3_256, tpu_v3_8",
    "preset=starter": "preset is a group that must be added with a plus: +preset=starter",
    "+model=opt": "model is chosen already; write model=opt without a plus",
    "~model": f"model has no value; choose one with model=…: {MODELS}",
    "~task": f"task has no value; choose one with task=…: {TASKS}",
    "hydra/launcher=many": "hydra/launcher=many is not an option; options: basic",
    # values
    "task.max_seq_length=abc": "task.max_seq_length=abc is not a whole number; give one, e.g. 384",
    "task.max_seq_length=384.5": "task.max_seq_length=384.5 is not a whole number; give one, e.g. 384",
    "task.max_seq_length=": "task.max_seq_length= is not a whole number; give one, e.g. 384",
    "model.num_layers=null": "model.num_layers=null is not a whole number; give one",
    "task.optimizer.learning_rate=fast": "task.optimizer.learning_rate=fast is not a number; give one, e.g. 5e-05",
    "task.lower_case=maybe": "task.lower_case=maybe is not true or false; give one, e.g. true",
    "mode=trian": (
        "mode=trian is not one of train, evaluate, predict, plan, prepare, export, benchmark; did you mean train?"
    ),
    "task=glue task.dataset=RTE": f"task.dataset=RTE is not one of {DATA_SETS}; did you mean rte?",
    "task=glue task.dataset=STS-B": f"task.dataset=STS-B is not one of {DATA_SETS}; did you mean stsb?",
    "model.hidden_act=swish": "model.hidden_act=swish is not one of relu, relu6, gelu, gelu_exact; choose one",
    "hardware.dtype=fp16": "hardware.dtype=fp16 is not one of float32, bfloat16, float16; choose one",
    "trainer=x": "trainer=x gives one value to a section; set its keys, e.g. trainer.max_steps=…",
    "tracking.tags=x": "tracking.tags=x gives one value to a mapping; add entries: +tracking.tags.NAME=…",
    "model.num_layers=???": "model.num_layers has no value; set it on the command line or in its YAML file",
    "task.main_metric=${nothing}": (
        "task.main_metric: Interpolation key 'nothing' not found; correct what stands between ${ and }"
    ),
    # the writing
    "task.x=[1": "task.x=[1 cannot be read: a bracket or a special character; quote the value: 'task.x=\"[1\"'",
    "output_dir=~/x": (
        "output_dir=~/x cannot be read: a bracket or a special character; quote the value: 'output_dir=\"~/x\"'"
    ),
    "task.max_seq_length": "task.max_seq_length has no value; write task.max_seq_length=VALUE",
    "=3": "=3: a group takes the name of one of its options; see --help",
    "seed=1,2": "seed=1,2 has several values; add -m to run a job for each",
    "--model=opt": "--model=opt is not a flag; settings have no dashes: model=opt",
    "--preset=starter": "--preset=starter is not a flag; settings have no dashes: +preset=starter",
    "--learning-rate=1": "--learning-rate=1 is not a flag; settings have no dashes: task.optimizer.learning_rate=1",
    "--verbose": "--verbose is not a flag; settings have no dashes: task.verbose_logging=…",
    "--colour": "--colour is not a flag; see --help",
    "seed=1 -m model=opt": "model=opt stands apart from the settings before it; put flags such as -m first",
    "--cfg=jobs": (
        "argument --cfg/-c: invalid choice: 'jobs' (choose from 'job', 'hydra', 'all'); see --hydra-help for the flags"
    ),
    # combinations
    "task.max_seq_length=1024": (
        "task.max_seq_length=1024 exceeds the model's 512 positions (model.max_positions); lower it"
    ),
    "task.doc_stride=320": (
        "task.doc_stride=320 is not within the window of 317 paragraph tokens "
        "(task.max_seq_length=384 less the question); lower it"
    ),
    "task.max_query_length=381": (
        "task.max_query_length=381 leaves no room for the paragraph in task.max_seq_length=384; lower it"
    ),
    "task.optimizer.warmup_steps=20 trainer.max_steps=10": (
        "task.optimizer.warmup_steps=20 exceeds trainer.max_steps=10; lower it"
    ),
    "task.global_batch_size=36 hardware=tpu_v3_8": (
        "task.global_batch_size=36 is not divisible by 8 (replicas); set it to 40"
    ),
    "task.eval_batch_size=36 hardware=tpu_v3_8": (
        "task.eval_batch_size=36 is not divisible by 8 (replicas); set it to 40"
    ),
    "hardware=tpu_v3_8 trainer.gradient_accumulation_steps=3": (
        "task.global_batch_size=32 is not divisible by 24 (replicas x trainer.gradient_accumulation_steps); "
        "set it to 48"
    ),
    "hardware.dtype=float16": (
        "hardware.dtype=float16 is refused: NoNorm activations exceed its range and become NaN; use float32 or bfloat16"
    ),
    "task.main_metric=accuracy": "task.main_metric=accuracy is not one of f1, exact_match; choose one",
    "mode=evaluate": (
        "mode=evaluate needs init.checkpoint=RUN_DIR, the folder of a finished training run, "
        "or export.path=FILE, an exported file"
    ),
    "mode=benchmark": (
        "mode=benchmark needs init.checkpoint=RUN_DIR, the folder of a finished training run, "
        "or export.path=FILE, an exported file"
    ),
    "mode=export": "mode=export needs init.checkpoint=RUN_DIR, the folder of a finished training run",
    "mode=export init.checkpoint=x export.length=600": (
        "export.length=600 exceeds the model's 512 positions (model.max_positions); lower it"
    ),
    "mode=export init.checkpoint=x export.length=80": (
        "task.doc_stride=128 is not within the window of 13 paragraph tokens (task.max_seq_length=80 less the "
        "question); lower it"
    ),
    "mode=predict init.checkpoint=x export.path=y": (
        "export.path is for mode=evaluate and mode=benchmark; mode=predict takes init.checkpoint"
    ),
    "export.path=y": "export.path is for mode=evaluate and mode=benchmark; mode=train takes init.checkpoint",
    "mode=export init.checkpoint=x export.path=y": (
        "export.path is for mode=evaluate and mode=benchmark; mode=export takes init.checkpoint"
    ),
    "mode=prepare export.path=y": "export.path is for mode=evaluate and mode=benchmark; leave it out",
    "export.format=onnx": (
        "export.format=onnx is not one of savedmodel, tflite_float, tflite_float16, tflite_dynamic, tflite_int8, "
        "tflite_int8_strict, all; choose one"
    ),
    "mode=predict": "mode=predict needs init.checkpoint=RUN_DIR, the folder of a finished training run",
    "output_dir=": "output_dir is empty; name a place, or leave the setting out",
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    {
        "docter": "doctor",
        "convrt SRC DST --to tf1": "convert",
        "translat -- python3 run_squad.py --do_train": "translate",
        "create-pretraining-data --input_file=x": "create_pretraining_data",
        "evalute init.checkpoint=x": "mode=evaluate",
        "train": "mode=train",
        "export": "mode=export",  # a section of settings, too
    }.items(),
)
def test_a_word_that_is_almost_a_verb(typed: str, meant: str) -> None:
    first, _, _ = typed.partition(" ")
    _is_refused(here(*typed.split(" ")), f"{first} is neither a verb nor a setting; did you mean {meant}?")


@pytest.mark.parametrize("typed", ["preset", "sweep", "task", "trainer", "resume", "colour"])
def test_a_word_that_is_a_setting_or_like_no_verb(typed: str) -> None:
    _is_refused(here(typed), f"{typed} has no value; write {typed}=VALUE")


@pytest.mark.parametrize("typed", COMPOSITION)
def test_what_cannot_be_composed(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(experiment, "run")  # nothing of this may get so far
    places = [] if "output_dir" in typed else [f"output_dir={tmp_path}"]
    _is_refused(here(*places, *typed.split(" ")), COMPOSITION[typed])


def test_warm_up_above_the_steps_that_follow_from_the_epochs(files: list[str]) -> None:
    _is_refused(
        here(*files, "task.optimizer.warmup_steps=4"),
        "task.optimizer.warmup_steps=4 exceeds the 3 steps of the run; lower it",
    )


def test_a_batch_larger_than_the_data(files: list[str]) -> None:
    _is_refused(
        here(*files, "task.global_batch_size=64"),
        "task.global_batch_size=64 with 1 examples and task.num_train_epochs=3.0 gives no whole step; "
        "lower the batch or raise the epochs",
    )


def _write(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A copy of the SQuAD with something done to its one question, its paragraph or the whole."""
    data = copy.deepcopy(SQUAD)
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _question(data: dict[str, Any]) -> Any:
    return data["data"][0]["paragraphs"][0]["qas"][0]


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no data": (lambda data: data.pop("data"), "'data' is missing; restore SQuAD's layout"),
    "no context": (
        lambda data: data["data"][0]["paragraphs"][0].pop("context"),
        "article 'Lamps': 'context' is missing; restore SQuAD's layout",
    ),
    "no answers": (
        lambda data: _question(data).pop("answers"),
        "article 'Lamps': question 'q-lamps': it has no answer; give it one, or (v2.0) mark it is_impossible",
    ),
    "another answer": (
        lambda data: _question(data)["answers"][0].update(text="nine"),
        "article 'Lamps': question 'q-lamps': answer 'nine' is not in its context; correct the text",
    ),
    "an answer outside": (
        lambda data: _question(data)["answers"][0].update(answer_start=99),
        "article 'Lamps': question 'q-lamps': answer_start=99 puts 'seven' outside its context of 23 characters; "
        "correct it",
    ),
    "a start that is text": (
        lambda data: _question(data)["answers"][0].update(answer_start="11"),
        "article 'Lamps': question 'q-lamps': 'answer_start' is str, not int; restore SQuAD's layout",
    ),
    "an id twice": (
        lambda data: data["data"][0]["paragraphs"][0]["qas"].append(_question(data)),
        "article 'Lamps': question 'q-lamps': its id stands twice; give every question its own",
    ),
    "v2.0 as v1.1": (
        lambda data: _question(data).update(is_impossible=True),
        "article 'Lamps': question 'q-lamps': it is impossible to answer, which only SQuAD v2.0 has; use task=squad_v2",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_squad_file_says_which_question(kind: str, files: list[str], tmp_path: Path) -> None:
    change, message = MALFORMED[kind]
    _write(tmp_path / "bad.json", change)
    _is_refused(here(*files, f"task.train_file={tmp_path}/bad.json"), f"{tmp_path}/bad.json: {message}")


def test_a_truncated_squad_file_says_after_which_question(files: list[str], tmp_path: Path) -> None:
    text = (tmp_path / "squad.json").read_text(encoding="utf-8")
    (tmp_path / "cut.json").write_text(text[: text.index("How many") + 4], encoding="utf-8")
    _is_refused(
        here(*files, f"task.dev_file={tmp_path}/cut.json"),
        f"{tmp_path}/cut.json is cut short at line 1, column 140, after article 'Lamps', question 'q-lamps'; "
        "fetch it again",
    )


def test_a_squad_file_without_questions(files: list[str], tmp_path: Path) -> None:
    _write(tmp_path / "empty.json", lambda data: data["data"].clear())
    _is_refused(
        here(*files, f"task.train_file={tmp_path}/empty.json"),
        "the train split has no example to learn from; name another file, or another data_root",
    )


def test_files_that_are_not_there(files: list[str], tmp_path: Path) -> None:
    _is_refused(
        here(*files, f"task.train_file={tmp_path}/no.json"),
        f"task.train_file={tmp_path}/no.json does not exist; name a file that does",
    )
    _is_refused(
        here(*files, f"task.dev_file={tmp_path}/no.json"),
        f"task.dev_file={tmp_path}/no.json does not exist; name a file that does",
    )
    _is_refused(
        here(*files, f"task.vocab_file={tmp_path}/no.txt"),
        f"task.vocab_file={tmp_path}/no.txt does not exist; name a file that does",
    )
    _is_refused(
        here("mode=plan", f"data_root={tmp_path}/no", f"output_dir={tmp_path}", f"cache_dir={tmp_path}"),
        f"data_root={tmp_path}/no does not exist; name the folder that holds vocab/bert_uncased_vocab.txt, "
        "or publishers, to have it fetched",
    )
    root = ["mode=plan", f"data_root={tmp_path}", f"output_dir={tmp_path}", f"cache_dir={tmp_path}"]
    _is_refused(
        here(*root),
        f"data_root={tmp_path} has no vocab/bert_uncased_vocab.txt; put it there, or name a file in task.vocab_file",
    )
    _is_refused(
        here(*root, f"task.vocab_file={tmp_path}/vocab.txt"),
        f"data_root={tmp_path} has no squad/train-v1.1.json; put it there, or name a file in task.train_file",
    )
    _is_refused(
        here("mode=plan", f"task.train_file={tmp_path}/squad.json", f"output_dir={tmp_path}", f"cache_dir={tmp_path}"),
        "task.vocab_file is not set; name the WordPiece vocabulary that goes with task.train_file",
    )


def test_a_vocabulary_of_another_model(files: list[str], tmp_path: Path) -> None:
    _is_refused(
        here(*files, "model=opt"),
        "model.vocab_size=30522 and the vocabulary has 11 entries; "
        "name the model's own with task.vocab_file or data_root; from scratch, set model.vocab_size=null",
    )
    small = ["task.starter.train_articles=20", "task.starter.dev_articles=2", "task.starter.vocabulary_size=300"]
    _is_refused(
        here("mode=plan", "model=opt", *small, f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"),
        "model.vocab_size=30522 and the vocabulary of the embedded starter articles, which are read without data_root, "
        "has 300 entries; for real data set data_root=DIR, or data_root=publishers; "
        "from scratch, set model.vocab_size=null",
    )


def test_a_checkpoint_that_is_not_there_is_told_before_tensorflow_is_loaded(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for place in ("nowhere", "run", "run/best", "run/checkpoints/ckpt-7"):
        _is_refused(
            here(*files, f"init.checkpoint={tmp_path}/{place}"),
            f"init.checkpoint={tmp_path}/{place}: no checkpoint there; "
            "give the folder of a training run, the one that holds checkpoints/, or a checkpoint of other code "
            "(docs/checkpoints.md)",
        )


def test_a_dev_file_without_questions(files: list[str], tmp_path: Path) -> None:
    _write(tmp_path / "empty.json", lambda data: data["data"].clear())
    _is_refused(
        here(*files, f"task.dev_file={tmp_path}/empty.json"),
        f"{tmp_path}/empty.json has no question; name another file, or another data_root",
    )
