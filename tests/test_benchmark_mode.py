"""mode=benchmark: files and their model measured in processes of their own, compared in one table and plot."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
from pathlib import Path
from typing import Any

import lite_files
import numpy as np
import pytest
import toy
from fakes import FakeTracker

from mobilebert_exp.config import Mode
from mobilebert_exp.deployment import BenchmarkConfig, ExportConfig
from mobilebert_exp.errors import ExportError, WorkerError
from mobilebert_exp.lite import metadata
from mobilebert_exp.modeling.checkpoints import formats
from mobilebert_exp.runners import benchmark, evaluations, machine, pareto
from mobilebert_exp.runners.base import Job, Outcome, StopRequest
from mobilebert_exp.runners.evaluations import Worth
from mobilebert_exp.runners.pareto import Latency, Point
from mobilebert_exp.runners.stopwatch import Process, Subject

TOY = evaluations.terms(toy.experiment(), toy.task(toy.experiment(), Path()))
TERMS = {"task": "squad_v1", "length": 384, "data": {"dev": "abc"}}
QUICK = BenchmarkConfig(threads=[1, 2], runs=6, warmup_runs=1, examples=3)


def _run(path: Path, folder: Path, *, checkpoint: str | None = None) -> tuple[Outcome, FakeTracker]:
    config = dataclasses.replace(
        toy.experiment(init__checkpoint=checkpoint),
        mode=Mode.benchmark,
        benchmark=QUICK,
        export=ExportConfig(path=str(path)),
    )
    tracker, run_dir = toy.started(FakeTracker()), folder / "run"
    run_dir.mkdir(exist_ok=True)
    job = Job(
        config=config, task=toy.task(config, folder / "data"), run_dir=run_dir, tracker=tracker, stop=StopRequest()
    )
    return benchmark.run(job), tracker


def _rows(folder: Path) -> Path:
    batch: dict[str, Any] = lite_files.batch(2)
    np.savez(folder / "rows.npz", **batch)
    return folder / "rows.npz"


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """Two files of a folder; the first was evaluated."""
    folder = tmp_path / "before" / "exports"
    card = metadata.Card(
        task="toy", head="span", labels=(), vocabulary=b"a\n", lower_case=True, length=12, dynamic_length=False,
        preprocessing={}, source={}, format="tflite_float",
    )  # fmt: skip
    whole = metadata.with_files(lite_files.span(), metadata.files(card))
    first = lite_files.put(folder / "model_float.tflite", whole)
    lite_files.put(folder / "model_dynamic.tflite", lite_files.span(dynamic=True))
    evaluations.record(first, Worth(metrics={"exact": 81.5}), terms=TOY)
    return folder


def test_a_folder_of_files_is_measured_and_compared(exports: Path, tmp_path: Path) -> None:
    outcome, tracker = _run(exports.parent, tmp_path)
    record = json.loads((tmp_path / "run" / "benchmark" / "benchmark.json").read_text())
    models = {model["name"]: model for model in record["models"]}
    assert set(models) == {"model_float", "model_dynamic"}
    for model in models.values():
        assert {threads: len(taken) for threads, taken in model["milliseconds"].items()} == {"1": 6, "2": 6}
        for latency in model["latencies"]:
            taken = model["milliseconds"][str(latency["threads"])]
            assert 0 < min(taken) <= latency["p50"] <= latency["p90"] <= latency["p99"] <= max(taken)
        assert 0 < model["model_bytes"] < model["peak_bytes"]
        assert model["xnnpack"]["partitions"] >= 1
        assert {op["name"] for op in model["op_times"]} == {"CAST", "ADD", "MUL"}
        assert sum(op["count"] for op in model["census"]["ops"]) == 6
    assert models["model_float"]["bytes"] == (exports / "model_float.tflite").stat().st_size
    assert (models["model_float"]["metric"], models["model_dynamic"]["metric"]) == (81.5, None)
    assert record["machine"]["ai-edge-litert"] and record["machine"]["cores"] >= 1
    assert (tmp_path / "run" / "benchmark", "") in tracker.artifacts
    assert tracker.series("benchmark/model_float/threads_2/p90_ms")
    assert tracker.recorded_params["machine.cpu"] == record["machine"]["cpu"]
    whole = (tmp_path / "run/benchmark/table.txt").read_text()
    assert "81.50" in outcome.text and "81.50" in whole and "own MiB" in whole and "no room" not in whole
    assert outcome.text.endswith(f"\nevery column is in {tmp_path}/run/benchmark/table.txt")
    assert max(map(len, outcome.text.splitlines()[:-1])) <= 80
    assert set(whole.split("\n\n")[1].split()) <= set(outcome.text.split()), "no remark is lost in folding"
    assert set(outcome.metrics) == {"model_float_p50_ms", "model_dynamic_p50_ms"}
    _check_png((tmp_path / "run" / "benchmark" / "pareto.png").read_bytes())


def _check_png(content: bytes) -> None:
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 400 and height > 300


@pytest.mark.slow
def test_the_model_is_measured_beside_its_files(exports: Path, tmp_path: Path) -> None:
    config = toy.experiment(trainer__max_steps=1)
    toy.run(config, toy.task(config, tmp_path / "data"), tmp_path / "trained")
    own = formats.read(str(tmp_path / "trained")).digest
    assert own
    for digest, expected in ((own[::-1], None), (own, 83.0)):
        worth = Worth(metrics={"exact": 81.5}, model_metrics={"exact": 83.0}, checkpoint_sha256=digest)
        evaluations.record(exports / "model_float.tflite", worth, terms=TOY)
        _run(exports, tmp_path, checkpoint=str(tmp_path / "trained"))
        record = json.loads((tmp_path / "run" / "benchmark" / "benchmark.json").read_text())
        live = next(model for model in record["models"] if model["name"] == "checkpoint")
        assert live["metric"] == expected
    assert live["bytes"] > 1000
    assert [latency["threads"] for latency in live["latencies"]] == [1, 2]
    assert "census" not in live


def test_models_take_turns(exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int]] = []

    class Fake:
        def __init__(self, subject: Subject, *, rows: Path, threads: int) -> None:
            self._name, self._threads = subject.name, threads

        def run(self, row: int) -> float:
            turns.append((self._name, row))
            return 0.001 * self._threads

        def ended(self) -> dict[str, Any]:
            return {"memory_bytes": 2, "before_bytes": 1, "xnnpack": {"partitions": 1, "delegated": 1, "left": {}}}

        def profile(self) -> list[dict[str, Any]]:
            return []

        def close(self) -> None:
            turns.append((self._name, -1))

    monkeypatch.setattr(benchmark, "Process", Fake)
    outcome, _ = _run(exports, tmp_path)
    names = ["model_dynamic", "model_float"]
    one = [(name, number) for numbers in (range(1), range(6)) for number in numbers for name in names]
    assert turns == 2 * (one + [(name, -1) for name in reversed(names)])
    assert outcome.metrics == dict.fromkeys(("model_dynamic_p50_ms", "model_float_p50_ms"), 2.0)


def test_a_file_is_measured_without_tensorflow(tmp_path: Path) -> None:
    path, rows = lite_files.put(tmp_path / "m.tflite", lite_files.span()), _rows(tmp_path)
    process = Process(Subject(name="m", path=path), rows=rows, threads=1)
    try:
        assert [process.run(number) > 0 for number in range(3)] == [True] * 3
        maps = Path(f"/proc/{process.number}/maps").read_text()
        told = process.ended()
    finally:
        process.close()
    assert "ai_edge_litert" in maps and "libtensorflow" not in maps
    # less than what TensorFlow alone takes: the peak is this process's own, not that of the one that started it
    assert 0 < told["memory_bytes"] - told["before_bytes"] < told["memory_bytes"] < 300 << 20


def test_what_a_process_says_of_a_file_reaches_the_person(tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span()[:100])
    with pytest.raises(ExportError, match=r"m.tflite is truncated or damaged"):
        Process(Subject(name="m", path=path), rows=_rows(tmp_path), threads=1)


@pytest.mark.slow
def test_a_saved_model_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    import tensorflow as tf

    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/saved_model.pb").write_bytes(b"torn")
    module = tf.Module()
    module.serve = tf.function(lambda image: {"scores": image}, [tf.TensorSpec([1], tf.float32, name="image")])
    tf.saved_model.save(module, str(tmp_path / "images"), signatures=module.serve)
    for name, words in {
        "torn": r"torn is no SavedModel with a signature serving_default \(.+\); name one, or export it again",
        "images": "images wants image, which the task's features do not have; name the task that it is for",
    }.items():
        with pytest.raises(ExportError, match=f"{words}$") as told:
            Process(Subject(name=name, path=tmp_path / name), rows=_rows(tmp_path), threads=1)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "killed, perhaps for want of memory"), (signal.SIGABRT, "signal 6: .+")]
)
def test_a_process_that_is_ended_is_told(number: int, words: str, tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span())
    process = Process(Subject(name="m", path=path), rows=_rows(tmp_path), threads=1)
    try:
        os.kill(process.number, number)
        with pytest.raises(WorkerError, match=rf"that measures m ended \({words}\); run it again"):
            process.run(0)
    finally:
        process.close()


def test_none_outlives_the_one_that_asks(tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span())
    process = Process(Subject(name="m", path=path), rows=_rows(tmp_path), threads=1)
    number = process.number
    process.close()
    assert not Path(f"/proc/{number}").exists()


def test_nothing_to_measure_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none.tflite"):
        with pytest.raises(ExportError, match=f"export.path={path} has no exported model"):
            benchmark.found(path)


def test_files_and_saved_models_are_found(tmp_path: Path) -> None:
    for name in ("b.tflite", "a/saved_model.pb", "notes.json", "c/other"):
        lite_files.put(tmp_path / name, b"x")
    assert [subject.name for subject in benchmark.found(tmp_path)] == ["a", "b"]
    assert [subject.path for subject in benchmark.found(tmp_path / "a")] == [tmp_path / "a"]
    lite_files.put(tmp_path / "a.tflite", b"x")
    assert [subject.name for subject in benchmark.found(tmp_path)] == ["a", "a.tflite", "b.tflite"]


def _point(name: str, size: int, latency: float, metric: float | None) -> Point:
    latencies = [Latency(threads=1, p50=9, p90=9, p99=9), Latency(threads=2, p50=latency, p90=9, p99=9)]
    return Point(name=name, bytes=size, latencies=latencies, peak_bytes=3, model_bytes=2, metric=metric)


def test_the_front_is_what_no_other_surpasses() -> None:
    points = [
        _point("best", 100, 5.0, 90.0),
        _point("small", 25, 6.0, 88.0),
        _point("worse", 26, 6.5, 88.0),
        _point("same", 25, 6.0, 88.0),
        _point("unknown", 24, 7.0, None),
        _point("unknown and large", 101, 7.0, None),
        _point("unknown and slow", 23, 9.0, None),
        _point("unknown, small and quick", 22, 4.0, None),
    ]
    assert pareto.front(points) == {"best", "small", "same", "unknown, small and quick"}
    table = pareto.table(points, metric="f1", width=200).splitlines()
    assert len(table) == 3 + 2 * len(points), "a title, the header and a rule"
    assert {line.split("  ")[0] for line in table[1:] if line.endswith("*")} == pareto.front(points)
    _check_png(pareto.plot(points, metric="f1"))
    _check_png(pareto.plot([_point("one", 3, 1.0, None)], metric="f1"))


@pytest.mark.parametrize("width", [56, 80, 120])
def test_a_table_fits_the_terminal_and_names_what_is_left_out(width: int) -> None:
    points = [_point("model_int8_strict", 25_300_000, 1234.5, 90.25), _point("saved_model", 98_000_000, 56.78, None)]
    lines = pareto.table(points, metric="matched_accuracy", width=width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for shown in ("model_int8_strict", "1234.50", "saved_model", "56.78", "*"):
        assert shown in text
    left_out = [line for line in lines if line.startswith("no room for ")]
    assert (
        left_out
        == {
            56: ["no room for MB, p90 ms, p99 ms, peak MiB, own MiB"],
            80: ["no room for p90 ms, own MiB"],
            120: [],
        }[width]
    )


def test_figures_of_a_file_that_was_written_anew_are_not_its_own(tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span())
    worth = Worth(metrics={"f1": 88.0}, model_metrics={"f1": 89.0}, checkpoint_sha256="abc")
    assert evaluations.noted(path, terms=TERMS) == Worth()
    evaluations.record(path, worth, terms=TERMS)
    assert evaluations.noted(path, terms=TERMS) == worth
    lite_files.put(path, lite_files.span(13))
    assert evaluations.noted(path, terms=TERMS) == Worth()
    (tmp_path / "m.tflite.evaluation.json").write_text("[1]")
    assert evaluations.noted(path, terms=TERMS) == Worth()


@pytest.mark.parametrize("other", [{"task": "squad_v2"}, {"length": 128}, {"data": {"dev": "abd"}}])
def test_figures_of_another_evaluation_are_not_compared(other: dict[str, object], tmp_path: Path) -> None:
    path = lite_files.put(tmp_path / "m.tflite", lite_files.span())
    evaluations.record(path, Worth(metrics={"f1": 88.0}), terms={**TERMS, **other})
    assert evaluations.noted(path, terms=TERMS) == Worth()
    assert evaluations.noted(path, terms={**TERMS, **other}) == Worth(metrics={"f1": 88.0})


def test_the_machine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for flags, has in (("Features\t: fp asimd asimddp", True), ("flags : fpu avx2 fma", False)):
        monkeypatch.setattr(
            machine, "CPU_INFO", lite_files.put(tmp_path / "cpuinfo", f"{flags}\n\nflags: x\n".encode())
        )
        assert machine.has_dot_products(machine.described()) is has
    for load, is_busy in ((0.5, False), (1.5, True)):
        assert machine.is_busy({**machine.described(), "cores": 2, "load_before": load}) is is_busy
