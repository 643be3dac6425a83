"""A server that speaks the parts of Cloud Storage's JSON API which this project uses, objects in memory, over HTTP.

Written after https://cloud.google.com/storage/docs/json_api/v1 and held to google-cloud-storage by test_storage.py:
generations and their preconditions, checksums of uploads (in the metadata and in X-Goog-Hash) and of downloads,
multipart and resumable uploads, ranges, pages of listings. Run as a process, it prints its port:

    python tests/gcs.py BUCKET …
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import google_crc32c
from faults import Quiet

PAGE = 3  # objects of one answer to a listing: few, so that tests see more than one page


@dataclass(frozen=True, slots=True)
class Object:
    """One generation of an object."""

    name: str
    content: bytes
    generation: int

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.Checksum(self.content).digest()).decode()


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Store:
    """Buckets and what lies in them."""

    def __init__(self, buckets: list[str]) -> None:
        self.buckets: dict[str, dict[str, Object]] = {name: {} for name in buckets}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self._generation = 1_700_000_000_000_000

    def bucket(self, name: str) -> dict[str, Object]:
        if name not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def get(self, bucket: str, name: str, query: dict[str, str]) -> Object:
        found = self.bucket(bucket).get(name)
        if found is None or query.get("generation", str(found.generation)) != str(found.generation):
            raise Refused(404, f"No such object: {bucket}/{name}")
        self.check(found.generation, query)
        return found

    def check(self, generation: int, query: dict[str, str]) -> None:
        """Preconditions; 0 is the generation of what is not there."""
        if int(query.get("ifGenerationMatch", generation)) != generation:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")

    def put(self, bucket: str, name: str, content: bytes, query: dict[str, str], crc32c: str | None) -> Object:
        objects = self.bucket(bucket)
        self._generation += 1
        new = Object(name, content, self._generation)
        if crc32c not in (None, new.crc32c):
            raise Refused(400, f"Provided CRC32C {crc32c} doesn't match calculated CRC32C {new.crc32c}.")
        self.check(objects[name].generation if name in objects else 0, query)
        objects[name] = new
        return new


class Handler(BaseHTTPRequestHandler):
    """One connection. `store` is set by `serve`."""

    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with self.store.lock:
                self._route(parts.path, query, body)
        except Refused as refused:
            error = {"code": refused.status, "message": str(refused)}
            self._send(refused.status, json.dumps({"error": error}).encode())

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _route(self, path: str, query: dict[str, str], body: bytes) -> None:
        if self.command == "GET" and (asked := re.fullmatch(r"/storage/v1/b/([^/]+)", path)):
            self.store.bucket(asked[1])
            self._send(200, json.dumps({"kind": "storage#bucket", "name": asked[1]}).encode())
            return
        found = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/(.+))?", path)
        if found is None:
            raise Refused(501, f"{self.command} {path} is no part of this server")
        kind, bucket, name = found[1] or "", found[2], urllib.parse.unquote(found[3] or "")
        if kind == "/upload":
            self._upload(bucket, query, body)
        elif self.command == "GET" and not name:
            self._list(bucket, query)
        elif self.command == "GET":
            item = self.store.get(bucket, name, query)
            self._media(item) if query.get("alt") == "media" else self._describe(bucket, item)
        elif self.command == "DELETE":
            item = self.store.get(bucket, name, query)
            del self.store.buckets[bucket][item.name]
            self._send(204)
        else:
            raise Refused(501, f"{self.command} {path} is no part of this server")

    def _resource(self, bucket: str, item: Object) -> dict[str, str]:
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": item.name,
            "size": str(len(item.content)),
            "crc32c": item.crc32c,
            "generation": str(item.generation),
        }

    def _describe(self, bucket: str, item: Object) -> None:
        self._send(200, json.dumps(self._resource(bucket, item)).encode())

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        names = sorted(name for name in self.store.bucket(bucket) if name.startswith(query.get("prefix", "")))
        names = [name for name in names if name > query.get("pageToken", "")]
        items = [self._resource(bucket, self.store.buckets[bucket][name]) for name in names[:PAGE]]
        more = {"nextPageToken": names[PAGE - 1]} if len(names) > PAGE else {}
        self._send(200, json.dumps({"kind": "storage#objects", "items": items, **more}).encode())

    def _media(self, item: Object) -> None:
        headers = {
            "X_Goog_Hash": f"crc32c={item.crc32c}",
            "X_Goog_Generation": str(item.generation),
            "X_Goog_Stored_Content_Length": str(len(item.content)),
            "Content_Type": "application/octet-stream",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, item.content, **headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(item.content)), len(item.content) - 1)
        if first > last:
            raise Refused(416, "The requested range cannot be satisfied.")
        headers["Content_Range"] = f"bytes {first}-{last}/{len(item.content)}"
        self._send(206, item.content[first : last + 1], **headers)

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        if self.command == "PUT":
            self._chunk(query["upload_id"], body)
        elif query.get("uploadType") == "multipart":
            about, content = _parts(body, self.headers["Content-Type"])
            described = json.loads(about)
            item = self.store.put(bucket, described["name"], content, query, described.get("crc32c"))
            self._describe(bucket, item)
        elif query.get("uploadType") == "resumable":
            described = json.loads(body or b"{}")
            self.store.bucket(bucket)
            session = str(len(self.store.sessions))
            name = described.get("name") or query["name"]
            self.store.sessions[session] = {
                "bucket": bucket,
                "name": name,
                "query": query,
                "about": described,
                "body": b"",
            }
            where = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o?upload_id={session}"
            self._send(200, Location=where)
        else:
            raise Refused(501, f"uploadType={query.get('uploadType')} is no part of this server")

    def _chunk(self, session: str, body: bytes) -> None:
        state = self.store.sessions[session]
        asked = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/(\*|\d+)", self.headers.get("Content-Range", ""))
        if asked is None:
            raise Refused(400, "Content-Range is missing.")
        if asked[1] is not None:
            if int(asked[1]) > len(state["body"]):
                raise Refused(503, "A part is missing.")
            state["body"] = state["body"][: int(asked[1])] + body
        have = len(state["body"])
        if asked[2] == "*" or have < int(asked[2]):
            self._send(308, b"", **({"Range": f"bytes=0-{have - 1}"} if have else {}))
            return
        told = re.search(r"crc32c=([^,]+)", self.headers.get("X-Goog-Hash", ""))
        crc32c = told[1] if told else state["about"].get("crc32c")
        self._describe(
            state["bucket"], self.store.put(state["bucket"], state["name"], state["body"], state["query"], crc32c)
        )


def _parts(body: bytes, content_type: str) -> tuple[bytes, bytes]:
    """The two parts of a multipart body: what describes the object, and its content."""
    boundary = re.search(r"boundary=\"?([^\";]+)", content_type)
    assert boundary is not None
    mark = b"--" + boundary[1].strip("'").encode()
    _, about, content, _ = body.split(mark)
    first, second = (part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in (about, content))
    return first, second


def serve(buckets: list[str]) -> ThreadingHTTPServer:
    """A server on a free port of this machine, not started yet."""
    handler = type("BoundHandler", (Handler,), {"store": Store(buckets)})
    return Quiet(("127.0.0.1", 0), handler)


if __name__ == "__main__":
    server = serve(sys.argv[1:])
    print(server.server_port, flush=True)
    server.serve_forever()
