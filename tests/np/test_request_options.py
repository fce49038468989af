"""Headers that settings add: on every request that needs them, signed, and on no other."""

from __future__ import annotations

import base64
import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import s3dlio_np
from tests.servers.key_store import KeyStore
from tests.servers.relay import Relay

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()
DIGEST = base64.b64encode(hashlib.md5(KEY).digest()).decode()
SSE = "x-amz-server-side-encryption"
CUSTOMER = {
    f"{SSE}-customer-algorithm": "AES256",
    f"{SSE}-customer-key": KEY_TEXT,
    f"{SSE}-customer-key-md5": DIGEST,
}
BODY = bytes(6 * 2**20)  # two parts

CREATING = {"put", "create"}
CONTENT = CREATING | {"part", "complete", "head", "get"}
EVERY = CONTENT | {"list", "delete", "abort"}


def kind_of(head: Any) -> str:
    """Which of S3's operations a request is."""
    path, _, query = head.target.partition("?")
    names = {pair.partition("=")[0] for pair in query.split("&")}
    if "list-type" in names:
        return "list"
    if head.method == "POST":
        return "create" if "uploads" in names else "complete"
    if head.method == "DELETE":
        return "abort" if "uploadId" in names else "delete"
    if head.method == "PUT":
        return "part" if "uploadId" in names else "put"
    return head.method.lower()


@pytest.fixture
def relay(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    with Relay(s3_own.server.address) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        yield relay


def every_request(uri: Any) -> None:
    s3dlio_np.put(uri("small"), b"x")
    with s3dlio_np.open(uri("large"), "wb", part_size=5 * 2**20) as stream:
        stream.write(BODY)
    with (
        pytest.raises(KeyError),
        s3dlio_np.open(uri("given up"), "wb", part_size=5 * 2**20) as stream,
    ):
        stream.write(BODY)
        raise KeyError
    assert s3dlio_np.get_bytes(uri("large"), part_size=2**20, concurrent=True) == BODY
    assert s3dlio_np.stat(uri("small"))["size"] == 1
    assert s3dlio_np.exists(uri("small"))
    assert len(list(s3dlio_np.list(uri("")))) == 2
    for key in ("small", "large"):
        s3dlio_np.delete(uri(key))


@pytest.mark.parametrize(
    ("settings", "headers", "where"),
    [
        ({"REQUEST_PAYER": "requester"}, {"x-amz-request-payer": "requester"}, EVERY),
        (
            {"EXPECTED_BUCKET_OWNER": "111122223333"},
            {"x-amz-expected-bucket-owner": "111122223333"},
            EVERY,
        ),
        ({"SSE": "AES256"}, {SSE: "AES256"}, CREATING),
        (
            {
                "SSE": "aws:kms",
                "SSE_KMS_KEY_ID": "arn:aws:kms:eu-west-1:111122223333:key/k",
                "SSE_KMS_CONTEXT": "e30=",
                "SSE_BUCKET_KEY": "true",
            },
            {
                SSE: "aws:kms",
                f"{SSE}-aws-kms-key-id": "arn:aws:kms:eu-west-1:111122223333:key/k",
                f"{SSE}-context": "e30=",
                f"{SSE}-bucket-key-enabled": "true",
            },
            CREATING,
        ),
        ({"SSE": "aws:kms:dsse"}, {SSE: "aws:kms:dsse"}, CREATING),
        ({"SSE_CUSTOMER_KEY": KEY_TEXT}, CUSTOMER, CONTENT),
    ],
    ids=["payer", "owner", "sse-s3", "sse-kms", "sse-dsse", "sse-c"],
)
def test_headers_are_where_they_belong(
    s3_own: Any,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    headers: dict[str, str],
    where: set[str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"S3DLIO_{name}", value)
    every_request(s3_own.uri)
    assert {kind_of(head) for head in relay.heads} == EVERY
    for head in relay.heads:
        found = {
            name: value
            for name, value in head.headers.items()
            if name in ("x-amz-request-payer", "x-amz-expected-bucket-owner")
            or name.startswith(SSE)
        }
        assert found == (headers if kind_of(head) in where else {}), kind_of(head)
        signed = head.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        assert set(found) <= set(signed.split(";"))
    assert s3_own.server.counters()["signatures_verified"] == len(relay.heads)


def test_without_settings_there_is_none(s3_own: Any, relay: Relay) -> None:
    every_request(s3_own.uri)
    for head in relay.heads:
        assert not [name for name in head.headers if "encryption" in name or "payer" in name]


def test_configure_counts_for_what_is_opened_afterwards(s3_own: Any, relay: Relay) -> None:
    try:
        s3dlio_np.configure(request_payer="requester")
        s3dlio_np.put(s3_own.uri("x"), b"1")
    finally:
        s3dlio_np.configure(request_payer=None)
    s3dlio_np.put(s3_own.uri("x"), b"2")
    assert [head.headers.get("x-amz-request-payer") for head in relay.heads] == [
        "requester",
        None,
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"request_payer": "me"}, "request_payer"),
        ({"sse": "rot13"}, "AES256, aws:kms"),
        ({"sse_kms_key_id": "k"}, "need sse"),
        ({"sse": "AES256", "sse_bucket_key": "true"}, "need sse"),
        ({"sse": "aws:kms", "sse_bucket_key": "1"}, "true or false"),
        ({"sse": "aws:kms", "sse_kms_key_id": "a\r\nx-evil: 1"}, "visible ASCII"),
        ({"expected_bucket_owner": "1 2"}, "visible ASCII"),
        ({"sse": "AES256", "sse_customer_key": KEY_TEXT}, "exclude"),
        ({"sse_customer_key": "c2hvcnQ="}, "32 bytes in base64"),
        ({"sse_customer_key": "!" * 43 + "="}, "32 bytes in base64"),
        ({"sse_customer_key": base64.b64encode(bytes(33)).decode()}, "32 bytes in base64"),
    ],
)
def test_wrong_settings(s3_own: Any, settings: dict[str, str], told: str) -> None:
    try:
        for field, value in settings.items():
            s3dlio_np.configure(**{field: value})
        with pytest.raises(ValueError, match=told) as caught:
            s3dlio_np.put(s3_own.uri("x"), b"1")
    finally:
        s3dlio_np.configure(**dict.fromkeys(settings))
    key = settings.get("sse_customer_key")
    assert key is None or key not in repr(caught.value) + str(caught.value)
    assert s3dlio_np.exists(s3_own.uri("x")) is False


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://store.example",
        "http://127.0.0.1.store.example",
        "http://127.0.0.1x:80",
        "http://10.0.0.1",
    ],
)
def test_a_customer_key_goes_nowhere_in_clear(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", KEY_TEXT)
    with pytest.raises(ValueError, match="https") as caught:
        s3dlio_np.put("s3://bucket/x", b"1")
    assert KEY_TEXT not in str(caught.value)


def test_no_error_tells_a_customer_key(
    s3_own: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", KEY_TEXT)
    fault = s3_own.server.add_fault(
        op="PutObject", kind="status", status=400, code="InvalidArgument"
    )
    with pytest.raises(OSError) as caught:
        s3dlio_np.put(s3_own.uri("x"), b"1")
    assert fault.hits() == 1
    error = caught.value
    assert relay.heads[0].headers[f"{SSE}-customer-key"] == KEY_TEXT
    told = [
        str(error),
        repr(error),
        repr(vars(error)),
        repr(error.__cause__),
        str(pickle.dumps(error.args)),
    ]
    assert not any(KEY_TEXT in text for text in told)


@pytest.mark.parametrize("size", [5, 11 * 2**20])
def test_only_the_customer_key_opens_it(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    uri, data = "s3://bucket/under-key", bytes(range(256)) * (size // 256 + 1)
    options = s3dlio_np.WriterOptions(part_size=5 * 2**20)
    with KeyStore() as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", KEY_TEXT)
        s3dlio_np.put(uri, data, options=options)
        assert s3dlio_np.stat(uri)["size"] == len(data)
        assert s3dlio_np.get_bytes(uri, concurrent=True, part_size=2**20) == data
        assert store.refused == 0

        other = base64.b64encode(KEY[::-1]).decode()
        monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", other)
        with pytest.raises(PermissionError) as caught:
            s3dlio_np.get_bytes(uri)
        assert other not in str(caught.value)
        assert store.refused == 1

        monkeypatch.delenv("S3DLIO_SSE_CUSTOMER_KEY")
        with pytest.raises(s3dlio_np.StorageError):
            s3dlio_np.get_bytes(uri)
        assert store.refused == 2
