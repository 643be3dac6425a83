"""`load_pretrainer` and `load_encoder`: the original's restore snippet, for checkpoints of every format."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from invented_weights import assign, invented, narrow
from test_encoder_parity import batch, keyed

import mobilebert_exp
from mobilebert_exp import original_json
from mobilebert_exp.config import ModelConfig, leaves
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import write_json
from mobilebert_exp.modeling.checkpoints import formats, tf_models
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.pretrainer import PretrainingModel

POSITIONS = tf.constant([[1, 5, 5, 0], [0, 2, 4, 1]])
OTHERS = {"hub"}  # is read as a savedmodel is
FORMATS = sorted(set(formats.MODULES) - OTHERS)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return narrow("opt", mask_value=-10000.0)


@pytest.fixture(scope="module")
def weights(config: ModelConfig) -> Weights:
    return invented(config)


@pytest.fixture(scope="module")
def config_json(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("json") / "opt.json"
    write_json(file, original_json.original(leaves(config)))
    return file


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_loaded(
    name: str, config: ModelConfig, weights: Weights, config_json: Path, tmp_path: Path
) -> None:
    formats.named(name).write(weights, tmp_path / "there")
    pretrainer = mobilebert_exp.load_pretrainer(config_json, tmp_path / "there")
    expected = PretrainingModel(config)
    assign(expected, weights)
    inputs = batch(config, rows=2, length=9, padded=True)
    found = pretrainer({**keyed(inputs), "masked_lm_positions": POSITIONS}, all_layers=True)
    by_model = expected(*inputs, POSITIONS, all_layers=True)
    np.testing.assert_array_equal(found["mlm_logits"], by_model.masked_lm_BPV)
    np.testing.assert_array_equal(found["next_sentence"], by_model.next_sentence_B2)
    np.testing.assert_array_equal(found["encoder_outputs"], by_model.encoded.hidden_ABLH)
    np.testing.assert_array_equal(found["attention_scores"], by_model.encoded.scores_ABNLM)
    encoder = mobilebert_exp.load_encoder(tmp_path / "there", config_json=config_json)
    np.testing.assert_array_equal(encoder(*inputs).pooled_BH, found["pooled_output"])
    np.testing.assert_array_equal(pretrainer.encoder(*inputs).sequence_BLH, found["sequence_output"])


def test_the_original_snippet(weights: Weights, config_json: Path, tmp_path: Path) -> None:
    """A model file, a pretrainer, a checkpoint over its items, restored, every object of it matched."""
    tf_models.write(weights, tmp_path / "theirs")
    pretrainer = mobilebert_exp.load_pretrainer(config_json, tmp_path / "theirs")
    words = pretrainer.encoder.weights["embeddings/word/table"]
    words.assign(tf.zeros_like(words))
    checkpoint = tf.train.Checkpoint(**pretrainer.checkpoint_items)
    checkpoint.restore(str(tmp_path / "theirs" / "mobilebert.ckpt-1")).assert_existing_objects_matched()
    np.testing.assert_array_equal(words, weights.values["embeddings/word/table"])


def test_a_checkpoint_that_knows_its_architecture_needs_no_file(weights: Weights, tmp_path: Path) -> None:
    tf_models.write(weights, tmp_path / "there")
    assert mobilebert_exp.load_encoder(str(tmp_path / "there")).config.num_layers == 2
    (tmp_path / "there" / "bert_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"there does not say its architecture \(\w+\); give its config_json too"):
        mobilebert_exp.load_encoder(tmp_path / "there")


def test_a_missing_head_for_next_sentences_starts_anew(
    config: ModelConfig, weights: Weights, config_json: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {name: value for name, value in weights.values.items() if not name.startswith("heads/next_sentence/")}
    tf_models.write(Weights(values=values, model=leaves(config)), tmp_path / "there")
    with caplog.at_level(logging.WARNING):
        pretrainer = mobilebert_exp.load_pretrainer(config_json, tmp_path / "there")
    assert "has no head for next sentences" in caplog.text
    assert float(tf.norm(pretrainer.model.weights["heads/next_sentence/kernel"])) > 0


def test_a_missing_head_for_masked_words_is_an_error(config: ModelConfig, config_json: Path, tmp_path: Path) -> None:
    tf_models.write(invented(config, []), tmp_path / "there")
    with pytest.raises(CheckpointError, match="lacks heads/masked_lm/"):
        mobilebert_exp.load_pretrainer(config_json, tmp_path / "there")


def test_another_architecture_is_an_error(weights: Weights, tmp_path: Path) -> None:
    tf_models.write(weights, tmp_path / "there")
    other = narrow("opt", layers=3)
    write_json(tmp_path / "three.json", original_json.original(leaves(other)))
    with pytest.raises(CheckpointError, match=r"num_layers=2, not 3"):
        mobilebert_exp.load_pretrainer(tmp_path / "three.json", tmp_path / "there")
