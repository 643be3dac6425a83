"""Where tf-models keeps the variables of a MobileBERT: paths through the objects of its Keras classes; pure Python.

Keras numbers the layers of an encoder that have weights: the embeddings are the first, then come the blocks, then the
pooler where there is one. Queries, keys and values stand there with their heads apart (`[in, N, D]` for our
`[in, N * D]`), and so does what reads the heads (`[N, D, out]`).
Source: tensorflow/models, official/nlp/modeling (networks/mobile_bert_encoder.py, layers/mobile_bert_layers.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.modeling.variables import STACKED, encoder_variables

Path = tuple[str, ...]
EMBEDDINGS = "layer_with_weights-0"
WORDS = "embeddings/word/table"
EXTRA = "heads/masked_lm/extra/table"
EMBEDDING_PATHS: dict[str, Path] = {
    "word": ("word_embedding",),
    "position": ("pos_embedding",),
    "type": ("type_embedding",),
    "projection": ("word_embedding_proj",),
    "norm": ("layer_norm",),
}
BLOCK_PATHS: dict[str, Path] = {
    "bottleneck_input": ("bottleneck_input", "0"),
    "bottleneck_input/norm": ("bottleneck_input", "1"),
    "bottleneck_query_key": ("kq_shared_bottleneck", "0"),
    "bottleneck_query_key/norm": ("kq_shared_bottleneck", "1"),
    "attention/query": ("attention", "0", "_query_dense"),
    "attention/key": ("attention", "0", "_key_dense"),
    "attention/value": ("attention", "0", "_value_dense"),
    "attention/output": ("attention", "0", "_output_dense"),
    "attention/norm": ("attention", "1"),
    "bottleneck_output": ("bottleneck_output", "0"),
    "bottleneck_output/norm": ("bottleneck_output", "2"),
}
NETWORK_PATHS: dict[str, Path] = {"intermediate": ("0",), "output": ("1",), "norm": ("2",)}  # of ffn/k
MASKED_LM_PATHS: dict[str, Path] = {
    "transform": ("dense",),
    "norm": ("layer_norm",),
    "extra": ("extra_output_weights",),
    "output": (),
}
# Whole models call the heads of fine-tuning by these attributes; that of next sentences lies in a list of heads, and
# none of their `checkpoint_items` has its last layer. The name here follows theirs: HEAD.LAYER.
SPAN, CLASSIFIER, MASKED_LM, ENCODER = "span_labeling", "classifier", "masked_lm", "encoder"
NEXT_SENTENCE, POOLER_OF_NEXT_SENTENCE = "next_sentence.logits", "next_sentence.pooler_dense"
HEAD_PATHS: dict[str, Path] = {
    "heads/span": (SPAN, "layer_with_weights-0"),
    "heads/classifier": (CLASSIFIER, "out_proj"),
    "heads/next_sentence": (NEXT_SENTENCE,),
}


def block(layer: int) -> Path:
    """The object that holds all of a block's parts."""
    return (f"layer_with_weights-{layer + 1}", "block_layers")


def pooler(num_layers: int) -> Path:
    return (f"layer_with_weights-{num_layers + 1}",)


def block_path(part: str) -> Path:
    """Where a part lies below its block; the part without `layers/`."""
    network, _, rest = part.partition("/")
    return (
        ("ffn", network.removeprefix("ffn_"), *NETWORK_PATHS[rest]) if network.startswith("ffn_") else BLOCK_PATHS[part]
    )


@dataclass(frozen=True, slots=True)
class Place:
    """One variable there: its path from the root, the variable of ours, and the layer if ours is stacked."""

    path: Path
    ours: str
    layer: int | None = None


def encoder_places(config: ModelConfig) -> Iterator[Place]:
    """Of every variable of an encoder, the item `encoder`."""
    for spec in encoder_variables(config):
        part, _, variable = spec.name.rpartition("/")
        if spec.name.startswith(STACKED):
            below = (*block_path(part.removeprefix(STACKED)), variable)
            for layer in range(config.num_layers):
                yield Place((ENCODER, *block(layer), *below), spec.name, layer)
        elif part == "pooler":
            yield Place((ENCODER, *pooler(config.num_layers), variable), spec.name)
        else:
            below = EMBEDDING_PATHS[part.removeprefix("embeddings/")]
            name = "embeddings" if variable == "table" else variable
            yield Place((ENCODER, EMBEDDINGS, *below, name), spec.name)


def head_places(config: ModelConfig, names: list[str]) -> Iterator[Place]:
    """Of the heads' variables: the items `masked_lm` and those of `HEAD_PATHS`."""
    if any(name.startswith("heads/masked_lm/") for name in names):
        yield Place((MASKED_LM, "embedding_table"), WORDS)
    if "heads/next_sentence/kernel" in names and config.classifier_activation:
        for variable in ("kernel", "bias"):  # what is a pooler here is a part of the head there
            yield Place((POOLER_OF_NEXT_SENTENCE, variable), f"pooler/{variable}")
    for name in names:
        part, _, variable = name.rpartition("/")
        if part in HEAD_PATHS:
            yield Place((*HEAD_PATHS[part], variable), name)
        elif name != EXTRA or config.hidden_size > config.embedding_size:
            below = MASKED_LM_PATHS[part.removeprefix("heads/masked_lm/")]
            yield Place((MASKED_LM, *below, *(() if variable == "table" else (variable,))), name)


def shape_there(name: str, shape: tuple[int, ...], config: ModelConfig) -> tuple[int, ...]:
    """The shape, there, of a variable of ours, of one layer where it is stacked."""
    heads = (config.num_heads, config.head_size)
    part, _, variable = name.rpartition("/")
    if part == "layers/attention/output" and variable == "kernel":
        return (*heads, shape[-1])
    if part in ("layers/attention/query", "layers/attention/key", "layers/attention/value"):
        return (*shape[:-1], *heads)
    return shape


def shape_here(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The other way, which needs no architecture."""
    part, _, variable = name.rpartition("/")
    if variable != "kernel":
        return (-1,) if variable == "bias" else shape
    return (-1, shape[-1]) if part == "layers/attention/output" else (shape[0], -1)
