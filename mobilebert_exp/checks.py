"""What schemas check in `__post_init__`: each function raises a ConfigError with the key, its value and the remedy."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from typing import Any

from mobilebert_exp.errors import ConfigError
from mobilebert_exp.storage.place import Place, is_remote

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}  # as messages call them


def require(condition: bool, message: str) -> None:
    """Refuses with `message` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def at_least(section: str, minimum: float, **values: float | None) -> None:
    """Finite numbers not below `minimum`; null passes."""
    for name, value in values.items():
        if value is not None and not minimum <= value < math.inf:
            fault = f"is below {minimum}; raise it" if value < minimum else "is not a finite number; give one"
            raise ConfigError(f"{section}.{name}={value} {fault}")


def positive(section: str, **values: float) -> None:
    """Finite numbers above 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            fault = "is not positive; raise it" if value <= 0 else "is not a finite number; give one"
            raise ConfigError(f"{section}.{name}={value} {fault}")


def place(key: str, value: str) -> str:
    """A file or folder, its leading `~` written out, which no shell does after an equals sign."""
    require(value.strip() != "", f"{key} is empty; name a place, or leave the setting out")
    return os.path.expanduser(value)


def optional_place(key: str, value: str | None) -> str | None:
    """As `place`; null passes."""
    return None if value is None else place(key, value)


def folder(key: str, value: str, *, instead: str) -> str:
    """A folder of this machine; `instead` is the setting that takes a place in a bucket."""
    require(not is_remote(value), f"{key}={value} is no folder of this machine; name one, and set {instead}={value}")
    return place(key, value)


def in_bucket(**values: str | None) -> None:
    """Places in buckets; null passes."""
    for key, value in values.items():
        if value is not None:
            Place.parse(value, key=key)


def integers(config: Any, *, of: Any = None) -> dict[str, int | None]:
    """The values of the fields that hold whole numbers; of a base class alone where `of` names it."""
    return {f.name: getattr(config, f.name) for f in fields(of or config) if f.type in ("int", "int | None")}
