"""Floating-point operations of a model, two for each multiplication with its addition; pure arithmetic.

Matrix products alone are counted, as the paper does (table 5: MobileBERT, 5.7 billion at 128 tokens); backward passes
count twice a forward one.
"""

from __future__ import annotations

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.variables import block_variables, embedding_variables, pretraining_variables

BACKWARD = 2  # of a forward pass


def embeddings(model: ModelConfig, *, length: int) -> int:
    """The projection of the trigrams of `length` tokens."""
    return 2 * length * sum(spec.size for spec in embedding_variables(model) if spec.name.endswith("/kernel"))


def block(model: ModelConfig, *, length: int) -> int:
    """One block over `length` tokens: its kernels, the scores, and the weighted values."""
    kernels = sum(spec.size for spec in block_variables(model) if spec.name.endswith("/kernel")) // model.num_layers
    return 2 * length * kernels + 4 * length**2 * model.intra_bottleneck_size


def encoder(model: ModelConfig, *, length: int) -> int:
    """Embeddings and all blocks."""
    return embeddings(model, length=length) + model.num_layers * block(model, length=length)


def pretraining_heads(model: ModelConfig, *, places: int) -> int:
    """The words at `places` masked places, and whether the texts follow each other."""
    kernels = sum(spec.size for spec in pretraining_variables(model) if "masked_lm" in spec.name and _is_kernel(spec.name))
    words = (model.vocab_size or 0) * model.embedding_size
    return 2 * places * (kernels + words) + 4 * model.hidden_size


def _is_kernel(name: str) -> bool:
    return name.endswith(("/kernel", "/table"))
