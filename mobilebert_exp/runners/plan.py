"""mode=plan: what a run would be, without running it and without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable

from mobilebert_exp.config import ExperimentConfig, leaves
from mobilebert_exp.modeling.variables import STACKED, VariableSpec, parameters
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.runners.schedule import Schedule, schedule
from mobilebert_exp.tasks.base import Split


def run(job: Job) -> Outcome:
    """Reads the data, counts, and says what would run."""
    config = job.config
    examples = {split: job.task.num_examples(split) for split in (Split.train, Split.dev)}
    planned = schedule(config, num_examples=examples[Split.train])
    specs = job.task.variables(config.model)
    rows = [
        ("parameters", f"{parameters(specs):,}"),
        *_parts(specs, config),
        ("train examples per epoch", f"{examples[Split.train]:,}"),
        ("dev examples", f"{examples[Split.dev]:,}"),
        *_steps(planned, config),
        *_batches(config),
    ]
    text = "\n".join(
        ["configuration", *_table((k, _shown(v)) for k, v in leaves(config).items()), "", "plan", *_table(rows)]
    )
    figures = {"parameters": float(parameters(specs)), "steps": float(planned.total_steps)}
    return Outcome(metrics=figures, text=text)


def _steps(planned: Schedule, config: ExperimentConfig) -> list[tuple[str, str]]:
    task, optimizer = config.task, config.task.optimizer
    end = optimizer.learning_rate * optimizer.end_learning_rate_ratio
    return [
        ("steps", f"{planned.total_steps:,}  ({planned.total_steps / planned.steps_per_epoch:.2f} epochs)"),
        ("  warm-up", f"{planned.warmup_steps:,}"),
        ("  per epoch", f"{planned.steps_per_epoch:,.1f}"),
        ("  tokens", f"{planned.total_steps * task.global_batch_size * task.max_seq_length:,}"),
        ("learning rate", f"0 to {optimizer.learning_rate:g} over the warm-up, to {end:g} at the end"),
    ]


def _batches(config: ExperimentConfig) -> list[tuple[str, str]]:
    replicas, parts = config.hardware.num_replicas, config.trainer.gradient_accumulation_steps
    rows = [("global batch", f"{config.task.global_batch_size:,}")]
    if replicas is None:
        return [*rows, ("  replicas", "all visible devices"), ("  per replica", f"a share, in {parts} micro-batch(es)")]
    share = config.task.global_batch_size // replicas
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
