"""Places as settings name them: a path, an address (`https://…`) or an object of Cloud Storage (`gs://bucket/name`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mobilebert_exp.errors import ConfigError

GS = "gs://"
WEB = ("https://", "http://")
# https://cloud.google.com/storage/docs/buckets#naming; the lengths are those of names with dots.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def is_remote(place: str) -> bool:
    """Whether a place has to be fetched before it can be read."""
    return place.startswith((GS, *WEB))


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and a name in it; the name may be empty, and never ends in a slash."""

    bucket: str
    name: str

    @classmethod
    def parse(cls, text: str, *, key: str = "") -> Place:
        """The place behind `gs://bucket/name`; `key` is the setting it comes from, for the message.

        Raises:
          ConfigError: it is not such a place.
        """
        bucket, _, name = text.removeprefix(GS).partition("/")
        if not text.startswith(GS) or not _BUCKET.fullmatch(bucket):
            shown = f"{key}={text}" if key else text
            raise ConfigError(f"{shown} is no place in a bucket; write gs://BUCKET/FOLDER")
        return cls(bucket, name.strip("/"))

    def __truediv__(self, name: str) -> Place:
        return Place(self.bucket, f"{self.name}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"{GS}{self.bucket}/{self.name}".rstrip("/")
