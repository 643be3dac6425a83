"""The structured start: which tokens its heads attend to, and that what they find can be read off."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import toy

from mobilebert_exp.config import Initialization, LayerLoop, ModelConfig, Normalization
from mobilebert_exp.modeling.encoder import EncoderOutput, MobileBertEncoder
from mobilebert_exp.modeling.initializers import initial_value
from mobilebert_exp.modeling.structured import (
    AROUND,
    AVERAGING,
    BEFORE,
    CONTENT,
    CONTENT_SCORE,
    DISTANCE,
    PLACE_SCORE,
    Axis,
)
from mobilebert_exp.modeling.variables import encoder_variables

VOCABULARY, QUESTION, TEXT = 500, 10, 40


def narrow(**changes: object) -> ModelConfig:
    """The widths of the micro model."""
    sizes = {"embedding_size": 64, "hidden_size": 128, "intra_bottleneck_size": 64, "intermediate_size": 128}
    return toy.model(
        **{
            **sizes,
            "vocab_size": VOCABULARY,
            "num_layers": 3,
            "num_heads": 4,
            "max_positions": 64,
            "initialization": Initialization.structured,
            "normalization": Normalization.no_norm,
            "layer_loop": LayerLoop.unroll,
            **changes,
        }
    )


def pairs(rows: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A question and a text `[rows, 50]` without any token twice, but for one of the text that is in the question.

    Returns the ids and where in the text that token is.
    """
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(np.arange(1, VOCABULARY))[: QUESTION + TEXT] for _ in range(rows)])
    where = rng.integers(QUESTION, QUESTION + TEXT, rows)
    ids[np.arange(rows), where] = ids[np.arange(rows), rng.integers(0, QUESTION, rows)]
    return ids.astype(np.int32), where


def encoded(ids: np.ndarray, config: ModelConfig) -> EncoderOutput:
    types = np.repeat([0, 1], [QUESTION, TEXT]).astype(np.int32)
    segment_ids = np.broadcast_to(types, ids.shape)
    return MobileBertEncoder(config, seed=0)(ids, np.ones_like(ids), segment_ids, all_layers=True)


def first_attention() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention of the first block `[rows, heads, from, to]`, the ids and where the shared token is."""
    ids, where = pairs(50, seed=1)
    return tf.nn.softmax(encoded(ids, narrow()).scores_ABNLM[0]).numpy(), ids, where


def test_a_content_head_attends_to_its_like_in_the_other_text() -> None:
    attention, ids, where = first_attention()
    rows = np.arange(len(ids))
    to_like = np.where(ids[:, :QUESTION] == ids[rows, where][:, None], attention[rows, CONTENT, where, :QUESTION], 0)
    to_question = attention[:, CONTENT, QUESTION:, :QUESTION].sum(-1)
    assert to_like.sum(-1).mean() > 0.25, "its like has about the share that it has itself"
    assert np.median(to_question) < 0.15, "a token without its like attends to itself"


@pytest.mark.parametrize("kind", [BEFORE, AROUND])
def test_a_place_head_attends_about_its_distance(kind: int) -> None:
    attention, _, _ = first_attention()
    profile = np.mean([attention[:, kind, i, i - 12 : i + 13].mean(0) for i in range(14, 36)], axis=0)
    distances = np.arange(-12, 13)
    assert -distances[profile.argmax()] == DISTANCE[kind]
    assert profile[np.abs(distances + DISTANCE[kind]) <= 6].sum() > 0.8


def test_an_averaging_head_attends_to_everything_alike() -> None:
    attention, _, _ = first_attention()
    np.testing.assert_allclose(attention[:, AVERAGING], 1 / (QUESTION + TEXT), rtol=1e-5)


def above_the_others(marks: np.ndarray, wanted: np.ndarray) -> float:
    """Over which share of the other tokens a least-squares reading puts the wanted one; fitted on other rows."""
    rows = len(marks) * 2 // 3
    target = (np.arange(TEXT) == wanted[:, None]).astype(float)
    inputs = np.concatenate([marks, np.ones((*marks.shape[:2], 1))], axis=-1)
    weights, *_ = np.linalg.lstsq(inputs[:rows].reshape(-1, inputs.shape[-1]), target[:rows].ravel(), rcond=None)
    scores = inputs[rows:] @ weights
    own = scores[np.arange(len(scores)), wanted[rows:]][:, None]
    above = (scores < own).sum(-1) + 0.5 * ((scores == own).sum(-1) - 1)
    return float(above.mean() / (TEXT - 1))


@pytest.mark.parametrize(
    ("initialization", "layer", "least", "most"),
    [
        (Initialization.structured, 0, 0.4, 0.6),
        (Initialization.structured, 1, 0.8, 1.0),
        (Initialization.bert, 1, 0.4, 0.6),
    ],
)
def test_one_block_finds_the_token_that_is_also_in_the_question(
    initialization: Initialization, layer: int, least: float, most: float
) -> None:
    ids, where = pairs(600, seed=2)
    hidden = encoded(ids, narrow(initialization=initialization, initializer_range=0.02)).hidden_ABLH[layer].numpy()
    assert least <= above_the_others(hidden[:, QUESTION:, Axis.of(128, narrow()).mark], where - QUESTION) <= most


@pytest.mark.parametrize(("layer", "least", "most"), [(1, 0.4, 0.6), (2, 0.65, 1.0)])
def test_two_blocks_find_the_token_behind_it(layer: int, least: float, most: float) -> None:
    ids, where = pairs(900, seed=3)
    kept = where < QUESTION + TEXT - 8
    hidden = encoded(ids[kept], narrow()).hidden_ABLH[layer].numpy()
    behind = where[kept] - QUESTION + DISTANCE[BEFORE]
    assert least <= above_the_others(hidden[:, QUESTION:, Axis.of(128, narrow()).mark], behind) <= most


@pytest.mark.parametrize("num_layers", [3, 12])
def test_activations_keep_their_size(num_layers: int) -> None:
    hidden = encoded(pairs(20, seed=4)[0], narrow(num_layers=num_layers)).hidden_ABLH.numpy()
    sizes = np.sqrt((hidden**2).mean((1, 2, 3)))
    assert 0.7 < sizes[0] < 1.3
    assert sizes[-1] < 4 * sizes[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"use_bottleneck_attention": True},
        {"key_query_shared_bottleneck": False},
        {"num_heads": 2},
        {"num_heads": 8, "classifier_activation": True},
        {"hidden_size": 64, "num_heads": 3, "intra_bottleneck_size": 48},
    ],
)
def test_every_architecture_has_such_a_start(changes: dict[str, object]) -> None:
    config = narrow(**changes)
    for spec in encoder_variables(config):
        value = initial_value(spec, config, seed=0).numpy()
        assert value.shape == spec.shape
        assert np.isfinite(value).all()
        assert spec.name.endswith(("/bias", "/beta")) or value.any(), spec.name
    assert np.isfinite(encoded(pairs(2, seed=5)[0], config).sequence_BLH.numpy()).all()


def test_scores_are_what_the_constants_say() -> None:
    ids, _ = pairs(50, seed=6)
    scores = encoded(ids, narrow()).scores_ABNLM[0].numpy()
    own = np.arange(DISTANCE[BEFORE] + QUESTION, QUESTION + TEXT)
    assert scores[:, CONTENT, own, own].mean() == pytest.approx(CONTENT_SCORE, rel=0.2)
    assert scores[:, AROUND, own, own].mean() == pytest.approx(PLACE_SCORE, rel=1e-3)
    assert scores[:, BEFORE, own, own - DISTANCE[BEFORE]].mean() == pytest.approx(PLACE_SCORE, rel=1e-3)
    unlike = scores[:, CONTENT, QUESTION:, :QUESTION]
    assert abs(unlike.mean()) < 1
    assert unlike.std() < CONTENT_SCORE / math.sqrt(narrow().head_size) * 1.5
