"""Pre-training of a teacher, or of any other model: masked words and next sentences, after Devlin et al. (2018).

Sources: google-research/google-research, mobilebert/run_pretraining.py; google-research/bert, run_pretraining.py.
"""

from __future__ import annotations

from mobilebert_exp.tasks._pretraining import Config, Pretraining

__all__ = ["Config", "create"]


def create(config: Config, *, data_root: str | None, cache_dir: str) -> Pretraining:
    """The task; reads nothing yet."""
    return Pretraining(config, data_root=data_root, cache_dir=cache_dir)
