"""Ranges of activations, as a checkpoint of quantisation-aware training has them; NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mobilebert_exp.modeling.variables import QUANTIZERS

NARROWEST = 1e-6  # a range that is narrower, or none, has a step of which there is no inverse in float32


def ranges(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Smallest and largest value at each point of quantisation, as the model computes with them.

    Args:
      values: variables by name, those of a checkpoint; others than `quantizers/…` are left aside.

    Returns:
      float32 `[A, 2]` by `layers/POINT` and `[2]` by `embeddings/POINT`; empty for a model without quantisation.
    """
    found = {name: value for name, value in values.items() if name.startswith(QUANTIZERS)}
    return {name.removeprefix(QUANTIZERS): usable(value) for name, value in found.items()}


def usable(range_X2: np.ndarray) -> np.ndarray:
    """The range with 0 in it, which 8 bits have to hit, and at least `NARROWEST` wide; float32, of the same shape."""
    low, high = np.moveaxis(np.asarray(range_X2, np.float32), -1, 0)
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    return np.stack([low, np.maximum(high, low + np.float32(NARROWEST))], axis=-1)
