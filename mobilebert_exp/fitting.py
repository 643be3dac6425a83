"""Whether vocabulary, model and starting weights fit each other: told before a run begins and TensorFlow is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from mobilebert_exp import location, manifest
from mobilebert_exp.checks import require
from mobilebert_exp.config import ExperimentConfig, Mode, leaves
from mobilebert_exp.data import sources
from mobilebert_exp.errors import CheckpointError, ConfigError, ExportError, UserError
from mobilebert_exp.lite import cards
from mobilebert_exp.lite.metadata import Card
from mobilebert_exp.modeling.checkpoints import account
from mobilebert_exp.modeling.checkpoints.account import as_yaml
from mobilebert_exp.tasks.base import Deployable, Task
from mobilebert_exp.tracking import states, store, weights
from mobilebert_exp.tracking.base import RunState

log = logging.getLogger(__name__)
WHOLE = (Mode.evaluate, Mode.predict, Mode.export, Mode.benchmark)  # modes of a model that is there, head included
FILES = (Mode.evaluate, Mode.benchmark)  # modes that read exported files
# Settings from which a vocabulary follows; the files only because without them a task may have texts of its own.
VOCABULARY = ("data_root", "task.vocab_file", "task.train_file", "task.dev_file", "task.lower_case", "task.starter.")


def resolved(config: ExperimentConfig, task: Task) -> ExperimentConfig:
    """The configuration with the vocabulary's size where the model leaves it open.

    Raises:
      ConfigError: the model has a size of its own, and the vocabulary another; or the task answers nothing on a device.
    """
    is_deployed = config.mode in (Mode.export, Mode.benchmark) or (config.mode in FILES and config.export.path)
    if is_deployed and not isinstance(task, Deployable):
        raise ConfigError(
            f"mode={config.mode.name}: task={config.task.name} has no head that answers on a device (a span, a class "
            "or a score); fine-tune the run on a task that has one, and name that run and task"
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
      UserError: there is no exported file as named, or it is of another task.
    """
    config = _with_file(config, task, uri)
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
    """As far as the record of a run of ours tells; of everything else nothing is said."""
    run_dir = location.run_of(place)
    if not (run_dir / location.FOLDER).is_dir():
        return
    has_manifests = any(
        manifest.committed(run_dir / at) for at in (location.FOLDER, f"{location.FOLDER}/{location.BEST}")
    )
    file = run_dir / location.MODEL_FILE
    recorded = location.read(file) if has_manifests else location.record(run_dir)  # a manifest says it again
    source, is_whole = f"init.checkpoint={place}", config.mode in WHOLE
    if config.mode is Mode.export:
        _check_finished(place, run_dir)
    if is_whole or config.init.strict:
        _check_architecture(recorded, source, config, made_by=location.read(run_dir / location.SETTINGS_FILE))
    if is_whole:
        _check_head(recorded, source, config, task)


def _check_finished(place: str, run_dir: Path) -> None:
    """A run that did not finish has no model yet; one of its checkpoints is what somebody may still want."""
    state = states.state_of(run_dir)
    if state in ("", RunState.FINISHED.name) or location.parts(place)[1] or Path(place).expanduser() != run_dir:
        return
    folders = {location.BEST: run_dir / location.FOLDER / location.BEST, location.LAST: run_dir / location.FOLDER}
    named = " or ".join(f"init.checkpoint={run_dir}/{name}" for name, at in folders.items() if manifest.committed(at))
    raise CheckpointError(
        f"init.checkpoint={place} is a run that did not finish ({state}); let it finish"
        f"{named and f', or name a checkpoint of it: {named}'}"
    )


def _with_file(config: ExperimentConfig, task: Task, uri: str | None) -> ExperimentConfig:
    """The exported file as a place on this machine; to be evaluated, it is checked, and has its model beside it."""
    if config.export.path is None or config.mode not in FILES:
        return config
    assert config.cache_dir is not None, "resolved by the experiment"
    path = sources.fetched(config.export.path, cache_dir=config.cache_dir, key="export.path")
    if config.mode is Mode.evaluate:
        card = cards.card_of(path)
        _check_file(card, config, task)
        if config.init.checkpoint is None and (place := _origin(path, card, config, uri)):
            config = dataclasses.replace(config, init=dataclasses.replace(config.init, checkpoint=place))
        require(
            config.export.max_drop is None or config.init.checkpoint is not None,
            f"export.max_drop={config.export.max_drop} needs the model of export.path={path}, and it is not to be had "
            "here; name it with init.checkpoint=RUN",
        )
    return dataclasses.replace(config, export=dataclasses.replace(config.export, path=str(path)))


def _origin(path: Path, card: Card, config: ExperimentConfig, uri: str | None) -> str:
    """Where the checkpoint lies of which a file was made; "" where it cannot be had."""
    recorded = location.read(path.parent / location.EXPORTS_FILE)
    place, run_id = str(recorded.get("checkpoint", "")), card.source.get(cards.SOURCE_RUN, "")
    try:
        if place and recorded.get("source") == card.source:
            location.check(place)
            return place
        if run_id:
            assert config.cache_dir is not None, "resolved by the experiment"
            store_uri = store.resolve_uri(config.tracking.uri, uri, config.output_dir)
            return weights.resolve(f"{weights.SCHEME}{run_id}", uri=store_uri, cache_dir=config.cache_dir)
    except UserError as problem:
        log.warning("the model of export.path=%s cannot be had here: %s", path, problem)
    return ""


def _check_file(card: Card, config: ExperimentConfig, task: Task) -> None:
    """Raises ExportError where a file answers another question, or of other words, or of longer texts."""
    assert isinstance(task, Deployable), "told before"
    here, file = task.deployment(), f"export.path={config.export.path}"
    head, length = card.source.get(cards.HEAD, card.head), config.task.max_seq_length
    if card.head != here.answer.value or head != task.head or card.labels != here.labels:
        raise ExportError(
            f"{file} is of another task, {card.task} ({head}), and this one asks for {task.head}; "
            "evaluate it with its own task"
        )
    if (card.vocabulary, card.lower_case) != (here.vocabulary, config.task.lower_case):
        theirs, ours = (f"{hashlib.sha256(words).hexdigest()[:12]}" for words in (card.vocabulary, here.vocabulary))
        raise ExportError(
            f"{file} is of another vocabulary (sha256 {theirs}…, task.lower_case={account.as_yaml(card.lower_case)}; "
            f"here {ours}…, {account.as_yaml(config.task.lower_case)}); name its own with task.vocab_file or data_root"
        )
    if length != card.length and not (card.dynamic_length and length < card.length):
        raise ExportError(
            f"{file} takes {'up to ' if card.dynamic_length else ''}{card.length} tokens, and "
            f"task.max_seq_length={length}; set task.max_seq_length={card.length}"
        )


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
        now = leaves(config)
        keys = [key for key in now if key.startswith(VOCABULARY) and key in made_by and made_by[key] != now[key]]
        typed = _typed({key: made_by[key] for key in keys})
        remedy = f"set {typed}, as there" if keys else "set data_root or task.vocab_file to its own"
    elif preset != config.model.name:
        what = f"model={preset}, not {config.model.name} (model.{name}={as_yaml(theirs)}, not {as_yaml(ours)})"
        remedy = f"set model={preset}"
    else:
        what = ", ".join(
            f"model.{name}={as_yaml(theirs)}, not {as_yaml(ours)}" for name, (theirs, ours) in wrong.items()
        )
        remedy = f"set {_typed({f'model.{name}': theirs for name, (theirs, _) in wrong.items()})}"
    partly = "" if config.mode in WHOLE else f"; {account.PARTLY}"
    raise CheckpointError(f"{source} was trained with {what}; {remedy}{partly}")


def _typed(settings: Mapping[str, object]) -> str:
    return " ".join(f"{key}={as_yaml(value)}" for key, value in settings.items())


def _check_head(recorded: Mapping[str, object], source: str, config: ExperimentConfig, task: Task) -> None:
    heads = [spec.name for spec in task.variables(config.model) if spec.name.startswith(account.HEADS)]
    found = str(recorded.get(location.HEAD, ""))
    if found not in ("", task.head) and any(not name.startswith(account.SELF_EXPLAINING) for name in heads):
        raise CheckpointError(f"{source} {account.of_another_task(found, task.head)}; {account.OTHER_HEAD}")
