"""Our training step as `mode=train` runs it: the loop of `runners.loop`, fed by a dataset, one step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from benchmarks.peers.worker import Model, random_batch, serve
from mobilebert_exp import compose, registry
from mobilebert_exp.modeling import optimizers
from mobilebert_exp.runners.loop import TrainingLoop
from mobilebert_exp.runners.schedule import planned
from mobilebert_exp.runners.strategy import create_strategy


def build(job: Mapping[str, Any]) -> Model:
    tf.config.threading.set_inter_op_parallelism_threads(job["threads"])  # the others come with hardware.threads
    config = compose(job["overrides"])
    task = registry.create_task(config)
    columns = {name: value if value.ndim == 2 else value[:, None] for name, value in random_batch(job).items()}
    strategy = create_strategy(config.hardware)
    with strategy.scope():
        module = task.build(config.model, seed=config.seed, dtype=config.hardware.dtype.value)
        variables = {variable.name.split(":")[0]: variable for variable in module.trainable_variables}
        schedule = {name: job[name] for name in ("total_steps", "warmup_steps")}
        loop = TrainingLoop(
            planned=planned(config, task, num_examples=lambda: config.task.global_batch_size * job["total_steps"])[0],
            module=module,
            optimizer=optimizers.create(variables, config.task.optimizer, **schedule),
            step=tf.Variable(0, dtype=tf.int64, trainable=False),
            batches=strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(columns).repeat()),
            config=config,
        )
    one = tf.constant(1)

    def step() -> float:
        with strategy.scope():
            return float(loop.train(one)["loss"][0])

    return Model(step=step, parameters=sum(variable.shape.num_elements() for variable in variables.values()))


if __name__ == "__main__":
    serve(build)
