"""mode=evaluate of exported files: what the file answers, the model beside it, and files that are not to be judged."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import lite_files
import numpy as np
import pytest
from exports import STARTER, Bench, glue, result

from mobilebert_exp import compose, deploying, fitting, lineage, registry
from mobilebert_exp.config import InitConfig
from mobilebert_exp.runners import comparison
from mobilebert_exp.runners.export import NAMES as FILES
from mobilebert_exp.tasks.base import Deployable, Evaluation
from mobilebert_exp.tracking import weights


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run on SST-2, `export/exports` of it, and one that knows nothing but the other class."""
    root = tmp_path_factory.mktemp("glue")
    bench = Bench.of(root, *glue(root, "sst2"))
    bench.trained("trained", is_undecided=True)
    asked = ("mode=export", "export.format=all", "export.calibration_examples=8")
    bench.succeeds(*asked, f"init.checkpoint={root}/trained", to="export")
    return bench


def _file(bench: Bench, name: str = "model_float.tflite") -> str:
    return f"export.path={bench.folder}/export/exports/{name}"


def _predictions(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "predictions.json").read_text())
    return {name: record["prediction"] for name, record in found.items()}


@pytest.mark.parametrize("name", ["model_float.tflite", "saved_model"])
def test_a_file_answers_as_its_model(bench: Bench, name: str) -> None:
    run = bench.succeeds("mode=evaluate", _file(bench, name), "export.max_drop=0", to=f"judged-{name}")
    answers = _predictions(run / "predictions")
    assert answers == _predictions(run / "predictions/model")
    assert len(set(answers.values())) > 1, "one answer to everything compares nothing"
    metrics = result(run)["metrics"]
    assert metrics["equal_answers"] == 100.0
    assert metrics["accuracy"] == metrics["model_accuracy"]
    alone = bench.succeeds("mode=evaluate", f"init.checkpoint={bench.folder}/trained", to=f"alone-{name}")
    assert result(alone)["metrics"]["accuracy"] == metrics["accuracy"]
    assert answers == _predictions(alone / "predictions")


@pytest.mark.slow
def test_any_batch_and_a_part_of_the_split(bench: Bench) -> None:
    asked = ("mode=evaluate", _file(bench, "model_int8.tflite"), "trainer.limit_eval=11")
    one, other = (bench.succeeds(*asked, f"task.eval_batch_size={size}", to=f"by-{size}") for size in (3, 32))
    assert _predictions(one / "predictions") == _predictions(other / "predictions")
    assert len(_predictions(one / "predictions")) == 11


@pytest.mark.slow
def test_a_folder_of_files_is_compared(bench: Bench) -> None:
    """What was evaluated in part has no metric."""
    judged = bench.succeeds("mode=evaluate", _file(bench, "model_dynamic.tflite"), to="judged-whole")
    bench.succeeds("mode=evaluate", _file(bench, "model_float16.tflite"), "trainer.limit_eval=3", to="judged-part")
    asked = ("mode=benchmark", "benchmark.threads=[1]", "benchmark.runs=2", "benchmark.warmup_runs=1")
    run = bench.succeeds(*asked, f"export.path={bench.folder}/export", to="compared")
    record = json.loads((run / "benchmark/benchmark.json").read_text())
    metrics = {model["name"]: model["metric"] for model in record["models"]}
    assert metrics.keys() == {Path(name).stem for name in FILES.values()}
    assert metrics["model_dynamic"] == result(judged)["metrics"]["accuracy"]
    assert metrics["model_float16"] is None
    assert all(len(model["milliseconds"]["1"]) == 2 for model in record["models"])


def test_what_is_not_to_be_measured_is_told_before_a_run_begins(bench: Bench, tmp_path: Path) -> None:
    other = Bench.of(tmp_path, *glue(tmp_path, "rte"))
    exports = f"{bench.folder}/export/exports"
    said = other.refuses("mode=benchmark", f"export.path={bench.folder}/export")
    assert re.match(rf"export\.path={exports}/\S+ is of another task, .*; benchmark it with its own task$", said)
    said = bench.refuses("mode=benchmark", f"export.path={exports}", "task.max_seq_length=10")
    assert "takes 12 tokens, and task.max_seq_length=10" in said
    (tmp_path / "none").mkdir()
    said = bench.refuses("mode=benchmark", f"export.path={tmp_path}/none")
    assert said.startswith(f"export.path={tmp_path}/none has no exported model; name a .tflite, ")
    assert not (bench.folder / "refused").exists() and not (tmp_path / "refused").exists()


def test_other_peoples_files_may_be_measured(bench: Bench, tmp_path: Path) -> None:
    foreign = lite_files.put(tmp_path / "foreign.tflite", lite_files.span(12))
    asked = ("mode=benchmark", "benchmark.threads=[1]", "benchmark.runs=2", "benchmark.warmup_runs=1")
    bench.succeeds(*asked, f"export.path={foreign}", to="foreign")


def test_a_folder_of_files_is_told_with_their_names(bench: Bench) -> None:
    names = sorted(path.name for path in (bench.folder / "export/exports").iterdir() if path.suffix != ".json")
    for folder in ("export", "export/exports"):
        said = bench.refuses("mode=evaluate", f"export.path={bench.folder}/{folder}", to="never")
        assert said == (
            f"{bench.folder}/{folder} is no SavedModel of mode=export, but a folder of models; name one: "
            f"{bench.folder}/export/exports/{names[0]} (or {', '.join(names[1:])})"
        )
    assert not (bench.folder / "never").exists()


def test_a_table_shows_both_and_a_drop_fails_the_run_with_its_figures(bench: Bench) -> None:
    """The model beside the file always answers the class that the file never does."""
    file = bench.succeeds("mode=export", f"init.checkpoint={_biased(bench, 'never', -1e3)}", to="worse")
    for name in ("train", "dev"):
        path = bench.folder / f"glue/SST-2/{name}.tsv"
        path.write_text(re.sub(r"\t0$", "\t1", path.read_text(), flags=re.MULTILINE))
    always = f"init.checkpoint={_biased(bench, 'always', 1e3)}"
    asked = ("mode=evaluate", f"export.path={file}/exports/model_float.tflite", always)
    shown = bench.run(*asked, "export.max_drop=100", to="allowed")
    assert shown.code == 0
    assert re.search(r"metric +model +file +difference\n +accuracy +100\.00 +0\.00 +-100\.00\n", shown.out)
    assert "equal answers: 0.00 %" in shown.out

    said = bench.refuses(*asked, "export.max_drop=2.5", to="dropped")
    assert said == (
        f"export.path={file}/exports/model_float.tflite: accuracy is 0.00, 100.00 below the model's 100.00, and "
        "export.max_drop=2.5; try another export.format, export.mask_value=null, more export.calibration_examples, or "
        "training with model.fake_quantization=per_channel"
    )
    kept = result(bench.folder / "dropped")
    assert (kept["state"], kept["reason"]) == ("FAILED", f"ShortfallError: {said}")
    assert kept["metrics"] == result(bench.folder / "allowed")["metrics"]
    assert kept["metrics"]["model_accuracy"] == 100.0
    assert (bench.folder / "dropped/predictions/predictions.json").is_file()


def _biased(bench: Bench, name: str, bias: float) -> Path:
    def change(values: dict[str, Any]) -> None:
        values["heads/classifier/bias"] = np.array([0.0, bias], np.float32)

    return bench.trained(name, change=change)


def test_a_file_without_its_model_stands_alone(bench: Bench, tmp_path: Path) -> None:
    copy = tmp_path / "model.tflite"
    shutil.copy(bench.folder / "export/exports/model_float.tflite", copy)
    ended = bench.run("mode=evaluate", f"export.path={copy}", to="moved")
    assert ended.code == 0, ended.err
    assert "no model to compare with; init.checkpoint=RUN names one" in ended.out
    assert result(bench.folder / "moved")["metrics"].keys() == {"accuracy", "glue_score", "file_megabytes"}
    assert bench.refuses("mode=evaluate", f"export.path={copy}", "export.max_drop=1") == (
        f"export.max_drop=1.0 needs the model of export.path={copy}, and it is not to be had here; "
        "name it with init.checkpoint=RUN"
    )


def test_a_file_alone_finds_its_model_through_the_tracker(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a run that is named by its id is what the tags name."""
    copy, asked = tmp_path / "model.tflite", []
    shutil.copy(bench.folder / "export/exports/model_float.tflite", copy)

    def resolve(place: str, *, uri: str, cache_dir: str) -> str:
        asked.append(place)
        return str(bench.folder / "trained")

    monkeypatch.setattr(weights, "resolve", resolve)
    config = compose([*bench.settings, "mode=evaluate", f"export.path={copy}"])
    task = registry.create_task(config)
    config = fitting.resolved(config, task)
    found = deploying.with_weights(config, task, uri=None)
    assert (asked, found.init.checkpoint) == (["mlflow:run-trained"], str(bench.folder / "trained"))
    assert lineage.tags(config, found) == {"source_run_id": "run-trained"}
    named = dataclasses.replace(config, init=InitConfig(checkpoint="mlflow:abc/best"))
    assert lineage.tags(named, found) == {"source_run_id": "abc"}
    (tmp_path / "trained").mkdir()
    for each in (bench.folder / "trained").rglob("ckpt-*"):
        shutil.copy(each, tmp_path / "trained")  # which is no run
    prefix = next((tmp_path / "trained").glob("*.index")).with_suffix("")
    foreign = dataclasses.replace(config, init=InitConfig(checkpoint=str(prefix)))
    assert lineage.tags(foreign, deploying.with_weights(foreign, task, uri=None)) == {"source_run_id": "run-trained"}


def test_a_torn_file_is_refused_before_a_benchmark_begins(bench: Bench, tmp_path: Path) -> None:
    whole = (bench.folder / "export/exports/model_float.tflite").read_bytes()
    (tmp_path / "whole.tflite").write_bytes(whole)
    (tmp_path / "torn.tflite").write_bytes(whole[: len(whole) // 2])
    for path in (tmp_path, tmp_path / "torn.tflite"):
        said = bench.refuses("mode=benchmark", f"export.path={path}", to="no-benchmark")
        assert said == f"{tmp_path}/torn.tflite is truncated or damaged; copy or export it again"
    assert not (bench.folder / "no-benchmark").exists()


def test_a_model_that_is_gone_from_where_it_was_is_asked_for_by_its_run(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one in an archive is had from there."""
    path = tmp_path / "exports/model_float.tflite"
    shutil.copytree(bench.folder / "export/exports", path.parent)
    config = compose([*bench.settings, "mode=evaluate", f"export.path={path}"])
    task = registry.create_task(config)
    config = fitting.resolved(config, task)
    archive = shutil.make_archive(str(tmp_path / "packed"), "gztar", bench.folder, "trained")
    trained, record = str(bench.folder / "trained"), json.loads((path.parent / "exports.json").read_text())
    asked: list[str] = []

    def resolve(place: str, **_: object) -> str:
        asked.append(place)
        return trained

    monkeypatch.setattr(weights, "resolve", resolve)
    for place, found, questions in ((archive, archive, 0), (str(tmp_path / "deleted"), trained, 1)):
        (path.parent / "exports.json").write_text(json.dumps({**record, "checkpoint": place}))
        assert deploying.with_weights(config, task, uri=None).init.checkpoint == found
        assert asked == ["mlflow:run-trained"] * questions


def test_files_that_are_not_to_be_judged(bench: Bench, tmp_path: Path) -> None:
    file = f"{bench.folder}/export/exports/model_float.tflite"
    head = "GLUE sst2: 0, 1"
    other = Bench.of(tmp_path, *glue(tmp_path, "rte"))
    assert other.refuses("mode=evaluate", f"export.path={file}") == (
        f"export.path={file} is of another task, glue_sst2 ({head}), and this one asks for GLUE rte: entailment, "
        "not_entailment; evaluate it with its own task"
    )
    assert bench.refuses("mode=evaluate", _file(bench), "task.max_seq_length=10") == (
        f"export.path={file} takes 12 tokens, and task.max_seq_length=10; set task.max_seq_length=12"
    )
    served = bench.succeeds("mode=evaluate", _file(bench, "saved_model"), "task.max_seq_length=20", to="longer")
    assert result(served)["metrics"]["equal_answers"] == 100.0
    words = (bench.folder / "vocab/bert_uncased_vocab.txt").read_text()
    (tmp_path / "words.txt").write_text(words.replace("harp", "lute"))
    said = bench.refuses("mode=evaluate", _file(bench), f"task.vocab_file={tmp_path}/words.txt")
    assert re.fullmatch(
        rf"export\.path={re.escape(file)} is of another vocabulary \(sha256 [0-9a-f]{{12}}…, task\.lower_case=true; "
        r"here [0-9a-f]{12}…, true\); name its own with task\.vocab_file or data_root",
        said,
    )
    assert not (bench.folder / "refused").exists(), "told before a run begins"
    assert not (tmp_path / "refused").exists()


def test_files_that_are_none(bench: Bench, tmp_path: Path) -> None:
    assert bench.refuses("mode=evaluate", f"export.path={tmp_path}/no.tflite") == (
        f"export.path={tmp_path}/no.tflite does not exist; name a file that does"
    )
    whole = (bench.folder / "export/exports/model_float.tflite").read_bytes()
    for name, content in {"torn": whole[: len(whole) // 2], "text": b"this is no model", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        said = bench.refuses("mode=evaluate", f"export.path={tmp_path}/{name}")
        assert said.startswith(f"{tmp_path}/{name} ") and "truncated" in said
    (tmp_path / "folder").mkdir()
    assert bench.refuses("mode=evaluate", f"export.path={tmp_path}/folder") == (
        f"{tmp_path}/folder is no SavedModel of mode=export, it lacks assets.extra/mobilebert_exp.zip; "
        "name one, or a .tflite"
    )
    assert not (bench.folder / "refused").exists()


@pytest.mark.slow
def test_a_damaged_saved_model(bench: Bench, tmp_path: Path) -> None:
    copy = tmp_path / "saved_model"
    shutil.copytree(bench.folder / "export/exports/saved_model", copy)
    graph = copy / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:1000])
    said = bench.refuses("mode=evaluate", f"export.path={copy}", to="damaged")
    assert said.startswith(f"{copy} cannot be loaded (") and said.endswith("; export it again")


@pytest.mark.slow
def test_another_checkpoint_than_the_file_s_is_told(bench: Bench) -> None:
    other = bench.trained(
        "other", change=lambda values: values.update({"heads/classifier/bias": np.ones(2, np.float32)})
    )
    ended = bench.run("mode=evaluate", _file(bench), f"init.checkpoint={other}", to="another")
    assert ended.code == 0
    assert "was made of another checkpoint (sha256 " in ended.out


@pytest.mark.slow
def test_spans_and_a_shorter_text_in_a_file_of_any_length(tmp_path: Path) -> None:
    bench = Bench.of(tmp_path, *STARTER)
    start = f"init.checkpoint={bench.trained('spans')}"
    longer = ("export.length=96", "export.dynamic_length=true")
    for name, more in {"fixed": (), "dynamic": longer}.items():
        exported = bench.succeeds("mode=export", start, *more, to=f"export-{name}")
        file = f"export.path={exported}/exports/model_float.tflite"
        metrics = result(bench.succeeds("mode=evaluate", file, "export.max_drop=0", to=f"judged-{name}"))["metrics"]
        assert metrics["equal_answers"] == 100.0
        assert metrics["f1"] == metrics["model_f1"]
    assert bench.refuses("mode=evaluate", file, "task.max_seq_length=100") == (
        f"{file} takes up to 96 tokens, and task.max_seq_length=100; set task.max_seq_length=96"
    )


STSB = ("task=glue", "task.dataset=stsb", "data_root=/nowhere")


def test_scores_that_are_close_are_equal_and_logarithms_of_probabilities_are_logits(tmp_path: Path) -> None:
    scores: Any = registry.create_task(compose([*STSB, f"cache_dir={tmp_path}"]))
    classes: Any = registry.create_task(compose(["task=glue", "task.dataset=rte", f"cache_dir={tmp_path}"]))
    assert isinstance(scores, Deployable) and isinstance(classes, Deployable)
    given = np.array([[2.5], [3.0]], np.float32)
    np.testing.assert_array_equal(scores.of_exported({"scores": given})["outputs"], given)
    files = {"predictions.json": {"1": {"prediction": 2.549}, "2": {"prediction": 2.551}}}
    one, other = scores.answers(Evaluation(metrics={}, files=files)).values()
    assert comparison.is_equal(one, other), "which a rounding would tell apart"
    assert not comparison.is_equal(one, 2.61)
    assert comparison.is_equal("harp", "harp") and not comparison.is_equal("0", "1")
    logits = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    shares[0] = [0.0, 1.0]  # as 8 bits have it
    found = classes.of_exported({"probabilities": shares})["outputs"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found[1:]) / np.exp(found[1:]).sum(axis=1, keepdims=True), shares[1:], rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), shares.argmax(axis=1))
