"""SavedModels: written for serving, with the answers of the model's head; read from any that holds a MobileBERT.

Ours hold, as objects, `encoder/weights/NAME` and `heads/NAME`, under our names; the architecture and what the head
answers are in `assets.extra/model.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import whole_folder, write_json
from mobilebert_exp.modeling.checkpoints import companions, prefixes, tf1, tf_models
from mobilebert_exp.modeling.checkpoints.object_graph import ROOT, ObjectGraph
from mobilebert_exp.modeling.checkpoints.weights import Weights

EXTRA, RECORD, HEAD = "assets.extra", "model.json", "head"


def recognises(path: Path) -> bool:
    """Whether the path is a SavedModel's folder."""
    return (path / "saved_model.pb").is_file()


def read(path: Path) -> Weights:
    """The weights among a SavedModel's variables, and its vocabulary: ours, one of tf-models, or one of TensorFlow 1.

    Raises:
      CheckpointError: it is damaged, or holds no MobileBERT, or another than the record beside it says.
    """
    prefix = path / "variables" / "variables"
    if not Path(f"{prefix}.index").is_file():
        raise CheckpointError(f"{path} is a SavedModel without variables; name one that has {prefix}.index")
    if not prefixes.is_object_based(prefix):
        return replace(tf1.read(prefix), vocabulary=_vocabulary(path))
    graph = ObjectGraph(prefix)
    lower_case = graph.find(ROOT, ("do_lower_case",))
    stated = bool(graph.value(lower_case)) if lower_case is not None and graph.is_variable(lower_case) else None
    is_ours = graph.find(ROOT, ("encoder", "weights")) is not None
    found, record = _ours(graph) if is_ours else tf_models.collect(graph), _record(path)
    stated_model = {name: value for name, value in record.items() if name != HEAD}
    return replace(
        found,
        model=companions.agreeing(found.model or {}, stated_model, source=path) or None,
        head=str(record.get(HEAD, "")),
        vocabulary=_vocabulary(path),
        lower_case=stated,
    )


def _ours(graph: ObjectGraph) -> Weights:
    values = {}
    for holder in (("encoder", "weights"), ("heads",)):
        at = graph.find(ROOT, holder)
        for name in sorted(graph.names(at)) if at is not None else ():
            variable = graph.find(ROOT, (*holder, name))
            if variable is not None and graph.is_variable(variable):
                values[name] = graph.value(variable)
    return Weights(values=values, ignored=graph.unread())


def _record(path: Path) -> Mapping[str, object]:
    """What ours say of the model; nothing where another wrote it."""
    file = path / EXTRA / RECORD
    if not file.is_file():
        return companions.architecture(path / EXTRA) or {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} is no JSON object; export the model anew")
    return found


def _vocabulary(path: Path) -> bytes | None:
    """That among the assets, which no more than one file is."""
    assets = [file for file in (path / "assets").glob("*") if file.is_file()]
    return assets[0].read_bytes() if len(assets) == 1 else None


def write(weights: Weights, folder: Path) -> None:
    """Writes a SavedModel for serving into a new folder: one signature, `serving_default` (`exported.serving`).

    Args:
      weights: with `model`.

    Raises:
      OutputError: the folder cannot be written, or is not empty.
    """
    from mobilebert_exp.modeling.checkpoints import exported

    with whole_folder(folder) as partial:
        exported.serving(weights, partial)
        describe(weights, partial)


def describe(weights: Weights, folder: Path) -> None:
    """Adds to a SavedModel's folder what says which model it is; loading it does not read that."""
    extra = folder / EXTRA
    extra.mkdir()
    companions.write(replace(weights, vocabulary=None), extra)
    write_json(extra / RECORD, {**(weights.model or {}), HEAD: weights.head})
