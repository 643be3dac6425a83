"""Metrics as mergeable states, on the scale of each task's official script."""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous whitespace."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


@dataclass(kw_only=True, frozen=True, slots=True)
class _Answered:
    exact: float
    f1: float
    has_answer: bool
    is_blank: bool
    null_odds: float | None


@dataclass(kw_only=True, slots=True)
class SquadScore:
    """Exact match and F1 of answers, 0 to 100, as `evaluate-v1.1.py` and `evaluate-v2.0.py` count them.

    They differ where nothing remains of an answer once it is normalised: against an equally empty truth v2.0 gives
    F1 = 1, v1.1 gives 0. Beyond the scripts: without any example every figure is 0, and in v1.1 a question without
    answers scores 0 whatever the prediction.
    """

    version_2: bool
    _answered: list[_Answered] = field(default_factory=list)

    def update(self, prediction: str, answers: Sequence[str], *, null_odds: float | None = None) -> None:
        """Adds a question: its predicted text (empty for "no answer") and all accepted ones.

        `null_odds`, larger for "no answer", serves the threshold figures of v2.0; give it for all or for none.
        """
        truths: Sequence[str] = [normalize_answer(truth) for truth in answers]
        if self.version_2:
            truths = [truth for truth in truths if truth] or [""]
        guess = normalize_answer(prediction)
        self._answered.append(
            _Answered(
                exact=max((float(guess == truth) for truth in truths), default=0.0),
                f1=max((self._f1(guess.split(), truth.split()) for truth in truths), default=0.0),
                has_answer=bool(answers),
                is_blank=not prediction,
                null_odds=null_odds,
            )
        )

    def merge(self, other: SquadScore) -> SquadScore:
        """The score of both together; order matters only between equal `null_odds`."""
        assert self.version_2 == other.version_2, "scores of one version"
        return SquadScore(version_2=self.version_2, _answered=self._answered + other._answered)

    def result(self) -> dict[str, float]:
        """Figures under the official names.

        v1.1: exact_match, f1, total. v2.0: exact, f1, total, the same with HasAns_ and NoAns_ where there are such
        questions, and with `null_odds` best_exact, best_exact_thresh, best_f1, best_f1_thresh: what the best
        threshold on them, chosen in hindsight, would give.
        """
        if not self.version_2:
            figures = _figures(self._answered)
            return {"exact_match": figures["exact"], "f1": figures["f1"], "total": figures["total"]}
        result = _figures(self._answered)
        for prefix, has_answer in (("HasAns", True), ("NoAns", False)):
            part = [item for item in self._answered if item.has_answer is has_answer]
            if part:
                result |= {f"{prefix}_{name}": value for name, value in _figures(part).items()}
        if self._answered and all(item.null_odds is not None for item in self._answered):
            result["best_exact"], result["best_exact_thresh"] = self._best(lambda item: item.exact)
            result["best_f1"], result["best_f1_thresh"] = self._best(lambda item: item.f1)
        return result

    def each(self) -> list[dict[str, float]]:
        """Exact match and F1 of every question by itself, 0 to 100, in the order they were added."""
        return [{"exact": 100.0 * item.exact, "f1": 100.0 * item.f1} for item in self._answered]

    def _f1(self, guess: list[str], truth: list[str]) -> float:
        if self.version_2 and not (guess and truth):
            return float(guess == truth)
        num_same = sum((collections.Counter(guess) & collections.Counter(truth)).values())
        if not num_same:
            return 0.0
        precision, recall = num_same / len(guess), num_same / len(truth)
        return 2 * precision * recall / (precision + recall)

    def _best(self, score: Callable[[_Answered], float]) -> tuple[float, float]:
        """Raises the threshold question by question, starting from "no answer" to all."""
        total = best = float(sum(not item.has_answer for item in self._answered))
        threshold = 0.0
        for item in sorted(self._answered, key=lambda item: item.null_odds or 0.0):
            total += score(item) if item.has_answer else -float(not item.is_blank)
            if total > best:
                best, threshold = total, item.null_odds or 0.0
        return 100.0 * best / len(self._answered), threshold


def _figures(answered: Sequence[_Answered]) -> dict[str, float]:
    count = max(len(answered), 1)
    return {
        "exact": 100.0 * sum(item.exact for item in answered) / count,
        "f1": 100.0 * sum(item.f1 for item in answered) / count,
        "total": len(answered),
    }
