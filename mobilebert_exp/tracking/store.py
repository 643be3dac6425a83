"""Which MLflow store a run goes to, as a URI that means the same wherever it is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from mobilebert_exp.errors import ConfigError

_SERVERS = ("http", "https", "databricks")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SQLITE = "sqlite:///"


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
