"""Checkpoints of Hugging Face, in and out, without PyTorch; what they compute is in `test_hugging_face_parity`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hugging_face_files import (
    forged,
    narrow,
    preset,
    random_weights,
    reconfigure,
    rewrite,
    same,
    tensors,
    with_every_head,
    written,
)

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import hugging_face

PRESETS = ("opt", "tiny", "teacher", "base", "multilingual")


QUERY = "mobilebert.encoder.layer.1.attention.self.query.weight"


def there_and_back(model: ModelConfig, folder: Path) -> None:
    weights = random_weights(
        model, with_every_head(model), head="GLUE CoLA: 0, 1, 2", vocabulary=b"[PAD]\n\xc3\xa9\n", lower_case=False
    )
    hugging_face.write(weights, folder)
    assert hugging_face.recognises(folder)
    assert same(hugging_face.read(folder), weights)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "who may read one may read all"


@pytest.mark.parametrize("name", PRESETS)
def test_there_and_back_changes_no_bit(name: str, tmp_path: Path) -> None:
    there_and_back(preset(name), tmp_path / "there")


def test_names_and_layouts_are_theirs(tmp_path: Path) -> None:
    model = narrow("opt")
    weights = random_weights(model, with_every_head(model))
    hugging_face.write(weights, tmp_path / "there")
    found, values = tensors(tmp_path / "there"), weights.values
    expected = {
        "mobilebert.embeddings.word_embeddings.weight": values["embeddings/word/table"],
        "mobilebert.embeddings.embedding_transformation.weight": values["embeddings/projection/kernel"].T,
        "mobilebert.embeddings.LayerNorm.bias": values["embeddings/norm/beta"],
        QUERY: values["layers/attention/query/kernel"][1].T,
        "mobilebert.encoder.layer.0.bottleneck.attention.LayerNorm.weight":
            values["layers/bottleneck_query_key/norm/gamma"][0],
        "mobilebert.encoder.layer.0.attention.output.LayerNorm.weight": values["layers/attention/norm/gamma"][0],
        "mobilebert.encoder.layer.1.ffn.2.intermediate.dense.weight": values["layers/ffn_2/intermediate/kernel"][1].T,
        "mobilebert.encoder.layer.1.output.dense.bias": values["layers/ffn_3/output/bias"][1],
        "mobilebert.encoder.layer.1.output.bottleneck.dense.weight": values["layers/bottleneck_output/kernel"][1].T,
        "cls.predictions.dense.weight": values["heads/masked_lm/extra/table"].T,
        "cls.predictions.bias": values["heads/masked_lm/output/bias"],
        "cls.seq_relationship.weight": values["heads/next_sentence/kernel"].T,
        "qa_outputs.weight": values["heads/span/kernel"].T,
        "classifier.bias": values["heads/classifier/bias"],
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert found["cls.predictions.dense.weight"].shape == (8, 23)


def test_names_without_a_prefix_and_of_old_files_are_known(tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    weights = hugging_face.read(folder)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    bare = {}
    for name, value in tensors(folder).items():
        name = name.removeprefix("mobilebert.")
        bare[next((name.replace(new, was) for new, was in old.items() if new in name), name)] = value
    rewrite(folder, bare)
    assert same(hugging_face.read(folder), weights)


def test_what_is_left_over_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    values, weights = tensors(folder), hugging_face.read(folder)
    more: dict[str, np.ndarray] = {
        "mobilebert.embeddings.position_ids": np.arange(16)[None],
        "lm_head": np.zeros(3, np.float32),
    }
    rewrite(folder, values | more)
    found = hugging_face.read(folder)
    assert found.ignored == tuple(sorted(more))
    assert same(dataclasses.replace(found, ignored=()), weights)


def test_a_head_that_is_not_as_ours_is_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "there"
    model = narrow("opt")
    hugging_face.write(random_weights(model, with_every_head(model)), folder)
    values = tensors(folder)
    values["cls.predictions.decoder.weight"] = values["mobilebert.embeddings.word_embeddings.weight"] + 1
    rewrite(folder, values)
    reconfigure(folder, architectures=["MobileBertForTokenClassification"])
    found = hugging_face.read(folder)
    assert {"heads/span/kernel", "heads/next_sentence/bias"} < found.values.keys()
    assert not any(name.startswith(("heads/masked_lm", "heads/classifier")) for name in found.values)
    assert set(found.ignored) == {name for name in values if name.startswith(("cls.predictions.", "classifier."))}
    assert "cls.predictions.decoder.weight is no copy of embeddings.word_embeddings.weight" in caplog.text


@pytest.mark.parametrize("kept", ["both", "original", "copy"])
def test_a_tied_decoder_is_the_word_table(kept: str, tmp_path: Path) -> None:
    """Files hold both names of what is one tensor there, or the one that happened to be kept."""
    folder = written(tmp_path / "there")
    values, weights = tensors(folder), hugging_face.read(folder)
    pairs = {
        "mobilebert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    }
    for original, copy in pairs.items():
        if kept != "original":
            values[copy] = values[original]
        if kept == "copy":
            del values[original]
    rewrite(folder, values)
    assert same(hugging_face.read(folder), weights)


def test_a_file_alone_is_read_with_the_config_beside_it_or_without(tmp_path: Path) -> None:
    folder = written(tmp_path / "there", narrow("tiny"))
    weights = hugging_face.read(folder)
    file = (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert hugging_face.recognises(file) and not hugging_face.recognises(folder)
    assert same(hugging_face.read(file), weights)
    (folder / "config.json").unlink()
    found = hugging_face.read(file)
    assert found.model is None
    assert same(found, dataclasses.replace(weights, model=None))
    with pytest.raises(CheckpointError, match="does not say which architecture it is of; name one"):
        hugging_face.write(found, tmp_path / "again")


def split(folder: Path) -> dict[str, str]:
    """Makes two files and an index of the one; returns which name lies where."""
    values = tensors(folder)
    parts = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(values)}
    for part in set(parts.values()):
        rewrite(folder, {name: value for name, value in values.items() if parts[name] == part})
        (folder / "model.safetensors").rename(folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    return parts


def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    weights = hugging_face.read(folder)
    split(folder)
    assert hugging_face.recognises(folder)
    assert same(hugging_face.read(folder), weights)
    assert same(hugging_face.read(folder / "model.safetensors.index.json"), weights)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_widths_become_float32(kind: type[np.floating[Any]], tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    values: dict[str, np.ndarray] = {name: value.astype(kind) for name, value in tensors(folder).items()}
    rewrite(folder, values)
    found = hugging_face.read(folder).values["layers/attention/query/kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[1].T, values[QUERY].astype(np.float32))


def test_bfloat16_is_read_to_the_bit(tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    cut = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in tensors(folder).items()}
    header: dict[str, Any] = {}
    data = b""
    for name, value in cut.items():
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    (folder / "model.safetensors").write_bytes(forged(header, data))
    found = hugging_face.read(folder).values["layers/attention/query/kernel"][1].T
    np.testing.assert_array_equal(np.ascontiguousarray(found).view(np.uint32) >> 16, cut[QUERY])


def test_safetensors_count_before_what_lies_beside_them(tmp_path: Path) -> None:
    folder = written(tmp_path / "there")
    weights = hugging_face.read(folder)
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert same(hugging_face.read(folder), weights)
