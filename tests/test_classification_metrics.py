"""Metrics of classes and scores: equal to scikit-learn's and SciPy's, and defined where these are not."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence

import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_exp.metrics import Confusion, Correlation

Pair = tuple[float, float]  # predicted, true


def confusion(pairs: Sequence[tuple[int, int]], *, num_classes: int) -> Confusion:
    state = Confusion(num_classes=num_classes)
    for predicted, true in pairs:
        state.update(predicted, true)
    return state


def correlation(pairs: Sequence[Pair]) -> Correlation:
    state = Correlation()
    for predicted, true in pairs:
        state.update(predicted, true)
    return state


def classes(number: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Random pairs, and pairs of which one side is constant, or both, or which all agree."""
    each = st.integers(0, number - 1)
    constant = each.flatmap(lambda one: st.lists(st.tuples(st.just(one), each), min_size=1, max_size=40))
    return st.one_of(
        st.lists(st.tuples(each, each), min_size=1, max_size=200),
        constant,
        constant.map(lambda pairs: [(true, predicted) for predicted, true in pairs]),
        st.lists(each.map(lambda one: (one, one)), min_size=1, max_size=40),
    )


@settings(max_examples=150)
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(2, 4).flatmap(lambda number: st.tuples(st.just(number), classes(number))))
def test_figures_of_classes_are_scikit_learns(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    number, pairs = drawn
    predicted, true = zip(*pairs, strict=True)
    found = confusion(pairs, num_classes=number).result()
    assert found["accuracy"] == pytest.approx(100 * sklearn.metrics.accuracy_score(true, predicted), abs=1e-9)
    assert found["mcc"] == pytest.approx(100 * sklearn.metrics.matthews_corrcoef(true, predicted), abs=1e-9)
    assert ("f1" in found) == (number == 2)
    if number == 2:
        expected = 100 * sklearn.metrics.f1_score(true, predicted, zero_division=0)
        assert found["f1"] == pytest.approx(expected, abs=1e-9)


def test_figures_of_very_many_examples_do_not_round_away() -> None:
    state = Confusion(num_classes=2)
    state._counts.update({(1, 1): 10**12, (0, 0): 10**12, (0, 1): 1, (1, 0): 1})
    assert state.result()["mcc"] == pytest.approx(100 * (1 - 2e-12), abs=1e-9)
    assert state.result()["mcc"] < 100


FINE = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
COARSE = st.integers(-3, 3).map(float)  # ties


@settings(max_examples=200)
@given(st.sampled_from([FINE, COARSE]).flatmap(lambda each: st.lists(st.tuples(each, each), min_size=2, max_size=100)))
def test_figures_of_scores_are_scipys(pairs: list[Pair]) -> None:
    predicted, true = zip(*pairs, strict=True)
    found = correlation(pairs).result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of constants, and of what is nearly constant
        pearson, spearman = scipy.stats.pearsonr(predicted, true)[0], scipy.stats.spearmanr(predicted, true)[0]
    if len(set(predicted)) == 1 or len(set(true)) == 1:
        assert math.isnan(pearson) and math.isnan(spearman)
        assert found == {"pearson": 0.0, "spearman": 0.0}
    else:
        nearly = 1e-3 if max(map(_spread, (predicted, true))) > 1e6 * min(map(_spread, (predicted, true))) else 1e-6
        assert found["pearson"] == pytest.approx(100 * pearson, abs=nearly)
        assert found["spearman"] == pytest.approx(100 * spearman, abs=1e-9)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_a_correlation_knows_no_scale(scale: float) -> None:
    rng = random.Random(0)
    pairs = [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(50)]
    plain = correlation(pairs).result()
    assert plain == pytest.approx(correlation([(a * scale, b) for a, b in pairs]).result(), abs=1e-9)
    assert correlation([(a, 2 * a + 1) for a, _ in pairs]).result() == pytest.approx(
        {"pearson": 100.0, "spearman": 100.0}
    )


def test_nothing_seen_and_one_example_give_defined_figures() -> None:
    assert Confusion(num_classes=2).result() == {"accuracy": 0.0, "mcc": 0.0, "f1": 0.0}
    assert Confusion(num_classes=3).result() == {"accuracy": 0.0, "mcc": 0.0}
    assert Correlation().result() == correlation([(1.0, 2.0)]).result() == {"pearson": 0.0, "spearman": 0.0}


def test_a_score_that_is_no_number_is_not_taken() -> None:
    with pytest.raises(AssertionError, match="scores are numbers"):
        correlation([(math.nan, 1.0)])


@given(st.data())
def test_batches_change_nothing(data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=60))
    cut = data.draw(st.integers(0, len(pairs)))
    again = data.draw(st.integers(cut, len(pairs)))
    parts = [pairs[:cut], pairs[cut:again], pairs[again:]]
    a, b, c = (confusion(part, num_classes=3) for part in parts)
    whole = confusion(pairs, num_classes=3).result()
    assert a.merge(b).merge(c).result() == a.merge(b.merge(c)).result() == whole
    x, y, z = (correlation(part) for part in parts)
    assert x.merge(y).merge(z).result() == x.merge(y.merge(z)).result() == correlation(pairs).result()


@given(st.lists(st.tuples(COARSE, COARSE), max_size=40), st.randoms(use_true_random=False))
def test_order_changes_nothing(pairs: list[Pair], rng: random.Random) -> None:
    shuffled = rng.sample(pairs, len(pairs))
    assert correlation(shuffled).result() == pytest.approx(correlation(pairs).result(), abs=1e-9)
