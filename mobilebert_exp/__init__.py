"""MobileBERT, from teacher to phone: typed experiments on TensorFlow 2, recorded in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilebert_exp.composition import compose
    from mobilebert_exp.experiment import run
    from mobilebert_exp.loading import load_encoder, load_pretrainer

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "load_encoder", "load_pretrainer", "run"]


def __getattr__(name: str) -> Any:
    """Loads the public functions when they are first used, so that importing the package costs nothing."""
    import importlib

    homes = {
        "compose": "mobilebert_exp.composition",
        "run": "mobilebert_exp.experiment",
        "load_encoder": "mobilebert_exp.loading",
        "load_pretrainer": "mobilebert_exp.loading",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
