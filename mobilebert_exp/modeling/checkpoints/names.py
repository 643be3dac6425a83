"""What each part of a MobileBERT is called in checkpoints of TensorFlow 1 and of Hugging Face; pure Python.

Sources: google-research/google-research mobilebert/modeling.py, run_squad.py and run_classifier.py;
huggingface/transformers models/mobilebert. A part is a dense layer (`kernel`, `bias`), a norm (`gamma`, `beta`) or a
table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

LAYER = "{layer}"  # stands for the number of a layer, from 0
NORM = "{norm}"  # LayerNorm in TensorFlow 1, or FakeLayerNorm where it only scales and shifts


class Kind(enum.Enum):
    """What a part consists of, and by that how the others lay it out."""

    dense = "dense"
    norm = "norm"
    table = "table"


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its kind and its names; ours without `layers/` for what the blocks have, one of each a layer there."""

    kind: Kind
    ours: str
    tf1: str
    hugging_face: str


def embedding_parts() -> list[Part]:
    return [
        Part(Kind.table, "embeddings/word", "word_embeddings", "word_embeddings"),
        Part(Kind.table, "embeddings/position", "position_embeddings", "position_embeddings"),
        Part(Kind.table, "embeddings/type", "token_type_embeddings", "token_type_embeddings"),
        Part(Kind.dense, "embeddings/projection", "embedding_transformation", "embedding_transformation"),
        Part(Kind.norm, "embeddings/norm", NORM, "LayerNorm"),
    ]


def parts_of_block(*, networks: int, query_key_bottleneck: bool) -> list[Part]:
    """Those of one block, names below the layer's: so many feed-forward networks, queries and keys with a bottleneck.

    Args:
      networks: how many feed-forward networks the block has.
      query_key_bottleneck: whether queries and keys have a bottleneck of their own.
    """
    found = [*_projected("bottleneck_input", "bottleneck/input", "bottleneck.input")]
    if query_key_bottleneck:
        found += _projected("bottleneck_query_key", "bottleneck/attention", "bottleneck.attention")
    for name in ("query", "key", "value"):
        found.append(Part(Kind.dense, f"attention/{name}", f"attention/self/{name}", f"attention.self.{name}"))
    found += _projected("attention/output", "attention/output", "attention.output", norm="attention/norm")
    last = networks - 1
    for k in range(networks):  # the last feed-forward network has no prefix there
        tf1, hugging_face = ("", "") if k == last else (f"ffn_layer_{k}/", f"ffn.{k}.")
        found.append(
            Part(Kind.dense, f"ffn_{k}/intermediate", f"{tf1}intermediate/dense", f"{hugging_face}intermediate.dense")
        )
        found += _projected(f"ffn_{k}/output", f"{tf1}output", f"{hugging_face}output", norm=f"ffn_{k}/norm")
    return found + _projected("bottleneck_output", "output/bottleneck", "output.bottleneck")


def _projected(ours: str, tf1: str, hugging_face: str, *, norm: str | None = None) -> list[Part]:
    """A dense layer and the norm after it."""
    return [
        Part(Kind.dense, ours, f"{tf1}/dense", f"{hugging_face}.dense"),
        Part(Kind.norm, norm or f"{ours}/norm", f"{tf1}/{NORM}", f"{hugging_face}.LayerNorm"),
    ]
