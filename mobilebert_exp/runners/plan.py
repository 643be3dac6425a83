"""mode=plan: what a run would be, without running it and without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable

from mobilebert_exp.config import ExperimentConfig, leaves
from mobilebert_exp.modeling.variables import STACKED, VariableSpec, parameters
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.runners.schedule import PlannedPhase, planned
from mobilebert_exp.tasks.base import Demanding, Phased, Split

EXAMPLES = {Split.train: "train examples per epoch", Split.dev: "dev examples"}


def run(job: Job) -> Outcome:
    """Reads the data, counts, and says what would run."""
    config = job.config
    splits = () if isinstance(job.task, Phased) else (Split.train, Split.dev)  # whose steps follow from examples
    examples = {split: job.task.num_examples(split) for split in splits}
    phases = planned(config, job.task, num_examples=lambda: examples[Split.train])
    specs = job.task.variables(config.model)
    rows = [
        ("parameters", f"{parameters(specs):,}"),
        *_parts(specs, config),
        *((EXAMPLES[split], f"{count:,}") for split, count in examples.items()),
        *_steps(phases, num_examples=examples.get(Split.train)),
        *_batches(phases, config),
        *(job.task.plan(config) if isinstance(job.task, Demanding) else []),
    ]
    text = "\n".join(
        ["configuration", *_table((k, _shown(v)) for k, v in leaves(config).items()), "", "plan", *_table(rows)]
    )
    figures = {"parameters": float(parameters(specs)), "steps": float(phases[-1].last_step)}
    return Outcome(metrics=figures, text=text)


def _steps(phases: list[PlannedPhase], *, num_examples: int | None) -> list[tuple[str, str]]:
    """Of the whole run; and of each phase, where a task has its own."""
    total = phases[-1].last_step
    tokens = sum(each.phase.steps * each.phase.global_batch_size * each.phase.max_seq_length for each in phases)
    if num_examples is None:
        count = f"  in {len(phases)} phases" if len(phases) > 1 else ""
        rows = [("steps", f"{total:,}{count}"), ("  tokens", f"{tokens:,}")]
        return rows + [row for each in phases for row in _phase(each)]
    only = phases[0]
    per_epoch = num_examples / only.phase.global_batch_size
    return [
        ("steps", f"{total:,}  ({total / per_epoch:.2f} epochs)"),
        ("  warm-up", f"{only.warmup_steps:,}"),
        ("  per epoch", f"{per_epoch:,.1f}"),
        ("  tokens", f"{tokens:,}"),
        ("learning rate", _rates(only)),
    ]


def _phase(which: PlannedPhase) -> list[tuple[str, str]]:
    phase = which.phase
    is_new = which.optimizer_first_step == which.first_step
    return [
        (phase.name, f"steps {which.first_step + 1:,} to {which.last_step:,}"),
        ("  batch", f"{phase.global_batch_size:,} x {phase.max_seq_length} tokens"),
        ("  tokens", f"{phase.steps * phase.global_batch_size * phase.max_seq_length:,}"),
        ("  optimizer", which.optimizer.name.name if is_new else "that of the phase before"),
        *([("  learning rate", f"{_rates(which)}; warm-up {which.warmup_steps:,}")] if is_new else []),
    ]


def _rates(which: PlannedPhase) -> str:
    optimizer = which.optimizer
    end = optimizer.learning_rate * (optimizer.end_learning_rate_ratio if optimizer.decay_power else 1)
    if not which.warmup_steps:
        return f"{optimizer.learning_rate:g}, {end:g} at the end"
    return f"0 to {optimizer.learning_rate:g} over the warm-up, to {end:g} at the end"


def _batches(phases: list[PlannedPhase], config: ExperimentConfig) -> list[tuple[str, str]]:
    """How the largest global batch is cut up."""
    replicas, parts = config.hardware.num_replicas, config.trainer.gradient_accumulation_steps
    largest = max(each.phase.global_batch_size for each in phases)
    rows = [("global batch", f"{largest:,}")]
    if replicas is None:
        return [*rows, ("  replicas", "all visible devices"), ("  per replica", f"a share, in {parts} micro-batch(es)")]
    share = largest // replicas
    return [
        *rows,
        ("  replicas", f"{replicas:,}"),
        ("  per replica", f"{share:,}"),
        ("  micro-batch", f"{share // parts:,}"),
    ]


def _parts(specs: list[VariableSpec], config: ExperimentConfig) -> list[tuple[str, str]]:
    """Parameters by the first part of the variables' names; blocks are also counted one by one."""
    parts = dict.fromkeys(spec.name.split("/")[0] for spec in specs)
    rows = []
    for part in parts:
        size = parameters(spec for spec in specs if spec.name.split("/")[0] == part)
        note = f"  ({config.model.num_layers} x {size // config.model.num_layers:,})" if f"{part}/" == STACKED else ""
        rows.append((f"  {part}", f"{size:,}{note}"))
    return rows


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    found = list(rows)
    width = max(len(name) for name, _ in found)
    return [f"  {name:<{width}}  {value}" for name, value in found]


def _shown(value: object) -> str:
    """As YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
