"""The doctor: one line a check, the remedy where it fails, and an exit code that tells."""

from __future__ import annotations

import http.server
import re
import sqlite3
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
from cloud import BUCKET
from command_line import here, process
from faults import Fault, Proxy

from mobilebert_exp import doctor
from mobilebert_exp.errors import ConfigError
from mobilebert_exp.storage.bucket import Bucket
from mobilebert_exp.storage.place import Place
from mobilebert_exp.tracking import store

LINE = re.compile(r"(ok  |fail)  (\w+) +(.+)")
CHECKS = ["python", "packages", "tensorflow", "tf_keras", "cores", "memory", "output_dir", "cache_dir", "mlflow"]


def _places(folder: Path) -> list[str]:
    return [f"output_dir={folder}/outputs", f"cache_dir={folder}/cache"]


def _read(text: str) -> dict[str, tuple[str, str]]:
    """State and text by check."""
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(found), text
    return {line[2]: (line[1].strip(), line[3]) for line in found if line}


def test_a_sound_machine_and_bucket(cloud: Proxy, tmp_path: Path) -> None:
    ended = process("doctor", f"gs://{BUCKET}/some/folder", *_places(tmp_path), cwd=tmp_path)
    found = _read(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert list(found) == [*CHECKS, "bucket"]
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["bucket"][1].startswith(f"gs://{BUCKET}/some/folder: one object written, read and deleted")
    assert found["tensorflow"][1].startswith("2.20")
    assert Bucket(BUCKET).list("some/") == {}, "nothing is left in the bucket"
    assert not list(tmp_path.iterdir()), "and nothing on the disk"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TensorFlow, which takes seconds."""
    monkeypatch.setattr(doctor, "_tensorflow", lambda: "not looked at")
    monkeypatch.setattr(doctor, "_tf_keras", lambda: "not looked at")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(pattern="POST", kind="status", status=403), "is not allowed to this account"),
        (Fault(pattern="alt=media", kind="status", status=403), "is not allowed to this account"),
        (Fault(pattern="DELETE", kind="status", status=403), "is not allowed to this account"),
        (Fault(pattern="alt=media", kind="flip"), "arrived with another checksum than it was sent with; try again"),
    ],
    ids=["write", "read", "delete", "damaged"],
)
def test_a_bucket_that_does_not_do(fault: Fault, text: str, cloud: Proxy, place: Place, tmp_path: Path) -> None:
    cloud.faults.append(fault)
    ended = here("doctor", str(place), *_places(tmp_path))
    state, told = _read(ended.out)["bucket"]
    assert (ended.code, state, fault.times) == (2, "fail", 0)
    assert text in told
    if fault.pattern != "DELETE":
        assert Bucket(BUCKET).list(f"{place.name}/") == {}, "what could be written was removed"


@pytest.mark.usefixtures("quick")
def test_a_bucket_whose_answer_is_lost(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    cloud.faults.append(Fault(pattern="POST /upload", kind="lost"))
    ended = here("doctor", str(place), *_places(tmp_path))
    assert (ended.code, _read(ended.out)["bucket"][0], cloud.faults[0].times) == (0, "ok", 0)
    assert Bucket(BUCKET).list(f"{place.name}/") == {}


def test_what_nobody_foresaw_ends_one_check_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_tensorflow", lambda: "not looked at")
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    ended = here("doctor", *_places(tmp_path))
    found = _read(ended.out)
    assert (ended.code, ended.err, list(found)) == (2, "", CHECKS)
    state, told = found["tf_keras"]
    assert (state, told.endswith("; install requirements/run.lock anew")) == ("fail", True)
    assert told.startswith("cannot be checked (ModuleNotFoundError: ")


@pytest.mark.usefixtures("quick")
def test_a_bucket_that_is_not_there(cloud: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = here("doctor", "gs://no-bucket", *_places(tmp_path))
    assert _read(ended.out)["bucket"][0] == "fail"
    assert ended.code == 2


@pytest.mark.usefixtures("quick")
def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database")
    ended = here(
        "doctor",
        f"output_dir={tmp_path}/file/x",
        f"cache_dir={tmp_path}/file",
        f"tracking.uri=sqlite:///{tmp_path}/file",
    )
    found = _read(ended.out)
    assert ended.code == 2
    assert found["output_dir"] == (
        "fail", f"{tmp_path}/file/x cannot be written (Not a directory); set output_dir to a place that can",
    )  # fmt: skip
    assert found["cache_dir"][0] == "fail"
    assert found["mlflow"] == (
        "fail", f"{tmp_path}/file is no database (file is not a database); move it away, or set tracking.uri",
    )  # fmt: skip


@pytest.mark.usefixtures("quick")
def test_too_little_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 2**29))
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18, "SC_AVPHYS_PAGES": 1}.__getitem__)
    monkeypatch.setattr("sys.version_info", (3, 12, 0, "final", 0))
    found = _read(here("doctor", *_places(tmp_path)).out)
    assert found["memory"] == ("fail", "1.0 GiB in all, and the starter experiment needs 2 GiB; use a larger machine")
    assert found["cache_dir"] == (
        "fail", f"{tmp_path}/cache: 0.5 GiB free, and a run needs 1 GiB or more; make room, or set cache_dir",
    )  # fmt: skip
    assert found["python"][1].endswith("is not Python 3.11; make a virtual environment of 3.11")


@pytest.mark.parametrize("argument", ["bucket", "gs://", "seed=1", "cache_dir=", "--verbose"])
def test_arguments_that_mean_nothing_to_it(argument: str) -> None:
    ended = here("doctor", argument)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith("error: ") and "gs://BUCKET/FOLDER" in ended.err


def test_its_help_is_light() -> None:
    ended = here("doctor", "--help")
    assert ended.code == 0
    assert doctor.USAGE in ended.out


def _server(status: int) -> http.server.ThreadingHTTPServer:
    class Answers(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status if self.path == "/api/2.0/mlflow/experiments/search" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, ""),
        (401, " asks who you are (HTTP 401); put user:password@ into tracking.uri"),
        (404, " answers HTTP 404, as no MLflow server does; set tracking.uri to one"),
    ],
)
def test_an_mlflow_server(status: int, text: str) -> None:
    with _server(status) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}"
        if text:
            with pytest.raises(ConfigError) as told:
                store.probe(uri)
            assert str(told.value) == uri + text
        else:
            store.probe(uri)
        server.shutdown()
    with pytest.raises(
        ConfigError, match=r"^http://\*\*\*@127.0.0.1:9 does not answer; start the server, or set tracking.uri$"
    ):
        store.probe("http://me:secret@127.0.0.1:9")


def test_a_sqlite_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store.probe(uri)
    assert not list(tmp_path.iterdir()), "asking makes none"
    sqlite3.connect(tmp_path / "mlflow.db").execute("CREATE TABLE x (y)")
    store.probe(uri)
