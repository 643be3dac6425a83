"""A model of ours as the objects of tf-models, for `tf.train.Checkpoint`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf

from mobilebert_exp.modeling.checkpoints import tf_models_paths
from mobilebert_exp.modeling.checkpoints.tf_models_paths import Place
from mobilebert_exp.modeling.pretrainer import PretrainingModel


def checkpoint_items(model: PretrainingModel, *, next_sentence: bool = True) -> Mapping[str, tf.Module]:
    """The model as tf-models would hand it to `tf.train.Checkpoint`: what is restored or saved are our variables.

    Args:
      next_sentence: whether the head for next sentences is among them; tf-models' own checkpoints have none.
    """
    config = model.encoder.config
    variables = {**model.encoder.weights, **model.weights}

    def leaf(place: Place) -> _Leaf:
        variable, layer = variables[place.ours], place.layer
        shape = tuple(variable.shape if layer is None else variable.shape[1:])
        there = tf_models_paths.shape_there(place.ours, shape, config)

        def put(value: tf.Tensor) -> tf.Tensor:
            value = tf.reshape(tf.ensure_shape(value, there), shape)
            return variable.assign(value) if layer is None else variable[layer].assign(value)

        return _Leaf(lambda: tf.reshape(variable if layer is None else variable[layer], there), put)

    heads = [name for name in model.weights if next_sentence or not name.startswith("heads/next_sentence/")]
    places = [*tf_models_paths.encoder_places(config), *tf_models_paths.head_places(config, heads)]
    return _items(places, leaf)


class _Leaf(tf.Module):
    """What stands for one of their variables: its value lies in a variable of ours, or in a slice of one."""

    def __init__(self, get: Callable[[], tf.Tensor], put: Callable[[tf.Tensor], tf.Tensor]) -> None:
        super().__init__()
        self._get, self._put = get, put

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        return {"VARIABLE_VALUE": self._get()}

    def _restore_from_tensors(self, restored: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return self._put(restored["VARIABLE_VALUE"])


def _items(places: Iterable[Place], leaf: Callable[[Place], _Leaf]) -> dict[str, tf.Module]:
    """Objects that hold each other as the paths say; what lies at several places is one object."""
    items: dict[str, tf.Module] = {}
    leaves: dict[tuple[str, int | None], _Leaf] = {}
    for place in places:
        item, *between, last = place.path
        node = items.setdefault(item, tf.Module())
        for name in between:
            if not hasattr(node, name):
                setattr(node, name, tf.Module())
            node = getattr(node, name)
        key = (place.ours, place.layer)
        leaves.setdefault(key, leaf(place))
        setattr(node, last, leaves[key])
    return items
