"""`python -m mobilebert_exp doctor [gs://BUCKET/FOLDER] [KEY=VALUE …]`: whether this machine can run experiments.

One line a check, `ok` or `fail` with the remedy. Exit code 0 if all are ok, else 2.
"""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilebert_exp.errors import ConfigError, StorageError, UserError
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import GS, Place
from mobilebert_exp.tracking import store

LEAST_MEMORY = 2 * 2**30  # what the starter experiment needs
LEAST_DISK = 2**30
KEYS = {"output_dir": "outputs", "cache_dir": "~/.cache/mobilebert_exp", "tracking.uri": ""}
USAGE = "python -m mobilebert_exp doctor [gs://BUCKET/FOLDER] [output_dir=DIR] [cache_dir=DIR] [tracking.uri=URI]"


@dataclass(kw_only=True, frozen=True, slots=True)
class Asked:
    """What is to be checked: the settings that name places, as an experiment's, and the places in buckets."""

    settings: dict[str, str]
    places: list[Place]


def main(arguments: list[str]) -> int:
    """Checks, prints, and returns the exit code.

    Raises:
      ConfigError: an argument is neither a place in a bucket nor one of `KEYS`.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{USAGE}")
        return 0
    failures = 0
    for name, check in _checks(_asked(arguments)):
        started = time.monotonic()
        try:
            found, state = check(), "ok"
        except Exception as problem:  # a broken installation fails in any way, and the other checks still tell
            found, state = _told(problem), "fail"
            failures += 1
        seconds = time.monotonic() - started
        print(f"{state:<4}  {name:<10}  {found}{f'  ({seconds:.1f} s)' if seconds >= 1 else ''}", flush=True)
    return 2 if failures else 0


def _told(problem: Exception) -> str:
    """One line with the remedy, also of what nobody foresaw."""
    if isinstance(problem, UserError):
        return str(problem)
    reason = next(iter(str(problem).splitlines()), "")
    return f"cannot be checked ({type(problem).__name__}: {reason}); install requirements/run.lock anew"


def _asked(arguments: list[str]) -> Asked:
    settings, places = dict(KEYS), []
    for argument in arguments:
        key, is_setting, value = argument.partition("=")
        if argument.startswith(GS):
            places.append(Place.parse(argument))
        elif is_setting and key in KEYS and value:
            settings[key] = value
        else:
            raise ConfigError(f"doctor {argument}: no place in a bucket and none of its settings; write {USAGE}")
    return Asked(settings=settings, places=places)


def _checks(asked: Asked) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "python", _python
    yield "packages", _packages
    yield "tensorflow", _tensorflow
    yield "tf_keras", _tf_keras
    yield "cores", lambda: f"{len(os.sched_getaffinity(0))} may be used"
    yield "memory", _memory
    for key in ("output_dir", "cache_dir"):
        yield key, lambda key=key: _folder(key, asked.settings[key])  # type: ignore[misc]
    yield "mlflow", lambda: _mlflow(asked.settings)
    for place in asked.places:
        yield "bucket", lambda place=place: _bucket(place)  # type: ignore[misc]


def _python() -> str:
    if sys.version_info[:2] != (3, 11):
        raise ConfigError(f"{sys.version.split()[0]} is not Python 3.11; make a virtual environment of 3.11")
    return sys.version.split()[0]


def _packages() -> str:
    """The packages that a run needs, by the names under which they are installed."""
    needed = ("tf-models-official", "mlflow", "hydra-core", "tokenizers", "google-cloud-storage")
    found = []
    for name in needed:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(f"{name} is not installed; run make run, or pip install the wheel") from None
    return ", ".join(found)


def _tensorflow() -> str:
    try:
        import tensorflow as tf
    except Exception as problem:  # a broken installation fails in any way: a missing library, another CPU, versions
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ConfigError(f"TensorFlow cannot be imported ({reason}); install requirements/run.lock anew") from None
    devices = [device.device_type for device in tf.config.list_physical_devices()]
    return f"{tf.__version__}, {', '.join(f'{devices.count(kind)} {kind}' for kind in sorted(set(devices)))}"


def _tf_keras() -> str:
    import tf_keras

    if os.environ.get("TF_USE_LEGACY_KERAS") != "1":
        raise ConfigError("TF_USE_LEGACY_KERAS is not 1, so TensorFlow uses Keras 3; unset it, or set it to 1")
    return f"{tf_keras.__version__}, used by TensorFlow"


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (page * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    if total < LEAST_MEMORY:
        raise ConfigError(f"{_gib(total)} in all, and the starter experiment needs 2 GiB; use a larger machine")
    return f"{_gib(total)}, {_gib(free)} free"


def _folder(key: str, name: str) -> str:
    """Writes into the folder, or into the nearest one above it that exists."""
    folder = Path(name).expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(b"\0")
        free = shutil.disk_usage(there).free
    except OSError as problem:
        raise ConfigError(f"{folder} cannot be written ({problem.strerror}); set {key} to a place that can") from None
    if free < LEAST_DISK:
        raise ConfigError(f"{folder}: {_gib(free)} free, and a run needs 1 GiB or more; make room, or set {key}")
    return f"{folder}: can be written, {_gib(free)} free"


def _mlflow(settings: dict[str, str]) -> str:
    named = settings["tracking.uri"] or None
    uri = store.resolve_uri(named, os.environ.get("MLFLOW_TRACKING_URI"), settings["output_dir"])
    store.probe(uri)
    return f"{store.public(uri)} answers" if store.sqlite_file(uri) is None else f"{uri} can be written"


def _bucket(place: Place) -> str:
    """Writes, reads and deletes one object, and leaves nothing behind."""
    content = secrets.token_bytes(1024)
    bucket = Bucket(place.bucket, retry_s=30.0)
    name = (place / f"doctor-{secrets.token_hex(8)}").name
    generation = bucket.write(name, content, generation=0)
    try:
        found = bucket.read(name, generation=generation)
    finally:
        bucket.delete(name, generation=generation)
    if found != content:
        raise StorageError(f"{place}: what was written is not what was read; try another bucket")
    return f"{place}: one object written, read and deleted"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
