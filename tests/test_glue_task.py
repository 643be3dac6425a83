"""GLUE as a task: features, head, losses, figures, submissions, defaults of each data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import glue_files
import numpy as np
import pytest
import tensorflow as tf
import toy
from command_line import here

from mobilebert_exp import compose, experiment
from mobilebert_exp.data import glue
from mobilebert_exp.data.glue import DESCRIPTIONS, Dataset
from mobilebert_exp.errors import ConfigError, DataError, DivergedError, MissingDataError
from mobilebert_exp.modeling.heads import ClassifierModel, class_losses, score_losses
from mobilebert_exp.modeling.variables import classifier_variables, encoder_variables
from mobilebert_exp.registry import create_task
from mobilebert_exp.tasks._classification import Classification, Places, Truth
from mobilebert_exp.tasks.base import Split
from mobilebert_exp.tasks.glue import Config, GlueSource

NOWHERE = Places(data_root="nowhere", cache_dir="nowhere")
NINE = [dataset for dataset in Dataset if dataset is not Dataset.ax]


def task(dataset: str, root: Path, tmp_path: Path, *overrides: str) -> Classification:
    config = compose(["task=glue", f"task.dataset={dataset}", f"data_root={root}", *overrides])
    return cast(Classification, create_task(dataclasses.replace(config, cache_dir=str(tmp_path / "cache"))))


def source(dataset: Dataset) -> GlueSource:
    main = DESCRIPTIONS[dataset].metrics[0]
    return GlueSource(Config(kind="glue", name="glue", dataset=dataset, main_metric=main), NOWHERE)


def test_features_hold_the_originals_keys_and_are_found_again(tmp_path: Path) -> None:
    glue_files.vocabulary(tmp_path)
    glue_files.stsb(tmp_path)
    made = task("stsb", tmp_path, tmp_path, "task.max_seq_length=16")
    found = made.features(Split.train)
    (record, *rest) = tf.data.TFRecordDataset([str(file) for file in found.files]).as_numpy_iterator()
    features = tf.train.Example.FromString(record).features.feature
    assert set(features) == {"input_ids", "input_mask", "segment_ids", "label_ids"} == set(found.columns)
    assert list(features["label_ids"].float_list.value) == [0.0]
    assert len(features["input_ids"].int64_list.value) == 16
    assert (len(rest) + 1, found.num_features, found.num_examples) == (64, 64, 64)
    assert made.features(Split.train) == found
    assert made.features(Split.dev, limit=3).num_features == 3
    other = task("stsb", tmp_path, tmp_path, "task.max_seq_length=20").features(Split.train)
    assert other.files != found.files


@pytest.mark.parametrize(
    ("split", "file", "part", "submission"),
    [
        (Split.predict, "test_mismatched.tsv", "mismatched", "MNLI-mm.tsv"),
        (Split.predict, "test_matched.tsv", "matched", "MNLI-m.tsv"),
        (Split.predict, "mine.tsv", "matched", "MNLI-m.tsv"),
        (Split.dev, "dev_mismatched.tsv.gz", "mismatched", ""),
        (Split.dev, "test_mismatched.tsv", "matched", ""),  # no dev file of this name is published
    ],
)
def test_a_named_file_of_mnli_is_the_part_of_its_name(
    split: Split, file: str, part: str, submission: str, tmp_path: Path
) -> None:
    key = "dev_file" if split is Split.dev else "test_file"
    plain = Config(kind="glue", name="glue", dataset=Dataset.mnli, main_metric="accuracy_matched")
    setattr(plain, key, f"{tmp_path}/{file}")
    made = GlueSource(plain, NOWHERE)
    with pytest.raises(
        MissingDataError, match=rf"^task.{key}={tmp_path}/{file} does not exist; name a file that does$"
    ):
        made.files(split)
    (tmp_path / file).touch()
    assert made.files(split) == {f"{split.value}_{part}": tmp_path / file}
    if submission:
        answers = truths(Dataset.mnli, 3, part=part, labelled=False)
        files = made.evaluate(answers, np.eye(3), split).files
        assert list(files) == ["predictions.json", f"submission/{submission}"]


def test_an_empty_part(tmp_path: Path) -> None:
    glue_files.vocabulary(tmp_path)
    glue_files.sst2(tmp_path, dev=0)
    with pytest.raises(DataError, match=r"dev.tsv: there is no example in it; name another file, or another data_root"):
        task("sst2", tmp_path, tmp_path).features(Split.dev)


@pytest.mark.parametrize("has_pooler", [False, True])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_the_variables_are_those_that_are_counted(has_pooler: bool, num_outputs: int) -> None:
    config = toy.model(classifier_activation=has_pooler)
    module = ClassifierModel(config, num_outputs=num_outputs, dropout_rate=0.1, seed=0, dtype="float32")
    specs = encoder_variables(config) + classifier_variables(config, num_outputs=num_outputs)
    built = {variable.name.split(":")[0]: tuple(variable.shape) for variable in module.variables}
    assert built == {spec.name: spec.shape for spec in specs}
    assert len(module.trainable_variables) == len(specs)


def test_the_head_reads_the_first_token_and_drops_a_share_of_it() -> None:
    config = toy.model()
    module = ClassifierModel(config, num_outputs=2, dropout_rate=0.5, seed=0, dtype="float32")
    ids = tf.random.stateless_uniform([4, toy.LENGTH], [0, 1], maxval=toy.VOCABULARY, dtype=tf.int32)
    inputs = ids, tf.ones_like(ids), tf.zeros_like(ids)
    kernel, bias = (module.weights[f"heads/classifier/{name}"] for name in ("kernel", "bias"))
    bias.assign([0.5, -0.5])
    first_BH = module.encoder(*inputs).sequence_BLH[:, 0]
    np.testing.assert_allclose(module(*inputs), first_BH @ kernel + bias, atol=1e-6)
    dropped = [module(*inputs, seed=tf.constant(seed)).numpy() for seed in ([0, 1], [0, 1], [0, 2])]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-4


def test_the_pooler_is_used_where_the_architecture_has_one() -> None:
    module = ClassifierModel(
        toy.model(classifier_activation=True), num_outputs=2, dropout_rate=0, seed=0, dtype="float32"
    )
    ids = tf.ones([2, toy.LENGTH], tf.int32)
    inputs = ids, ids, ids * 0
    pooled_BH = tf.tanh(
        module.encoder(*inputs).sequence_BLH[:, 0] @ module.encoder.weights["pooler/kernel"]
        + module.encoder.weights["pooler/bias"]
    )
    np.testing.assert_allclose(module(*inputs), pooled_BH @ module.weights["heads/classifier/kernel"], atol=1e-6)


def test_losses() -> None:
    logits = np.array([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]], np.float32)
    expected = [np.log(np.exp(logits[0]).sum()) - 2.0, np.log(3.0)]
    np.testing.assert_allclose(class_losses(tf.constant(logits), tf.constant([1, 2])), expected, rtol=1e-6)
    scores, truths = tf.constant([[2.5], [0.0]]), tf.constant([1.0, 4.0])
    np.testing.assert_allclose(score_losses(scores, truths), [2.25, 16.0])


def truths(dataset: Dataset, count: int, *, part: str = "", labelled: bool = True) -> list[Truth]:
    """Labels in turn."""
    number = len(DESCRIPTIONS[dataset].labels)
    labels = [index % number if number else float(index % 6) for index in range(count)]
    return [Truth(id=str(n), part=part, label=labels[n] if labelled else None) for n in range(count)]


def outputs_for(answers: list[Truth], num_outputs: int) -> np.ndarray:
    """As a model gives them that is always right."""
    labels = np.array([answer.label for answer in answers])
    return labels[:, None] if num_outputs == 1 else np.eye(num_outputs)[labels.astype(int)]


@pytest.mark.parametrize("dataset", Dataset)
def test_a_perfect_model_has_perfect_figures(dataset: Dataset) -> None:
    made, about = source(dataset), DESCRIPTIONS[dataset]
    answers = [truth for part in about.dev for truth in truths(dataset, 12, part=part.name)]
    evaluation = made.evaluate(answers, outputs_for(answers, made.num_outputs), Split.dev)
    score = {"glue_score": 100.0} if about.num_scored else {}
    assert evaluation.metrics == pytest.approx({**dict.fromkeys(about.metrics, 100.0), **score})
    assert list(evaluation.files) == ["predictions.json"]
    records = evaluation.files["predictions.json"]
    assert len(records) == 12 * len(about.dev)
    assert all(record["prediction"] == record["label"] for record in records.values())


def test_the_figures_of_mnli_are_told_apart() -> None:
    made = source(Dataset.mnli)
    answers = [*truths(Dataset.mnli, 4, part="matched"), *truths(Dataset.mnli, 2, part="mismatched")]
    outputs = outputs_for(answers, 3)
    outputs[[0, 4, 5]] = outputs[[1, 5, 4]]
    metrics = made.evaluate(answers, outputs, Split.dev).metrics
    assert metrics == {"accuracy_matched": 75.0, "accuracy_mismatched": 0.0, "glue_score": 37.5}
    only = made.evaluate(answers[:4], outputs[:4], Split.dev).metrics
    assert only == {"accuracy_matched": 75.0, "glue_score": 75.0}


def test_a_main_metric_of_which_nothing_is_evaluated() -> None:
    config = Config(kind="glue", name="glue", dataset=Dataset.mnli, main_metric="accuracy_mismatched")
    answers = truths(Dataset.mnli, 4, part="matched")
    with pytest.raises(ConfigError, match=r"^task\.main_metric=accuracy_mismatched cannot be told"):
        GlueSource(config, NOWHERE).evaluate(answers, outputs_for(answers, 3), Split.dev)


def test_the_score_is_the_mean_of_what_glue_averages() -> None:
    made = source(Dataset.mrpc)
    answers = truths(Dataset.mrpc, 4)
    outputs = np.tile([[0.0, 1.0]], (4, 1))
    metrics = made.evaluate(answers, outputs, Split.dev).metrics
    assert metrics == pytest.approx({"f1": 200 / 3, "accuracy": 50.0, "glue_score": (200 / 3 + 50) / 2})


@pytest.mark.parametrize("dataset", NINE)
def test_one_answer_to_everything_is_never_the_best(dataset: Dataset) -> None:
    """Where the libraries divide by zero, the figure is the worst that says nothing, and a number."""
    made = source(dataset)
    answers = [truth for part in DESCRIPTIONS[dataset].dev for truth in truths(dataset, 6, part=part.name)]
    metrics = made.evaluate(answers, np.zeros((len(answers), made.num_outputs)), Split.dev).metrics
    assert all(np.isfinite(list(metrics.values())))
    assert metrics["glue_score"] <= 50.0


def test_outputs_that_are_no_numbers_end_the_run(tmp_path: Path) -> None:
    glue_files.vocabulary(tmp_path)
    glue_files.sst2(tmp_path)
    outputs = np.zeros((20, 2))
    outputs[3, 1] = np.nan
    with pytest.raises(DivergedError, match=r"outputs for 1 of 20 inputs are not numbers"):
        task("sst2", tmp_path, tmp_path).score({"outputs": outputs}, Split.dev)


@pytest.mark.parametrize("dataset", Dataset)
def test_submissions_are_what_the_server_takes(dataset: Dataset, shared_data: Path) -> None:
    """The samples of GLUE's own server: names, header, number and kind of rows."""
    made, about = source(dataset), DESCRIPTIONS[dataset]
    samples = {part.submission: shared_data / "glue/submission_format" / part.submission for part in about.test}
    if dataset is Dataset.qqp:  # no sample of it lies there
        samples = {"QQP.tsv": samples["QQP.tsv"].with_name("MRPC.tsv")}
    counts = {name: len(sample.read_text().splitlines()) - 1 for name, sample in samples.items()}
    answers = [
        truth
        for part in about.test
        for truth in truths(dataset, counts[part.submission], part=part.name, labelled=False)
    ]
    outputs = np.random.default_rng(0).normal(2.5, 4.0, (len(answers), made.num_outputs))
    evaluation = made.evaluate(answers, outputs, Split.predict)
    assert evaluation.metrics == {}
    assert list(evaluation.files) == ["predictions.json", *(f"submission/{name}" for name in samples)]
    for name, sample in samples.items():
        ours, theirs = (
            [line.split("\t") for line in text.splitlines()]
            for text in (evaluation.files[f"submission/{name}"], sample.read_text())
        )
        assert ours[0] == theirs[0] == ["index", "prediction"]
        assert [row[0] for row in ours] == [row[0] for row in theirs]
        if dataset is Dataset.stsb:
            assert all(len(row[1].partition(".")[2]) == 3 and 0 <= float(row[1]) <= 5 for row in ours[1:])
            assert {"0.000", "5.000"} < {row[1] for row in ours}
        else:
            assert {row[1] for row in theirs[1:]} <= {row[1] for row in ours[1:]} == set(about.labels)
        assert evaluation.files[f"submission/{name}"].endswith("\n")


def test_the_labels_stand_in_the_originals_order() -> None:
    from official.nlp.data import classifier_data_lib as lib

    def theirs(processor: Any) -> list[str]:
        labels: list[str] = processor.get_labels(None)  # to make one of MNLI's, it would look for a download
        return labels

    assert list(glue.BINARY) == theirs(lib.ColaProcessor) == theirs(lib.MrpcProcessor)
    assert list(glue.ENTAILMENT) == theirs(lib.RteProcessor) == theirs(lib.QnliProcessor)
    assert list(glue.INFERENCE) == theirs(lib.MnliProcessor)


def test_a_data_set_brings_its_defaults_and_an_override_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rte = compose(["task=glue", "task.dataset=rte"]).task
    assert (rte.name, rte.main_metric, rte.num_train_epochs) == ("glue_rte", "accuracy", 10)
    assert rte.optimizer.learning_rate == 5e-5
    changed = compose(["task=glue", "task.dataset=rte", "task.optimizer.learning_rate=1e-3", "task.name=mine"]).task
    assert (changed.name, changed.optimizer.learning_rate, changed.num_train_epochs) == ("mine", 1e-3, 10)
    configs: list[Any] = []
    monkeypatch.setattr(experiment, "run", lambda config, **_: configs.append(config.task))
    rates = "task.optimizer.learning_rate=1e-5,3e-5"
    ended = here("-m", "task=glue", "task.dataset=cola,rte", rates, "tracking=none", f"output_dir={tmp_path}")
    assert ended.code == 0
    assert [(one.name, one.main_metric, one.optimizer.learning_rate, one.num_train_epochs) for one in configs] == [
        *(("glue_cola", "mcc", rate, 5) for rate in (1e-5, 3e-5)),
        *(("glue_rte", "accuracy", rate, 10) for rate in (1e-5, 3e-5)),
    ]


@pytest.mark.parametrize("dataset", Dataset)
def test_every_data_set_has_defaults_that_fit_it(dataset: Dataset) -> None:
    config = compose(["task=glue", f"task.dataset={dataset.name}"]).task
    assert config.name == f"glue_{dataset.name}"
    assert config.main_metric == DESCRIPTIONS[dataset].metrics[0] or dataset is Dataset.stsb


def test_the_sweep_runs_all_nine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names: list[str] = []
    monkeypatch.setattr(experiment, "run", lambda config, **_: names.append(config.task.name))
    assert here("+sweep=glue", "tracking=none", f"output_dir={tmp_path}").code == 0
    assert names == [f"glue_{dataset.name}" for dataset in NINE]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with data and a run that learnt the invented SST-2, and the settings it was trained with."""
    root = tmp_path_factory.mktemp("glue")
    glue_files.vocabulary(root)
    glue_files.sst2(root)
    settings = [
        *("task=glue", "task.dataset=sst2", "+preset=scratch", "task.max_seq_length=12", "tracking=none"),
        *(f"data_root={root}", f"output_dir={root}/outputs", f"cache_dir={root}/cache", "model.num_layers=1"),
        *("task.global_batch_size=16", "task.eval_batch_size=16"),
    ]
    ended = here(
        *settings, "task.num_train_epochs=15", "task.optimizer.learning_rate=3e-3", f"hydra.run.dir={root}/run"
    )
    assert ended.code == 0, ended.err
    return root, settings


def test_what_is_trained_is_learnt_and_evaluated_alike_in_any_batch(trained: tuple[Path, list[str]]) -> None:
    root, settings = trained
    result = json.loads((root / "run/result.json").read_text())
    assert result["state"] == "FINISHED" and result["main_metric"] == "accuracy" and result["task"] == "glue_sst2"
    assert result["metrics"]["accuracy"] == result["metrics"]["glue_score"] >= 95.0
    predictions = json.loads((root / "run/predictions/predictions.json").read_text())
    for size in (1, 7):
        place = root / f"evaluated-{size}"
        ended = here("mode=evaluate", *settings, f"task.eval_batch_size={size}", f"init.checkpoint={root}/run/last",
                     f"hydra.run.dir={place}")  # fmt: skip
        assert ended.code == 0, ended.err
        again = json.loads((place / "predictions/predictions.json").read_text())
        assert {name: record["prediction"] for name, record in again.items()} == {
            name: record["prediction"] for name, record in predictions.items()
        }
        metrics = json.loads((place / "result.json").read_text())["metrics"]
        assert metrics == {name: result["metrics"][name] for name in ("accuracy", "glue_score")}


def test_predictions_are_written_for_the_server(trained: tuple[Path, list[str]]) -> None:
    root, settings = trained
    ended = here("mode=predict", *settings, f"init.checkpoint={root}/run", f"hydra.run.dir={root}/predicted")
    assert ended.code == 0, ended.err
    file = root / "predicted/predictions/submission/SST-2.tsv"
    assert str(file) in ended.out
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    assert rows[0] == ["index", "prediction"]
    assert [row[0] for row in rows[1:]] == [str(n) for n in range(10)]
    assert sum(row[1] == str(int(row[0]) % 2) for row in rows[1:]) >= 9
    predictions = json.loads((file.parent.parent / "predictions.json").read_text())
    assert {name: record["prediction"] for name, record in predictions.items()} == dict(rows[1:])
    assert all(0.5 <= record["probability"] <= 1 and "label" not in record for record in predictions.values())


@pytest.mark.slow
def test_a_model_of_mnli_is_judged_in_both_parts_and_by_the_diagnostic(tmp_path: Path) -> None:
    glue_files.vocabulary(tmp_path)
    glue_files.mnli(tmp_path, train=120, dev=(30, 21), test=(5, 4))
    glue_files.diagnostic(tmp_path, count=30)
    settings = [
        *("task=glue", "+preset=scratch", "task.max_seq_length=20", "tracking=none", "model.num_layers=1"),
        *(f"data_root={tmp_path}", f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache"),
        *("task.global_batch_size=20", "task.num_train_epochs=20", "task.optimizer.learning_rate=5e-3"),
    ]
    ended = here(*settings, "task.dataset=mnli", f"hydra.run.dir={tmp_path}/run")
    assert ended.code == 0, ended.err
    metrics = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert min(metrics["accuracy_matched"], metrics["accuracy_mismatched"]) >= 80
    start = f"init.checkpoint={tmp_path}/run"
    for mode, dataset in (("predict", "mnli"), ("evaluate", "ax"), ("predict", "ax")):
        place = f"hydra.run.dir={tmp_path}/{mode}-{dataset}"
        ended = here(f"mode={mode}", *settings, f"task.dataset={dataset}", start, place)
        assert ended.code == 0, ended.err
    judged = json.loads((tmp_path / "evaluate-ax/result.json").read_text())["metrics"]
    assert judged["mcc"] >= 60 and judged["accuracy"] >= 75 and "glue_score" not in judged
    written = {
        file.name: len(file.read_text().splitlines())
        for file in tmp_path.glob("predict-*/predictions/submission/*.tsv")
    }
    assert written == {"MNLI-m.tsv": 6, "MNLI-mm.tsv": 5, "AX.tsv": 31}
