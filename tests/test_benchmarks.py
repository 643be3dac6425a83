"""The benchmarks' arithmetic, processes and command line; how fast things are is for a quiet machine to say."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command_line
from benchmarks import first_step, processes, report, startup, step_time
from benchmarks.measurement import Comparison, Goal, Samples, in_turn
from benchmarks.peers.worker import random_batch
from benchmarks.processes import BenchmarkError, Worker, require, seconds_of, seconds_until
from mobilebert_exp import compose

FOLDER = Path(command_line.__file__).parent
seconds = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9).map(tuple)


def compared(
    ours: tuple[float, ...], *peers: tuple[float, ...], goal: Goal = Goal.at_most, target: float = 2.0
) -> Comparison:
    return Comparison(
        title="a title",
        ours=Samples(name="ours", values=ours),
        peers=tuple(Samples(name=f"peer {index}", values=peer) for index, peer in enumerate(peers)),
        goal=goal,
        target=target,
    )


@pytest.mark.parametrize(("values", "median"), [((3.0,), 3.0), ((1.0, 9.0, 2.0), 2.0), ((4.0, 1.0, 2.0, 100.0), 3.0)])
def test_a_median_is_the_middle_of_the_sorted_times(values: tuple[float, ...], median: float) -> None:
    assert Samples(name="x", values=values).median == median


@pytest.mark.parametrize("values", [(), (1.0, 0.0), (1.0, -2.0), (math.nan,), (1.0, math.inf)])
def test_what_is_no_time_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="are not times"):
        Samples(name="x", values=values)


def test_the_ratio_is_that_of_medians_over_the_fastest_peer() -> None:
    found = compared((3.0, 1.0, 2.0), (4.0, 4.0, 4.0), (90.0, 1.0, 1.6))
    assert found.fastest_peer.name == "peer 1"
    assert found.ratio == pytest.approx(2.0 / 1.6)


def test_the_goal_says_which_way_the_ratio_counts() -> None:
    assert compared((2.0,), (5.0,)).ratio == pytest.approx(0.4)
    assert compared((2.0,), (5.0,), goal=Goal.at_least).ratio == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("goal", "ours", "is_met"),
    [
        (Goal.at_most, 7.9, True), (Goal.at_most, 8.0, True), (Goal.at_most, 8.1, False),
        (Goal.at_least, 1.9, True), (Goal.at_least, 2.0, True), (Goal.at_least, 2.1, False),
    ],
)  # fmt: skip
def test_a_target_is_met_up_to_its_edge(goal: Goal, ours: float, is_met: bool) -> None:
    assert compared((ours,), (4.0,), goal=goal, target=2.0).is_met is is_met


@given(ours=seconds, peers=st.lists(seconds, min_size=1, max_size=3), scale=st.sampled_from([0.25, 2.0, 64.0]))
def test_a_machine_twice_as_fast_gives_the_same_ratio(
    ours: tuple[float, ...], peers: list[tuple[float, ...]], scale: float
) -> None:
    scaled = [tuple(value * scale for value in values) for values in (ours, *peers)]
    assert compared(*scaled).ratio == pytest.approx(compared(ours, *peers).ratio)


@given(ours=seconds, peers=st.lists(seconds, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_neither_the_order_of_runs_nor_that_of_peers_matters(
    ours: tuple[float, ...], peers: list[tuple[float, ...]], seed: int
) -> None:
    rng = random.Random(seed)
    shuffled = [tuple(rng.sample(values, len(values))) for values in (ours, *rng.sample(peers, len(peers)))]
    assert compared(*shuffled).ratio == compared(ours, *peers).ratio


def test_programs_are_run_in_turn_and_keep_their_own_times() -> None:
    times = iter(range(1, 10))
    told: list[str] = []
    programs = {name: lambda: [float(next(times))] for name in ("a", "b", "c")}
    found = in_turn(programs, rounds=3, tell=told.append)
    assert [found[name].values for name in "abc"] == [(1.0, 4.0, 7.0), (2.0, 5.0, 8.0), (3.0, 6.0, 9.0)]
    assert [text[-1] for text in told] == list("abcabcabc")


def test_a_table_says_everything_that_a_claim_needs() -> None:
    text = report.shown(compared((3.0, 1.0, 2.0), (4.0,), target=0.4))
    assert "| **ours** | 2.000    | 1.000–3.000 | 3            |" in text
    assert "| peer 0   | 4.000    | 4.000–4.000 | 1            |" in text
    assert "ours / peer 0 = **0.50**, target at most 0.40: **missed**" in text
    assert "peer 0 / ours = **2.00**, target at least 2.00: met" in report.shown(
        compared((2.0,), (4.0,), goal=Goal.at_least)
    )


def test_the_machine_is_named() -> None:
    facts = report.machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert "tensorflow 2." in report.machine_line(facts)


def test_the_file_holds_every_measurement(tmp_path: Path) -> None:
    facts = report.machine()
    report.write(tmp_path / "out.json", facts=facts, found=[("startup", compared((3.0, 1.0, 2.0), (4.0,)))])
    held = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert held["machine"] == facts
    (one,) = held["comparisons"]
    assert (one["benchmark"], one["ratio"], one["goal"], one["is_met"]) == ("startup", 0.5, "at most", True)
    assert (one["ours"]["median"], one["ours"]["values"], one["ours"]["unit"]) == (2.0, [3.0, 1.0, 2.0], "s")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_every_benchmark_is_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--list"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    written = {path.stem for path in FOLDER.glob("*.py") if "\ndef run(" in path.read_text(encoding="utf-8")}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert listed == written == set(command_line.BENCHMARKS)
    assert {name for name in listed if f"## {name}" not in readme} == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["startpu"], "startpu is not a benchmark; did you mean startup?"),
        (
            ["everything"],
            f"everything is not a benchmark; there are {', '.join(command_line.BENCHMARKS)}",
        ),
        (["startup", "--rounds", "0"], "--rounds=0 is below 1; raise it"),
        (["--out", "/nowhere/at/all.json"], "--out=/nowhere/at/all.json: /nowhere/at is no folder that can be written"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_peer_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require("json", purpose="this")
    find_spec, absent = importlib.util.find_spec, {"torch", "transformers"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name))
    assert command_line.main(["step_time"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "error: step_time needs torch and transformers, not installed here; `make bench` installs them"


def test_a_program_is_timed_from_its_start_to_a_line_or_to_its_end(tmp_path: Path) -> None:
    program = [
        "-c",
        "import time; time.sleep(0.2); print('step 1/1 done'); time.sleep(0.2); open('end', 'w').close()",
    ]
    assert seconds_until(program, folder=tmp_path, line=r"step 1/") >= 0.2  # a sleep is never shorter
    assert (tmp_path / "end").exists(), "it runs to its end all the same"
    assert seconds_of(program, folder=tmp_path) >= 0.4


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('nothing of note')", r"ended without a line like 'step 1/'"),
        ("print('step 1/1'); raise SystemExit(3)", r"ended with exit code 3: step 1/1"),
        ("raise ArithmeticError('the loss is nan')", r"exit code 1: ArithmeticError: the loss is nan"),
    ],
)
def test_a_program_that_fails_gives_no_time(program: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=message):
        seconds_until(["-c", program], folder=tmp_path, line="step 1/")


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "LIMIT_S", 0.5)
    with pytest.raises(BenchmarkError, match="killed, after 0 s without an answer"):
        seconds_of(["-c", "import time; time.sleep(600)"], folder=tmp_path)


def test_every_program_gets_the_same_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = processes.environment()
    assert not {"OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "MLFLOW_TRACKING_URI"} & set(found)
    assert found["PYTHONPATH"] == f"{processes.CHECKOUT}:/elsewhere"


WORKER = """
from benchmarks.peers.worker import Model, serve
def build(job):
    print("libraries chatter on stdout")
    losses = iter(job["losses"])
    return Model(step=lambda: next(losses), parameters=job["parameters"])
serve(build)
"""


@pytest.fixture
def worker_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stand_in.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "stand_in"


def test_a_worker_steps_when_it_is_told_to(worker_module: str, tmp_path: Path) -> None:
    with Worker(worker_module, {"losses": [1.0] * 6, "parameters": 7}, folder=tmp_path) as worker:
        worker.wait_until_ready()
        assert worker.parameters == 7
        assert [len(worker.steps(count)) for count in (3, 1)] == [3, 1]


def test_a_worker_whose_loss_is_lost_ends_the_benchmark(worker_module: str, tmp_path: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match="exit code 1: ArithmeticError: the loss is nan"),
        Worker(worker_module, {"losses": [1.0, 1.0, 1.0, math.nan], "parameters": 7}, folder=tmp_path) as worker,
    ):
        worker.wait_until_ready()
        worker.steps(1)
        worker.steps(1)


def test_every_implementation_is_told_the_same() -> None:
    job = step_time.job(batch=4, length=384)
    config = compose(list(job["overrides"]))  # type: ignore[call-overload]
    assert (config.model.name, config.task.max_seq_length, config.task.global_batch_size) == ("opt", 384, 4)
    assert config.hardware.threads == job["threads"] == 2
    assert config.model.attention_dropout == job["architecture"]["attention_dropout"] == 0.1  # type: ignore[index]
    assert config.task.optimizer.learning_rate == job["optimizer"]["learning_rate"]  # type: ignore[index]
    assert json.loads(json.dumps(job)) == job


def test_the_batch_is_random_and_always_the_same() -> None:
    job = {"batch": 8, "length": 128, "architecture": {"vocab_size": 30_522}}
    first, second = random_batch(job), random_batch(job)
    assert {name: value.shape for name, value in first.items()} == {
        **dict.fromkeys(("input_ids", "input_mask", "segment_ids"), (8, 128)),
        **dict.fromkeys(("start_positions", "end_positions"), (8,)),
    }
    assert all((first[name] == second[name]).all() for name in first)
    assert 5 <= first["input_ids"].min() < first["input_ids"].max() < 30_522
    assert (first["start_positions"] <= first["end_positions"]).all()
    assert len(set(first["input_ids"].flat)) > 900


def test_a_vocabulary_is_filled_up_to_the_size_of_opt() -> None:
    pieces = first_step.filled(["[PAD]", "a"], size=5)
    assert pieces == ["[PAD]", "a", "[unused0]", "[unused1]", "[unused2]"]
    assert compose(["model=opt"]).model.vocab_size == first_step.VOCABULARY_SIZE


def test_a_small_run_of_the_cheapest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    assert command_line.main(["startup", "--rounds", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "mobilebert_exp --help" in shown
    assert "Machine: " in shown
    held = json.loads(out.read_text(encoding="utf-8"))["comparisons"]
    assert [one["target"] for one in held] == [startup.TARGET] * 2
    assert all(len(samples["values"]) == 1 for one in held for samples in (one["ours"], *one["peers"]))


@pytest.mark.slow
def test_the_models_that_are_timed_are_the_same(tmp_path: Path) -> None:
    job: dict[str, Any] = step_time.job(
        batch=2, length=96, overrides=("model=opt", "model.num_layers=1", "model.vocab_size=99")
    )
    counts = {}
    for name in (step_time.OURS, "tf-models"):
        with Worker(step_time.MODULES[name], job, folder=tmp_path) as worker:
            worker.wait_until_ready()
            counts[name] = worker.parameters
            assert len(worker.steps(2)) == 2
    head, layers, words = 512 * 2 + 2, 23 * 842_240, (30_522 - 99) * 128
    assert set(counts.values()) == {24_581_888 - layers - words + head}


@pytest.mark.slow
def test_operators_lists_what_a_step_is_made_of() -> None:
    command = [sys.executable, "-m", "benchmarks.operators", "--batch", "1", "--steps", "1"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    shares = [float(share.strip().rstrip("%")) for _, _, share, _ in rows]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))
    calls = {kind.strip(): count.strip() for kind, _, _, count in rows}
    products = [int(count) for kind, count in calls.items() if kind.endswith("MatMul")]
    assert products and products[0] > 24 * 3 * 10, "forward and both backward products of ten dense layers a block"
