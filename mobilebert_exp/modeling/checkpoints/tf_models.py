"""Checkpoints of tf-models: object checkpoints of its Keras classes, read and written without them.

Read by the paths through the objects, wherever in a whole model, an export or a training's checkpoint the encoder lies.
Written with objects that hold each other by the same names, so that tf-models restores it:

    tf.train.Checkpoint(**pretrainer.checkpoint_items).restore(prefix).assert_existing_objects_matched()
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import whole_folder
from mobilebert_exp.modeling.checkpoints import companions, prefixes, tf_models_paths
from mobilebert_exp.modeling.checkpoints.object_graph import GRAPH_KEY, ObjectGraph, encoded, key_of
from mobilebert_exp.modeling.checkpoints.tf_models_paths import BLOCK_PATHS, EMBEDDINGS, NETWORK_PATHS
from mobilebert_exp.modeling.checkpoints.weights import Weights, model_of

NAME = "mobilebert.ckpt-1"  # as `tf.train.Checkpoint` calls the first one that it saves
COUNTER = ("save_counter",)  # of how many those are, which it restores


def recognises(path: Path) -> bool:
    """Whether the path leads to a checkpoint whose objects are those of tf-models' encoder."""
    prefix = prefixes.prefix_of(path)
    return prefix is not None and prefixes.is_object_based(prefix) and prefixes.holds(prefix, "/block_layers/")


def read(path: Path) -> Weights:
    """What the checkpoint holds, and the model's file and the vocabulary that lie beside it.

    Raises:
      CheckpointError: it is torn, or holds no MobileBERT, or several, or another than the model's file says.
    """
    prefix = prefixes.prefix_of(path)
    assert prefix is not None, "recognised"
    found, folder = collect(ObjectGraph(prefix)), prefix.parent
    model = companions.agreeing(found.model or {}, companions.architecture(folder), source=prefix)
    return replace(found, model=model, vocabulary=companions.vocabulary(folder))


def write(weights: Weights, folder: Path) -> None:
    """Writes a checkpoint `mobilebert.ckpt-1`, its state file, `bert_config.json` and `vocab.txt`, or nothing.

    Args:
      weights: with `model`.

    Raises:
      OutputError: the folder cannot be written, or is not empty.
    """
    companions.warn_of_their_code(weights)
    with whole_folder(folder) as partial:
        prefixes.save(partial / NAME, _tensors(weights))
        companions.write(weights, partial)


def _tensors(weights: Weights) -> dict[str, np.ndarray]:
    """The items `encoder`, `masked_lm` and those of the other heads: values in the layout there, and the objects."""
    assert weights.model is not None, "filled in by whoever converts"
    config = model_of(weights.model)
    heads = [name for name in weights.values if name.startswith("heads/")]
    places = [*tf_models_paths.encoder_places(config), *tf_models_paths.head_places(config, heads)]
    keys: dict[tuple[str, ...], str] = {COUNTER: key_of(COUNTER)}
    tensors: dict[str, np.ndarray] = {key_of(COUNTER): np.array(1, np.int64)}
    known: dict[tuple[str, int | None], str] = {}
    for place in sorted(places, key=lambda place: len(place.path)):  # the shortest path to an object makes its key
        key = known.setdefault((place.ours, place.layer), key_of(place.path))
        value = weights.values[place.ours]
        value = value if place.layer is None else value[place.layer]
        keys[place.path] = key
        tensors[key] = value.reshape(tf_models_paths.shape_there(place.ours, value.shape, config))
    return {**tensors, GRAPH_KEY: np.array(encoded(keys), object)}


def collect(graph: ObjectGraph) -> Weights:
    """The encoder and the heads among the objects of a checkpoint; the source says nothing of the architecture.

    Raises:
      CheckpointError: a value is damaged, or there is no encoder, or several.
    """
    encoder = _encoder(graph)
    values, faults = _blocks(graph, encoder)
    for part, below in tf_models_paths.EMBEDDING_PATHS.items():
        values |= _part(graph, encoder, (EMBEDDINGS, *below), f"embeddings/{part}")
    values |= _part(graph, encoder, tf_models_paths.pooler(_num_layers(graph, encoder)), "pooler")
    for name, path, node in _heads(graph, encoder):
        values |= _part(graph, node, path, name)
    words = values.get(tf_models_paths.WORDS)
    if "heads/masked_lm/output/bias" in values and tf_models_paths.EXTRA not in values and words is not None:
        values[tf_models_paths.EXTRA] = np.zeros((words.shape[0], 0), np.float32)  # embeddings as wide as the model
    return Weights(values=values, model=_told(graph, encoder), faults=faults, ignored=graph.unread())


def _told(graph: ObjectGraph, encoder: int) -> dict[str, object]:
    """What the objects tell of the architecture beyond the shapes of the variables."""
    block = tf_models_paths.block(0)
    norm = graph.find(encoder, (*block, *tf_models_paths.block_path("attention/norm")))
    query = graph.find(encoder, (*block, *tf_models_paths.block_path("attention/query"), "bias"))
    found: dict[str, object] = {}
    if norm is not None and "scale" in graph.names(norm):  # as NoNorm holds its gamma too; ours are written without
        found["normalization"] = "no_norm"
    if query is not None and graph.is_variable(query):
        (found["num_heads"], *_) = graph.value(query).shape or (1,)
    return found


def _encoder(graph: ObjectGraph) -> int:
    found = {
        node: path
        for path, node in graph.walk()
        if graph.find(node, (EMBEDDINGS, "word_embedding_proj")) and graph.find(node, tf_models_paths.block(0))
    }
    if not found:
        raise CheckpointError(f"{graph.prefix} holds no MobileBERT encoder of tf-models; name another checkpoint")
    if len(found) > 1:
        names = ", ".join(path or "the whole" for path in found.values())
        raise CheckpointError(f"{graph.prefix} holds {len(found)} MobileBERT encoders ({names}); give one with one")
    return next(iter(found))


def _num_layers(graph: ObjectGraph, encoder: int) -> int:
    layers = 0
    while graph.find(encoder, tf_models_paths.block(layers)) is not None:
        layers += 1
    return layers


def _blocks(graph: ObjectGraph, encoder: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The variables of all blocks, stacked; and what is wrong with those that cannot be."""
    blocks = [tf_models_paths.block(layer) for layer in range(_num_layers(graph, encoder))]
    networks = graph.count(graph.find(encoder, (*blocks[0], "ffn")))
    parts = [*BLOCK_PATHS, *(f"ffn_{k}/{part}" for k in range(networks) for part in NETWORK_PATHS)]
    values: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}
    for name in (f"layers/{part}/{variable}" for part in parts for variable in _variables(part)):
        part, _, variable = name.removeprefix("layers/").rpartition("/")
        paths = [(*block, *tf_models_paths.block_path(part), variable) for block in blocks]
        nodes = [graph.find(encoder, path) for path in paths]
        absent = [path for path, node in zip(paths, nodes, strict=True) if not graph.is_variable(node)]
        if len(absent) == len(paths):
            continue  # the architecture has no such part
        if absent:
            faults[name] = f"lacks {'/'.join(absent[0])}"
            continue
        layers = [_value(graph, node, name) for node in nodes if node is not None]
        odd = next((i for i, layer in enumerate(layers) if layer.shape != layers[0].shape), None)
        if odd is None:
            values[name] = np.stack(layers)
        else:
            faults[name] = f"has {'/'.join(paths[odd])} of shape {layers[odd].shape}, other layers {layers[0].shape}"
    return values, faults


def _heads(graph: ObjectGraph, encoder: int) -> list[tuple[str, tuple[str, ...], int]]:
    """Parts of heads: our name, and at which path from which object they lie."""
    words = graph.find(encoder, (EMBEDDINGS, "word_embedding", "embeddings"))
    found = []
    for _, node in graph.walk():
        if words and graph.find(node, ("embedding_table",)) == words and "dense" in graph.names(node):
            found += [(f"heads/masked_lm/{part}", at, node) for part, at in tf_models_paths.MASKED_LM_PATHS.items()]
        for name, (holder, *rest) in tf_models_paths.HEAD_PATHS.items():
            head = graph.find(node, (holder,))
            is_pooled_anew = head and holder == tf_models_paths.CLASSIFIER and "dense" in graph.names(head)
            if head and not is_pooled_anew:
                found.append((name, tuple(rest), head))
    return found


def _variables(part: str) -> tuple[str, ...]:
    """What a part of that name consists of; there, an embedding's table is called `embeddings`."""
    if part.rpartition("/")[2] == "norm":
        return ("gamma", "beta")
    return (
        ("embeddings",) if part in ("embeddings/word", "embeddings/position", "embeddings/type") else ("kernel", "bias")
    )


def _part(graph: ObjectGraph, start: int, path: tuple[str, ...], name: str) -> dict[str, np.ndarray]:
    """The variables of one part, in our names, as far as they are there."""
    if name == "heads/masked_lm/extra":
        found = {tf_models_paths.EXTRA: graph.find(start, path)}
    else:
        ours = {variable: "table" if variable == "embeddings" else variable for variable in _variables(name)}
        found = {f"{name}/{ours[variable]}": graph.find(start, (*path, variable)) for variable in ours}
    return {each: _value(graph, node, each) for each, node in found.items() if node and graph.is_variable(node)}


def _value(graph: ObjectGraph, node: int, name: str) -> np.ndarray:
    value = graph.value(node)
    try:
        return value.reshape(tf_models_paths.shape_here(name, value.shape)).astype(np.float32, copy=False)
    except (IndexError, ValueError):
        raise CheckpointError(
            f"checkpoint {graph.prefix} has {name} of shape {list(value.shape)}, as no MobileBERT; choose another"
        ) from None
