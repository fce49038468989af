"""Proxies on loopback that count what goes through them, and fail as told.

    with ProxyFake({"store.invalid": server.address}) as proxy:
        os.environ["http_proxy"] = proxy.endpoint
        ...
        assert proxy.tunnels == [] and proxy.seen[0].target == "http://store.invalid/bucket/x"

ProxyFake forwards http:// and makes tunnels; with `tls` one speaks TLS with it. SocksFake speaks
version 5 of SOCKS. Hosts in `hosts` are found at the address given there, others by their name.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import selectors
import socket
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from typing_extensions import Self

from tests.servers.http_fake import HttpFake

CHUNK = 256 * 1024
Address = tuple[str, int]


@dataclass(frozen=True)
class Seen:
    """The head of one request to the proxy; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]


class ProxyFake(HttpFake):
    """login: the "name:password" without which every request gets 407."""

    def __init__(
        self,
        hosts: Mapping[str, Address] | None = None,
        *,
        login: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts = dict(hosts or {})
        self.login, self.tls = login, tls
        self.seen: list[Seen] = []
        self.connections = 0
        self.sent = 0  # bytes of `answer` that went out
        # What every request gets instead of its way: pieces, however many; then the end.
        self.answer: Callable[[], Iterable[bytes]] | None = None
        self.lock = threading.Lock()
        fake = self

        class Handler(_Handler):
            service = fake

        super().__init__(Handler)
        if tls is not None:
            self._http.socket = tls.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def endpoint(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self._http.server_port}"

    @property
    def tunnels(self) -> list[str]:
        """The targets of all CONNECTs."""
        return [seen.target for seen in list(self.seen) if seen.method == "CONNECT"]

    @property
    def forwarded(self) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.method != "CONNECT"]

    def address(self, host: str, port: int) -> Address:
        return self.hosts.get(host, (host, port))


class _Handler(BaseHTTPRequestHandler):
    service: ProxyFake
    protocol_version = "HTTP/1.1"
    upstream: http.client.HTTPConnection | None = None

    def setup(self) -> None:
        super().setup()
        with self.service.lock:
            self.service.connections += 1

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # whoever goes away, goes away
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        if self.upstream is not None:
            self.upstream.close()

    def log_message(self, *unused: object) -> None:
        pass

    def _note(self) -> bool:
        """Whether the request may go on."""
        proxy = self.service
        headers = {name.lower(): value for name, value in self.headers.items()}
        with proxy.lock:
            proxy.seen.append(Seen(self.command, self.path, headers))
        if proxy.answer is not None:
            for piece in proxy.answer():
                self.connection.sendall(piece)
                with proxy.lock:
                    proxy.sent += len(piece)
            self.close_connection = True
            return False
        wanted = proxy.login and base64.b64encode(proxy.login.encode()).decode()
        if wanted and headers.get("proxy-authorization") != f"Basic {wanted}":
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="here"')
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            return False
        return True

    def do_CONNECT(self) -> None:
        self.close_connection = True
        if not self._note():
            return
        host, _, port = self.path.rpartition(":")
        try:
            address = self.service.address(host.strip("[]"), int(port))
            server = socket.create_connection(address, 10)
        except OSError:
            self.send_error(502)
            return
        self.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        pump_both(self.connection, server)

    def _forward(self) -> None:
        if not self._note():
            return
        parts = urllib.parse.urlsplit(self.path)
        address = self.service.address(parts.hostname or "", parts.port or 80)
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(*address, timeout=60)
        target = self.path[self.path.index(parts.netloc) + len(parts.netloc) :]
        self.upstream.putrequest(
            self.command, target, skip_host=True, skip_accept_encoding=True
        )
        for name, value in self.headers.items():
            if not name.lower().startswith("proxy-") and name.lower() != "expect":
                self.upstream.putheader(name, value)
        self.upstream.endheaders()
        for piece in self._body():
            self.upstream.send(piece)
        answer = self.upstream.getresponse()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        while data := answer.read(CHUNK):
            self.wfile.write(data)

    def _body(self) -> Iterator[bytes]:
        left = int(self.headers.get("content-length", "0"))
        while left:
            piece = self.rfile.read(min(left, CHUNK))
            if not piece:
                raise ConnectionError("the client left")
            left -= len(piece)
            yield piece

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward


def has_pending(client: socket.socket) -> bool:
    return isinstance(client, ssl.SSLSocket) and client.pending() > 0


def pump_both(client: socket.socket, server: socket.socket) -> None:
    """In one thread, as OpenSSL wants it, until either has said all."""
    client.settimeout(60)
    server.settimeout(60)
    peers = {client: server, server: client}
    with server, selectors.DefaultSelector() as selector:
        for each in peers:
            selector.register(each, selectors.EVENT_READ)
        while True:
            ready = [
                key.fileobj for key, _ in selector.select(0 if has_pending(client) else None)
            ]
            for source in ready or [client]:
                assert isinstance(source, socket.socket)
                data = source.recv(CHUNK)
                if not data:
                    return
                peers[source].sendall(data)


# --- SOCKS, version 5. Source: RFC 1928, RFC 1929 -----------------------------------------------


class SocksFake:
    """reply: the code that each request gets; 0 lets it through."""

    def __init__(
        self, hosts: Mapping[str, Address] | None = None, *, login: str | None = None
    ) -> None:
        self.hosts = dict(hosts or {})
        self.login, self.reply = login, 0
        self.seen: list[str] = []  # "host:port" of each request
        fake = self

        class Handler(_SocksHandler):
            service = fake

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port


class _SocksHandler(socketserver.StreamRequestHandler):
    service: SocksFake

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            if self._agree():
                self._connect()

    def _agree(self) -> bool:
        """On a way to log in; whether that succeeds."""
        _, count = self.rfile.read(2)
        offered = self.rfile.read(count)
        login = self.service.login
        method = 0 if login is None else 2
        self.wfile.write(bytes([5, method if method in offered else 255]))
        if method not in offered or login is None:
            return method in offered
        _, length = self.rfile.read(2)
        name = self.rfile.read(length)
        password = self.rfile.read(self.rfile.read(1)[0])
        right = name + b":" + password == login.encode()
        self.wfile.write(bytes([1, 0 if right else 1]))
        return right

    def _connect(self) -> None:
        _, _, _, kind = self.rfile.read(4)
        if kind == 3:
            host = self.rfile.read(self.rfile.read(1)[0]).decode()
        else:
            host = socket.inet_ntoa(self.rfile.read(4))
        port = int.from_bytes(self.rfile.read(2), "big")
        self.service.seen.append(f"{host}:{port}")
        reply = self.service.reply
        self.wfile.write(bytes([5, reply, 0, 1]) + bytes(6))
        if reply == 0:
            server = socket.create_connection(self.service.hosts.get(host, (host, port)), 10)
            pump_both(self.connection, server)
