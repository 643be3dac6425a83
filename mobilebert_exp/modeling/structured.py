"""A start for narrow models from which attention by content and by place can be learnt within minutes.

A fresh narrow transformer hardly attends to anything in particular, and before it does, nothing rewards it for doing
so: no linear reading of its activations tells whether a token of a paragraph also stands in the question. So the first
attention patterns are built in, in the spirit of mimetic initialisation (arXiv 2305.09828), and training starts from
there. The hidden and the bottleneck axes are divided in three:

- *content*: what the token is, from its embedding.
- *place*: where it stands, as sines and cosines whose similarity is a bell over the distance.
- *mark*: the token type at first, then what the attention heads have found out.

Heads start as one of four kinds, in turn. A *content* head attends to tokens like its own, the two *place* heads to
those a few places before and to those around, an *averaging* head to everything. The first three read and write marks.
So after the first block the mark of a token says whether its like stands in the other text (the average of token types
is then not its own), and after the second whether that holds for its neighbours. Everything else is random with
variance 1 / fan-in; what is added to a residual stream starts small, because NoNorm rescales nothing. Nothing is held
fixed: all of this is only a start.

Shapes: H hidden size, I intra-bottleneck size, D head size, N heads; kernels `[in, out]` with leading layer axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.variables import TRIGRAM, Fill, VariableSpec

CONTENT, BEFORE, AROUND, AVERAGING = range(4)  # kinds of heads, in turn
MARK_SHARE = 8  # of an axis, one part in so many
CONTENT_SCORE = 8.0  # of a token with its like, before the softmax; unlike ones score about 0
PLACE_SCORE = 5.0  # at the favoured distance; far away 0
DISTANCE = {BEFORE: 4, AROUND: 0}  # tokens before its own that a place head favours
REACH = 4.0  # standard deviation of the bell, in tokens
CURRENT_TOKEN_SHARE = 0.97  # of the content's variance; the token before and the one after share the rest
RESIDUAL_GAIN = 0.1  # of what is added to a residual stream, marks excepted, and of the heads on top
FIRST_SCORE = 0.3  # standard deviation of the scores of words in pre-training
MARKED_LAYERS = 3  # in deeper stacks each block adds less to the marks, so that their sum is the same


@dataclass(frozen=True, slots=True)
class Axis:
    """How an axis of `width` is divided."""

    content: slice
    place: slice
    mark: slice

    @classmethod
    def of(cls, width: int, config: ModelConfig) -> Axis:
        mark = width - width // MARK_SHARE
        place = mark - config.head_size
        return cls(content=slice(0, place), place=slice(place, mark), mark=slice(mark, width))


def drawn_as(name: str) -> str:
    """The name that a variable's random numbers go by: keys share those of their queries."""
    return name.replace("attention/key", "attention/query")


def scale(name: str, config: ModelConfig) -> float:
    """The start of a norm's gamma.

    The words' own table, of unit variance here, scores them in pre-training: fed with unit variance too, a first answer
    would be sure of something, and wrong.
    """
    return FIRST_SCORE / math.sqrt(config.hidden_size) if name == "heads/masked_lm/norm/gamma" else 1.0


def shaped(spec: VariableSpec, config: ModelConfig, *, drawn: np.ndarray) -> np.ndarray:
    """The start of one variable from `drawn`, of its shape, with unit variance."""
    kind = spec.name.removeprefix("layers/").removesuffix("/kernel")
    match kind:
        case "embeddings/position/table":
            return _places(spec.shape, config)
        case "embeddings/type/table":
            return _types(drawn, config)
        case "embeddings/projection":
            return _projection(drawn, config)
        case "bottleneck_input" | "bottleneck_query_key":
            return _bottleneck(drawn, config)
        case "attention/query" | "attention/key":
            return _query_or_key(drawn, config, query=kind == "attention/query")
        case "attention/value":
            return _value(drawn, config)
        case "attention/output" | "bottleneck_output":
            return _onto_residual(drawn, config, from_heads=kind == "attention/output")
    if spec.fill is Fill.embedding:
        return drawn
    small = kind.endswith("/output") or kind.startswith("heads/")
    return _scaled(drawn) * (RESIDUAL_GAIN if small else 1.0)


def _scaled(kernel: np.ndarray) -> np.ndarray:
    """Variance 1 / fan-in."""
    return kernel / math.sqrt(kernel.shape[-2])


def _rates(config: ModelConfig) -> np.ndarray:
    """Radians a token, `[D // 2]`: quantiles of a normal, whose mean cosine over the distance is a bell."""
    count = config.head_size // 2
    return np.array([NormalDist().inv_cdf(0.5 + (k + 0.5) / (2 * count)) for k in range(count)]) / REACH


def _places(shape: tuple[int, ...], config: ModelConfig) -> np.ndarray:
    """Position embeddings `[P, H]` of unit variance in the place columns, 0 elsewhere."""
    table = np.zeros(shape)
    angles = np.arange(shape[0])[:, None] * _rates(config)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(shape[0], -1)
    start = Axis.of(shape[1], config).place.start
    table[:, start : start + waves.shape[1]] = waves * math.sqrt(2.0)
    return table


def _moved(config: ModelConfig, distance: int) -> np.ndarray:
    """`[D, D]`, which turns the place of token j into that of token j + distance."""
    turn = np.eye(config.head_size)
    for k, rate in enumerate(_rates(config)):
        cosine, sine = math.cos(rate * distance), math.sin(rate * distance)
        turn[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[cosine, -sine], [sine, cosine]]
    return turn


def _types(drawn: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Opposite marks for the first text and for the others."""
    table = np.zeros_like(drawn)
    mark = Axis.of(drawn.shape[1], config).mark
    table[:, mark] = -drawn[0, mark]
    table[0] *= -1
    return table


def _projection(drawn: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The trigram onto content alone, the current token before all."""
    size = drawn.shape[0] // TRIGRAM
    beside = (1 - CURRENT_TOKEN_SHARE) / (TRIGRAM - 1)
    variances = np.repeat([beside, CURRENT_TOKEN_SHARE, beside], size) / size
    kernel = drawn * np.sqrt(variances)[:, None]
    kernel[:, Axis.of(drawn.shape[1], config).content.stop :] = 0
    return kernel


def _bottleneck(drawn: np.ndarray, config: ModelConfig) -> np.ndarray:
    """H to I, each part to its like; places as they are."""
    wide, narrow = Axis.of(config.hidden_size, config), Axis.of(config.intra_bottleneck_size, config)
    kernel = np.zeros_like(drawn)
    kernel[..., wide.content, narrow.content] = _scaled(drawn[..., wide.content, narrow.content])
    kernel[..., wide.place, narrow.place] = np.eye(config.head_size)
    kernel[..., wide.mark, narrow.mark] = _scaled(drawn[..., wide.mark, narrow.mark])
    return kernel


def _query_or_key(drawn: np.ndarray, config: ModelConfig, *, query: bool) -> np.ndarray:
    """Content heads: one kernel for both. Place heads: keys are moved. Averaging heads: no queries."""
    axis = Axis.of(drawn.shape[-2], config)
    kernel = np.zeros_like(drawn)
    root = math.sqrt(config.head_size)  # scores are divided by it
    for number in range(config.num_heads):
        head = slice(number * config.head_size, (number + 1) * config.head_size)
        kind = number % 4
        if kind == CONTENT:
            kernel[..., axis.content, head] = _scaled(drawn[..., axis.content, head]) * math.sqrt(CONTENT_SCORE / root)
        elif kind in DISTANCE:
            turn = np.eye(config.head_size) if query else _moved(config, DISTANCE[kind])
            kernel[..., axis.place, head] = turn * math.sqrt(PLACE_SCORE / root)
        elif not query:
            kernel[..., head] = _scaled(drawn)[..., head]
    return kernel


def _averaging(config: ModelConfig) -> np.ndarray:
    """`[I]`, true where a column of the heads belongs to an averaging one."""
    return np.repeat(np.arange(config.num_heads) % 4 == AVERAGING, config.head_size)


def _value(drawn: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Marks alone for the heads that attend to something, everything for those that average."""
    mark, averaging = Axis.of(drawn.shape[-2], config).mark, _averaging(config)
    kernel = np.where(averaging, _scaled(drawn), 0.0)
    kernel[..., mark, :] = np.where(averaging, kernel[..., mark, :], _scaled(drawn[..., mark, :]))
    return kernel


def _onto_residual(drawn: np.ndarray, config: ModelConfig, *, from_heads: bool) -> np.ndarray:
    """I to I after the heads, I to H after a block: small, but marks are written to marks in full."""
    mark = Axis.of(drawn.shape[-1], config).mark
    kernel = _scaled(drawn) * RESIDUAL_GAIN
    if from_heads:
        writers = ~_averaging(config)
        kernel[..., writers, :] = 0
    else:
        writers = np.zeros(drawn.shape[-2], bool)
        writers[Axis.of(drawn.shape[-2], config).mark] = True
        kernel[..., mark] = 0
    gain = min(1.0, MARKED_LAYERS / config.num_layers) / math.sqrt(max(1, writers.sum()))
    kernel[..., writers, mark] = drawn[..., writers, mark] * gain
    return kernel
