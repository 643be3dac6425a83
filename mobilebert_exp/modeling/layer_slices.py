"""Slices of stacked variables for a `tf.while_loop` over layers, with gradients that move as little memory as they can.

TensorFlow's own gradients of its lists are correct but general; what they work out at run time is known here. Whatever
is saved as a SavedModel must not use them, for it does not carry them: export unrolls the layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf


class LayerSlices:
    """One stacked variable `[layers, …]` as a list of its layers' slices; a gradient is again such a list."""

    def __init__(self, like: tf.Tensor) -> None:
        self._layers, *self._shape = like.shape.as_list()
        self._dtype = like.dtype

    def cut(self, value: tf.Tensor) -> tf.Tensor:
        """The list, each of its slices a copy."""
        return tf.raw_ops.TensorListFromTensor(tensor=value, element_shape=tf.constant(self._shape, tf.int32))

    def read(self, handle: tf.Tensor, layer: tf.Tensor) -> tf.Tensor:
        """The slice of a layer."""
        with tf.compat.v1.get_default_graph().gradient_override_map(
            {"TensorListGetItem": _slice_gradient(self._layers)}
        ):
            value = tf.raw_ops.TensorListGetItem(
                input_handle=handle,
                index=layer,
                element_shape=tf.constant(self._shape, tf.int32),
                element_dtype=self._dtype,
            )
        return tf.ensure_shape(value, self._shape)

    def empty(self) -> tf.Tensor:
        """A list without any slice, to which adding costs nothing."""
        return _empty(self._shape, layers=self._layers, dtype=self._dtype)


def with_empty_gradients(x: tf.Tensor, lists: Sequence[tf.Tensor], slices: Sequence[LayerSlices]) -> tf.Tensor:
    """`x`, which came out of the loop with `lists`; the sum of each list's gradients then starts from an empty list.

    Otherwise TensorFlow starts it from zeros of the size of all weights, and adds every slice to them.
    """

    @tf.custom_gradient
    def joined(x: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        return tf.identity(x), lambda upstream: (upstream, *(part.empty() for part in slices))

    return joined(x, *lists)


def _empty(shape: Sequence[int], *, layers: int, dtype: tf.DType) -> tf.Tensor:
    element_shape = tf.constant(shape, tf.int32)
    return tf.raw_ops.TensorListReserve(element_shape=element_shape, num_elements=layers, element_dtype=dtype)


@functools.cache
def _slice_gradient(layers: int) -> str:
    """Registers a gradient for reading one of so many slices, and returns its name.

    TensorFlow's own asks the list for its length and shape, and to have them in the backward loop the forward loop
    keeps both for every variable of every layer.
    """
    name = f"SliceOf{layers}"

    def gradient(read: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, None, None]:
        empty = _empty(upstream.shape.as_list(), layers=layers, dtype=upstream.dtype)
        return tf.raw_ops.TensorListSetItem(input_handle=empty, index=read.inputs[1], item=upstream), None, None

    tf.RegisterGradient(name)(gradient)
    return name
