"""The formats of checkpoints: which one lies at a place, and what reads and writes it; pure Python.

A format is a module beside this one with `recognises(path) -> bool`, `read(path) -> Weights` and
`write(weights, folder)`. It is imported when asked for: each brings a library of its own.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from mobilebert_exp import location
from mobilebert_exp.modeling.checkpoints.weights import Weights


class Format(Protocol):
    """The interface of a format's module."""

    def recognises(self, path: Path) -> bool:
        """Whether `read` is the one to be asked."""

    def read(self, path: Path) -> Weights:
        """What lies there; raises CheckpointError."""

    def write(self, weights: Weights, folder: Path) -> None:
        """Writes a new folder, whole or not at all; the weights have their `model`."""


MODULES = {  # by the names that `convert --to` takes; of those that are read alike, the first is asked
    "native": "native_weights",
    "tf1": "tf1",
    "tf_models": "tf_models",
    "huggingface": "hugging_face",
    "savedmodel": "saved_model",
    "hub": "hub",
}


def named(name: str) -> Format:
    """The module of a format."""
    return cast(Format, importlib.import_module(f"{__package__}.{MODULES[name]}"))


def recognised(place: str) -> str:
    """The name of the format that lies at a place on this machine.

    Raises:
      CheckpointError: none of them does.
    """
    path = Path(place).expanduser()
    found = next((name for name in MODULES if named(name).recognises(path)), None)
    if found is None:
        raise location.missing(place)
    return found


def read(place: str) -> Weights:
    """The weights at a place on this machine, whatever their format.

    Raises:
      CheckpointError: nothing of the kind is there, or it is damaged.
    """
    return named(recognised(place)).read(Path(place).expanduser())
