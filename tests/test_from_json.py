"""`model.from_json`: original model files give the published architectures, and nothing else goes through."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import here
from omegaconf import OmegaConf

from mobilebert_exp import compose
from mobilebert_exp.config import ExperimentConfig, leaves
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.original_json import beyond_their_code, original

BASE: dict[str, Any] = {  # what all four published files state alike
    "attention_probs_dropout_prob": 0.1,
    "hidden_size": 512,
    "initializer_range": 0.02,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 24,
    "type_vocab_size": 2,
    "vocab_size": 30522,
    "embedding_size": 128,
    "trigram_input": True,
    "use_bottleneck": True,
}
NARROW = {"hidden_dropout_prob": 0.0, "intermediate_size": 512, "intra_bottleneck_size": 128}
OPTIMISED = {**BASE, **NARROW, "hidden_act": "relu", "normalization_type": "no_norm", "classifier_activation": False}
SHARED = {"key_query_shared_bottleneck": True, "num_feedforward_networks": 4}
TEACHER = {"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "intermediate_size": 4096, "intra_bottleneck_size": 1024}
PUBLISHED: dict[str, dict[str, Any]] = {
    "opt": {**OPTIMISED, **SHARED},
    "qat": {**OPTIMISED, **SHARED, "hidden_act": "relu6"},
    "tiny": {**OPTIMISED, "use_bottleneck_attention": True, "num_feedforward_networks": 2},
    "teacher": {**BASE, **TEACHER},
}
PARAMETERS = {"opt": 24_581_888, "qat": 24_581_888, "tiny": 15_485_696, "teacher": 294_467_840}
SPAN_HEAD = 1_026


def _write(folder: Path, content: dict[str, Any], *, name: str = "model") -> str:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return f"model.from_json={file}"


@pytest.mark.parametrize("preset", ["micro", "teacher"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_the_shipped_preset(name: str, preset: str, tmp_path: Path) -> None:
    """Whatever preset stands beside it: the file decides all of the architecture."""
    found = compose([f"model={preset}", _write(tmp_path, PUBLISHED[name], name=name)]).model
    assert found == compose([f"model={name}", "model.fake_quantization=none"]).model


@pytest.fixture
def squad(tmp_path: Path) -> list[str]:
    """A SQuAD file of one question, and a vocabulary of the published size."""
    question = {"id": "1", "question": "t1 ?", "answers": [{"text": "t2", "answer_start": 0}]}
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "t2 t3", "qas": [question]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(data), encoding="utf-8")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"t{number}" for number in range(30522 - 5))]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    files = {"task.train_file": "squad.json", "task.dev_file": "squad.json", "task.vocab_file": "vocab.txt"}
    return [*(f"{key}={tmp_path / name}" for key, name in files.items()), "task.global_batch_size=1"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_plan_counts_the_published_parameters(name: str, squad: list[str], tmp_path: Path) -> None:
    file = _write(tmp_path, PUBLISHED[name], name=name)
    ended = here("mode=plan", "task=squad_v1", file, *squad, f"cache_dir={tmp_path}")
    assert (ended.code, ended.err) == (0, "")
    assert f"\n  parameters                {PARAMETERS[name] + SPAN_HEAD:,}\n" in ended.out
    assert re.search(rf"^model: name={name}\b", ended.out, flags=re.MULTILINE)


def test_what_is_recorded_needs_no_file(tmp_path: Path) -> None:
    file = _write(tmp_path, PUBLISHED["tiny"], name="mine")
    shown = yaml.safe_load(here("--cfg", "job", file, "model.num_layers=6").out)
    found = compose([file, "model.num_layers=6"])
    (tmp_path / "mine.json").unlink()
    assert shown["model"]["name"] == "mine"
    assert "from_json" not in json.dumps(shown) + json.dumps(leaves(found))
    assert OmegaConf.to_container(OmegaConf.structured(found), enum_to_str=True) == shown
    assert (
        compose([f"{key}={'null' if value is None else json.dumps(value)}" for key, value in leaves(found).items()])
        == found
    )


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_set_beside_the_file_wins(order: int, tmp_path: Path) -> None:
    settings = [_write(tmp_path, PUBLISHED["opt"], name="opt"), "model.num_layers=3", "model.name=short"][::order]
    found = compose(settings).model
    assert found == dataclasses.replace(compose(["model=opt"]).model, num_layers=3, name="short")


def test_jobs_of_a_sweep_share_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobilebert_exp import experiment

    ran: list[ExperimentConfig] = []
    monkeypatch.setattr(experiment, "run", lambda config, **_: ran.append(config))
    file = _write(tmp_path, PUBLISHED["opt"], name="opt")
    ended = here("-m", file, "model.num_layers=2,4", "tracking=none", f"output_dir={tmp_path}/o")
    assert (ended.code, ended.err) == (0, "")
    assert [(config.model.name, config.model.num_layers) for config in ran] == [("opt", 2), ("opt", 4)]


def test_keys_that_no_original_code_reads_are_let_through(tmp_path: Path) -> None:
    extra = {"directionality": "bidi", "pooler_type": "first_token_transform", "pooler_fc_size": 768}
    assert compose([_write(tmp_path, {**PUBLISHED["opt"], **extra}, name="opt")]).model == compose(["model=opt"]).model


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_original_can_be_told_is_told_in_its_words_alone(name: str) -> None:
    model = leaves(compose([f"model={name}"]).model)
    stated = original(model)
    assert PUBLISHED[name].items() <= stated.items()
    assert "mobilebert_exp" not in stated and beyond_their_code(model) == ""


UNWORDED = {
    "hidden_act": "gelu_exact",
    "layer_norm_epsilon": 1e-9,
    "hugging_face_norms": True,
    "attention_mask_value": -6.0,
}


@pytest.mark.parametrize("name", UNWORDED)
def test_what_the_original_has_no_word_for_stands_beside_its_keys(name: str, tmp_path: Path) -> None:
    """Its code, and tf-models', take a file's keys as they are, and look up those they know."""
    model = compose(["model=base", f"model.{name}={UNWORDED[name]}"]).model
    stated = original(leaves(model))
    assert stated["mobilebert_exp"] == {name: UNWORDED[name]}
    assert {key: value for key, value in stated.items() if key != "mobilebert_exp"} == original(
        leaves(compose(["model=base"]).model)
    )
    assert compose(["model=opt", _write(tmp_path, stated, name="base")]).model == model
    assert (name in beyond_their_code(leaves(model))) == (name != "attention_mask_value")


def test_null_is_no_file() -> None:
    assert compose(["model=opt", "model.from_json=null"]) == compose(["model=opt"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layer": 24}, "num_hidden_layer is not a key of such files; did you mean num_hidden_layers?"),
        ({"model_type": "mobilebert"}, "model_type is not a key of such files; remove it"),
        (
            {"trigram_input": False},
            "trigram_input is not true, so that this is no MobileBERT; give a MobileBERT's file",
        ),
        (
            {"use_bottleneck": None},
            "use_bottleneck is not true, so that this is no MobileBERT; give a MobileBERT's file",
        ),
        ({"hidden_act": "tanh"}, "hidden_act=tanh is not one of relu, relu6, gelu, gelu_exact; choose one"),
        (
            {"hidden_act": "relu_6"},
            "hidden_act=relu_6 is not one of relu, relu6, gelu, gelu_exact; did you mean relu6?",
        ),
        ({"hidden_act": 3}, "hidden_act=3 is not a text; give one"),
        (
            {"normalization_type": "manual_layer_norm"},
            "normalization_type=manual_layer_norm is not one of no_norm, layer_norm; did you mean layer_norm?",
        ),
        ({"num_hidden_layers": 24.0}, "num_hidden_layers=24.0 is not a whole number; give one"),
        ({"num_hidden_layers": True}, "num_hidden_layers=true is not a whole number; give one"),
        ({"hidden_dropout_prob": "0.1"}, 'hidden_dropout_prob="0.1" is not a number; give one'),
        ({"classifier_activation": 0}, "classifier_activation=0 is not true or false; give one"),
        ({"mobilebert_exp": []}, "mobilebert_exp is no mapping; remove it"),
        ({"mobilebert_exp": {"x": 1}}, "mobilebert_exp.x is not a key of such files; remove it"),
        ({"mobilebert_exp": {"hugging_face_norms": 1}}, "hugging_face_norms=1 is not true or false; give one"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    argument = _write(tmp_path, {**PUBLISHED["opt"], **change})
    with pytest.raises(ConfigError) as refused:
        compose([argument])
    assert str(refused.value) == f"{argument}: {message}"


@pytest.mark.parametrize("key", [key for key in BASE if key not in ("trigram_input", "use_bottleneck")])
def test_a_key_that_is_missing_is_named(key: str, tmp_path: Path) -> None:
    content = {name: value for name, value in PUBLISHED["opt"].items() if name != key}
    with pytest.raises(ConfigError, match=f": {key} is missing; add it, the whole architecture has to be there$"):
        compose([_write(tmp_path, content)])


def test_sizes_that_contradict_each_other_are_refused_by_the_schema(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model.intra_bottleneck_size=128 is not divisible by model.num_heads=3"):
        compose([_write(tmp_path, {**PUBLISHED["opt"], "num_attention_heads": 3})])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "a stands there twice; leave one"),
        (b"[1]", "holds no mapping of keys to values; name the JSON file of an original model"),
        (b"{", "no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); "),
        (b"\xff\xfe", "no JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); "),
        (None, "cannot be read (No such file or directory); name the JSON file of an original model"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    if content is not None:
        file.write_bytes(content)
    ended = here("mode=plan", f"model.from_json={file}")
    assert ended.code == 2
    assert ended.err.startswith(f"error: model.from_json={file}: {message}")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.from_json=a.json,b.json", "model.from_json=a.json,b.json names several files; give one, and each of "),
        ("model.from_json=", "model.from_json is empty; name a place, or leave the setting out"),
        ("model.from_jsn=a.json", "model.from_jsn is not a key of this experiment; did you mean model.from_json?"),
        ("model.from_json='a", "model.from_json='a cannot be read: a bracket or a special character; quote the value"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_one_line(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([argument])
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_in_a_file_of_settings_it_is_sent_to_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "mine.yaml").write_text(
        "# @package _global_\nmodel:\n  from_json: a.json\n", encoding="utf-8"
    )
    ended = here("--config-dir", str(tmp_path), "+preset=mine", "mode=plan")
    assert (
        ended.err
        == "error: preset/mine.yaml: model.from_json=… stands in a file or a sweep; write it on the command line\n"
    )
    assert ended.code == 2
