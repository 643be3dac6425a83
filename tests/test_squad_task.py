"""Every flag of `run_squad.py` that concerns data and answers has its override, and the override its effect."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilebert_exp import compose, registry
from mobilebert_exp.errors import DivergedError
from mobilebert_exp.tasks.base import Evaluation, Split, Task

SMALL = ["task.starter.train_articles=12", "task.starter.dev_articles=6", "task.starter.vocabulary_size=300"]


def _task(tmp_path: Path, *overrides: str) -> Task:
    return registry.create_task(compose([*SMALL, f"cache_dir={tmp_path}", *overrides]))


def _scored(task: Task, *, split: Split = Split.dev) -> Evaluation:
    """What random logits, always the same, are worth; they are low where shorter texts have padding."""
    shape = (task.features(split).num_features, task.config.max_seq_length)
    starts, ends = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    starts[:, 60:] = ends[:, 60:] = -100
    return task.score({"start_logits": starts, "end_logits": ends}, split)


def _n_best(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = evaluation.files["nbest_predictions.json"]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("size", [1, 3])
def test_n_best_size(folder: Path, size: int) -> None:
    found = _n_best(_scored(_task(folder, "task=squad_v1", f"task.n_best_size={size}")))
    assert max(map(len, found.values())) == size


@pytest.mark.parametrize("length", [1, 3])
def test_max_answer_length(folder: Path, length: int) -> None:
    """A token is at least a letter of a word, so no answer has more words than tokens."""
    found = _n_best(_scored(_task(folder, "task=squad_v1", f"task.max_answer_length={length}")))
    assert max(len(entry["text"].split()) for entries in found.values() for entry in entries) <= length
    longer = _n_best(_scored(_task(folder, "task=squad_v1", "task.max_answer_length=30")))
    assert max(len(entry["text"].split()) for entries in longer.values() for entry in entries) > length


def test_null_score_diff_threshold(folder: Path) -> None:
    none, some, every = (
        _scored(_task(folder, "task=squad_v2", f"task.null_score_diff_threshold={threshold}"))
        for threshold in (-1000.0, -3.0, 1000.0)
    )
    odds = some.files["null_odds.json"]
    assert set(none.files["predictions.json"].values()) == {""}
    assert "" not in every.files["predictions.json"].values()
    assert {name for name, text in some.files["predictions.json"].items() if text == ""} == {
        name for name, value in odds.items() if value > -3.0
    }
    assert 0 < sum(value > -3.0 for value in odds.values()) < len(odds)


def test_version_2_with_negative(folder: Path) -> None:
    first, second = (_scored(_task(folder, f"task=squad_v{version}")) for version in (1, 2))
    assert "null_odds.json" not in first.files and "null_odds.json" in second.files
    assert "exact_match" in first.metrics and "NoAns_f1" in second.metrics


def test_verbose_logging(folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilebert_exp.data.squad_answers.align", lambda *texts, **settings: None)
    with caplog.at_level(logging.INFO, logger="mobilebert_exp"):
        _scored(_task(folder, "task=squad_v1"))
        assert not any("cannot align" in record.message for record in caplog.records)
        _scored(_task(folder, "task=squad_v1", "task.verbose_logging=true"))
        assert any("cannot align" in record.message for record in caplog.records)


def test_lengths_and_stride_shape_the_features(folder: Path) -> None:
    long = _task(folder, "task=squad_v1", "task.max_seq_length=384").features(Split.dev)
    sizes = ["task.max_seq_length=64", "task.max_query_length=16"]
    wide, narrow = (
        _task(folder, "task=squad_v1", *sizes, f"task.doc_stride={stride}").features(Split.dev) for stride in (40, 10)
    )
    assert long.columns["input_ids"].shape == (384,) and wide.columns["input_ids"].shape == (64,)
    assert long.num_features < wide.num_features < narrow.num_features
    assert long.num_examples == wide.num_examples == narrow.num_examples


def test_every_question_has_its_own_scores(folder: Path) -> None:
    """So that two runs can be compared question by question; over all they are the metrics."""
    found = _scored(_task(folder, "task=squad_v1"))
    scores = found.files["question_scores.json"]
    assert set(scores) == set(found.files["predictions.json"])
    assert np.mean([score["f1"] for score in scores.values()]) == pytest.approx(found.metrics["f1"])
    assert np.mean([score["exact"] for score in scores.values()]) == pytest.approx(found.metrics["exact_match"])
    predicted = _scored(_task(folder, "task=squad_v1"), split=Split.predict)
    assert (predicted.metrics, "question_scores.json" in predicted.files) == ({}, False)
    assert predicted.files["predictions.json"] == found.files["predictions.json"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("split", [Split.dev, Split.predict])
def test_outputs_that_are_no_numbers_end_the_run(folder: Path, value: float, split: Split) -> None:
    """In evaluation and prediction too: the answers of a diverged model are none."""
    task = _task(folder, "task=squad_v2")
    shape = (task.features(split).num_features, task.config.max_seq_length)
    starts, ends = np.zeros((2, *shape), np.float32)
    starts[0, 3] = ends[0, 5] = ends[2, 0] = value
    with pytest.raises(DivergedError, match=rf"^the model's outputs for 2 of {shape[0]} inputs are not numbers"):
        task.score({"start_logits": starts, "end_logits": ends}, split)
