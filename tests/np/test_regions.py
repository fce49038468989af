"""A bucket in another region than the settings say: signed anew, remembered, and never a host's say."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

import s3dlio_np
from tests.conftest import point_engine_at
from tests.servers.http_fake import HttpFake
from tests.servers.own import OwnServer
from tests.servers.relay import Relay

BODY = bytes(range(256)) * (6 * 2**12)  # 6 MiB


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[OwnServer, Relay]]:
    """A server that takes signatures for eu-west-7 only, and a client that is told us-east-1."""
    with (
        OwnServer(buckets=("bucket",), region="eu-west-7") as server,
        Relay(server.address) as relay,
    ):
        point_engine_at(server, monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield server, relay


def write_parts() -> None:
    with s3dlio_np.open("s3://bucket/x", "wb", part_size=5 * 2**20) as stream:
        stream.write(BODY)


FIRST = {
    "put": lambda: s3dlio_np.put("s3://bucket/x", BODY),
    "parts": write_parts,
    "get": lambda: s3dlio_np.get_bytes("s3://bucket/seed"),
    "head": lambda: s3dlio_np.stat("s3://bucket/seed"),
    "list": lambda: list(s3dlio_np.list("s3://bucket/")),
    "delete": lambda: s3dlio_np.delete("s3://bucket/seed"),
    "read": lambda: s3dlio_np.open("s3://bucket/seed").read(),
}


def region_of(head: Any) -> str:
    return str(head.headers["authorization"].split("/")[2])


@pytest.mark.parametrize("first", FIRST)
def test_the_first_request_finds_the_region(far: tuple[OwnServer, Relay], first: str) -> None:
    server, relay = far
    server.put_object("bucket", "seed", BODY)
    before = s3dlio_np.stats()["retries"]
    FIRST[first]()
    regions = [region_of(head) for head in relay.heads]
    assert regions[0] == "us-east-1"
    assert set(regions[1:]) == {"eu-west-7"}
    if first in ("put", "parts"):
        assert server.get_object("bucket", "x") == BODY
    seen = len(relay.heads)
    assert (
        s3dlio_np.exists("s3://bucket/none") is False
    )  # another stream: it goes there at once
    assert [region_of(head) for head in relay.heads[seen:]] == ["eu-west-7"]
    assert s3dlio_np.stats()["retries"] - before <= 1
    assert server.uploads() == []


def test_many_at_once_are_all_sent_again(far: tuple[OwnServer, Relay]) -> None:
    server, relay = far
    server.put_object("bucket", "seed", BODY)
    got = bytearray(len(BODY))
    s3dlio_np.get_into(
        "s3://bucket/seed", got, length=len(BODY), part_size=65536, max_concurrency=16
    )
    assert got == BODY
    assert {region_of(head) for head in relay.heads} == {"us-east-1", "eu-west-7"}


class Redirects(HttpFake):
    """Answers everything with one status and one set of headers, and counts."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.requests: list[str] = []
        seen = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                seen.append(self.headers["Authorization"].split("/")[2])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                content = b"" if self.command == "HEAD" else body
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *unused: object) -> None:
                pass

        super().__init__(Handler)


def error_xml(code: str, more: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, s3_own: Any) -> pytest.MonkeyPatch:
    point_engine_at(s3_own.server, monkeypatch)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


@pytest.mark.parametrize("status", [301, 307, 400])
@pytest.mark.parametrize("use", ["get", "head", "put"])
def test_a_region_that_is_refused_too_ends_it(
    client: pytest.MonkeyPatch, status: int, use: str
) -> None:
    headers = {"x-amz-bucket-region": "ap-south-1"}
    body = error_xml("PermanentRedirect", "<Region>ap-south-1</Region>")
    with Redirects(status, headers, body) as fake:
        client.setenv("AWS_ENDPOINT_URL", fake.endpoint)
        with pytest.raises(OSError) as caught:
            FIRST[use]()
        assert fake.requests == ["us-east-1", "ap-south-1"]
    assert caught.value.status == status  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("use", ["get", "head", "put", "list"])
def test_no_other_host_is_ever_asked(
    client: pytest.MonkeyPatch, s3_own: Any, status: int, use: str
) -> None:
    """Location and Endpoint lead to a server that would answer; nothing arrives there."""
    s3_own.put("seed", BODY)
    with Relay(s3_own.server.address) as elsewhere:
        headers = {
            "Location": f"{elsewhere.endpoint}/{s3_own.bucket}/seed",
            "x-amz-bucket-region": f"127.0.0.1:{elsewhere.port}/",
        }
        endpoint = (
            f"<Endpoint>127.0.0.1:{elsewhere.port}</Endpoint><Region>evil.example</Region>"
        )
        with Redirects(status, headers, error_xml("TemporaryRedirect", endpoint)) as fake:
            client.setenv("AWS_ENDPOINT_URL", fake.endpoint)
            client.setenv("AWS_MAX_ATTEMPTS", "2")
            with pytest.raises(OSError):
                FIRST[use]()
            assert fake.requests
            assert set(fake.requests) == {"us-east-1"}
        assert elsewhere.heads == []
