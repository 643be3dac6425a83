"""The objects in a checkpoint as `tf.train.Checkpoint` or `tf.saved_model.save` write it, without their classes.

Such a checkpoint stores, beside the values, which object holds which by what name. The key of a value is only one of
the paths that lead to it (the shortest), so whoever looks for a variable follows the names instead.
Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints.prefixes import opened, reading, unreadable

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
ROOT = 0
_VALUE = "VARIABLE_VALUE"
_SUFFIX = f"/.ATTRIBUTES/{_VALUE}"


class ObjectGraph:
    """What an object-based checkpoint holds; objects are numbered, the root is `ROOT`.

    Args:
      prefix: of the checkpoint's files.

    Raises:
      CheckpointError: the files are damaged, or are of no object-based checkpoint.
    """

    def __init__(self, prefix: Path) -> None:
        from tensorflow.core.protobuf import trackable_object_graph_pb2

        self.prefix = prefix
        self._reader = opened(prefix)
        if not self._reader.has_tensor(GRAPH_KEY):
            raise CheckpointError(f"{prefix} holds variables by name, and no objects; name an object-based checkpoint")
        with reading(prefix):
            stored = self._reader.get_tensor(GRAPH_KEY)
        try:
            graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(stored)
        except Exception as problem:  # its kind is protobuf's, which has no types and is TensorFlow's to depend on
            raise unreadable(prefix, problem) from None
        objects = range(len(graph.nodes))
        if ROOT not in objects or any(child.node_id not in objects for node in graph.nodes for child in node.children):
            raise CheckpointError(f"checkpoint {prefix} is damaged (it names objects that it lacks); choose another")
        self._children = [{child.local_name: child.node_id for child in node.children} for node in graph.nodes]
        self._keys = [
            next((part.checkpoint_key for part in node.attributes if part.name == _VALUE), "") for node in graph.nodes
        ]
        self._read: set[str] = set()

    def find(self, start: int, path: Sequence[str]) -> int | None:
        """The object at a path of names from another; None if the path breaks off."""
        at: int | None = start
        for name in path:
            at = None if at is None else self._children[at].get(name)
        return at

    def names(self, node: int) -> frozenset[str]:
        """By which names an object holds others."""
        return frozenset(self._children[node])

    def count(self, node: int | None) -> int:
        """How many objects a list holds; 0 for none."""
        return 0 if node is None else sum(name.isdigit() for name in self._children[node])

    def is_variable(self, node: int | None) -> bool:
        return node is not None and bool(self._keys[node])

    def value(self, node: int) -> np.ndarray:
        """A variable's value; counted as read.

        Raises:
          CheckpointError: it is damaged.
        """
        key = self._keys[node]
        self._read.add(key)
        with reading(self.prefix):
            value: np.ndarray = np.asarray(self._reader.get_tensor(key))
        if value.dtype.kind in "OSU":
            raise CheckpointError(f"checkpoint {self.prefix} holds text in {key}, and no numbers; choose another")
        return value

    def walk(self) -> Iterator[tuple[str, int]]:
        """Every object once, with the shortest path to it, the nearest first."""
        waiting, seen = deque([("", ROOT)]), {ROOT}
        while waiting:
            path, node = waiting.popleft()
            yield path, node
            for name, child in self._children[node].items():
                if child not in seen:
                    seen.add(child)
                    waiting.append((f"{path}/{name}".lstrip("/"), child))

    def unread(self) -> tuple[str, ...]:
        """What nobody asked for, by key."""
        every = set(self._reader.get_variable_to_shape_map()) - {GRAPH_KEY}
        return tuple(sorted(key.removesuffix(_SUFFIX) for key in every - self._read))


def key_of(path: Sequence[str]) -> str:
    """The key under which a variable at a path from the root is stored."""
    return "/".join(name.replace(".", "..").replace("/", ".S") for name in path) + _SUFFIX


def encoded(keys: Mapping[tuple[str, ...], str]) -> bytes:
    """The objects of a checkpoint, as it stores them.

    Args:
      keys: of the variables, by their paths from the root; those of one key are one object.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.nodes.add().has_checkpoint_values.value = True
    numbers: dict[tuple[str, ...] | str, int] = {(): ROOT}  # of variables by key, of what holds them by path
    for path, key in keys.items():
        for end, name in enumerate(path, start=1):
            is_variable = end == len(path)
            child = key if is_variable else path[:end]
            is_known = child in numbers
            if not is_known:
                numbers[child] = len(graph.nodes)
                node = graph.nodes.add()
                node.has_checkpoint_values.value = True
                if is_variable:
                    node.attributes.add(name=_VALUE, checkpoint_key=key)
            if is_variable or not is_known:
                graph.nodes[numbers[path[: end - 1]]].children.add(node_id=numbers[child], local_name=name)
    return bytes(graph.SerializeToString())
