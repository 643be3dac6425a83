"""The tracking URI: absolute, openable, or refused in one line."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilebert_exp.errors import ConfigError
from mobilebert_exp.tracking import limits, store

OUT = "/data/out"


def test_the_config_wins_over_the_environment_and_both_over_the_default() -> None:
    assert store.resolve_uri("http://a:5000", "http://b", OUT) == "http://a:5000"
    assert store.resolve_uri(None, "http://b", OUT) == "http://b"
    assert store.resolve_uri("", "", OUT) == "sqlite:////data/out/mlflow.db"


def test_sqlite_paths_are_absolute_wherever_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.resolve_uri(None, None, "outputs") == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert store.resolve_uri("sqlite:///my.db?timeout=5", None, OUT) == f"sqlite:///{tmp_path}/my.db?timeout=5"
    assert store.resolve_uri(None, "sqlite:///x/my.db", OUT) == f"sqlite:///{tmp_path}/x/my.db"
    assert store.resolve_uri("sqlite:////x/my.db", None, OUT) == "sqlite:////x/my.db"
    assert store.sqlite_file("sqlite:////x/my.db?timeout=5") == Path("/x/my.db")
    assert store.artifact_root("sqlite:////x y/my.db") == "file:///x%20y/mlartifacts"
    assert store.artifact_root("http://host") == ""


@pytest.mark.parametrize("uri", ["http://h", "https://h/p", "postgresql+psycopg2://h/db", "mysql://h/db", "databricks"])
def test_servers_and_databases_pass_as_they_are(uri: str) -> None:
    assert store.resolve_uri(uri, None, OUT) == uri


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("mlruns", "a plain path"),
        ("./mlruns", "a plain path"),
        ("/abs/mlruns", "a plain path"),
        ("file:///abs/mlruns", "a file store"),
        ("file:mlruns", "a file store"),
        ("htp://host", "of an unknown kind"),
    ],
)
def test_what_mlflow_no_longer_opens_is_one_line_with_the_remedy(uri: str, kind: str) -> None:
    expected = (
        f"tracking.uri={uri} is {kind}, which MLflow cannot open; "
        "use tracking.uri=sqlite:////data/out/mlflow.db, or the http:// address of a server"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        store.resolve_uri(uri, None, OUT)
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI="):
        store.resolve_uri(None, uri, OUT)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_a_store_in_memory_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"is gone when the process ends; use tracking\.uri=sqlite:////data/out"):
        store.resolve_uri(uri, None, OUT)


@pytest.mark.parametrize("output_dir", ["/data/a%20b", "/data/what?"])
def test_an_output_dir_that_no_uri_can_name_is_refused(output_dir: str) -> None:
    with pytest.raises(ConfigError, match=r"which an MLflow SQLite store cannot; rename it"):
        store.resolve_uri(None, None, output_dir)


def test_passwords_are_masked() -> None:
    assert store.public("at http://me:secret@host/x and sqlite:////a@b") == "at http://***@host/x and sqlite:////a@b"
    assert "secret" not in store.open_command("https://me:secret@host/", experiment_id="1", run_id="r")
    with pytest.raises(ConfigError) as caught:
        store.resolve_uri("htp://me:secret@host", None, OUT)
    assert "secret" not in str(caught.value)


def test_the_command_that_opens_a_run() -> None:
    assert store.open_command("http://h:5000/", experiment_id="3", run_id="r") == "http://h:5000/#/experiments/3/runs/r"
    local = store.open_command("sqlite:////a b/mlflow.db", experiment_id="3", run_id="r")
    assert local.startswith("mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db' ")
    assert local.endswith("#/experiments/3/runs/r")
    assert store.open_command("databricks", experiment_id="3", run_id="r") == ""


@given(name=st.text(max_size=400))
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    key = limits.key(name)
    assert 0 < len(key) <= limits.MAX_KEY_LENGTH
    assert re.fullmatch(r"[/\w.\- ]*", key)
    assert posixpath.normpath(key) == key and not key.startswith(("/", ".."))


@given(left=st.text("ab/@.: é", max_size=6), right=st.text("ab/@.: é", max_size=6))
def test_different_names_stay_different(left: str, right: str) -> None:
    assert (limits.key(left) == limits.key(right)) == (left == right)


def test_good_names_stay_as_they_are_and_long_ones_stay_apart() -> None:
    for name in ("loss", "dev/f1", "task.optimizer.learning_rate", "F1 score", "train/steps_per_second"):
        assert limits.key(name) == name
    assert limits.key("f1@dev") == "f1_x40_dev"
    assert limits.key("x" * 300 + "a") != limits.key("x" * 300 + "b")


def test_long_texts_are_cut_visibly_and_stay_apart() -> None:
    left, right = (limits.cut("y" * 9000 + end, limit=6000, whole="w/k.txt") for end in "ab")
    assert len(left) == len(right) == 6000
    assert left != right
    assert re.search(r"y … \[9001 characters, sha256 \w{12}, whole in artifact w/k\.txt\]$", left)
