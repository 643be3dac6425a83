"""Checkpoints of tf-models: its classes restore what we write, we read what they save, and both compute the same."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from invented_weights import PRESETS, VOCABULARY, assert_same_values, assign, every_head, invented, narrow
from official.nlp.modeling import layers, models, networks
from official.projects.mobilebert import model_utils
from tensorflow.core.protobuf import trackable_object_graph_pb2
from test_encoder_parity import batch, difference, keyed, original, preset

import mobilebert_exp
from mobilebert_exp import original_json
from mobilebert_exp.config import Activation, ModelConfig
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import prefixes, tf1, tf_models, tf_models_items
from mobilebert_exp.modeling.checkpoints.object_graph import ObjectGraph
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.pretrainer import PretrainingModel
from mobilebert_exp.modeling.variables import classifier_variables, pretraining_variables, span_variables

TOLERANCE = 2e-5
POSITIONS = tf.constant([[1, 5, 5, 0], [0, 2, 4, 1], [0, 1, 0, 0]])


@pytest.fixture(autouse=True)
def _mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As shipped, `create_mobilebert_pretrainer` uses a name that its module does not import."""
    monkeypatch.setattr(model_utils, "tf_keras", tf_keras, raising=False)


def official(folder: Path) -> models.BertPretrainerV2:
    """tf-models' own model of pre-training, from the JSON file that lies beside a checkpoint."""
    return model_utils.create_mobilebert_pretrainer(
        model_utils.BertConfig.from_json_file(str(folder / "bert_config.json"))
    )


def written(folder: Path, weights: Weights) -> Path:
    tf_models.write(weights, folder)
    return folder


def restored(folder: Path) -> models.BertPretrainerV2:
    pretrainer = official(folder)
    checkpoint = tf.train.Checkpoint(**pretrainer.checkpoint_items)
    checkpoint.restore(tf.train.latest_checkpoint(str(folder))).assert_existing_objects_matched()
    return pretrainer


def without_next_sentence(weights: Weights) -> dict[str, np.ndarray]:
    return {name: value for name, value in weights.values.items() if not name.startswith("heads/next_sentence/")}


def check_parity(config: ModelConfig, folder: Path) -> None:
    """tf-models restores ours, and gives the same scores of words; then we read what it saves, and restore it."""
    weights = invented(config)
    theirs, ours = restored(written(folder / "ours", weights)), PretrainingModel(config)
    assign(ours, weights)
    for padded in (False, True):
        inputs = batch(config, rows=3, length=20, padded=padded)
        expected = theirs({**keyed(inputs), "masked_lm_positions": POSITIONS})
        found = ours(*inputs, POSITIONS)
        assert difference(found.masked_lm_BPV, expected["mlm_logits"]) <= TOLERANCE
        assert difference(found.encoded.pooled_BH, expected["pooled_output"]) <= TOLERANCE
        assert 0.1 < float(tf.reduce_max(tf.abs(expected["mlm_logits"]))) < 30
    saved = tf.train.Checkpoint(**theirs.checkpoint_items).save(str(folder / "theirs" / "ckpt"))
    back = tf_models.read(Path(saved))
    assert_same_values(back, Weights(values=without_next_sentence(weights)))
    assert back.ignored == ("save_counter",)
    again = mobilebert_exp.load_pretrainer(folder / "ours" / "bert_config.json", saved)
    for variable in (*again.encoder.weights.values(), *again.model.weights.values()):
        variable.assign(tf.zeros_like(variable))
    tf.train.Checkpoint(**again.checkpoint_items).restore(saved).assert_existing_objects_matched()
    for name in without_next_sentence(weights):
        variable = again.model.weights[name] if name in again.model.weights else again.encoder.weights[name]
        np.testing.assert_array_equal(variable, weights.values[name], err_msg=name)


@pytest.mark.parametrize("name", ["opt", "tiny", "teacher"])
def test_official_classes_restore_ours_and_we_read_theirs(name: str, tmp_path: Path) -> None:
    check_parity(narrow(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("opt", "tiny", "base"))
def test_parity_at_full_depth_and_vocabulary(name: str, tmp_path: Path) -> None:
    check_parity(preset(name), tmp_path)


def test_what_their_code_cannot_be_told_it_passes_over(tmp_path: Path) -> None:
    """It restores a model with the exact GELU, and computes with the other one."""
    config = narrow("base", layers=1)
    exact = dataclasses.replace(config, hidden_act=Activation.gelu_exact)
    theirs = restored(written(tmp_path / "ours", invented(exact)))
    inputs = batch(config, rows=3, length=20, padded=True)
    expected = theirs({**keyed(inputs), "masked_lm_positions": POSITIONS})["mlm_logits"]
    for model, is_theirs in ((config, True), (exact, False)):
        ours = PretrainingModel(model)
        assign(ours, invented(model))
        assert (difference(ours(*inputs, POSITIONS).masked_lm_BPV, expected) <= TOLERANCE) is is_theirs
    assert (tf_models.read(tmp_path / "ours").model or {})["hidden_act"] == "gelu_exact"


def there_and_back(folder: Path, weights: Weights) -> None:
    found = tf_models.read(written(folder, weights))
    assert_same_values(found, weights)
    assert weights.model is not None and found.model is not None
    beside = original_json.original(weights.model)
    assert original_json.original(found.model) == beside
    assert found.vocabulary == weights.vocabulary
    assert found.ignored == ("save_counter",)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


@pytest.mark.parametrize("name", PRESETS)
def test_there_and_back_changes_no_bit(name: str, tmp_path: Path) -> None:
    config = narrow(name)
    folder = tmp_path / "there"
    there_and_back(folder, invented(config, every_head(config), vocabulary=VOCABULARY))
    assert tf_models.recognises(folder) and tf_models.recognises(folder / "mobilebert.ckpt-1")
    assert not tf1.recognises(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("opt", "tiny", "base"))
def test_there_and_back_at_full_depth_and_vocabulary(name: str, tmp_path: Path) -> None:
    config = preset(name)
    there_and_back(tmp_path / "there", invented(config, every_head(config)))


def test_what_is_written_in_parts_is_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "PART_BYTES", 8192)
    there_and_back(tmp_path / "there", invented(narrow("opt")))
    assert len(list((tmp_path / "there").glob("*.data-*"))) > 2
    restored(tmp_path / "there")


def test_embeddings_as_wide_as_the_model_leave_nothing_for_the_extra_table(tmp_path: Path) -> None:
    config = narrow("opt", layers=1)
    config.embedding_size = config.hidden_size
    weights = invented(config)
    assert weights.values["heads/masked_lm/extra/table"].shape == (61, 0)
    there_and_back(tmp_path / "there", weights)


def test_a_checkpoint_alone_tells_its_heads(tmp_path: Path) -> None:
    config = narrow("base", layers=1)
    folder = written(tmp_path / "there", invented(config))
    (folder / "bert_config.json").unlink()
    assert tf_models.read(folder).model == {"num_heads": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 8}, "has num_heads=4, and the model's file beside it says 8"),
        ({"normalization_type": "layer_norm"}, "has normalization=no_norm, and the model's file beside it says layer_"),
    ],
)
def test_a_file_that_contradicts_the_objects_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "there", invented(narrow("opt", layers=1)))
    theirs = tf.train.Checkpoint(**restored(folder).checkpoint_items).save(str(tmp_path / "theirs" / "ckpt"))
    file = Path(shutil.copy(folder / "bert_config.json", tmp_path / "theirs"))
    assert (tf_models.read(Path(theirs)).model or {})["normalization"] == "no_norm"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        tf_models.read(Path(theirs))


def test_the_pooler_serves_their_head_for_next_sentences(tmp_path: Path) -> None:
    """What is a pooler in the teacher is a part of that head there, and one of its `checkpoint_items`."""
    config = narrow("teacher", layers=1)
    weights = invented(config)
    folder = written(tmp_path / "there", weights)
    head = layers.ClassificationHead(inner_dim=32, num_classes=2, name="next_sentence")
    head(tf.zeros([1, 2, 32]))
    items = {f"next_sentence.{name}": item for name, item in head.checkpoint_items.items()}
    checkpoint = tf.train.Checkpoint(**items, **{"next_sentence.logits": head.out_proj})
    checkpoint.restore(tf.train.latest_checkpoint(str(folder))).assert_existing_objects_matched()
    np.testing.assert_array_equal(head.dense.kernel, weights.values["pooler/kernel"])
    np.testing.assert_array_equal(head.out_proj.bias, weights.values["heads/next_sentence/bias"])


def test_whole_models_are_read(tmp_path: Path) -> None:
    """As a training of tf-models saves them: the model, its optimizer's state and a counter."""
    config = narrow("opt", layers=2)
    weights = invented(config, pretraining_variables(config))
    pretrainer = restored(written(tmp_path / "ours", weights))
    optimizer = tf_keras.optimizers.legacy.Adam()
    variables = [pretrainer.encoder_network.get_embedding_table()]
    optimizer.apply_gradients([(tf.ones_like(variables[0]), variables[0])])
    variables[0].assign(weights.values["embeddings/word/table"])
    step = tf.Variable(7, dtype=tf.int64)
    saved = tf.train.Checkpoint(model=pretrainer, optimizer=optimizer, global_step=step).save(str(tmp_path / "ckpt"))
    found = tf_models.read(Path(saved))
    assert_same_values(found, Weights(values=without_next_sentence(weights)))
    assert {"global_step", "optimizer/iter"} <= set(found.ignored)
    assert any(".OPTIMIZER_SLOT/optimizer/m" in name for name in found.ignored)


def test_heads_of_fine_tuned_models_are_read(tmp_path: Path) -> None:
    config = narrow("opt", layers=1)
    encoder = original(config)
    labeler = models.BertSpanLabeler(encoder)
    classifier = models.BertClassifier(encoder, num_classes=5)
    span = tf_models.read(Path(tf.train.Checkpoint(model=labeler).save(str(tmp_path / "span" / "ckpt"))))
    classes = tf_models.read(Path(tf.train.Checkpoint(model=classifier).save(str(tmp_path / "classes" / "ckpt"))))
    np.testing.assert_array_equal(span.values["heads/span/kernel"], labeler.span_labeling.weights[0])
    np.testing.assert_array_equal(classes.values["heads/classifier/kernel"], classifier.classifier.out_proj.kernel)
    assert span.values["heads/span/bias"].shape == (2,) and classes.values["heads/classifier/bias"].shape == (5,)
    assert not {name for name in span.values if name.startswith("heads/classifier")}


def test_their_heads_of_fine_tuning_restore_ours(tmp_path: Path) -> None:
    config = narrow("opt", layers=1)
    weights = invented(config, [*span_variables(config), *classifier_variables(config, num_outputs=3)])
    prefix = tf.train.latest_checkpoint(str(written(tmp_path / "there", weights)))
    encoder = original(config)
    labeler, classifier = models.BertSpanLabeler(encoder), models.BertClassifier(encoder, num_classes=3)
    for attribute, model in (("span_labeling", labeler), ("classifier", classifier)):
        items = {"encoder": encoder, attribute: getattr(model, attribute)}
        tf.train.Checkpoint(**items).restore(prefix).assert_existing_objects_matched()
    np.testing.assert_array_equal(labeler.span_labeling.weights[0], weights.values["heads/span/kernel"])
    np.testing.assert_array_equal(classifier.classifier.out_proj.kernel, weights.values["heads/classifier/kernel"])


def test_a_model_of_ours_saves_and_restores_their_items(tmp_path: Path) -> None:
    """`checkpoint_items` are views of our variables: stacked ones are cut and filled layer by layer."""
    config = narrow("tiny", layers=2)
    weights = invented(config)
    ours, other = PretrainingModel(config, seed=1), PretrainingModel(config, seed=2)
    assign(ours, weights)
    prefix = tf.train.Checkpoint(**tf_models_items.checkpoint_items(ours)).save(str(tmp_path / "ckpt"))
    assert_same_values(tf_models.read(Path(prefix)), weights)
    by_tensorflow, by_us = (
        tf.train.load_checkpoint(str(path)).get_variable_to_shape_map()
        for path in (prefix, written(tmp_path / "there", weights))
    )
    assert by_us == by_tensorflow, "keys and shapes, as its own classes save them"
    checkpoint = tf.train.Checkpoint(**tf_models_items.checkpoint_items(other))
    checkpoint.restore(prefix).assert_existing_objects_matched()
    for name, variable in {**other.encoder.weights, **other.weights}.items():
        np.testing.assert_array_equal(variable, weights.values[name], err_msg=name)


def test_another_number_of_heads_is_not_restored(tmp_path: Path) -> None:
    """The variables are as large, but cut another way."""
    config = narrow("opt", layers=1)
    prefix = tf.train.latest_checkpoint(str(written(tmp_path / "there", invented(config))))
    config.num_heads = 8
    checkpoint = tf.train.Checkpoint(**tf_models_items.checkpoint_items(PretrainingModel(config)))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="shape"):
        checkpoint.restore(prefix)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = narrow("opt", layers=1)
    return written(tmp_path_factory.mktemp("small") / "there", invented(config))


def damaged(small: Path, folder: Path) -> Path:
    shutil.copytree(small, folder)
    return folder / "mobilebert.ckpt-1.data-00000-of-00001"


def test_a_torn_file_is_told_in_a_line(small: Path, tmp_path: Path) -> None:
    file = damaged(small, tmp_path / "there")
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(
        CheckpointError, match=r"^checkpoint .*mobilebert\.ckpt-1 cannot be read \(.*\); choose another$"
    ):
        tf_models.read(tmp_path / "there")


def forged(prefix: Path, graph: bytes | None, **values: Any) -> Path:
    """A checkpoint of these tensors by key, with what stands for its graph of objects."""
    named = {"_CHECKPOINTABLE_OBJECT_GRAPH": graph, **values}
    names = sorted(name for name in named if named[name] is not None)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(named[name]) for name in names],
    )
    return prefix


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (b"\xff\xff", "cannot be read \\("),
        (7.0, "cannot be read \\("),
        (b"", "is damaged \\(it names objects that it lacks\\)"),
        (
            b"\n\x07\n\x05\x08\x09\x12\x01x",
            "is damaged \\(it names objects that it lacks\\)",
        ),  # its child x is the ninth
    ],
    ids=["no graph", "a number", "no objects", "a child that is not there"],
)
def test_a_forged_graph_is_one_line(graph: Any, message: str, tmp_path: Path) -> None:
    prefix = forged(tmp_path / "x", graph)
    with pytest.raises(CheckpointError, match=rf"^checkpoint {prefix} {message}") as told:
        ObjectGraph(prefix)
    assert "\n" not in str(told.value)


def test_text_where_numbers_belong_is_one_line(tmp_path: Path) -> None:
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.nodes.add().attributes.add(name="VARIABLE_VALUE", checkpoint_key="k")
    found = ObjectGraph(forged(tmp_path / "x", graph.SerializeToString(), k="a text"))
    with pytest.raises(CheckpointError, match=r"x holds text in k, and no numbers; choose another$"):
        found.value(0)


@pytest.mark.parametrize("shape", [(), (0,), (3,)])
def test_a_kernel_of_no_mobilebert_is_one_line(shape: tuple[int, ...], tmp_path: Path) -> None:
    config = narrow("opt", layers=1)
    items = tf_models_items.checkpoint_items(PretrainingModel(config))
    block = getattr(items["encoder"], "layer_with_weights-1").block_layers
    getattr(block.bottleneck_output, "0").kernel = tf.Variable(np.zeros(shape, np.float32))
    prefix = tf.train.Checkpoint(**items).save(str(tmp_path / "ckpt"))
    try:
        found = tf_models.read(Path(prefix))
    except CheckpointError as problem:
        assert re.fullmatch(
            rf"checkpoint {prefix} has \S+ of shape \[0?\], as no MobileBERT; choose another", str(problem)
        )
    else:
        assert shape == (3,) and found.values["layers/bottleneck_output/kernel"].shape == (1, 3, 1), (
            "told by the account"
        )


def test_a_turned_bit_is_found(small: Path, tmp_path: Path) -> None:
    file = damaged(small, tmp_path / "there")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        tf_models.read(tmp_path / "there")


def test_two_encoders_are_one_too_many(tmp_path: Path) -> None:
    config = narrow("opt", layers=1)
    items: dict[str, Any] = {name: original(config) for name in ("teacher", "student")}
    prefix = tf.train.Checkpoint(**items).save(str(tmp_path / "ckpt"))
    with pytest.raises(CheckpointError, match=r"holds 2 MobileBERT encoders \((teacher, student|student, teacher)\); "):
        tf_models.read(Path(prefix))


def test_another_model_is_refused(tmp_path: Path) -> None:
    encoder = networks.BertEncoder(61, hidden_size=8, num_layers=1, num_attention_heads=2, inner_dim=8)
    prefix = tf.train.Checkpoint(encoder=encoder).save(str(tmp_path / "ckpt"))
    assert not tf_models.recognises(Path(prefix))
    with pytest.raises(CheckpointError, match="holds no MobileBERT encoder of tf-models; name another checkpoint"):
        tf_models.read(Path(prefix))


def test_a_block_in_part_is_a_fault(tmp_path: Path) -> None:
    config = narrow("opt", layers=2)
    ours = PretrainingModel(config)
    items = tf_models_items.checkpoint_items(ours)
    block = getattr(items["encoder"], "layer_with_weights-2").block_layers
    delattr(block.bottleneck_output, "0")
    found = tf_models.read(Path(tf.train.Checkpoint(**items).save(str(tmp_path / "ckpt"))))
    assert found.faults["layers/bottleneck_output/kernel"] == (
        "lacks layer_with_weights-2/block_layers/bottleneck_output/0/kernel"
    )
    assert "layers/bottleneck_output/kernel" not in found.values
