"""Scales and zero points of 8-bit tensors.

Activations are asymmetric, `[-128, 127]`, rounded as TensorFlow's `FakeQuantWithMinMaxVars` does, so that a model
trained with it and its file compute alike. Weights are symmetric, `[-127, 127]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOWEST, HIGHEST = -128, 127
STEPS = HIGHEST - LOWEST
BIAS_LIMIT = 2**30  # a bias is a 32-bit number of steps; as many again are left for the sum
SMALLEST = 1e-9  # scale, of what is 0 throughout


@dataclass(frozen=True, slots=True)
class Scale:
    """`real = scale * (stored - zero)`; along `axis` where there are several scales.

    Attributes:
      scale: float32 `[1]`, or one for each channel.
      zero: the stored number of the real 0.
    """

    scale: np.ndarray
    zero: int = 0
    axis: int = 0

    def stored(self, values: np.ndarray) -> np.ndarray:
        """int8, rounded half to even as TensorFlow and TFLite do."""
        along = self.scale.reshape([-1 if i == self.axis else 1 for i in range(values.ndim)])
        steps = np.round(values / (along if len(self.scale) > 1 else self.scale[0])) + self.zero
        return np.clip(steps, LOWEST, HIGHEST).astype(np.int8)

    def same(self, other: Scale) -> bool:
        """Whether both read every stored number alike."""
        return np.array_equal(self.scale, other.scale) and (self.zero, self.axis) == (other.zero, other.axis)


PROBABILITIES = Scale(np.array([1 / 256], np.float32), LOWEST)  # what TFLite's softmax gives
TANH = Scale(np.array([1 / 128], np.float32))


def of_range(low: float, high: float) -> Scale:
    """Of activations between two numbers, widened to hold 0."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = np.float32(max(float((np.float32(high) - np.float32(low)) / np.float32(STEPS)), SMALLEST))
    zero = LOWEST - np.float32(low) / scale
    return Scale(np.array([scale], np.float32), int(np.clip(np.floor(zero + 0.5), LOWEST, HIGHEST)))


def of_weight(
    weight: np.ndarray, *, per_channel: bool, bias: np.ndarray | None = None, input_scale: float = 1.0
) -> Scale:
    """Of a kernel `[out, in]`, a table or a vector; wide enough for `bias`, which counts in steps of both scales."""
    if per_channel:
        largest = np.max(np.abs(weight), axis=tuple(range(1, weight.ndim)))
    else:
        largest = np.max(np.abs(weight), initial=0.0, keepdims=True).reshape([1])
    scale = largest / HIGHEST
    if bias is not None:
        needed = np.abs(bias) / (BIAS_LIMIT * input_scale)
        scale = np.maximum(scale, needed if per_channel else needed.max(initial=0.0))
    return Scale(np.maximum(scale, SMALLEST).astype(np.float32))
