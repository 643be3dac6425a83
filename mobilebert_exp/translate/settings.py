"""From the flags of an original script to settings of ours: the same experiment, or the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mobilebert_exp.errors import ConfigError
from mobilebert_exp.original_json import PUBLISHED
from mobilebert_exp.spelling import nearest
from mobilebert_exp.storage.place import GS, is_remote
from mobilebert_exp.translate.command_line import Text, setting, shown
from mobilebert_exp.translate.flags import Script

RUN, VOCABULARY, TEACHER = "RUN", "VOCAB", "TEACHER"  # stand where only the person knows what is meant
IN_BUCKET = {
    "output_dir": "upload_to",
    "cache_dir": "shared_cache",
}  # folders of this machine, and what a bucket is for
TPUS = {"8": "tpu_v3_8", "256": "tpu_v3_256"}  # by cores
TPU_FLAGS = ("tpu_name", "tpu_zone", "gcp_project", "num_tpu_cores")
DATASETS = {  # of run_classifier.py: our name, GLUE's folder and the files it reads, as the original does
    "cola": ("cola", "CoLA", "dev.tsv", "test.tsv"),
    "mnli": ("mnli", "MNLI", "dev_matched.tsv", "test_matched.tsv"),
    "mrpc": ("mrpc", "MRPC", "dev.tsv", "test.tsv"),
    "qnli": ("qnli", "QNLI", "dev.tsv", "test.tsv"),
    "sst-2": ("sst2", "SST-2", "dev.tsv", "test.tsv"),
}
Given = Mapping[str, str | bool]


@dataclass(kw_only=True, slots=True)
class Translation:
    """What a command becomes; where anything is refused, the settings are not the same experiment."""

    settings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def translated(script: Script, given: Given) -> Translation:
    """The settings for a script's flags.

    Raises:
      ConfigError: the original would refuse these flags too.
    """
    found = Translation()
    if script.refused:
        found.refusals.append(f"{script.name}: {script.refused}")
        return found
    off = (flag.name for flag in script.flags.values() if flag.refused and given.get(flag.name, False))
    found.refusals += [f"--{name}: {script.flags[name].refused}; without it the rest translates" for name in off]
    if missing := [name for name in script.required if name not in given]:
        raise ConfigError(f"--{missing[0]} is missing, without which {script.name} does not start; add it")
    if script.verb:
        _data(script, given, found)
    elif not found.refusals:
        CHOOSE[script.name](given, found)
        _model(given, found)
        _quantized(given, found)
        _hardware(given, found)
        _others(script, {**_defaults(script), **given}, found)
    return found


def _defaults(script: Script) -> dict[str, str | bool]:
    """What the original takes where a flag is not given and our default depends on the data set."""
    return {name: script.flags[name].default for name in script.stated}


def _squad(given: Given, found: Translation) -> None:
    train, predict = given.get("do_train", False), given.get("do_predict", False)
    if not train and not predict and "export_dir" not in given:
        names = "--do_train, --do_predict and --export_dir"
        raise ConfigError(f"none of {names} is given, so that the original does nothing; add one")
    if train and "train_file" not in given:
        raise ConfigError("--train_file is missing, which --do_train needs; add it")
    if "predict_file" not in given and (train or predict):
        why = "--do_predict needs" if predict else "training needs here, because it ends with an evaluation"
        raise ConfigError(f"--predict_file is missing, which {why}; add it")
    wanted = {"do_train": {"mode": "train"}} if train else {}
    if predict and "lite_model_path" in given:
        wanted["do_predict"] = _of_file(given, found)
    elif predict and not train:
        wanted["do_predict"] = {"mode": "predict"}
        found.notes.append("mode=evaluate writes the same files, and the metrics too, where the questions have answers")
    _left_out(given, found, lite="do_predict")
    _in_order({**wanted, **_export(given, found)}, found)
    found.settings["task"] = "squad_v2" if given.get("version_2_with_negative", False) else "squad_v1"


def _classifier(given: Given, found: Translation) -> None:
    train, evaluate, predict = (given.get(name, False) for name in ("do_train", "do_eval", "do_predict"))
    if not train and not evaluate and not predict and "export_dir" not in given:
        raise ConfigError("none of --do_train, --do_eval, --do_predict and --export_dir is given; add one")
    wanted = {"do_train": {"mode": "train"}} if train else {}
    if evaluate and "lite_model_path" in given:
        wanted["do_eval"] = _of_file(given, found)
    elif evaluate and not train:
        wanted["do_eval"] = {"mode": "evaluate"}
    if predict:
        wanted["do_predict"] = {"mode": "predict"}
    _left_out(given, found, lite="do_eval")
    mode = _in_order({**wanted, **_export(given, found)}, found)
    place = str(given["data_dir"]).rstrip("/")
    if str(given["task_name"]).lower() == "xnli":
        _chinese(place, found, predict=bool(predict))
    else:
        _glue(place, found, name=str(given["task_name"]).lower())
    if mode == "predict" and "predict_batch_size" in given:
        found.settings["task.eval_batch_size"] = str(given["predict_batch_size"])


def _of_file(given: Given, found: Translation) -> dict[str, str]:
    """What judges a file as a device runs it, where the original predicts through one."""
    found.notes.append(
        "--lite_model_path: export.path takes a file that mode=export wrote; the model itself is not needed, metrics "
        "are printed too, and the data need their answers"
    )
    return {"mode": "evaluate", "export.path": Text(given["lite_model_path"])}


def _export(given: Given, found: Translation) -> dict[str, dict[str, str]]:
    """What writes the files of `--export_dir`, by that flag; nothing where it is not given."""
    if "export_dir" not in given:
        return {}
    form = "tflite_float"
    if given.get("use_post_quantization", False):
        form = "tflite_int8" if given.get("activation_quantization", False) else "tflite_dynamic"
    if form == "tflite_int8" and "train_file" not in given:
        raise ConfigError("--train_file is missing, by which --activation_quantization calibrates; add it")
    found.notes.append(
        f"--export_dir={given['export_dir']}: the file goes to exports/ of the run's folder, which lies in output_dir"
    )
    others = "a SavedModel" if form == "tflite_float" else "a SavedModel and a TFLite file in float"
    found.notes.append(f"the original writes {others} too; export.format=all writes every format")
    return {"export_dir": {"mode": "export", "export.format": form}}


def _left_out(given: Given, found: Translation, *, lite: str) -> None:
    """Notes on the flags that the original does not look at; `lite` is the flag with which it reads a TFLite file."""
    needs = {
        "lite_model_path": (lite,),
        "use_post_quantization": ("export_dir",),
        "activation_quantization": ("export_dir", "use_post_quantization"),
    }
    for name, others in needs.items():
        missing = [f"--{other}" for other in others if not given.get(other, False)]
        if missing and given.get(name, False):
            found.notes.append(f"--{name}: without {' and '.join(missing)} the original does not look at it; left out")


def _in_order(wanted: Mapping[str, Mapping[str, str]], found: Translation) -> str:
    """The mode of the command: the first that is wanted, by flag; each of the others is noted as one of its own."""
    (_, first), *others = wanted.items()
    found.settings.update(first)
    run = "the folder of the first one's run" if first["mode"] == "train" else "the folder of the training run"
    for (flag, settings), which in zip(others, ("second", "third", "fourth"), strict=False):
        changed, whose = dict(settings), ""
        if "export.path" in settings:
            changed["init.checkpoint"] = "null"
        elif first["mode"] == "train" or "export.path" in first:  # else the first one names the model
            changed["init.checkpoint"], whose = RUN, f", {RUN} being {run}"
        if "export.path" in first:
            changed["export.path"] = "null"
        words = " ".join(setting(key, value) for key, value in changed.items())
        found.notes.append(f"--{flag}: a {which} command, the same with {words}{whose}")
    return first["mode"]


def _glue(place: str, found: Translation, *, name: str) -> None:
    """`DIR/glue/MRPC` is our layout under `data_root=DIR`; of another folder the files are named one by one."""
    if name not in DATASETS:
        near = nearest(name, [*DATASETS])
        remedy = f"did you mean {near}?" if near else f"choose {', '.join(DATASETS)}"
        raise ConfigError(f"--task_name={shown(name)} is not a task of run_classifier.py; {remedy}")
    dataset, folder, dev, test = DATASETS[name]
    found.settings["task"] = "glue"
    found.settings["task.dataset"] = dataset
    root = _above(place, f"glue/{folder}")
    if root:
        found.settings["data_root"] = root
        return
    for key, file in (("task.train_file", "train.tsv"), ("task.dev_file", dev), ("task.test_file", test)):
        found.settings[key] = Text(f"{place}/{file}")


def _chinese(place: str, found: Translation, *, predict: bool) -> None:
    """The original's XNLI: trained on the Chinese translation; our layout where the folder is called `xnli`."""
    root = _above(place, "xnli")
    if predict or not root:
        why = "the original has no test part of XNLI" if predict else "call the folder xnli, as data_root has it"
        found.refusals.append(f"{'--do_predict' if predict else f'--data_dir={place}'}: {why}")
        return
    found.settings.update(task="xnli", data_root=root)
    found.settings.update({"task.translate_train": "true", "task.train_languages": "[zh]"})
    found.notes.append("every language of the dev file is judged; accuracy_zh is the original's figure")


def _above(place: str, folder: str) -> Text:
    """The place in which the folder lies, if `place` is that folder; else empty."""
    match = re.fullmatch(rf"(?:(.*(?<!/))/)?{folder}", place)
    return Text("" if match is None else "." if match[1] is None else match[1] or "/")


def _data(script: Script, given: Given, found: Translation) -> None:
    """Flag by flag; what the original writes to a bucket as a file becomes a folder of shards there."""
    for name, flag in script.flags.items():
        if name in given:
            value = given[name]
            found.settings[flag.key] = value if isinstance(value, str) else str(value).lower()
    if GS in found.settings["output_file"]:
        place = found.settings["output_dir"] = found.settings.pop("output_file")
        if "," in place:
            found.refusals.append("--output_file: in a bucket there is one folder of shards; name one")
        found.notes.append(f"{shown(place)} becomes a folder of shards; {shown(place)}/*.tfrecord names them")
    found.notes.append(
        "texts that are not UTF-8 are refused, where the original drops such bytes; bad_bytes=drop does so too"
    )


def _pretraining(given: Given, found: Translation) -> None:
    train, evaluate = given.get("do_train", False), given.get("do_eval", False)
    if not train and not evaluate:
        raise ConfigError("neither --do_train nor --do_eval is given, so that the original does nothing; add one")
    found.settings["mode"] = "train" if train else "evaluate"
    found.settings["task"] = "distill" if "bert_teacher_config_file" in given else "pretrain"
    found.settings["task.train_file"] = found.settings["task.dev_file"] = Text(given["input_file"])
    found.settings["task.vocab_file"] = VOCABULARY
    found.notes.append(
        f"put the vocabulary that the records were made with in place of {VOCABULARY}; the original reads none"
    )
    found.notes.append("task.dev_file is what the original evaluates on; name records that training does not see")
    sizes = [str(given.get(name, default)) for name, default in (("max_eval_steps", "100"), ("eval_batch_size", "8"))]
    if all(size.isdecimal() for size in sizes):
        found.settings["trainer.limit_eval"] = str(int(sizes[0]) * int(sizes[1]))
    else:
        found.notes.append("--max_eval_steps: trainer.limit_eval counts examples; set it yourself")
    if found.settings.get("task") == "distill":
        _distillation(given, found)


def _distillation(given: Given, found: Translation) -> None:
    """The README's recipe: knowledge transfer layer by layer, then the teacher's answers."""
    teacher = Text(given["bert_teacher_config_file"])
    if not any(PUBLISHED.get(part.removesuffix(".json")) == "teacher" for part in teacher.split("/")[-2:]):
        found.refusals.append(
            f"--bert_teacher_config_file={shown(teacher)}: its name is not the published teacher's; choose "
            "model@task.teacher=NAME with task=distill"
        )
    if not given.get("layer_wise_warmup", False):
        found.refusals.append(
            "--bert_teacher_config_file without --layer_wise_warmup: set task.transfer.strategy=joint or auxiliary "
            "with task=distill"
        )
    for name, (key, default) in DISTILLATION.items():
        found.settings[key] = str(given.get(name, default))
    found.settings["task.teacher_checkpoint"] = Text(given.get("init_checkpoint", TEACHER))
    found.notes.append("task.teacher_checkpoint takes a run of task=pretrain; name yours there")


DISTILLATION = {  # flags of a distillation: our key, the original's default
    "num_distill_steps": ("task.transfer.steps", "100000"),
    "distill_temperature": ("task.temperature", "1.0"),
    "distill_ground_truth_ratio": ("task.ground_truth_ratio", "1.0"),
    "attention_distill_factor": ("task.transfer.attention_factor", "0.0"),
    "hidden_distill_factor": ("task.transfer.hidden_factor", "0.0"),
    "gamma_distill_factor": ("task.transfer.variance_factor", "0.0"),
    "beta_distill_factor": ("task.transfer.mean_factor", "0.0"),
}
CHOOSE = {"run_squad.py": _squad, "run_classifier.py": _classifier, "run_pretraining.py": _pretraining}


def _model(given: Given, found: Translation) -> None:
    """A preset where the file, or the folder it came in, has a published name; else the file itself.

    The preset of quantisation has what the original asks for by a flag.
    """
    is_quantized = bool(given.get("use_quantized_training", False))
    file = Text(given["bert_config_file"])
    *folders, name = file.split("/")
    known = [stem for stem in (name.removesuffix(".json"), *folders[-1:]) if stem in PUBLISHED]
    if not known:
        found.settings["model.from_json"] = file
        if is_quantized:
            found.settings["model.fake_quantization"] = "per_tensor"
        if is_remote(file):
            found.refusals.append(
                f"--bert_config_file={shown(file)}: model.from_json reads files of this machine; name a copy"
            )
        return
    model = PUBLISHED[known[0]]
    found.settings["model"] = model
    if is_quantized or model == "qat":
        found.settings["model.fake_quantization"] = "per_tensor" if is_quantized else "none"
    found.notes.append(f"model={model} is what was published as {known[0]}; if yours differs, model.from_json=FILE")


def _quantized(given: Given, found: Translation) -> None:
    """What is to be known about the rounding of weights that a command asks for."""
    if not given.get("use_quantized_training", False):
        return
    if found.settings.get("model") == "teacher":
        found.refusals.append(
            "--use_quantized_training: LayerNorm, which model=teacher has, has no 8-bit form; without it the rest "
            "translates"
        )
    if found.settings["mode"] == "train":
        found.notes.append(
            "model.fake_quantization=per_tensor has one scale a kernel, as the original; per_channel, model=qat's own, "
            "has one for each output and is better"
        )


def _hardware(given: Given, found: Translation) -> None:
    master = Text("" if "tpu_name" in given else given.get("master", ""))
    if not given.get("use_tpu", False):
        if master:
            found.refusals.append("--master: there is no session to connect to; hardware.distribution=multi_worker")
        if left := [f"--{name}" for name in TPU_FLAGS if name in given]:
            found.notes.append(f"{', '.join(left)}: without --use_tpu the original does not look at it; left out")
        if found.settings["mode"] != "export":  # which computes nothing that a GPU could
            found.notes.append("this runs on the processor; the original takes a GPU where it sees one: hardware=gpu")
        return
    cores = str(given.get("num_tpu_cores", "8"))
    found.settings["hardware"] = TPUS.get(cores, TPUS["8"])
    if cores not in TPUS:
        found.settings["hardware.num_replicas"] = cores
    found.settings["hardware.dtype"] = "float32"  # as the original computes; the option's own is bfloat16
    if master:
        found.settings["hardware.tpu_name"] = master
    if "num_tpu_cores" not in given:
        found.notes.append("the flags do not say how large the TPU is; hardware=tpu_v3_8 is one board of 8 cores")


def _others(script: Script, given: Given, found: Translation) -> None:
    """The flags whose value a key takes as it is, in the script's order; what was set with more thought stays."""
    skipped = () if given.get("use_tpu", False) else TPU_FLAGS
    if found.settings.get("task") == "distill":
        skipped = (*skipped, "init_checkpoint")  # the teacher's
    if "export.path" in found.settings:
        skipped = (*skipped, "init_checkpoint")  # which the original does not use then
    for name, flag in script.flags.items():
        if name in given and flag.key and name not in skipped:
            value = given[name]
            key = IN_BUCKET.get(flag.key, flag.key) if isinstance(value, str) and value.startswith(GS) else flag.key
            found.settings.setdefault(key, value if isinstance(value, str) else str(value).lower())
    is_needed = found.settings.get("mode") != "train" and "export.path" not in found.settings
    if is_needed and "init.checkpoint" not in found.settings:
        found.settings["init.checkpoint"] = RUN
        found.notes.append(
            f"put the folder of the training run in place of {RUN}; the original takes the newest of --output_dir"
        )
