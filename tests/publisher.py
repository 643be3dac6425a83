"""A publisher's web server, with the faults that web servers have."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from faults import Quiet


@dataclass(slots=True)
class Publisher:
    """What it offers and how it behaves.

    Attributes:
      files: contents by path.
      ranges: whether it continues a file where it was cut.
      cuts: after how many bytes of content the next answers are cut off, one entry an answer.
      statuses: what the next requests are answered with instead of a file.
      retry_after: how long to wait, as those answers tell it; "" leaves it out.
      tag: the ETag of everything; "" sends none.
      seen: `Range` of each request for a file, "" where it asked for the whole.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    retry_after: str = ""
    tag: str = '"first"'
    seen: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    publisher: Publisher

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        site = self.publisher
        site.seen.append(self.headers.get("Range", ""))
        content = site.files.get(self.path)
        if site.statuses or content is None:
            self.send_response(site.statuses.pop(0) if site.statuses else 404)
            if site.retry_after:
                self.send_header("Retry-After", site.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = self._first(len(content))
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if site.tag:
            self.send_header("ETag", site.tag)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        rest = content[first:]
        if not site.cuts:
            self.wfile.write(rest)
            return
        self.wfile.write(rest[: site.cuts.pop(0)])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _first(self, size: int) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range", self.publisher.tag) == self.publisher.tag
        return int(asked[1]) if asked and is_same and self.publisher.ranges and int(asked[1]) < size else 0


@contextmanager
def publishing(**files: bytes) -> Iterator[Publisher]:
    """A publisher on a free port; `files` are offered under `/NAME`."""
    publisher = Publisher(files={f"/{name}": content for name, content in files.items()})
    handler = type("BoundPublisher", (_Handler,), {"publisher": publisher})
    with Quiet(("127.0.0.1", 0), handler) as server:
        publisher.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield publisher
        server.shutdown()
        thread.join()
