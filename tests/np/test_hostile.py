"""Answers that never end or say what they must not: an error, after a bounded number of bytes."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from typing_extensions import Self

import s3dlio_np

MIB = 1 << 20
URI = "s3://bucket/key"
BOUND = 128 * MIB  # five attempts that take 8 MiB each, and what sockets hold; a fault goes far beyond


class Hostile:
    """Answers every request on loopback by the same pieces, and counts what it got rid of."""

    def __init__(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.sent = self.requests = 0
        self._pieces = pieces
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
            if not client.recv(65536):
                return
            self.requests += 1
            for piece in self._pieces():
                client.sendall(piece)
                self.sent += len(piece)
                if self.sent > 2 * BOUND:
                    return


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
