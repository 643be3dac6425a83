"""`config.json` and the tokenizer's files of Hugging Face, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hugging_face_files import (
    PUBLISHED,
    narrow,
    random_weights,
    reconfigure,
    refusal,
    same,
    with_every_head,
    written,
)

from mobilebert_exp import compose
from mobilebert_exp.config import leaves
from mobilebert_exp.modeling.checkpoints import hugging_face, hugging_face_config
from mobilebert_exp.modeling.checkpoints.weights import model_of
from mobilebert_exp.modeling.variables import classifier_variables


@pytest.mark.parametrize(
    "changes",
    [
        ("hidden_act=gelu_exact", "layer_norm_epsilon=1e-6", "hugging_face_norms=true", "normalization=layer_norm"),
        ("use_bottleneck_attention=true", "key_query_shared_bottleneck=true", "hidden_act=relu6"),
        ("attention_mask_value=-1e9", "layer_loop=unroll", "initialization=structured", "hidden_dropout=0.25"),
        ("num_feedforward_networks=1", "classifier_activation=true", "hidden_act=gelu"),
    ],
)
def test_every_field_of_a_model_comes_back(changes: tuple[str, ...], tmp_path: Path) -> None:
    model = narrow("opt", *changes)
    weights = random_weights(model)
    hugging_face.write(weights, tmp_path / "there")
    found = hugging_face.read(tmp_path / "there")
    assert found.model == leaves(model)
    assert model_of(found.model or {}) == model
    assert same(found, weights)


def test_the_published_config_is_opt(tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    opt = leaves(compose(["model=opt"]).model)
    del opt["attention_mask_value"]  # of which they say nothing

    assert hugging_face_config.read(folder / "config.json").model == opt | {"name": "there"}


def test_what_a_config_leaves_out_is_what_holds_there(tmp_path: Path) -> None:
    """Their pooler is there unless a file says otherwise."""
    folder = written(tmp_path / "there", narrow("opt", "classifier_activation=true"))
    reconfigure(folder, classifier_activation=None, hidden_act=None, layer_norm_eps=None, model_type=None)
    found = hugging_face.read(folder)
    assert found.model is not None
    assert (found.model["classifier_activation"], found.model["hidden_act"]) == (True, "relu")
    assert "pooler/kernel" in found.values


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("gelu", "gelu_exact"), ("gelu_python", "gelu_exact"), ("gelu_new", "gelu"), ("gelu_pytorch_tanh", "gelu")],
)
def test_their_gelu_is_the_exact_one(theirs: str, ours: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    reconfigure(folder, hidden_act=theirs)
    assert (hugging_face.read(folder).model or {})["hidden_act"] == ours


def test_layer_norms_of_theirs_are_computed_as_there(tmp_path: Path) -> None:
    folder = written(tmp_path / "there", narrow("base"))
    assert (hugging_face.read(folder).model or {})["hugging_face_norms"] is False
    reconfigure(folder)
    assert (hugging_face.read(folder).model or {})["hugging_face_norms"] is True


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "bert"}, "model_type=bert is no mobilebert; name a MobileBERT"),
        ({"trigram_input": False}, "trigram_input is not true, so that this is no MobileBERT; name one"),
        ({"use_bottleneck": 0}, "use_bottleneck is not true, so that this is no MobileBERT; name one"),
        ({"true_hidden_size": 16}, "true_hidden_size is not intra_bottleneck_size, as use_bottleneck asks; mend it"),
        ({"hidden_act": "silu"}, "hidden_act=silu is none of relu, relu6, gelu, "),
        ({"normalization_type": "rms"}, "normalization_type=rms is none of no_norm, layer_norm; there is no such "),
        ({"vocab_size": "many"}, 'vocab_size="many" is not a whole number; give one'),
        ({"num_hidden_layers": True}, "num_hidden_layers=true is not a whole number; give one"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan is not finite; give a number"),
        ({"layer_norm_eps": 0}, "model.layer_norm_epsilon=0.0 is not positive"),
        ({"num_attention_heads": 3}, "model.intra_bottleneck_size=8 is not divisible by model.num_heads=3"),
        (
            {"num_hidden_layers": 10**12},
            "num_layers=1000000000000, and the weights beside it have 2; put",
        ),
        ({"num_feedforward_networks": 10**12}, "num_feedforward_networks=1000000000000, and the weights beside it hav"),
        ({"mobilebert_exp": 3}, "mobilebert_exp is no mapping; remove it"),
        (
            {"mobilebert_exp": {"layer_loop": "spiral"}},
            "it describes no model that can be had here (model.layer_loop=spiral is not one of ",
        ),
        ({"mobilebert_exp": {"hugging_face_norms": 1}}, "mobilebert_exp.hugging_face_norms is of another type than"),
    ],
)
def test_a_config_of_another_model_is_one_line(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    reconfigure(folder, **changes)
    assert text in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_file_that_is_no_json_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    folder = written(tmp_path / "there", vocabulary=b"a\n")
    (folder / name).write_bytes(content)
    assert f"{folder / name}: " in refusal(folder)


@pytest.mark.parametrize(
    ("heads", "name"),
    [
        ((), "MobileBertModel"),
        (("heads/masked_lm", "heads/next_sentence"), "MobileBertForPreTraining"),
        (("heads/masked_lm",), "MobileBertForMaskedLM"),
        (("heads/next_sentence",), "MobileBertForNextSentencePrediction"),
        (("heads/masked_lm", "heads/next_sentence", "heads/span"), "MobileBertForQuestionAnswering"),
        (("heads/classifier",), "MobileBertForSequenceClassification"),
    ],
)
def test_the_config_names_the_class_that_has_the_heads(heads: tuple[str, ...], name: str, tmp_path: Path) -> None:
    model = narrow("opt")
    specs = [spec for spec in with_every_head(model) if heads and spec.name.startswith(heads)]
    weights = random_weights(model, specs)
    hugging_face.write(weights, tmp_path / "there")
    stated = json.loads((tmp_path / "there" / "config.json").read_text())
    assert stated["architectures"] == [name]
    assert same(hugging_face.read(tmp_path / "there"), weights)


def test_classes_go_by_their_names(tmp_path: Path) -> None:
    model = narrow("opt")
    weights = random_weights(
        model, classifier_variables(model, num_outputs=3), head="inference: contradiction, entailment, neutral"
    )
    hugging_face.write(weights, tmp_path / "there")
    stated = json.loads((tmp_path / "there" / "config.json").read_text())
    assert stated["id2label"] == {"0": "contradiction", "1": "entailment", "2": "neutral"}
    assert stated["label2id"]["neutral"] == 2 and "problem_type" not in stated
    reconfigure(tmp_path / "there", id2label={"2": "c", "0": "a", "10": "d", "1": "b"})
    assert hugging_face.read(tmp_path / "there").head == "classes: a, b, c, d"
    reconfigure(tmp_path / "there", id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    assert hugging_face.read(tmp_path / "there").head == ""


def test_one_output_is_a_score(tmp_path: Path) -> None:
    model = narrow("opt")
    weights = random_weights(model, classifier_variables(model, num_outputs=1), head="GLUE STS-B: a score")
    hugging_face.write(weights, tmp_path / "there")
    stated = json.loads((tmp_path / "there" / "config.json").read_text())
    assert (stated["problem_type"], stated["id2label"]) == ("regression", {"0": "LABEL_0"})
    assert same(hugging_face.read(tmp_path / "there"), weights)


def test_a_vocabulary_in_a_fast_tokenizer_is_found(tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    words = {"é": 2, "[PAD]": 0, "##a": 1}
    fast = {"model": {"type": "WordPiece", "vocab": words}, "normalizer": {"lowercase": True}}
    (folder / "tokenizer.json").write_text(json.dumps(fast))
    found = hugging_face.read(folder)
    assert (found.vocabulary, found.lower_case) == ("[PAD]\n##a\né\n".encode(), True)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert hugging_face.read(folder).lower_case is False
    (folder / "vocab.txt").write_text("other\n")
    assert hugging_face.read(folder).vocabulary == b"other\n"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"type": "BPE", "vocab": {}}, "it holds no vocabulary of WordPiece; put a vocab.txt beside it"),
        (None, "it holds no vocabulary of WordPiece; put a vocab.txt beside it"),
        ({"type": "WordPiece", "vocab": {"a": 0, "b": 2}}, "its words are no texts numbered from 0, one after another"),
        ({"type": "WordPiece", "vocab": {"a": 0, "b": "1"}}, "its words are no texts numbered from 0"),
        ({"type": "WordPiece", "vocab": {"a\nb": 0}}, "its words are no texts numbered from 0"),
        ({"type": "WordPiece", "vocab": {"\ud800": 0}}, "its words are no texts numbered from 0"),
    ],
)
def test_another_tokenizer_is_one_line(model: object, text: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    assert text in refusal(folder)


def test_what_cannot_be_said_there_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, text in {
        "teacher": "transformers cannot run this architecture: its queries and keys take vectors of intra_bottleneck_",
        "base": "transformers adds 1e-5 to the variance in the norm of the embeddings and in one of each block",
    }.items():
        caplog.clear()
        changes = ("intra_bottleneck_size=32",) if name == "teacher" else ()
        written(tmp_path / name, narrow(name, *changes))
        assert text in caplog.text
    caplog.clear()
    written(tmp_path / "opt")
    written(tmp_path / "as_there", narrow("base", "hugging_face_norms=true"))
    assert caplog.text == ""
