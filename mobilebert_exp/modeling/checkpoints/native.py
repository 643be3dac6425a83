"""Checkpoints of our own: TensorFlow object checkpoints in a run's `checkpoints/` (newest) and `checkpoints/best/`.

Beside them lies `model.json`, the architecture they belong to.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from mobilebert_exp.config import ModelConfig, leaves
from mobilebert_exp.errors import CheckpointError, OutputError

MODEL_FILE = "model.json"
FOLDER = "checkpoints"
BEST = "best"
NOT_ARCHITECTURE = frozenset(
    {"name", "layer_loop", "hidden_dropout", "attention_dropout", "initialization", "initializer_range"}
)


@dataclass(kw_only=True, frozen=True, slots=True)
class Best:
    """The best evaluation of a run so far: after which step, and its main metric."""

    step: int = 0
    value: float = float("-inf")

    @classmethod
    def read(cls, run_dir: Path) -> Best:
        """What an earlier part of the run recorded, or none yet."""
        file = run_dir / FOLDER / BEST / "best.json"
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else cls()

    def write(self, run_dir: Path) -> None:
        """Records it, whole or not at all."""
        file = run_dir / FOLDER / BEST / "best.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(file)

    def figures(self, metric: str) -> dict[str, float]:
        """As metrics; SQuAD v2.0 has an official `best_f1` of another meaning, so the checkpoint is in the name."""
        return {f"best_checkpoint_{metric}": self.value, "best_checkpoint_step": float(self.step)}


def write_model(run_dir: Path, model: ModelConfig) -> None:
    """Records the architecture that the run's checkpoints belong to, whole or not at all."""
    partial = run_dir / f".{MODEL_FILE}.{os.getpid()}"
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(leaves(model), indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(run_dir / MODEL_FILE)


def find(location: str, *, model: ModelConfig) -> str:
    """The checkpoint prefix behind `init.checkpoint`.

    Args:
      location: a run's folder (its best, else its newest), `RUN/best`, `RUN/last` or a prefix.
      model: the architecture that is to be restored.

    Raises:
      CheckpointError: nothing is there, or it belongs to another architecture.
    """
    path = Path(location).expanduser()
    wanted = path.name if path.name in (BEST, "last") else ""
    run_dir = path.parent if wanted else path
    if Path(f"{path}.index").is_file():
        run_dir, prefix = _run_of(path), str(path)
    else:
        folder = run_dir / FOLDER
        best, newest = tf.train.latest_checkpoint(str(folder / BEST)), tf.train.latest_checkpoint(str(folder))
        prefix = {"": best or newest, BEST: best, "last": newest}[wanted]
    if not prefix:
        raise CheckpointError(
            f"init.checkpoint={location}: no checkpoint there; "
            f"give the folder of a training run, the one that holds {FOLDER}/"
        )
    _check_architecture(run_dir, location, model)
    return prefix


def _run_of(prefix: Path) -> Path:
    return next((parent for parent in prefix.parents if (parent / MODEL_FILE).is_file()), prefix.parent)


def _check_architecture(run_dir: Path, location: str, model: ModelConfig) -> None:
    file = run_dir / MODEL_FILE
    if not file.is_file():
        return
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(f"init.checkpoint={location}: {file} is not JSON; choose another run") from None
    for name, value in leaves(model).items():
        if name in recorded and name not in NOT_ARCHITECTURE and recorded[name] != value:
            raise CheckpointError(
                f"init.checkpoint={location} was trained with model.{name}={recorded[name]}, not {value}; "
                f"set model={recorded['name']} model.{name}={recorded[name]}"
            )


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
    lines = str(problem).strip().splitlines()
    return lines[0][:200] if lines else type(problem).__name__
