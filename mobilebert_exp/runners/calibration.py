"""Training features, one at a time, from which the ranges of activations are measured."""

from __future__ import annotations

import dataclasses

import numpy as np

from mobilebert_exp.data.pipeline import evaluation_batches
from mobilebert_exp.deployment import INPUTS
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.runners.base import Job
from mobilebert_exp.tasks.base import Split


def rows(job: Job) -> list[dict[str, np.ndarray]]:
    """The first `export.calibration_examples` training features: the model's inputs, int32 `[1, L]` each.

    Raises:
      ConfigError: there are fewer.
    """
    count = job.config.export.calibration_examples
    features = job.task.features(Split.train, limit=count)
    if features.num_features < count:  # of some examples none are made
        features = job.task.features(Split.train)
    if features.num_features < count:
        raise ConfigError(
            f"export.calibration_examples={count} exceeds the {features.num_features} training features; lower it, "
            "or name more training data"
        )
    batches = evaluation_batches(dataclasses.replace(features, num_features=count), batch_size=1)
    return [{name: batch[name].numpy() for name in INPUTS} for batch in batches]
