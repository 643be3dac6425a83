"""The flags of the original scripts: kinds and defaults, and what stands for each here.

Sources: google-research/google-research, mobilebert/{run_squad,run_classifier,run_pretraining}.py, and
google-research/bert, create_pretraining_data.py and `num_tpu_cores`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilebert_exp.errors import ConfigError
from mobilebert_exp.spelling import nearest
from mobilebert_exp.translate.command_line import OPEN, Text, shown

TRUE, FALSE = ("true", "t", "1"), ("false", "f", "0")  # as absl reads them
HUB = "name the module's folder or archive in --init_checkpoint"


class Kind(enum.Enum):
    """What a flag takes: any text, a whole number, a number, or nothing (`--name`, `--noname`, `--name=false`)."""

    text = "text"
    whole = "whole"
    number = "number"
    switch = "switch"


@dataclass(kw_only=True, frozen=True, slots=True)
class Flag:
    """One flag of a script.

    Attributes:
      default: the original's, as one writes it; empty for none.
      key: the key that takes its value as it is; empty where more is to be thought of.
      here: for the documentation: what stands for it, or more about the key.
      refused: why there is nothing for it.
    """

    name: str
    kind: Kind
    default: str = ""
    key: str = ""
    here: str = ""
    refused: str = ""


@dataclass(kw_only=True, frozen=True, slots=True)
class Script:
    """A script with its flags by name.

    Attributes:
      required: the flags without which it does not start.
      stated: the flags whose default is told, because ours depends on the data set.
      refused: why nothing here does its work yet.
      verb: what does its work here, where that is no experiment; its settings are not Hydra's.
    """

    name: str
    flags: Mapping[str, Flag]
    required: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    refused: str = ""
    verb: str = ""


def text(name: str, key: str = "", *, default: str = "", here: str = "", refused: str = "") -> Flag:
    return Flag(name=name, kind=Kind.text, default=default, key=key, here=here, refused=refused)


def whole(name: str, key: str = "", *, default: str = "", here: str = "", refused: str = "") -> Flag:
    return Flag(name=name, kind=Kind.whole, default=default, key=key, here=here, refused=refused)


def number(name: str, key: str = "", *, default: str = "", here: str = "", refused: str = "") -> Flag:
    return Flag(name=name, kind=Kind.number, default=default, key=key, here=here, refused=refused)


def switch(name: str, key: str = "", *, default: str = "false", here: str = "", refused: str = "") -> Flag:
    return Flag(name=name, kind=Kind.switch, default=default, key=key, here=here, refused=refused)


def _by_name(*groups: Sequence[Flag]) -> dict[str, Flag]:
    return {flag.name: flag for flags in groups for flag in flags}


FEATURES = "features are kept there, named by their content; of `gs://…` `shared_cache`"
COMMON = (
    text(
        "bert_config_file",
        here="`model=NAME` where file or folder has a published name ([below](#models)), "
        "else `model.from_json=FILE`, of this machine",
    ),
    text("vocab_file", "task.vocab_file"),
    text("output_dir", "output_dir", here="each run gets a folder of its own in it; of `gs://…` `upload_to`"),
    text("init_checkpoint", "init.checkpoint", here="a checkpoint of TensorFlow 1, as it is"),
    switch("do_lower_case", "task.lower_case", default="true"),
    whole("train_batch_size", "task.global_batch_size", default="32"),
    number("learning_rate", "task.optimizer.learning_rate", default="5e-5"),
    number("num_train_epochs", "task.num_train_epochs", default="3"),
    number("warmup_proportion", "task.optimizer.warmup_proportion", default="0.1"),
    whole("save_checkpoints_steps", "trainer.checkpoint_every_steps", default="1000"),
    whole("iterations_per_loop", "hardware.steps_per_loop", default="1000", here="by default that of the hardware"),
    switch("use_tpu", here="`hardware=tpu_v3_8 hardware.dtype=float32`; the flags do not say how large the slice is"),
    text("tpu_name", "hardware.tpu_name", here="with `use_tpu`"),
    text("tpu_zone", "hardware.tpu_zone", here="with `use_tpu`"),
    text("gcp_project", "hardware.gcp_project", here="with `use_tpu`"),
    text("master", here="`hardware.tpu_name`, with `use_tpu` and no `tpu_name`; else there is none to connect to"),
    whole("num_tpu_cores", default="8", here="with `use_tpu`: `hardware=tpu_v3_8`, `tpu_v3_256`, or `num_replicas`"),
    text(
        "export_dir",
        here="`mode=export export.format=tflite_float`, into `exports/` of the run's folder; after training, as "
        "another command",
    ),
)
SQUAD = (
    text("hub_module_url", refused=HUB),
    text("data_dir", "cache_dir", here=FEATURES),
    text("train_file", "task.train_file"),
    text("predict_file", "task.dev_file"),
    switch("do_train", here="`mode=train`, which evaluates and predicts at its end"),
    switch("do_predict", here="with `do_train`, part of it; alone, `mode=predict`"),
    whole("max_seq_length", "task.max_seq_length", default="384"),
    whole("doc_stride", "task.doc_stride", default="128"),
    whole("max_query_length", "task.max_query_length", default="64"),
    whole("predict_batch_size", "task.eval_batch_size", default="8", here="32 by default; changes no result"),
    whole("n_best_size", "task.n_best_size", default="20"),
    whole("max_answer_length", "task.max_answer_length", default="30"),
    switch("version_2_with_negative", here="`task=squad_v2`"),
    number("null_score_diff_threshold", "task.null_score_diff_threshold", default="0.0"),
    switch("verbose_logging", "task.verbose_logging"),
    switch(
        "use_quantized_training",
        here="`model.fake_quantization=per_tensor`; ranges are calibrated first, where the original starts at ±6",
    ),
    switch("use_post_quantization", here="with `export_dir`: `export.format=tflite_dynamic`"),
    switch(
        "activation_quantization",
        here="with `export_dir` and `use_post_quantization`: `export.format=tflite_int8`",
    ),
    text("lite_model_path", here="with `do_predict`: `mode=evaluate export.path=FILE`, a file of `mode=export`"),
)
CLASSIFIER = (
    text("task_name", here="`task=glue task.dataset=NAME`; `xnli`, which is Chinese there: `task=xnli`"),
    text(
        "data_dir",
        here="`data_root`, where it ends in `glue/` and the data set's folder, or `xnli`; else its files, by name",
    ),
    text("tfrecord_dir", "cache_dir", here=FEATURES),
    switch("do_train", here="`mode=train`, which evaluates at its end"),
    switch("do_eval", here="with `do_train`, part of it; alone, `mode=evaluate`"),
    switch("do_predict", here="`mode=predict`; after training, as another command"),
    whole("max_seq_length", "task.max_seq_length", default="128"),
    whole("eval_batch_size", "task.eval_batch_size", default="8", here="changes no result"),
    whole("predict_batch_size", here="`task.eval_batch_size`, for `mode=predict`", default="8"),
    switch("use_post_quantization", here="with `export_dir`: `export.format=tflite_dynamic`"),
    text("lite_model_path", here="with `do_eval`: `mode=evaluate export.path=FILE`, a file of `mode=export`"),
)
PRETRAINING_FLAGS = (
    text("bert_teacher_config_file", here="`task=distill`, which has the published teacher; else `task=pretrain`"),
    text("input_file", "task.train_file", here="and `task.dev_file`: the original evaluates on what it trains on"),
    whole("max_seq_length", "task.max_seq_length", default="128"),
    whole("max_predictions_per_seq", "task.max_predictions_per_seq", default="20"),
    switch("do_train", here="`mode=train`, which evaluates at its end"),
    switch("do_eval", here="with `do_train`, part of it; alone, `mode=evaluate`"),
    whole("eval_batch_size", "task.eval_batch_size", default="8", here="changes no result"),
    whole("max_eval_steps", default="100", here="`trainer.limit_eval`, in examples"),
    whole("num_train_steps", "task.num_train_steps", default="100000"),
    whole("num_warmup_steps", "task.optimizer.warmup_steps", default="10000"),
    whole("num_distill_steps", default="100000", here="`task.transfer.steps`"),
    switch("use_einsum", default="true", here="changes no result; left out"),
    switch("use_summary", here="what it would record is always recorded; left out"),
    text("first_input_file", "task.first_train_file"),
    whole("first_max_seq_length", "task.first_max_seq_length", default="128"),
    whole("first_train_batch_size", "task.first_train_batch_size", here="by default `train_batch_size`"),
    whole("first_num_train_steps", "task.first_num_train_steps", default="0"),
    text("optimizer", "task.optimizer.name", default="adamw"),
    switch("layer_wise_warmup", here="knowledge transfer layer by layer, as `task=distill` has it"),
    number(
        "distill_temperature", default="1.0", here="`task.temperature`, of the logits; the original's is a near no-op"
    ),
    number("distill_ground_truth_ratio", default="1.0", here="`task.ground_truth_ratio`"),
    number("attention_distill_factor", default="0.0", here="`task.transfer.attention_factor`"),
    number("hidden_distill_factor", default="0.0", here="`task.transfer.hidden_factor`"),
    number("gamma_distill_factor", default="0.0", here="`task.transfer.variance_factor`"),
    number("beta_distill_factor", default="0.0", here="`task.transfer.mean_factor`"),
    number(
        "weight_decay_rate", "task.optimizer.weight_decay", default="0.01", here="the original forgets to pass it on"
    ),
)
PRETRAINING_DATA_FLAGS = (
    text("input_file", "input_file", here="patterns may be `gs://…` too"),
    text("output_file", "output_file", here="of `gs://…` `output_dir`, a folder of that name"),
    text("vocab_file", "vocab_file"),
    switch("do_lower_case", "do_lower_case", default="true"),
    switch("do_whole_word_mask", "do_whole_word_mask"),
    whole("max_seq_length", "max_seq_length", default="128"),
    whole("max_predictions_per_seq", "max_predictions_per_seq", default="20"),
    whole("random_seed", "random_seed", default="12345"),
    whole("dupe_factor", "dupe_factor", default="10"),
    number("masked_lm_prob", "masked_lm_prob", default="0.15"),
    number("short_seq_prob", "short_seq_prob", default="0.1"),
)


SHARED_WITH_PRETRAINING = {
    *("bert_config_file", "output_dir", "init_checkpoint", "train_batch_size", "learning_rate"),
    *("save_checkpoints_steps", "iterations_per_loop", "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master"),
    "num_tpu_cores",
}
ALWAYS = ("vocab_file", "bert_config_file", "output_dir")  # as the originals mark them
SCRIPTS = {
    script.name: script
    for script in (
        Script(name="run_squad.py", flags=_by_name(SQUAD, COMMON), required=ALWAYS),
        Script(
            name="run_classifier.py",
            flags=_by_name(CLASSIFIER, COMMON),
            required=("task_name", "data_dir", *ALWAYS),
            stated=("max_seq_length", "do_lower_case", "train_batch_size", "learning_rate", "num_train_epochs"),
        ),
        Script(
            name="run_pretraining.py",
            flags=_by_name(PRETRAINING_FLAGS, [flag for flag in COMMON if flag.name in SHARED_WITH_PRETRAINING]),
            required=("input_file", *ALWAYS[1:]),
            stated=(
                *("max_seq_length", "train_batch_size", "learning_rate", "num_train_steps", "num_warmup_steps"),
                *("optimizer", "eval_batch_size"),
            ),
        ),
        Script(
            name="create_pretraining_data.py",
            flags=_by_name(PRETRAINING_DATA_FLAGS),
            required=("input_file", "output_file", "vocab_file"),
            verb="create_pretraining_data",
        ),
    )
}


def parse(script: Script, words: Sequence[str]) -> dict[str, str | bool]:
    """The flags given, as absl reads them: the last of several counts; numbers are checked and written one way.

    Raises:
      ConfigError: a word is no flag of the script, or a value is not of its kind.
    """
    found: dict[str, str | bool] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word[1 + word.startswith("--") :].partition("=")
        if word == "--" and not rest:
            break
        if not word.startswith("-") or word in ("-", "--"):
            raise _stray(word, rest, script, after=list(found)[-1:])
        is_no = not has_value and name not in script.flags and name.startswith("no")
        flag = script.flags.get(name.removeprefix("no") if is_no else name)
        if flag is None or (is_no and flag.kind is not Kind.switch):
            near = nearest(name.replace("-", "_"), [*script.flags])
            hint = f"did you mean --{near}?" if near else "leave it out"
            raise ConfigError(f"--{shown(name)} is not a flag of {script.name}; {hint}")
        if flag.kind is Kind.switch:
            found[flag.name] = _switch(flag, value) if has_value else not is_no
            continue
        if not has_value and not rest:
            raise ConfigError(f"--{name} has no value; write --{name}=…")
        found[flag.name] = _value(flag, value if has_value else rest.pop(0))
    return found


def _stray(word: str, rest: list[str], script: Script, *, after: list[str]) -> ConfigError:
    word = rest[0] if word == "--" else word
    flag = script.flags.get(after[0]) if after else None
    if flag is not None and flag.kind is Kind.switch and word.lower() in (*TRUE, *FALSE):
        return ConfigError(f"{word} stands apart from --{flag.name}; write --{flag.name}={word}")
    return ConfigError(f"{shown(word)} is no flag, and {script.name} reads none after it; leave it out")


def _switch(flag: Flag, value: str) -> bool:
    if value.lower() not in (*TRUE, *FALSE):
        raise ConfigError(f"--{flag.name}={shown(value)} is neither true nor false; write one")
    return value.lower() in TRUE


def _value(flag: Flag, value: str) -> str:
    if not value.strip():
        raise ConfigError(f"--{flag.name} is empty; give it a value (is a shell variable not set?)")
    if flag.kind is Kind.text:
        return Text(value)
    if OPEN in value:
        return value
    try:
        if flag.kind is Kind.whole:
            return str(int(value, 0 if value[:2].lower() in ("0x", "0o") else 10))
        return repr(float(value)).removesuffix(".0")
    except ValueError:
        wanted = "a whole number" if flag.kind is Kind.whole else "a number"
        raise ConfigError(f"--{flag.name}={value} is not {wanted}; give one") from None
