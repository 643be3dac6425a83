"""A small HTTP proxy that spoils what it passes on, as it is told: for tests of what stands a bad network."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True, slots=True)
class Fault:
    """What happens to the next `times` requests whose `METHOD path` has `pattern`.

    Attributes:
      kind: `status` answers with `status` and passes nothing on; `lost` passes the request on and cuts the connection
        instead of answering; `cut` answers half of the content and cuts; `flip` changes a byte of the answer's content;
        `flip_request` one of the request's.
    """

    pattern: str
    kind: str
    times: int = 1
    status: int = 503


@dataclass(slots=True)
class Proxy:
    """The proxy's address, what it still has to spoil, and the requests that it saw."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self, request: str) -> Fault | None:
        """The fault of this request, used up once."""
        with self.lock:
            self.seen.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: str

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _pass(self) -> None:
        fault = self.proxy.due(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            self._send(fault.status, [], b'{"error": {"message": "spoilt by the test"}}')
            return
        if kind == "flip_request":
            body = _flipped(body)
        status, headers, content = self._asked(body)
        if kind == "lost":
            self._cut()
        elif kind == "cut":
            self._send(status, headers, content, half=True)
            self._cut()
        else:
            self._send(status, headers, _flipped(content) if kind == "flip" else content)

    do_GET = do_POST = do_PUT = do_DELETE = _pass

    def _asked(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server behind it says. The host's name stays the proxy's, so that addresses it gives lead here."""
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.request(self.command, self.path, body=body or None, headers=dict(self.headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)

    def _cut(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def _flipped(content: bytes) -> bytes:
    """One byte in the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else content


class Quiet(ThreadingHTTPServer):
    """Says nothing when the other end goes away, which is what is tested."""

    def handle_error(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def spoiling(upstream: str) -> Iterator[Proxy]:
    """A proxy before `http://HOST:PORT`."""
    proxy = Proxy("")
    handler = type("BoundProxy", (_Handler,), {"proxy": proxy, "upstream": upstream.removeprefix("http://")})
    with Quiet(("127.0.0.1", 0), handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()
