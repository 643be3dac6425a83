"""A run's figures as events for TensorBoard, beside what its tracker gets (original flag `use_summary`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

FOLDER = "tensorboard"


class Summaries:
    """Writes figures below `run_dir`, or nowhere if they are not wanted."""

    def __init__(self, run_dir: Path, *, wanted: bool) -> None:
        self._writer = tf.summary.create_file_writer(str(run_dir / FOLDER)) if wanted else None

    def write(self, figures: Mapping[str, float], *, step: int) -> None:
        """Whole on disk when the call returns."""
        if self._writer is None:
            return
        with self._writer.as_default(step=step):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
        self._writer.flush()
