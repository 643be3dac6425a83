"""AdamW with the original's semantics, over stacked variables and under any `tf.distribute` strategy.

Source: google-research/bert `optimization.py` as MobileBERT uses it: no bias correction, epsilon outside the square
root, decoupled decay that norms and biases are spared, one clip by the global norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import tensorflow as tf

from mobilebert_exp.config import OptimizerConfig
from mobilebert_exp.modeling.variables import is_decayed


def learning_rate(config: OptimizerConfig, step: tf.Tensor, *, total_steps: int, warmup_steps: int) -> tf.Tensor:
    """Rate of the update that follows `step` finished ones: linear warm-up, then polynomial decay over all steps."""
    peak = config.learning_rate
    end = peak * config.end_learning_rate_ratio
    done = tf.minimum(tf.cast(step, tf.float32), float(total_steps))
    decayed = (peak - end) * (1 - done / total_steps) ** config.decay_power + end
    if warmup_steps == 0:
        return decayed
    return tf.where(done < warmup_steps, peak * done / warmup_steps, decayed)


class AdamW(tf.Module):
    """Decoupled-decay Adam.

    Create it under the strategy's scope. Every replica calls `apply` with the gradients of its share of the loss.

    Args:
      variables: what to train, by name; names that end in a norm's or a bias' are not decayed.
      config: rates and factors.
      total_steps: updates in the whole run, which the decay spans.
      warmup_steps: updates with a rising rate.
    """

    def __init__(
        self, variables: Mapping[str, tf.Variable], config: OptimizerConfig, *, total_steps: int, warmup_steps: int
    ) -> None:
        super().__init__(name="adamw")
        self._config, self._total_steps, self._warmup_steps = config, total_steps, warmup_steps
        self._variables = dict(variables)
        self.momentum = {name: _slot(variable) for name, variable in variables.items()}
        self.velocity = {name: _slot(variable) for name, variable in variables.items()}

    def apply(self, gradients: Sequence[tf.Tensor], *, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Sums the gradients over the replicas, clips them, updates every variable.

        Args:
          gradients: one for each variable, in their order; dense or IndexedSlices.
          step: updates done before this one.

        Returns:
          `learning_rate` and `gradient_norm` (before clipping), scalars.
        """
        context = tf.distribute.get_replica_context()
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if context.num_replicas_in_sync > 1:
            dense = context.all_reduce(tf.distribute.ReduceOp.SUM, dense)
        norm = tf.linalg.global_norm(dense)
        limit = self._config.gradient_clip_norm
        scale = 1.0 if math.isinf(limit) else limit / tf.maximum(norm, limit)  # inf / inf is no number
        rate = learning_rate(self._config, step, total_steps=self._total_steps, warmup_steps=self._warmup_steps)
        power_1, power_2 = tf.constant(0.0), tf.constant(0.0)  # no bias correction
        if self._config.bias_correction:
            updates = tf.cast(step + 1, tf.float32)
            power_1, power_2 = tf.pow(self._config.beta_1, updates), tf.pow(self._config.beta_2, updates)
        factors = {
            "beta1_power": power_1,
            "beta2_power": power_2,
            "lr": rate,
            "beta1": tf.constant(self._config.beta_1),
            "beta2": tf.constant(self._config.beta_2),
            "epsilon": self._config.epsilon * tf.sqrt(1 - power_2),
        }
        kept = 1 - rate * self._config.weight_decay if self._config.weight_decay else None
        context.merge_call(self._update, args=([gradient * scale for gradient in dense], factors, kept))
        return {"learning_rate": rate, "gradient_norm": norm}

    def _update(
        self,
        strategy: tf.distribute.Strategy,
        gradients: list[tf.Tensor],
        factors: dict[str, tf.Tensor],
        kept: tf.Tensor | None,
    ) -> None:
        for (name, variable), gradient in zip(self._variables.items(), gradients, strict=True):
            slots = self.momentum[name], self.velocity[name]
            arguments = (gradient, *slots, factors, kept if is_decayed(name) else None)
            strategy.extended.update(variable, _update_variable, args=arguments, group=False)


def _update_variable(
    variable: tf.Variable,
    gradient: tf.Tensor,
    momentum: tf.Variable,
    velocity: tf.Variable,
    factors: dict[str, tf.Tensor],
    kept: tf.Tensor | None,
) -> None:
    """Decay first, then TensorFlow's fused Adam kernel, for which powers of 0 mean no bias correction."""
    if kept is not None:
        variable.assign(variable * kept)
    slots = {"var": variable.handle, "m": momentum.handle, "v": velocity.handle}
    tf.raw_ops.ResourceApplyAdam(**slots, grad=gradient, **factors)


def _slot(variable: tf.Variable) -> tf.Variable:
    name = f"{variable.name.split(':')[0]}/slot"
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False, name=name)
