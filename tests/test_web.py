"""Files from the web: whole or not at all, what they should be, or one line that says why not."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from publisher import Publisher, publishing

from mobilebert_exp import files
from mobilebert_exp.errors import DataError, OutputError
from mobilebert_exp.storage import web
from mobilebert_exp.storage.web import File

CONTENT = random.Random(0).randbytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REMEDY = "do this"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A publisher of one file, waited for as little as can be."""
    monkeypatch.setattr(web, "BACKOFF_S", 0.01)
    with publishing(file=CONTENT) as publisher:
        yield publisher


def _fetch(site: Publisher, folder: Path, *, known: bool = True) -> Path:
    file = (
        File(address=f"{site.url}/file", size=len(CONTENT), sha256=SHA256)
        if known
        else File(address=f"{site.url}/file")
    )
    return web.fetch(file, folder / "file", remedy=REMEDY)


def _whole(size: int) -> int:
    """What is kept of so many bytes that have arrived."""
    return size - size % web.CHUNK_BYTES


def _left(folder: Path) -> list[str]:
    """What lies there beside the lock."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_a_file_is_fetched_once(site: Publisher, tmp_path: Path) -> None:
    for _ in range(2):
        assert _fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.seen == [""]
    assert _left(tmp_path) == [".file.json", "file"]


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_was_cut_is_continued(known: bool, site: Publisher, tmp_path: Path) -> None:
    site.cuts = [1_000_000, 1, 500_000]  # the middle one brings nothing that could be kept
    assert _fetch(site, tmp_path, known=known).read_bytes() == CONTENT
    assert site.seen == [
        "",
        f"bytes={_whole(1_000_000)}-",
        f"bytes={_whole(1_000_000)}-",
        f"bytes={_whole(1_500_000)}-",
    ]


def test_a_later_process_continues(site: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CUTS", 0)
    site.cuts = [1_000_000]
    with pytest.raises(DataError, match=r"\(the connection was cut 0 times in a row\); do this$"):
        _fetch(site, tmp_path)
    assert not (tmp_path / "file").exists()
    assert _fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.seen == ["", f"bytes={_whole(1_000_000)}-"]


@pytest.mark.parametrize("missing", ["ranges", "tag"])
def test_a_server_that_cannot_continue_sends_all_again(missing: str, site: Publisher, tmp_path: Path) -> None:
    site.cuts = [1_000_000]
    setattr(site, missing, {"ranges": False, "tag": ""}[missing])
    assert _fetch(site, tmp_path).read_bytes() == CONTENT
    assert len(site.seen) == 2


def test_another_version_is_not_appended_to_the_first(
    site: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "CUTS", 0)
    site.cuts = [1_000_000]
    with pytest.raises(DataError):
        _fetch(site, tmp_path, known=False)
    site.files["/file"], site.tag = CONTENT[::-1], '"second"'
    assert _fetch(site, tmp_path, known=False).read_bytes() == CONTENT[::-1]


def test_what_an_earlier_process_left_is_not_trusted(site: Publisher, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"x" * 1000)
    (tmp_path / ".file.part.json").write_text(json.dumps({"address": f"{site.url}/file", "validator": site.tag}))
    assert _fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.seen == ["bytes=1000-", ""]


def test_a_busy_server_is_asked_again(site: Publisher, tmp_path: Path) -> None:
    site.statuses = [503, 429, 500]
    assert _fetch(site, tmp_path).read_bytes() == CONTENT
    assert len(site.seen) == 4


def test_a_server_that_asks_for_hours(
    site: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waited.append)
    site.statuses, site.retry_after = [503, 429], "7200"
    assert _fetch(site, tmp_path).read_bytes() == CONTENT
    assert waited == [web.MOST_WAIT_S] * 2
    assert caplog.text.count("the server asks to wait for 7200 s; waiting for 60 s") == 2


def test_who_waits_for_another_process_says_so(
    site: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "SILENT_WAIT_S", 0.05)
    with (tmp_path / ".file.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        later = threading.Timer(1.0, fcntl.flock, (held, fcntl.LOCK_UN))
        later.start()
        assert _fetch(site, tmp_path).read_bytes() == CONTENT
        later.join()
    assert f"another process is making {tmp_path}/file; waiting for it" in caplog.text


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [([404], "HTTP 404 Not Found"), ([403], "HTTP 403 Forbidden"), ([503] * 99, "HTTP 503, again and again")],
)
def test_a_server_that_refuses(statuses: list[int], reason: str, site: Publisher, tmp_path: Path) -> None:
    site.statuses = statuses
    with pytest.raises(DataError) as told:
        _fetch(site, tmp_path)
    assert str(told.value) == f"file cannot be fetched from {site.url}/file ({reason}); {REMEDY}"
    assert _left(tmp_path) == []


@pytest.mark.parametrize("bad", [CONTENT[:-1], CONTENT[:-1] + b"?", b""], ids=["short", "altered", "empty"])
def test_a_file_that_is_not_what_it_should_be(bad: bytes, site: Publisher, tmp_path: Path) -> None:
    site.files["/file"] = bad
    with pytest.raises(DataError) as told:
        _fetch(site, tmp_path)
    assert str(told.value) == (
        f"{site.url}/file gave {len(bad)} bytes with sha256 {hashlib.sha256(bad).hexdigest()}, not {len(CONTENT)} "
        f"bytes with sha256 {SHA256}: it was changed or damaged; {REMEDY}"
    )
    assert _left(tmp_path) == []


def test_what_no_checksum_is_known_of_is_recorded(
    site: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fetch(site, tmp_path, known=False)
    assert json.loads((tmp_path / ".file.json").read_text())["sha256"] == SHA256
    assert f"taken on trust; sha256 {SHA256}" in caplog.text


def test_a_file_put_there_by_hand_is_taken(site: Publisher, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    _fetch(site, tmp_path)
    assert site.seen == []
    (tmp_path / "file").write_bytes(CONTENT[:-1])  # cut in half later on
    assert _fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.seen == [""]


def _fetch_in_a_process(address: str, folder: str) -> None:
    web.fetch(File(address=address, size=len(CONTENT), sha256=SHA256), Path(folder) / "file", remedy=REMEDY)


def test_of_two_processes_one_fetches(site: Publisher, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fetch_in_a_process, args=(f"{site.url}/file", str(tmp_path))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    assert [each.exitcode for each in both] == [0, 0]
    assert site.seen == [""]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_place_that_cannot_be_written(site: Publisher, tmp_path: Path) -> None:
    (tmp_path / "below").write_text("a file")
    with pytest.raises(
        OutputError, match=r"^cache_dir .+/below cannot be written \(.+\); make room, or choose another$"
    ):
        _fetch(site, tmp_path / "below")
