"""From logits back to text: the original's n-best search and its alignment of tokens with the paragraph.

Shapes: W windows, L tokens, N the n-best size, E examples, K candidate spans
of all windows together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mobilebert_exp.data.squad import SquadExample
from mobilebert_exp.data.squad_windows import Window
from mobilebert_exp.data.tokenizer import basic_words

_LOG = logging.getLogger(__name__)
_SCORE_WITHOUT_WINDOW = 1_000_000.0  # where the original's search for the least null score begins


@dataclass(kw_only=True, frozen=True, slots=True)
class Answers:
    """What the original writes, JSON-ready, by question id.

    Attributes:
      predictions: `predictions.json`.
      n_best: `nbest_predictions.json`, each entry with text, probability, start_logit and end_logit.
      null_odds: `null_odds.json`: the null score minus the best other score; empty for v1.1.
    """

    predictions: dict[str, str]
    n_best: dict[str, list[dict[str, str | float]]]
    null_odds: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Entry:
    text: str
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


@dataclass(frozen=True, slots=True)
class _Logits:
    starts_WL: np.ndarray
    ends_WL: np.ndarray

    def entry(self, text: str, window: int, first: int, last: int) -> _Entry:
        return _Entry(text, float(self.starts_WL[window, first]), float(self.ends_WL[window, last]))


def answer(
    examples: Sequence[SquadExample],
    windows: Sequence[Window],
    *,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    n_best_size: int,
    max_answer_length: int,
    version_2: bool,
    null_score_diff_threshold: float,
    lower_case: bool,
    verbose: bool = False,
) -> Answers:
    """Answers every example from the logits `[W, L]`, all finite, of its windows, row by row in their order.

    With `version_2` the answer is empty where the null score exceeds the best other score by more than
    `null_score_diff_threshold`. Source: `postprocess_output` of tf-models' squad_lib, which this equals.
    """
    logits = _Logits(np.asarray(start_logits, np.float64), np.asarray(end_logits, np.float64))
    nulls = _null_windows(windows, logits) if version_2 else {}
    spans_K3 = _spans(windows, logits, n_best_size=n_best_size, max_answer_length=max_answer_length)
    ranked = _rank(spans_K3, nulls, windows, logits)
    answers = Answers(predictions={}, n_best={}, null_odds={})
    for index, example in enumerate(examples):
        entries: dict[str, _Entry] = {}
        for row, first, last in ranked.get(index, ()):
            if len(entries) == n_best_size:
                break
            text = _text(example, windows[row], first, last, lower_case=lower_case, verbose=verbose) if first else ""
            entries.setdefault(text, logits.entry(text, row, first, last))
        if version_2:
            null = logits.entry("", nulls[index], 0, 0) if index in nulls else None
            text, answers.null_odds[example.id] = _weigh(entries, null, threshold=null_score_diff_threshold)
            entries.setdefault("", null or _Entry("", 0.0, 0.0))
        else:
            entries = entries or {"empty": _Entry("empty", 0.0, 0.0)}  # the original's word where nothing is allowed
            text = next(iter(entries))
        answers.predictions[example.id] = text
        answers.n_best[example.id] = _n_best(list(entries.values()))
    return answers


def _weigh(entries: Mapping[str, _Entry], null: _Entry | None, *, threshold: float) -> tuple[str, float]:
    """The better of the best text and none at all, and the odds for none."""
    odds = null.score if null else _SCORE_WITHOUT_WINDOW
    best = next((entry for text, entry in entries.items() if text), None)
    if best is None:
        return "", odds
    odds = odds - best.start_logit - best.end_logit
    return ("" if odds > threshold else best.text), odds


def _spans(windows: Sequence[Window], logits: _Logits, *, n_best_size: int, max_answer_length: int) -> np.ndarray:
    """Window, first and last position `[K, 3]` of all spans allowed, in the order of the original's search."""
    assert len(windows) == len(logits.starts_WL) == len(logits.ends_WL), "one row of logits for each window"
    may_start_WL = np.zeros(logits.starts_WL.shape, bool)
    may_end_WL = np.zeros(logits.ends_WL.shape, bool)
    for row, window in enumerate(windows):
        context = slice(window.context_start, window.num_tokens - 1)
        may_start_WL[row, context] = window.context_is_best
        may_end_WL[row, context] = True
    first_WN = np.argsort(-logits.starts_WL, axis=1, kind="stable")[:, :n_best_size]
    last_WN = np.argsort(-logits.ends_WL, axis=1, kind="stable")[:, :n_best_size]
    length_WNN = last_WN[:, None, :] - first_WN[:, :, None] + 1
    is_span_WNN = (length_WNN >= 1) & (length_WNN <= max_answer_length)
    is_span_WNN &= np.take_along_axis(may_start_WL, first_WN, axis=1)[:, :, None]
    is_span_WNN &= np.take_along_axis(may_end_WL, last_WN, axis=1)[:, None, :]
    window_K, start_rank_K, end_rank_K = np.nonzero(is_span_WNN)
    return np.stack([window_K, first_WN[window_K, start_rank_K], last_WN[window_K, end_rank_K]], axis=1)


def _null_windows(windows: Sequence[Window], logits: _Logits) -> dict[int, int]:
    """For each example the first of its windows with the least null score."""
    scores_W = logits.starts_WL[:, 0] + logits.ends_WL[:, 0]
    least: dict[int, int] = {}
    for row, window in enumerate(windows):
        if window.example_index not in least or scores_W[row] < scores_W[least[window.example_index]]:
            least[window.example_index] = row
    return least


def _rank(
    spans_K3: np.ndarray, nulls: Mapping[int, int], windows: Sequence[Window], logits: _Logits
) -> dict[int, list[list[int]]]:
    """The spans of each example and its null, best first; equals keep their order, the null last."""
    nulls_E3 = np.array([(row, 0, 0) for row in nulls.values()], np.int64).reshape(-1, 3)
    spans_K3 = np.concatenate([spans_K3, nulls_E3])  # from here on K counts the nulls too
    row_K, first_K, last_K = spans_K3.T
    example_K = np.array([window.example_index for window in windows], np.int64)[row_K]
    scores_K = logits.starts_WL[row_K, first_K] + logits.ends_WL[row_K, last_K]
    order_K = np.lexsort((-scores_K, example_K))
    examples, begins = np.unique(example_K[order_K], return_index=True)
    groups = np.split(spans_K3[order_K], begins[1:])
    return {index: group.tolist() for index, group in zip(examples.tolist(), groups, strict=False)}


def _n_best(entries: Sequence[_Entry]) -> list[dict[str, str | float]]:
    best = max(entry.score for entry in entries)
    weights = [math.exp(entry.score - best) for entry in entries]
    total = sum(weights)
    return [
        {
            "text": entry.text,
            "probability": weight / total,
            "start_logit": entry.start_logit,
            "end_logit": entry.end_logit,
        }
        for entry, weight in zip(entries, weights, strict=True)
    ]


def _text(example: SquadExample, window: Window, first: int, last: int, *, lower_case: bool, verbose: bool) -> str:
    """What a span of tokens says in the paragraph's own words."""
    tokens = " ".join(window.tokens_at(first, last)).replace(" ##", "").replace("##", "")
    words = " ".join(example.words[window.word_at(first) : window.word_at(last) + 1])
    text = align(" ".join(tokens.split()), words, lower_case=lower_case)
    if text is None and verbose:
        _LOG.info("%s: cannot align %r with %r; the whole words stand in", example.id, tokens, words)
    return words if text is None else text


def align(tokens: str, text: str, *, lower_case: bool) -> str | None:
    """The part of `text` that its normalised `tokens` stand for; None where characters do not correspond one to one.

    Tokens `steve smith` in the text `Steve Smith's` give `Steve Smith`.
    Source: `get_final_text` of the original, which falls back to the whole text.
    """
    normalised = " ".join(basic_words(text, lower_case=lower_case))
    start = normalised.find(tokens)
    inked = [index for index, char in enumerate(text) if char != " "]
    if not tokens or start < 0 or len(inked) != len(normalised) - normalised.count(" "):
        return None
    first = start - normalised.count(" ", 0, start)
    return text[inked[first] : inked[first + len(tokens) - tokens.count(" ") - 1] + 1]
