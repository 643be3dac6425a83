"""A model's weights outside TensorFlow: what every format of checkpoint is read into and written from; NumPy alone."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy as np

from mobilebert_exp.config import ModelConfig


@dataclass(kw_only=True, frozen=True, slots=True)
class Weights:
    """What a checkpoint holds, in our names.

    Attributes:
      values: float32 arrays by the names of `modeling.variables`; those of the blocks are stacked over the layers.
      model: the architecture, in the fields of `ModelConfig` as YAML writes them; None where the source says nothing.
      head: what `heads/span` or `heads/classifier` answer, as `Task.head`; "" where the source says nothing.
      vocabulary: the contents of its vocabulary file, if it carries one.
      lower_case: whether that vocabulary is of lower-cased text, if the source says so.
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
      ConfigError: the fields do not go together.
    """
    kinds = get_type_hints(ModelConfig)
    typed: dict[str, Any] = {
        name: kinds[name][value] if isinstance(kinds[name], enum.EnumType) else value for name, value in fields.items()
    }
    return ModelConfig(**typed)
