"""Answers that never end or say what they must not: an error, after a bounded number of bytes."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from typing_extensions import Self

import s3dlio_np

MIB = 1 << 20
URI = "s3://bucket/key"
BOUND = (
    128 * MIB
)  # five attempts that take 8 MiB each, and what sockets hold; a fault goes far beyond


Pieces = Callable[[], Iterator[bytes]]


class Hostile:
    """Answers on loopback by the same pieces, and counts what it got rid of. `to`: one operation only;
    others get what they expect."""

    def __init__(self, pieces: Pieces, to: str | None = None) -> None:
        self.sent = self.requests = 0
        self._pieces, self._to = pieces, to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *unused: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while (operation := read_request(client)) is not None:
                if self._to not in (None, operation):
                    client.sendall(EXPECTED[operation])
                    continue
                self.requests += 1
                for piece in self._pieces():
                    client.sendall(piece)
                    self.sent += len(piece)
                    if self.sent > 2 * BOUND:
                        return
                if self._to is None:
                    return


def read_request(client: socket.socket) -> str | None:
    """The operation's name; None: the client has closed the connection."""
    stream = client.makefile("rb")
    method, _, rest = stream.readline().decode("latin-1").partition(" ")
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    while length > 0 and (data := stream.read(min(length, 1 << 20))):
        length -= len(data)
    query = rest.partition(" ")[0].partition("?")[2]
    of_upload = "uploadId=" in query
    names = {
        "HEAD": "HeadObject",
        "GET": "ListObjects" if "list-type" in query else "GetObject",
        "PUT": "UploadPart" if of_upload else "PutObject",
        "POST": "CompleteMultipartUpload" if of_upload else "CreateMultipartUpload",
        "DELETE": "AbortMultipartUpload" if of_upload else "DeleteObject",
    }
    return names.get(method)


def answered(body: bytes = b"", headers: str = "", status: str = "200 OK") -> bytes:
    """A whole answer, after which the connection stays open."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


COMPLETED = b"<CompleteMultipartUploadResult><ETag>&quot;e-2&quot;</ETag></CompleteMultipartUploadResult>"
EXPECTED = {
    "HeadObject": answered(headers='ETag: "e"\r\n'),
    "GetObject": answered(headers='ETag: "e"\r\n'),
    "PutObject": answered(headers='ETag: "e"\r\n'),
    "UploadPart": answered(headers='ETag: "e"\r\n'),
    "DeleteObject": answered(),
    "AbortMultipartUpload": answered(),
    "CreateMultipartUpload": answered(
        b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
    ),
    "CompleteMultipartUpload": answered(COMPLETED),
}


def then(start: bytes, *rest: bytes) -> Callable[[], Iterator[bytes]]:
    """`start`, and without end what follows."""
    return lambda: itertools.chain([start], itertools.cycle(rest) if rest else ())


def whole(status: str, body: bytes, headers: str = "") -> Callable[[], Iterator[bytes]]:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    return then(head.encode() + body)


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    s3dlio_np.configure(access_key="k", secret_key="s", region="us-east-1")
    yield
    s3dlio_np.configure(access_key=None, secret_key=None, region=None, endpoint=None)


BLOCK = b"x" * 65536
HEADERS = b"".join(b"x-%d: y\r\n" % i for i in range(1000))
CHUNKED = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(then(b"HTTP/1.1 200 OK\r\nx-long: ", BLOCK), id="a header without end"),
        pytest.param(then(b"HTTP/1.1 200 OK\r\n", HEADERS), id="headers without end"),
        pytest.param(then(BLOCK, BLOCK), id="a status line without end"),
        pytest.param(then(b"HTTP/1.1 403 Forbidden\r\n\r\n", BLOCK), id="an error without end"),
        pytest.param(then(CHUNKED, b"10000\r\n" + BLOCK + b"\r\n"), id="chunks without end"),
        pytest.param(then(b"", b"HTTP/1.1 103 Early\r\n\r\n" * 1000), id="1xx without end"),
    ],
)
def test_endless(pieces: Callable[[], Iterator[bytes]]) -> None:
    with Hostile(pieces) as server:
        s3dlio_np.configure(endpoint=server.endpoint)
        with pytest.raises(s3dlio_np.StorageError):
            s3dlio_np.get_bytes(URI)
        assert server.requests >= 1
        assert server.sent < BOUND


@pytest.mark.parametrize(
    "length", ["-1", "99999999999999999999999", "1x", "18446744073709551615"]
)
def test_lengths(length: str) -> None:
    with Hostile(
        then(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
    ) as server:
        s3dlio_np.configure(endpoint=server.endpoint)
        with pytest.raises(s3dlio_np.StorageError):
            s3dlio_np.get_bytes(URI)
        assert server.requests >= 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_redirects_elsewhere_are_not_followed(status: str) -> None:
    with Hostile(whole("200 OK", b"stolen")) as other:
        redirect = whole(status, b"", f"Location: {other.endpoint}/bucket/key\r\n")
        with Hostile(redirect) as server:
            s3dlio_np.configure(endpoint=server.endpoint)
            with pytest.raises(s3dlio_np.StorageError):
                s3dlio_np.get_bytes(URI)
            assert server.requests >= 1
            assert other.requests == 0


LOL = b"".join(b'<!ENTITY l%d "%s">' % (i, b"&l%d;" % (i - 1) * 10) for i in range(1, 12))
BOMB = (
    b'<!DOCTYPE x [<!ENTITY l0 "lol">' + LOL + b"]><ListBucketResult>&l11;</ListBucketResult>"
)
DEEP = b"<ListBucketResult>" + b"<a>" * 100_000
OUTER = b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><ListBucketResult><Contents>'
FILE = OUTER + b"<Key>&f;</Key><Size>1</Size></Contents></ListBucketResult>"


@pytest.mark.parametrize("body", [BOMB, DEEP, FILE, b"<ListBucketResult>", b"\0", b""])
def test_xml(body: bytes) -> None:
    with Hostile(whole("200 OK", body)) as server:
        s3dlio_np.configure(endpoint=server.endpoint)
        with pytest.raises(s3dlio_np.StorageError):
            s3dlio_np.list("s3://bucket/")
        assert server.requests >= 1


# --- each operation, answered without end ----------------------------------------------------------


def upload() -> None:
    with s3dlio_np.open(URI, "wb", part_size=5 * MIB) as stream:
        stream.write(bytes(6 * MIB))


def give_up() -> None:
    with pytest.raises(KeyError), s3dlio_np.open(URI, "wb", part_size=5 * MIB) as stream:
        stream.write(bytes(6 * MIB))
        raise KeyError


OPERATIONS: dict[str, Callable[[], object]] = {
    "HeadObject": lambda: s3dlio_np.stat(URI),
    "ListObjects": lambda: s3dlio_np.list(URI),
    "PutObject": lambda: s3dlio_np.put(URI, b"x"),
    "DeleteObject": lambda: s3dlio_np.delete(URI),
    "CreateMultipartUpload": upload,
    "UploadPart": upload,
    "CompleteMultipartUpload": upload,
    "AbortMultipartUpload": give_up,  # whose own failure is not told: the KeyError is
}
OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {
    "a header": then(OK + b"x-long: ", BLOCK),
    "headers": then(OK, HEADERS),
    "a body": then(OK + b"\r\n", BLOCK),
    "a body of blanks": then(OK + b"\r\n", b" " * 65536),
    "a body of its length": then(OK + b"Content-Length: 99999999999\r\n\r\n", BLOCK),
    "an error": then(b"HTTP/1.1 403 Forbidden\r\n\r\n<Error>", BLOCK),
    "chunks": then(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + BLOCK + b"\r\n"),
    "trailers": then(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", HEADERS),
    "XML": then(OK + b"\r\n<ListBucketResult>", b"<Contents></Contents>" * 3000),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_endless_answers(operation: str, what: str) -> None:
    with Hostile(ENDLESS[what], to=operation) as server:
        s3dlio_np.configure(endpoint=server.endpoint)
        quiet = operation == "AbortMultipartUpload"
        if operation == "HeadObject" and what == "a body of its length":
            assert s3dlio_np.stat(URI)["size"] == 99999999999
        else:
            with contextlib.nullcontext() if quiet else pytest.raises(s3dlio_np.StorageError):
                OPERATIONS[operation]()
        parts = 2 if operation == "UploadPart" else 1
        assert 1 <= server.requests <= 5 * parts
        assert server.sent < BOUND


# --- an answer behind the answer --------------------------------------------------------------------

EVIL = answered(b"evil", 'ETag: "evil"\r\n')
SMUGGLED = {
    "behind a HEAD's head": ("HeadObject", answered(EVIL, 'ETag: "e"\r\n')),
    "behind a HEAD's lengthless head": ("HeadObject", b"HTTP/1.1 404 No\r\n\r\n" + EVIL),
    "behind a 204": ("DeleteObject", b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n" + EVIL),
    "behind a 304": ("DeleteObject", b"HTTP/1.1 304 No\r\n\r\n" + EVIL),
    "behind a body": ("PutObject", answered(headers='ETag: "e"\r\n') + EVIL),
    "behind the last chunk": (
        "PutObject",
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' + EVIL,
    ),
    "behind two lengths": (
        "PutObject",
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n'
        b"Content-Length: %d\r\n\r\n" % len(EVIL) + EVIL,
    ),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_answer_is_another_requests(name: str) -> None:
    """What comes unasked, on a connection that stays open, answers nothing."""
    operation, answer = SMUGGLED[name]
    with Hostile(then(answer), to=operation) as server:
        s3dlio_np.configure(endpoint=server.endpoint)
        for _ in range(8):
            with contextlib.suppress(s3dlio_np.StorageError):
                OPERATIONS[operation]()
            assert s3dlio_np.get_bytes(URI) == b""
        assert server.requests >= 8


def blanks_first() -> Iterator[bytes]:
    """As S3 keeps a connection alive while it makes an object of its parts: for longer than a body may be slow."""
    body = b" " * 44 + COMPLETED
    yield f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(44):
        time.sleep(0.5)
        yield b" "
    yield COMPLETED


def test_a_completion_that_takes_its_time() -> None:
    with Hostile(blanks_first, to="CompleteMultipartUpload") as server:
        s3dlio_np.configure(endpoint=server.endpoint)
        with s3dlio_np.open(URI, "wb", part_size=5 * MIB) as stream:
            stream.write(bytes(6 * MIB))
        assert stream.close()["etag"] == '"e-2"'
        assert server.requests == 1
