"""Checkpoints of our own: TensorFlow object checkpoints in a run's `checkpoints/` (newest) and `checkpoints/best/`.

Beside them lies `model.json`, the architecture they belong to, and under `head` what their head answers.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from mobilebert_exp import location
from mobilebert_exp.config import ModelConfig, leaves
from mobilebert_exp.errors import CheckpointError, OutputError
from mobilebert_exp.files import write_json

log = logging.getLogger(__name__)
MODEL_FILE = "model.json"
FOLDER, BEST = location.FOLDER, location.BEST
HEAD = "head"  # in model.json
NOT_ARCHITECTURE = frozenset(
    {"name", "layer_loop", "hidden_dropout", "attention_dropout", "initialization", "initializer_range"}
)


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
    """A checkpoint: its prefix, and what its head answers; "" where an older version of this package wrote it."""

    prefix: str
    head: str


def write_model(run_dir: Path, model: ModelConfig, *, head: str) -> None:
    """Records the architecture and the head that the run's checkpoints belong to, whole or not at all."""
    write_json(run_dir / MODEL_FILE, {**leaves(model), HEAD: head})


def find(place: str, *, model: ModelConfig) -> Found:
    """The checkpoint behind `init.checkpoint`.

    Args:
      place: a run's folder (its best, else its newest), `RUN/best`, `RUN/last` or a prefix.
      model: the architecture that is to be restored.

    Raises:
      CheckpointError: nothing is there, or it belongs to another architecture.
    """
    path, wanted = location.parts(place)
    prefix = str(Path(place).expanduser())
    if Path(f"{prefix}.index").is_file():
        path = _run_of(Path(prefix))
    else:
        folder = path / FOLDER
        best, newest = tf.train.latest_checkpoint(str(folder / BEST)), tf.train.latest_checkpoint(str(folder))
        prefix = {"": best or newest, BEST: best, location.LAST: newest}[wanted]
    if not prefix:
        raise location.missing(place)
    recorded = _recorded(path, place)
    _check_architecture(recorded, place, model)
    return Found(prefix=prefix, head=str(recorded.get(HEAD, "")))


def find_whole(place: str, *, model: ModelConfig, head: str) -> str:
    """The prefix of the checkpoint behind `init.checkpoint`, whose head is to answer as it was taught to.

    Raises:
      CheckpointError: as `find`; or its head was taught another task.
    """
    found = find(place, model=model)
    if found.head not in ("", head):
        raise CheckpointError(
            f"init.checkpoint={place} has the head of another task ({found.head}), and this one asks for {head}; "
            "name a run of this task, or train one from it with mode=train"
        )
    return found.prefix


def _run_of(prefix: Path) -> Path:
    return next((parent for parent in prefix.parents if (parent / MODEL_FILE).is_file()), prefix.parent)


def _recorded(run_dir: Path, place: str) -> dict[str, Any]:
    file = run_dir / MODEL_FILE
    if not file.is_file():
        return {}
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        raise CheckpointError(f"init.checkpoint={place}: {file} is no JSON object; choose another run")
    return recorded


def _check_architecture(recorded: dict[str, Any], place: str, model: ModelConfig) -> None:
    for name, value in leaves(model).items():
        if name in recorded and name not in NOT_ARCHITECTURE and recorded[name] != value:
            raise CheckpointError(
                f"init.checkpoint={place} was trained with model.{name}={recorded[name]}, not {value}; "
                f"set model={recorded['name']} model.{name}={recorded[name]}"
            )


def start(module: tf.Module, found: Found, *, head: str) -> None:
    """Gives a model the weights to start from: the encoder's, and the head's unless it was taught another task."""
    if found.head in ("", head):
        restore(tf.train.Checkpoint(model=module), found.prefix)
        log.info("weights from %s", found.prefix)
        return
    restore(tf.train.Checkpoint(model=tf.train.Checkpoint(encoder=module.encoder)), found.prefix)
    log.info("the encoder's weights from %s; the head starts anew: it was for %s", found.prefix, found.head)


def restore(checkpoint: tf.train.Checkpoint, prefix: str) -> None:
    """Restores every object of `checkpoint` from `prefix`.

    Raises:
      CheckpointError: the file is torn, or lacks a variable.
    """
    try:
        checkpoint.restore(prefix).expect_partial().assert_existing_objects_matched()
    except AssertionError as problem:
        raise CheckpointError(
            f"checkpoint {prefix} lacks variables of this model ({_first_line(problem)}); choose another"
        ) from None
    except (tf.errors.OpError, ValueError) as problem:
        raise CheckpointError(f"checkpoint {prefix} cannot be read ({_first_line(problem)}); choose another") from None


def save(manager: tf.train.CheckpointManager, *, step: int) -> str:
    """Saves now, whatever the manager's interval is; returns the prefix."""
    try:
        return manager.save(checkpoint_number=step, check_interval=False)
    except tf.errors.OpError as problem:
        raise OutputError(
            f"cannot save a checkpoint in {manager.directory} ({_first_line(problem)}); free space there"
        ) from None


def _first_line(problem: Exception) -> str:
    """What is wrong, without the long paths that TensorFlow puts before it."""
    line = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
    return line.split("; ")[-1].partition(" [Op:")[0][:200]
