"""Our input pipeline by itself: a step takes the next batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from benchmarks.peers.worker import Model, serve
from mobilebert_exp import compose, registry
from mobilebert_exp.data.pipeline import training_batches
from mobilebert_exp.tasks.base import Split


def build(job: Mapping[str, Any]) -> Model:
    tf.config.threading.set_inter_op_parallelism_threads(job["threads"])
    tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
    features = registry.create_task(compose(job["feeding"])).features(Split.train)
    batches = training_batches(features, batch_size=job["batch"], seed=0, skip_batches=0, only_batches=None)
    following = iter(batches)

    def step() -> float:
        return float(next(following)["input_ids"].shape[0])

    return Model(step=step, parameters=features.num_features)


if __name__ == "__main__":
    serve(build)
