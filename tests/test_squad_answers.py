"""Answers equal the original's, from the same logits."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import originals
import pytest
import squad_rows

from mobilebert_exp.data import squad
from mobilebert_exp.data.squad_answers import Answers, align, answer
from mobilebert_exp.data.squad_windows import Window, windows
from mobilebert_exp.data.tokenizer import Tokenizer

LENGTH = 48
INVENTED = {"max_seq_length": LENGTH, "doc_stride": 11, "max_query_length": 10}
ORIGINAL = {"max_seq_length": 384, "doc_stride": 128, "max_query_length": 64}


def _logits(kind: str, shape: tuple[int, int], *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 as a model gives them; `tied` ones repeat, so that the order of equals shows."""
    rng = np.random.default_rng(seed)
    starts, ends = rng.normal(scale=3.0, size=(2, *shape)).astype(np.float32)
    if kind == "tied":
        return np.round(starts), np.round(ends)
    if kind == "null":
        starts[:, 0] += 12
        ends[:, 0] += rng.normal(scale=8.0, size=shape[0]).astype(np.float32)
    return starts, ends


def _assert_equal(ours: Answers, expected: tuple[dict[str, str], dict[str, Any], dict[str, float]]) -> None:
    predictions, n_best, null_odds = expected
    assert ours.predictions == predictions
    assert ours.null_odds == null_odds
    assert list(ours.n_best) == list(n_best)
    for name, entries in n_best.items():
        for entry, original in zip(ours.n_best[name], entries, strict=True):
            probability = original.pop("probability")
            assert entry == {**original, "probability": pytest.approx(probability, rel=1e-12)}
            assert list(entry) == ["text", "probability", "start_logit", "end_logit"]
    json.dumps([ours.predictions, ours.n_best, ours.null_odds], allow_nan=False)


def _compare(
    path: Path, vocab_file: Path, sizes: dict[str, int], *, kind: str, version_2: bool, lower_case: bool, **search: Any
) -> Answers:
    examples = squad_rows.read(path, version_2=version_2)
    tokenizer = Tokenizer.from_file(vocab_file, lower_case=lower_case)
    found = list(windows(examples, tokenizer, training=False, **sizes))
    starts, ends = _logits(kind, (len(found), sizes["max_seq_length"]), seed=len(found))
    ours = answer(
        examples, found, start_logits=starts, end_logits=ends, version_2=version_2, lower_case=lower_case, **search
    )
    expected = originals.squad_answers(
        originals.squad_examples(path, version_2=version_2, training=False),
        found,
        start_logits=starts,
        end_logits=ends,
        do_lower_case=lower_case,
        version_2_with_negative=version_2,
        **search,
    )
    _assert_equal(ours, expected)
    return ours


@pytest.mark.parametrize("lower_case", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("version_2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", ["random", "tied", "null"])
@pytest.mark.parametrize(
    ("n_best_size", "max_answer_length", "threshold"),
    [(20, 30, 0.0), (3, 4, -3.5), (2, 9, 2.0), (1, 1, 1.0), (100, 60, 0.0)],
)
def test_invented_questions_are_answered_as_by_the_original(
    tmp_path: Path,
    kind: str,
    version_2: bool,
    lower_case: bool,
    n_best_size: int,
    max_answer_length: int,
    threshold: float,
) -> None:
    path, vocab_file = tmp_path / "squad.json", tmp_path / "vocab.txt"
    vocab_file.write_text("\n".join(originals.vocabulary()) + "\n", encoding="utf-8")
    path.write_text(json.dumps(originals.invent(7, paragraphs=4, version_2=version_2)), encoding="utf-8")
    answers = _compare(
        path,
        vocab_file,
        INVENTED,
        kind=kind,
        version_2=version_2,
        lower_case=lower_case,
        n_best_size=n_best_size,
        max_answer_length=max_answer_length,
        null_score_diff_threshold=threshold,
    )
    assert len(set(answers.predictions.values())) > 1 or n_best_size == 1


@pytest.mark.parametrize("kind", ["random", "null"])
@pytest.mark.parametrize("name", ["dev-v1.1", "dev-v2.0"])
def test_real_questions_are_answered_as_by_the_original(
    shared_data: Path, tmp_path: Path, name: str, kind: str
) -> None:
    content = json.loads((shared_data / f"squad/{name}.json").read_text(encoding="utf-8"))
    for article in content["data"]:
        article["paragraphs"] = article["paragraphs"][:3]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    answers = _compare(
        path,
        shared_data / "vocab/bert_uncased_vocab.txt",
        ORIGINAL,
        kind=kind,
        version_2=name.endswith("v2.0"),
        lower_case=True,
        n_best_size=20,
        max_answer_length=30,
        null_score_diff_threshold=0.0,
    )
    assert len(answers.predictions) > 80


def _one(context: str, *, question: str = "who") -> tuple[list[squad.SquadExample], list[Window]]:
    example = squad.SquadExample(
        id="q",
        title="",
        question=question,
        words=tuple(context.split(" ")),
        answers=(),
        start_word=-1,
        end_word=-1,
        is_impossible=False,
    )
    tokenizer = Tokenizer(originals.vocabulary(), lower_case=True)
    return [example], list(windows([example], tokenizer, training=False, **INVENTED))


def _answer(examples: Any, found: Any, starts: np.ndarray, ends: np.ndarray, **changes: Any) -> Answers:
    search: dict[str, Any] = {"n_best_size": 5, "max_answer_length": 30, "version_2": False}
    search |= {"null_score_diff_threshold": 0.0, "lower_case": True} | changes
    return answer(examples, found, start_logits=starts, end_logits=ends, **search)


def test_the_answer_comes_in_the_paragraphs_own_words() -> None:
    examples, found = _one("Old Town's bell\u2014tower (1904-1943).")
    tokens = squad_rows.spelled(found[0]).tokens
    starts, ends = np.zeros((2, 1, LENGTH), np.float32)
    starts[0, tokens.index("old")] = ends[0, tokens.index("town")] = 9
    assert _answer(examples, found, starts, ends).predictions == {"q": "Old Town"}
    starts, ends = np.zeros((2, 1, LENGTH), np.float32)
    starts[0, tokens.index("tower")] = ends[0, tokens.index("19")] = 9
    assert _answer(examples, found, starts, ends).predictions["q"] == "tower (19"


def test_no_row_of_logits_may_be_missing() -> None:
    examples, found = _one("the old tower")
    with pytest.raises(AssertionError, match="one row of logits for each window"):
        _answer(examples, found, np.zeros((2, LENGTH)), np.zeros((2, LENGTH)))


@pytest.mark.parametrize("version_2", [False, True])
def test_an_example_without_windows_has_no_answer(version_2: bool) -> None:
    examples, found = _one("\u200b")
    assert not found
    answers = _answer(examples, found, np.zeros((0, LENGTH)), np.zeros((0, LENGTH)), version_2=version_2)
    text = "" if version_2 else "empty"
    assert answers.predictions == {"q": text}
    assert answers.n_best == {"q": [{"text": text, "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}]}
    assert answers.null_odds == ({"q": 1_000_000.0} if version_2 else {})


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("value", [-1, 1])
def test_the_largest_logits_there_are_still_give_json(value: float, version_2: bool) -> None:
    examples, found = _one("the old tower near the river")
    for rows in (slice(None), slice(0, 5)):
        starts, ends = np.zeros((2, 1, LENGTH), np.float32)
        starts[:, rows] = ends[:, rows] = value * np.finfo(np.float32).max
        answers = _answer(examples, found, starts, ends, version_2=version_2)
        json.dumps([answers.predictions, answers.n_best, answers.null_odds], allow_nan=False)
        assert sum(float(entry["probability"]) for entry in answers.n_best["q"]) == pytest.approx(1.0)


def test_the_order_of_the_windows_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(originals.invent(3, paragraphs=5)), encoding="utf-8")
    examples = squad_rows.read(path, version_2=False)
    tokenizer = Tokenizer(originals.vocabulary(), lower_case=True)
    found = list(windows(examples, tokenizer, training=False, **INVENTED))
    starts, ends = _logits("random", (len(found), LENGTH), seed=0)
    order = np.random.default_rng(0).permutation(len(found))
    straight = _answer(examples, found, starts, ends, version_2=True)
    shuffled = _answer(examples, [found[row] for row in order], starts[order], ends[order], version_2=True)
    assert straight == shuffled


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        ("steve smith", "Steve Smith's", "Steve Smith"),
        ("angstrom", "\u00c5ngstr\u00f6m,", "\u00c5ngstr\u00f6m"),
        ("1895", "(1895-1943).", "1895"),
        ("##", "Steve", None),
        ("", "Steve", None),
        ("smith", "Stev\u200be Smith", None),
    ],
)
def test_tokens_are_aligned_with_the_text(tokens: str, text: str, expected: str | None) -> None:
    assert align(tokens, text, lower_case=True) == expected


def test_verbose_says_where_alignment_fails(caplog: pytest.LogCaptureFixture) -> None:
    examples, found = _one("to\u200bwer")
    with caplog.at_level(logging.INFO):
        _answer(examples, found, np.zeros((1, LENGTH)), np.zeros((1, LENGTH)))
        assert not caplog.records
        answers = _answer(examples, found, np.zeros((1, LENGTH)), np.zeros((1, LENGTH)), verbose=True)
    assert answers.predictions == {"q": "to\u200bwer"}
    assert caplog.records[0].message.startswith("q: cannot align 'tower' with 'to\\u200bwer'")


def test_all_real_dev_questions_are_answered_quickly(shared_data: Path) -> None:
    examples = squad_rows.read(shared_data / "squad/dev-v1.1.json", version_2=False)
    tokenizer = Tokenizer.from_file(shared_data / "vocab/bert_uncased_vocab.txt", lower_case=True)
    found = list(windows(examples, tokenizer, training=False, **ORIGINAL))
    starts, ends = _logits("random", (len(found), 384), seed=0)
    begin = time.process_time()
    answers = _answer(examples, found, starts, ends, n_best_size=20)
    seconds = time.process_time() - begin
    print(f"{len(examples) / seconds:.0f} questions/s")
    assert len(answers.predictions) == 2231
    assert seconds < 10
