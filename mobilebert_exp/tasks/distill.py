"""Distillation: a student learns its pre-trained teacher's layers (KT), then its answers (PD).

Source: paper, sections 3.3 to 3.5; google-research/google-research mobilebert/run_pretraining.py with
`--layer_wise_warmup`. What both phases read, and how the student is judged, is pre-training's.
Shapes: B batch, A the student's layers, P masked places, V words.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from mobilebert_exp.checks import at_least, optional_place, positive, require
from mobilebert_exp.config import MISSING, DType, ExperimentConfig, ModelConfig
from mobilebert_exp.data import sources, tokenizer
from mobilebert_exp.errors import CheckpointError, ConfigError
from mobilebert_exp.modeling import transfer
from mobilebert_exp.modeling.transfer import LowerLayers, Strategy, TransferConfig
from mobilebert_exp.modeling.variables import encoder_variables, pretraining_variables
from mobilebert_exp.tasks import _pretraining
from mobilebert_exp.tasks._budget import Budget
from mobilebert_exp.tasks.base import Phase, Rates, Split

if TYPE_CHECKING:
    import tensorflow as tf

    from mobilebert_exp.modeling.checkpoints.account import Account
    from mobilebert_exp.modeling.checkpoints.weights import Weights
    from mobilebert_exp.modeling.lesson import Lesson
    from mobilebert_exp.modeling.pretrainer import PretrainingModel

log = logging.getLogger(__name__)
_FIELD = re.compile(rf"(?<![^\s(])model\.(?=(?:{'|'.join(each.name for each in fields(ModelConfig))})\b)")
_CHOICE = re.compile(r"(?<![^\s(])model=")
LOSSES = ("hidden", "mean", "variance", "attention", "attention_kl")  # fields of `modeling.distillation.TransferLosses`


@dataclass(kw_only=True, slots=True)
class Config(_pretraining.Config):
    """Pre-training's settings, which are those of PD, and what the teacher adds.

    Attributes:
      teacher: its architecture, any of the group `model`: `model@task.teacher=NAME`.
      teacher_checkpoint: a run of task=pretrain, or any checkpoint that `init.checkpoint` may name but `mlflow:…`;
        not looked at where `transfer.strategy` is none.
      teacher_dtype: of its activations; null takes `hardware.dtype`.
      ground_truth_ratio: share of the right word in PD, the rest is the teacher's answer.
      temperature: divides the logits of both in PD.
    """

    teacher: ModelConfig = MISSING
    teacher_checkpoint: str | None = None
    teacher_dtype: DType | None = None
    transfer: TransferConfig = field(default_factory=TransferConfig)
    ground_truth_ratio: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _pretraining.Config.__post_init__(self)
        self.teacher_checkpoint = optional_place("task.teacher_checkpoint", self.teacher_checkpoint)
        at_least("task", 0, ground_truth_ratio=self.ground_truth_ratio)
        positive("task", temperature=self.temperature)
        require(
            self.ground_truth_ratio <= 1,
            f"task.ground_truth_ratio={self.ground_truth_ratio} exceeds 1; it is the share of the right word",
        )
        require(
            self.teacher_dtype is not DType.float16,
            "task.teacher_dtype=float16 is refused, as hardware.dtype is; use float32 or bfloat16",
        )
        positions, length = self.teacher.max_positions, self.max_seq_length
        require(
            length <= positions,
            f"task.max_seq_length={length} exceeds the teacher's {positions} positions (task.teacher.max_positions); "
            "lower it",
        )


def create(config: Config, *, data_root: str | None, cache_dir: str) -> Distillation:
    """The task; reads nothing yet."""
    return Distillation(config, data_root=data_root, cache_dir=cache_dir)


class Distillation(_pretraining.Pretraining):
    """See `tasks.base.Task`, `tasks.base.Phased`, `tasks.base.Demanding` and `tasks.base.Taught`."""

    config: Config
    lesson: Lesson
    student: ModelConfig

    @property
    def vocab_size(self) -> int:
        """The vocabulary's; without any data, as for a plan, the teacher's."""
        stated = self.config.teacher.vocab_size
        return stated if stated is not None and self._is_starter else super().vocab_size

    def check_model(self, model: ModelConfig) -> None:
        if not self._has_teacher:
            return
        teacher = replace(self.config.teacher, vocab_size=self.config.teacher.vocab_size or self.vocab_size)
        transfer.check_pair(student=model, teacher=teacher)
        transfer.layer_map(self.config.transfer, student=model, teacher=teacher)
        transfer.steps_per_layer(self.config.transfer, layers=model.num_layers)

    def digests(self, splits: Iterable[Split]) -> Mapping[str, str]:
        words = super().vocab_size
        if words != self.vocab_size:
            raise ConfigError(
                f"task.teacher.vocab_size={self.vocab_size} and the vocabulary of the embedded articles has {words} "
                "entries; name the teacher's own data with task.train_file, task.dev_file and task.vocab_file"
            )
        return super().digests(splits)

    def teacher_digests(self) -> Mapping[str, str]:
        return {"teacher": digest(self._teacher_weights[0])} if self._has_teacher else {}

    def build(self, model: ModelConfig, *, seed: int, dtype: str) -> tf.Module:
        self.student = model
        return super().build(model, seed=seed, dtype=dtype)

    def learn_from_teacher(self, module: Any, *, dtype: str) -> None:
        """See `tasks.base.Taught`; the student starts with the teacher's embeddings and heads."""
        if not self._has_teacher:
            return
        from mobilebert_exp.modeling import lesson

        config, teacher = self.config, self._teacher(dtype=dtype)
        copied = lesson.begin_as(module, teacher)
        log.info("the student starts with %d of the teacher's variables", len(copied))
        matching = transfer.layer_map(config.transfer, student=self.student, teacher=config.teacher)
        self.lesson = lesson.Lesson(teacher, matching=matching, config=config.transfer)

    def phases(self) -> Sequence[Phase]:
        config, answering = self.config, [self._answering(phase) for phase in super().phases()]
        if not config.transfer.strategy.has_transfer_phase:
            last = answering.pop()
            return [*answering, replace(last, steps=last.steps + config.transfer.steps)]
        # A correction would count from the first turn, and the moments begin anew in each.
        constant = replace(config.optimizer, end_learning_rate_ratio=1.0, warmup_steps=0, bias_correction=False)
        batch = config.global_batch_size
        return [
            replace(
                answering[-1],
                name="knowledge transfer",
                steps=config.transfer.steps,
                objective=KnowledgeTransfer(task=self, global_batch_size=batch),
                optimizer=constant,
            ),
            *answering,
        ]

    def plan(self, config: ExperimentConfig, *, phases: Sequence[Phase]) -> Sequence[tuple[str, str]]:
        own, replicas, parts = self.config, config.hardware.num_replicas, config.trainer.gradient_accumulation_steps
        budget = Budget(
            student=config.model,
            teacher=replace(own.teacher, vocab_size=self.vocab_size),
            config=own.transfer,
            places=own.max_predictions_per_seq,
            asks=self.asks,
            micro_batch=None if replicas is None else own.global_batch_size // replicas // parts,
            dtype=config.hardware.dtype,
        )
        taught = [phase for phase in phases if isinstance(phase.objective, KnowledgeTransfer)]
        return budget.rows(taught=taught, answered=[phase for phase in phases if phase not in taught])

    @property
    def _has_teacher(self) -> bool:
        return self.config.transfer.strategy is not Strategy.none

    @property
    def asks(self) -> bool:
        """Whether the teacher answers in PD."""
        return self._has_teacher and self.config.ground_truth_ratio < 1

    def _answering(self, phase: Phase) -> Phase:
        if not self._has_teacher:
            return phase
        name = "pre-training distillation" if self.asks else phase.name
        return replace(phase, name=name, objective=Answers(task=self, global_batch_size=phase.global_batch_size))

    @functools.cached_property
    def _teacher_weights(self) -> tuple[Weights, Account]:
        """The teacher's weights, of any format, all of which are there.

        Raises:
          ConfigError: none are named.
          CheckpointError: none are there, or they belong to another architecture.
        """
        from mobilebert_exp.modeling.checkpoints import formats
        from mobilebert_exp.modeling.checkpoints.account import Demand, account

        config = self.config
        if config.teacher_checkpoint is None:
            raise ConfigError(
                "task.teacher_checkpoint names no teacher to learn from; give the folder of a run of task=pretrain "
                f"model={config.teacher.name}, which makes one"
            )
        model = self._teacher_model
        wanted = [*encoder_variables(model), *pretraining_variables(model)]
        source = f"init.checkpoint={config.teacher_checkpoint}"
        try:
            weights = formats.read(sources.checkpoint(config.teacher_checkpoint, cache_dir=self._cache_dir))
            found = account(weights, wanted=wanted, model=model, head="", demand=Demand.whole, source=source)
        except CheckpointError as problem:  # which is about the student's keys
            raise CheckpointError(of_the_teacher(str(problem))) from None
        for warning in found.warnings:
            log.warning("%s", of_the_teacher(warning))
        self._check_words(weights)
        return weights, found

    def _check_words(self, weights: Weights) -> None:
        """Raises CheckpointError where the teacher says that it learnt another vocabulary, of as many entries."""
        size, ours = self.vocab_size, self._tokenizer.digest
        theirs = {weights.vocabulary_digest} - {""}
        if not theirs and weights.vocabulary is not None:
            theirs |= tokenizer.digests(weights.vocabulary, size=size, lower_case=weights.lower_case)
        if theirs and ours not in theirs:
            raise CheckpointError(
                f"task.teacher_checkpoint={self.config.teacher_checkpoint} was pre-trained with another vocabulary of "
                f"{size:,} entries; name its own with task.vocab_file, or another teacher"
            )

    @property
    def _teacher_model(self) -> ModelConfig:
        return replace(self.config.teacher, vocab_size=self.vocab_size)

    def _teacher(self, *, dtype: str) -> PretrainingModel:
        from mobilebert_exp.modeling.checkpoints.account import assign
        from mobilebert_exp.modeling.pretrainer import PretrainingModel

        own = self.config.teacher_dtype
        teacher = PretrainingModel(self._teacher_model, dtype=dtype if own is None else own.value)
        assign(teacher, *self._teacher_weights)
        del self._teacher_weights  # the model holds them now
        return teacher


def of_the_teacher(said: str) -> str:
    """What was said of the model's keys, with the teacher's in their place; paths in it stay as they are."""
    said = said.replace("init.checkpoint=", "task.teacher_checkpoint=")
    return _CHOICE.sub("model@task.teacher=", _FIELD.sub("task.teacher.", said))


def digest(weights: Weights) -> str:
    """sha256 of a checkpoint: the one it bears, or that of its values."""
    if weights.digest:
        return weights.digest
    found = hashlib.sha256()
    for name in sorted(weights.values):
        found.update(f"{name}{weights.values[name].shape}".encode())
        found.update(weights.values[name].tobytes())
    return found.hexdigest()


def layer_figures(by_layer: Mapping[str, tf.Tensor], *, layers: int, global_batch_size: int) -> dict[str, tf.Tensor]:
    """Every loss of every layer as a figure of a share of the batch, from sums over its examples, `[A]` each."""
    return {
        f"{name}/layer_{layer + 1:02}": by_layer[name][layer] / global_batch_size
        for name in LOSSES
        for layer in range(layers)
    }


def _layer_figure_names(layers: int) -> list[str]:
    return [f"{name}/layer_{layer + 1:02}" for name in LOSSES for layer in range(layers)]


@dataclass(kw_only=True, frozen=True, slots=True)
class KnowledgeTransfer:
    """The objective of KT; see `tasks.base.Objective`. Dropout is off in the student too."""

    task: Distillation
    global_batch_size: int

    @property
    def figures(self) -> Sequence[str]:
        return _layer_figure_names(self.task.student.num_layers)

    def totals(self, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        return {}

    def loss(
        self,
        module: Any,
        batch: Mapping[str, tf.Tensor],
        *,
        totals: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        import tensorflow as tf

        from mobilebert_exp.modeling import distillation, lesson

        layers, size = self.task.student.num_layers, self.global_batch_size
        if self.task.config.transfer.strategy is Strategy.progressive:
            layer = distillation.layer_in_turn(step, steps_per_layer=self._turn, layers=layers)
            compared = self.task.lesson.in_turn(module, batch, layer=layer)
        else:
            compared = self.task.lesson.at_once(lesson.encoded(module, batch), self.task.lesson.encoded(batch), batch)
        figures = layer_figures(compared.by_layer, layers=layers, global_batch_size=size)
        return tf.reduce_sum(compared.taught_B) / size, figures

    def rates(self, step: tf.Tensor) -> Rates:
        from mobilebert_exp.modeling import distillation

        config, model, turn = self.task.config.transfer, self.task.student, self._turn
        specs, layer = self.task.variables(model), None
        # With turns of one step no update of rate 0 lies between two layers, to reset the moments of the former.
        if config.lower_layers is LowerLayers.frozen and config.strategy is Strategy.progressive and turn > 1:
            layer = distillation.layer_in_turn(step, steps_per_layer=turn, layers=model.num_layers)
        return Rates(
            factors=distillation.rate_factors(specs, config, step, steps_per_layer=turn, layers=model.num_layers),
            groups=distillation.rate_groups(config, step, steps_per_layer=turn),
            layer=layer,
        )

    @property
    def _turn(self) -> int:
        return transfer.steps_per_layer(self.task.config.transfer, layers=self.task.student.num_layers)


@dataclass(kw_only=True, frozen=True, slots=True)
class Answers:
    """The objective of PD, and with `auxiliary` of KT beside it; see `tasks.base.Objective`.

    Dropout is off where a teacher answers, as in the original.
    """

    task: Distillation
    global_batch_size: int

    @property
    def figures(self) -> Sequence[str]:
        names = ["taught_loss", *_pretraining.FIGURES]
        return [*names, *(_layer_figure_names(self.task.student.num_layers) if self._is_auxiliary else [])]

    @property
    def _is_auxiliary(self) -> bool:
        return self.task.config.transfer.strategy is Strategy.auxiliary

    def totals(self, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        from mobilebert_exp.modeling import pretraining_losses

        return {"places": pretraining_losses.places(batch)}

    def loss(
        self,
        module: Any,
        batch: Mapping[str, tf.Tensor],
        *,
        totals: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        import tensorflow as tf

        from mobilebert_exp.modeling import distillation, pretraining_losses

        config, is_auxiliary, size = self.task.config, self._is_auxiliary, self.global_batch_size
        asks = self.task.asks or is_auxiliary
        ours = pretraining_losses.answers(module, batch, seed=None if asks else seed, all_layers=is_auxiliary)
        theirs = self.task.lesson.answers(batch, all_layers=is_auxiliary) if asks else None
        words_BP = distillation.word_losses(
            ours.masked_lm_BPV,
            batch["masked_lm_ids"],
            teacher_BPV=None if theirs is None else theirs.masked_lm_BPV,
            ground_truth_ratio=config.ground_truth_ratio,
            temperature=config.temperature,
        )
        places = totals["places"]
        taught = pretraining_losses.mean_over_places(words_BP, batch, places_in_batch=places)
        judged = pretraining_losses.judged(ours, batch)
        figures = pretraining_losses.figures(judged, places_in_batch=places, global_batch_size=size)
        loss = taught + figures["next_sentence_loss"]
        if is_auxiliary and theirs is not None:
            compared = self.task.lesson.at_once(ours.encoded, theirs.encoded, batch)
            loss += tf.reduce_sum(compared.taught_B) / size
            layers = self.task.student.num_layers
            figures |= layer_figures(compared.by_layer, layers=layers, global_batch_size=size)
        return loss, {"taught_loss": taught, **figures}

    def rates(self, step: tf.Tensor) -> None:
        return None
