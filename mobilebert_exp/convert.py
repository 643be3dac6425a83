"""`python -m mobilebert_exp convert SRC DST --to FORMAT [--model MODEL]`: a checkpoint in another format.

SRC is whatever `init.checkpoint` takes, of any format. DST is a new folder; it is whole or not there. The heads that
are there go along, the architecture as a JSON file, and the vocabulary. MODEL is a preset (`opt`), or an original model
file (`bert_config.json`); it has to be given where SRC does not say which architecture it is of.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from mobilebert_exp.composition import compose
from mobilebert_exp.config import MISSING, FakeQuantization, ModelConfig, leaves
from mobilebert_exp.data import casing, sources
from mobilebert_exp.data.tokenizer import Tokenizer
from mobilebert_exp.errors import CheckpointError, ConfigError
from mobilebert_exp.files import check_free, whole_folder, write_json
from mobilebert_exp.modeling import quantizers
from mobilebert_exp.modeling.checkpoints import companions, formats, hugging_face
from mobilebert_exp.modeling.checkpoints.account import Account, Demand, account, summed_up
from mobilebert_exp.modeling.checkpoints.hugging_face_config import CONFIG
from mobilebert_exp.modeling.checkpoints.weights import Weights, model_of
from mobilebert_exp.modeling.variables import (
    VariableSpec,
    classifier_variables,
    encoder_variables,
    masked_lm_variables,
    next_sentence_variables,
    span_variables,
)
from mobilebert_exp.original_json import PUBLISHED, architecture
from mobilebert_exp.tracking import store
from mobilebert_exp.tracking import weights as tracked

log = logging.getLogger(__name__)
DEFAULT_CACHE = "~/.cache/mobilebert_exp"
NATIVE = "native"


class _Parser(argparse.ArgumentParser):
    """Whose errors are one line, as all of ours."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"convert: {message}; see {self.prog} --help")


def main(arguments: list[str]) -> int:
    """Converts, and says what was converted; returns the exit code.

    Raises:
      UserError: an argument is wrong, SRC cannot be read, or DST cannot be written.
    """
    chosen = _parser().parse_args(arguments)
    started = time.monotonic()
    target = Path(chosen.DST).expanduser().absolute()
    check_free(target)  # which is better told before SRC is read
    place = sources.checkpoint(_named(chosen), cache_dir=chosen.cache_dir)
    origin = formats.recognised(place)
    weights = formats.read(place)
    model = _model(weights, chosen.SRC, place, chosen.model)
    if chosen.to != NATIVE or not quantizers.ranges(weights.values):  # no other format has a place for ranges
        model = dataclasses.replace(model, fake_quantization=FakeQuantization.none)
    weights, found = _checked(weights, model, chosen.SRC)
    weights = _with_vocabulary(weights, chosen.vocab)
    with whole_folder(target) as partial:
        formats.named(chosen.to).write(weights, partial)
        _describe(weights, model, partial)
    print(f"{chosen.SRC} ({origin}) is {target} ({chosen.to}) now: {_told(weights, found)}", end="")
    print(f"; {time.monotonic() - started:.1f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m mobilebert_exp convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = [*formats.MODULES]
    parser.add_argument("SRC", help="a run's folder, or a checkpoint of any format: here, gs://… or an archive")
    parser.add_argument("DST", help="the folder to write; it must not exist, or be empty")
    parser.add_argument("--to", required=True, metavar="FORMAT", choices=names, help=", ".join(names))
    parser.add_argument("--model", help="the architecture: a preset, or an original model file")
    parser.add_argument("--vocab", metavar="FILE", help="the vocabulary, in place of the one beside SRC")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow, for SRC=mlflow:RUN_ID; as tracking.uri")
    parser.add_argument("--cache-dir", default=DEFAULT_CACHE, metavar="DIR", help="for what is fetched or unpacked")
    return parser


def _named(chosen: argparse.Namespace) -> str:
    """SRC; of a run that MLflow knows the place of its weights."""
    source = str(chosen.SRC)
    if not tracked.is_named(source):
        return source
    uri = store.resolve_uri(chosen.tracking_uri, os.environ.get("MLFLOW_TRACKING_URI"), "outputs")
    return tracked.resolve(source, uri=uri, cache_dir=chosen.cache_dir)


def _model(weights: Weights, source: str, place: str, named: str | None) -> ModelConfig:
    """The architecture: the one that is named, else the one that the source states, or its published name."""
    stated = dict(weights.model or {})
    needed = {field.name for field in dataclasses.fields(ModelConfig) if field.default == MISSING}
    if named is None and not needed <= stated.keys():
        named = next((PUBLISHED[part] for part in reversed(Path(place).parts) if part in PUBLISHED), None)
        if named is None:
            raise CheckpointError(
                f"{source} does not say which architecture it is of; name it with --model: a preset, or its JSON file"
            )
    if named is None:
        return model_of(stated)
    if named.endswith(".json"):
        return model_of(architecture(named, named=f"--model={named}"))
    preset = compose([f"model={named}"]).model
    if preset.vocab_size is None and (words := weights.values.get("embeddings/word/table")) is not None:
        return dataclasses.replace(preset, vocab_size=len(words))
    return preset


def _checked(weights: Weights, model: ModelConfig, source: str) -> tuple[Weights, Account]:
    """The weights of a whole model of this architecture, and the account of them."""
    found = account(
        weights,
        wanted=[*encoder_variables(model), *_heads(weights, model)],
        model=model,
        head=weights.head,
        demand=Demand.whole,
        source=source,
    )
    for warning in found.warnings:
        log.warning("%s", warning)
    values = {name: weights.values[name] for name in found.loaded}
    return dataclasses.replace(weights, values=values, model=leaves(model)), found


def _heads(weights: Weights, model: ModelConfig) -> Iterator[VariableSpec]:
    """The variables of the heads that are there, in whole or in part."""
    there = {name.split("/")[1] for name in (*weights.values, *weights.faults) if name.startswith("heads/")}
    outputs = weights.values.get("heads/classifier/bias")
    if "masked_lm" in there:
        yield from masked_lm_variables(model)
    if "next_sentence" in there:
        yield from next_sentence_variables(model)
    if "span" in there:
        yield from span_variables(model)
    if "classifier" in there:
        yield from classifier_variables(model, num_outputs=0 if outputs is None else len(outputs))


def _with_vocabulary(weights: Weights, named: str | None) -> Weights:
    """The weights with the vocabulary that is named, else with their own if it fits, and with the case that it is of.

    Raises:
      DataError: it is no vocabulary.
      ConfigError: it is that of another model.
    """
    size = (weights.model or {})["vocab_size"]
    if named is not None:
        count = len(Tokenizer.from_file(named, lower_case=True).vocabulary)
        if count != size:
            raise ConfigError(f"--vocab={named} has {count:,} entries, and the model {size}; name the model's own")
        content = Path(named).expanduser().read_bytes()
        weights = dataclasses.replace(weights, vocabulary=content, lower_case=None, vocabulary_digest="")
    if weights.vocabulary is None:
        return weights
    pieces = weights.vocabulary.decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    if len(pieces) != size:
        log.warning("the vocabulary beside the checkpoint is left out: %d entries, and the model %s", len(pieces), size)
        return dataclasses.replace(weights, vocabulary=None)
    if weights.lower_case is not None:
        return weights
    return dataclasses.replace(weights, lower_case=casing.is_lower_case(pieces))


def _describe(weights: Weights, model: ModelConfig, folder: Path) -> None:
    """Adds the original's model file and Hugging Face's, side by side, where the format has not written them itself."""
    if not any(folder.rglob(companions.MODEL_FILE)):
        companions.write(dataclasses.replace(weights, vocabulary=None), folder)
    beside = next(folder.rglob(companions.MODEL_FILE), folder / companions.MODEL_FILE).parent
    if not (beside / CONFIG).is_file():
        write_json(beside / CONFIG, hugging_face.described(weights, model))


def _told(weights: Weights, found: Account) -> str:
    heads = sorted({name.split("/")[1] for name in weights.values if name.startswith("heads/")})
    parts = [
        f"{len(weights.values)} variables, {sum(value.size for value in weights.values.values()):,} numbers",
        f"heads: {', '.join(heads) or 'none'}",
        "with its vocabulary" if weights.vocabulary is not None else "without a vocabulary (--vocab names one)",
        *([f"ignored {len(found.ignored):,} ({summed_up(found.ignored)})"] if found.ignored else []),
    ]
    return "; ".join(parts)
