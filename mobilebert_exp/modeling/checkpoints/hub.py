"""SavedModels in the manner of TF-Hub: see `reusable`. They are read like any other."""

from __future__ import annotations

from pathlib import Path

from mobilebert_exp.files import whole_folder
from mobilebert_exp.modeling.checkpoints import saved_model
from mobilebert_exp.modeling.checkpoints.weights import Weights

recognises, read = saved_model.recognises, saved_model.read


def write(weights: Weights, folder: Path) -> None:
    """Writes one into a new folder.

    Args:
      weights: with `model`.

    Raises:
      OutputError: the folder cannot be written, or is not empty.
    """
    from mobilebert_exp.modeling.checkpoints import reusable

    with whole_folder(folder) as partial:
        reusable.save(weights, partial)
        saved_model.describe(weights, partial)
