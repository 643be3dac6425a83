"""The training step, and Orbit's inner loop around it.

The loss of a batch is the sum of its examples' losses over the *global* batch size, so gradients summed over replicas
and micro-batches are those of the whole batch, whatever it was cut into. Dropout is a function of (seed, step, replica,
micro-batch), so a resumed run draws what the uninterrupted one draws.

Shapes: B per-replica batch, S steps of a loop.
"""

from __future__ import annotations

from collections.abc import Mapping

import orbit
import tensorflow as tf

from mobilebert_exp.config import Device, ExperimentConfig
from mobilebert_exp.modeling.optimizers import AdamW
from mobilebert_exp.tasks.base import Task

FIGURES = ("loss", "gradient_norm", "learning_rate")
Batch = Mapping[str, tf.Tensor]


class TrainingLoop(orbit.AbstractTrainer):
    """Runs steps on the device; `train(n)` returns every step's figures, each `[n]`.

    Args:
      task: gives the losses.
      module: the model, created under the strategy's scope, as were `optimizer` and `step`.
      optimizer: updates `module`'s variables.
      step: optimizer updates done; an int64 variable.
      batches: global batches, distributed over the current strategy.
      config: seed, batch, accumulation and hardware.

    Raises:
      ConfigError: the global batch cannot be split over the devices that were found.
    """

    def __init__(
        self,
        *,
        task: Task,
        module: tf.Module,
        optimizer: AdamW,
        step: tf.Variable,
        batches: tf.distribute.DistributedDataset,
        config: ExperimentConfig,
    ) -> None:
        super().__init__(name="training_loop")
        self._task, self._module, self._optimizer, self._step = task, module, optimizer, step
        self._variables = module.trainable_variables
        self._config = config
        self._strategy = tf.distribute.get_strategy()
        config.check_batches(num_replicas=self._strategy.num_replicas_in_sync)
        self._iterator = iter(batches)
        self._compute = self._loss_and_gradients
        if config.hardware.xla and config.hardware.device is not Device.tpu:  # a TPU compiles by itself
            # Only the pure part is compiled: the update synchronises replicas, which a nested function cannot do.
            self._compute = tf.function(self._loss_and_gradients, jit_compile=True)
        self._loop = tf.function(self._run_steps, autograph=False)

    def train(self, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        figures_SF = self._loop(self._iterator, num_steps)
        return dict(zip(FIGURES, tf.unstack(figures_SF, axis=-1), strict=True))

    def _run_steps(self, iterator: tf.distribute.DistributedIterator, num_steps: tf.Tensor) -> tf.Tensor:
        def body(index: tf.Tensor, figures: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            loss, norm, rate = self._strategy.run(self._update, args=(iterator.get_next(),))
            loss = self._strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)
            norm = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None)
            rate = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, rate, axis=None)
            self._step.assign_add(1)
            return index + 1, figures.write(index, tf.stack([loss, norm, rate]))

        figures = tf.TensorArray(tf.float32, size=num_steps, element_shape=[len(FIGURES)])
        _, figures = tf.while_loop(lambda index, _: index < num_steps, body, (tf.constant(0), figures))
        return figures.stack()

    def _update(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One optimizer update from this replica's share of the batch."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        fold = tf.random.experimental.stateless_fold_in
        seed = fold(fold(tf.constant([self._config.seed, 0], tf.int32), tf.cast(self._step, tf.int32)), replica)
        loss, gradients = self._compute(batch, seed)
        applied = self._optimizer.apply(gradients, step=self._step)
        return loss, applied["gradient_norm"], applied["learning_rate"]

    def _loss_and_gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """This replica's share of the loss, and its gradients, from one pass or from several."""
        parts = self._config.trainer.gradient_accumulation_steps
        return self._gradients(batch, seed) if parts == 1 else self._accumulated(batch, seed, parts)

    def _gradients(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            losses_B = self._task.losses(self._module, batch, seed=seed)
            loss = tf.reduce_sum(losses_B) / self._config.task.global_batch_size
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, self._variables)]

    def _accumulated(self, batch: Batch, seed: tf.Tensor, parts: int) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Gradients of the batch from `parts` micro-batches, one after another; memory is a micro-batch's."""
        pieces = {
            name: tf.reshape(value, [parts, value.shape[0] // parts, *value.shape[1:]]) for name, value in batch.items()
        }

        def body(
            part: tf.Tensor, loss: tf.Tensor, total: list[tf.Tensor]
        ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            piece = {name: value[part] for name, value in pieces.items()}
            piece_seed = tf.random.experimental.stateless_fold_in(seed, part)
            piece_loss, gradients = self._gradients(piece, piece_seed)
            return part + 1, loss + piece_loss, [a + b for a, b in zip(total, gradients, strict=True)]

        start = (tf.constant(0), tf.constant(0.0), [tf.zeros(v.shape, v.dtype) for v in self._variables])
        _, loss, gradients = tf.while_loop(lambda part, *_: part < parts, body, start, maximum_iterations=parts)
        return loss, gradients
