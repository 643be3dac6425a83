"""SavedModels: they compute as the model did, are fine-tuned through TF-Hub, and are read back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub
import tf_keras
from invented_weights import PRESETS, VOCABULARY, assert_same_values, assign, every_head, invented, narrow
from official.projects.mobilebert import export_tfhub, model_utils
from test_encoder_parity import batch, difference, keyed, preset

from mobilebert_exp import original_json
from mobilebert_exp.config import ModelConfig
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import hub, saved_model, tf_models
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.heads import ClassifierModel, SpanModel
from mobilebert_exp.modeling.pretrainer import PretrainingModel
from mobilebert_exp.modeling.variables import classifier_variables, encoder_variables, span_variables

TOLERANCE = 2e-5
POSITIONS = tf.constant([[1, 5, 5, 0], [0, 2, 4, 1], [0, 1, 0, 0]])
ORIGINAL_NAMES = ("input_ids", "input_mask", "segment_ids")


def there_and_back(format_: Any, folder: Path, weights: Weights) -> None:
    format_.write(weights, folder)
    assert saved_model.recognises(folder)
    found = saved_model.read(folder)
    assert_same_values(found, weights)
    assert (found.model, found.head, found.ignored) == (weights.model, weights.head, ())
    assert (found.vocabulary, found.lower_case) == (weights.vocabulary, weights.lower_case)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


@pytest.mark.parametrize("name", PRESETS)
def test_there_and_back_changes_no_bit(name: str, tmp_path: Path) -> None:
    config = narrow(name)
    weights = invented(config, every_head(config), head="spans", vocabulary=VOCABULARY, lower_case=False)
    there_and_back(saved_model, tmp_path / "there", weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("opt",))
def test_there_and_back_at_full_depth_and_vocabulary(name: str, tmp_path: Path) -> None:
    config = preset(name)
    there_and_back(hub, tmp_path / "there", invented(config, every_head(config)))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    config = narrow("opt")
    config.attention_dropout = 0.3
    return config


@pytest.fixture(scope="module")
def weights(config: ModelConfig) -> Weights:
    return invented(config, vocabulary=VOCABULARY, lower_case=True)


@pytest.fixture(scope="module")
def exported(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "there"
    there_and_back(hub, folder, weights)
    return folder


@pytest.fixture(scope="module")
def model(config: ModelConfig, weights: Weights) -> PretrainingModel:
    model = PretrainingModel(config)
    assign(model, weights)
    return model


@pytest.mark.parametrize("padded", [False, True])
def test_the_object_computes_as_the_model(
    exported: Path, model: PretrainingModel, config: ModelConfig, padded: bool
) -> None:
    inputs = batch(config, rows=3, length=20, padded=padded)
    expected = model(*inputs, POSITIONS, all_layers=True)
    loaded = tf.saved_model.load(str(exported))
    found = loaded(keyed(inputs), training=False)
    assert difference(found["sequence_output"], expected.encoded.sequence_BLH) <= TOLERANCE
    assert difference(found["pooled_output"], expected.encoded.pooled_BH) <= TOLERANCE
    np.testing.assert_array_equal(found["default"], found["pooled_output"])
    assert difference(tf.stack(found["encoder_outputs"]), expected.encoded.hidden_ABLH) <= TOLERANCE
    hidden = float(tf.reduce_min(expected.encoded.scores_ABNLM)) / 2  # pre-softmax scores of padding are huge
    assert difference(tf.nn.softmax(found["attention_scores"]), tf.nn.softmax(expected.encoded.scores_ABNLM)) <= 1e-5
    assert padded == (float(tf.reduce_min(found["attention_scores"])) <= min(hidden, -1e8))
    words = loaded.mlm({**keyed(inputs), "masked_lm_positions": POSITIONS}, training=False)
    assert difference(words["mlm_logits"], expected.masked_lm_BPV) <= TOLERANCE
    assert difference(words["next_sentence"], expected.next_sentence_B2) <= TOLERANCE
    np.testing.assert_array_equal(words["pooled_output"], found["pooled_output"])


def test_the_signatures_compute_as_the_model(exported: Path, model: PretrainingModel, config: ModelConfig) -> None:
    inputs = batch(config, rows=3, length=20, padded=True)
    expected = model(*inputs, POSITIONS, all_layers=True)
    signatures = tf.saved_model.load(str(exported)).signatures
    assert set(signatures) == {"serving_default", "tokens", "mlm", "tokenization_info"}
    whole = signatures["serving_default"](**keyed(inputs))
    assert set(whole) == {"sequence_output", "pooled_output", "encoder_outputs", "attention_scores"}
    assert difference(whole["encoder_outputs"], tf.transpose(expected.encoded.hidden_ABLH, [1, 0, 2, 3])) <= TOLERANCE
    assert whole["attention_scores"].shape == (3, 2, 4, 20, 20)
    named = dict(zip(ORIGINAL_NAMES, inputs, strict=True))
    tokens = signatures["tokens"](**named)
    assert set(tokens) == {"sequence_output", "pooled_output"}
    assert difference(tokens["sequence_output"], expected.encoded.sequence_BLH) <= TOLERANCE
    words = signatures["mlm"](**named, mlm_positions=POSITIONS)
    assert set(words) == {"sequence_output", "pooled_output", "mlm_logits", "next_sentence"}
    assert difference(words["mlm_logits"], expected.masked_lm_BPV) <= TOLERANCE


def test_it_carries_its_vocabulary(exported: Path) -> None:
    loaded = tf.saved_model.load(str(exported))
    assert Path(loaded.vocab_file.asset_path.numpy().decode()).read_bytes() == VOCABULARY
    assert loaded.do_lower_case.numpy() == np.True_
    told = loaded.signatures["tokenization_info"]()
    assert Path(told["vocab_file"].numpy().decode()) == exported / "assets" / "vocab.txt"
    assert bool(told["do_lower_case"])


def test_it_carries_its_model_file(exported: Path, weights: Weights) -> None:
    beside = json.loads((exported / "assets.extra" / "bert_config.json").read_text(encoding="utf-8"))
    assert weights.model is not None
    assert beside == original_json.original(weights.model)


@pytest.mark.slow
def test_it_is_fine_tuned_through_hub(exported: Path, config: ModelConfig) -> None:
    """As a layer of a Keras model: every variable of the encoder is listed, has a gradient and moves."""
    layer = tensorflow_hub.KerasLayer(str(exported), trainable=True)
    sizes = [np.prod(spec.shape) for spec in encoder_variables(config)]
    assert sum(np.prod(variable.shape) for variable in layer.trainable_weights) == sum(sizes)
    assert not layer.non_trainable_weights
    names = ("input_word_ids", "input_mask", "input_type_ids")
    inputs = {name: tf_keras.Input([None], dtype=tf.int32, name=name) for name in names}
    answers = layer(inputs)
    pair = tf_keras.layers.Dense(2)(answers["pooled_output"]) + answers["sequence_output"][:, 1, :2]
    network = tf_keras.Model(inputs, pair)
    network.compile(tf_keras.optimizers.legacy.SGD(0.01), tf_keras.losses.SparseCategoricalCrossentropy(True))
    before = [variable.numpy() for variable in layer.trainable_weights]
    features = keyed(batch(config, rows=4, length=9, padded=True))
    labels = tf.constant([0, 1, 1, 0])
    untrained = network.evaluate(features, labels, verbose=0)
    network.fit(features, labels, epochs=5, verbose=0)
    assert network.evaluate(features, labels, verbose=0) < untrained
    still = [
        variable.name
        for variable, old in zip(layer.trainable_weights, before, strict=True)
        if np.array_equal(variable, old) and "attention/key/bias" not in variable.name
    ]
    assert still == []


def test_gradients_are_the_models(exported: Path, model: PretrainingModel, config: ModelConfig) -> None:
    inputs = batch(config, rows=3, length=20, padded=True)
    loaded = tf.saved_model.load(str(exported))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(loaded(keyed(inputs), training=False)["sequence_output"]))
    with tf.GradientTape() as our_tape:
        our_loss = tf.reduce_mean(tf.square(model.encoder(*inputs).sequence_BLH))
    weights = model.encoder.weights
    ours = our_tape.gradient(our_loss, list(weights.values()))
    theirs = tape.gradient(loss, [loaded.encoder.weights[name] for name in weights])
    for name, expected, found in zip(weights, ours, theirs, strict=True):
        scale = float(tf.reduce_max(tf.abs(tf.convert_to_tensor(expected))))
        gap = difference(tf.convert_to_tensor(found), tf.convert_to_tensor(expected))
        assert gap <= 1e-3 * scale + 1e-7, name


def test_training_drops_and_serving_does_not(exported: Path, config: ModelConfig) -> None:
    inputs = keyed(batch(config, rows=3, length=20, padded=False))
    loaded = tf.saved_model.load(str(exported))
    first, second = (loaded(inputs, training=True)["sequence_output"] for _ in range(2))
    assert difference(first, second) > 1e-3
    np.testing.assert_array_equal(*(loaded(inputs, training=False)["sequence_output"] for _ in range(2)))
    np.testing.assert_array_equal(loaded(inputs)["pooled_output"], loaded(inputs, training=False)["pooled_output"])


@pytest.mark.slow
def test_without_heads_of_pre_training_there_is_no_mlm(config: ModelConfig, tmp_path: Path) -> None:
    hub.write(invented(config, []), tmp_path / "there")
    loaded = tf.saved_model.load(str(tmp_path / "there"))
    assert not hasattr(loaded, "mlm")
    assert set(loaded.signatures) == {"serving_default", "tokens"}


def served(folder: Path, inputs: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
    loaded = tf.saved_model.load(str(folder))
    assert set(loaded.signatures) == {"serving_default"}
    signature = loaded.signatures["serving_default"]
    assert {spec.dtype for spec in signature.structured_input_signature[1].values()} == {tf.int32}
    answers: dict[str, tf.Tensor] = signature(**dict(zip(ORIGINAL_NAMES, inputs, strict=True)))
    return answers


@pytest.mark.parametrize("name", ["opt", "teacher"])
def test_spans_are_served(name: str, tmp_path: Path) -> None:
    config = narrow(name, layers=1)
    weights = invented(config, span_variables(config))
    saved_model.write(weights, tmp_path / "there")
    model = SpanModel(config, seed=0, dtype="float32")
    assign(model, weights)
    for rows in (1, 3):
        inputs = batch(config, rows=rows, length=20, padded=True)
        found = served(tmp_path / "there", inputs)
        assert set(found) == {"start_logits", "end_logits"}
        for key, expected in zip(("start_logits", "end_logits"), model(*inputs), strict=True):
            assert difference(found[key], expected) <= TOLERANCE


@pytest.mark.parametrize(("name", "num_outputs", "answer"), [("teacher", 3, "probabilities"), ("opt", 1, "scores")])
def test_classes_and_scores_are_served(name: str, num_outputs: int, answer: str, tmp_path: Path) -> None:
    config = narrow(name, layers=1)
    weights = invented(config, classifier_variables(config, num_outputs=num_outputs))
    saved_model.write(weights, tmp_path / "there")
    model = ClassifierModel(config, num_outputs=num_outputs, dropout_rate=0.1, seed=0, dtype="float32")
    assign(model, weights)
    inputs = batch(config, rows=3, length=20, padded=True)
    found, logits = served(tmp_path / "there", inputs), model(*inputs)
    assert set(found) == {answer}
    assert difference(found[answer], tf.nn.softmax(logits) if num_outputs > 1 else logits) <= TOLERANCE


def test_an_encoder_alone_is_served(tmp_path: Path, config: ModelConfig) -> None:
    saved_model.write(invented(config, []), tmp_path / "there")
    found = served(tmp_path / "there", batch(config, rows=2, length=9, padded=False))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "sequence_output": (2, 9, 32),
        "pooled_output": (2, 32),
    }


@pytest.mark.slow
def test_the_export_of_tf_models_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Keras model, with the head for masked words, the vocabulary and its casing."""
    monkeypatch.setattr(model_utils, "tf_keras", tf_keras, raising=False)
    config = narrow("opt")
    weights = invented(config, vocabulary=VOCABULARY)
    tf_models.write(weights, tmp_path / "ours")
    export_tfhub.export_bert_tfhub(
        model_utils.BertConfig.from_json_file(str(tmp_path / "ours" / "bert_config.json")),
        str(tmp_path / "ours" / "mobilebert.ckpt-1"),
        str(tmp_path / "there"),
        str(tmp_path / "ours" / "vocab.txt"),
        do_lower_case=False,
    )
    found = saved_model.read(tmp_path / "there")
    values = {name: value for name, value in weights.values.items() if not name.startswith("heads/next_sentence/")}
    assert_same_values(found, Weights(values=values))
    assert found.model == {"num_heads": 4, "normalization": "no_norm"}
    assert (found.vocabulary, found.lower_case) == (VOCABULARY, False)


def test_a_module_of_tensorflow_1_is_read(tmp_path: Path) -> None:
    """Its variables bear the original names, in the checkpoint of a SavedModel."""
    from mobilebert_exp.modeling.checkpoints import tf1

    config = narrow("opt")
    weights = invented(config)
    tf1.write(weights, tmp_path / "checkpoint")
    reader = tf.train.load_checkpoint(str(tmp_path / "checkpoint"))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name in reader.get_variable_to_shape_map():
            tf.compat.v1.get_variable(f"module/{name}", initializer=reader.get_tensor(name), use_resource=False)
        builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "there"))
        session.run(tf.compat.v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, [])
        builder.save()
    (tmp_path / "there" / "assets").mkdir()
    (tmp_path / "there" / "assets" / "vocab.txt").write_bytes(VOCABULARY)
    found = saved_model.read(tmp_path / "there")
    assert_same_values(found, weights)
    assert found.vocabulary == VOCABULARY


def test_another_saved_model_is_refused(tmp_path: Path) -> None:
    module = tf.Module()
    module.x = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "there"))
    with pytest.raises(CheckpointError, match="holds no MobileBERT encoder"):
        saved_model.read(tmp_path / "there")
    for file in (tmp_path / "there" / "variables").iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match="is a SavedModel without variables"):
        saved_model.read(tmp_path / "there")
