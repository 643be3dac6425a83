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

from mobilebert_exp.config import ExperimentConfig, FakeQuantization, leaves
from mobilebert_exp.modeling.variables import QUANTIZERS, STACKED, VariableSpec, parameters
from mobilebert_exp.runners.base import Job, Outcome
from mobilebert_exp.runners.schedule import PlannedPhase, planned, unreached
from mobilebert_exp.tasks.base import Demanding, Phased, Split

EXAMPLES = {Split.train: "train examples per epoch", Split.dev: "dev examples"}

WIDEST, NARROWEST = 100, 40
NAMES = ("model", "task", "hardware", "tracking")  # sections of which a file has been chosen


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
        *_quantization(specs, config, steps=phases[-1].last_step),
        *(job.task.plan(config, phases=[each.phase for each in phases]) if isinstance(job.task, Demanding) else []),
    ]
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns))
    text = "\n".join([*_configuration(config, width=width), "", "plan", *_table(rows)])
    if note := unreached(config, phases):
        text += "\n" + textwrap.fill(f"note: {note}", width, subsequent_indent="  ", break_on_hyphens=False)
    figures = {"parameters": float(parameters(specs)), "steps": float(phases[-1].last_step)}
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


def _quantization(specs: list[VariableSpec], config: ExperimentConfig, *, steps: int) -> list[tuple[str, str]]:
    """How weights are rounded, and where the ranges of activations come from."""
    kind, settings = config.model.fake_quantization, config.quantization
    if kind is FakeQuantization.none:
        return []
    points = sum(spec.name.startswith(QUANTIZERS) for spec in specs)
    moving = settings.moving_steps(of=steps)
    return [
        ("fake quantisation", f"weights {kind.name}, activations at {points} points"),
        ("  calibration", f"{settings.calibration_batches} batches before the first step"),
        ("  moving ranges", f"in steps 1 to {moving:,}" if moving else "in no step"),
    ]


def _parts(specs: list[VariableSpec], config: ExperimentConfig) -> list[tuple[str, str]]:
    """Parameters by the first part of the variables' names; blocks are also counted one by one."""
    parts = dict.fromkeys(spec.name.split("/")[0] for spec in specs if not spec.name.startswith(QUANTIZERS))
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
