"""The verb `convert`: what comes back is what was there, bit for bit; what cannot be converted is one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf1_files
import toy
from command_line import Ended, here

from mobilebert_exp import manifest
from mobilebert_exp.config import Activation, LayerLoop, ModelConfig, leaves
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import formats, native_weights, prefixes, tf1
from mobilebert_exp.modeling.checkpoints.account import Demand, account, assign
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.pretrainer import PretrainingModel
from mobilebert_exp.modeling.variables import (
    classifier_variables,
    encoder_variables,
    pretraining_variables,
    span_variables,
)
from mobilebert_exp.original_json import architecture

MODEL = toy.model(num_layers=2)
LETTERS = "abcdefghijklmnopqr"  # and the five special tokens: as many as the toy's vocabulary
VOCABULARY = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]) + "\n"


def native(weights: Weights, folder: Path, *, model: ModelConfig = MODEL) -> str:
    native_weights.write(dataclasses.replace(weights, model=leaves(model)), folder)
    return str(folder)


def convert(*arguments: object) -> Ended:
    return here("convert", *map(str, arguments))


def refused(*arguments: object) -> str:
    """The error, without the word."""
    ended = convert(*arguments)
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    return ended.err.removeprefix("error: ").rstrip("\n")


def every_head(model: ModelConfig) -> Weights:
    specs = [*encoder_variables(model), *pretraining_variables(model), *span_variables(model)]
    return Weights(values=tf1_files.values([*specs, *classifier_variables(model, num_outputs=3)]), head="a span")


def check_equal(ours: Weights, others: Weights) -> None:
    assert ours.values.keys() == others.values.keys()
    for name, value in ours.values.items():
        assert others.values[name].dtype == np.float32
        np.testing.assert_array_equal(others.values[name], value, err_msg=name)


def forward(weights: Weights, model: ModelConfig) -> list[np.ndarray]:
    """Outputs of pre-training, on padded rows."""
    module = PretrainingModel(model, seed=9)
    wanted = [*encoder_variables(model), *pretraining_variables(model)]
    found = account(weights, wanted=wanted, model=model, head="", demand=Demand.whole, source="X")
    assign(module, weights, found)
    rng = np.random.default_rng(1)
    mask = (np.arange(9) < np.array([[9], [5]])).astype(np.int32)
    ids = rng.integers(1, 23, mask.shape).astype(np.int32) * mask
    segments, places = tf.constant(mask * (np.arange(9) > 3)), tf.constant([[1], [2]])
    output = module(tf.constant(ids), tf.constant(mask), segments, places)
    return [output.encoded.sequence_BLH.numpy(), output.masked_lm_BPV.numpy(), output.next_sentence_B2.numpy()]


def round_trip(model: ModelConfig, folder: Path, *names: str) -> None:
    """From ours to each other format and back, heads of pre-training included."""
    others = (f"word{number}\n" for number in range((model.vocab_size or 0) - VOCABULARY.count("\n")))
    weights = dataclasses.replace(tf1_files.pretrained(model), vocabulary=(VOCABULARY + "".join(others)).encode())
    source = native(weights, folder / "source", model=model)
    for number, name in enumerate((*names, "native")):
        target = str(folder / f"{number}")
        ended = convert(source, target, "--to", name)
        assert ended.code == 0, ended.err
        shutil.rmtree(source)
        source = target
    back = native_weights.read(Path(source))
    check_equal(weights, back)
    assert back.vocabulary == weights.vocabulary
    fields = leaves(model)
    assert {key: (back.model or {})[key] for key in fields if key not in ("name", "layer_loop")} == {
        key: value for key, value in fields.items() if key not in ("name", "layer_loop")
    }
    for ours, theirs in zip(forward(weights, model), forward(back, model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", tf1_files.PRESETS)
def test_a_round_trip_is_bit_equal(name: str, tmp_path: Path) -> None:
    model = dataclasses.replace(tf1_files.narrow(name), layer_loop=LayerLoop.unroll)
    round_trip(model, tmp_path, "tf1", "tf_models", "huggingface")


def test_what_other_code_has_no_word_for_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = dataclasses.replace(tf1_files.narrow("base"), layer_loop=LayerLoop.unroll, attention_mask_value=-6.0)
    model = dataclasses.replace(model, hidden_act=Activation.gelu_exact, hugging_face_norms=True)
    round_trip(model, tmp_path, "tf1", "tf_models", "huggingface")
    told = [record.getMessage() for record in caplog.records if "cannot be told" in record.getMessage()]
    assert told == 2 * [
        "the code of TensorFlow 1 and of tf-models cannot be told model.hidden_act=gelu_exact, "
        "model.hugging_face_norms=true, and computes with model.hidden_act=gelu, model.hugging_face_norms=false; "
        "so its outputs will differ from those here, a little or more"
    ]


def test_every_head_goes_along(tmp_path: Path) -> None:
    weights = every_head(MODEL)
    source = native(weights, tmp_path / "source")
    ended = convert(source, tmp_path / "there", "--to", "tf1")
    assert ended.code == 0, ended.err
    numbers = sum(value.size for value in weights.values.values())
    assert ended.out.startswith(
        f"{source} (native) is {tmp_path}/there (tf1) now: {len(weights.values)} variables, {numbers:,} numbers; "
        "heads: classifier, masked_lm, next_sentence, span; without a vocabulary (--vocab names one); "
    )
    check_equal(weights, tf1.read(tmp_path / "there"))
    assert formats.recognised(str(tmp_path / "there")) == "tf1"


def test_a_checkpoint_that_does_not_say_what_it_is_of(tmp_path: Path) -> None:
    weights = tf1_files.pretrained(MODEL)
    tf1.write(dataclasses.replace(weights, model=leaves(MODEL)), tmp_path / "tf1")
    stated = tmp_path / "my_model.json"
    (tmp_path / "tf1" / "bert_config.json").rename(stated)
    assert refused(tmp_path / "tf1", tmp_path / "out", "--to", "native") == (
        f"{tmp_path}/tf1 does not say which architecture it is of; name it with --model: a preset, or its JSON file"
    )
    assert refused(tmp_path / "tf1", tmp_path / "out", "--to", "native", "--model", "opt").startswith(
        f"{tmp_path}/tf1 was trained with model.normalization=layer_norm, not no_norm; "
    )
    assert refused(tmp_path / "tf1", tmp_path / "out", "--to", "native", "--model", "opx").startswith(
        "model=opx is not an option; did you mean opt?"
    )
    assert convert(tmp_path / "tf1", tmp_path / "out", "--to", "native", "--model", stated).code == 0
    check_equal(weights, native_weights.read(tmp_path / "out"))


def test_a_published_name_says_what_it_is_of(tmp_path: Path) -> None:
    """As the archive of the original comes, which holds no model file; of other sizes it is refused."""
    folder = tmp_path / "uncased_L-24_H-128_B-512_A-4_F-4_OPT"
    prefix = tf1_files.save(folder / "mobilebert.ckpt", tf1_files.drawn(tf1_files.names(tf1_files.preset("opt"))))
    assert refused(prefix, tmp_path / "out", "--to", "native") == (
        f"{prefix} was trained with model.vocab_size=131, not 30522; choose the architecture that it is of, or "
        "model.vocab_size=131"
    )


def test_the_vocabulary_goes_along_or_is_named(tmp_path: Path) -> None:
    source = native(tf1_files.pretrained(MODEL), tmp_path / "source")
    (tmp_path / "words.txt").write_text(VOCABULARY, encoding="utf-8")
    named = ("--vocab", tmp_path / "words.txt")
    assert convert(source, tmp_path / "there", "--to", "tf1", *named).code == 0
    assert convert(tmp_path / "there", tmp_path / "back", "--to", "native").code == 0
    assert (tmp_path / "back" / "vocab.txt").read_text(encoding="utf-8") == VOCABULARY
    (tmp_path / "words.txt").write_text(VOCABULARY + "zz\n", encoding="utf-8")
    assert refused(source, tmp_path / "other", "--to", "tf1", *named) == (
        f"--vocab={tmp_path}/words.txt has 24 entries, and the model 23; name the model's own"
    )


def test_a_vocabulary_of_another_model_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = native(tf1_files.pretrained(MODEL), tmp_path / "source")
    (tmp_path / "source" / "vocab.txt").write_text(VOCABULARY + "zz\n", encoding="utf-8")
    ended = convert(source, tmp_path / "there", "--to", "tf1")
    assert ended.code == 0 and "without a vocabulary" in ended.out
    assert "the vocabulary beside the checkpoint is left out: 24 entries, and the model 23" in caplog.text
    assert not (tmp_path / "there" / "vocab.txt").exists()


def test_a_native_folder_is_what_init_checkpoint_takes(tmp_path: Path) -> None:
    weights = dataclasses.replace(every_head(MODEL), head=toy.ToyTask.head)
    tf1.write(dataclasses.replace(weights, model=leaves(MODEL)), tmp_path / "tf1")
    assert convert(tmp_path / "tf1", tmp_path / "run", "--to", "native").code == 0
    for place in ("run", "run/last", "run/checkpoints", "run/checkpoints/ckpt-0"):
        assert formats.recognised(str(tmp_path / place)) == "native"
        check_equal(weights, formats.read(str(tmp_path / place)))
    config = toy.experiment(model=MODEL, init__checkpoint=str(tmp_path / "run"), trainer__max_steps=1)
    toy.run(config, toy.task(config, tmp_path), tmp_path / "trained")


def test_a_destination_is_never_overwritten_and_never_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = native(tf1_files.pretrained(MODEL), tmp_path / "source")
    (tmp_path / "there").mkdir()
    assert convert(source, tmp_path / "there", "--to", "tf1").code == 0, "an empty folder is filled"
    assert refused(source, tmp_path / "there", "--to", "tf1") == (
        f"{tmp_path}/there is there already; name a folder that is not, or is empty"
    )

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefixes, "write_text", fails)
    assert refused(source, tmp_path / "new", "--to", "tf1").endswith(
        "cannot be written (No space left on device); make room there, or name another folder"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "there"]


def test_the_folder_where_one_stands_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = native(tf1_files.pretrained(MODEL), tmp_path / "source")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert convert(source, ".", "--to", "tf1").code == 0
    assert formats.recognised(str(tmp_path / "there")) == "tf1"
    monkeypatch.chdir(tmp_path)
    assert refused(source, ".", "--to", "tf1") == f"{tmp_path} is there already; name a folder that is not, or is empty"
    long = tmp_path / ("a" * 300)
    assert refused(source, long, "--to", "tf1") == (
        f"{long} cannot be written (File name too long); name another folder"
    )


@contextlib.contextmanager
def full_from(size: int) -> Iterator[None]:
    """As on a disk on which no file has room for more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", formats.MODULES)
def test_a_full_disk_is_one_line(name: str, tmp_path: Path) -> None:
    source = native(tf1_files.pretrained(MODEL), tmp_path / "source")
    with full_from(2000):
        told = refused(source, tmp_path / "new", "--to", name)
    assert re.fullmatch(
        rf"{tmp_path}/new cannot be written \(.*File too large.*\); make room there, or name another folder", told
    )
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "B"], "convert: the following arguments are required: --to; see "),
        (["A", "--to", "tf1"], "convert: the following arguments are required: DST; see "),
        (["A", "B", "--to", "tf3"], "convert: argument --to: invalid choice: 'tf3' (choose from 'native', 'tf1', "),
        (["A", "B", "--to", "tf1", "--colour"], "convert: unrecognized arguments: --colour; see "),
        (["mlflow:x/y", "B", "--to", "tf1"], "init.checkpoint=mlflow:x/y names no run; write mlflow:RUN_ID"),
        (["A", "B", "--to", "tf1"], "init.checkpoint=A: no checkpoint there; give the folder of a training run, "),
    ],
)
def test_a_command_that_cannot_be_meant(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(*arguments).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_help() -> None:
    ended = convert("--help")
    assert ended.code == 0
    assert "--to FORMAT" in ended.out and "gs://" in ended.out


def test_a_converted_run_tells_which_head_it_has(tmp_path: Path) -> None:
    source = native(every_head(MODEL), tmp_path / "source")
    assert convert(source, tmp_path / "copy", "--to", "native").code == 0
    assert json.loads((tmp_path / "copy" / "model.json").read_text())["head"] == "a span"
    weights = native_weights.read(tmp_path / "copy")
    assert weights.head == "a span" and weights.digest
    with pytest.raises(CheckpointError, match="has the head of another task"):
        account(
            weights, wanted=[*encoder_variables(MODEL), *span_variables(MODEL)], model=MODEL, head="another",
            demand=Demand.whole, source="X",
        )  # fmt: skip


@pytest.mark.slow
def test_every_destination_says_what_it_is_in_both_ways(tmp_path: Path) -> None:
    """And what one format has written another reads: from each the weights come back as they were."""
    weights = dataclasses.replace(tf1_files.pretrained(MODEL), vocabulary=VOCABULARY.encode())
    source = native(weights, tmp_path / "native")
    for name in (*formats.MODULES, "native"):
        target = tmp_path / f"from-{Path(source).name}-{name}"
        ended = convert(source, target, "--to", name)
        assert ended.code == 0, ended.err
        (original_file,), (theirs,) = (list(target.rglob(each)) for each in ("bert_config.json", "config.json"))
        assert original_file.parent == theirs.parent
        assert architecture(str(original_file))["num_layers"] == 2
        assert json.loads(theirs.read_text())["num_hidden_layers"] == 2
        found = formats.read(str(target))
        check_equal(weights, found)
        assert found.vocabulary == weights.vocabulary
        source = str(target)


def test_a_folder_called_checkpoints_is_no_run_by_that_alone(tmp_path: Path) -> None:
    """Of other code's it may be too; what is ours is told by manifests, the record of a run, or our names."""
    tf1.write(dataclasses.replace(tf1_files.pretrained(MODEL), model=leaves(MODEL)), tmp_path / "x")
    (tmp_path / "x/checkpoints").mkdir()
    for part in ("index", "data-00000-of-00001"):
        shutil.copy(tmp_path / f"x/{tf1.PREFIX}.{part}", tmp_path / f"x/checkpoints/other.{part}")
    assert formats.recognised(str(tmp_path / "x")) == "tf1"
    (tmp_path / "x/model.json").write_text("{}", encoding="utf-8")
    assert formats.recognised(str(tmp_path / "x")) == "native", "an earlier version's, which has no manifest"
    prefix = Path(tf.train.Checkpoint(model=tf.Module()).write(str(tmp_path / "run/checkpoints/ckpt-1")))
    manifest.commit(prefix, step=1, head="", model=leaves(MODEL), vocabulary="")
    assert formats.recognised(str(tmp_path / "run")) == "native"
    with pytest.raises(
        CheckpointError, match=rf"^checkpoint {prefix} holds no weights of this package; give one of a "
    ):
        formats.read(str(tmp_path / "run"))
