"""AdamW and LAMB with the original's semantics, over stacked variables and under any `tf.distribute` strategy.

Sources: google-research/bert `optimization.py` and LAMB (arXiv 1904.00962) as MobileBERT uses them: no bias correction,
epsilon outside the square root, decoupled decay that norms and biases are spared, one clip by the global norm.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import tensorflow as tf

from mobilebert_exp.config import OptimizerConfig, OptimizerKind
from mobilebert_exp.modeling.variables import STACKED, is_decayed


def learning_rate(config: OptimizerConfig, step: tf.Tensor, *, total_steps: int, warmup_steps: int) -> tf.Tensor:
    """Rate of the update that follows `step` finished ones: linear warm-up, then polynomial decay over all steps."""
    peak = config.learning_rate
    end = peak * config.end_learning_rate_ratio
    done = tf.minimum(tf.cast(step, tf.float32), float(total_steps))
    decayed = (peak - end) * (1 - done / total_steps) ** config.decay_power + end
    if warmup_steps == 0:
        return decayed
    return tf.where(done < warmup_steps, peak * done / warmup_steps, decayed)


class Optimizer(tf.Module):
    """Decoupled-decay Adam; `AdamW` and `Lamb` are the two.

    Create it under the strategy's scope. Every replica calls `apply` with the gradients of its share of the loss.

    Args:
      variables: what to train, by name; names that end in a norm's or a bias' are not decayed.
      config: rates and factors.
      total_steps: updates in the whole run, which the decay spans.
      warmup_steps: updates with a rising rate.
    """

    is_layer_adapted = False

    def __init__(
        self, variables: Mapping[str, tf.Variable], config: OptimizerConfig, *, total_steps: int, warmup_steps: int
    ) -> None:
        super().__init__(name=config.name.name)
        self._config, self._total_steps, self._warmup_steps = config, total_steps, warmup_steps
        self._variables = dict(variables)
        self.momentum = {name: _slot(variable) for name, variable in variables.items()}
        self.velocity = {name: _slot(variable) for name, variable in variables.items()}

    def apply(
        self,
        gradients: Sequence[tf.Tensor | None],
        *,
        step: tf.Tensor,
        factors: Mapping[str, tf.Tensor | float] | None = None,
        layer: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Sums the gradients over the replicas, clips them, updates every variable.

        Args:
          gradients: one for each variable, in their order; dense or IndexedSlices; None stands for zeros.
          step: updates done before this one.
          factors: by the name of the variable, what its rate is multiplied by: a scalar, or `[A, 1, …]` over the layers
            of a stacked one; 1 for a name that is not there. Where it is 0 the moments are reset. A plain 0.0 says that
            the variable rests as long as this optimizer lives: its moments are 0 all the time, and nothing is computed.
          layer: the only layer whose gradients and factors are not 0, an int32 scalar: then no other is touched, but
            for an update of rate 0, which resets the moments of all. None where there is no such layer.

        Returns:
          `learning_rate` (before factors) and `gradient_norm` (before clipping), scalars.
        """
        context = tf.distribute.get_replica_context()
        dense = self._dense(gradients, factors or {}, layer)
        resting = {name for name in dense if factors and _rests(factors.get(name))}
        if context.num_replicas_in_sync > 1:
            dense = context.all_reduce(tf.distribute.ReduceOp.SUM, dense)
        norm = tf.linalg.global_norm(list(dense.values()))
        limit = self._config.gradient_clip_norm
        scale = 1.0 if math.isinf(limit) else limit / tf.maximum(norm, limit)  # inf / inf is no number
        scalars = self._scalars(step)
        clipped = {name: gradient * scale for name, gradient in dense.items() if name not in resting}
        own = None if factors is None else {name: factors[name] for name in clipped if name in factors}
        context.merge_call(self._update_all, args=(clipped, scalars, own, layer))
        return {"learning_rate": scalars["rate"], "gradient_norm": norm}

    def _scalars(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """What all variables share in the update after `step` others."""
        rate = learning_rate(self._config, step, total_steps=self._total_steps, warmup_steps=self._warmup_steps)
        power_1, power_2 = tf.constant(0.0), tf.constant(0.0)  # no bias correction
        if self._config.bias_correction:
            updates = tf.cast(step + 1, tf.float32)
            power_1, power_2 = tf.pow(self._config.beta_1, updates), tf.pow(self._config.beta_2, updates)
        return {
            "rate": rate,
            "kept": 1 - rate * self._config.weight_decay,
            "power_1": power_1,
            "power_2": power_2,
            "epsilon": self._config.epsilon * tf.sqrt(1 - power_2),
        }

    def _dense(
        self,
        gradients: Sequence[tf.Tensor | None],
        factors: Mapping[str, tf.Tensor | float],
        layer: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """The gradients by name, of `layer` alone where there is one: `[1, …]`.

        Of variables that rest only those that there are, since they count in the norm.
        """
        found = {}
        for (name, variable), gradient in zip(self._variables.items(), gradients, strict=True):
            if gradient is not None:
                found[name] = tf.convert_to_tensor(gradient)
            elif not _rests(factors.get(name)):
                found[name] = tf.zeros(variable.shape, variable.dtype)
            if layer is not None and name in found and name.startswith(STACKED):
                found[name] = tf.gather(found[name], layer[None])
        return found

    def _update_all(
        self,
        strategy: tf.distribute.Strategy,
        gradients: dict[str, tf.Tensor],
        scalars: dict[str, tf.Tensor],
        factors: dict[str, tf.Tensor] | None,
        layer: tf.Tensor | None,
    ) -> None:
        is_fused = factors is None and not self.is_layer_adapted
        for name, gradient in gradients.items():
            decay = self._config.weight_decay if is_decayed(name) else 0.0
            if is_fused:
                update = functools.partial(_fused, config=self._config, decay=decay)
            else:
                axes = self._slice_axes(name)
                update = functools.partial(_spelled_out, config=self._config, decay=decay, slice_axes=axes)
            arguments = (gradient, self.momentum[name], self.velocity[name], scalars)
            own = () if factors is None else (factors.get(name), layer if name.startswith(STACKED) else None)
            strategy.extended.update(self._variables[name], update, args=(*arguments, *own), group=False)

    def _slice_axes(self, name: str) -> tuple[int, ...] | None:
        """The axes of one layer's share of a variable, over which its norm is taken; None where none is needed."""
        if not self.is_layer_adapted or not is_decayed(name):
            return None
        return tuple(range(1 if name.startswith(STACKED) else 0, self._variables[name].shape.rank))


class AdamW(Optimizer):
    """BERT's `AdamWeightDecayOptimizer`."""


class Lamb(Optimizer):
    """As AdamW; each update of a kernel or a table is scaled to the size of the layer's weights, layer by layer."""

    is_layer_adapted = True


KINDS = {OptimizerKind.adamw: AdamW, OptimizerKind.lamb: Lamb}


def create(
    variables: Mapping[str, tf.Variable], config: OptimizerConfig, *, total_steps: int, warmup_steps: int
) -> Optimizer:
    """The optimizer that `config` names; see `Optimizer`."""
    return KINDS[config.name](variables, config, total_steps=total_steps, warmup_steps=warmup_steps)


def _rests(factor: tf.Tensor | float | None) -> bool:
    return isinstance(factor, float) and factor == 0


def _fused(
    variable: tf.Variable,
    gradient: tf.Tensor,
    momentum: tf.Variable,
    velocity: tf.Variable,
    scalars: dict[str, tf.Tensor],
    *,
    config: OptimizerConfig,
    decay: float,
) -> None:
    """Decay first, then TensorFlow's fused Adam kernel, for which powers of 0 mean no bias correction."""
    if decay:
        variable.assign(variable * scalars["kept"])
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.handle,
        v=velocity.handle,
        grad=gradient,
        beta1_power=scalars["power_1"],
        beta2_power=scalars["power_2"],
        lr=scalars["rate"],
        beta1=tf.constant(config.beta_1),
        beta2=tf.constant(config.beta_2),
        epsilon=scalars["epsilon"],
    )


def _spelled_out(
    variable: tf.Variable,
    gradient: tf.Tensor,
    momentum: tf.Variable,
    velocity: tf.Variable,
    scalars: dict[str, tf.Tensor],
    factor: tf.Tensor | None = None,
    layer: tf.Tensor | None = None,
    *,
    config: OptimizerConfig,
    decay: float,
    slice_axes: tuple[int, ...] | None,
) -> None:
    """The same in single operations, for updates that the kernel does not know: by layer, or to a layer's size."""
    weights, first, second = (_of(layer, each) for each in (variable, momentum, velocity))
    first = config.beta_1 * first + (1 - config.beta_1) * gradient
    second = config.beta_2 * second + (1 - config.beta_2) * tf.square(gradient)
    root = tf.sqrt(second / (1 - scalars["power_2"])) if config.bias_correction else tf.sqrt(second)
    update = (first / (1 - scalars["power_1"]) if config.bias_correction else first) / (root + config.epsilon)
    if decay:
        update += decay * weights
    rate = scalars["rate"]
    if slice_axes is not None:
        rate *= _trust_ratio(weights, update, slice_axes)
    if factor is not None:
        factor = _of(layer, factor)
        rate *= factor
        moves = tf.cast(tf.not_equal(factor, 0.0), first.dtype)
        first, second = first * moves, second * moves
    if layer is None:
        momentum.assign(first)
        velocity.assign(second)
        variable.assign_sub(rate * update)
    else:
        _assign_layer((variable, momentum, velocity), (weights - rate * update, first, second), layer, factor)


def _of(layer: tf.Tensor | None, value: tf.Variable | tf.Tensor) -> tf.Tensor:
    """One layer's share, `[1, …]`, or all of it."""
    return tf.convert_to_tensor(value) if layer is None else tf.gather(value, layer[None])


def _assign_layer(
    variables: tuple[tf.Variable, ...], values: tuple[tf.Tensor, ...], layer: tf.Tensor, factor: tf.Tensor | None
) -> None:
    """Weights and moments of one layer; where its rate is 0 the moments of all layers are reset instead."""

    def moved() -> None:
        for variable, value in zip(variables, values, strict=True):
            tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=layer[None], updates=value)

    def reset() -> None:
        for moment in variables[1:]:
            moment.assign(tf.zeros(moment.shape, moment.dtype))

    if factor is None:
        moved()
    else:
        tf.cond(tf.reduce_all(tf.equal(factor, 0.0)), reset, moved)


def _trust_ratio(weights: tf.Tensor, update: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
    """Norm of the weights over that of the update, by layer; 1 where either is 0. LAMB, algorithm 2."""
    weight_norm, update_norm = (
        tf.sqrt(tf.reduce_sum(tf.square(value), axis=axes, keepdims=True)) for value in (weights, update)
    )
    is_known = tf.logical_and(weight_norm > 0, update_norm > 0)
    return tf.where(is_known, weight_norm / tf.where(is_known, update_norm, 1.0), 1.0)


def _slot(variable: tf.Variable) -> tf.Variable:
    name = f"{variable.name.split(':')[0]}/slot"
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False, name=name)
