"""A relay before an S3 server: keeps the head of each request, and can speak TLS to the client.

    with Relay(server.address) as relay, a client configured for relay.endpoint: ...
    assert relay.heads[0].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"

The Host header goes through as the client sent it, so signatures stay valid.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

CHUNK = 256 * 1024


@dataclass(frozen=True)
class Head:
    """The first lines of one request; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]


class Relay:
    """Loopback, a free port, a pair of threads for each connection."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[Head] = []
        self.breaks: list[str] = []  # how the next handshakes break off: "end" or "reset"
        self._address, self._tls = address, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept, self._listener)
        return self

    def __exit__(self, *unused: object) -> None:
        self.go_down()
        for thread in self._threads:
            thread.join(10)

    def go_down(self) -> None:
        """Breaks all connections; from then on nobody listens here."""
        broken, self._sockets = self._sockets, []
        for each in [self._listener, *broken]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def come_back(self) -> None:
        """On the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listener)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed: the end
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a refused handshake, for one
            if self._tls is not None and self.breaks:
                client.recv(1)
                if self.breaks.pop() == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                return
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(self._address)
            self._sockets += [client, server]
            self._start(self._answers, server, client)
            self._requests(client, server)
        with contextlib.suppress(OSError):
            client.close()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        waiting = b""
        while True:
            while b"\r\n\r\n" not in waiting:
                data = client.recv(CHUNK)
                if not data:
                    server.shutdown(socket.SHUT_WR)
                    return
                waiting += data
            head, _, body = waiting.partition(b"\r\n\r\n")
            parsed = parse_head(head.decode("latin-1"))
            self.heads.append(parsed)
            server.sendall(head + b"\r\n\r\n")
            left = int(parsed.headers.get("content-length", "0"))
            while left:
                piece = body[:left] or client.recv(min(left, CHUNK))
                if not piece:
                    server.shutdown(socket.SHUT_RDWR)  # close() would wait for the other thread
                    return
                server.sendall(piece)
                body = body[len(piece) :]
                left -= len(piece)
            waiting = body


def parse_head(text: str) -> Head:
    first, *lines = text.split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    return Head(method, target, {name.lower(): value.strip() for name, _, value in pairs})


# --- certificates -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: a CA of one's own, and a server certificate with its key."""

    ca: Path
    chain: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain)
        return context


def make_certificates(
    folder: Path, names: list[str], *, valid_days: tuple[int, int] = (-1, 2), self_signed: bool = False
) -> Certificates:
    """A fresh CA, and a certificate for DNS names and IP addresses valid in that span of days.

    self_signed: the certificate is its own authority; the CA has no part in it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)
    pem = serialization.Encoding.PEM
    authority = f"test CA {secrets.token_hex(4)}"

    def certificate(
        subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, days: tuple[int, int]
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name_of(subject))
            .issuer_name(name_of(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
        )

    def name_of(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def alternatives() -> Iterator[x509.GeneralName]:
        for name in names:
            try:
                yield x509.IPAddress(ipaddress.ip_address(name))
            except ValueError:
                yield x509.DNSName(name)

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = (
        certificate(authority, authority, ca_key, (-10, 10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    issuer = "test server" if self_signed else authority
    leaf = (
        certificate("test server", issuer, key, valid_days)
        .add_extension(x509.SubjectAlternativeName(alternatives()), critical=False)
        .sign(key if self_signed else ca_key, hashes.SHA256())
    )
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = Certificates(folder / "ca.pem", folder / "server.pem")
    files.ca.write_bytes(ca.public_bytes(pem))
    files.chain.write_bytes(private + leaf.public_bytes(pem))
    return files
