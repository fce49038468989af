"""Proxies: who is asked by one, who never is, what a failing one is called, and what it gets to see."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests import child
from tests.conftest import point_engine_at
from tests.servers.fake_aws import SECRET, FakeAws
from tests.servers.own import OwnServer
from tests.servers.proxy_fake import ProxyFake, SocksFake
from tests.servers.relay import Certificates, Relay, make_certificates

PART = 5 << 20
DATA = np.random.default_rng(1).integers(0, 256, 2 * PART + 17, np.uint8).tobytes()
# Nobody listens there: only a proxy that knows better finds the server. The certificate has the second.
NOWHERE = {"http": "http://store.invalid", "https": "https://localhost:9"}
HOST = {"http": "store.invalid", "https": "localhost"}
CONFIGURED = ("proxy", "http_proxy", "https_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def nothing_stays_configured() -> Iterator[None]:
    yield
    s3dlio_np.configure(**dict.fromkeys(CONFIGURED))


@pytest.fixture(params=["http", "https"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server, and the engine pointed at a place where it is not: `scheme` says which."""
    with OwnServer(tls=request.param == "https", md5=True) as server:
        point_engine_at(server, monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE[request.param])
        yield server


@pytest.fixture
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.node.callspec.params["store"]
    return name


def only(scheme: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("store", [scheme], indirect=True)


@contextmanager
def proxy_before(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Iterator[ProxyFake]:
    """In the environment, for both schemes."""
    hosts = dict.fromkeys(HOST.values(), server.address)
    with ProxyFake(hosts, **options) as proxy:
        login = f"{options['login']}@" if options.get("login") else ""
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.endpoint.replace("//", f"//{login}"))
        yield proxy


def requests_of(server: OwnServer) -> int:
    total: int = sum(server.counters()["requests"].values())
    return total


# --- what goes by it ----------------------------------------------------------------------------


def test_everything(store: OwnServer, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "s3://bucket/a//b/../c d+%25 é?x#y&z=;~'"
    with proxy_before(store, monkeypatch) as proxy:
        with s3dlio_np.open(key, "wb", part_size=PART) as stream:
            stream.write(DATA)
        assert s3dlio_np.get_bytes(key) == DATA
        with s3dlio_np.open(key, part_size=1 << 20) as reader:
            assert reader.read() == DATA
        s3dlio_np.savez("s3://bucket/x.npz", a=np.arange(1000), b=np.ones(5))
        with s3dlio_np.load("s3://bucket/x.npz") as loaded:
            assert np.array_equal(loaded["a"], np.arange(1000))
        found = s3dlio_np.list("s3://bucket/")
        assert [each["uri"] for each in found] == [key, "s3://bucket/x.npz"]
        assert s3dlio_np.stat(key)["size"] == len(DATA)
        s3dlio_np.delete(key)
        assert not s3dlio_np.exists(key)
        check_what_it_saw(proxy, scheme, store)
    assert store.uploads() == []


def check_what_it_saw(proxy: ProxyFake, scheme: str, store: OwnServer) -> None:
    counters = store.counters()
    requests = requests_of(store)
    assert counters["signatures_verified"] == requests > 10
    if scheme == "http":
        assert proxy.tunnels == []
        assert len(proxy.forwarded) == requests
        assert {seen.target.split("/bucket")[0] for seen in proxy.forwarded} == {
            NOWHERE["http"]
        }
    else:
        assert counters["tls_requests"] == requests
        assert proxy.forwarded == []
        assert set(proxy.tunnels) == {"localhost:9"}
        for seen in proxy.seen:  # nothing of the requests inside
            assert set(seen.headers) <= {"host", "user-agent", "proxy-connection"}


def test_connections_are_used_again(store: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_before(store, monkeypatch) as proxy:
        for number in range(40):
            s3dlio_np.put("s3://bucket/x", b"%d" % number)
        assert requests_of(store) == 40
        assert 1 <= proxy.connections <= 20  # one for each I/O thread
        assert len(proxy.tunnels) <= proxy.connections


def test_bodies_that_are_lost_on_the_way_are_sent_again(
    store: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = store.add_fault(op="UploadPart", part=2, kind="refuse_body", bytes=100_000)
    with proxy_before(store, monkeypatch) as proxy:
        with s3dlio_np.open("s3://bucket/x", "wb", part_size=PART) as stream:
            stream.write(DATA)
        assert proxy.seen
    assert fault.hits() == 1
    assert store.get_object("bucket", "x") == DATA


# --- which is taken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("127.0.0.1", True),
        ("10.0.0.0/8,127.0.0.0/8", True),
        ("*", True),
        ("other.example, 127.0.0.1:{port}", True),
        ("127.0.0.1:1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_no_proxy(
    store: OwnServer, monkeypatch: pytest.MonkeyPatch, no_proxy: str, direct: bool
) -> None:
    with proxy_before(store, monkeypatch) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        monkeypatch.setenv("NO_PROXY", no_proxy.format(port=store.address[1]))
        s3dlio_np.put("s3://bucket/x", b"1")
        assert (proxy.seen == []) == direct


def test_the_setting_of_our_own(store: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wins over the environment's, and over NO_PROXY; empty, it says none. Nothing is latched."""
    with proxy_before(store, monkeypatch) as usual, ProxyFake(usual.hosts) as other:
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("S3DLIO_PROXY", other.endpoint)
        s3dlio_np.put("s3://bucket/x", b"1")
        assert (usual.seen, len(other.seen)) == ([], 1)
        monkeypatch.setenv("S3DLIO_PROXY", "http://127.0.0.1:1")
        s3dlio_np.configure(proxy=other.endpoint.removeprefix("http://"))
        s3dlio_np.delete("s3://bucket/x")
        assert requests_of(store) == 2
        assert usual.seen == []
        before = len(other.seen)
        for none in ("configured", "variable"):
            s3dlio_np.configure(proxy="" if none == "configured" else None)
            monkeypatch.setenv("S3DLIO_PROXY", other.endpoint if none == "configured" else "")
            monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
            s3dlio_np.put("s3://bucket/x", b"1")
        assert (usual.seen, len(other.seen)) == ([], before)


def test_the_environments_may_be_configured(
    store: OwnServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy_before(store, monkeypatch) as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "*")
        ours: dict[str, Any] = {f"{scheme}_proxy": proxy.endpoint, "no_proxy": "other.example"}
        s3dlio_np.configure(**ours)
        s3dlio_np.put("s3://bucket/x", b"1")
        assert len(proxy.seen) == 1


def test_a_stream_keeps_its_proxy(store: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_before(store, monkeypatch):
        stream = s3dlio_np.open("s3://bucket/x", "wb", part_size=PART)
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        stream.write(DATA)
        stream.close()
    assert store.get_object("bucket", "x") == DATA


@pytest.mark.parametrize("text", ["ftp://proxy", "http://me:SECRET@proxy:0", "http://proxy/x"])
def test_what_is_no_proxy(store: OwnServer, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("S3DLIO_PROXY", text)
    with pytest.raises(ValueError, match="S3DLIO_PROXY") as caught:
        s3dlio_np.open("s3://bucket/x")
    assert "SECRET" not in str(caught.value)
    assert requests_of(store) == 0


# --- name and password --------------------------------------------------------------------------


def test_name_and_password(
    store: OwnServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy gets them, and nobody behind it."""
    with proxy_before(store, monkeypatch) as proxy:
        proxy.login = "me:p@ss/w:rd"
        url = proxy.endpoint.replace("//", "//me:p%40ss%2Fw:rd@")
        monkeypatch.setenv(f"{scheme}_proxy", url)
        s3dlio_np.put("s3://bucket/x", b"1")
        sent = {seen.headers["proxy-authorization"] for seen in proxy.seen}
        assert sent == {f"Basic {base64.b64encode(b'me:p@ss/w:rd').decode()}"}


@only("http")  # the relay speaks plainly to the server
def test_the_server_does_not_get_them(
    store: OwnServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Inside of a tunnel."""
    files = make_certificates(tmp_path, ["127.0.0.1"])
    with (
        Relay(store.address, files.server_context()) as relay,
        proxy_before(store, monkeypatch, login="me:secret") as proxy,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(files.ca))
        s3dlio_np.put("s3://bucket/x", b"1")
        assert len(proxy.tunnels) == len(relay.heads) == 1
        assert "proxy-authorization" in proxy.seen[0].headers
        assert "authorization" in relay.heads[0].headers
        assert not any(name.startswith("proxy-") for name in relay.heads[0].headers)


# --- TLS with the proxy itself ------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("proxy"), ["127.0.0.1"])


def both_bundles(store: OwnServer, files: Certificates, folder: Path) -> str:
    bundles = [files.ca, *([store.ca_bundle] if store.ca_bundle else [])]
    path = folder / "both.pem"
    path.write_bytes(b"".join(bundle.read_bytes() for bundle in bundles))
    return str(path)


def test_a_proxy_that_speaks_tls(
    store: OwnServer,
    scheme: str,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    tls = certificates.server_context()
    with proxy_before(store, monkeypatch, tls=tls, login="me:secret") as proxy:
        monkeypatch.setenv("AWS_CA_BUNDLE", both_bundles(store, certificates, tmp_path))
        s3dlio_np.put("s3://bucket/x", DATA)
        assert s3dlio_np.get_bytes("s3://bucket/x") == DATA
        assert len(proxy.tunnels if scheme == "https" else proxy.forwarded) >= 1


@pytest.mark.parametrize("wrong", ["authority", "host"])
def test_its_certificate_is_checked(
    store: OwnServer,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wrong: str,
) -> None:
    files = make_certificates(tmp_path, ["example.com"]) if wrong == "host" else certificates
    bundle = both_bundles(store, files, tmp_path) if wrong == "host" else store.ca_bundle
    if bundle:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    tls = files.server_context()
    with proxy_before(store, monkeypatch, tls=tls, login="me:secret") as proxy:
        with pytest.raises(s3dlio_np.StorageError, match=proxy.endpoint) as caught:
            s3dlio_np.put("s3://bucket/x", b"1")
        assert (caught.value.code, caught.value.attempts) == ("TLS", 1)
        assert proxy.seen == []
    assert requests_of(store) == 0


def test_no_connection_outlives_its_bundle(
    store: OwnServer,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What one bundle vouched for is not used under another, though the proxy is the same."""
    right = both_bundles(store, certificates, tmp_path)
    wrong = store.ca_bundle or make_certificates(tmp_path, ["127.0.0.1"]).ca
    with proxy_before(store, monkeypatch, tls=certificates.server_context()) as proxy:
        for bundle in (right, wrong, right):
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            if bundle is right:
                assert s3dlio_np.put("s3://bucket/x", b"1")["size"] == 1
                continue
            with pytest.raises(s3dlio_np.StorageError, match=proxy.endpoint) as caught:
                s3dlio_np.put("s3://bucket/x", b"1")
            assert caught.value.code == "TLS"
    assert requests_of(store) == 2


@only("http")  # the relay speaks plainly to the server
def test_the_servers_certificate_is_checked_inside_a_tunnel(
    store: OwnServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy that sends one elsewhere is found out."""
    files = make_certificates(tmp_path, ["elsewhere.example"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE["https"])
    with Relay(store.address, files.server_context()) as relay:
        with ProxyFake({"localhost": ("127.0.0.1", relay.port)}) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.endpoint)
            for bundle in (files.ca, make_certificates(tmp_path, ["localhost"]).ca):
                monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
                with pytest.raises(s3dlio_np.StorageError, match=proxy.endpoint) as caught:
                    s3dlio_np.put("s3://bucket/x", b"1")
                assert (caught.value.code, caught.value.attempts) == ("TLS", 1)
            assert len(proxy.tunnels) == 2
        assert relay.heads == []


# --- proxies that fail --------------------------------------------------------------------------

FAILING = """
    import json, sys, s3dlio_np
    for use in (s3dlio_np.get_bytes, s3dlio_np.exists, lambda uri: s3dlio_np.put(uri, b"1")):
        try:
            use("s3://bucket/x")
        except s3dlio_np.StorageError as error:
            fields = {name: getattr(error, name) for name in ("code", "status", "attempts")}
            print(json.dumps({"kind": type(error).__name__, "text": str(error), **fields}))
        if len(sys.argv) > 1:
            break
"""


def failures(proxy: str, *arguments: str, attempts: int = 2) -> list[dict[str, Any]]:
    """Of three operations, each by its own connection, in a process with so many attempts for each."""
    env = {"AWS_MAX_ATTEMPTS": str(attempts), "S3DLIO_PROXY": proxy}
    printed = child.run(FAILING, *arguments, env=env)
    found = [json.loads(line) for line in printed.splitlines()]
    assert len(found) == (1 if arguments else 3)
    for each in found:
        assert "SECRET" not in each["text"]
        assert "127.0.0.1:" in each["text"]
    return found


def answer(status: str, headers: str = "", body: bytes = b"") -> Callable[[], Iterable[bytes]]:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return lambda: [head.encode() + body]


HTML = b"<html>ERR_ACCESS_DENIED</html>"
# What is answered to CONNECT, or to a request to be forwarded; code, status, whether tried again.
REFUSALS = {
    "407": (answer("407 Proxy Authentication Required"), "DENIED", 407, False),
    "403": (answer("403 Forbidden", body=HTML), "DENIED", 403, False),
    "400": (answer("400 Bad Request"), "REJECTED", 400, False),
    "429": (answer("429 Too Many"), "THROTTLED", 429, True),
    "500": (answer("500 Oops", body=HTML), "SERVER", 500, True),
    "502": (answer("502 Bad Gateway", body=HTML), "SERVER", 502, True),
    "503": (answer("503 Unavailable", "Retry-After: 0\r\n"), "THROTTLED", 503, True),
    "504": (answer("504 Timeout"), "SERVER", 504, True),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_proxy_that_refuses(store: OwnServer, scheme: str, case: str) -> None:
    pieces, code, status, again = REFUSALS[case]
    with ProxyFake() as proxy:
        proxy.answer = pieces
        for found in failures(proxy.endpoint.replace("//", "//me:SECRET@")):
            assert (found["code"], found["status"]) == (code, status)
            assert found["attempts"] == (2 if again else 1)
            assert f"the proxy {proxy.endpoint}" in found["text"]
            assert (found["kind"] == "AccessDeniedError") == (code == "DENIED")
            assert ("name and password" in found["text"]) == (status == 407)
        assert len(proxy.seen) == (6 if again else 3)
        assert bool(proxy.tunnels) == (scheme == "https")
    assert requests_of(store) == 0


@pytest.mark.parametrize("by", ["http", "socks5h"])
def test_what_the_server_says_is_not_the_proxys(
    store: OwnServer, scheme: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it 407, where nobody takes requests apart on the way."""
    fault = store.add_fault(op="PutObject", kind="status", status=407, code="Odd", count=-1)
    with SocksFake({HOST[scheme]: store.address}) as socks:
        with proxy_before(store, monkeypatch) as proxy:
            if by == "socks5h":
                monkeypatch.setenv("S3DLIO_PROXY", f"socks5h://127.0.0.1:{socks.port}")
            with pytest.raises(s3dlio_np.StorageError) as caught:
                s3dlio_np.put("s3://bucket/x", b"1")
            forwarded = scheme == "http" and by == "http"
            assert (caught.value.status, fault.hits()) == (407, 1)
            assert (caught.value.server_code == "Odd") == (not forwarded)
            assert ("the proxy" in str(caught.value)) == forwarded
            assert len(socks.seen if by == "socks5h" else proxy.seen) == 1


@only("https")
def test_a_404_to_connect_is_no_missing_object(store: OwnServer) -> None:
    """From a web server that is no proxy. To a forwarded request, it could be the store's."""
    with ProxyFake() as proxy:
        proxy.answer = answer("404 Not Found")
        for found in failures(proxy.endpoint):
            assert (found["code"], found["status"]) == ("REJECTED", 404)
        assert len(proxy.tunnels) == 3


LINES = b"".join(b"x-%d: y\r\n" % number for number in range(1000))


def endless(start: bytes, rest: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: itertools.chain([start], itertools.repeat(rest, 10_000))


BREAKS = {
    "nothing": (list, {"NETWORK"}),
    "half a head": (lambda: [b"HTTP/1.1 200 OK\r\nx: "], {"NETWORK", "PROTOCOL"}),
    "no http": (lambda: [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], {"NETWORK", "PROTOCOL"}),
    "headers without end": (endless(b"HTTP/1.1 200 OK\r\n", LINES), {"PROTOCOL"}),
    "a line without end": (
        endless(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 65536),
        {"PROTOCOL", "NETWORK"},
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_broken_proxy(store: OwnServer, case: str) -> None:
    pieces, codes = BREAKS[case]
    with ProxyFake() as proxy:
        proxy.answer = pieces
        for found in failures(proxy.endpoint.replace("//", "//me:SECRET@")):
            assert found["code"] in codes
            assert found["attempts"] == 2
            assert f"the proxy {proxy.endpoint}" in found["text"]
        assert len(proxy.seen) >= 6
        assert proxy.sent < 64 << 20
    assert requests_of(store) == 0


def test_nobody_there(store: OwnServer) -> None:
    for found in failures("http://me:SECRET@127.0.0.1:1"):
        assert (found["code"], found["attempts"]) == ("NETWORK", 2)
        assert "no connection to the proxy http://127.0.0.1:1: " in found["text"]
        assert "S3DLIO_PROXY" in found["text"]


@only("https")
def test_a_proxy_that_hangs(store: OwnServer) -> None:
    """CONNECT has a deadline, that of connecting; one that forwards is as any server that hangs."""
    with ProxyFake() as proxy:
        release = threading.Event()
        proxy.answer = lambda: [b""] if release.wait(60) else []
        found = failures(proxy.endpoint, "one", attempts=1)
        assert (found[0]["code"], found[0]["attempts"]) == ("TIMEOUT", 1)
        assert proxy.endpoint in found[0]["text"]
        assert len(proxy.tunnels) == 1
        release.set()


def test_one_refusal_is_survived(store: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_before(store, monkeypatch) as proxy:
        once = answer("502 Bad Gateway")

        def first() -> Iterable[bytes]:
            proxy.answer = None
            return once()

        proxy.answer = first
        s3dlio_np.put("s3://bucket/x", DATA[:1000])
        assert proxy.sent > 0
        assert len(proxy.seen) >= 2
    assert store.get_object("bucket", "x") == DATA[:1000]


# --- SOCKS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["socks5", "socks5h"])
@pytest.mark.parametrize("login", [None, "me:SECRET"])
def test_socks(
    store: OwnServer, scheme: str, monkeypatch: pytest.MonkeyPatch, kind: str, login: str | None
) -> None:
    """socks5h looks names up at the proxy; socks5 here."""
    host = HOST[scheme] if kind == "socks5h" else "127.0.0.1"
    with SocksFake({host: store.address}, login=login) as proxy:
        if kind == "socks5":
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://127.0.0.1:9")
        url = f"{kind}://{f'{login}@' if login else ''}127.0.0.1:{proxy.port}"
        monkeypatch.setenv("ALL_PROXY", url)
        s3dlio_np.put("s3://bucket/x", DATA)
        assert s3dlio_np.get_bytes("s3://bucket/x") == DATA
        assert set(proxy.seen) == {f"{host}:{80 if host == HOST['http'] else 9}"}


@pytest.mark.parametrize(
    ("login", "reply", "code", "attempts"),
    [("me:other", 0, "DENIED", 1), (None, 2, "NETWORK", 2), (None, 5, "NETWORK", 2)],
)
def test_socks_that_refuses(
    store: OwnServer, login: str | None, reply: int, code: str, attempts: int
) -> None:
    with SocksFake(login=login) as proxy:
        proxy.reply = reply
        url = f"socks5h://127.0.0.1:{proxy.port}"
        for found in failures(url.replace("//", "//me:SECRET@")):
            assert (found["code"], found["attempts"]) == (code, attempts)
            assert url in found["text"]
        assert len(proxy.seen) == (6 if reply else 0)


# --- credentials --------------------------------------------------------------------------------


@pytest.fixture
def fake(s3_own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeAws]:
    """Services that give keys away; the store is asked directly, they at a place where they are not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", s3_own.server.address[0])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name)
    with FakeAws(s3_own.server) as fake:
        fake.accepted["testkey"] = ("testsecret", None)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://aws.invalid")
        (tmp_path / ".aws").mkdir()
        yield fake


@pytest.fixture
def before_services(fake: FakeAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyFake]:
    port = int(fake.endpoint.rpartition(":")[2])
    with ProxyFake({"aws.invalid": ("127.0.0.1", port)}, login="me:SECRET") as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint.replace("//", "//me:SECRET@"))
        yield proxy


def use_web_identity(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "token").write_text("a.token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")


def use_role(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / ".aws" / "config").write_text(
        "[default]\nrole_arn = arn:r\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = testkey\naws_secret_access_key = testsecret\n"
    )


def use_sso(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / ".aws" / "config").write_text(
        "[default]\nsso_start_url = https://start\nsso_region = e\n"
        "sso_account_id = 123456789012\nsso_role_name = Reader & Co\n"
    )
    cache = folder / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    token = {"accessToken": "ssotoken/+=", "expiresAt": "2100-01-01T00:00:00Z"}
    name = hashlib.sha1(b"https://start").hexdigest()
    (cache / f"{name}.json").write_text(json.dumps(token))


@pytest.mark.parametrize(
    ("use", "action"),
    [
        (use_web_identity, "AssumeRoleWithWebIdentity"),
        (use_role, "AssumeRole"),
        (use_sso, "GET /federation/credentials"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_services_are_asked_by_the_proxy(
    s3_own: Any,
    fake: FakeAws,
    before_services: ProxyFake,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    use: Callable[[pytest.MonkeyPatch, Path], None],
    action: str,
    scheme: str,
) -> None:
    use(monkeypatch, tmp_path)
    files = make_certificates(tmp_path, ["aws.invalid"])
    with Relay(before_services.hosts["aws.invalid"], files.server_context()) as relay:
        if scheme == "https":
            before_services.hosts["aws.invalid"] = ("127.0.0.1", relay.port)
            monkeypatch.setenv("https_proxy", os.environ["http_proxy"])
            monkeypatch.setenv("AWS_CA_BUNDLE", both_bundles(s3_own.server, files, tmp_path))
        for name in ("AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_SSO"):
            monkeypatch.setenv(name, f"{scheme}://aws.invalid")
        assert s3dlio_np.put(s3_own.uri("x"), b"1")["size"] == 1
    assert fake.actions() == [action]
    if scheme == "https":
        assert before_services.tunnels == ["aws.invalid:443"]
    else:
        (seen,) = before_services.seen
        assert seen.target.startswith("http://aws.invalid/")


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ("login", 407, "refused the way to http"),
        ("nobody", None, "no connection to the proxy http://127.0.0.1:1: "),
        ("no proxy", None, "is not http://"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sts_by_a_proxy_that_fails(
    s3_own: Any,
    fake: FakeAws,
    before_services: ProxyFake,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scheme: str,
    fault: str,
    status: int | None,
    text: str,
) -> None:
    use_web_identity(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"{scheme}://aws.invalid")
    proxy = {
        "login": before_services.endpoint.replace("//", f"//me:{SECRET}@"),
        "nobody": f"http://me:{SECRET}@127.0.0.1:1",
        "no proxy": f"http://me:{SECRET}@127.0.0.1:0",
    }[fault]
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with pytest.raises((s3dlio_np.StorageError, ValueError)) as caught:
        s3dlio_np.put(s3_own.uri("x"), b"1")
    assert text in str(caught.value)
    assert getattr(caught.value, "status", None) == status
    assert SECRET not in str(caught.value) + repr(vars(caught.value))
    assert isinstance(caught.value, PermissionError) == (fault == "login")
    assert bool(before_services.seen) == (fault == "login")
    assert fake.seen == []


@pytest.mark.parametrize("who", ["container", "metadata"])
def test_what_lies_at_hand_is_asked_directly(
    s3_own: Any,
    fake: FakeAws,
    before_services: ProxyFake,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
) -> None:
    """Whatever says that there is a proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, before_services.endpoint)
    if who == "container":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{fake.endpoint}/container")
    else:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", fake.endpoint)
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("NO_PROXY", f"127.0.0.1:{s3_own.server.address[1]}")
    assert s3dlio_np.put(s3_own.uri("x"), b"1")["size"] == 1
    assert len(fake.seen) == (1 if who == "container" else 3)
    assert before_services.seen == []


# --- what it must not read ----------------------------------------------------------------------


@only("http")
def test_a_customers_key_goes_by_no_plain_proxy(
    store: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback is private only while nothing lies between."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", base64.b64encode(bytes(32)).decode())
    with proxy_before(store, monkeypatch) as proxy:
        with pytest.raises(ValueError, match="sse_customer_key"):
            s3dlio_np.put("s3://bucket/x", b"1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        s3dlio_np.put("s3://bucket/x", b"1")
        assert proxy.seen == []
