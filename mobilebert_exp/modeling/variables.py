"""Which variables a MobileBERT has: the one source for building, counting and planning; pure Python.

Every variable of the blocks is stacked over the layers, axis 0 (`layers/…`), so that one block can be looped.
Shapes: V vocabulary, E embedding, H hidden (between blocks), I intra-bottleneck, F intermediate, P positions, T token
types, A layers.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from mobilebert_exp.config import FakeQuantization, ModelConfig

TRIGRAM = 3  # embeddings of the next, the current and the previous token, side by side
STACKED = "layers/"  # prefix of the variables whose axis 0 is the layer
QUANTIZERS = "quantizers/"  # prefix of the ranges of activations, which are no parameters and are not trained
EMBEDDING_POINTS = ("embeddings/projection", "embeddings/place", "embeddings/norm")
NOT_DECAYED = ("/bias", "/gamma", "/beta")


class Fill(enum.Enum):
    """How a variable starts. `kernel` and the embeddings are random; see `modeling.initializers`."""

    kernel = "kernel"
    embedding = "embedding"
    zeros = "zeros"
    ones = "ones"


@dataclass(frozen=True, slots=True)
class VariableSpec:
    """One variable: its name, its shape and how it starts."""

    name: str
    shape: tuple[int, ...]
    fill: Fill

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def is_decayed(name: str) -> bool:
    """Norms and biases are neither decayed nor layer-adapted."""
    return not name.endswith(NOT_DECAYED)


def dense(name: str, width_in: int, width_out: int, *, layers: int | None = None) -> list[VariableSpec]:
    """Kernel `[in, out]` and bias `[out]` of a dense layer, with a leading layer axis where it is stacked."""
    lead = () if layers is None else (layers,)
    return [
        VariableSpec(f"{name}/kernel", (*lead, width_in, width_out), Fill.kernel),
        VariableSpec(f"{name}/bias", (*lead, width_out), Fill.zeros),
    ]


def norm(name: str, width: int, *, layers: int | None = None) -> list[VariableSpec]:
    """Scale (gamma) and shift (beta) of NoNorm or LayerNorm alike."""
    lead = () if layers is None else (layers,)
    return [
        VariableSpec(f"{name}/gamma", (*lead, width), Fill.ones),
        VariableSpec(f"{name}/beta", (*lead, width), Fill.zeros),
    ]


def embedding_variables(config: ModelConfig) -> list[VariableSpec]:
    assert config.vocab_size is not None, "resolve the vocabulary size first"
    return [
        VariableSpec("embeddings/word/table", (config.vocab_size, config.embedding_size), Fill.embedding),
        VariableSpec("embeddings/position/table", (config.max_positions, config.hidden_size), Fill.embedding),
        VariableSpec("embeddings/type/table", (config.type_vocab_size, config.hidden_size), Fill.embedding),
        *dense("embeddings/projection", TRIGRAM * config.embedding_size, config.hidden_size),
        *norm("embeddings/norm", config.hidden_size),
    ]


def block_variables(config: ModelConfig) -> list[VariableSpec]:
    """The variables of all blocks, stacked. The un-prefixed last feed-forward network of TF1 is `ffn_{F-1}` here."""
    a, hidden, intra = config.num_layers, config.hidden_size, config.intra_bottleneck_size
    found = dense("layers/bottleneck_input", hidden, intra, layers=a)
    found += norm("layers/bottleneck_input/norm", intra, layers=a)
    if shares_query_key(config):
        found += dense("layers/bottleneck_query_key", hidden, intra, layers=a)
        found += norm("layers/bottleneck_query_key/norm", intra, layers=a)
    for name in ("query", "key"):
        found += dense(f"layers/attention/{name}", query_key_width(config), intra, layers=a)
    found += dense("layers/attention/value", value_width(config), intra, layers=a)
    found += dense("layers/attention/output", intra, intra, layers=a) + norm("layers/attention/norm", intra, layers=a)
    for k in range(config.num_feedforward_networks):
        found += dense(f"layers/ffn_{k}/intermediate", intra, config.intermediate_size, layers=a)
        found += dense(f"layers/ffn_{k}/output", config.intermediate_size, intra, layers=a)
        found += norm(f"layers/ffn_{k}/norm", intra, layers=a)
    found += dense("layers/bottleneck_output", intra, hidden, layers=a)
    return found + norm("layers/bottleneck_output/norm", hidden, layers=a)


def block_points(config: ModelConfig) -> list[str]:
    """Where the activations of a block are rounded to 8 bits, by the names of what they come out of, in order.

    `attention/scores` (before the mask) is observed alone: what is between queries, keys and values and the context is
    computed in float, but in a file that is of integers only.
    """
    found = ["bottleneck_input"] + (["bottleneck_query_key"] if shares_query_key(config) else [])
    found += [f"attention/{name}" for name in ("query", "key", "value", "scores", "context")]
    found += [f"attention/{name}" for name in ("output", "residual", "norm")]
    for k in range(config.num_feedforward_networks):
        found += [f"ffn_{k}/{name}" for name in ("intermediate", "output", "residual", "norm")]
    return [*found, "bottleneck_output", "bottleneck_output/residual", "bottleneck_output/norm"]


def quantizer_variables(config: ModelConfig) -> list[VariableSpec]:
    """Smallest and largest activation at each point, `[2]`, or `[A, 2]` in the blocks; none for a model in float."""
    if config.fake_quantization is FakeQuantization.none:
        return []
    before = [VariableSpec(f"{QUANTIZERS}{point}", (2,), Fill.zeros) for point in EMBEDDING_POINTS]
    shape = (config.num_layers, 2)
    return before + [VariableSpec(f"{QUANTIZERS}{STACKED}{point}", shape, Fill.zeros) for point in block_points(config)]


def encoder_variables(config: ModelConfig) -> list[VariableSpec]:
    """Every variable of the encoder: the pooler where the architecture has one, ranges where they are trained with."""
    pooler = dense("pooler", config.hidden_size, config.hidden_size) if config.classifier_activation else []
    return embedding_variables(config) + block_variables(config) + pooler + quantizer_variables(config)


def span_variables(config: ModelConfig) -> list[VariableSpec]:
    """The SQuAD head: start and end scores of a token; no dropout, as in the original."""
    return dense("heads/span", config.hidden_size, 2)


def classifier_variables(config: ModelConfig, *, num_outputs: int) -> list[VariableSpec]:
    """The head over the first token: a score for each class, or the one of a regression."""
    return dense("heads/classifier", config.hidden_size, num_outputs)


def masked_lm_variables(config: ModelConfig) -> list[VariableSpec]:
    """The head that names masked tokens: its output kernel is the word table beside `extra`, both by rows of words.

    Its norm is a LayerNorm in every architecture.
    """
    assert config.vocab_size is not None, "resolve the vocabulary size first"
    extra = config.hidden_size - config.embedding_size
    return [
        *dense("heads/masked_lm/transform", config.hidden_size, config.hidden_size),
        *norm("heads/masked_lm/norm", config.hidden_size),
        VariableSpec("heads/masked_lm/extra/table", (config.vocab_size, extra), Fill.embedding),
        VariableSpec("heads/masked_lm/output/bias", (config.vocab_size,), Fill.zeros),
    ]


def next_sentence_variables(config: ModelConfig) -> list[VariableSpec]:
    """The head that tells whether the second text followed the first (class 0) or not (1)."""
    return dense("heads/next_sentence", config.hidden_size, 2)


def pretraining_variables(config: ModelConfig) -> list[VariableSpec]:
    """Both heads of pre-training."""
    return masked_lm_variables(config) + next_sentence_variables(config)


def shares_query_key(config: ModelConfig) -> bool:
    """Bottleneck attention takes precedence: then queries and keys come from the input bottleneck."""
    return config.key_query_shared_bottleneck and not config.use_bottleneck_attention


def query_key_width(config: ModelConfig) -> int:
    narrow = config.use_bottleneck_attention or config.key_query_shared_bottleneck
    return config.intra_bottleneck_size if narrow else config.hidden_size


def value_width(config: ModelConfig) -> int:
    return config.intra_bottleneck_size if config.use_bottleneck_attention else config.hidden_size


def parameters(specs: Iterable[VariableSpec]) -> int:
    """How many numbers the variables hold together; the ranges of quantisation are none of them."""
    return sum(spec.size for spec in specs if not spec.name.startswith(QUANTIZERS))
