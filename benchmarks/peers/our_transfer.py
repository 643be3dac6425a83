"""Our step of knowledge transfer as `mode=train` runs it, in the last layer's turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from benchmarks.peers.worker import Model, random_batch, serve
from mobilebert_exp import compose, registry
from mobilebert_exp.config import leaves
from mobilebert_exp.modeling import optimizers, transfer
from mobilebert_exp.modeling.lesson import Lesson
from mobilebert_exp.modeling.pretrainer import PretrainingModel
from mobilebert_exp.runners.loop import TrainingLoop
from mobilebert_exp.runners.schedule import planned
from mobilebert_exp.runners.strategy import create_strategy


def build(job: Mapping[str, Any]) -> Model:
    tf.config.threading.set_inter_op_parallelism_threads(job["threads"])
    config = compose(job["overrides"])
    task: Any = registry.create_task(config)
    phase, settings = planned(config, task)[0], task.config.transfer
    sizes = {"batch": task.config.global_batch_size, "length": task.config.max_seq_length}
    columns = random_batch({**sizes, "architecture": leaves(config.model)})
    inputs = {name: value for name, value in columns.items() if value.ndim == 2}
    strategy = create_strategy(config.hardware)
    with strategy.scope():
        module = task.build(config.model, seed=config.seed, dtype=config.hardware.dtype.value)
        teacher = PretrainingModel(task.config.teacher, seed=1)
        matching = transfer.layer_map(settings, student=config.model, teacher=task.config.teacher)
        task.lesson = Lesson(teacher, matching=matching, config=settings)
        variables = {variable.name.split(":")[0]: variable for variable in module.trainable_variables}
        turn = transfer.steps_per_layer(settings, layers=config.model.num_layers)
        loop = TrainingLoop(
            planned=phase,
            module=module,
            optimizer=optimizers.create(
                variables, phase.optimizer, total_steps=phase.optimizer_steps, warmup_steps=phase.warmup_steps
            ),
            step=tf.Variable(settings.steps - turn // 2, dtype=tf.int64, trainable=False),
            batches=strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(inputs).repeat()),
            config=config,
        )
    one = tf.constant(1)

    def step() -> float:
        with strategy.scope():
            return float(loop.train(one)["loss"][0])

    return Model(step=step, parameters=sum(variable.shape.num_elements() for variable in variables.values()))


if __name__ == "__main__":
    serve(build)
