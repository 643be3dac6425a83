"""Checkpoints of Hugging Face: a folder with `config.json`, weights and vocabulary, or a file of weights alone.

Weights are safetensors (also in several files with an index), or PyTorch's `pytorch_model.bin`. Their kernels are ours
transposed, their layers one by one; the decoder of masked words is the word table, and its rest is transposed too.

Source of names: huggingface/transformers, models/mobilebert/modeling_mobilebert.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilebert_exp.config import ModelConfig
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import whole_folder, write_json
from mobilebert_exp.modeling.checkpoints import hugging_face_config as description
from mobilebert_exp.modeling.checkpoints import tensor_files
from mobilebert_exp.modeling.checkpoints.names import LAYER, Kind, Part, embedding_parts, parts_of_block
from mobilebert_exp.modeling.checkpoints.tensor_files import Tensor, damaged
from mobilebert_exp.modeling.checkpoints.weights import Weights, model_of
from mobilebert_exp.modeling.variables import STACKED, encoder_variables, shares_query_key

log = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
INDEX = ".index.json"
FILES = (WEIGHTS, WEIGHTS + INDEX, "pytorch_model.bin", "pytorch_model.bin" + INDEX)  # the first one found counts
SUFFIXES = (".safetensors", ".bin", INDEX)
PREFIX = "mobilebert."  # which the names of a model with a head have, and those of a bare encoder have not
PREFIXED = ("embeddings.", "encoder.", "pooler.")
FIELDS = {  # of a part: ours, theirs, and whether a matrix is transposed
    Kind.dense: (("kernel", "weight", True), ("bias", "bias", False)),
    Kind.norm: (("gamma", "weight", False), ("beta", "bias", False)),
    Kind.table: (("table", "weight", False),),
}
OLD_FIELDS = {"gamma": "weight", "beta": "bias"}
BESIDE_THE_BLOCKS = [
    *(Part(part.kind, part.ours, "", f"embeddings.{part.hugging_face}") for part in embedding_parts()),
    Part(Kind.dense, "pooler", "", "pooler.dense"),
    Part(Kind.dense, "heads/masked_lm/transform", "", "cls.predictions.transform.dense"),
    Part(Kind.norm, "heads/masked_lm/norm", "", "cls.predictions.transform.LayerNorm"),
    Part(Kind.dense, "heads/next_sentence", "", "cls.seq_relationship"),
    Part(Kind.dense, "heads/span", "", "qa_outputs"),
    Part(Kind.dense, "heads/classifier", "", "classifier"),
]
MASKED_LM, CLASSIFIER = "cls.predictions.", "classifier."
WORDS, WORD_BIAS = "embeddings.word_embeddings.weight", f"{MASKED_LM}bias"
COPIES = {f"{MASKED_LM}decoder.weight": WORDS, f"{MASKED_LM}decoder.bias": WORD_BIAS}
CLASSES = {  # by the heads that they have; the first one that fits is named in config.json
    "MobileBertForQuestionAnswering": ("heads/span",),
    "MobileBertForSequenceClassification": ("heads/classifier",),
    "MobileBertForPreTraining": ("heads/masked_lm/transform", "heads/next_sentence"),
    "MobileBertForMaskedLM": ("heads/masked_lm/transform",),
    "MobileBertForNextSentencePrediction": ("heads/next_sentence",),
    "MobileBertModel": (),
}
_LAYER = re.compile(r"encoder\.layer\.(0|[1-9]\d{0,3})\.(.+)")
_NETWORK = re.compile(r"encoder\.layer\.0\.ffn\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Ours:
    """The variable of ours that a name of theirs stands for, and whether it is transposed there."""

    name: str
    transposed: bool


def recognises(path: Path) -> bool:
    """A folder that holds weights under their names, or one such file, whatever its name."""
    if path.is_dir():
        return any((path / name).is_file() for name in FILES)
    return path.name.endswith(SUFFIXES) and path.is_file()


def read(path: Path) -> Weights:
    """The weights, and what lies beside them: the architecture (None without `config.json`) and the vocabulary.

    Raises:
      CheckpointError: a file is not there, damaged, would run code, or is of no MobileBERT.
    """
    file = _weights_file(path)
    config = file.parent / description.CONFIG
    described = description.read(config) if config.is_file() else None
    with tensor_files.opened(_parts(file)) as stored:
        named = _plain(stored, file)
        ignored = _foreign(named, described)
        found = _sorted_out(named, ignored, shared=described is None or description.shares(described))
        _check_kind(found, named, file)
        layers = 1 + max(layer for ours, there in found.items() if _is_stacked(ours) for layer in there)
        _check_depth(found, layers, described, config)
        faults = {ours.name: _fault(there, layers if _is_stacked(ours) else 1) for ours, there in found.items()}
        values = {ours.name: _value(ours, there) for ours, there in found.items() if not faults[ours.name]}
    vocabulary, lower_case = description.vocabulary(file.parent)
    answers = {"heads/span/kernel", "heads/classifier/kernel"} & values.keys()
    return Weights(
        values=values,
        model=described.model if described else None,
        head=described.head if described and answers else "",
        vocabulary=vocabulary,
        lower_case=lower_case,
        ignored=tuple(sorted(ignored)),
        faults={name: fault for name, fault in faults.items() if fault},
    )


def write(weights: Weights, folder: Path) -> None:
    """Writes a folder that `transformers` loads: weights, `config.json`, and the vocabulary if there is one.

    Raises:
      CheckpointError: nothing is known of the architecture, or a part of the encoder is missing.
      OutputError: the folder cannot be written, or there is something in it.
    """
    model = _architecture(weights)
    if warning := description.beyond_their_code(model):
        log.warning(warning)
    with whole_folder(folder) as partial:
        tensor_files.write_safetensors(partial / WEIGHTS, dict(_theirs(weights.values, model)))
        write_json(partial / description.CONFIG, described(weights, model))
        if weights.vocabulary is not None:
            (partial / description.VOCABULARY).write_bytes(weights.vocabulary)
            settings = description.tokenizer_config(lower_case=weights.lower_case, max_positions=model.max_positions)
            write_json(partial / description.TOKENIZER_CONFIG, settings)


def described(weights: Weights, model: ModelConfig) -> dict[str, object]:
    """The `config.json` of weights: of the first of their classes all of whose heads are there."""
    architecture = next(
        name for name, heads in CLASSES.items() if all(f"{head}/kernel" in weights.values for head in heads)
    )
    has_classes = CLASSES[architecture] == ("heads/classifier",)  # theirs gives a SQuAD head an output for each class
    num_outputs = len(weights.values["heads/classifier/bias"]) if has_classes else None
    return description.write(model, architecture=architecture, head=weights.head, num_outputs=num_outputs)


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"checkpoint {path} holds no {' or '.join(FILES)}; name another folder")
    return found


def _parts(file: Path) -> list[Path]:
    """The files of an index, which lie beside it; a file that is no index is one itself."""
    if not file.name.endswith(INDEX):
        return [file]
    weight_map = description.mapping(file).get("weight_map")
    names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    if not names or any(not name or Path(name).name != name for name in names):
        raise damaged(file, "it names no files that lie beside it")
    return sorted(file.with_name(name) for name in names)


def _plain(stored: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors by the names that they have in a bare encoder of today."""
    found: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        rest, _, field = name.removeprefix(PREFIX).rpartition(".")
        plain = f"{rest}.{OLD_FIELDS.get(field, field)}"
        if plain in found:
            raise damaged(file, f"{found[plain].name} and {name} are one variable")
        found[plain] = tensor
    for copy, original in COPIES.items():
        if copy in found and original not in found:
            found[original] = found[copy]
    return found


def _foreign(named: dict[str, Tensor], described: description.Described | None) -> list[str]:
    """Takes out of `named` what is not as ours, for its names: a head over tokens, or with a decoder of its own."""
    heads: tuple[str, ...] = ()
    if described is not None and not described.classifies_first_token:
        heads += (CLASSIFIER,)
    for copy, original in COPIES.items():
        if copy in named and not _equal(named[copy], named[original]):
            log.warning("%s: %s is no copy of %s; the head is left out", named[copy].file, copy, original)
            heads += (MASKED_LM,)
    names = [name for name in named if name.startswith(heads)]
    return [named.pop(name).name for name in names]


def _equal(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    return one.shape == other.shape and bool(np.array_equal(tensor_files.values_of(one), tensor_files.values_of(other)))


def _sorted_out(named: Mapping[str, Tensor], ignored: list[str], *, shared: bool) -> dict[Ours, dict[int, Tensor]]:
    """The tensors of each variable of ours, by layers (0 where it has none); what is of none is added to `ignored`."""
    prefixed = {match[1] for name in named if (match := _NETWORK.match(name))}  # all networks but the last
    known = _names(networks=1 + len(prefixed), shared=shared)
    found: dict[Ours, dict[int, Tensor]] = {}
    for name, tensor in named.items():
        layered = _LAYER.fullmatch(name)
        ours = known.get(f"{LAYER}.{layered[2]}" if layered else name)
        if ours is not None:
            found.setdefault(ours, {})[int(layered[1]) if layered else 0] = tensor
        elif name not in COPIES:
            ignored.append(tensor.name)
    return found


def _names(*, networks: int, shared: bool) -> dict[str, Ours]:
    """Ours by theirs, without a prefix; of the blocks with `{layer}` in place of `encoder.layer.7`."""
    blocks = parts_of_block(networks=networks, query_key_bottleneck=shared)
    return {
        **dict(_fields(BESIDE_THE_BLOCKS, ours="", theirs="")),
        **dict(_fields(blocks, ours=STACKED, theirs=f"{LAYER}.")),
        f"{MASKED_LM}dense.weight": Ours("heads/masked_lm/extra/table", transposed=True),
        WORD_BIAS: Ours("heads/masked_lm/output/bias", transposed=False),
    }


def _fields(parts: Iterable[Part], *, ours: str, theirs: str) -> Iterator[tuple[str, Ours]]:
    """Names and variables of what the parts consist of, below a prefix on either side."""
    for part in parts:
        for field, their_field, transposed in FIELDS[part.kind]:
            yield f"{theirs}{part.hugging_face}.{their_field}", Ours(f"{ours}{part.ours}/{field}", transposed)


def _check_kind(found: Mapping[Ours, object], named: Mapping[str, Tensor], file: Path) -> None:
    """Refuses what is no MobileBERT at all."""
    names = {ours.name for ours in found}
    if "layers/bottleneck_input/kernel" in names:
        return
    if "layers/attention/query/kernel" in names:
        raise CheckpointError(
            f"checkpoint {file} is of BERT, not of MobileBERT: its layers have no bottleneck.input.dense; "
            "give a MobileBERT's"
        )
    first = next((tensor.name for tensor in named.values()), "none")
    raise CheckpointError(
        f"checkpoint {file} holds no MobileBERT: none of its {len(named)} tensors is one of its layers' "
        f"(the first is {first}); give a MobileBERT's"
    )


def _check_depth(
    found: Mapping[Ours, object], layers: int, described: description.Described | None, config: Path
) -> None:
    """Refuses a config of another depth: it may state any number, and something is made for each."""
    networks = len({ours.name.split("/")[1] for ours in found if ours.name.startswith(f"{STACKED}ffn_")})
    for field, number in {"num_layers": layers, "num_feedforward_networks": networks}.items():
        if described is not None and described.model[field] != number:
            raise CheckpointError(
                f"checkpoint {config} states a model with {field}={described.model[field]}, and the weights beside it "
                f"have {number}; put the config there that belongs to them"
            )


def _is_stacked(ours: Ours) -> bool:
    return ours.name.startswith(STACKED)


def _fault(there: Mapping[int, Tensor], layers: int) -> str:
    """What is wrong with a variable, as `Weights.faults` says it; "" if nothing is."""
    first = next(iter(there.values()))
    absent = next((number for number in range(layers) if number not in there), None)
    if absent is not None:
        return f"lacks {re.sub(r'[.]layer[.][0-9]+[.]', f'.layer.{absent}.', first.name)}"
    for tensor in there.values():
        if tensor.kind not in tensor_files.FLOATING:
            return f"has {tensor.name} of type {tensor.kind}, not {', '.join(tensor_files.FLOATING)}"
        if tensor.shape != first.shape:
            return f"has {tensor.name} of shape {list(tensor.shape)}, and {first.name} of {list(first.shape)}"
    return ""


def _value(ours: Ours, there: Mapping[int, Tensor]) -> np.ndarray:
    """A variable in our layout, as float32, layer by layer, so that it is in memory once."""
    shape = there[0].shape[::-1] if ours.transposed else there[0].shape
    found = np.empty((len(there), *shape), np.float32)
    for layer, tensor in there.items():
        value = tensor_files.values_of(tensor)
        with np.errstate(over="ignore"):  # what becomes infinite is told where weights are accounted for
            found[layer] = value.T if ours.transposed else value
    return found if _is_stacked(ours) else found[0]


def _architecture(weights: Weights) -> ModelConfig:
    """Of weights that hold a whole encoder of it."""
    if weights.model is None:
        raise CheckpointError("the checkpoint does not say which architecture it is of; name one")
    words = weights.values.get("embeddings/word/table", np.empty((0, 0)))
    model = model_of({**weights.model, "vocab_size": len(words)})
    for spec in encoder_variables(model):
        is_there = spec.name in weights.values and weights.values[spec.name].shape == spec.shape
        if not is_there and not spec.name.startswith("pooler/"):  # which a model without use for it may have left out
            raise CheckpointError(f"the checkpoint lacks {spec.name} of {list(spec.shape)}; give a whole one")
    return model


def _theirs(values: Mapping[str, np.ndarray], model: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Every value under their names, as they lay it out."""
    names = _names(networks=model.num_feedforward_networks, shared=shares_query_key(model))
    theirs = {ours.name: (name, ours.transposed) for name, ours in names.items()}
    if foreign := sorted(values.keys() - theirs.keys()):
        raise CheckpointError(f"a checkpoint of Hugging Face has no place for {', '.join(foreign)}; leave it out")
    for ours, value in values.items():
        name, transposed = theirs[ours]
        for layer, part in enumerate(value if ours.startswith(STACKED) else value[None]):
            full = name.replace(LAYER, f"encoder.layer.{layer}", 1)
            prefix = PREFIX if full.startswith(PREFIXED) else ""
            yield prefix + full, np.ascontiguousarray(part.T if transposed else part, dtype="<f4")
