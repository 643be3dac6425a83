"""The architecture in an original MobileBERT JSON file, in the fields of our own `ModelConfig`, and the other way.

Source of keys and of what holds where a key is absent: google-research/google-research, mobilebert/modeling.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mobilebert_exp.checks import KINDS, place
from mobilebert_exp.config import Activation, Normalization
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.spelling import nearest

STATED: dict[str, tuple[str, type]] = {  # each published file states these; a guess would be another model
    "vocab_size": ("vocab_size", int),
    "embedding_size": ("embedding_size", int),
    "hidden_size": ("hidden_size", int),
    "intra_bottleneck_size": ("intra_bottleneck_size", int),
    "intermediate_size": ("intermediate_size", int),
    "num_hidden_layers": ("num_layers", int),
    "num_attention_heads": ("num_heads", int),
    "hidden_act": ("hidden_act", str),
    "hidden_dropout_prob": ("hidden_dropout", float),
    "attention_probs_dropout_prob": ("attention_dropout", float),
    "max_position_embeddings": ("max_positions", int),
    "type_vocab_size": ("type_vocab_size", int),
    "initializer_range": ("initializer_range", float),
}
OPTIONAL: dict[str, tuple[str, type]] = {
    "num_feedforward_networks": ("num_feedforward_networks", int),
    "use_bottleneck_attention": ("use_bottleneck_attention", bool),
    "key_query_shared_bottleneck": ("key_query_shared_bottleneck", bool),
    "normalization_type": ("normalization", str),
    "classifier_activation": ("classifier_activation", bool),
}
ABSENT = {  # what the original takes where a file does not say, as the teacher's does not
    "num_feedforward_networks": 1,
    "use_bottleneck_attention": False,
    "key_query_shared_bottleneck": False,
    "normalization_type": "layer_norm",
    "classifier_activation": True,
}
ALWAYS = ("trigram_input", "use_bottleneck")  # MobileBERT has both; without them it is another model
PUBLISHED = {  # the published architectures: names of files, and of the folders in which checkpoints come
    "uncased_L-24_H-128_B-512_A-4_F-4_OPT": "opt",
    "uncased_L-24_H-128_B-512_A-4_F-4_OPT_QAT": "qat",
    "uncased_L-24_H-128_B-512_A-4_F-2_tiny_OPT": "tiny",
    "uncased_L-24_H-1024_B-512_A-4": "teacher",
    "multi_cased_L-24_H-128_B-512_A-4_F-4_OPT": "multilingual",
}
CHOICES = {"hidden_act": Activation, "normalization_type": Normalization}
OURS = "mobilebert_exp"  # a key for what other code has no word for, and which it passes over; in our fields
UNWORDED: dict[str, object] = {  # what the original computes with, whatever its file says
    "hidden_act": Activation.gelu.name,  # in place of gelu_exact
    "layer_norm_epsilon": 1e-12,
    "hugging_face_norms": False,
    "attention_mask_value": -10000.0,
}
WORDED = (Activation.relu.name, Activation.relu6.name)
UNREAD = (  # in BERT's multilingual files, where no code reads them
    *("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type"),
)


def architecture(file: str, *, named: str = "") -> dict[str, object]:
    """Every architecture field of `ModelConfig` that the file decides, as YAML writes the values.

    The name is the file's; weights start as the original's (`initialization=bert`), in a loop over the layers.

    Args:
      file: a path.
      named: how an error calls the file; as the setting, if empty.

    Raises:
      ConfigError: the file cannot be read, lacks a key or has one that is unknown, of another type or not MobileBERT's.
    """
    named = named or f"model.from_json={file}"
    stated = _read(file, named)
    keys = {**STATED, **OPTIONAL}
    if unknown := [key for key in stated if key not in (*keys, *ALWAYS, *UNREAD, OURS)]:
        near = nearest(unknown[0], [*keys, *ALWAYS])
        raise _fault(
            named, f"{unknown[0]} is not a key of such files; {f'did you mean {near}?' if near else 'remove it'}"
        )
    for key in ALWAYS:
        if stated.get(key, False) is not True:
            raise _fault(named, f"{key} is not true, so that this is no MobileBERT; give a MobileBERT's file")
    if absent := [key for key in STATED if key not in stated]:
        raise _fault(named, f"{absent[0]} is missing; add it, the whole architecture has to be there")
    values = {**ABSENT, **stated}
    found = {name: _checked(named, key, values[key], kind) for key, (name, kind) in keys.items()}
    return {"name": Path(file).stem, **found, **_own(named, stated), "initialization": "bert", "layer_loop": "scan"}


def _own(named: str, stated: Mapping[str, Any]) -> dict[str, object]:
    """What we wrote down beside the original's keys."""
    own = stated.get(OURS, {})
    if not isinstance(own, dict):
        raise _fault(named, f"{OURS} is no mapping; remove it")
    if unknown := own.keys() - UNWORDED.keys():
        raise _fault(named, f"{OURS}.{min(unknown)} is not a key of such files; remove it")
    return {name: _checked(named, name, value, type(UNWORDED[name])) for name, value in own.items()}


def original(model: Mapping[str, object]) -> dict[str, object]:
    """What an original file says of an architecture, given in the fields of `ModelConfig` as YAML writes them.

    What is computed as the original cannot be told to stands under a key of ours, if it is; how weights start is left
    out.

    Raises:
      ConfigError: the original has no word for a part of it.
    """
    stated = {key: model[name] for key, (name, _) in {**STATED, **OPTIONAL}.items()}
    for key in CHOICES:
        _checked("the model", key, stated[key], str)
    own = _unworded(model)
    if "hidden_act" in own:
        stated["hidden_act"] = UNWORDED["hidden_act"]
    return {**stated, **dict.fromkeys(ALWAYS, True), **({OURS: own} if own else {})}


def beyond_their_code(model: Mapping[str, object]) -> str:
    """What the original's code, and tf-models', would compute otherwise than the model here; "" if nothing.

    What hides padding is left out: one value does as well as another, and those two take different ones.
    """
    own = {name: value for name, value in _unworded(model).items() if name != "attention_mask_value"}
    if not own:
        return ""
    ours, theirs = (
        ", ".join(f"model.{name}={str(value).lower()}" for name, value in values.items())
        for values in (own, {name: UNWORDED[name] for name in own})
    )
    return (
        f"the code of TensorFlow 1 and of tf-models cannot be told {ours}, and computes with {theirs}; "
        "so its outputs will differ from those here, a little or more"
    )


def _unworded(model: Mapping[str, object]) -> dict[str, object]:
    """The fields in which the model is not as the original can be told."""
    return {name: model[name] for name, taken in UNWORDED.items() if model.get(name, taken) not in (taken, *WORDED)}


def _read(file: str, named: str) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(place("model.from_json", file)).read_text("utf-8"), object_pairs_hook=_once(named))
    except OSError as problem:
        raise _fault(named, f"cannot be read ({problem.strerror}); name the JSON file of an original model") from None
    except ValueError as problem:
        if isinstance(problem, ConfigError):
            raise
        raise _fault(named, f"no JSON ({problem}); name the JSON file of an original model") from None
    if not isinstance(found, dict):
        raise _fault(named, "holds no mapping of keys to values; name the JSON file of an original model")
    return found


def _once(named: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """A mapping of JSON's, no key of which is there twice."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _fault(named, f"{twice} stands there twice; leave one")
        return found

    return mapping


def _checked(named: str, key: str, value: Any, kind: type) -> object:
    is_of_kind = isinstance(value, (int, float) if kind is float else kind)
    if not is_of_kind or (isinstance(value, bool) and kind is not bool):
        raise _fault(named, f"{key}={json.dumps(value)} is not {KINDS[kind]}; give one")
    if key not in CHOICES:
        return float(value) if kind is float else value
    names = [member.name for member in CHOICES[key]]
    if value.lower() not in names:
        near = nearest(value, names)
        raise _fault(
            named,
            f"{key}={value} is not one of {', '.join(names)}; {f'did you mean {near}?' if near else 'choose one'}",
        )
    return value.lower()


def _fault(named: str, text: str) -> ConfigError:
    return ConfigError(f"{named}: {text}")
