"""TensorFlow 1's checkpoints by name, as the original code writes and reads them.

Read with or without `bert/`, norms called LayerNorm or FakeLayerNorm, heads of pre-training, SQuAD and classification;
what is left (moments of an optimizer, `global_step`, a teacher's copy) is named as ignored. Written under the original
names, beside `bert_config.json` and `vocab.txt`.

Sources of names: google-research/google-research, mobilebert/{modeling,run_pretraining,run_squad,run_classifier}.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import whole_folder
from mobilebert_exp.modeling.checkpoints import companions, prefixes
from mobilebert_exp.modeling.checkpoints.names import LAYER, NORM, Kind, Part, embedding_parts, parts_of_block
from mobilebert_exp.modeling.checkpoints.prefixes import is_object_based, prefix_of, reading
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import STACKED

PREFIX = "mobilebert.ckpt"
REAL_NORM, PLAIN_NORM = "LayerNorm", "FakeLayerNorm"
LEAVES = {Kind.dense: ("kernel", "bias"), Kind.norm: ("gamma", "beta"), Kind.table: ("table",)}
HEADS = {  # ours by theirs; kernels called `output_weights` have a row for each output there
    "pooler/dense/kernel": "pooler/kernel",
    "pooler/dense/bias": "pooler/bias",
    "cls/predictions/transform/dense/kernel": "heads/masked_lm/transform/kernel",
    "cls/predictions/transform/dense/bias": "heads/masked_lm/transform/bias",
    "cls/predictions/transform/LayerNorm/gamma": "heads/masked_lm/norm/gamma",
    "cls/predictions/transform/LayerNorm/beta": "heads/masked_lm/norm/beta",
    "cls/predictions/extra_output_weights": "heads/masked_lm/extra/table",
    "cls/predictions/output_bias": "heads/masked_lm/output/bias",
    "cls/seq_relationship/output_weights": "heads/next_sentence/kernel",
    "cls/seq_relationship/output_bias": "heads/next_sentence/bias",
    "cls/squad/output_weights": "heads/span/kernel",
    "cls/squad/output_bias": "heads/span/bias",
    "output_weights": "heads/classifier/kernel",
    "output_bias": "heads/classifier/bias",
}
BY_ROWS = "output_weights"
_LAYER = re.compile(r"encoder/layer_(\d+)/(.+)")
_NETWORK = re.compile(r"ffn_layer_(\d+)/")
_SCOPE = re.compile(r"(?:module/)?(?:bert/)?")  # `module/`: of a TF-Hub module


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a variable of ours, or one layer of it, stands in a checkpoint."""

    name: str
    layer: int | None
    by_rows: bool


def recognises(path: Path) -> bool:
    """Whether a checkpoint by name is there: a prefix, one of its files, or a folder with one."""
    prefix = prefix_of(path)
    return prefix is not None and not is_object_based(prefix)


def read(path: Path) -> Weights:
    """The weights of a checkpoint, with the model's file and the vocabulary that lie beside it.

    Raises:
      CheckpointError: it is torn, of no MobileBERT, or holds a variable twice.
    """
    prefix = prefix_of(path)
    assert prefix is not None, "recognised"
    reader = prefixes.opened(prefix)
    shapes = dict(sorted(reader.get_variable_to_shape_map().items()))
    sources, ignored = _sorted_out(shapes, prefix)
    _check_kind(sources, shapes, prefix)
    values: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}
    layers = 1 + max(source.layer for found in sources.values() for source in found if source.layer is not None)
    for ours, found in sources.items():
        fault = _fault(found, shapes, layers)
        if fault:
            faults[ours] = fault
        else:
            values[ours] = _value(reader, found, prefix)
    return Weights(
        values=values,
        model=_model(prefix, sources),
        vocabulary=companions.vocabulary(prefix.parent),
        ignored=tuple(ignored),
        faults=faults,
    )


def _sorted_out(shapes: Mapping[str, object], prefix: Path) -> tuple[dict[str, list[_Source]], list[str]]:
    """Where each variable of ours stands, and the names of what is none."""
    known = _names(1 + len({found[1] for name in shapes if (found := _NETWORK.search(name))}))
    sources: dict[str, list[_Source]] = {}
    ignored: list[str] = []
    for name in shapes:
        bare = _SCOPE.sub("", name, count=1)
        layered = _LAYER.fullmatch(bare)
        ours = known.get(f"{LAYER}/{layered[2]}" if layered else bare)
        if ours is None:
            ignored.append(name)
            continue
        source = _Source(name, int(layered[1]) if layered else None, _is_by_rows(bare))
        twin = next((each for each in sources.get(ours, ()) if each.layer == source.layer), None)
        if twin is not None:
            raise CheckpointError(f"checkpoint {prefix} holds {twin.name} and {name} for one variable; choose another")
        sources.setdefault(ours, []).append(source)
    return sources, ignored


def _names(networks: int) -> dict[str, str]:
    """Ours by theirs, without `bert/`; of the blocks with `{layer}` in place of `encoder/layer_7`."""
    found = dict(HEADS)
    for part in embedding_parts():
        found |= {f"embeddings/{theirs}": ours for theirs, ours in _leaves(part)}
    for part in parts_of_block(networks=networks, query_key_bottleneck=True):
        found |= {f"{LAYER}/{theirs}": f"{STACKED}{ours}" for theirs, ours in _leaves(part)}
    return found


def _is_by_rows(name: str) -> bool:
    return name.rpartition("/")[2] == BY_ROWS


def _leaves(part: Part) -> Iterator[tuple[str, str]]:
    """Their names and ours of what a part consists of, norms under both of their names."""
    for norm in (REAL_NORM, PLAIN_NORM) if NORM in part.tf1 else ("",):
        theirs = part.tf1.replace(NORM, norm)
        for leaf in LEAVES[part.kind]:
            yield (theirs if part.kind is Kind.table else f"{theirs}/{leaf}"), f"{part.ours}/{leaf}"


def _check_kind(sources: Mapping[str, list[_Source]], shapes: Mapping[str, object], prefix: Path) -> None:
    """Refuses what is no MobileBERT at all."""
    if f"{STACKED}bottleneck_input/kernel" in sources:
        return
    if f"{STACKED}attention/query/kernel" in sources:
        raise CheckpointError(
            f"checkpoint {prefix} is of BERT, not of MobileBERT: its layers have no bottleneck/input/dense; "
            "give a MobileBERT's"
        )
    first = next(iter(shapes), "none")
    raise CheckpointError(
        f"checkpoint {prefix} holds no MobileBERT: none of its {len(shapes)} variables is one of its layers' "
        f"(the first is {first}); give a MobileBERT's"
    )


def _fault(found: list[_Source], shapes: Mapping[str, list[int]], layers: int) -> str:
    """What is wrong with a variable, as `Weights.faults` says it; "" if nothing is."""
    first = found[0]
    if first.layer is None:
        return ""
    there = {source.layer: source for source in found}
    absent = next((number for number in range(layers) if number not in there), None)
    if absent is not None:
        return f"lacks {re.sub(r'/layer_[0-9]+/', f'/layer_{absent}/', first.name)}"
    for source in found:
        if shapes[source.name] != shapes[first.name]:
            return f"has {source.name} of shape {shapes[source.name]}, and {first.name} of {shapes[first.name]}"
    return ""


def _value(reader: Any, found: list[_Source], prefix: Path) -> np.ndarray:
    """A variable in our layout, layer by layer, so that it is in memory once."""
    if found[0].layer is None:
        value = _tensor(reader, found[0], prefix)
        return np.ascontiguousarray(value.T) if found[0].by_rows else value
    ordered = sorted(found, key=lambda source: source.layer or 0)
    first = _tensor(reader, ordered[0], prefix)
    stacked = np.empty((len(ordered), *first.shape), np.float32)
    for layer, source in enumerate(ordered):
        stacked[layer] = first if layer == 0 else _tensor(reader, source, prefix)
    return stacked


def _tensor(reader: Any, source: _Source, prefix: Path) -> np.ndarray:
    with reading(prefix):
        return np.asarray(reader.get_tensor(source.name), np.float32)


def _model(prefix: Path, sources: Mapping[str, list[_Source]]) -> Mapping[str, object]:
    """The architecture as far as it is told: by the file beside the checkpoint, and by what norms are called."""
    told_by = ("embeddings/norm/gamma", f"{STACKED}bottleneck_input/norm/gamma")
    norm = next((source for name in told_by for source in sources.get(name, ())), None)
    if norm is None:
        raise CheckpointError(
            f"checkpoint {prefix} lacks the norms of its embeddings and of bottleneck/input, by whose names it is told "
            "which normalization it has; choose a whole one"
        )
    normalization = "no_norm" if f"/{PLAIN_NORM}/" in norm.name else "layer_norm"
    told = {"normalization": normalization}
    return companions.agreeing(told, companions.architecture(prefix.parent), source=prefix)


def write(weights: Weights, folder: Path) -> None:
    """Writes a checkpoint `mobilebert.ckpt`, its state file, `bert_config.json` and `vocab.txt`, or nothing.

    Args:
      weights: with `model`.

    Raises:
      OutputError: the folder cannot be written, or is not empty.
    """
    companions.warn_of_their_code(weights)
    with whole_folder(folder) as partial:
        prefixes.save(partial / PREFIX, dict(_tensors(weights)))
        companions.write(weights, partial)


def _tensors(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """Each variable under its original name, in the original layout."""
    assert weights.model is not None, "filled in by whoever converts"
    norm = PLAIN_NORM if weights.model["normalization"] == "no_norm" else REAL_NORM
    networks = weights.model["num_feedforward_networks"]
    assert isinstance(networks, int), "of a checked architecture"
    other = REAL_NORM if norm == PLAIN_NORM else PLAIN_NORM
    theirs = {ours: name for name, ours in _names(networks).items() if name in HEADS or f"/{other}/" not in name}
    for ours, value in weights.values.items():
        name = theirs[ours]
        if name.startswith("cls/") or ours.startswith("heads/"):
            yield name, value.T if _is_by_rows(name) else value
        elif not ours.startswith(STACKED):
            yield f"bert/{name}", value
        else:
            for layer in range(weights.num_layers):
                yield f"bert/{name.replace(LAYER, f'encoder/layer_{layer}', 1)}", value[layer]
