"""What becomes of the weights of a checkpoint in a model: which are loaded, which start anew, which are ignored.

Every variable of both sides is in the account. The encoder's must all be there, in the model's shapes, and none be left
over; heads serve a task that asks what they were taught, and start anew or are ignored otherwise. What is wrong is told
by its first culprit, before a model is built. NumPy alone.

Ranges of activations are no weights: training starts without them and calibrates its own, and a model in float ignores
those of one with fake quantisation.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilebert_exp.config import FakeQuantization, ModelConfig, leaves
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import sizes
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import QUANTIZERS, VariableSpec

HEADS = "heads/"
SELF_EXPLAINING = ("heads/masked_lm", "heads/next_sentence")  # the others answer what a task asks
# Not of a checkpoint: names, how a model starts, is looped over and regularised.
NOT_ARCHITECTURE = frozenset(
    {"name", "layer_loop", "hidden_dropout", "attention_dropout", "initialization", "initializer_range"}
)
# How the same weights are computed with: a difference is worth a warning, since it moves every output a little.
COMPUTATION = frozenset({"attention_mask_value", "layer_norm_epsilon", "hugging_face_norms", "fake_quantization"})
PARTLY = "init.strict=false starts with what fits"
OTHER_HEAD = "name a run of this task, or train one from it with mode=train"
CALIBRATED = "train from it with mode=train, or set model.fake_quantization=none"
MANY = 3  # names of one kind are counted from here on


class Demand(enum.Enum):
    """What a checkpoint has to give: all of the model, all of its encoder, or whatever fits."""

    whole = "whole"
    encoder = "encoder"
    some = "some"


@dataclass(kw_only=True, frozen=True, slots=True)
class Account:
    """Names: of the model's variables, and, for what is ignored, as the checkpoint has them.

    Attributes:
      warnings: differences that keep nothing from being loaded.
    """

    loaded: tuple[str, ...]
    initialised: tuple[str, ...]
    ignored: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        anew, left = (f" ({summed_up(names)})" if names else "" for names in (self.initialised, self.ignored))
        return (
            f"loaded {len(self.loaded):,} variables, newly initialised {len(self.initialised):,}{anew}, "
            f"ignored {len(self.ignored):,}{left}"
        )


def summed_up(names: Iterable[str]) -> str:
    """Names on one line; many that end alike (an optimizer's moments), or begin alike, as one with their number."""
    every = sorted(names)
    ends = Counter(name.rpartition("/")[2] for name in every if "/" in name and not name.startswith(HEADS))
    starts = Counter(name.partition("/")[0] for name in every if "/" in name and not name.startswith(HEADS))
    shown: Counter[str] = Counter()
    for name in every:
        end, start = name.rpartition("/")[2], name.partition("/")[0]
        by_start = starts[start] > MANY and (start == QUANTIZERS.rstrip("/") or ends[end] <= MANY)
        shown[f"{start}/*" if by_start else f"*/{end}" if ends[end] > MANY else name] += 1
    return ", ".join(name if count == 1 else f"{name} × {count:,}" for name, count in shown.items())


def account(
    weights: Weights,
    *,
    wanted: Sequence[VariableSpec],
    model: ModelConfig,
    head: str,
    demand: Demand,
    source: str,
) -> Account:
    """Settles what is loaded into a model with the variables `wanted`.

    Args:
      head: what the model's head answers, as `Task.head`.
      source: how errors call the checkpoint, e.g. `init.checkpoint=PATH`.

    Raises:
      CheckpointError: the checkpoint is of another model, is in part only, or has the head of another task.
    """
    specs = {spec.name: spec for spec in wanted}
    warnings = _differences(_computed(weights), model, only=COMPUTATION)
    if demand is Demand.some:
        warnings += _differences(weights.model or {}, model, leaving_out=COMPUTATION)
    else:
        _check_encoder(weights, specs, model, _Complaint(source, demand))
    anew = _heads_anew(weights, specs, head, demand, _Complaint(source, demand))
    fitting = {name for name, spec in specs.items() if _fits(weights, spec) and name not in anew}
    if all(name.startswith(HEADS) for name in fitting):
        raise CheckpointError(f"{source} has nothing that fits this model; give the architecture that it is of")
    for name in sorted(fitting):
        if not np.isfinite(weights.values[name]).all():
            raise CheckpointError(f"{source} has numbers in {name} that are infinite or none; choose another")
    left = [name for name in (*weights.values, *weights.faults) if name not in fitting]
    return Account(
        loaded=tuple(name for name in specs if name in fitting),
        initialised=tuple(name for name in specs if name not in fitting),
        ignored=(*left, *weights.ignored),
        warnings=tuple(f"{source} was trained with {text}" for text in warnings),
    )


@dataclass(frozen=True, slots=True)
class _Complaint:
    """The beginning and the end of what is said against a checkpoint."""

    source: str
    demand: Demand

    def error(self, fault: str, *, remedy: str = "") -> CheckpointError:
        ways = [remedy or "choose a whole one", *([PARTLY] if self.demand is Demand.encoder else [])]
        return CheckpointError(f"{self.source} {fault}; {'; '.join(ways)}")


def differing(stated: Mapping[str, object], model: ModelConfig) -> dict[str, tuple[object, object]]:
    """Fields in which what is stated of a checkpoint's architecture is not this one's: theirs, ours."""
    ours = leaves(model)
    names = (name for name in stated if name in ours and name not in NOT_ARCHITECTURE)
    return {name: (stated[name], ours[name]) for name in names if ours[name] != stated[name]}


def _differences(
    stated: Mapping[str, object],
    model: ModelConfig,
    *,
    only: frozenset[str] | None = None,
    leaving_out: frozenset[str] = frozenset(),
) -> list[str]:
    """Those as `model.x=1, not 2`."""
    return [
        f"model.{name}={as_yaml(theirs)}, not {as_yaml(ours)}"
        for name, (theirs, ours) in differing(stated, model).items()
        if name not in leaving_out and (only is None or name in only)
    ]


def _computed(weights: Weights) -> dict[str, object]:
    """What is stated, but for weights in float, which are what quantisation starts from."""
    stated = dict(weights.model or {})
    if stated.get("fake_quantization") == FakeQuantization.none.name:
        del stated["fake_quantization"]
    return stated


def as_yaml(value: object) -> str:
    """A value as it is typed in."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _check_encoder(weights: Weights, specs: Mapping[str, VariableSpec], model: ModelConfig, told: _Complaint) -> None:
    """All of the encoder has to be there, in this model's shapes, and nothing beyond it."""
    _check_architecture(weights.model or {}, model, told)
    for name, fault in weights.faults.items():
        if not name.startswith(HEADS):
            raise told.error(fault)
    encoder = [spec for spec in specs.values() if not spec.name.startswith(HEADS)]
    for spec in encoder:
        if _is_transposed(weights, spec):
            raise told.error(f"has {spec.name} transposed: {_shapes(weights, spec)}", remedy="transpose it")
    _check_architecture({**sizes.told_by(weights.values), "name": (weights.model or {}).get("name")}, model, told)
    for spec in encoder:
        if spec.name not in weights.values and spec.name.startswith(QUANTIZERS):
            if told.demand is Demand.whole:
                raise told.error(f"lacks {spec.name}: it was trained without fake quantisation", remedy=CALIBRATED)
            continue
        if spec.name not in weights.values:
            raise told.error(f"lacks {spec.name}")
        if not _fits(weights, spec):
            raise told.error(f"has {spec.name} in another shape: {_shapes(weights, spec)}")
    for name in weights.values:
        if not name.startswith((HEADS, QUANTIZERS)) and name not in specs:
            raise told.error(f"has {name}, for which this model has no place", remedy="give the model that it is of")


def _check_architecture(stated: Mapping[str, object], model: ModelConfig, told: _Complaint) -> None:
    differences = _differences(stated, model, leaving_out=COMPUTATION)
    if differences:
        setting, name = differences[0].partition(",")[0], stated.get("name")
        preset = f" (model={name})" if name else ""
        raise told.error(
            f"was trained with {differences[0]}", remedy=f"choose the architecture that it is of{preset}, or {setting}"
        )


def _is_transposed(weights: Weights, spec: VariableSpec) -> bool:
    shape = weights.values[spec.name].shape if spec.name in weights.values else ()
    return len(shape) > 1 and shape != spec.shape and (*shape[:-2], shape[-1], shape[-2]) == spec.shape


def _fits(weights: Weights, spec: VariableSpec) -> bool:
    return spec.name in weights.values and weights.values[spec.name].shape == spec.shape


def _shapes(weights: Weights, spec: VariableSpec) -> str:
    return f"{list(weights.values[spec.name].shape)} there, {list(spec.shape)} here"


def _heads_anew(
    weights: Weights, specs: Mapping[str, VariableSpec], head: str, demand: Demand, told: _Complaint
) -> set[str]:
    """The variables of the heads that start anew: another task's, one that is not there, or not as this task needs it.

    Of a head that does not say what it answers, shapes decide.
    """
    groups: dict[str, list[VariableSpec]] = {}
    for spec in specs.values():
        if spec.name.startswith(HEADS):
            groups.setdefault("/".join(spec.name.split("/")[:2]), []).append(spec)
    anew: set[str] = set()
    for group, members in groups.items():
        is_own = group in SELF_EXPLAINING or weights.head == head
        fault = _fault_of_head(members, weights)
        if not is_own and weights.head:
            fault = of_another_task(weights.head, head)
        there = [spec for spec in members if spec.name in weights.values]
        is_torn = 0 < len(there) < len(members) or any(spec.name in weights.faults for spec in members)
        if fault and demand is Demand.whole:
            raise told.error(fault, remedy="" if is_torn else OTHER_HEAD)
        if fault and demand is Demand.encoder and (is_torn or (is_own and there)):
            raise told.error(fault)
        anew |= {spec.name for spec in members if fault}
    return anew


def of_another_task(found: str, head: str) -> str:
    """What is said against a head that was taught something else than `head`."""
    return f"has the head of another task ({found}), and this one asks for {head}"


def _fault_of_head(members: Sequence[VariableSpec], weights: Weights) -> str:
    """Why a head cannot be taken; "" if it can."""
    for spec in members:
        if spec.name in weights.faults:
            return weights.faults[spec.name]
        if spec.name not in weights.values:
            return f"lacks {spec.name}"
        if not _fits(weights, spec):
            return f"has {spec.name} in another shape: {_shapes(weights, spec)}"
    return ""


def assign(module: Any, weights: Weights, found: Account) -> None:
    """Gives the variables of a `tf.Module` the values that are to be loaded; the others keep theirs."""
    variables = {
        variable.name.partition(":")[0]: variable
        for variable in (*module.non_trainable_variables, *module.trainable_variables)
    }
    for name in found.loaded:
        variables[name].assign(weights.values[name])
