"""Files from the web: continued where they were cut, checked, seen whole or not at all, fetched by one process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.errors import DataError, MissingDataError, OutputError
from mobilebert_exp.files import making, write_json

if TYPE_CHECKING:
    import requests
    from urllib3.util import Retry

log = logging.getLogger(__name__)
TIMEOUT_S = (10.0, 60.0)  # to connect, and between two packets
CONNECTIONS, ANSWERS = 2, 5  # how often a connection, or an answer 429 or 5xx, is tried again before it is a failure
CUTS = 5  # how often in a row a transfer may end without a new byte
BACKOFF_S = 0.5
MOST_WAIT_S = 60.0  # whatever a server asks for in Retry-After
CHUNK_BYTES = 2**16  # what is lost of a transfer when it is cut


@dataclass(kw_only=True, frozen=True, slots=True)
class File:
    """A file on the web. `size` in bytes and `sha256` are what must arrive; None where nobody has told them."""

    address: str
    size: int | None = None
    sha256: str | None = None


class _CutError(Exception):
    """The transfer ended before its end."""


def fetch(file: File, target: Path, *, remedy: str) -> Path:
    """Brings a file to `target`, unless it is there.

    What nobody has told a checksum for is taken on trust the first time, and its checksum is logged and kept beside it.

    Args:
      remedy: what a person without a network can do, for the message.

    Raises:
      DataError: it cannot be had, or is not what it should be.
      OutputError: the place cannot be written.
    """
    try:
        with making(target):
            if not _is_there(file, target):
                _fetch(file, target, remedy=remedy)
    except OSError as problem:
        raise OutputError(
            f"{target} cannot be written ({problem.strerror}); make room, or choose another cache_dir"
        ) from None
    return target


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{what}")


def _is_there(file: File, target: Path) -> bool:
    """Whether the file lies there as it was fetched, or was put there by hand and is what it should be."""
    if not target.is_file():
        return False
    known, size = _record(_beside(target, "json")), target.stat().st_size
    if known.get("address") == file.address and known.get("size") == size and file.sha256 in (None, known["sha256"]):
        return True
    if file.sha256 is not None and file.size in (None, size) and _digest(target) == file.sha256:
        write_json(_beside(target, "json"), asdict(File(address=file.address, size=size, sha256=file.sha256)))
        return True
    log.warning("%s is not what was fetched from %s; fetching it again", target, file.address)
    return False


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(file: File, target: Path, *, remedy: str) -> None:
    import requests

    partial = _beside(target, "part")
    was_begun = partial.is_file()
    for is_last in (not was_begun, True):
        try:
            _transfer(file, partial)
            size, digest = partial.stat().st_size, _digest(partial)
        except (requests.RequestException, _CutError) as problem:
            kind = MissingDataError if _is_absent(problem) else DataError
            raise kind(f"{target.name} cannot be fetched from {file.address} ({_reason(problem)}); {remedy}") from None
        if file.size in (None, size) and file.sha256 in (None, digest):
            break
        _discard(partial)  # what an earlier process began may be of another file; a whole one is tried once
        if is_last:
            raise DataError(
                f"{file.address} gave {size} bytes with sha256 {digest}, not {file.size or 'the'} bytes with sha256 "
                f"{file.sha256}: it was changed or damaged; {remedy}"
            )
    if file.sha256 is None:
        log.warning(
            "%s: no checksum is known, so it is taken on trust; sha256 %s, kept beside it", file.address, digest
        )
    write_json(_beside(target, "json"), asdict(File(address=file.address, size=size, sha256=digest)))
    partial.replace(target)
    _beside(target, "part.json").unlink(missing_ok=True)


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)


def _is_absent(problem: Exception) -> bool:
    """Whether the server says that it has no such file."""
    response = getattr(problem, "response", None)
    return response is not None and response.status_code in (404, 410)


def _reason(problem: Exception) -> str:
    import requests

    if isinstance(problem, requests.HTTPError) and problem.response is not None:
        return f"HTTP {problem.response.status_code} {problem.response.reason}".rstrip()
    if isinstance(problem, requests.exceptions.RetryError):
        codes = re.findall(r"too many (\d+) error", str(problem))
        return f"HTTP {codes[0]}, again and again" if codes else "the server is overloaded"
    if isinstance(problem, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(problem, requests.Timeout):
        return "it does not answer in time"
    if isinstance(problem, requests.exceptions.InvalidURL):
        return "it is no address"
    if isinstance(problem, _CutError):
        return f"the connection was cut {CUTS} times in a row"
    return "no connection"


def _transfer(file: File, partial: Path) -> None:
    """Fetches the rest, as often as the connection is cut, as long as each attempt brings something new."""
    cuts, before = 0, -1
    with _session() as session, _progress(partial.name) as show:
        while True:
            try:
                _attempt(session, file, partial, show)
                return
            except _CutError:
                have = partial.stat().st_size if partial.is_file() else 0
                cuts, before = (cuts + 1 if have <= before else 0), have
                if cuts >= CUTS:
                    raise
                log.info("%s was cut after %d bytes; going on", file.address, have)


def _session() -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter

    policy = _patience(
        total=CONNECTIONS + ANSWERS,
        connect=CONNECTIONS,
        read=CONNECTIONS,
        status=ANSWERS,
        backoff_factor=BACKOFF_S,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET",),
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it tries again it need not tell; the end is told here
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=policy))
    return session


def _patience(**settings: Any) -> Retry:
    """A policy that waits as long as a server asks for, but not for ever, and says so."""
    from urllib3.util import Retry

    class Patience(Retry):
        def get_retry_after(self, response: Any) -> float | None:
            asked = super().get_retry_after(response)
            if not asked:
                return None
            log.warning("the server asks to wait for %.0f s; waiting for %.0f s", asked, min(asked, MOST_WAIT_S))
            return min(asked, MOST_WAIT_S)

    return Patience(**settings)


def _attempt(session: requests.Session, file: File, partial: Path, show: Any) -> None:
    """One request for what is missing; raises _CutError, or what requests raises, where the end was not reached."""
    note = partial.with_name(f"{partial.name}.json")
    known = _record(note)
    is_ours = known.get("address") == file.address and known.get("validator") and partial.is_file()
    have = partial.stat().st_size if is_ours else 0
    headers = {"Accept-Encoding": "identity"}  # a range counts the bytes as they are sent
    if have:  # RFC 9110, 13.1.5: the rest of the same file, or the whole of another
        headers |= {"Range": f"bytes={have}-", "If-Range": str(known["validator"])}
    with session.get(file.address, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:  # more is there than the file has
            _discard(partial)
            raise _CutError
        response.raise_for_status()
        first, total = _extent(response)
        if first not in (0, have):
            _discard(partial)
            raise _CutError
        write_json(note, {"address": file.address, "validator": _validator(response)})
        with partial.open("r+b" if first else "wb") as out:
            out.seek(first)
            out.truncate()
            for chunk in _chunks(response):
                out.write(chunk)
                out.flush()  # what has arrived outlives this process
                show(out.tell(), total)
            done = out.tell()
    if total is not None and done != total:
        raise _CutError


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The content; raises _CutError where the connection ends before it does."""
    import requests

    try:
        yield from response.iter_content(CHUNK_BYTES)
    except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
        raise _CutError from None


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """The first byte that an answer brings, and the bytes of the whole file, if they are told."""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None:
            return -1, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    told = response.headers.get("Content-Length", "")
    is_plain = response.headers.get("Content-Encoding", "identity") == "identity"
    return 0, int(told) if told.isdecimal() and is_plain else None


def _validator(response: requests.Response) -> str:
    """What names this content of the address; "" where a transfer cannot be continued."""
    tag = response.headers.get("ETag", "")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return ""
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Any]:
    """A function of the bytes that are there and the bytes of all, which shows them on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        row = bar.add_task(name.strip(".").removesuffix(".part"), total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)
