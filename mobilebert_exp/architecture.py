"""The schema of an architecture, and of how it is computed."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

from mobilebert_exp.checks import at_least, integers, positive, require

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given


class Activation(enum.Enum):
    relu = "relu"
    relu6 = "relu6"
    gelu = "gelu"  # its tanh approximation, as in the original
    gelu_exact = "gelu_exact"  # what Hugging Face calls gelu


class Normalization(enum.Enum):
    no_norm = "no_norm"
    layer_norm = "layer_norm"


class LayerLoop(enum.Enum):
    scan = "scan"
    unroll = "unroll"


class Initialization(enum.Enum):
    """How a model starts: `bert` draws every kernel with `initializer_range`; `structured` suits narrow models."""

    bert = "bert"
    structured = "structured"


class FakeQuantization(enum.Enum):
    """How weights are rounded to 8 bits in training: one scale a kernel, as the original, or one an output channel."""

    none = "none"
    per_tensor = "per_tensor"
    per_channel = "per_channel"


PYTORCH_EPSILON = 1e-5  # of a LayerNorm that is told no other


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A MobileBERT architecture (arXiv 2004.02984, section 3), and how to compute it.

    `vocab_size: null` takes the size of the vocabulary, for models that no released weights bind.
    `attention_mask_value` is added to the scores of padding; -10000 is what the released weights were trained with.
    `layer_norm_epsilon` is added to variances, and 1e-5 in the two places where `hugging_face_norms` does as they do.
    `fake_quantization` trains and evaluates with what 8 bits keep of weights and activations.
    """

    name: str = MISSING
    vocab_size: int | None = MISSING
    embedding_size: int = MISSING
    hidden_size: int = MISSING
    intra_bottleneck_size: int = MISSING
    intermediate_size: int = MISSING
    num_layers: int = MISSING
    num_heads: int = MISSING
    num_feedforward_networks: int = MISSING
    hidden_act: Activation = MISSING
    hidden_dropout: float = MISSING
    attention_dropout: float = MISSING
    use_bottleneck_attention: bool = MISSING
    key_query_shared_bottleneck: bool = MISSING
    normalization: Normalization = MISSING
    classifier_activation: bool = MISSING
    max_positions: int = MISSING
    type_vocab_size: int = MISSING
    initializer_range: float = MISSING
    initialization: Initialization = MISSING
    attention_mask_value: float = -10000.0
    layer_norm_epsilon: float = 1e-12
    hugging_face_norms: bool = False
    layer_loop: LayerLoop = LayerLoop.scan
    fake_quantization: FakeQuantization = FakeQuantization.none

    def __post_init__(self) -> None:
        at_least("model", 1, **integers(self))
        require(
            self.intra_bottleneck_size % self.num_heads == 0,
            f"model.intra_bottleneck_size={self.intra_bottleneck_size} is not divisible by "
            f"model.num_heads={self.num_heads}; choose a divisor",
        )
        for name in ("hidden_dropout", "attention_dropout"):
            rate = getattr(self, name)
            require(0 <= rate < 1, f"model.{name}={rate} is not a probability below 1; choose one in [0, 1)")
        positive("model", initializer_range=self.initializer_range, layer_norm_epsilon=self.layer_norm_epsilon)
        narrowest = min(self.hidden_size, self.intra_bottleneck_size)
        require(
            self.initialization is Initialization.bert or (narrowest >= 8 and 2 * self.head_size <= narrowest),
            f"model.initialization=structured needs model.hidden_size={self.hidden_size} and "
            f"model.intra_bottleneck_size={self.intra_bottleneck_size} of 8 or more and heads of at most half of both, "
            f"not {self.head_size}; use bert",
        )
        require(
            self.fake_quantization is FakeQuantization.none or self.normalization is Normalization.no_norm,
            f"model.fake_quantization={self.fake_quantization.name} needs model.normalization=no_norm; "
            "LayerNorm has no 8-bit form, set model.fake_quantization=none or take model=qat",
        )
        require(
            -math.inf < self.attention_mask_value < 0,
            f"model.attention_mask_value={self.attention_mask_value} is not a finite negative number, "
            "which hides padding; -10000 is the original's",
        )

    @property
    def head_size(self) -> int:
        return self.intra_bottleneck_size // self.num_heads

    def epsilon_of(self, norm: str) -> float:
        """What a LayerNorm (`embeddings/norm`, `ffn_0/norm`) adds to variances."""
        odd = ("embeddings/norm", f"ffn_{self.num_feedforward_networks - 1}/norm")
        return PYTORCH_EPSILON if self.hugging_face_norms and norm in odd else self.layer_norm_epsilon
