"""TensorFlow's checkpoints on disk: a prefix, beside which lie `PREFIX.index` and `PREFIX.data-…`.

Which one is meant is told without TensorFlow.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mobilebert_exp import location
from mobilebert_exp.errors import CheckpointError, UserError
from mobilebert_exp.files import write_text

STATE_FILE = "checkpoint"  # of a folder: names its newest checkpoint
PART_BYTES = 32 * 2**20  # of what is written at a time
MOST_INDEX_BYTES = (
    64 * 2**20
)  # it has a line for each variable, and the graph of objects: of a MobileBERT, some thousand
_NEWEST = re.compile(r'^model_checkpoint_path: "([^"]*)"', re.MULTILINE)
# The key of what only tf.train.Checkpoint writes; it sorts first, so that no prefix of it is left out of the table.
_OBJECT_GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"


def prefix_of(path: Path) -> Path | None:
    """The prefix that is meant by a prefix, by one of its files, or by a folder: its newest or its only checkpoint.

    Raises:
      CheckpointError: the folder holds several, and does not say which is the newest.
    """
    bare = location.prefix_of(path)
    if location.index_of(bare).is_file():
        return bare
    if path.is_file():
        return None
    newest = _newest(path)
    if newest is not None:
        return newest
    found = sorted(path.glob("*.index")) if path.is_dir() else []
    if len(found) > 1:
        names = ", ".join(each.name.removesuffix(".index") for each in found[:4])
        raise CheckpointError(f"{path} holds {len(found)} checkpoints ({names}…); name one of them")
    return found[0].with_name(found[0].name.removesuffix(".index")) if found else None


def is_object_based(prefix: Path) -> bool:
    """Whether `tf.train.Checkpoint` wrote it, with the paths of objects in place of the names of variables."""
    return _OBJECT_GRAPH in _index(prefix)


def holds(prefix: Path, key: str) -> bool:
    """Whether a key of an object-based checkpoint begins like this; for one of the first part of all keys."""
    return key.encode() in _index(prefix)


def opened(prefix: Path) -> Any:
    """TensorFlow's reader of a checkpoint whose index states no more than its data hold: it would make room for that.

    Raises:
      CheckpointError: it states more, or is damaged.
    """
    import tensorflow as tf

    with reading(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        kinds = reader.get_variable_to_dtype_map()
        stated = sum(
            math.prod(shape) * (1 if kinds[name] == tf.string else kinds[name].size)
            for name, shape in reader.get_variable_to_shape_map().items()
        )
        there = sum(file.stat().st_size for file in prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*"))
        if stated > there:
            raise ValueError(f"its index states {stated:,} bytes, and its data have {there:,}")
    return reader


@contextmanager
def reading(prefix: Path) -> Iterator[None]:
    """What TensorFlow raises of a damaged file inside the block is a CheckpointError of one line.

    Its reader raises Python's own kinds of errors too: of a file that is cut, an IndexError.
    """
    import tensorflow as tf

    try:
        yield
    except UserError:
        raise
    except (tf.errors.OpError, LookupError, RuntimeError, TypeError, ValueError) as problem:
        raise unreadable(prefix, problem) from None


@contextmanager
def writing() -> Iterator[None]:
    """What TensorFlow raises inside the block of a place that cannot be written is an OSError, as Python's own is."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as problem:
        raise OSError(0, _reason(problem)) from None


def save(prefix: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a checkpoint of these keys, and beside it the state file that names it.

    By the operators behind TensorFlow's savers, part by part: only the part that is being written is in memory again.

    Raises:
      OSError: it cannot be written.
    """
    import tensorflow as tf

    parts = _parts(tensors)
    prefixes = [f"{prefix}-part{number}" for number in range(len(parts))]
    with writing(), tf.device("/CPU:0"):
        for part, names in zip(prefixes, parts, strict=True):
            tf.raw_ops.SaveV2(
                prefix=part,
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[np.asarray(tensors[name], order="C") for name in names],
            )
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=prefixes, destination_prefix=str(prefix), delete_old_dirs=False
        )
    line = f'model_checkpoint_path: "{prefix.name}"\nall_model_checkpoint_paths: "{prefix.name}"\n'
    write_text(prefix.with_name(STATE_FILE), line)


def _parts(tensors: Mapping[str, np.ndarray]) -> list[list[str]]:
    """All names, sorted, in parts of about `PART_BYTES`."""
    parts: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        if size > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += tensors[name].nbytes
    return parts


def unreadable(prefix: Path, problem: Exception) -> CheckpointError:
    """What TensorFlow says of a file."""
    reason = _reason(problem).replace(f"{prefix}.", "")
    return CheckpointError(f"checkpoint {prefix} cannot be read ({reason}); choose another")


def _reason(problem: Exception) -> str:
    """What TensorFlow says, without the long paths that it puts before it."""
    line = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
    return line.split("; ")[-1].partition(" [Op:")[0][:200]


def _index(prefix: Path) -> bytes:
    """What its index holds; refuses what is larger than any, before it is in memory."""
    file = location.index_of(prefix)
    try:
        with file.open("rb") as stream:
            found = stream.read(MOST_INDEX_BYTES + 1)
    except OSError as problem:
        raise CheckpointError(f"checkpoint {file} cannot be read ({problem.strerror}); name a readable file") from None
    if len(found) > MOST_INDEX_BYTES:
        raise CheckpointError(
            f"checkpoint {file} is refused: it has more than {MOST_INDEX_BYTES:,} bytes; name another"
        )
    return found


def _newest(folder: Path) -> Path | None:
    """What the folder's state file names, which may have been written before the folder was moved."""
    try:
        match = _NEWEST.search((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if match is None:
        return None
    stated = folder / match[1]  # an absolute path stays one
    return next(
        (path for path in (folder / stated.name, stated) if stated.name and location.index_of(path).is_file()), None
    )
