"""What training costs, before anything is trained: floating-point operations and memory; pure arithmetic.

Matrix products alone are counted, two operations for each multiplication with its addition; a backward pass counts as
two forward ones. Memory is an estimate: weights, their moments and gradients, and of the activations what a backward
pass reads again.
"""

from __future__ import annotations

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.variables import (
    block_variables,
    embedding_variables,
    encoder_variables,
    parameters,
    pretraining_variables,
    shares_query_key,
)

FORWARD, BACKWARD = 1, 2  # passes' worth
FLOAT32_BYTES = 4
TRAINED_COPIES = 4  # a weight, its gradient and two moments


def embedding_flops(model: ModelConfig, *, length: int) -> int:
    """The projection of the trigrams of `length` tokens."""
    return 2 * length * sum(spec.size for spec in embedding_variables(model) if spec.name.endswith("/kernel"))


def block_flops(model: ModelConfig, *, length: int) -> int:
    """One block over `length` tokens: its kernels, the scores, and the weighted values."""
    kernels = sum(spec.size for spec in block_variables(model) if spec.name.endswith("/kernel")) // model.num_layers
    return 2 * length * kernels + 4 * length**2 * model.intra_bottleneck_size


def encoder_flops(model: ModelConfig, *, length: int, layers: int | None = None) -> int:
    """Embeddings and all blocks, or the lowest `layers` of them."""
    count = model.num_layers if layers is None else layers
    return embedding_flops(model, length=length) + count * block_flops(model, length=length)


def head_flops(model: ModelConfig, *, places: int) -> int:
    """The words at `places` masked places, and whether the texts follow each other."""
    assert model.vocab_size is not None, "resolve the vocabulary size first"
    words = model.vocab_size * model.hidden_size
    return 2 * places * (model.hidden_size**2 + words) + 4 * model.hidden_size


def model_bytes(model: ModelConfig, *, trained: bool) -> int:
    """Weights of an encoder with the heads of pre-training, with gradients and moments where it is trained."""
    count = parameters([*encoder_variables(model), *pretraining_variables(model)])
    return count * FLOAT32_BYTES * (TRAINED_COPIES if trained else 1)


def activation_bytes(model: ModelConfig, *, length: int, layers: int, width_bytes: int) -> int:
    """Of one example, what the backward pass of `layers` blocks reads again."""
    intra = model.intra_bottleneck_size
    projections = 2 * intra if shares_query_key(model) else intra
    scores = 2 * model.num_heads * length  # and their softmax
    attention = 5 * intra + scores  # queries, keys, values, context, output
    networks = model.num_feedforward_networks * (2 * model.intermediate_size + intra)
    return length * layers * width_bytes * (projections + attention + networks + model.hidden_size)


def answer_bytes(model: ModelConfig, *, places: int) -> int:
    """Of one example, scores of words and their softmax."""
    return 2 * places * (model.vocab_size or 0) * FLOAT32_BYTES
