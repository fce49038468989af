"""An S3 store that keeps objects under their customer's keys (SSE-C), as far as that can be seen.

    with KeyStore() as store: a client configured for store.endpoint, with sse_customer_key

Every request that touches an object must carry the key that the object was created with, and the
key's MD5; the store remembers the MD5 only. `refused` counts the requests it turned away for that.
Signatures are not looked at. Source: Amazon S3 User Guide, "Using server-side encryption with
customer-provided keys".
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.servers.http_fake import HttpFake

NAME = "x-amz-server-side-encryption-customer-"


@dataclass
class Upload:
    digest: str
    parts: dict[int, bytes] = field(default_factory=dict)


class KeyStore(HttpFake):
    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, Upload] = {}
        self.refused = 0
        store = self

        class Handler(_Handler):
            keys = store

        super().__init__(Handler)


class _Handler(BaseHTTPRequestHandler):
    keys: KeyStore
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused: object) -> None:
        pass

    def _key(self) -> str | None:
        """The MD5 of the key that came, if key, sum and algorithm are as they must be."""
        key = base64.b64decode(self.headers.get(NAME + "key", ""))
        digest = base64.b64encode(hashlib.md5(key).digest()).decode()
        whole = len(key) == 32 and self.headers.get(NAME + "algorithm") == "AES256"
        return digest if whole and self.headers.get(NAME + "key-md5") == digest else None

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.keys.refused += 1
        self._reply(
            status, f"<Error><Code>{code}</Code><Message>key</Message></Error>".encode()
        )

    def _upload(self) -> Upload:
        return self.keys.uploads[parse_qs(urlsplit(self.path).query)["uploadId"][0]]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url, digest = urlsplit(self.path), self._key()
        query = parse_qs(url.query)
        if digest is None or ("uploadId" in query and digest != self._upload().digest):
            self._refuse(400, "InvalidRequest")
            return
        if "uploadId" in query:
            self._upload().parts[int(query["partNumber"][0])] = body
        else:
            self.keys.objects[url.path] = (digest, body)
        self._reply(200, ETag='"of-a-part"')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        url, digest = urlsplit(self.path), self._key()
        if digest is None:
            self._refuse(400, "InvalidRequest")
            return
        if url.query.startswith("uploads"):
            name = f"u{len(self.keys.uploads)}"
            self.keys.uploads[name] = Upload(digest)
            text = f"<UploadId>{name}</UploadId>"
            answer = f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>"
        else:
            parts = self._upload().parts
            whole = b"".join(parts[number] for number in sorted(parts))
            self.keys.objects[url.path] = (self._upload().digest, whole)
            text = "<ETag>&quot;of-a-whole&quot;</ETag>"
            answer = f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>"
        self._reply(200, answer.encode())

    def do_DELETE(self) -> None:
        self._reply(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        held = self.keys.objects.get(urlsplit(self.path).path)
        digest = self._key()
        if held is None:
            self._reply(404)
        elif digest is None:
            self._refuse(400, "InvalidRequest")
        elif digest != held[0]:
            self._refuse(403, "AccessDenied")
        else:
            self._send(held[1])

    def _send(self, body: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d*)-(\d+)", self.headers.get("Range", ""))
        if match is None:
            self._reply(200, body, ETag='"e"', Content_Length=str(len(body)))
            return
        first = int(match[1]) if match[1] else max(0, len(body) - int(match[2]))
        last = min(int(match[2]), len(body) - 1) if match[1] else len(body) - 1
        piece = body[first : last + 1]
        self._reply(206, piece, ETag='"e"', Content_Range=f"bytes {first}-{last}/{len(body)}")
