"""Buckets over HTTP: what is sent arrives, once, whatever the network does; writers that race do not mix."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from cloud import BUCKET, VARIABLE
from faults import Fault, Proxy

from mobilebert_exp.errors import ConfigError, StorageError
from mobilebert_exp.storage import folders
from mobilebert_exp.storage.bucket import Bucket, DamagedError, RacedError, crc32c
from mobilebert_exp.storage.place import Place

LARGE = 9 * 2**20  # the library sends more than 8 MiB in a session that can be continued
SHORT_S = 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all sizes, two of them hidden."""
    draw = random.Random(1)
    made = tmp_path / "folder"
    for name, size in (("a", 0), ("b", 1), ("deep/er/c", 1000), ("deep/d e+ü%2F.bin", 70_000), ("large", LARGE)):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(draw.randbytes(size))
    for number in range(5):
        (made / f"small-{number}").write_bytes(draw.randbytes(10))
    (made / ".hidden").write_bytes(b"?")
    (made / ".partial").mkdir()
    (made / ".partial" / "x").write_bytes(b"?")
    return made


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in folders.files_of(folder)}


def _upload(folder: Path, place: Place) -> folders.Transfer:
    return folders.upload(folder, place, names=folders.files_of(folder))


def test_a_folder_goes_there_and_comes_back(cloud: Proxy, place: Place, folder: Path, tmp_path: Path) -> None:
    sent = _upload(folder, place)
    assert (sent.moved, sent.skipped) == (10, 0)
    assert sent.size == sum(len(content) for content in _contents(folder).values())
    fetched = folders.download(place, tmp_path / "back")
    assert fetched == sent
    assert _contents(tmp_path / "back") == _contents(folder)
    assert not [path for path in (tmp_path / "back").rglob(".*")]


def test_what_is_unchanged_is_not_moved_again(cloud: Proxy, place: Place, folder: Path, tmp_path: Path) -> None:
    _upload(folder, place)
    folders.download(place, tmp_path / "back")
    cloud.seen.clear()
    (folder / "b").write_bytes(b"2")
    assert _upload(folder, place) == folders.Transfer(moved=1, skipped=9, size=1)
    assert folders.download(place, tmp_path / "back") == folders.Transfer(moved=1, skipped=9, size=1)
    assert sum(request.startswith("POST") for request in cloud.seen) == 1
    assert _contents(tmp_path / "back") == _contents(folder)


FAULTS = {
    "429 on uploads": Fault(pattern=r"POST /upload", kind="status", status=429, times=3),
    "503 on uploads": Fault(pattern=r"POST /upload", kind="status", status=503, times=3),
    "503 within a session": Fault(pattern=r"PUT /upload", kind="status", status=503),
    "an upload's answer is lost": Fault(pattern=r"POST /upload.*multipart", kind="lost", times=2),
    "429 on listings": Fault(pattern=r"GET /storage/v1/b/[^/]+/o\?", kind="status", status=429),
    "503 on downloads": Fault(pattern=r"GET .*alt=media", kind="status", status=503, times=3),
    "downloads are cut": Fault(pattern=r"GET .*(large|d%20e).*alt=media", kind="cut", times=3),
    "a download is damaged": Fault(pattern=r"GET .*large.*alt=media", kind="flip"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_changes_nothing(
    name: str, cloud: Proxy, place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(BUCKET, name)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library's pauses between its attempts
    fault = FAULTS[name]
    cloud.faults.append(fault)
    _upload(folder, place)
    folders.download(place, tmp_path / "back")
    assert fault.times == 0, "the fault was met"
    assert _contents(tmp_path / "back") == _contents(folder)


def test_a_damaged_upload_is_refused_and_told(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    cloud.faults.append(Fault(pattern=r"POST /upload", kind="flip_request", times=9))
    with pytest.raises(StorageError) as told:
        folders.upload(tmp_path, place, names=["file"], retry_s=SHORT_S)
    assert "\n" not in str(told.value) and str(told.value).startswith(f"{place}/file ")
    assert Bucket(BUCKET).stat((place / "file").name) is None


def test_a_download_that_stays_damaged_is_told(cloud: Proxy, place: Place, folder: Path, tmp_path: Path) -> None:
    Bucket(BUCKET).write((place / "file").name, b"x" * 5000, generation=0)
    cloud.faults.append(Fault(pattern=r"GET .*alt=media", kind="flip", times=9))
    with pytest.raises(DamagedError, match=rf"^{place}/file arrived with another checksum"):
        folders.download(place, tmp_path / "back")
    assert not list((tmp_path / "back").iterdir())


def test_a_resumed_download_is_checked_as_a_whole(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    """The library checks no answer that continues another: here the first half is cut, and the rest is damaged."""
    Bucket(BUCKET).write((place / "file").name, random.Random(2).randbytes(LARGE), generation=0)
    stored = Bucket(BUCKET).stat((place / "file").name)
    assert stored is not None
    cloud.faults += [Fault(pattern=r"GET .*alt=media", kind=kind) for kind in ("cut", "flip")]
    with pytest.raises(DamagedError):
        Bucket(BUCKET).download(stored, tmp_path / "file")


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_stays_away_is_told(status: int, cloud: Proxy, place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    cloud.faults.append(Fault(pattern="", kind="status", status=status, times=10**6))
    with pytest.raises(StorageError) as told:
        folders.upload(tmp_path, place, names=["file"], retry_s=SHORT_S)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(f"{place}/ cannot be reached (")
    assert str(told.value).endswith("); check the network, and try again")


def test_rights_and_absence_are_told(cloud: Proxy, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"^gs://no-bucket/x is not there; check the bucket's name and "):
        Bucket("no-bucket").read("x")
    cloud.faults.append(Fault(pattern=f"/b/{BUCKET}/o/x", kind="status", status=403))
    with pytest.raises(StorageError, match=rf"^gs://{BUCKET}/x is not allowed to this account \(.+\); ask its owner "):
        Bucket(BUCKET).read("x")
    monkeypatch.setenv(VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=rf"^gs://{BUCKET}/x cannot be reached \(.+\); check the network"):
        Bucket(BUCKET, retry_s=SHORT_S).read("x")


def test_nobody_is_signed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StorageError, match=rf"^gs://{BUCKET} cannot be opened: nobody is signed in "):
        Bucket(BUCKET)


def test_a_writer_that_looked_before_another_wrote_is_refused(cloud: Proxy, place: Place) -> None:
    bucket, name = Bucket(BUCKET), (place / "x").name
    first = bucket.write(name, b"1", generation=0)
    second = bucket.write(name, b"2", generation=first)
    for stale in (0, first):
        with pytest.raises(RacedError, match=rf"^{place}/x was changed by another writer meanwhile; try again$"):
            bucket.write(name, b"3", generation=stale)
        assert (bucket.read(name), second > first) == (b"2", True)
    with pytest.raises(RacedError):
        bucket.delete(name, generation=first)
    bucket.delete(name, generation=second)
    bucket.delete(name, generation=second)
    assert bucket.stat(name) is None


def test_the_last_file_is_there_only_when_the_others_are(cloud: Proxy, place: Place, folder: Path) -> None:
    cloud.faults.append(Fault(pattern=r"POST /upload.*multipart", kind="status", status=403))
    with pytest.raises(StorageError):
        folders.upload(folder, place, names=folders.files_of(folder), last=("small-4",))
    assert Bucket(BUCKET).stat((place / "small-4").name) is None
    folders.upload(folder, place, names=folders.files_of(folder), last=("small-4",))
    assert Bucket(BUCKET).stat((place / "small-4").name) is not None


@pytest.mark.parametrize("name", ["../evil", "a//b", "x/../../evil"])
def test_no_object_leads_outside(name: str, cloud: Proxy, place: Place, tmp_path: Path) -> None:
    inside = Place(BUCKET, f"outside-{len(name)}")
    Bucket(BUCKET).write(f"{inside.name}/{name}", b"evil", generation=0)
    with pytest.raises(StorageError, match=r"this name would leave the folder it is fetched into; rename "):
        folders.download(inside, tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("evil"))


def test_places() -> None:
    assert Place.parse("gs://some-bucket/a/b/") == Place("some-bucket", "a/b")
    assert str(Place.parse("gs://some-bucket") / "x") == "gs://some-bucket/x"
    for text in ("gs://", "gs:/b/x", "gs://B_C/x", "gs:///x", "/x"):
        with pytest.raises(
            ConfigError, match=rf"^shared_cache={text} is no place in a bucket; write gs://BUCKET/FOLDER$"
        ):
            Place.parse(text, key="shared_cache")


def test_the_checksum_is_the_services(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123456789")
    assert crc32c(tmp_path / "x") == "4waSgw=="  # 0xE3069283, the check value of CRC-32C in RFC 3720, B.4


def test_every_refusal_is_one_line(cloud: Proxy, place: Place, tmp_path: Path) -> None:
    mistakes: list[Callable[[], object]] = [
        lambda: Bucket("no-bucket").write("x", b"", generation=0),
        lambda: folders.upload(tmp_path, Place("no-bucket", ""), names=[]),
        lambda: folders.download(Place("no-bucket", ""), tmp_path),
    ]
    for mistake in mistakes:
        with pytest.raises(StorageError) as told:
            mistake()
        assert "\n" not in str(told.value) and "; " in str(told.value)
