"""`init.checkpoint=mlflow:RUN_ID[/best|last]`: the weights of a run that MLflow knows, as a place that can be read.

MLflow is asked in a process of its own, as figures are delivered by one: importing it takes seconds, and it chats.
`place_of` is what that process does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilebert_exp import location, manifest
from mobilebert_exp.errors import CheckpointError, ConfigError, UserError
from mobilebert_exp.files import making
from mobilebert_exp.location import BEST, FOLDER, LAST, Logged
from mobilebert_exp.tracking import states, store
from mobilebert_exp.tracking.base import Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
SCHEME = "mlflow:"
RUN_DIR_TAG, BUCKET_TAG = "run_dir", "bucket"  # where a run and its copy lie
DIGEST = "sha256."  # before the name of a file that was logged, as a param
DOWNLOADS = "downloads/mlflow"  # in the cache
ARTIFACTS = {BEST: f"{FOLDER}/{BEST}", LAST: FOLDER}  # where a run logs them, as they lie in its folder
# The package may be on this process's path alone (a checkout, a test), hence the path as an argument.
_ASKING = "import sys; sys.path.append(sys.argv[1]); from mobilebert_exp.tracking.__main__ import answer; answer()"
_PLACE = re.compile(rf"{SCHEME}([A-Za-z0-9][\w-]*)(?:/({BEST}|{LAST}))?", re.ASCII)


@dataclass(kw_only=True, frozen=True, slots=True)
class Question:
    """Which checkpoint of which run; `wanted` is `best`, `last` or "" for the best, else the newest."""

    uri: str
    run_id: str
    wanted: str
    cache_dir: str


def is_named(place: str) -> bool:
    """Whether this names a run of MLflow's."""
    return place.startswith(SCHEME)


def run_id_in(place: str) -> str:
    """The run that a place of this kind names; "" if it is of another kind."""
    named = _PLACE.fullmatch(place)
    return named[1] if named else ""


def resolve(place: str, *, uri: str, cache_dir: str | Path) -> str:
    """The run's folder on this machine, a copy of its artifacts in the cache, or `gs://…`; with `/best` or `/last`.

    Args:
      place: `mlflow:RUN_ID`, `mlflow:RUN_ID/best` or `mlflow:RUN_ID/last`.
      uri: of the store, from `store.resolve_uri`.

    Raises:
      ConfigError: it is not written like that, or the store cannot be reached.
      CheckpointError: there is no such run, or none of its checkpoints can be had here.
    """
    named = _PLACE.fullmatch(place)
    if named is None:
        raise ConfigError(f"init.checkpoint={place} names no run; write {SCHEME}RUN_ID, or RUN_ID/best, or RUN_ID/last")
    question = Question(uri=uri, run_id=named[1], wanted=named[2] or "", cache_dir=str(Path(cache_dir).expanduser()))
    log.info("looking for %s in %s", place, store.public(uri))
    ended = subprocess.run(
        [sys.executable, "-c", _ASKING, str(Path(__file__).resolve().parents[2])],
        input=json.dumps(asdict(question)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(ended.stdout)
    except ValueError:
        raise CheckpointError(
            f"init.checkpoint={place}: the process that asks MLflow ended with code {ended.returncode}; try again"
        ) from None
    if answer["problem"]:
        kind = ConfigError if answer["kind"] == ConfigError.__name__ else CheckpointError
        raise kind(store.public(f"init.checkpoint={place}: {answer['problem']}"))
    log.info("%s is %s", place, answer["place"])
    return str(answer["place"])


def answered(text: str) -> str:
    """The answer to a question, both as JSON: the place, or what is wrong, in one line with the remedy."""
    question = Question(**json.loads(text))
    try:
        return json.dumps({"place": place_of(question), "problem": "", "kind": ""})
    except UserError as problem:
        return json.dumps({"problem": str(problem), "kind": type(problem).__name__})
    except Exception as problem:  # whatever a network, a database or a disk can raise
        reason = next(iter(str(problem).splitlines()), "")[:200]
        told = f"{question.uri} cannot be read ({type(problem).__name__}: {reason}); try again"
        return json.dumps({"problem": told, "kind": CheckpointError.__name__})


def place_of(question: Question) -> str:
    """What `resolve` returns; the messages of its errors do not name the setting."""
    database = store.sqlite_file(question.uri)
    if database is not None and not database.is_file():
        raise ConfigError(f"there is no MLflow store at {database}; set tracking.uri to the one that has the run")
    store.probe(question.uri)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(question.uri)
    run = _run(client, question)
    tags = run.data.tags
    suffix = f"/{question.wanted}" if question.wanted else ""
    for place in (_folder_of(run), *_elsewhere(client, run, question)):
        if place and (place.startswith("gs://") or _has_one(f"{place}{suffix}")):
            return f"{place}{suffix}"
    raise CheckpointError(
        f"run {run.info.run_name} ({tags.get('mode', 'of another program')}) has no {question.wanted or 'checkpoint'} "
        f"that can be had here: not in its folder {tags.get(RUN_DIR_TAG, '')} on this machine, not in a bucket "
        "(upload_to), not in MLflow (tracking.log_checkpoints); name a training run, or copy its folder here"
    )


def _run(client: MlflowClient, question: Question) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(question.run_id)
    except MlflowException as problem:
        if problem.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise CheckpointError(
            f"{question.uri} has no run of this id; look it up there, or set tracking.uri to the store that has it"
        ) from None
    if run.info.lifecycle_stage == "deleted":
        raise CheckpointError(
            f"the run is in MLflow's bin; restore it (mlflow runs restore --run-id {question.run_id}) or name another"
        )
    return run


def _folder_of(run: Run) -> str:
    """The run's folder, if it lies on this machine, and is this run's; "" if not."""
    run_dir = run.data.tags.get(RUN_DIR_TAG, "")
    return run_dir if run_dir and states.run_id_of(Path(run_dir)) == run.info.run_id else ""


def _has_one(place: str) -> bool:
    try:
        location.check(place)
    except CheckpointError:
        return False
    return True


def _elsewhere(client: MlflowClient, run: Run, question: Question) -> Iterator[str]:
    """A copy of the run's artifacts, which this server has been reached for, else the one in a bucket."""
    copy = Path(question.cache_dir) / DOWNLOADS / question.run_id
    if _fetched(client, run, question.wanted or BEST, copy):
        yield str(copy)
    yield run.data.tags.get(BUCKET_TAG, "")
    if not question.wanted and _fetched(client, run, LAST, copy):
        yield str(copy)


def _fetched(client: MlflowClient, run: Run, which: str, copy: Path) -> bool:
    """Brings the newest checkpoint of an artifact folder to the same place below `copy`; false where there is none."""
    folder = ARTIFACTS[which]
    names = [file.path for file in client.list_artifacts(run.info.run_id, folder) if not file.is_dir]
    steps = [step for step in (manifest.step_of(Path(name).name) for name in names) if step is not None]
    if not steps:
        return False
    prefix = manifest.prefix_of(copy / folder, step=max(steps))
    with making(copy):
        if _problem(prefix, run.data.params):
            mine = [name for name in names if manifest.checkpoint_of(name) == f"{folder}/{prefix.name}"]
            _fetch(client, run, mine, prefix, copy)
    return True


def _problem(prefix: Path, params: Mapping[str, str]) -> str:
    """What is wrong with a copy, by its manifest and by what the run recorded; "" if nothing is."""
    try:
        manifest.check(prefix)
    except manifest.DamagedError as problem:
        return problem.reason
    for file in (*manifest.files_of(prefix), manifest.file_of(prefix)):
        if params.get(f"{DIGEST}{file.name}") not in (None, _sha256(file)):
            return f"{file.name} has another sha256 than the run recorded"
    return ""


def _fetch(client: MlflowClient, run: Run, names: list[str], prefix: Path, copy: Path) -> None:
    """Fetches the files of a checkpoint, and moves them to their place when all are there and whole."""
    partial = copy / ".fetching"
    arrived = partial / prefix.name
    try:
        for is_last in (False, True):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name in names:
                file = Path(
                    client.download_artifacts(run.info.run_id, name, str(partial))
                )  # with or without its folders
                file.replace(partial / file.name)
            problem = _problem(arrived, run.data.params)
            if not problem:
                break
            if is_last:
                raise CheckpointError(f"what MLflow has of it is damaged: {problem}; name another checkpoint or run")
        prefix.parent.mkdir(parents=True, exist_ok=True)
        for file in (*manifest.files_of(arrived), manifest.file_of(arrived)):
            file.replace(prefix.parent / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def record(tracker: Tracker, run_dir: Path, which: Logged) -> None:
    """Logs the newest whole checkpoint of those that are wanted, if the run has one; the manifest after all else."""
    if which is Logged.none:
        return
    folder = ARTIFACTS[which.value]
    found, problems = manifest.first_whole(manifest.committed(run_dir / folder))
    for problem in problems:
        log.warning("%s; it is not logged", problem.reason)
    if found is not None:
        files = (*manifest.files_of(found.prefix), manifest.file_of(found.prefix))
        tracker.params({f"{DIGEST}{file.name}": _sha256(file) for file in files})
        for file in files:
            tracker.artifact(file, folder=folder)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
