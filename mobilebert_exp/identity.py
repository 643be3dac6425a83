"""What makes two runs the same experiment: their settings, but for those that change no result, and what they read.

And what people call them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from mobilebert_exp.config import ExperimentConfig, Mode, leaves
from mobilebert_exp.errors import ConfigError, DataError
from mobilebert_exp.tasks.base import Split, Task, Taught
from mobilebert_exp.tracking import provenance, states

READS: dict[Mode, tuple[Split, ...]] = {  # what a mode reads; plan reads nothing here, and prepare what there is
    Mode.train: (Split.train, Split.dev),
    Mode.evaluate: (Split.dev,),
    Mode.predict: (Split.predict,),
    Mode.export: (),
    Mode.benchmark: (Split.dev,),
}
NOT_IDENTITY = (
    *("output_dir", "cache_dir", "shared_cache", "upload_to", "resume", "tracking."),
    *("hardware.steps_per_loop", "hardware.feature_workers", "trainer.keep_checkpoints", "task.use_summary"),
)


def of(config: ExperimentConfig, digests: Mapping[str, str]) -> str:
    """The identity of a run of `config` that reads what `digests` tells."""
    settings = {key: value for key, value in leaves(config).items() if not key.startswith(NOT_IDENTITY)}
    return states.identity(settings, digests=digests, code=provenance.code_digest())


def name(config: ExperimentConfig) -> str:
    """What people call a run; where it does not train, its mode comes first: lists of runs cut names off at the end."""
    mode = "" if config.mode is Mode.train else f"{config.mode.name}-"
    return f"{mode}{config.task.name}-{config.model.name}-seed{config.seed}"


def digests(config: ExperimentConfig, task: Task) -> dict[str, str]:
    """Of the vocabulary and the files that the mode reads; of other files none is looked for, or fetched."""
    if config.mode is not Mode.prepare:
        splits = (Split.train,) if config.is_calibrated else READS[config.mode]
        read = dict(task.digests(splits))  # first: a teacher of other words is told by them
        return {**read, **(task.teacher_digests() if config.mode is Mode.train and isinstance(task, Taught) else {})}
    found: dict[str, str] = {}
    for split in Split:
        with contextlib.suppress(ConfigError, DataError):  # the runner prepares what there is, and tells of the rest
            found |= task.digests([split])
    return found
