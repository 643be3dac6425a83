"""What lies beside Hugging Face's weights: `config.json`, and the tokenizer's files; pure Python.

Sources: huggingface/transformers, models/mobilebert/configuration_mobilebert.py (keys, and what holds where one is
absent), models/mobilebert/modeling_mobilebert.py (heads); huggingface/tokenizers (`tokenizer.json`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilebert_exp.checks import KINDS
from mobilebert_exp.config import ModelConfig, Normalization, leaves
from mobilebert_exp.errors import CheckpointError, ConfigError
from mobilebert_exp.modeling.checkpoints.weights import model_of
from mobilebert_exp.modeling.variables import shares_query_key
from mobilebert_exp.original_json import OURS

CONFIG, VOCABULARY = "config.json", "vocab.txt"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
MOST_BYTES = 64 * 2**20  # of any of them; a multilingual tokenizer.json has 3 MB
KIND = "mobilebert"  # their model_type
KEYS: dict[str, tuple[str, type, object]] = {  # theirs: ours, its type, and what holds where it is absent
    "vocab_size": ("vocab_size", int, 30522),
    "embedding_size": ("embedding_size", int, 128),
    "hidden_size": ("hidden_size", int, 512),
    "intra_bottleneck_size": ("intra_bottleneck_size", int, 128),
    "intermediate_size": ("intermediate_size", int, 512),
    "num_hidden_layers": ("num_layers", int, 24),
    "num_attention_heads": ("num_heads", int, 4),
    "num_feedforward_networks": ("num_feedforward_networks", int, 4),
    "hidden_act": ("hidden_act", str, "relu"),
    "hidden_dropout_prob": ("hidden_dropout", float, 0.0),
    "attention_probs_dropout_prob": ("attention_dropout", float, 0.1),
    "use_bottleneck_attention": ("use_bottleneck_attention", bool, False),
    "key_query_shared_bottleneck": ("key_query_shared_bottleneck", bool, True),
    "normalization_type": ("normalization", str, "no_norm"),
    "classifier_activation": ("classifier_activation", bool, True),
    "max_position_embeddings": ("max_positions", int, 512),
    "type_vocab_size": ("type_vocab_size", int, 2),
    "initializer_range": ("initializer_range", float, 0.02),
    "layer_norm_eps": ("layer_norm_epsilon", float, 1e-12),
}
CHOICES = {  # theirs: ours
    "hidden_act": {
        **{"relu": "relu", "relu6": "relu6", "gelu": "gelu_exact", "gelu_python": "gelu_exact"},
        **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu"),
    },
    "normalization_type": {kind.name: kind.name for kind in Normalization},
}
ALWAYS = ("trigram_input", "use_bottleneck")  # MobileBERT has both; without them it is another model
UNWORDED = ("name", "initialization", "layer_loop", "attention_mask_value", "hugging_face_norms", "fake_quantization")
SHARED = "key_query_shared_bottleneck"  # builds a bottleneck there even where bottleneck attention makes no use of it
NOT_OF_THE_FIRST_TOKEN = ("MobileBertForTokenClassification", "MobileBertForMultipleChoice")


@dataclass(kw_only=True, frozen=True, slots=True)
class Described:
    """What `config.json` says.

    Attributes:
      model: as `Weights.model`.
      head: as `Weights.head`.
      classifies_first_token: whether `classifier` is a classifier's of whole texts, as ours.
    """

    model: Mapping[str, object]
    head: str
    classifies_first_token: bool


def read(file: Path) -> Described:
    """What a `config.json` says of the model.

    Raises:
      CheckpointError: it is no such file, or that of a model that is no MobileBERT of ours.
    """
    stated = mapping(file)
    if stated.get("model_type", KIND) != KIND:
        raise _fault(file, f"model_type={stated['model_type']} is no {KIND}; name a MobileBERT")
    for key in ALWAYS:
        if stated.get(key, True) is not True:
            raise _fault(file, f"{key} is not true, so that this is no MobileBERT; name one")
    found = {ours: _checked(file, key, stated.get(key, absent), kind) for key, (ours, kind, absent) in KEYS.items()}
    if stated.get("true_hidden_size", found["intra_bottleneck_size"]) != found["intra_bottleneck_size"]:
        raise _fault(file, "true_hidden_size is not intra_bottleneck_size, as use_bottleneck asks; mend it")
    plain = {
        "name": file.parent.resolve().name,
        "initialization": "bert",
        "layer_loop": "scan",
        "fake_quantization": "none",
    }
    odd = {"hugging_face_norms": found["normalization"] == Normalization.layer_norm.name}
    own = stated.get(OURS, {})
    if not isinstance(own, dict):
        raise _fault(file, f"{OURS} is no mapping; remove it")
    model = _with_own(file, {**plain, **found, **odd}, own)
    head = own.get("head", "") or _classes(stated)
    return Described(
        model=model,
        head=head if isinstance(head, str) else "",
        classifies_first_token=not any(name in str(stated.get("architectures")) for name in NOT_OF_THE_FIRST_TOKEN),
    )


def _with_own(file: Path, model: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """The model, and what we wrote down of it beside their keys; both checked."""
    try:
        typed = leaves(model_of(model))
        names = [name for name in (*UNWORDED, *([SHARED] if model["use_bottleneck_attention"] else [])) if name in own]
        if wrong := [name for name in names if type(own[name]) is not type(typed[name])]:
            raise _fault(file, f"{OURS}.{wrong[0]} is of another type than {typed[wrong[0]]}; remove it")
        found = {**model, **{name: own[name] for name in names}}
        model_of(found)
    except ConfigError as problem:
        raise _fault(file, f"it describes no model that can be had here ({problem}); name another") from None
    return found


def shares(described: Described) -> bool:
    """Whether queries and keys use a bottleneck of their own; theirs has it beside bottleneck attention too, unused."""
    return shares_query_key(model_of(described.model))


def write(model: ModelConfig, *, architecture: str, head: str, num_outputs: int | None) -> dict[str, object]:
    """A `config.json`.

    Args:
      architecture: the name of their class.
      head: as `Weights.head`.
      num_outputs: of a classifier; None where there is none.
    """
    ours = leaves(model)
    names = {value: key for key, value in reversed(CHOICES["hidden_act"].items())}
    found = {key: ours[name] for key, (name, _, _) in KEYS.items()}
    found |= {"hidden_act": names[str(ours["hidden_act"])], SHARED: shares_query_key(model)}
    classes = {} if num_outputs is None else _labels(head, num_outputs)
    return {
        **{"architectures": [architecture], "model_type": KIND},
        **found,
        **dict.fromkeys(ALWAYS, True),
        **{"true_hidden_size": model.intra_bottleneck_size, "pad_token_id": 0, "tie_word_embeddings": True},
        **classes,
        OURS: {**{name: ours[name] for name in (*UNWORDED, SHARED)}, "head": head},
    }


def beyond_their_code(model: ModelConfig) -> str:
    """What `transformers` would do otherwise than the model here, or could not do; "" if nothing."""
    is_wide = not model.use_bottleneck_attention and not model.key_query_shared_bottleneck
    if is_wide and model.intra_bottleneck_size != model.hidden_size:
        return (
            "transformers cannot run this architecture: its queries and keys take vectors of intra_bottleneck_size, "
            f"{model.intra_bottleneck_size}, and are given those of hidden_size, {model.hidden_size}"
        )
    if model.normalization is Normalization.layer_norm and not model.hugging_face_norms:
        return (
            "transformers adds 1e-5 to the variance in the norm of the embeddings and in one of each block, and not "
            f"{model.layer_norm_epsilon}; so its outputs will differ from those here, a little or more"
        )
    return ""


def _labels(head: str, count: int) -> dict[str, object]:
    """Classes by number, with the names that `Weights.head` has after its colon; one output is a score."""
    if count == 1:
        return {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    names = head.partition(": ")[2].split(", ")
    if len(set(names)) != count:
        names = [f"LABEL_{number}" for number in range(count)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _classes(stated: Mapping[str, Any]) -> str:
    """The names of the classes, if they have names: a classifier of others is not to be taken for ours."""
    labels = stated.get("id2label")
    if not isinstance(labels, dict) or all(str(name).startswith("LABEL_") for name in labels.values()):
        return ""
    numbers = sorted(labels, key=lambda number: (len(number), number))
    return f"classes: {', '.join(str(labels[number]) for number in numbers)}"


def _checked(file: Path, key: str, value: Any, kind: type) -> object:
    is_of_kind = isinstance(value, (int, float) if kind is float else kind)
    if not is_of_kind or (isinstance(value, bool) and kind is not bool):
        raise _fault(file, f"{key}={json.dumps(value)[:80]} is not {KINDS[kind]}; give one")
    if kind is float and not math.isfinite(value):
        raise _fault(file, f"{key}={value} is not finite; give a number")
    if key in CHOICES and value not in CHOICES[key]:
        raise _fault(file, f"{key}={value} is none of {', '.join(CHOICES[key])}; there is no such model here")
    return CHOICES[key][value] if key in CHOICES else float(value) if kind is float else value


def vocabulary(folder: Path) -> tuple[bytes | None, bool | None]:
    """The vocabulary's file, if there is one, and whether it is of lower-cased text, if that is said.

    Newer versions of theirs write `tokenizer.json` alone; its words then make the file.

    Raises:
      CheckpointError: a file is damaged.
    """
    settings = mapping(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    lower_case = settings.get("do_lower_case")
    if (folder / VOCABULARY).is_file():
        content: bytes | None = _content(folder / VOCABULARY)
    elif (folder / TOKENIZER).is_file():
        fast = mapping(folder / TOKENIZER)
        content = _words(folder / TOKENIZER, fast)
        normalizer = fast.get("normalizer")
        if lower_case is None and isinstance(normalizer, dict):
            lower_case = normalizer.get("lowercase")
    else:
        content = None
    return content, lower_case if isinstance(lower_case, bool) else None


def _words(file: Path, tokenizer: Mapping[str, Any]) -> bytes:
    """The words of a `tokenizer.json`, one a line, in the order of their numbers."""
    stated = tokenizer.get("model")
    model = stated if isinstance(stated, dict) else {}
    words = model.get("vocab")
    if not isinstance(words, dict) or model.get("type") != "WordPiece":
        raise _fault(file, f"it holds no vocabulary of WordPiece; put a {VOCABULARY} beside it")
    ordered = sorted(words, key=lambda word: words[word] if isinstance(words[word], int) else -1)
    try:
        if [words[word] for word in ordered] == list(range(len(words))) and not any("\n" in word for word in words):
            return "".join(f"{word}\n" for word in ordered).encode()
    except UnicodeEncodeError:
        pass  # half of a pair of surrogates, which is no text
    raise _fault(file, f"its words are no texts numbered from 0, one after another; put a {VOCABULARY} beside it")


def tokenizer_config(*, lower_case: bool | None, max_positions: int) -> dict[str, object]:
    """A `tokenizer_config.json` for a `vocab.txt`; where the casing is unknown, theirs decides."""
    marks = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}
    casing = {} if lower_case is None else {"do_lower_case": lower_case}
    return {"tokenizer_class": "MobileBertTokenizer", **casing, "model_max_length": max_positions, **marks}


def mapping(file: Path) -> dict[str, Any]:
    """What a JSON file of theirs holds.

    Raises:
      CheckpointError: it cannot be read, is too large, or holds no mapping.
    """
    try:
        found = json.loads(_content(file).decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, CheckpointError):
            raise
        raise _fault(file, f"no JSON ({problem}); fetch it again, or mend it") from None
    if not isinstance(found, dict):
        raise _fault(file, "holds no mapping of keys to values; fetch it again, or mend it")
    return found


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise _fault(file, f"it has more than {MOST_BYTES // 2**20} MiB; fetch it again")
        return file.read_bytes()
    except OSError as problem:
        raise _fault(file, f"cannot be read ({problem.strerror}); name a readable checkpoint") from None


def _fault(file: Path, text: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {file}: {text}")
