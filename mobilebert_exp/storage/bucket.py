"""Objects of Cloud Storage through google-cloud-storage: retried, checked by crc32c, written under preconditions.

The library itself reads STORAGE_EMULATOR_HOST, which names another server; then nobody has to sign in.
A generation is the number that Cloud Storage gives to each content of an object; 0 stands for "is not there yet".
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilebert_exp.errors import StorageError
from mobilebert_exp.storage.place import GS

RETRY_S = 120.0  # the library's own default
TIMEOUT_S = (10.0, 60.0)  # to connect, and between two packets
_SIGN_IN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"


class RacedError(StorageError):
    """Another writer changed the object after it was looked at."""


class AbsentError(StorageError):
    """No such object, or bucket."""


class DamagedError(StorageError):
    """What arrived is not what was sent."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Stored:
    """An object as it lies in its bucket; `crc32c` is base64, as the service tells it."""

    name: str
    size: int
    crc32c: str
    generation: int

    def equals(self, file: Path) -> bool:
        """Whether a local file has the same content."""
        return file.stat().st_size == self.size and crc32c(file) == self.crc32c

    def holds(self, content: bytes) -> bool:
        """Whether this is the content."""
        import google_crc32c

        return (len(content), _shown(google_crc32c.Checksum(content))) == (self.size, self.crc32c)


def crc32c(file: Path) -> str:
    """The checksum of a file, in base64."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            checksum.update(chunk)
    return _shown(checksum)


def _shown(checksum: Any) -> str:
    return base64.b64encode(checksum.digest()).decode()


class Bucket:
    """One bucket.

    Args:
      name: without `gs://`.
      retry_s: how long what may be repeated (429, 5xx, a cut connection) is repeated, by the library's policy.

    Every method raises StorageError, in one line, when the service refuses or cannot be reached.
    """

    def __init__(self, name: str, *, retry_s: float = RETRY_S) -> None:
        self.name = name
        with _refusals(f"{GS}{name}"):
            from google.cloud import storage
            from google.cloud.storage.retry import DEFAULT_RETRY

            self._bucket = storage.Client(project="mobilebert-exp").bucket(name)  # the project only matters to bills
            self._policy: dict[str, Any] = {"retry": DEFAULT_RETRY.with_timeout(retry_s), "timeout": TIMEOUT_S}

    def list(self, prefix: str) -> dict[str, Stored]:
        """Every object whose name begins with `prefix`, by name."""
        with self._refusals(prefix):
            return {blob.name: _stored(blob) for blob in self._bucket.list_blobs(prefix=prefix, **self._policy)}

    def stat(self, name: str) -> Stored | None:
        """What lies under a name; None if nothing does."""
        with self._refusals(name):
            blob = self._bucket.get_blob(name, **self._policy)
        return None if blob is None else _stored(blob)

    def read(self, name: str, *, generation: int | None = None) -> bytes:
        """The content of a small object."""
        with self._refusals(name):
            blob = self._bucket.blob(name)
            content: bytes = blob.download_as_bytes(if_generation_match=generation, checksum="crc32c", **self._policy)
        return content

    def write(self, name: str, content: bytes, *, generation: int) -> int:
        """Writes a small object over the given generation of it; returns the new one.

        Where an answer was lost, the library writes once more and meets what it wrote itself: that is no race.

        Raises:
          RacedError: another generation lies there, with another content.
        """
        try:
            with self._refusals(name):
                blob = self._bucket.blob(name)
                blob.upload_from_string(content, if_generation_match=generation, checksum="crc32c", **self._policy)
        except RacedError:
            now = self.stat(name)
            if now is None or not now.holds(content):
                raise
            return now.generation
        return int(blob.generation)

    def upload(self, file: Path, name: str, *, generation: int) -> None:
        """Writes a file over the given generation; raises RacedError as `write` does."""
        try:
            with self._refusals(name):
                blob = self._bucket.blob(name)
                blob.upload_from_filename(str(file), if_generation_match=generation, checksum="crc32c", **self._policy)
        except RacedError:
            now = self.stat(name)
            if now is None or not now.equals(file):
                raise

    def download(self, found: Stored, file: Path) -> None:
        """Writes one generation of an object into a file.

        Raises:
          DamagedError: the file is not what the service said it has; the library checks no download that it resumed.
        """
        with self._refusals(found.name):
            blob = self._bucket.blob(found.name)
            blob.download_to_filename(
                str(file), if_generation_match=found.generation, checksum="crc32c", **self._policy
            )
        if not found.equals(file):
            raise DamagedError(_damaged(f"{GS}{self.name}/{found.name}"))

    def delete(self, name: str, *, generation: int) -> None:
        """Deletes one generation of an object; none being there is as good."""
        from google.api_core.exceptions import NotFound

        with self._refusals(name), contextlib.suppress(NotFound):
            self._bucket.blob(name).delete(if_generation_match=generation, **self._policy)

    def _refusals(self, name: str) -> contextlib.AbstractContextManager[None]:
        return _refusals(f"{GS}{self.name}/{name}")


def _stored(blob: Any) -> Stored:
    return Stored(name=blob.name, size=int(blob.size), crc32c=blob.crc32c, generation=int(blob.generation))


def _damaged(place: str) -> str:
    return f"{place} arrived with another checksum than it was sent with; try again"


@contextlib.contextmanager
def _refusals(place: str) -> Iterator[None]:
    """Turns what the library raises into one line with the remedy."""
    import requests
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    try:
        yield
    except (auth.DefaultCredentialsError, auth.RefreshError):
        raise StorageError(f"{place} cannot be opened: nobody is signed in to Google Cloud; {_SIGN_IN}") from None
    except api.PreconditionFailed:
        raise RacedError(f"{place} was changed by another writer meanwhile; try again") from None
    except (api.Unauthorized, api.Forbidden) as problem:
        raise StorageError(
            f"{place} is not allowed to this account ({_first_line(problem)}); ask its owner for the role "
            f"Storage Object Admin, or {_SIGN_IN} of another account"
        ) from None
    except api.NotFound:
        raise AbsentError(f"{place} is not there; check the bucket's name and the object's") from None
    except api.BadRequest as problem:  # of an upload: not what its checksum says
        raise StorageError(f"{place} was refused ({_first_line(problem)}); try again") from None
    except DataCorruption:
        raise DamagedError(_damaged(place)) from None
    except (api.GoogleAPIError, auth.GoogleAuthError, InvalidResponse, requests.RequestException) as problem:
        reason = _first_line(problem)
        raise StorageError(f"{place} cannot be reached ({reason}); check the network, and try again") from None


def _first_line(problem: BaseException) -> str:
    """What the service said, without the addresses around it."""
    cause = getattr(problem, "cause", None) or getattr(problem, "message", None) or problem
    text = str(getattr(cause, "message", None) or cause).strip()
    return next(iter(text.splitlines()), type(problem).__name__)[:200].rstrip(".")
