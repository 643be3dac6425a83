"""What every test stands on: TensorFlow's environment, repeatable randomness, and where the shared data lie."""

from __future__ import annotations

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # as the command line sets it, and like it before any import of TensorFlow
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.pop("STORAGE_EMULATOR_HOST", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)  # a person's own server is no place for the runs of tests

import gc
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import replicas
from absl import logging as absl_logging
from cloud import BUCKET, VARIABLE, spoilt
from faults import Proxy
from hypothesis import settings

from mobilebert_exp.storage.place import Place

SHARED_DATA = "MOBILEBERT_EXP_SHARED_DATA"

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
# Hydra's logging closes all handlers before it, and absl's closes its stream, unless that is the process's own.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws without a seed of its own draws the same on every run."""
    random.seed(0)
    np.random.seed(0)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _tidy() -> Iterator[None]:
    """What a module leaves behind (TensorFlow's graphs, mostly) is not searched for garbage again and again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _together(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What takes minutes is measured once for all processes of a run."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        replicas.shared_folder.append(tmp_path_factory.getbasetemp().parent)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top folder of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data(checkout: Path) -> Path:
    """Real SQuAD, GLUE and XNLI parts with their vocabularies; they are no part of the repository."""
    named = os.environ.get(SHARED_DATA)
    folder = Path(named) if named else checkout.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"shared data absent: {folder} is not there; name the folder in {SHARED_DATA}")
    return folder


@pytest.fixture(scope="session")
def _bucket_server() -> Iterator[Proxy]:
    with spoilt() as proxy:
        yield proxy


@pytest.fixture
def cloud(_bucket_server: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """A server of buckets behind a network with nothing wrong yet; earlier tests' objects lie under other names."""
    monkeypatch.setenv(VARIABLE, _bucket_server.url)
    _bucket_server.faults.clear()
    _bucket_server.seen.clear()
    return _bucket_server


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """A folder of the test's own in the bucket."""
    return Place(BUCKET, request.node.name.replace("[", "-").rstrip("]"))
