"""What a distillation takes, for `mode=plan`: the turns of the layers, operations and memory; pure arithmetic.

Operations are those of `modeling.costs`, whose estimate of the memory it is too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mobilebert_exp.config import DType, ModelConfig
from mobilebert_exp.modeling import costs, transfer
from mobilebert_exp.modeling.transfer import LowerLayers, Semantics, Strategy, TransferConfig
from mobilebert_exp.modeling.variables import encoder_variables, parameters, pretraining_variables
from mobilebert_exp.tasks.base import Phase

Rows = list[tuple[str, str]]
TRAINED = costs.FORWARD + costs.BACKWARD


@dataclass(kw_only=True, frozen=True, slots=True)
class Budget:
    """A student, its teacher, and how they are run.

    Attributes:
      places: masked places of an example.
      asks: whether the teacher answers in PD.
      micro_batch: examples a replica works on at once; None where the devices are not counted yet.
      dtype: of the activations.
    """

    student: ModelConfig
    teacher: ModelConfig
    config: TransferConfig
    places: int
    asks: bool
    micro_batch: int | None
    dtype: DType

    def rows(self, *, taught: Sequence[Phase], answered: Sequence[Phase]) -> Rows:
        """What a plan shows of the phases that would run: those of KT, and the rounds of PD."""
        turns = [turn for phase in taught for turn in self._turns(phase)]
        answering = sum(each.steps * each.global_batch_size * self._answer(each) for each in answered)
        transferring = sum(flops for _, _, flops in turns)
        return [
            ("teacher", self._teacher),
            ("strategy", self._strategy),
            *((name, f"{steps}; {flops:.2e} FLOPs") for name, steps, flops in turns),
            ("FLOPs", f"{transferring + answering:.2e}"),
            ("  knowledge transfer", f"{transferring:.2e}"),
            ("  pre-training distillation", f"{answering:.2e}"),
            *self._memory(max(each.max_seq_length for each in (*taught, *answered))),
        ]

    @property
    def _teacher(self) -> str:
        if not self._has_teacher:
            return "none"
        count = parameters([*encoder_variables(self.teacher), *pretraining_variables(self.teacher)])
        return f"{self.teacher.name}, {count:,} parameters, forward passes alone"

    @property
    def _has_teacher(self) -> bool:
        return self.config.strategy is not Strategy.none

    @property
    def _strategy(self) -> str:
        config = self.config
        if config.strategy is not Strategy.progressive:
            return config.strategy.name
        below = f"{config.lower_factor:g} of that below it" if config.lower_layers is LowerLayers.slow else "0 below it"
        return f"{config.strategy.name}: {config.learning_rate_factor:g} x the rate for the layer in turn, {below}"

    def _turns(self, phase: Phase) -> list[tuple[str, str, float]]:
        """Name, steps and operations of each layer's turn, or of all layers at once."""
        examples, length = phase.steps * phase.global_batch_size, phase.max_seq_length
        layers = self.student.num_layers
        if self.config.strategy is not Strategy.progressive:
            each = TRAINED * costs.encoder_flops(self.student, length=length)
            each += costs.encoder_flops(self.teacher, length=length)
            steps = f"steps 1 to {phase.steps:,}; {examples * length:,} tokens"
            return [("  all layers", steps, float(examples * each))]
        turn = transfer.steps_per_layer(self.config, layers=layers)
        found = []
        for layer, matching in enumerate(self._matching):
            first, last = layer * turn, min((layer + 1) * turn, phase.steps)
            if last > first:
                seen = (last - first) * phase.global_batch_size
                steps = f"steps {first + 1:,} to {last:,} by the teacher's {matching + 1}; {seen * length:,} tokens"
                flops = seen * self._turn(layer, matching, length=length)
                found.append((f"  layer {layer + 1}", steps, float(flops)))
        return found

    @property
    def _matching(self) -> list[int]:
        return transfer.layer_map(self.config, student=self.student, teacher=self.teacher)

    def _turn(self, layer: int, matching: int, *, length: int) -> int:
        """Of one example, where `layer` learns: nothing above it is computed."""
        whole = None if self.config.semantics is Semantics.tf1_exact else matching + 1
        forward = costs.encoder_flops(self.student, length=length, layers=layer + 1)
        theirs = costs.encoder_flops(self.teacher, length=length, layers=whole)
        is_slow = self.config.lower_layers is LowerLayers.slow
        touched = forward if is_slow else costs.block_flops(self.student, length=length)
        return forward + theirs + costs.BACKWARD * touched

    def _answer(self, phase: Phase) -> int:
        """Of one example in PD."""
        ours, theirs = (
            costs.encoder_flops(model, length=phase.max_seq_length) + costs.head_flops(model, places=self.places)
            for model in (self.student, self.teacher)
        )
        is_asked = self.asks or self.config.strategy is Strategy.auxiliary
        return TRAINED * ours + (theirs if is_asked else 0)

    def _memory(self, length: int) -> Rows:
        """Of one replica, at the longest sequences."""
        if self.micro_batch is None:
            return []
        width = 2 if self.dtype is DType.bfloat16 else costs.FLOAT32_BYTES
        is_frozen = self.config.lower_layers is LowerLayers.frozen and self.config.strategy is Strategy.progressive
        kept = [
            costs.activation_bytes(self.student, length=length, layers=layers, width_bytes=width)
            for layers in (1 if is_frozen else self.student.num_layers, self.student.num_layers)
        ]
        answers = costs.answer_bytes(self.student, places=self.places) * (2 if self.asks else 1)
        ours = costs.model_bytes(self.student, trained=True)
        theirs = costs.model_bytes(self.teacher, trained=False) if self._has_teacher else 0
        parts = (kept[0] * self.micro_batch, (kept[1] + answers) * self.micro_batch)
        return [
            ("memory of a replica", f"about {_gib(ours + theirs + max(parts))}"),
            ("  student and moments", _gib(ours)),
            ("  teacher", _gib(theirs)),
            ("  activations of KT", f"about {_gib(parts[0])}"),
            ("  activations of PD", f"about {_gib(parts[1])}"),
        ]


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
