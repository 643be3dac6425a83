"""Checkpoints of our own: TensorFlow object checkpoints in a run's `checkpoints/` (newest) and `checkpoints/best/`.

A manifest commits each (`manifest`); one without is of an earlier version, or what an interrupted save left behind.
Beside them lies `model.json`, the architecture they belong to, under `head` what their head answers, under `vocabulary`
the digest of the words they were trained with, and under `total_steps` how many steps the run was to take; a manifest
says the first three too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from mobilebert_exp import location, manifest
from mobilebert_exp.config import ModelConfig, leaves
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.files import write_json

log = logging.getLogger(__name__)
FOLDER, BEST = location.FOLDER, location.BEST
MODEL_FILE, HEAD, VOCABULARY, STEPS = location.MODEL_FILE, location.HEAD, location.VOCABULARY, location.STEPS


@dataclass(kw_only=True, frozen=True, slots=True)
class Best:
    """The best evaluation of a run so far: after which step, its main metric, and the newest step evaluated."""

    step: int = 0
    value: float = float("-inf")
    evaluated: int = 0

    @classmethod
    def read(cls, run_dir: Path) -> Best:
        """What an earlier part of the run recorded, or none yet."""
        file = run_dir / FOLDER / BEST / "best.json"
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError):
            log.warning("%s is damaged; the next evaluation counts as the best so far", file)
            return cls()

    def write(self, run_dir: Path) -> None:
        """Records it, whole or not at all."""
        file = run_dir / FOLDER / BEST / "best.json"
        file.parent.mkdir(parents=True, exist_ok=True)  # no evaluation has been a number yet
        write_json(file, asdict(self))

    def figures(self, metric: str) -> dict[str, float]:
        """As metrics; SQuAD v2.0 has an official `best_f1` of another meaning, so the checkpoint is in the name."""
        return {f"best_checkpoint_{metric}": self.value, "best_checkpoint_step": float(self.step)}


@dataclass(kw_only=True, frozen=True, slots=True)
class Found:
    """A checkpoint that is whole.

    Attributes:
      prefix: what the names of its files begin with.
      head: what its head answers; "" where an older version of this package wrote it.
      model: the architecture, in the fields of `ModelConfig`; empty where nothing tells it.
      vocabulary: the digest of the words it was trained with; "" where nothing tells it.
      sha256: of the checkpoint; "" where it has no manifest.
    """

    prefix: str
    head: str
    model: Mapping[str, Any]
    vocabulary: str = ""
    sha256: str = ""


def write_model(run_dir: Path, model: ModelConfig, *, head: str, vocabulary: str, total_steps: int) -> None:
    """Records architecture, head, vocabulary and run that the checkpoints belong to, whole or not at all.

    Args:
      vocabulary: its digest; "" where the task has none.
    """
    write_json(run_dir / MODEL_FILE, {**leaves(model), HEAD: head, VOCABULARY: vocabulary, STEPS: total_steps})


def located(place: str) -> Found:
    """The checkpoint behind `init.checkpoint`, all of which was read and is as it was written.

    Where the newest (or best) of a run is damaged it is the one before, and a warning says so.

    Args:
      place: a run's folder (its best, else its newest), `RUN/best`, `RUN/last` or a prefix.

    Raises:
      CheckpointError: nothing whole is there.
    """
    prefix = Path(place).expanduser()
    if manifest.has_one(prefix):
        return _committed(manifest.check(prefix))
    if Path(f"{prefix}.index").is_file():
        if manifest.was_interrupted(prefix):
            raise CheckpointError(
                f"init.checkpoint={place} is what an interrupted save left; name the run, which takes a whole one"
            )
        return _earlier(prefix)
    found = newest_whole(location.folders(place))
    if found is None:
        raise location.missing(place)
    return found


def newest_whole(folders: Sequence[Path]) -> Found | None:
    """The newest checkpoint of the first folder that has a whole one; None where there is none at all.

    Raises:
      CheckpointError: there are some, and none is whole.
    """
    found, problems = manifest.first_whole(prefix for folder in folders for prefix in manifest.committed(folder))
    reasons = "; ".join(problem.reason for problem in problems)
    if found is not None:
        if problems:
            log.warning("%s; using %s instead", reasons, found.prefix)
        return _committed(found)
    if problems:
        raise CheckpointError(
            f"no checkpoint in {problems[0].prefix.parent} is whole: {reasons}; "
            "bring back the files, name another checkpoint, or start afresh (resume=never)"
        )
    for folder in folders:
        if prefix := tf.train.latest_checkpoint(str(folder)):
            return _earlier(Path(prefix))
    return None


def _committed(found: manifest.Manifest) -> Found:
    told = found.vocabulary or _recorded_vocabulary(found.prefix)  # which earlier manifests do not tell
    return Found(prefix=str(found.prefix), head=found.head, model=found.model, vocabulary=told, sha256=found.sha256)


def _recorded_vocabulary(prefix: Path) -> str:
    return str(location.read(location.run_of(str(prefix)) / MODEL_FILE).get(VOCABULARY, ""))


def _earlier(prefix: Path) -> Found:
    """One without a manifest, of which the files beside it tell what they can."""
    recorded = location.record(location.run_of(str(prefix)))
    log.info("%s has no manifest (an earlier version made it): only what TensorFlow notices is noticed", prefix)
    return Found(
        prefix=str(prefix),
        head=str(recorded.get(HEAD, "")),
        model=recorded,
        vocabulary=str(recorded.get(VOCABULARY, "")),
    )


def restore(checkpoint: tf.train.Checkpoint, prefix: str) -> None:
    """Restores every object of `checkpoint` from `prefix`.

    Raises:
      CheckpointError: the file is torn, or lacks a variable.
    """
    try:
        checkpoint.read(prefix).expect_partial().assert_existing_objects_matched()
    except AssertionError as problem:
        raise CheckpointError(
            f"checkpoint {prefix} lacks variables of this model ({first_line(problem)}); choose another"
        ) from None
    except (tf.errors.OpError, ValueError) as problem:
        raise CheckpointError(f"checkpoint {prefix} cannot be read ({first_line(problem)}); choose another") from None


def write_whole(
    checkpoint: tf.train.Checkpoint, prefix: Path, *, step: int, model: Mapping[str, object], head: str, vocabulary: str
) -> None:
    """Writes a checkpoint, reads it back, and commits it.

    Raises:
      tf.errors.OpError, OSError: it cannot be written, or what is read back is not what was in memory.
    """
    checkpoint.write(str(prefix))
    read_back(prefix)
    manifest.commit(prefix, step=step, model=model, head=head, vocabulary=vocabulary)


def read_back(prefix: Path) -> None:
    """Reads every tensor, which TensorFlow compares with the checksum that it took of it in memory.

    Raises:
      tf.errors.DataLossError: one differs.
    """
    reader = tf.train.load_checkpoint(str(prefix))
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)


def first_line(problem: Exception) -> str:
    """What is wrong, without the long paths that TensorFlow puts before it."""
    line = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
    return line.split("; ")[-1].partition(" [Op:")[0][:200]
