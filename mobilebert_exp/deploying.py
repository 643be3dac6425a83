"""What leads to a device fits together: task, run and exported file; told before a run begins."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

from mobilebert_exp import fitting, location, manifest
from mobilebert_exp.checks import require
from mobilebert_exp.config import ExperimentConfig, Mode
from mobilebert_exp.data import sources
from mobilebert_exp.errors import CheckpointError, ConfigError, ExportError, UserError
from mobilebert_exp.lite import cards, model_file
from mobilebert_exp.lite.metadata import Card
from mobilebert_exp.modeling.checkpoints.account import as_yaml
from mobilebert_exp.storage import archive
from mobilebert_exp.tasks.base import Deployable, Task
from mobilebert_exp.tracking import states, store, weights

log = logging.getLogger(__name__)
FILES = (Mode.evaluate, Mode.benchmark)  # modes that read exported files


def check_task(config: ExperimentConfig, task: Task) -> None:
    """Raises ConfigError where a task answers nothing on a device, and a mode is for one."""
    is_file = config.mode in FILES and config.export.path is not None
    if (config.mode is Mode.export or is_file) and not isinstance(task, Deployable):
        raise ConfigError(
            f"mode={config.mode.name}: task={config.task.name} has no head that answers on a device (a span, a class "
            "or a score); fine-tune the run on a task that has one, and name that run and task"
        )


def with_weights(config: ExperimentConfig, task: Task, *, uri: str | None) -> ExperimentConfig:
    """As `fitting.with_weights`, with the exported file as a place on this machine, and its model beside it.

    Raises:
      CheckpointError: as there; or the run that is to be exported did not finish.
      ExportError: the file is none, or of another task.
      ConfigError: `export.max_drop` has nothing to compare with.
    """
    config = fitting.with_weights(_with_file(config, task, uri), task, uri=uri)
    if config.mode in fitting.WHOLE and config.init.checkpoint is not None:
        assert config.cache_dir is not None, "resolved by the experiment"
        found = sources.checkpoint(config.init.checkpoint, cache_dir=config.cache_dir)
        if config.mode is Mode.export:
            _check_finished(config.init.checkpoint, found)
        if far := states.how_far(found):
            log.warning(
                "init.checkpoint=%s is of a run that did not finish (%s); let it finish before you compare figures",
                *(config.init.checkpoint, far),
            )
    return config


def _check_finished(place: str, found: str) -> None:
    """A run that did not finish has no model yet; one of its checkpoints is what somebody may still want.

    `found` is the place on this machine.
    """
    run_dir, wanted = location.parts(found)
    state = states.unfinished(run_dir)
    if wanted or not state:
        return
    folders = {location.BEST: run_dir / location.FOLDER / location.BEST, location.LAST: run_dir / location.FOLDER}
    run = run_dir if archive.is_archive(place) else place.rstrip("/")
    named = " or ".join(f"init.checkpoint={run}/{name}" for name, at in folders.items() if manifest.committed(at))
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
    if config.mode is Mode.benchmark:
        for each in cards.models_at(path):
            if each.suffix == model_file.SUFFIX:
                model_file.opened(each)  # raises where it is torn
            if (known := _card_if_any(each)) is not None:
                _check_file(known, config, task, file=f"export.path={each}")
    if config.mode is Mode.evaluate:
        card = cards.card_of(path)
        _check_file(card, config, task, file=f"export.path={config.export.path}")
        if config.init.checkpoint is None and (place := _origin(path, card, config, uri)):
            config = dataclasses.replace(config, init=dataclasses.replace(config.init, checkpoint=place))
        require(
            config.export.max_drop is None or config.init.checkpoint is not None,
            f"export.max_drop={config.export.max_drop} needs the model of export.path={path}, and it is not to be had "
            "here; name it with init.checkpoint=RUN",
        )
    return dataclasses.replace(config, export=dataclasses.replace(config.export, path=str(path)))


def _card_if_any(path: Path) -> Card | None:
    """Other people's files may be measured too, and have none."""
    try:
        return cards.card_of(path)
    except ExportError as problem:
        log.info("not checked against the task: %s", problem)
        return None


def _origin(path: Path, card: Card, config: ExperimentConfig, uri: str | None) -> str:
    """Where the checkpoint lies of which a file was made; "" where it cannot be had."""
    recorded = location.read(path.parent / location.EXPORTS_FILE)
    place, run_id = str(recorded.get("checkpoint", "")), card.source.get(cards.SOURCE_RUN, "")
    places = [place] if place and recorded.get("source") == card.source else []
    for each in [*places, *([f"{weights.SCHEME}{run_id}"] if run_id else [])]:
        try:
            return _held(each, config, uri)
        except UserError as problem:
            log.warning("the model of export.path=%s cannot be had here: %s", path, problem)
    return ""


def _held(place: str, config: ExperimentConfig, uri: str | None) -> str:
    """A place for `init.checkpoint`, after a look; raises UserError where there is no checkpoint."""
    assert config.cache_dir is not None, "resolved by the experiment"
    if weights.is_named(place):
        store_uri = store.resolve_uri(config.tracking.uri, uri, config.output_dir)
        place = weights.resolve(place, uri=store_uri, cache_dir=config.cache_dir)
    location.check(sources.checkpoint(place, cache_dir=config.cache_dir))
    return place


def _check_file(card: Card, config: ExperimentConfig, task: Task, *, file: str) -> None:
    """Raises ExportError where a file answers another question, or of other words, or of longer texts."""
    assert isinstance(task, Deployable), "told before"
    here, head = task.deployment(), card.source.get(cards.HEAD, card.head)
    length = config.task.max_seq_length
    if card.head != here.answer.value or head != task.head or card.labels != here.labels:
        raise ExportError(
            f"{file} is of another task, {card.task} ({head}), and this one asks for {task.head}; "
            f"{config.mode.name} it with its own task"
        )
    if (card.vocabulary, card.lower_case) != (here.vocabulary, config.task.lower_case):
        theirs, ours = (hashlib.sha256(words).hexdigest()[:12] for words in (card.vocabulary, here.vocabulary))
        raise ExportError(
            f"{file} is of another vocabulary (sha256 {theirs}…, task.lower_case={as_yaml(card.lower_case)}; "
            f"here {ours}…, {as_yaml(config.task.lower_case)}); name its own with task.vocab_file or data_root"
        )
    if length != card.length and not (card.dynamic_length and length < card.length):
        raise ExportError(
            f"{file} takes {'up to ' if card.dynamic_length else ''}{card.length} tokens, and "
            f"task.max_seq_length={length}; set task.max_seq_length={card.length}"
        )
