"""The task of pre-training: its two losses, its rounds, and that it learns from the embedded articles."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import toy
from command_line import here
from fakes import FakeTracker

from mobilebert_exp import registry
from mobilebert_exp.composition import compose
from mobilebert_exp.config import ExperimentConfig, Initialization
from mobilebert_exp.errors import ConfigError, DataError, MissingDataError
from mobilebert_exp.modeling import pretraining_losses
from mobilebert_exp.modeling.encoder import EncoderOutput
from mobilebert_exp.modeling.pretrainer import PretrainingOutput
from mobilebert_exp.modeling.variables import parameters
from mobilebert_exp.runners.schedule import planned
from mobilebert_exp.tasks.base import Split

SMALL = [
    *("+preset=micro_teacher", "tracking=none", "task.starter.train_articles=60", "task.starter.dev_articles=12"),
    "task.starter.vocabulary_articles=60",
    *("task.starter.vocabulary_size=400", "task.global_batch_size=16", "task.dupe_factor=2"),
    *("task.max_seq_length=48", "task.max_predictions_per_seq=8", "task.optimizer.warmup_steps=5"),
    *(
        "model.hidden_size=32",
        "model.intra_bottleneck_size=32",
        "model.intermediate_size=32",
        "model.embedding_size=16",
    ),
    *(
        "model.num_layers=1",
        "model.initialization=bert",
        "model.initializer_range=0.1",
        "trainer.eval_every_steps=null",
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def configured(cache: Path, *overrides: str) -> tuple[ExperimentConfig, Any]:
    """A small experiment and its task, the vocabulary known."""
    config = dataclasses.replace(compose([*SMALL, *overrides]), cache_dir=str(cache))
    task = registry.create_task(config)
    model = dataclasses.replace(config.model, vocab_size=task.vocab_size)
    return dataclasses.replace(config, model=model), task


def batch(rows: int, *, seed: int = 3, vocabulary: int = 400) -> dict[str, np.ndarray]:
    """As records hold them; the last row has no masked place at all."""
    rng = np.random.default_rng(seed)
    weights = (np.arange(8) < rng.integers(1, 9, (rows, 1))).astype(np.float32)
    weights[-1] = 0
    return {
        "input_ids": rng.integers(5, vocabulary, (rows, 48), dtype=np.int32),
        "input_mask": np.ones((rows, 48), np.int32),
        "segment_ids": np.repeat(np.array([[0] * 20 + [1] * 28], np.int32), rows, axis=0),
        "masked_lm_positions": rng.integers(1, 48, (rows, 8), dtype=np.int32),
        "masked_lm_ids": rng.integers(5, vocabulary, (rows, 8), dtype=np.int32),
        "masked_lm_weights": weights,
        "next_sentence_labels": rng.integers(0, 2, (rows, 1), dtype=np.int32),
    }


def scores(rows: int, *, vocabulary: int = 400) -> PretrainingOutput:
    rng = np.random.default_rng(4)
    encoded = EncoderOutput(tf.zeros([rows, 48, 32]), tf.zeros([rows, 32]), None, None)
    words, follows = (rng.standard_normal(shape) * 3 for shape in ((rows, 8, vocabulary), (rows, 2)))
    return PretrainingOutput(encoded, tf.constant(words, tf.float32), tf.constant(follows, tf.float32))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    highest = logits.max(-1, keepdims=True)
    normal = np.log(np.exp(logits - highest).sum(-1)) + highest[..., 0]
    return normal - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def test_the_losses_are_the_originals() -> None:
    """Sum of w CE by sum of w, over the batch: rows with more masked words weigh more; and the mean over pairs."""
    given, output = batch(6), scores(6)
    tensors = {name: tf.constant(value) for name, value in given.items()}
    found = pretraining_losses.figures(
        pretraining_losses.judged(output, tensors),
        places_in_batch=pretraining_losses.places(tensors),
        global_batch_size=6,
    )
    words, follows, weights = output.masked_lm_BPV.numpy(), output.next_sentence_B2.numpy(), given["masked_lm_weights"]
    labels = given["next_sentence_labels"][:, 0]
    expected = {
        "masked_lm_loss": (weights * cross_entropy(words, given["masked_lm_ids"])).sum() / (weights.sum() + 1e-5),
        "masked_lm_accuracy": 100 * (weights * (words.argmax(-1) == given["masked_lm_ids"])).sum() / weights.sum(),
        "next_sentence_loss": cross_entropy(follows, labels).mean(),
        "next_sentence_accuracy": 100 * (follows.argmax(-1) == labels).mean(),
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)


def test_shares_of_a_batch_add_up(cache: Path) -> None:
    """Loss, figures and gradients of two unequal halves, given the weights of the whole, are those of the whole."""
    config, task = configured(cache)
    objective = planned(config, task)[0].phase.objective
    module = task.build(config.model, seed=0, dtype="float32")
    whole = {name: tf.constant(value) for name, value in batch(16).items()}
    totals = objective.totals(whole)
    halves = [{name: value[part] for name, value in whole.items()} for part in (slice(0, 4), slice(4, 16))]
    assert float(totals["places"]) == sum(float(objective.totals(half)["places"]) for half in halves)
    found = []
    for share in (whole, *halves):
        with tf.GradientTape() as tape:
            loss, figures = objective.loss(
                module, share, totals=totals, step=tf.constant(0), seed=tf.constant([0, 0], tf.int32)
            )
        gradient = tape.gradient(loss, module.encoder.weights["embeddings/projection/kernel"])
        found.append([loss.numpy(), *(figures[name].numpy() for name in objective.figures), gradient.numpy()])
    for together, first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first + second, together, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "initialization"),
    [("micro", None), ("micro_teacher", None), ("micro", Initialization.bert), ("micro_teacher", Initialization.bert)],
)
def test_a_fresh_model_is_sure_of_nothing(model: str, initialization: Initialization | None) -> None:
    config = dataclasses.replace(compose([f"model={model}"]).model, vocab_size=2000)
    if initialization:
        config = dataclasses.replace(config, initialization=initialization)
    task = registry.create_task(compose(["task=pretrain", "cache_dir=nowhere"]))
    given = {name: tf.constant(value) for name, value in batch(8, vocabulary=2000).items()}
    sums = {
        name: value.numpy() for name, value in task.outputs(task.build(config, seed=1, dtype="float32"), given).items()
    }
    metrics = task.score(sums, Split.dev).metrics
    assert metrics["masked_lm_loss"] == pytest.approx(math.log(2000), abs=0.2)
    assert metrics["next_sentence_loss"] == pytest.approx(math.log(2), abs=0.2)


def test_the_teachers_parameters() -> None:
    """294,467,840 of the encoder, 12,014,650 of the words' head, 1,026 of the pairs'."""
    config = compose(["task=pretrain", "model=teacher", "cache_dir=nowhere"])
    assert parameters(registry.create_task(config).variables(config.model)) == 306_482_490 + 1_026


def trained(cache: Path, folder: Path, *overrides: str) -> tuple[Mapping[str, float], FakeTracker]:
    config, task = configured(cache, *overrides)
    tracker = toy.started(FakeTracker())
    outcome = toy.run(config, task, folder, tracker=tracker)
    return outcome.metrics, tracker


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, float], FakeTracker]:
    """Two rounds, 60 steps in all."""
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        *("task.num_train_steps=60", "task.first_num_train_steps=20", "task.first_max_seq_length=32"),
        *("task.first_train_batch_size=24", "task.optimizer.learning_rate=1e-2", "trainer.eval_every_steps=20"),
    ]
    metrics, tracker = trained(cache, folder, *overrides)
    return folder, metrics, tracker


@pytest.mark.slow
def test_it_learns_in_two_rounds(run: tuple[Path, Mapping[str, float], FakeTracker]) -> None:
    _, metrics, tracker = run
    losses = dict(tracker.series("dev/masked_lm_loss"))
    assert list(losses) == [20, 40, 60]
    assert losses[60] < losses[20] - 0.05 < math.log(400) - 0.3
    assert metrics["masked_lm_loss"] == losses[60]
    assert 0 < metrics["masked_lm_accuracy"] < 100
    for name in ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy"):
        series = tracker.series(f"train/{name}")
        assert [step for step, _ in series] == [1, 11, 20, 21, 31, 40, 50, 60]
    means = dict(tracker.series("train/masked_lm_loss"))
    pairs = dict(tracker.series("train/next_sentence_loss"))
    assert dict(tracker.series("train/loss"))[60] == pytest.approx(means[60] + pairs[60], rel=1e-5)


def test_an_evaluation_does_not_depend_on_its_batches(
    run: tuple[Path, Mapping[str, float], FakeTracker], cache: Path, tmp_path: Path
) -> None:
    """mode=evaluate of the run, with another size of batches, tells the figures of the run's own best evaluation."""
    folder, _, tracker = run
    overrides = [*SMALL, f"cache_dir={cache}", f"output_dir={tmp_path}", "mode=evaluate", "task.eval_batch_size=7"]
    ended = here(*overrides, f"init.checkpoint={folder}")
    assert ended.code == 0, ended.err
    (result,) = tmp_path.rglob("result.json")
    metrics = json.loads(result.read_text())["metrics"]
    best = json.loads((folder / "checkpoints/best/best.json").read_text())["step"]
    for name in ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy"):
        assert metrics[name] == pytest.approx(dict(tracker.series(f"dev/{name}"))[best], rel=1e-5), name


@pytest.mark.slow
def test_records_by_name_train_as_the_texts_they_are_of(cache: Path, tmp_path: Path) -> None:
    """What `features` makes of texts, named as files, is the same training."""
    _, task = configured(cache)
    named = {split: ",".join(map(str, task.features(split).files)) for split in (Split.train, Split.dev)}
    vocabulary = next((cache / "starter").rglob("vocab.txt"))
    files = [f'task.train_file="{named[Split.train]}"', f'task.dev_file="{named[Split.dev]}"']
    once = trained(cache, tmp_path / "texts", "task.num_train_steps=8")[0]
    again = trained(cache, tmp_path / "records", "task.num_train_steps=8", *files, f"task.vocab_file={vocabulary}")[0]
    assert again == once


def test_a_first_round_of_records_has_its_own(cache: Path) -> None:
    """Records cannot be made shorter: what is missing is named, not a length that does not fit."""
    _, task = configured(cache)
    files = ",".join(map(str, task.features(Split.train).files))
    vocabulary = next((cache / "starter").rglob("vocab.txt"))
    named = [f'task.train_file="{files}"', f'task.dev_file="{files}"', f"task.vocab_file={vocabulary}"]
    rounds = ["task.num_train_steps=20", "task.first_num_train_steps=9", "task.first_max_seq_length=32"]
    _, task = configured(cache, *named, *rounds)
    with pytest.raises(DataError, match=r"the 9 steps of the first round; name others with task\.first_train_file"):
        task.phases()[0].features()


def test_too_few_places_are_told_once_of_records_too(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = "task.max_predictions_per_seq=3"
    _, task = configured(cache, few)
    (file, *_) = task.features(Split.dev).files
    vocabulary = next((cache / "starter").rglob("vocab.txt"))
    caplog.clear()
    files = [f"task.train_file={file}", f"task.dev_file={file}", f"task.vocab_file={vocabulary}"]
    _, task = configured(cache, few, *files)
    for _ in range(2):
        task.features(Split.dev)
    told = "task.max_predictions_per_seq=3 masks 6.2% of 48 tokens, and task.masked_lm_prob=0.15 asks for 7: raise it"
    assert caplog.text.count(told) == 1


@pytest.mark.slow
def test_dynamic_masking_draws_anew(cache: Path, tmp_path: Path) -> None:
    """Another mask in each pass, the same for the same seed; what was masked in the record is there again."""
    config, task = configured(cache, "task.dynamic_masking=true")
    augment = planned(config, task)[-1].phase.augment
    assert augment is not None
    given = {name: tf.constant(value) for name, value in batch(16).items()}
    first, same, other = (augment(given, tf.constant([0, seed], tf.int32)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["input_ids"], same["input_ids"])
    assert (first["masked_lm_positions"].numpy() != other["masked_lm_positions"].numpy()).mean() > 0.5
    assert first.keys() == given.keys()
    assert all(first[name].shape == value.shape for name, value in given.items())
    static, dynamic = (
        dict(
            trained(cache, tmp_path / name, "task.num_train_steps=6", f"task.dynamic_masking={name}")[1].series(
                "train/loss"
            )
        )
        for name in ("false", "true")
    )
    assert static.keys() == dynamic.keys() and static != dynamic


def test_without_dynamic_masking_batches_are_the_records(cache: Path) -> None:
    config, task = configured(cache)
    assert planned(config, task)[-1].phase.augment is None


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["task.first_num_train_steps=1001"], "task.first_num_train_steps=1001 exceeds task.num_train_steps=1000"),
        (["task.num_train_epochs=2"], "task.num_train_epochs has no say in pre-training; set task.num_train_steps"),
        (["task.main_metric=f1"], "task.main_metric=f1 is not one of masked_lm_accuracy, next_sentence_accuracy"),
        (["task.dynamic_masking=true", "task.whole_word_mask=true"], "leave one of them out"),
        (
            ["task.first_num_train_steps=5", "task.first_max_seq_length=128"],
            "task.first_max_seq_length=128 exceeds task.max_seq_length=64; lower it",
        ),
        (["task.masked_lm_prob=0"], "task.masked_lm_prob=0.0 is not a share above 0"),
        (
            [
                *("task.first_num_train_steps=5", "task.first_max_seq_length=32", "task.first_train_batch_size=6"),
                "trainer.gradient_accumulation_steps=4",
            ],
            "task.first_train_batch_size=6 is not divisible by 4 (replicas x trainer.gradient_accumulation_steps)",
        ),
        (["task.num_train_steps=0"], "task.num_train_steps=0 is below 1; raise it"),
        (["task.first_max_predictions_per_seq=0"], "task.first_max_predictions_per_seq=0 is below 1; raise it"),
    ],
)
def test_settings_that_cannot_work(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose(["+preset=micro_teacher", *overrides])
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One sentence.\nAnother one.\n\nA third.\nA fourth.\n", encoding="utf-8")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "."]) + "\n", encoding="utf-8"
    )
    for overrides, told in (
        ([f"task.train_file={text}", f"task.vocab_file={vocabulary}"], "task.dev_file is not set"),
        ([f"task.dev_file={text}", f"task.vocab_file={vocabulary}"], "task.train_file is not set"),
        ([f"task.train_file={text}", f"task.dev_file={text}"], "task.vocab_file is not set"),
    ):
        config = dataclasses.replace(compose(["+preset=micro_teacher", *overrides]), cache_dir=str(tmp_path / "cache"))
        task = registry.create_task(config)
        with pytest.raises(MissingDataError, match=told):
            for split in (Split.train, Split.dev):
                task.features(split)


def test_there_is_nothing_to_predict(cache: Path) -> None:
    _, task = configured(cache)
    with pytest.raises(MissingDataError, match="use mode=evaluate"):
        task.features(Split.predict)
