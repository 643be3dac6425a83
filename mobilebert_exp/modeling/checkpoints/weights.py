"""A model's weights outside TensorFlow: what every format of checkpoint is read into and written from; NumPy alone."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy as np

from mobilebert_exp.checks import require
from mobilebert_exp.config import ModelConfig
from mobilebert_exp.errors import ConfigError


@dataclass(kw_only=True, frozen=True, slots=True)
class Weights:
    """What a checkpoint holds, in our names.

    Attributes:
      values: float32 arrays by the names of `modeling.variables`; those of the blocks are stacked over the layers.
      model: the architecture, in the fields of `ModelConfig` as YAML writes them; None where the source says nothing.
      head: what `heads/span` or `heads/classifier` answer, as `Task.head`; "" where the source says nothing.
      vocabulary: the contents of its vocabulary file, if it carries one.
      lower_case: whether that vocabulary is of lower-cased text, if the source says so.
      vocabulary_digest: of the vocabulary the weights were trained with, as tasks digest it; "" if nothing is said.
      ignored: names in the source that are no weights of a model: an optimizer's state, counters.
      digest: sha256 of the checkpoint, where it bears one.
      faults: what is wrong with a variable that the source has in part, or in several shapes, and that `values`
        therefore lacks; in the source's own names, as the rest of a sentence: `lacks …`, `has … of shape …`.
    """

    values: Mapping[str, np.ndarray]
    model: Mapping[str, object] | None = None
    head: str = ""
    vocabulary: bytes | None = None
    lower_case: bool | None = None
    vocabulary_digest: str = ""
    ignored: tuple[str, ...] = ()
    digest: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        """Of the stacked variables."""
        return next(value.shape[0] for name, value in self.values.items() if name.startswith("layers/"))


def model_of(fields: Mapping[str, object]) -> ModelConfig:
    """The architecture in the fields of `Weights.model`; what has a default may be left out.

    Raises:
      ConfigError: a field is unknown, absent or of another type, or the fields do not go together.
    """
    kinds = get_type_hints(ModelConfig)
    typed: dict[str, Any] = {}
    for name, value in fields.items():
        kind = kinds.get(name)
        if kind is None:
            raise ConfigError(f"model.{name} is not a field of a model; the checkpoint may be of a newer version")
        if isinstance(kind, enum.EnumMeta):
            words = list(kind.__members__)
            require(value in words, f"model.{name}={value} is not one of {', '.join(words)}; choose one")
            value = kind[str(value)]
        typed[name] = value
    try:
        return ModelConfig(**typed)
    except TypeError as problem:
        raise ConfigError(f"the fields of the model cannot be meant ({problem}); mend them") from None
