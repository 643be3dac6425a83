"""What `transformers` computes with a checkpoint equals what is computed here, whoever wrote it.

Weights are those of `hugging_face_files.random_weights`: of the scale of trained ones, and no norm at 1 and 0. What
differs by design stands in docs/checkpoints-hugging-face.md, and here as a test of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hugging_face_files import (
    narrow,
    preset,
    random_weights,
    reconfigure,
    same,
    tensors,
    with_every_head,
    written,
)

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.modeling.checkpoints import hugging_face
from mobilebert_exp.modeling.checkpoints.weights import Weights, model_of
from mobilebert_exp.modeling.encoder import MobileBertEncoder
from mobilebert_exp.modeling.heads import ClassifierModel, SpanModel
from mobilebert_exp.modeling.pretrainer import PretrainingModel

pytestmark = pytest.mark.interop
TOLERANCE = 2e-5
NOT_IN_EVERY_CLASS = ("cls.", "qa_outputs.", "classifier.", "mobilebert.pooler.")
MODELS = {  # preset, changes, layers
    "opt": ("opt", (), 4),
    "qat": ("qat", ("fake_quantization=none",), 2),
    "tiny": ("tiny", (), 4),
    "multilingual": ("multilingual", (), 2),
    "base": ("base", ("hugging_face_norms=true",), 3),
    # The teacher as far as they can run it: its queries and keys must come from a bottleneck, or be of one width.
    "teacher, narrow inside": ("teacher", ("hugging_face_norms=true", "intra_bottleneck_size=512"), 2),
    "teacher, shared": ("teacher", ("hugging_face_norms=true", "key_query_shared_bottleneck=true"), 2),
    "exact gelu": ("base", ("hugging_face_norms=true", "hidden_act=gelu_exact", "layer_norm_epsilon=1e-6"), 2),
    "pooler": ("opt", ("classifier_activation=true",), 2),
    "both bottlenecks": ("tiny", ("key_query_shared_bottleneck=true", "num_feedforward_networks=1"), 2),
}


def batch(model: ModelConfig, *, padded: bool, rows: int = 3, length: int = 24) -> dict[str, np.ndarray]:
    """Two texts a row; padded rows end at different places, the last after two tokens."""
    rng = np.random.default_rng(3)
    ends = np.linspace(length, 2, rows).astype(int) if padded else np.full(rows, length)
    mask = (np.arange(length) < ends[:, None]).astype(np.int32)
    assert model.vocab_size is not None
    ids = rng.integers(1, model.vocab_size, (rows, length)).astype(np.int32) * mask
    segments = (np.arange(length) >= ends[:, None] // 2).astype(np.int32) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def loaded(folder: Path, kind: str, **settings: Any) -> tuple[Any, Mapping[str, Any]]:
    """Their model, and what they had to say about loading it."""
    import torch
    import transformers

    torch.set_num_threads(2)
    model, told = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True, **settings)
    return model.eval(), told


def theirs(model: Any, inputs: Mapping[str, np.ndarray]) -> Any:
    import torch

    with torch.no_grad():
        return model(**{name: torch.from_numpy(value).long() for name, value in inputs.items()})


def filled(module: Any, weights: Weights) -> Any:
    """A model of ours with the weights of a checkpoint, each of its variables."""
    for name, variable in {**module.encoder.weights, **module.weights}.items():
        variable.assign(weights.values[name])
    return module


def apart(ours: tf.Tensor, other: Any) -> float:
    return float(np.max(np.abs(ours.numpy() - other.numpy())))


def furthest(weights: Weights, model: Any) -> float:
    """The largest difference of a logit of the heads of pre-training, at any place, with padding and without."""
    config = model_of(weights.model or {})
    ours = filled(PretrainingModel(config), weights)
    found = []
    for padded in (False, True):
        inputs = batch(config, padded=padded)
        places = np.tile(np.arange(inputs["input_ids"].shape[1]), (len(inputs["input_ids"]), 1))
        output, expected = ours(*map(tf.constant, inputs.values()), places), theirs(model, inputs)
        found.append(apart(output.masked_lm_BPV, expected.prediction_logits))
        found.append(apart(output.next_sentence_B2, expected.seq_relationship_logits))
        assert 0.5 < float(tf.reduce_max(tf.abs(output.masked_lm_BPV))) < 20
    return max(found)


def check_pretraining(weights: Weights, model: Any) -> None:
    assert furthest(weights, model) <= TOLERANCE


def check_span(weights: Weights, model: Any) -> None:
    config = model_of(weights.model or {})
    ours = filled(SpanModel(config, seed=0, dtype="float32"), weights)
    for padded in (False, True):
        inputs = batch(config, padded=padded)
        found, expected = ours(*map(tf.constant, inputs.values())), theirs(model, inputs)
        for part, other in zip(found, (expected.start_logits, expected.end_logits), strict=True):
            assert apart(part, other) <= TOLERANCE
            assert float(tf.reduce_max(tf.abs(part))) > 0.05


def check_classifier(weights: Weights, model: Any) -> None:
    config = model_of(weights.model or {})
    ours = filled(ClassifierModel(config, num_outputs=3, dropout_rate=0.1, seed=0, dtype="float32"), weights)
    inputs = batch(config, padded=True)
    assert apart(ours(*map(tf.constant, inputs.values())), theirs(model, inputs).logits) <= TOLERANCE


CHECKS: dict[str, Callable[[Weights, Any], None]] = {
    "MobileBertForPreTraining": check_pretraining,
    "MobileBertForQuestionAnswering": check_span,
    "MobileBertForSequenceClassification": check_classifier,
}


def check_what_we_write(config: ModelConfig, folder: Path) -> None:
    """Their models load it, miss nothing, leave nothing but other heads, and compute the same."""
    weights = random_weights(config, with_every_head(config))
    hugging_face.write(weights, folder)
    for kind, check in CHECKS.items():
        classes = {"num_labels": 3} if kind == "MobileBertForSequenceClassification" else {}
        model, told = loaded(folder, kind, **classes)
        assert not told["missing_keys"] and not told["mismatched_keys"]
        assert all(
            key.startswith(("cls.", "qa_", "classifier.", "mobilebert.pooler")) for key in told["unexpected_keys"]
        )
        check(weights, model)


@pytest.mark.parametrize("name", MODELS)
def test_their_models_compute_the_same_with_what_we_write(name: str, tmp_path: Path) -> None:
    kind, changes, layers = MODELS[name]
    check_what_we_write(preset(kind, *changes, layers=layers), tmp_path / "there")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opt", "tiny", "multilingual", "base"])
def test_their_models_compute_the_same_at_full_depth_and_vocabulary(name: str, tmp_path: Path) -> None:
    kind, changes, _ = MODELS[name]
    check_what_we_write(preset(kind, *changes, layers=None, vocabulary=None), tmp_path / "there")


def made_there(kind: str, folder: Path, config: ModelConfig | None = None) -> Any:
    """A model of theirs, of a config of theirs, with random weights, that they write."""
    import torch
    import transformers

    config = config or narrow("opt")
    written(folder, config)
    reconfigure(folder)
    classes = {"num_labels": 3} if kind == "MobileBertForSequenceClassification" else {}
    settings = transformers.MobileBertConfig.from_pretrained(folder, **classes)
    model = getattr(transformers, kind)(settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    for file in folder.iterdir():
        file.unlink()
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("name", ["opt", "base", "tiny"])
def test_what_they_write_computes_the_same_here(name: str, kind: str, tmp_path: Path) -> None:
    model = made_there(kind, tmp_path / "there", narrow(name))
    weights = hugging_face.read(tmp_path / "there")
    assert weights.ignored == () and not weights.faults
    CHECKS[kind](weights, model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_bare_encoder_of_theirs_is_read(attention: str, tmp_path: Path) -> None:
    made_there("MobileBertModel", tmp_path / "there")
    assert "embeddings.LayerNorm.weight" in tensors(tmp_path / "there"), "without a prefix"
    weights = hugging_face.read(tmp_path / "there")
    config = model_of(weights.model or {})
    encoder = MobileBertEncoder(config)
    for name, variable in encoder.weights.items():
        variable.assign(weights.values[name])
    model, _ = loaded(tmp_path / "there", "MobileBertModel", attn_implementation=attention)
    inputs = batch(config, padded=True)
    found = encoder(*map(tf.constant, inputs.values()), all_layers=True)
    import torch

    with torch.no_grad():
        expected = model(
            **{name: torch.from_numpy(value).long() for name, value in inputs.items()}, output_hidden_states=True
        )
    assert found.hidden_ABLH is not None and len(expected.hidden_states) == config.num_layers + 1
    for ours, hidden in zip(tf.unstack(found.hidden_ABLH), expected.hidden_states, strict=True):
        assert apart(ours, hidden) <= TOLERANCE
    assert apart(found.pooled_BH, expected.pooler_output) <= TOLERANCE


def test_several_files_of_theirs_are_read(tmp_path: Path) -> None:
    model = made_there("MobileBertForPreTraining", tmp_path / "there")
    whole = hugging_face.read(tmp_path / "there")
    model.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    found = hugging_face.read(tmp_path / "parts")
    assert same(dataclasses.replace(found, model=None), dataclasses.replace(whole, model=None))


def test_a_checkpoint_of_theirs_comes_back_to_them_unchanged(tmp_path: Path) -> None:
    made_there("MobileBertForPreTraining", tmp_path / "there")
    hugging_face.write(hugging_face.read(tmp_path / "there"), tmp_path / "back")
    first, second = tensors(tmp_path / "there"), tensors(tmp_path / "back")
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    one, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("there", "back"))
    extras = {"mobilebert_exp", "transformers_version", "dtype", "_name_or_path"}
    differing = {key for key in one.keys() & other.keys() if one[key] != other[key]} - extras
    assert differing == set()


# What differs by design.


@pytest.mark.parametrize(("scale", "at_least"), [(1.0, 2 * TOLERANCE), (0.01, 0.1)])
def test_two_norms_of_theirs_add_another_epsilon(scale: float, at_least: float, tmp_path: Path) -> None:
    """Their `layer_norm_eps` does not reach the norms of embeddings and of the last feed-forward network."""
    config = narrow("base")
    weights = random_weights(config)
    embeddings = {name for name in weights.values if name.startswith("embeddings/") and "/norm/" not in name}
    values = {name: value * np.float32(scale if name in embeddings else 1) for name, value in weights.values.items()}
    hugging_face.write(dataclasses.replace(weights, values=values), tmp_path / "there")
    as_here = hugging_face.read(tmp_path / "there")
    reconfigure(tmp_path / "there")
    as_there = hugging_face.read(tmp_path / "there")
    model, _ = loaded(tmp_path / "there", "MobileBertForPreTraining")
    assert furthest(as_there, model) <= TOLERANCE
    assert furthest(as_here, model) > at_least


def test_gelu_is_another_function_there(tmp_path: Path) -> None:
    weights = random_weights(narrow("base", "hugging_face_norms=true"))
    hugging_face.write(weights, tmp_path / "there")
    stated = json.loads((tmp_path / "there" / "config.json").read_text())
    assert stated["hidden_act"] == "gelu_new"
    model, _ = loaded(tmp_path / "there", "MobileBertForPreTraining")
    assert furthest(weights, model) <= TOLERANCE
    reconfigure(tmp_path / "there", hidden_act="gelu")
    model, _ = loaded(tmp_path / "there", "MobileBertForPreTraining")
    assert furthest(weights, model) > 2 * TOLERANCE
    assert furthest(hugging_face.read(tmp_path / "there"), model) <= TOLERANCE


def test_padding_is_hidden_alike_unless_a_row_holds_nothing_else(tmp_path: Path) -> None:
    """-10000 or the smallest number: both leave a probability of 0, as long as there is a token to attend to."""
    config = narrow("opt")
    weights = random_weights(config)
    hugging_face.write(weights, tmp_path / "there")
    encoder = MobileBertEncoder(config)
    for name, variable in encoder.weights.items():
        variable.assign(weights.values[name])
    model, _ = loaded(tmp_path / "there", "MobileBertModel", attn_implementation="eager")
    inputs = batch(config, padded=True)
    empty = {**inputs, "attention_mask": np.zeros_like(inputs["attention_mask"])}
    for given, is_alike in ((inputs, True), (empty, False)):
        found = encoder(*map(tf.constant, given.values())).sequence_BLH
        assert (apart(found, theirs(model, given).last_hidden_state) <= TOLERANCE) is is_alike


def test_the_teacher_is_carried_but_cannot_be_run_there(tmp_path: Path) -> None:
    config = narrow("teacher", "intra_bottleneck_size=32")
    weights = random_weights(config)
    hugging_face.write(weights, tmp_path / "there")
    assert same(hugging_face.read(tmp_path / "there"), weights)
    model, _ = loaded(tmp_path / "there", "MobileBertForPreTraining", ignore_mismatched_sizes=True)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        theirs(model, batch(config, padded=False))


def test_their_tokenizer_reads_our_vocabulary(tmp_path: Path) -> None:
    import transformers

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        "the",
        "##s",
        "##ing",
        "é",
        ",",
    ]
    content = "".join(f"{word}\n" for word in words).encode()
    for lower_case in (True, False):
        folder = written(tmp_path / str(lower_case), vocabulary=content, lower_case=lower_case)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ours = Tokenizer.from_file(folder / "vocab.txt", lower_case=lower_case)
        for text in ("The as", "a, b é bing E"):
            ids = tokenizer(text)["input_ids"]
            assert ids[1:-1] == ours.encode(text)
        tokenizer.save_pretrained(tmp_path / f"again {lower_case}")
        (tmp_path / f"again {lower_case}" / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()
        )
        found = hugging_face.read(tmp_path / f"again {lower_case}")
        assert (found.vocabulary, found.lower_case) == (content, lower_case)
