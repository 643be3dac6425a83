"""Runs a SavedModel's serving signature; what `lite.interpreter` is for files for devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_exp.deployment import INPUTS, SIGNATURE
from mobilebert_exp.errors import ExportError


class ServedModel:
    """A SavedModel, loaded.

    Raises:
      ExportError: it is damaged, or has no such signature.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._loaded = tf.saved_model.load(str(path))  # the signature alone would let go of its variables
            self._answer = self._loaded.signatures[SIGNATURE]
        except (OSError, ValueError, KeyError, tf.errors.OpError) as problem:
            reason = " ".join(str(problem).split())[:200]
            raise ExportError(
                f"{path} cannot be loaded ({type(problem).__name__}: {reason}); export it again"
            ) from None

    def outputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of rows: each `[B, …]` float32."""
        found = self._answer(**{name: tf.constant(batch[name], tf.int32) for name in INPUTS})
        return {name: value.numpy() for name, value in found.items()}
