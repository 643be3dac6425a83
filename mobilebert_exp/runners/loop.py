"""The training step, and Orbit's inner loop around it.

What a phase minimises is a sum over shares of the *global* batch, so gradients summed over replicas and micro-batches
are those of the whole batch, whatever it was cut into. Dropout is a function of (seed, step, replica, micro-batch), so
a resumed run draws what the uninterrupted one draws.

Shapes: B per-replica batch, S steps of a loop, F figures of a step, Q rows of ranges of a model that is quantised.
"""

from __future__ import annotations

import orbit
import tensorflow as tf

from mobilebert_exp.config import Device, ExperimentConfig
from mobilebert_exp.modeling.fake_quant import observing
from mobilebert_exp.modeling.micro_batches import Batch, micro_batch
from mobilebert_exp.modeling.moving_ranges import MovingRanges
from mobilebert_exp.modeling.optimizers import Optimizer
from mobilebert_exp.runners.schedule import PlannedPhase


class TrainingLoop(orbit.AbstractTrainer):
    """Runs steps on the device; `train(n)` returns every step's figures, each `[n]`: `loss`, `gradient_norm`,
    `learning_rate`, and what the phase's objective adds.

    Args:
      planned: the phase.
      module: the model, created under the strategy's scope, as were `optimizer` and `step`.
      optimizer: updates `module`'s variables.
      step: optimizer updates done in the whole run; an int64 variable.
      batches: global batches, distributed over the current strategy.
      config: seed, accumulation and hardware.

    Raises:
      ConfigError: a global batch cannot be split over the devices that were found.
    """

    def __init__(
        self,
        *,
        planned: PlannedPhase,
        module: tf.Module,
        optimizer: Optimizer,
        step: tf.Variable,
        batches: tf.distribute.DistributedDataset,
        config: ExperimentConfig,
    ) -> None:
        super().__init__(name="training_loop")
        self._planned, self._objective = planned, planned.phase.objective
        self._module, self._optimizer, self._step = module, optimizer, step
        self._variables = module.trainable_variables
        self._config = config
        self._ranges = MovingRanges(module, config.quantization, total_steps=planned.last_step)
        self._strategy = tf.distribute.get_strategy()
        config.check_batches(num_replicas=self._strategy.num_replicas_in_sync)
        rates = self._objective.rates(tf.constant(0, tf.int64))  # for its names
        self._has_rates = rates is not None
        groups = [] if rates is None else [f"learning_rate/{name}" for name in rates.groups]
        self._figures = ("loss", *self._objective.figures, "gradient_norm", "learning_rate", *groups)
        self._iterator = iter(batches)
        self._compute = self._loss_and_gradients
        if config.hardware.xla and config.hardware.device is not Device.tpu:  # a TPU compiles by itself
            # Only the pure part is compiled: the update synchronises replicas, which a nested function cannot do.
            self._compute = tf.function(self._loss_and_gradients, jit_compile=True)
        self._loop = tf.function(self._run_steps, autograph=False)

    def train(self, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        figures_SF = self._loop(self._iterator, num_steps)
        return dict(zip(self._figures, tf.unstack(figures_SF, axis=-1), strict=True))

    def _run_steps(self, iterator: tf.distribute.DistributedIterator, num_steps: tf.Tensor) -> tf.Tensor:
        def body(index: tf.Tensor, figures: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            shared, alike = self._strategy.run(self._update, args=(iterator.get_next(),))
            shared = self._strategy.reduce(tf.distribute.ReduceOp.SUM, shared, axis=None)
            alike = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, alike, axis=None)
            self._step.assign_add(1)
            return index + 1, figures.write(index, tf.concat([shared, alike], axis=0))

        figures = tf.TensorArray(tf.float32, size=num_steps, element_shape=[len(self._figures)])
        _, figures = tf.while_loop(lambda index, _: index < num_steps, body, (tf.constant(0), figures))
        return figures.stack()

    def _update(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """One optimizer update from this replica's share of the batch.

        Returns the figures of which each replica has a share (loss and the objective's), and those alike on all.
        """
        context = tf.distribute.get_replica_context()
        fold, replica = tf.random.experimental.stateless_fold_in, context.replica_id_in_sync_group
        seed = fold(fold(tf.constant([self._config.seed, 0], tf.int32), tf.cast(self._step, tf.int32)), replica)
        totals = self._objective.totals(batch)
        if totals and context.num_replicas_in_sync > 1:
            totals = context.all_reduce(tf.distribute.ReduceOp.SUM, totals)
        step = tf.convert_to_tensor(self._step)
        in_phase = step - self._planned.first_step
        shared, gradients, reach_Q2 = self._compute(batch, dict(totals), in_phase, seed)
        rates = self._objective.rates(in_phase)
        applied = self._optimizer.apply(
            gradients,
            step=step - self._planned.optimizer_first_step,
            factors=None if rates is None else rates.factors,
            layer=None if rates is None else rates.layer,
        )
        self._ranges.move(reach_Q2, step=step)
        rate = applied["learning_rate"]
        groups = [] if rates is None else [rate * factor for factor in rates.groups.values()]
        return shared, tf.stack([applied["gradient_norm"], rate, *groups])

    def _loss_and_gradients(
        self, batch: Batch, totals: Batch, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], tf.Tensor]:
        """This replica's share of the loss and the other figures, its gradients, and how far its activations reach.

        From one pass or from several.
        """
        parts = self._config.trainer.gradient_accumulation_steps
        if parts == 1:
            return self._gradients(batch, totals, step, seed)
        return self._accumulated(batch, totals, step, seed, parts)

    def _gradients(
        self, batch: Batch, totals: Batch, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], tf.Tensor]:
        with observing() as observed, tf.GradientTape() as tape:
            loss, figures = self._objective.loss(self._module, batch, totals=totals, step=step, seed=seed)
        gradients = tape.gradient(loss, self._variables)
        # Where rates are by layer, parts of a model may rest; elsewhere a variable without a gradient is a mistake.
        assert self._has_rates or all(gradient is not None for gradient in gradients), "a variable has no gradient"
        shared_F = tf.stack([loss, *(figures[name] for name in self._objective.figures)])
        dense = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]
        return shared_F, dense, self._ranges.reach(observed)

    def _accumulated(
        self, batch: Batch, totals: Batch, step: tf.Tensor, seed: tf.Tensor, parts: int
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], tf.Tensor]:
        """Gradients of the batch from `parts` micro-batches, one after another; memory is a micro-batch's."""

        def body(
            part: tf.Tensor, shared_F: tf.Tensor, total: list[tf.Tensor], reach_Q2: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor]:
            piece = micro_batch(batch, part, parts=parts)
            piece_seed = tf.random.experimental.stateless_fold_in(seed, part)
            piece_F, gradients, piece_Q2 = self._gradients(piece, totals, step, piece_seed)
            sums = [a if b is None else a + b for a, b in zip(total, gradients, strict=True)]
            return part + 1, shared_F + piece_F, sums, tf.maximum(reach_Q2, piece_Q2)

        nothing_F = tf.zeros([1 + len(self._objective.figures)])
        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self._variables]
        start = (tf.constant(0), nothing_F, zeros, self._ranges.nothing())
        _, *found = tf.while_loop(lambda part, *_: part < parts, body, start, maximum_iterations=parts)
        shared_F, gradients, reach_Q2 = found
        return shared_F, gradients, reach_Q2
