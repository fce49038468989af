"""TLS: the own server, behind a TLS relay and by itself, with certificate authorities of their own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests.conftest import point_engine_at
from tests.servers.own import OwnServer
from tests.servers.relay import Certificates, Relay, make_certificates

PART = 5 * 1024 * 1024
DATA = np.random.default_rng(1).integers(0, 256, 3 * PART + 17, np.uint8).tobytes()

Behind = Callable[..., Any]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), ["127.0.0.1", "localhost"])


@pytest.fixture
def behind_tls(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    """A function that puts TLS before the own server and points the engine at it."""

    @contextmanager
    def start(files: Certificates, host: str = "127.0.0.1") -> Iterator[Relay]:
        with Relay(s3_own.server.address, files.server_context()) as relay:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{host}:{relay.port}")
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
            yield relay

    yield start


def nothing_arrived(s3_own: Any) -> bool:
    return not any(s3_own.server.counters()["requests"].values()) and not s3_own.objects()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_with_the_bundle(
    s3_own: Any,
    behind_tls: Behind,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.ca))
    with behind_tls(certificates, host) as relay:
        with s3dlio_np.open(s3_own.uri("a"), "wb", part_size=PART) as stream:
            stream.write(DATA)
        s3dlio_np.put(s3_own.uri("b"), b"small")
        assert s3dlio_np.get_bytes(s3_own.uri("a")) == DATA
        with s3dlio_np.open(s3_own.uri("a"), part_size=1 << 20) as reader:
            assert reader.read() == DATA
    assert s3_own.server.counters()["signatures_verified"] == len(relay.heads)
    assert s3_own.get("a") == DATA
    bodies = [head for head in relay.heads if head.method == "PUT"]
    assert len(bodies) == 5
    assert {head.headers["x-amz-content-sha256"] for head in bodies} == {"UNSIGNED-PAYLOAD"}
    assert all("authorization" in head.headers for head in relay.heads)


def test_bodies_are_signed_when_asked_for(
    s3_own: Any,
    behind_tls: Behind,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.ca))
    monkeypatch.setenv("S3DLIO_SIGN_PAYLOAD", "1")
    with behind_tls(certificates) as relay:
        s3dlio_np.put(s3_own.uri("a"), DATA)
    assert s3_own.get("a") == DATA
    bodies = [head.headers["x-amz-content-sha256"] for head in relay.heads]
    assert all(len(digest) == 64 for digest in bodies)


def test_the_bundle_may_be_configured(
    s3_own: Any, behind_tls: Behind, certificates: Certificates
) -> None:
    s3dlio_np.configure(ca_bundle=certificates.ca)
    try:
        with behind_tls(certificates):
            assert s3dlio_np.put(s3_own.uri("a"), b"12")["size"] == 2
    finally:
        s3dlio_np.configure(ca_bundle=None)


def refused(uri: str, *hints: str) -> None:
    for use in (
        lambda: s3dlio_np.open(uri),
        lambda: s3dlio_np.put(uri, b"secret"),
        lambda: s3dlio_np.get_bytes(uri),
        lambda: s3dlio_np.put(uri, DATA),
    ):
        with pytest.raises(s3dlio_np.StorageError) as caught:
            use()
        assert (caught.value.code, caught.value.uri) == ("TLS", uri)
        assert (caught.value.attempts, caught.value.status) == (1, None)
        for hint in (uri, *hints):
            assert hint in str(caught.value)


def test_without_the_bundle(
    s3_own: Any, behind_tls: Behind, certificates: Certificates
) -> None:
    with behind_tls(certificates) as relay:
        refused(s3_own.uri("a"), f"127.0.0.1:{relay.port}", "certificate", "AWS_CA_BUNDLE")
    assert nothing_arrived(s3_own)


def test_with_another_authority(
    s3_own: Any,
    behind_tls: Behind,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(make_certificates(tmp_path, ["localhost"]).ca))
    with behind_tls(certificates):
        refused(s3_own.uri("a"), "certificate")
    assert nothing_arrived(s3_own)


@pytest.mark.parametrize(
    ("names", "days", "hint"),
    [
        (["example.com"], (-1, 2), "127.0.0.1"),
        (["127.0.0.1"], (-3, -1), "expired"),
        (["127.0.0.1"], (1, 3), "not yet valid"),
    ],
    ids=["another host", "expired", "not yet valid"],
)
def test_a_wrong_certificate(
    s3_own: Any,
    behind_tls: Behind,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    names: list[str],
    days: tuple[int, int],
    hint: str,
) -> None:
    files = make_certificates(tmp_path, names, valid_days=days)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(files.ca))
    with behind_tls(files):
        refused(s3_own.uri("a"), hint)
    assert nothing_arrived(s3_own)


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_handshake_that_breaks_off(
    s3_own: Any,
    behind_tls: Behind,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """That is no refusal: a lost connection, as any."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.ca))
    with behind_tls(certificates) as relay:
        relay.breaks = [how] * 100
        with pytest.raises(s3dlio_np.StorageError) as caught:
            s3dlio_np.put(s3_own.uri("a"), DATA)
        assert caught.value.code == "NETWORK" and caught.value.attempts > 1
        relay.breaks = [how]
        retries = s3dlio_np.stats()["retries"]
        s3dlio_np.put(s3_own.uri("a"), DATA)
        assert (relay.breaks, s3_own.get("a")) == ([], DATA)
        assert s3dlio_np.stats()["retries"] > retries


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_bundle_that_is_none(
    s3_own: Any,
    behind_tls: Behind,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: str | None,
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with behind_tls(certificates):
        refused(s3_own.uri("a"), str(path))
    assert nothing_arrived(s3_own)


def test_a_server_that_does_not_speak_tls(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_server() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
        refused(s3_own.uri("a"), f"127.0.0.1:{port}")


@contextmanager
def plain_server() -> Iterator[int]:
    """Answers whatever comes with 400, as an HTTP server does to a TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # until the listener is shut down
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        client.recv(1 << 16)
                        client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_bundles_may_change_between_streams(
    s3_own: Any,
    behind_tls: Behind,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """No answer is kept for ever: right, wrong, right again."""
    other = make_certificates(tmp_path, ["localhost"])
    with behind_tls(certificates):
        for bundle, good in (
            (certificates.ca, True),
            (other.ca, False),
            (certificates.ca, True),
        ):
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            if good:
                assert s3dlio_np.put(s3_own.uri("a"), b"123")["size"] == 3
            else:
                refused(s3_own.uri("a"))


# --- the own server itself speaking TLS ---------------------------------------------------------


@pytest.fixture
def tls_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServer]:
    with OwnServer(tls=True, md5=True) as server:
        point_engine_at(server, monkeypatch)
        yield server


def test_every_request_is_encrypted(tls_server: OwnServer) -> None:
    s3dlio_np.put("s3://bucket/a", DATA)
    assert s3dlio_np.get_bytes("s3://bucket/a") == DATA
    counters = tls_server.counters()
    requests = sum(counters["requests"].values())
    assert requests == counters["tls_requests"] == counters["signatures_verified"] > 1
    # In the clear: the counter tells them apart.
    assert tls_server.get_object("bucket", "a") == DATA
    assert tls_server.counters()["tls_requests"] == requests


@pytest.mark.parametrize(
    ("op", "kind", "rule"),
    [
        ("GetObject", "reset_before", {}),
        ("GetObject", "reset_after_headers", {}),
        ("GetObject", "reset_after", {"bytes": 100_000}),
        ("GetObject", "truncate", {"bytes": 100_000}),
        ("GetObject", "status", {"status": 503, "code": "SlowDown"}),
        ("UploadPart", "reset_before", {}),
        ("UploadPart", "refuse_body", {"bytes": 100_000}),
        ("UploadPart", "lost_reply", {}),
        ("CompleteMultipartUpload", "error_200", {}),
    ],
)
def test_faults_act_below_tls(
    tls_server: OwnServer, op: str, kind: str, rule: dict[str, Any]
) -> None:
    fault = tls_server.add_fault(op=op, kind=kind, **rule)
    with s3dlio_np.open("s3://bucket/a", "wb", part_size=PART) as stream:
        stream.write(DATA)
    assert s3dlio_np.get_bytes("s3://bucket/a") == DATA
    assert fault.hits() == 1
    assert tls_server.uploads() == []


def test_a_changed_certificate_authority(
    tls_server: OwnServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bundle file that is replaced under its name counts from then on, the old one no longer."""
    bundle = tmp_path / "bundle.pem"
    right = tls_server.env()["AWS_CA_BUNDLE"]
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    bundle.write_bytes(make_certificates(tmp_path, ["localhost"]).ca.read_bytes())
    refused("s3://bucket/a", "certificate")
    fresh = tmp_path / "fresh.pem"
    fresh.write_bytes(Path(right).read_bytes())
    fresh.replace(bundle)
    assert s3dlio_np.put("s3://bucket/a", b"123")["size"] == 3


def test_a_self_signed_certificate(
    s3_own: Any, behind_tls: Behind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(make_certificates(tmp_path, ["localhost"]).ca))
    alone = make_certificates(tmp_path, ["127.0.0.1"], self_signed=True)
    with behind_tls(alone):
        refused(s3_own.uri("a"), "self-signed")
    assert nothing_arrived(s3_own)


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.filterwarnings("ignore:.*TLSv1.*:DeprecationWarning")
def test_an_old_protocol_is_refused(
    s3_own: Any, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    context = certificates.server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would refuse on the server's side
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.ca))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with Relay(s3_own.server.address, context) as relay:
        old = ssl.create_default_context(cafile=str(certificates.ca))
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.TLSv1
        with socket.create_connection(("127.0.0.1", relay.port)) as plain:
            with old.wrap_socket(plain, server_hostname="127.0.0.1") as seen:
                served = seen.version()
            assert served == version.replace("_", ".")  # to whom asks for it
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        refused(s3_own.uri("a"), f"127.0.0.1:{relay.port}")
        assert relay.heads == []
    assert nothing_arrived(s3_own)
