"""SQuAD's figures equal the official scripts', and parts merge into the whole."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from mobilebert_exp.metrics import SquadScore, normalize_answer

TEXTS = [
    *("", "the", "A", "...", "\u2014", "Old Town", "the old town", "old town.", "town old old", "an\u00a0old tower"),
    *("a bell, the tower", "the-bell", "1904-1907", "1904 1907", "caf\u00e9", "cafe", "Mira  Vale\n", "it's", "its"),
]


def _invent(seed: int, *, version_2: bool, size: int = 300) -> tuple[list[Any], dict[str, str], dict[str, float]]:
    """A data set, predictions and null odds (with ties), all at random."""
    rng = random.Random(seed)
    questions: list[dict[str, Any]] = []
    for index in range(size):
        count = rng.randint(0 if version_2 else 1, 3)
        questions.append({"id": f"q{index}", "answers": [{"text": rng.choice(TEXTS)} for _ in range(count)]})
    predictions = {question["id"]: rng.choice(TEXTS) for question in questions}
    for question in rng.sample(questions, size // 2):
        if question["answers"]:
            predictions[question["id"]] = question["answers"][0]["text"]
    odds = {question["id"]: float(rng.randint(-5, 5)) for question in questions}
    return [{"paragraphs": [{"qas": questions}]}], predictions, odds


def _score(
    data: list[Any], predictions: dict[str, str], odds: dict[str, float] | None, *, version_2: bool
) -> SquadScore:
    score = SquadScore(version_2=version_2)
    for question in data[0]["paragraphs"][0]["qas"]:
        answers = [answer["text"] for answer in question["answers"]]
        score.update(predictions[question["id"]], answers, null_odds=odds[question["id"]] if odds else None)
    return score


@pytest.mark.parametrize("seed", range(10))
def test_v1_figures_equal_the_official_scripts(seed: int) -> None:
    from official.nlp.tools import squad_evaluate_v1_1

    data, predictions, _ = _invent(seed, version_2=False)
    expected = squad_evaluate_v1_1.evaluate(data, predictions)
    result = _score(data, predictions, None, version_2=False).result()
    assert result == {
        "exact_match": pytest.approx(100 * expected["exact_match"]),
        "f1": pytest.approx(100 * expected["final_f1"]),
        "total": 300,
    }
    assert all(20 < result[name] < 80 for name in ("exact_match", "f1"))


@pytest.mark.parametrize("seed", range(10))
def test_v2_figures_equal_the_official_scripts(seed: int) -> None:
    from official.nlp.tools import squad_evaluate_v2_0

    data, predictions, odds = _invent(seed, version_2=True)
    plain = squad_evaluate_v2_0.evaluate(data, predictions)
    expected = {name: value for name, value in plain.items() if not name.startswith(("final", "pr_"))}
    assert _score(data, predictions, None, version_2=True).result() == pytest.approx(expected)
    ranked = squad_evaluate_v2_0.evaluate(data, predictions, odds)
    best = {f"best_{name[6:]}": value for name, value in ranked.items() if name.startswith("final_")}
    assert sorted(best) == ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]
    assert _score(data, predictions, odds, version_2=True).result() == pytest.approx(expected | best)


@pytest.mark.parametrize("version_2", [False, True])
def test_merged_parts_are_the_whole(version_2: bool) -> None:
    data, predictions, odds = _invent(1, version_2=version_2)
    questions = data[0]["paragraphs"][0]["qas"]
    whole = _score(data, predictions, odds, version_2=version_2).result()
    rng = random.Random(0)
    for _ in range(5):
        first, second = sorted(rng.sample(range(len(questions) + 1), 2))
        merged = SquadScore(version_2=version_2)
        for part in (questions[:first], questions[first:second], questions[second:]):
            score = _score([{"paragraphs": [{"qas": part}]}], predictions, odds, version_2=version_2)
            merged = merged.merge(score)
        assert merged.result() == pytest.approx(whole)


def test_merging_leaves_the_parts_alone() -> None:
    one, other = SquadScore(version_2=False), SquadScore(version_2=False)
    one.update("harp", ["harp"])
    merged = one.merge(other)
    merged.update("lute", ["harp"])
    assert (one.result()["total"], other.result()["total"], merged.result()["total"]) == (1, 0, 2)
    with pytest.raises(AssertionError, match="scores of one version"):
        one.merge(SquadScore(version_2=True))


@pytest.mark.parametrize("version_2", [False, True])
def test_the_figures_are_the_means_of_the_questions(version_2: bool) -> None:
    score = SquadScore(version_2=version_2)
    for prediction, answers in (("a lamp", ["lamp"]), ("two lamps", ["lamps", "three lamps"]), ("", ["lamp"])):
        score.update(prediction, answers)
    each, result = score.each(), score.result()
    assert [figures["exact"] for figures in each] == [100.0, 0.0, 0.0]
    assert each[1]["f1"] == pytest.approx(200 / 3)
    assert result["f1"] == pytest.approx(sum(figures["f1"] for figures in each) / 3)
    assert result["exact" if version_2 else "exact_match"] == pytest.approx(100 / 3)


def test_no_examples_score_zero() -> None:
    assert SquadScore(version_2=False).result() == {"exact_match": 0.0, "f1": 0.0, "total": 0}
    assert SquadScore(version_2=True).result() == {"exact": 0.0, "f1": 0.0, "total": 0}


@pytest.mark.parametrize(
    ("prediction", "answers", "v1", "v2"),
    [
        ("", ["harp"], (0, 0), (0, 0)),
        ("", [], (0, 0), (100, 100)),
        ("harp", [], (0, 0), (0, 0)),
        ("the", ["a"], (100, 0), (100, 100)),  # nothing remains of either
        ("", ["the"], (100, 0), (100, 100)),
        ("The Old-Town!", ["oldtown", "x"], (100, 100), (100, 100)),
        ("old town", ["the old bell town", "x"], (0, 80), (0, 80)),
        ("harp harp", ["harp"], (0, 200 / 3), (0, 200 / 3)),
    ],
)
def test_single_answers(prediction: str, answers: list[str], v1: tuple[float, float], v2: tuple[float, float]) -> None:
    for version_2, name, expected in ((False, "exact_match", v1), (True, "exact", v2)):
        score = SquadScore(version_2=version_2)
        score.update(prediction, answers)
        result = score.result()
        assert (result[name], result["f1"]) == pytest.approx(expected)


def test_thresholds_are_reported_only_when_every_odd_is_known() -> None:
    score = SquadScore(version_2=True)
    score.update("harp", ["harp"], null_odds=-1.0)
    score.update("lute", [], null_odds=3.0)
    result = score.result()
    assert (result["exact"], result["best_exact"], result["best_exact_thresh"]) == (50.0, 100.0, -1.0)
    assert (result["HasAns_exact"], result["NoAns_exact"]) == (100.0, 0.0)
    score.update("lute", [])
    assert "best_exact" not in score.result()


def test_normalisation() -> None:
    assert normalize_answer(" The  Old-Town, a\u00a0'bell'! ") == "oldtown bell"


def test_metrics_import_nothing_heavy() -> None:
    program = "import sys, mobilebert_exp.metrics; sys.exit('tensorflow' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
