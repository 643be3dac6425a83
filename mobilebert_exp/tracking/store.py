"""Which MLflow store a run goes to, as a URI that means the same wherever it is read."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from mobilebert_exp.errors import ConfigError

_SERVERS = ("http", "https", "databricks")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SQLITE = "sqlite:///"
_PROBE_S = 10.0


def resolve_uri(uri: str | None, environment: str | None, output_dir: str | Path) -> str:
    """The tracking URI: `uri` (tracking.uri), else `environment` (MLFLOW_TRACKING_URI), else a SQLite file.

    The SQLite file is `<output_dir>/mlflow.db`; its path is absolute in every case, because processes that share
    a store need not share a working directory.

    Raises:
      ConfigError: a URI that MLflow cannot open, in one line with the remedy.
    """
    if uri:
        return _checked(uri, origin="tracking.uri", output_dir=Path(output_dir))
    if environment:
        return _checked(environment, origin="MLFLOW_TRACKING_URI", output_dir=Path(output_dir))
    return _sqlite_uri(_default_file(Path(output_dir)), origin="output_dir")


def artifact_root(uri: str) -> str:
    """Where a new experiment keeps its artifacts: beside the SQLite file; "" leaves it to MLflow or its server."""
    database = sqlite_file(uri)
    return (database.parent / "mlartifacts").as_uri() if database else ""


def sqlite_file(uri: str) -> Path | None:
    """The database file behind a SQLite URI; None for any other URI."""
    if not uri.startswith("sqlite"):
        return None
    return Path(uri.partition(":///")[2].partition("?")[0])


def public(text: str) -> str:
    """The text with the passwords of its URIs masked."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


def open_command(uri: str, *, experiment_id: str, run_id: str) -> str:
    """The shell command that opens a run in MLflow's UI; for a server, its address."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}"
    if urlsplit(uri).scheme in ("http", "https"):
        return f"{public(uri).rstrip('/')}/{page}"
    if uri.startswith("databricks"):
        return ""
    return f"mlflow ui --backend-store-uri {shlex.quote(public(uri))} --port 5000  # http://127.0.0.1:5000/{page}"


def _checked(uri: str, *, origin: str, output_dir: Path) -> str:
    scheme = urlsplit(uri).scheme.partition("+")[0]
    remedy = f"use {origin}={_SQLITE}{_default_file(output_dir)}, or the http:// address of a server"
    if uri == "databricks" or scheme in _SERVERS:
        return uri
    if scheme not in _DATABASES:
        kind = "a plain path" if not scheme else "a file store" if scheme == "file" else "of an unknown kind"
        raise ConfigError(f"{origin}={public(uri)} is {kind}, which MLflow cannot open; {remedy}")
    if scheme != "sqlite":
        return uri
    prefix, _, rest = uri.partition(":///")
    name, mark, query = rest.partition("?")
    if not name or name.startswith(":memory:"):
        raise ConfigError(f"{origin}={uri} is gone when the process ends; {remedy}")
    return f"{prefix}:///{Path(name).expanduser().absolute()}{mark}{query}"


def _default_file(output_dir: Path) -> Path:
    return output_dir.expanduser().absolute() / "mlflow.db"


def _sqlite_uri(path: Path, *, origin: str) -> str:
    # SQLAlchemy reads %41 and ? in a URI's path; MLflow makes folders of the path before that, so quoting won't do.
    if re.search(r"\?|%[0-9a-fA-F]{2}", str(path)):
        raise ConfigError(
            f"{origin}={path.parent} has a ? or a %-code in its name, which an MLflow SQLite store cannot; rename it"
        )
    return f"{_SQLITE}{path}"


def probe(uri: str) -> None:
    """Whether the store behind a resolved URI can be used, without making one.

    Raises:
      ConfigError: it cannot, in one line with the remedy.
    """
    database = sqlite_file(uri)
    if database is not None:
        _probe_sqlite(database)
    elif urlsplit(uri).scheme in ("http", "https"):
        _probe_server(uri)
    else:
        _probe_client(uri)


def _probe_sqlite(database: Path) -> None:
    there = next(path for path in (database, *database.parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{database} cannot be written; set output_dir or tracking.uri to a place that can")
    if there == database:
        try:
            with contextlib.closing(sqlite3.connect(database)) as opened:
                opened.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as problem:
            raise ConfigError(f"{database} is no database ({problem}); move it away, or set tracking.uri") from None


def _probe_server(uri: str) -> None:
    import requests

    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    try:
        status = requests.post(address, json={"max_results": 1}, timeout=_PROBE_S).status_code
    except requests.RequestException:
        raise ConfigError(f"{public(uri)} does not answer; start the server, or set tracking.uri") from None
    if status in (401, 403):
        raise ConfigError(f"{public(uri)} asks who you are (HTTP {status}); put user:password@ into tracking.uri")
    if status != 200:
        raise ConfigError(f"{public(uri)} answers HTTP {status}, as no MLflow server does; set tracking.uri to one")


def _probe_client(uri: str) -> None:
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception as problem:  # whatever the database's driver raises
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ConfigError(
            f"{public(uri)} cannot be opened ({public(reason)}); set tracking.uri to one that can"
        ) from None
