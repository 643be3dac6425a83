"""Metrics as mergeable states, on the scale of each task's official script."""

from __future__ import annotations

import collections
import itertools
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mobilebert_exp.errors import DivergedError

if TYPE_CHECKING:
    import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def check_finite(outputs: Mapping[str, np.ndarray]) -> None:
    """Raises DivergedError where an output `[B, …]` of a model is NaN or infinite."""
    import numpy as np

    rows = [(~np.isfinite(output)).reshape(len(output), -1).any(axis=-1) for output in outputs.values()]
    broken_B = np.logical_or.reduce(rows)
    if broken_B.any():
        raise DivergedError(
            f"the model's outputs for {int(broken_B.sum())} of {len(broken_B)} inputs are not numbers, so no metric "
            "would mean anything; train anew with a lower task.optimizer.learning_rate"
        )


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


@dataclass(kw_only=True, slots=True)
class Confusion:
    """Which classes were taken for which, and what follows from it, 0 to 100 (MCC −100 to 100).

    Equal to scikit-learn's `accuracy_score`, `f1_score` (of class 1) and `matthews_corrcoef`. Where these have nothing
    to divide by (no example; no example of class 1, true or predicted; one class alone), the figure is 0.
    """

    num_classes: int
    _counts: collections.Counter[tuple[int, int]] = field(default_factory=collections.Counter)

    def update(self, prediction: int, truth: int) -> None:
        """Adds an example by its predicted and its true class."""
        self._counts[prediction, truth] += 1

    def merge(self, other: Confusion) -> Confusion:
        """The counts of both together."""
        assert self.num_classes == other.num_classes, "counts of one set of classes"
        return Confusion(num_classes=self.num_classes, _counts=self._counts + other._counts)

    def result(self) -> dict[str, float]:
        """`accuracy`, `mcc`, and of two classes `f1`."""
        total = self._counts.total()
        correct = sum(self._counts[each, each] for each in range(self.num_classes))
        predicted, true = (
            [sum(n for pair, n in self._counts.items() if pair[axis] == each) for each in range(self.num_classes)]
            for axis in (0, 1)
        )
        covariance = correct * total - sum(p * t for p, t in zip(predicted, true, strict=True))
        spreads = [total**2 - sum(n**2 for n in counts) for counts in (predicted, true)]
        result = {
            "accuracy": 100.0 * correct / max(total, 1),
            "mcc": 100.0 * covariance / math.sqrt(spreads[0] * spreads[1]) if all(spreads) else 0.0,
        }
        if self.num_classes == 2:
            result["f1"] = 100.0 * 2 * self._counts[1, 1] / max(predicted[1] + true[1], 1)
        return result


@dataclass(kw_only=True, slots=True)
class Correlation:
    """Pearson's and Spearman's correlation of scores, −100 to 100; equal scores share the mean of their ranks.

    Equal to SciPy's `pearsonr` and `spearmanr`, which give NaN where either side is constant or has fewer than two
    scores: here that is 0, so that a model that says one thing of everything is never the best.
    """

    _predictions: list[float] = field(default_factory=list)
    _truths: list[float] = field(default_factory=list)

    def update(self, prediction: float, truth: float) -> None:
        """Adds an example; both are numbers."""
        assert math.isfinite(prediction) and math.isfinite(truth), "scores are numbers"
        self._predictions.append(prediction)
        self._truths.append(truth)

    def merge(self, other: Correlation) -> Correlation:
        """The scores of both together."""
        return Correlation(_predictions=self._predictions + other._predictions, _truths=self._truths + other._truths)

    def result(self) -> dict[str, float]:
        """`pearson` and `spearman`."""
        return {
            "pearson": 100.0 * _pearson(self._predictions, self._truths),
            "spearman": 100.0 * _pearson(_ranks(self._predictions), _ranks(self._truths)),
        }


def _pearson(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) < 2 or min(a) == max(a) or min(b) == max(b):
        return 0.0
    x, y = _centred(a), _centred(b)
    product = math.fsum(p * q for p, q in zip(x, y, strict=True))
    spread = math.sqrt(math.fsum(p * p for p in x)) * math.sqrt(math.fsum(q * q for q in y))
    return min(1.0, max(-1.0, product / spread))


def _centred(values: Sequence[float]) -> list[float]:
    """Less their mean, and scaled by a power of two, which rounds nothing, so that no square leaves a float's range."""
    mean = math.fsum(_scaled(values)) / len(values)
    return _scaled([value - mean for value in _scaled(values)])


def _scaled(values: Sequence[float]) -> list[float]:
    _, exponent = math.frexp(max(map(abs, values)))
    return [math.ldexp(value, -exponent) for value in values]


def _ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for _, group in itertools.groupby(enumerate(order, start=1), key=lambda ranked: values[ranked[1]]):
        tied = list(group)
        for _, index in tied:
            ranks[index] = (tied[0][0] + tied[-1][0]) / 2
    return ranks
