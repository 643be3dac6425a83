"""Checkpoints of this package as weights outside TensorFlow: read from a run or a prefix, and written like a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilebert_exp import location, manifest
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import whole_folder, write_json
from mobilebert_exp.modeling.checkpoints import companions, prefixes
from mobilebert_exp.modeling.checkpoints.object_graph import ROOT, ObjectGraph
from mobilebert_exp.modeling.checkpoints.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf

HOLDERS = (("model", "encoder", "weights"), ("model", "weights"))  # the objects that hold a model's variables by name
NOT_OF_MODEL = (location.HEAD, location.VOCABULARY, location.STEPS)  # in what a run says of its model
MARK = "embeddings.Snorm.Sbeta"  # how TensorFlow spells a name of ours in a key


def recognises(path: Path) -> bool:
    """A run's folder, `RUN/best`, `RUN/last`, or the prefix of a checkpoint in one."""
    run, _ = location.parts(str(path))
    if (run / location.FOLDER).is_dir():
        found = [index.with_suffix("") for index in (run / location.FOLDER).rglob("*.index")]
        has_record = (run / location.MODEL_FILE).is_file()
        return any(has_record or manifest.has_one(prefix) or _is_marked(prefix) for prefix in found)
    found_alone = prefixes.prefix_of(path)
    return found_alone is not None and _is_marked(found_alone)


def _is_marked(prefix: Path) -> bool:
    return prefixes.is_object_based(prefix) and prefixes.holds(prefix, MARK)


def read(path: Path) -> Weights:
    """The weights of a run's best checkpoint, else its newest, or of the one that is named.

    Raises:
      CheckpointError: it is torn, or none is whole, or it holds nothing of a model of ours.
    """
    from mobilebert_exp.modeling.checkpoints import native

    found = native.located(str(_named(path)))
    prefix, run = Path(found.prefix), location.run_of(found.prefix)
    graph = ObjectGraph(prefix)
    values = {}
    for holder in HOLDERS:
        node = graph.find(ROOT, holder)
        for name in sorted(graph.names(node)) if node is not None else ():
            variable = graph.find(ROOT, (*holder, name))
            if variable is not None and graph.is_variable(variable):
                values[name] = np.asarray(graph.value(variable), np.float32)
    if not values:
        raise CheckpointError(f"checkpoint {prefix} holds no weights of this package; give one of a training run")
    return Weights(
        values=values,
        model={name: value for name, value in found.model.items() if name not in NOT_OF_MODEL} or None,
        head=found.head,
        vocabulary=companions.vocabulary(run),
        vocabulary_digest=found.vocabulary,
        ignored=graph.unread(),
        digest=found.sha256,
    )


def _named(path: Path) -> Path:
    """As `native` takes it: a checkpoint that lies alone by its prefix."""
    run, _ = location.parts(str(path))
    return path if (run / location.FOLDER).is_dir() else prefixes.prefix_of(path) or path


def write(weights: Weights, folder: Path) -> None:
    """Writes a folder like a run's, with a checkpoint of step 0, or nothing.

    Args:
      weights: with `model`.

    Raises:
      OutputError: the folder cannot be written, or is not empty.
    """
    import tensorflow as tf

    from mobilebert_exp.modeling.checkpoints import native

    assert weights.model is not None, "filled in by whoever converts"
    with whole_folder(folder) as partial, prefixes.writing(), tf.device("/CPU:0"):
        checkpoints = partial / location.FOLDER
        checkpoints.mkdir()
        prefix = manifest.prefix_of(checkpoints, step=0)
        head, words = weights.head, weights.vocabulary_digest
        native.write_whole(_checkpoint(weights), prefix, step=0, model=weights.model, head=head, vocabulary=words)
        manifest.point(checkpoints, [prefix])
        record = {**weights.model, native.HEAD: head, native.VOCABULARY: words}
        write_json(partial / native.MODEL_FILE, record)
        companions.write(weights, partial)


def _checkpoint(weights: Weights) -> tf.train.Checkpoint:
    """The objects of a model, as far as they are saved."""
    import tensorflow as tf

    model = tf.Module()
    model.encoder = tf.Module()
    model.encoder.weights = dict(_variables(weights, of_encoder=True))
    model.weights = dict(_variables(weights, of_encoder=False))
    return tf.train.Checkpoint(model=model)


def _variables(weights: Weights, *, of_encoder: bool) -> Iterator[tuple[str, tf.Variable]]:
    import tensorflow as tf

    for name, value in weights.values.items():
        if name.startswith("heads/") is not of_encoder:
            yield name, tf.Variable(value, name=name)
