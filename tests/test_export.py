"""mode=export: files of a run, whole or not at all, with what an app must know inside, and what cannot be exported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import STARTER, Bench, glue, result
from faults import Proxy

from mobilebert_exp.lite import cards
from mobilebert_exp.lite.interpreter import LiteModel
from mobilebert_exp.modeling.checkpoints import saved_model
from mobilebert_exp.modeling.variables import QUANTIZERS
from mobilebert_exp.runners import export, peak_memory
from mobilebert_exp.runners.export import NAMES
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tracking import store
from mobilebert_exp.tracking.base import RunState

FILES = {each.name: name for each, name in NAMES.items()}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("glue")
    bench = Bench.of(root, *glue(root, "sst2"))
    bench.trained("trained")
    return bench


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_format_of_a_run(bench: Bench) -> None:
    asked = ("mode=export", "export.format=all", "export.calibration_examples=8")
    np.ones(300 * 2**20, np.uint8)
    before = peak_memory.peak_bytes()
    run = bench.succeeds(*asked, f"init.checkpoint={bench.folder}/trained", to="all")
    assert result(run)["peak_memory_bytes"] >= before, "the run's, not its last format's"
    assert "Assets written" not in (run / "mobilebert_exp.log").read_text(), "under names that are gone"
    record = json.loads((run / "exports/exports.json").read_text())
    assert sorted(path.name for path in (run / "exports").iterdir()) == sorted([*FILES.values(), "exports.json"])
    assert {name: each["file"] for name, each in record["files"].items()} == FILES
    assert record["left_out"] == {}
    for format, name in FILES.items():
        path, each = run / "exports" / name, record["files"][format]
        assert each["seconds"] > 0 and each["peak_memory_bytes"] > 2**20
        card = cards.card_of(path)
        assert (card.task, card.head, card.format, card.length) == (
            "glue_sst2",
            "classes",
            format,
            512 if path.is_dir() else 12,
        )
        assert (card.labels, card.lower_case) == (("0", "1"), True)
        assert card.vocabulary == (bench.folder / "vocab/bert_uncased_vocab.txt").read_bytes()
        assert card.source["source_run_id"] == "run-trained"
        if path.is_file():
            assert (each["sha256"], each["bytes"]) == (_sha256(path), path.stat().st_size)
            assert LiteModel(path).output_names == ["probabilities"]
    sizes = {format: each["bytes"] for format, each in record["files"].items()}
    assert sizes["tflite_dynamic"] < sizes["tflite_float16"] < sizes["tflite_float"]


@pytest.mark.slow
def test_a_store_leads_from_files_to_the_run_and_from_figures_to_the_files(bench: Bench) -> None:
    from mlflow.tracking import MlflowClient

    asked = ("mode=export", "export.format=all", "export.calibration_examples=8", "tracking=mlflow")
    run = bench.succeeds(*asked, f"init.checkpoint={bench.folder}/trained", to="tracked")
    files = json.loads((run / "exports/exports.json").read_text())["files"]
    client = MlflowClient(store.resolve_uri(None, None, bench.folder / "outputs"))
    export = client.get_run(result(run)["run_id"])
    assert (export.data.tags["mode"], export.data.tags["source_run_id"]) == ("export", "run-trained")
    artifacts = {file.path for file in client.list_artifacts(export.info.run_id, "exports")}
    assert artifacts == {f"exports/{name}" for name in [*FILES.values(), "exports.json"]}
    served = {file.path for file in client.list_artifacts(export.info.run_id, "exports/saved_model")}
    assert "exports/saved_model/saved_model.pb" in served
    for format, name in FILES.items():
        assert export.data.params[f"sha256.{name}"] == files[format]["sha256"]
        assert export.data.metrics[f"export/{format}/bytes"] == files[format]["bytes"] > 10_000

    file = f"export.path={run}/exports/model_float.tflite"
    evaluated = client.get_run(result(bench.succeeds("mode=evaluate", file, "tracking=mlflow", to="judged"))["run_id"])
    links = {name: evaluated.data.tags[name] for name in ("mode", "source_run_id", "export_run_id")}
    assert links == {"mode": "evaluate", "source_run_id": "run-trained", "export_run_id": export.info.run_id}
    assert evaluated.data.metrics["dev/accuracy"] == evaluated.data.metrics["model/accuracy"]
    assert evaluated.data.metrics["final/equal_answers"] == 100.0
    assert evaluated.data.params["export.sha256"] == files["tflite_float"]["sha256"]
    timed = ("mode=benchmark", f"export.path={run}", "benchmark.threads=[1]", "benchmark.runs=2", "tracking=mlflow")
    measured = client.get_run(result(bench.succeeds(*timed, to="timed"))["run_id"])
    assert {name: measured.data.tags[name] for name in links} == {**links, "mode": "benchmark"}
    assert measured.data.metrics["benchmark/model_float/threads_1/p50_ms"] > 0


@pytest.mark.slow
def test_equal_weights_and_settings_give_equal_files(bench: Bench) -> None:
    asked = ("mode=export", "export.format=tflite_int8", "export.calibration_examples=4")
    files = []
    for name in ("first", "second"):
        run = bench.succeeds(*asked, f"init.checkpoint={bench.folder}/trained", to=name)
        files.append((run / "exports/model_int8.tflite").read_bytes())
    assert files[0] == files[1]


def _with_ranges(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name.startswith(QUANTIZERS):
            values[name] = np.broadcast_to(np.array([-9.0, 7.0], np.float32), value.shape)


@pytest.mark.slow
def test_learnt_ranges_are_not_measured_anew(bench: Bench) -> None:
    """Nor are training data read; and the file answers as the model that was trained with the ranges."""
    quantised = "model.fake_quantization=per_channel"
    start = f"init.checkpoint={bench.trained('quantised', quantised, is_undecided=True, change=_with_ranges)}"
    files = []
    for name, more in {"with": "export.calibration_examples=9", "without": "task.train_file=/nowhere.tsv"}.items():
        asked = ("mode=export", "export.format=tflite_int8", more)
        run = bench.succeeds(*asked, quantised, start, to=f"quantised-{name}")
        files.append((run / "exports/model_int8.tflite").read_bytes())
    assert files[0] == files[1]
    judged = bench.succeeds(
        "mode=evaluate", quantised, f"export.path={run}/exports/model_int8.tflite", to="judged-quantised"
    )
    assert result(judged)["metrics"]["equal_answers"] >= 90.0
    served = bench.succeeds("mode=export", "export.format=savedmodel", quantised, start, to="quantised-served")
    found = saved_model.read(served / "exports/saved_model")
    assert found.model is not None and found.model["fake_quantization"] == "none"
    assert not [name for name in found.values if name.startswith(QUANTIZERS)]


@pytest.mark.slow
def test_a_saved_model_has_the_run_s_weights_bit_by_bit(bench: Bench) -> None:
    run = bench.succeeds(
        "mode=export", "export.format=savedmodel", f"init.checkpoint={bench.folder}/trained", to="served"
    )
    found, vocabulary = saved_model.read(run / "exports/saved_model"), bench.folder / "vocab/bert_uncased_vocab.txt"
    assert (found.vocabulary, found.lower_case) == (vocabulary.read_bytes(), True)
    again = bench.succeeds(
        "mode=export", "export.format=tflite_float", f"init.checkpoint={run}/exports/saved_model", to="again"
    )
    assert cards.card_of(again / "exports/model_float.tflite").source["source_run_id"] == "run-trained"
    direct = bench.succeeds("mode=export", f"init.checkpoint={bench.folder}/trained", to="direct")
    row = {name: np.ones((1, 12), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    one, other = (LiteModel(path / "exports/model_float.tflite").outputs(row) for path in (again, direct))
    np.testing.assert_array_equal(one["probabilities"], other["probabilities"])


def test_a_model_without_an_8_bit_form_is_exported_without_it(bench: Bench) -> None:
    norm = ("model.normalization=layer_norm", f"init.checkpoint={bench.folder}/norm", "export.calibration_examples=4")
    bench.trained("norm", "model.normalization=layer_norm")
    said = bench.refuses("mode=export", "export.format=tflite_int8_strict", *norm)
    assert list((bench.folder / "refused/exports").iterdir()) == []
    assert result(bench.folder / "refused")["state"] == "FAILED"
    run = bench.succeeds("mode=export", "export.format=all", *norm, to="without")
    record = json.loads((run / "exports/exports.json").read_text())
    assert record["left_out"]["tflite_int8_strict"] == said
    assert record["files"].keys() == FILES.keys() - {"tflite_int8_strict"}
    assert not (run / "exports/model_int8_strict.tflite").exists()


def test_what_is_wrong_with_a_model_is_no_form_that_it_lacks(bench: Bench) -> None:
    def diverge(values: dict[str, Any]) -> None:
        values["embeddings/norm/gamma"] = values["embeddings/norm/gamma"] * np.float32(1e9)

    start = f"init.checkpoint={bench.trained('diverged', change=diverge)}"
    asked = ("mode=export", "export.calibration_examples=4", start)
    said = bench.refuses(*asked, "export.format=all", to="diverged-export")
    assert "exceeds what 16 bits hold" in said
    said = bench.refuses(*asked, "export.format=tflite_int8", to="diverged-int8")
    assert "which 8 bits cannot tell apart; export another checkpoint" in said
    assert result(bench.folder / "diverged-export")["state"] == "FAILED"


def test_a_file_of_another_length_than_training(bench: Bench) -> None:
    start = f"init.checkpoint={bench.folder}/trained"
    run = bench.succeeds("mode=export", "export.length=20", "export.dynamic_length=true", start, to="longer")
    card = cards.card_of(run / "exports/model_float.tflite")
    assert (card.length, card.dynamic_length, card.preprocessing["max_seq_length"]) == (20, True, 20)
    assert LiteModel(run / "exports/model_float.tflite").length is None


def test_fewer_training_features_than_asked(bench: Bench) -> None:
    start = f"init.checkpoint={bench.folder}/trained"
    said = bench.refuses("mode=export", start, "export.format=tflite_int8", "export.calibration_examples=65")
    assert said == (
        "export.calibration_examples=65 exceeds the 64 training features; lower it, or name more training data"
    )


def test_a_task_without_a_head_for_devices(tmp_path: Path) -> None:
    bench = Bench.of(tmp_path, "+preset=micro_teacher", "model=micro")
    said = bench.refuses("mode=export", f"init.checkpoint={tmp_path}")
    assert said == (
        "mode=export: task=pretrain has no head that answers on a device (a span, a class or a score); "
        "fine-tune the run on a task that has one, and name that run and task"
    )
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED])
def test_an_unfinished_run(bench: Bench, state: RunState) -> None:
    place = bench.trained(f"un{state.name}", state=state)
    assert bench.refuses("mode=export", f"init.checkpoint={place}", to="untouched") == (
        f"init.checkpoint={place} is a run that did not finish ({state.name}); let it finish, "
        f"or name a checkpoint of it: init.checkpoint={place}/last"
    )
    assert not (bench.folder / "untouched").exists()


def test_an_unfinished_run_in_a_bucket(bench: Bench, cloud: Proxy, place: Place) -> None:
    """Of one that finished, what the tracker calls it is known too."""
    for state in (RunState.RUNNING, RunState.FINISHED):
        run = bench.trained(f"in-bucket-{state.name}", state=state)
        folders.upload(run, place / state.name, names=folders.files_of(run))
    assert bench.refuses("mode=export", f"init.checkpoint={place}/RUNNING", to="from-bucket") == (
        f"init.checkpoint={place}/RUNNING is a run that did not finish (RUNNING); let it finish, "
        f"or name a checkpoint of it: init.checkpoint={place}/RUNNING/last"
    )
    assert not (bench.folder / "from-bucket").exists()
    run = bench.succeeds("mode=export", f"init.checkpoint={place}/FINISHED", to="from-bucket")
    assert cards.card_of(run / "exports/model_float.tflite").source["source_run_id"] == "run-in-bucket-FINISHED"
    assert json.loads((run / "exports/exports.json").read_text())["checkpoint"] == f"{place}/FINISHED"


def test_a_checkpoint_of_an_unfinished_run_may_be_named(bench: Bench) -> None:
    place = bench.trained("unfinished", state=RunState.KILLED)
    run = bench.succeeds("mode=export", f"init.checkpoint={place}/last", to="named")
    assert (run / "exports/model_float.tflite").is_file()


def test_training_data_are_read_for_calibration_alone(bench: Bench) -> None:
    without = ["task.train_file=/nowhere.tsv", f"init.checkpoint={bench.folder}/trained", "mode=export"]
    bench.succeeds(*without, "export.format=tflite_dynamic", to="uncalibrated")
    said = bench.refuses(*without, "export.format=tflite_int8")
    assert said == "task.train_file=/nowhere.tsv does not exist; name a file that does"


def test_a_place_that_cannot_be_written_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobilebert_exp import files

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            files.write_bytes(bench.folder / "half", b"content")
    assert not [path for path in bench.folder.iterdir() if "half" in path.name]

    def write(path: Path, content: bytes) -> None:
        full(len(content))

    monkeypatch.setattr(export, "write_bytes", write)
    said = bench.refuses("mode=export", f"init.checkpoint={bench.folder}/trained", to="full")
    file = bench.folder / "full/exports/model_float.tflite"
    assert said == f"{file} cannot be written (No space left on device); make room there, or set output_dir elsewhere"
    assert list(file.parent.iterdir()) == []
    assert result(bench.folder / "full")["state"] == "FAILED"


def test_the_peak_is_that_of_the_block() -> None:
    def held(size: int) -> int:
        with peak_memory.measured() as peak:
            np.ones(size, np.uint8)
            return peak()

    large, small = held(300 * 2**20), held(2**20)
    assert large - small > 250 * 2**20


def test_a_run_s_peak_is_not_that_of_its_last_block() -> None:
    np.ones(300 * 2**20, np.uint8)
    with peak_memory.measured() as peak:
        assert peak_memory.run_peak_bytes() - peak() > 250 * 2**20
    with peak_memory.measured() as peak:
        assert peak_memory.run_peak_bytes() - peak() > 250 * 2**20


def test_span_files_name_what_makes_windows(tmp_path: Path) -> None:
    bench = Bench.of(tmp_path, *STARTER)
    run = bench.succeeds("mode=export", f"init.checkpoint={bench.trained('spans')}", to="export")
    card = cards.card_of(run / "exports/model_float.tflite")
    expected: dict[str, Any] = {"doc_stride": 32, "max_query_length": 16, "max_seq_length": 68, "max_answer_length": 30}
    assert {name: card.preprocessing[name] for name in expected} == expected
    assert (card.head, card.labels) == ("span", ())
    assert LiteModel(run / "exports/model_float.tflite").output_names == ["end_logits", "start_logits"]
