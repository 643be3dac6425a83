"""Whether vocabulary, model and starting weights fit each other: told before a run begins and TensorFlow is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from mobilebert_exp import location, manifest
from mobilebert_exp.config import ExperimentConfig, FakeQuantization, Mode, leaves
from mobilebert_exp.data import sources
from mobilebert_exp.errors import CheckpointError, ConfigError
from mobilebert_exp.modeling.checkpoints import account
from mobilebert_exp.modeling.checkpoints.account import as_yaml
from mobilebert_exp.tasks.base import Phased, Task
from mobilebert_exp.tracking import store, weights

WHOLE = (Mode.evaluate, Mode.predict, Mode.export, Mode.benchmark)  # modes of a model that is there, head included
# Settings from which a vocabulary follows; the files only because without them a task may have texts of its own.
VOCABULARY = ("data_root", "task.vocab_file", "task.train_file", "task.dev_file", "task.lower_case", "task.starter.")


def resolved(config: ExperimentConfig, task: Task) -> ExperimentConfig:
    """The configuration with the vocabulary's size where the model leaves it open.

    Raises:
      ConfigError: the model has a size of its own, and the vocabulary another; or it is quantised, and the task trains
        in phases.
    """
    fake = config.model.fake_quantization
    if fake is not FakeQuantization.none and isinstance(task, Phased):
        raise ConfigError(
            f"model.fake_quantization={fake.name} is for fine-tuning, and task={config.task.name} trains in phases, in "
            "float; set model.fake_quantization=none"
        )
    stated, size = config.model.vocab_size, task.vocab_size
    if stated not in (None, size):
        whose, remedy = "the vocabulary", "name the model's own with task.vocab_file or data_root"
        has_articles = any(key.startswith("task.starter.") for key in leaves(config))
        if has_articles and config.data_root is None and config.task.vocab_file is None:
            whose = "the vocabulary of the embedded starter articles, which are read without data_root,"
            remedy = f"for real data set data_root=DIR, or data_root={sources.PUBLISHERS}"
        raise ConfigError(
            f"model.vocab_size={stated} and {whose} has {size} entries; {remedy}; "
            "from scratch, set model.vocab_size=null"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))


def with_weights(config: ExperimentConfig, task: Task, *, uri: str | None) -> ExperimentConfig:
    """For the runner: the starting weights as a place where they were found, fetched if they lie elsewhere.

    What their run says of them is enough to tell most misfits at once; the full account, of the weights themselves and
    of other code's, is that of the runner (`modeling.checkpoints.account`).

    Args:
      config: resolved, with the vocabulary's size.
      task: training takes the weights of another one, and starts its head anew.
      uri: MLflow's address where `config.tracking.uri` names none.

    Raises:
      CheckpointError: there are none; or they are of another architecture, vocabulary's size or head.
    """
    place = config.init.checkpoint
    if place is None:
        return config
    assert config.cache_dir is not None, "resolved by the experiment"
    if weights.is_named(place):
        store_uri = store.resolve_uri(config.tracking.uri, uri, config.output_dir)
        place = weights.resolve(place, uri=store_uri, cache_dir=config.cache_dir)
    found = sources.checkpoint(place, cache_dir=config.cache_dir)
    location.check(found)
    _check(found, config, task)
    return dataclasses.replace(config, init=dataclasses.replace(config.init, checkpoint=place))


def _check(place: str, config: ExperimentConfig, task: Task) -> None:
    """As far as the record of a run of ours tells, or a checkpoint of one; of everything else nothing is said."""
    run_dir, named = location.run_of(place), location.prefix_of(Path(place).expanduser())
    if not (run_dir / location.FOLDER).is_dir() and not manifest.has_one(named):
        return
    recorded = _recorded(named, run_dir)
    source, is_whole = f"init.checkpoint={place}", config.mode in WHOLE
    if is_whole:  # first, for another task has other words too
        _check_head(recorded, source, config, task)
    if is_whole or config.init.strict:
        made_by = location.read(run_dir / location.SETTINGS_FILE)
        _check_architecture(recorded, source, config, made_by=made_by)
        _check_vocabulary(recorded, source, config, task, made_by=made_by)
    if is_whole:
        _check_ranges(recorded, source, config)


def _recorded(named: Path, run_dir: Path) -> Mapping[str, object]:
    """What a run says of its weights; of checkpoints that came without its record, as MLflow's do, what they say."""
    folder = run_dir / location.FOLDER
    committed = [named] if manifest.has_one(named) else []
    committed += [*manifest.committed(folder / location.BEST), *manifest.committed(folder)]
    if not committed:
        return location.record(run_dir)
    if found := location.read(run_dir / location.MODEL_FILE):
        return found
    try:
        told = manifest.read(committed[0])
    except manifest.DamagedError:  # which whoever reads it tells
        return {}
    return {**told.model, location.HEAD: told.head, location.VOCABULARY: told.vocabulary}


def _check_architecture(
    recorded: Mapping[str, object], source: str, config: ExperimentConfig, *, made_by: Mapping[str, object]
) -> None:
    """`made_by` are the settings of the run, which for another vocabulary are the remedy."""
    found = account.differing(recorded, config.model)
    wrong = {name: pair for name, pair in found.items() if name not in account.COMPUTATION}  # which are warned of
    if not wrong:
        return
    name, (theirs, ours) = next(iter(wrong.items()))
    preset = recorded.get("name", config.model.name)
    if set(wrong) == {"vocab_size"}:
        what = f"a vocabulary of {theirs} entries, and this experiment's has {ours}"
        remedy = _its_vocabulary(config, made_by)
    elif preset != config.model.name:
        what = f"model={preset}, not {config.model.name} (model.{name}={as_yaml(theirs)}, not {as_yaml(ours)})"
        remedy = f"set model={preset}"
    else:
        what = ", ".join(
            f"model.{name}={as_yaml(theirs)}, not {as_yaml(ours)}" for name, (theirs, ours) in wrong.items()
        )
        remedy = f"set {_typed({f'model.{name}': theirs for name, (theirs, _) in wrong.items()})}"
    raise CheckpointError(f"{source} was trained with {what}; {remedy}{_partly(config)}")


def _check_vocabulary(
    recorded: Mapping[str, object], source: str, config: ExperimentConfig, task: Task, *, made_by: Mapping[str, object]
) -> None:
    """Of one that has as many entries; nothing is said of runs that do not tell theirs."""
    theirs, ours = recorded.get(location.VOCABULARY), task.digests([]).get("vocabulary")
    if theirs and ours and theirs != ours:
        raise CheckpointError(
            f"{source} was trained with another vocabulary of as many entries (sha256 {str(theirs)[:12]}…, and this "
            f"experiment's is {ours[:12]}…); {_its_vocabulary(config, made_by)}{_partly(config)}"
        )


def _its_vocabulary(config: ExperimentConfig, made_by: Mapping[str, object]) -> str:
    """The remedy: the settings from which the vocabulary of a run followed, as far as they are others now."""
    now = leaves(config)
    keys = [key for key in now if key.startswith(VOCABULARY) and key in made_by and made_by[key] != now[key]]
    typed = _typed({key: made_by[key] for key in keys})
    return f"set {typed}, as there" if keys else "set data_root or task.vocab_file to its own"


def _partly(config: ExperimentConfig) -> str:
    return "" if config.mode in WHOLE else f"; {account.PARTLY}"


def _typed(settings: Mapping[str, object]) -> str:
    return " ".join(f"{key}={as_yaml(value)}" for key, value in settings.items())


def _check_ranges(recorded: Mapping[str, object], source: str, config: ExperimentConfig) -> None:
    """A model that rounds activations needs to know how far they reach."""
    asked, none = config.model.fake_quantization, FakeQuantization.none
    if asked is not none and recorded.get("fake_quantization", none.name) == none.name:
        raise CheckpointError(
            f"{source} was trained without fake quantisation, and has no ranges for model.fake_quantization="
            f"{asked.name}; {account.CALIBRATED}"
        )


def _check_head(recorded: Mapping[str, object], source: str, config: ExperimentConfig, task: Task) -> None:
    heads = [spec.name for spec in task.variables(config.model) if spec.name.startswith(account.HEADS)]
    found = str(recorded.get(location.HEAD, ""))
    if found not in ("", task.head) and any(not name.startswith(account.SELF_EXPLAINING) for name in heads):
        raise CheckpointError(f"{source} {account.of_another_task(found, task.head)}; {account.OTHER_HEAD}")
