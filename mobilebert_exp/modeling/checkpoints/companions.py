"""What lies beside the numbers of a checkpoint: the model's original JSON file, and its vocabulary; pure Python."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from mobilebert_exp import original_json
from mobilebert_exp.errors import CheckpointError, ConfigError
from mobilebert_exp.files import write_json
from mobilebert_exp.modeling.checkpoints.weights import Weights

log = logging.getLogger(__name__)
MODEL_FILE, VOCABULARY_FILE = "bert_config.json", "vocab.txt"  # as BERT's releases call them


def architecture(folder: Path) -> Mapping[str, object] | None:
    """The architecture in the folder's `bert_config.json`, else in its one original model file; None without any.

    Raises:
      CheckpointError: the file is damaged, or is no MobileBERT's.
    """
    file = folder / MODEL_FILE
    if not file.is_file():
        originals = [path for path in sorted(folder.glob("*.json")) if _is_original(path)]
        if len(originals) != 1:
            return None
        (file,) = originals
    try:
        return original_json.architecture(str(file), named=str(file))
    except ConfigError as problem:
        raise CheckpointError(str(problem)) from None


def agreeing(told: Mapping[str, object], stated: Mapping[str, object] | None, *, source: Path) -> Mapping[str, object]:
    """What a checkpoint tells of its architecture by itself, and what the model's file beside it states.

    Raises:
      CheckpointError: they contradict each other.
    """
    for name, value in told.items():
        if stated is not None and name in stated and stated[name] != value:
            raise CheckpointError(
                f"checkpoint {source} has {name}={value}, and the model's file beside it says {stated[name]}; "
                "put the right file there"
            )
    return {**told, **(stated or {})}


def _is_original(file: Path) -> bool:
    """By its keys: what Hugging Face writes bears others, and so do the records of a run."""
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stated, dict) and {"trigram_input", "hidden_act"} <= stated.keys() and "model_type" not in stated


def vocabulary(folder: Path) -> bytes | None:
    """The contents of the folder's `vocab.txt`, else of its one text file with `vocab` in its name."""
    file = folder / VOCABULARY_FILE
    if not file.is_file():
        found = sorted(path for path in folder.glob("*vocab*.txt") if path.is_file())
        if len(found) != 1:
            return None
        (file,) = found
    return file.read_bytes()


def warn_of_their_code(weights: Weights) -> None:
    """Says what the original's code, or tf-models', would compute otherwise, for formats that are written for those."""
    if warning := original_json.beyond_their_code(weights.model or {}):
        log.warning(warning)


def write(weights: Weights, folder: Path) -> None:
    """Writes both, as far as the weights have them, and the original has words for the architecture."""
    if weights.model is not None:
        try:
            write_json(folder / MODEL_FILE, original_json.original(weights.model))
        except ConfigError as problem:
            log.warning("no %s is written: %s", MODEL_FILE, problem)
    if weights.vocabulary is not None:
        (folder / VOCABULARY_FILE).write_bytes(weights.vocabulary)
