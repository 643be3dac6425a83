"""mode=plan: what a run would be, without running it and without TensorFlow.

Its text is read from its end, where a terminal stands: the plan comes last. Before it the whole configuration: what was
chosen a line each, all other settings in a paragraph for each section.
"""

from __future__ import annotations

import enum
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass

from mobilebert_exp.config import ExperimentConfig, leaves
from mobilebert_exp.modeling.variables import STACKED, VariableSpec, parameters
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.runners.schedule import Schedule, schedule, unreached
from mobilebert_exp.tasks.base import Split

WIDEST, NARROWEST = 100, 40
NAMES = ("model", "task", "hardware", "tracking")  # sections of which a file has been chosen


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
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns))
    text = "\n".join([*_configuration(config, width=width), "", "plan", *_table(rows)])
    if note := unreached(config, planned):
        text += "\n" + textwrap.fill(f"note: {note}", width, subsequent_indent="  ", break_on_hyphens=False)
    figures = {"parameters": float(parameters(specs)), "steps": float(planned.total_steps)}
    return Outcome(metrics=figures, text=text)


def _configuration(config: ExperimentConfig, *, width: int) -> Iterator[str]:
    """Every leaf once: those that differ from their default by full name, the others by section."""
    values = leaves(config)
    differing = {key for key in values if _default(config, key) not in (values[key], MISSING)}
    differing -= {"mode", *(f"{section}.name" for section in NAMES)}  # the paragraphs begin with these
    if differing:
        yield "set by the files chosen, a preset or the command"
        yield from _table((key, _shown(value)) for key, value in values.items() if key in differing)
        yield ""
    sections: dict[str, list[str]] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if key not in differing:
            sections.setdefault(section, []).append(f"{name}={_shown(value)}")
    yield "all other settings"
    for section, settings in sections.items():
        line = f"{f'{section}: ' if section else ''}{'  '.join(settings)}"
        yield textwrap.fill(line, width - 2, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _default(config: object, key: str) -> object:
    """The schema's value for a leaf, an enum by name; MISSING where it states none."""
    name, _, rest = key.partition(".")
    if not is_dataclass(config):
        return None  # an entry that somebody has added to a mapping
    if rest:
        return _default(getattr(config, name), rest)
    found = next(field.default for field in fields(config) if field.name == name)
    return found.name if isinstance(found, enum.Enum) else MISSING if found == "???" else found


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
