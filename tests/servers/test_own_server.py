"""The project's own S3 server does what the engine's tests rely on. No S3 library: http.client and sockets."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.servers.own import Answer, OwnServer, ServerError, build, pattern, sign

BUCKET = "bucket"
MIB = 1 << 20
ETAG = re.compile(r'^"[0-9a-f]{32}(-[0-9]+)?"$')


@pytest.fixture(scope="module")
def shared() -> Iterator[OwnServer]:
    # The sanitizer build: every test here is also a test of the server's memory use.
    with OwnServer(
        buckets=(BUCKET, "other", "denied-one"),
        sanitize=True,
        min_part_size=5 * MIB,
        pattern_objects={"bucket/virtual/huge": 5 << 30},
    ) as server:
        yield server


@pytest.fixture
def server(shared: OwnServer) -> OwnServer:
    shared.reset(objects=True)
    return shared


def code_of(answer: Answer) -> str:
    found = re.search("<Code>(.*?)</Code>", answer.text)
    return found.group(1) if found else ""


def create_upload(server: OwnServer, key: str, **headers: str) -> str:
    answer = server.request("POST", f"/{BUCKET}/{key}", query={"uploads": ""}, headers=headers)
    assert answer.status == 200
    return answer.text.split("<UploadId>")[1].split("<")[0]


def upload_part(server: OwnServer, key: str, upload_id: str, number: int, data: bytes) -> str:
    query = {"partNumber": str(number), "uploadId": upload_id}
    answer = server.request("PUT", f"/{BUCKET}/{key}", query=query, body=data)
    assert answer.status == 200, answer.text
    return answer.headers["etag"]


def complete(
    server: OwnServer,
    key: str,
    upload_id: str,
    parts: Sequence[tuple[int, str]],
    headers: dict[str, str] | None = None,
) -> Answer:
    rows = "".join(
        f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in parts
    )
    xml = f'<?xml version="1.0"?>\n<CompleteMultipartUpload xmlns="x">{rows}</CompleteMultipartUpload>\n'
    query = {"uploadId": upload_id}
    return server.request(
        "POST", f"/{BUCKET}/{key}", query=query, body=xml.encode(), headers=headers
    )


def raw(server: OwnServer, request: bytes, *, wait_s: float = 10) -> bytes:
    """What the server answers to these bytes, until it closes."""
    with socket.create_connection(server.address, timeout=wait_s) as connection:
        connection.sendall(request)
        chunks = []
        while chunk := connection.recv(1 << 16):
            chunks.append(chunk)
    return b"".join(chunks)


# Objects ------------------------------------------------------------------------------------------------------------


def test_an_object_comes_back_with_its_headers(server: OwnServer) -> None:
    headers = {
        "Content-Type": "application/x-thing",
        "Content-Encoding": "zstd",
        "x-amz-meta-colour": "dark blue",
        "x-amz-storage-class": "STANDARD_IA",
    }
    put = server.request("PUT", f"/{BUCKET}/a/b", body=b"hello", headers=headers)
    assert put.status == 200
    assert ETAG.match(put.headers["etag"])
    for method, body in (("GET", b"hello"), ("HEAD", b"")):
        got = server.request(method, f"/{BUCKET}/a/b")
        assert (got.status, got.body) == (200, body)
        assert got.headers["content-length"] == "5"
        assert got.headers["etag"] == put.headers["etag"]
        assert {name.lower(): got.headers[name.lower()] for name in headers} == {
            name.lower(): value for name, value in headers.items()
        }
        assert got.headers["last-modified"].endswith("GMT")
        assert got.headers["date"].endswith("GMT")
        assert got.headers["x-amz-request-id"]


def test_each_write_has_an_etag_of_its_own(server: OwnServer) -> None:
    assert server.put_object(BUCKET, "k", b"same") != server.put_object(BUCKET, "k", b"same")


@pytest.mark.parametrize(
    "key",
    [
        "plain",
        "with space",
        "ünï/cödé",
        "a+b&c=d?e#f",
        "/leading//double",
        "\udcff\udc80raw",
        "%41",
        "~._-",
    ],
)
def test_keys_of_any_bytes(server: OwnServer, key: str) -> None:
    server.put_object(BUCKET, key, b"x")
    assert server.get_object(BUCKET, key) == b"x"
    assert server.objects()[0]["key"] == key or server.objects()[1]["key"] == key
    server.delete_object(BUCKET, key)
    assert server.request("GET", f"/{BUCKET}/{key}").status == 404


def test_errors_are_s3s(server: OwnServer) -> None:
    missing = server.request("GET", f"/{BUCKET}/none")
    assert (missing.status, code_of(missing)) == (404, "NoSuchKey")
    assert "<Resource>/bucket/none</Resource>" in missing.text
    assert f"<RequestId>{missing.headers['x-amz-request-id']}</RequestId>" in missing.text
    nowhere = server.request("PUT", "/nowhere/k", body=b"x" * 100)
    assert (nowhere.status, code_of(nowhere)) == (404, "NoSuchBucket")
    assert server.request("HEAD", f"/{BUCKET}/none").body == b""
    assert code_of(server.request("PUT", "/denied-one/k", body=b"x")) == "AccessDenied"
    assert server.request("GET", "/denied-one/k").status == 403
    assert server.request("PUT", f"/{BUCKET}/{'k' * 1025}", body=b"").status == 400
    assert server.request("GET", f"/{BUCKET}/k", query={"acl": ""}).status == 501
    assert server.request("DELETE", f"/{BUCKET}/none").status == 204


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=90-", 90, 99),
        ("bytes=95-1000", 95, 99),
        ("bytes=-7", 93, 99),
        ("bytes=-1000", 0, 99),
    ],
)
def test_ranges(server: OwnServer, value: str, first: int, last: int) -> None:
    data = bytes(range(100))
    server.put_object(BUCKET, "k", data)
    got = server.request("GET", f"/{BUCKET}/k", headers={"Range": value})
    assert (got.status, got.body) == (206, data[first : last + 1])
    assert got.headers["content-range"] == f"bytes {first}-{last}/100"
    head = server.request("HEAD", f"/{BUCKET}/k", headers={"Range": value})
    assert (head.status, head.headers["content-length"]) == (206, str(last - first + 1))


def test_ranges_that_cannot_be(server: OwnServer) -> None:
    server.put_object(BUCKET, "k", b"0123456789")
    server.put_object(BUCKET, "empty", b"")
    for key, value in (
        ("k", "bytes=10-"),
        ("k", "bytes=-0"),
        ("empty", "bytes=0-"),
        ("empty", "bytes=-1"),
    ):
        got = server.request("GET", f"/{BUCKET}/{key}", headers={"Range": value})
        assert (got.status, code_of(got)) == (416, "InvalidRange")
        assert got.headers["content-range"] == f"bytes */{10 if key == 'k' else 0}"
    for value in ("bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4"):
        assert server.request("GET", f"/{BUCKET}/k", headers={"Range": value}).status == 200


def test_conditions(server: OwnServer) -> None:
    etag = server.put_object(BUCKET, "k", b"x")
    path = f"/{BUCKET}/k"
    for method in ("GET", "HEAD"):
        assert server.request(method, path, headers={"If-Match": etag}).status == 200
        assert server.request(method, path, headers={"If-Match": '"other"'}).status == 412
        assert server.request(method, path, headers={"If-None-Match": '"other"'}).status == 200
        unchanged = server.request(method, path, headers={"If-None-Match": etag})
        assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, b"", etag)
    taken = server.request("PUT", path, body=b"y", headers={"If-None-Match": "*"})
    assert (taken.status, code_of(taken)) == (412, "PreconditionFailed")
    assert server.get_object(BUCKET, "k") == b"x"
    assert (
        server.request(
            "PUT", f"/{BUCKET}/new", body=b"y", headers={"If-None-Match": "*"}
        ).status
        == 200
    )
    assert server.request("PUT", path, body=b"y", headers={"If-Match": '"other"'}).status == 412
    assert server.request("PUT", path, body=b"y", headers={"If-Match": etag}).status == 200
    missing = server.request("PUT", f"{path}-missing", body=b"y", headers={"If-Match": etag})
    assert missing.status == 404


def test_a_get_in_progress_keeps_its_bytes(server: OwnServer) -> None:
    old = os.urandom(24 * MIB)
    server.put_object(BUCKET, "k", old)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    host = server.endpoint.removeprefix("http://")
    path = f"/{BUCKET}/k"
    signed = sign(
        "GET",
        host,
        path,
        {},
        {},
        access_key=server.access_key,
        secret_key=server.secret_key,
        region=server.region,
    )
    connection.request("GET", path, headers=signed)
    answer = connection.getresponse()
    begin = answer.read(1000)
    server.put_object(BUCKET, "k", b"\0" * len(old))
    server.delete_object(BUCKET, "k")
    server.put_object(BUCKET, "again", b"\1" * len(old))
    assert begin + answer.read() == old
    connection.close()


def test_virtual_objects_and_host_style(server: OwnServer) -> None:
    size = 5 << 30
    at = (4 << 30) + 12345
    got = server.request(
        "GET", f"/{BUCKET}/virtual/huge", headers={"Range": f"bytes={at}-{at + 3 * MIB - 1}"}
    )
    assert got.headers["content-range"] == f"bytes {at}-{at + 3 * MIB - 1}/{size}"
    assert got.body == pattern(at, 3 * MIB)
    assert pattern(1048573 * 3 + 5, 4) == bytes(
        (i * 2654435761 >> 24) & 0xFF for i in range(5, 9)
    )
    with OwnServer(verify=False, discard=True) as plain:
        plain.request("PUT", f"/{BUCKET}/k", body=b"x" * 1000, signed=False)
        for host in ("bucket.localhost", "bucket.s3.localhost:99"):
            got = plain.request("GET", "/k", headers={"Host": host}, signed=False)
            assert (got.status, got.body) == (200, pattern(0, 1000))


# Buckets and lists --------------------------------------------------------------------------------------------------


def test_buckets(server: OwnServer) -> None:
    assert server.request("HEAD", "/fresh").status == 404
    assert server.request("PUT", "/fresh").status == 200
    assert code_of(server.request("PUT", "/fresh")) == "BucketAlreadyOwnedByYou"
    assert server.request("HEAD", "/fresh").headers["x-amz-bucket-region"] == "us-east-1"
    server.put_object("fresh", "k", b"")
    full = server.request("DELETE", "/fresh")
    assert (full.status, code_of(full)) == (409, "BucketNotEmpty")
    server.delete_object("fresh", "k")
    assert server.request("DELETE", "/fresh").status == 204
    assert server.request("PUT", "/Not_A_Bucket").status == 400


def names(answer: Answer) -> list[str]:
    """Keys and common prefixes in the order in which they stand in the answer."""
    assert answer.status == 200, answer.text
    return re.findall(r"<(?:Contents><Key|CommonPrefixes><Prefix)>(.*?)</", answer.text)


def list_all(server: OwnServer, **query: str) -> list[str]:
    found: list[str] = []
    extra: dict[str, str] = {}
    while True:
        page = server.request("GET", "/other", query={"list-type": "2", **query, **extra})
        assert len(names(page)) <= int(query.get("max-keys", "1000"))
        assert f"<KeyCount>{len(names(page))}</KeyCount>" in page.text
        found += names(page)
        token = re.search("<NextContinuationToken>(.*?)</NextContinuationToken>", page.text)
        assert (token is not None) == ("<IsTruncated>true<" in page.text)
        if token is None:
            return found
        extra = {"continuation-token": token.group(1)}


@pytest.mark.parametrize("max_keys", ["1", "2", "3", "1000"])
def test_lists(server: OwnServer, max_keys: str) -> None:
    keys = ["a", "b/1", "b/2", "b/c/1", "b/c/2", "b/d", "c-1", "c/1", "d"]
    for key in reversed(keys):
        server.put_object("other", key, b"x")
    by_bytes = sorted(keys)
    assert list_all(server, **{"max-keys": max_keys}) == by_bytes
    assert list_all(server, **{"max-keys": max_keys, "delimiter": "/"}) == [
        "a",
        "b/",
        "c-1",
        "c/",
        "d",
    ]
    assert list_all(server, **{"max-keys": max_keys, "delimiter": "/", "prefix": "b/"}) == [
        "b/1",
        "b/2",
        "b/c/",
        "b/d",
    ]
    assert list_all(server, **{"max-keys": max_keys, "prefix": "c"}) == ["c-1", "c/1"]
    assert list_all(server, **{"max-keys": max_keys, "start-after": "b/c/2"}) == [
        "b/d",
        "c-1",
        "c/1",
        "d",
    ]
    assert list_all(server, **{"max-keys": max_keys, "prefix": "zzz"}) == []


def test_list_encoding_and_errors(server: OwnServer) -> None:
    server.put_object("other", "a b/<&>\n", b"x")
    assert list_all(server, **{"encoding-type": "url"}) == ["a%20b/%3C%26%3E%0A"]
    assert list_all(server) == ["a b/&lt;&amp;&gt;&#xa;"]
    assert "<Size>1</Size>" in server.request("GET", "/other", query={"list-type": "2"}).text
    for query in ({"max-keys": "x"}, {"continuation-token": "junk"}):
        assert server.request("GET", "/other", query={"list-type": "2", **query}).status == 400
    assert (
        names(server.request("GET", "/other", query={"list-type": "2", "max-keys": "0"})) == []
    )


# Multipart ----------------------------------------------------------------------------------------------------------


def test_a_multipart_upload(server: OwnServer) -> None:
    big, small = os.urandom(5 * MIB), os.urandom(1234)
    upload_id = create_upload(server, "m/k", **{"x-amz-meta-a": "b"})
    etag3 = upload_part(server, "m/k", upload_id, 3, small)
    upload_part(server, "m/k", upload_id, 1, b"replaced")
    etag1 = upload_part(server, "m/k", upload_id, 1, big)
    upload_part(server, "m/k", upload_id, 7, b"not listed")
    assert server.request("GET", f"/{BUCKET}/m/k").status == 404
    assert [(u["key"], u["parts"], u["upload_id"]) for u in server.uploads()] == [
        ("m/k", 3, upload_id)
    ]
    parts = server.request(
        "GET", f"/{BUCKET}/m/k", query={"uploadId": upload_id, "max-parts": "2"}
    )
    assert re.findall("<PartNumber>(.*?)</", parts.text) == ["1", "3"]
    assert "<NextPartNumberMarker>3<" in parts.text
    listed = server.request("GET", f"/{BUCKET}", query={"uploads": "", "prefix": "m/"})
    assert re.findall("<UploadId>(.*?)</", listed.text) == [upload_id]
    assert (
        "<Upload>"
        not in server.request("GET", f"/{BUCKET}", query={"uploads": "", "prefix": "x"}).text
    )
    done = complete(server, "m/k", upload_id, [(1, etag1), (3, etag3.replace('"', "&quot;"))])
    assert done.status == 200
    etag = done.text.split("<ETag>")[1].split("<")[0]
    assert ETAG.match(etag) and etag.endswith('-2"')
    got = server.request("GET", f"/{BUCKET}/m/k")
    assert (got.body, got.headers["etag"], got.headers["x-amz-meta-a"]) == (
        big + small,
        etag,
        "b",
    )
    across = server.request(
        "GET", f"/{BUCKET}/m/k", headers={"Range": f"bytes={5 * MIB - 3}-{5 * MIB + 2}"}
    )
    assert across.body == big[-3:] + small[:3]
    assert server.uploads() == []
    assert code_of(complete(server, "m/k", upload_id, [(1, etag1)])) == "NoSuchUpload"


def test_completions_that_are_refused(server: OwnServer) -> None:
    upload_id = create_upload(server, "k")
    one, two = (
        upload_part(server, "k", upload_id, 1, b"small"),
        upload_part(server, "k", upload_id, 2, b"small"),
    )
    for parts, code in (
        ([(2, two), (1, one)], "InvalidPartOrder"),
        ([(1, one), (1, one)], "InvalidPartOrder"),
        ([(1, two)], "InvalidPart"),
        ([(1, one), (3, two)], "InvalidPart"),
        ([(1, one), (2, two)], "EntityTooSmall"),
        ([], "MalformedXML"),
    ):
        refused = complete(server, "k", upload_id, parts)
        assert (refused.status, code_of(refused)) == (400, code)
    for xml in (
        b"",
        b"<a>",
        b"<CompleteMultipartUpload><Part></CompleteMultipartUpload>",
        b"\0" * 100,
        b"<!DOCTYPE x>",
    ):
        query = {"uploadId": upload_id}
        assert (
            code_of(server.request("POST", f"/{BUCKET}/k", query=query, body=xml))
            == "MalformedXML"
        )
    server.put_object(BUCKET, "k", b"there")
    taken = complete(server, "k", upload_id, [(1, one)], {"If-None-Match": "*"})
    assert (taken.status, code_of(taken)) == (412, "PreconditionFailed")
    assert complete(server, "k", upload_id, [(1, one)]).status == 200
    assert server.get_object(BUCKET, "k") == b"small"


def test_aborts_and_unknown_uploads(server: OwnServer) -> None:
    upload_id = create_upload(server, "k")
    upload_part(server, "k", upload_id, 1, b"x" * MIB)
    query = {"uploadId": upload_id}
    assert server.request("DELETE", f"/{BUCKET}/other", query=query).status == 404
    assert server.request("DELETE", f"/{BUCKET}/k", query=query).status == 204
    gone = server.request("DELETE", f"/{BUCKET}/k", query=query)
    assert (gone.status, code_of(gone)) == (404, "NoSuchUpload")
    part = server.request("PUT", f"/{BUCKET}/k", query={"partNumber": "1", **query}, body=b"x")
    assert (part.status, code_of(part)) == (404, "NoSuchUpload")
    for number in ("0", "10001", "x"):
        refused = server.request(
            "PUT", f"/{BUCKET}/k", query={"partNumber": number, **query}, body=b"x"
        )
        assert (refused.status, code_of(refused)) == (400, "InvalidArgument")


def test_md5_etags_are_s3s() -> None:
    with OwnServer(md5=True) as server:
        data = os.urandom(100_000)
        assert server.put_object(BUCKET, "k", data) == f'"{hashlib.md5(data).hexdigest()}"'
        assert server.put_object(BUCKET, "empty", b"") == f'"{hashlib.md5(b"").hexdigest()}"'
        upload_id = create_upload(server, "m")
        etag = upload_part(server, "m", upload_id, 1, data)
        expected = hashlib.md5(hashlib.md5(data).digest()).hexdigest()
        assert (
            f'<ETag>"{expected}-1"</ETag>' in complete(server, "m", upload_id, [(1, etag)]).text
        )
        wrong = server.request(
            "PUT",
            f"/{BUCKET}/k",
            body=b"x",
            headers={"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="},
        )
        assert (wrong.status, code_of(wrong)) == (400, "BadDigest")


# Signatures ---------------------------------------------------------------------------------------------------------


def test_signatures(server: OwnServer) -> None:
    path = f"/{BUCKET}/s p+c/ü"
    before = server.counters()["signatures_verified"]
    assert server.request("PUT", path, body=b"x", hash_payload=True).status == 200
    assert server.request("PUT", f"{path}-empty", hash_payload=True).status == 200
    assert server.request("GET", path, hash_payload=True).body == b"x"
    odd = {"prefix": "a b+c=&é", "delimiter": "/", "list-type": "2", "a-b": "", "a": "~"}
    assert server.request("GET", f"/{BUCKET}", query=odd).status == 200
    assert (
        server.request("GET", path, headers={"x-amz-meta-x": "  two   blanks "}).status == 200
    )
    assert server.counters()["signatures_verified"] == before + 5

    def refusal(**how: object) -> tuple[int, str]:
        answer = server.request("GET", path, **how)  # type: ignore[arg-type]
        return answer.status, code_of(answer)

    assert refusal(signed=False) == (403, "AccessDenied")
    assert refusal(access_key="nobody") == (403, "InvalidAccessKeyId")
    assert refusal(secret_key="wrong") == (403, "SignatureDoesNotMatch")
    assert refusal(session_token="unexpected") == (400, "InvalidToken")
    assert refusal(signed=False, headers={"Authorization": "Basic abc"}) == (
        400,
        "AuthorizationHeaderMalformed",
    )
    long_ago = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=16)
    assert refusal(now=long_ago) == (403, "RequestTimeTooSkewed")
    elsewhere = server.request("GET", path, region="eu-west-1")
    assert (elsewhere.status, code_of(elsewhere)) == (400, "AuthorizationHeaderMalformed")
    assert "<Region>us-east-1</Region>" in elsewhere.text
    digest = hashlib.sha256(b"something else").hexdigest()
    mismatch = server.request("PUT", path, body=b"x", payload_hash=digest)
    assert (mismatch.status, code_of(mismatch)) == (400, "XAmzContentSHA256Mismatch")
    assert (
        server.request(
            "PUT", path, body=b"x", payload_hash="STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
        ).status
        == 501
    )
    assert server.get_object(BUCKET, "s p+c/ü") == b"x"


def test_session_token_and_no_verification() -> None:
    with OwnServer(session_token="token") as server:
        server.put_object(BUCKET, "k", b"x")
        assert server.env()["AWS_SESSION_TOKEN"] == "token"
        assert (
            code_of(server.request("GET", f"/{BUCKET}/k", session_token="other"))
            == "InvalidToken"
        )
    with OwnServer(verify=False) as server:
        assert server.request("PUT", f"/{BUCKET}/k", body=b"x", signed=False).status == 200
        assert server.request("GET", f"/{BUCKET}/k", secret_key="wrong").body == b"x"


# HTTP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /b/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /b/% HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /b/k HTTP/1.1\r\n\r\n",
        b"GET /b/k HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /b/k HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
        b"GET /b/k HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /b/k HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70000,
        b"GET /b/k HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_malformed_requests(server: OwnServer, request_bytes: bytes) -> None:
    assert raw(server, request_bytes).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("authority", [b"", b"http://127.0.0.1", b"HTTPS://other.example:9"])
def test_a_target_may_name_the_host(authority: bytes) -> None:
    with OwnServer(verify=False) as server:
        head = b"PUT %s/bucket/k HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" % authority
        assert raw(server, head + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert [item["key"] for item in server.objects()] == ["k"]


def test_keep_alive_pipelining_and_expect() -> None:
    with OwnServer(verify=False, sanitize=True) as server:
        put = b"PUT /bucket/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        get = b"GET /bucket/k HTTP/1.1\r\nHost: x\r\n"
        both = raw(
            server, put + b"\r\nhello" + get + b"\r\n" + get + b"Connection: close\r\n\r\n"
        )
        assert both.count(b"HTTP/1.1 200 OK") == 3 and both.endswith(b"hello")
        assert server.counters()["connections"] == 1
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(put + b"Expect: 100-continue\r\n\r\n")
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"HELLO")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        refused = raw(
            server, put.replace(b"/bucket", b"/nowhere") + b"Expect: 100-continue\r\n\r\n"
        )
        assert refused.startswith(b"HTTP/1.1 404 ") and b"100 Continue" not in refused
        chunked = raw(
            server,
            b"PUT /bucket/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        )
        assert chunked.startswith(b"HTTP/1.1 501 ") and b"NotImplemented" in chunked
        no_length = raw(server, b"PUT /bucket/k HTTP/1.0\r\nHost: x\r\n\r\n")
        assert no_length.startswith(b"HTTP/1.1 411 ")
        assert server.get_object(BUCKET, "k") == b"HELLO"


def test_many_connections(server: OwnServer) -> None:
    server.put_object(BUCKET, "k", b"z" * 100_000)
    server.add_fault(
        op="GetObject", kind="stall", seconds=0.5, count=64
    )  # so that they overlap
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        sizes = list(pool.map(lambda _: len(server.get_object(BUCKET, "k")), range(64)))
    assert sizes == [100_000] * 64
    counters = server.counters()
    assert counters["requests"]["GetObject"] == 64
    assert counters["max_requests"] > 16


def test_512_idle_connections() -> None:
    with OwnServer(verify=False) as server, contextlib.ExitStack() as stack:
        for _ in range(512):
            stack.enter_context(socket.create_connection(server.address, timeout=10)).sendall(
                b"HEAD /bucket HTTP/1.1\r\nHost: x\r\n\r\n"
            )
        while server.counters()["requests"]["HeadBucket"] < 512:
            time.sleep(0.01)
        assert server.counters()["max_connections"] == 512


def test_memory_limit_and_thread_limit() -> None:
    with OwnServer(memory_limit=8 * MIB) as server:
        full = server.request("PUT", f"/{BUCKET}/k", body=b"x" * (9 * MIB))
        assert (full.status, code_of(full)) == (507, "InsufficientStorage")
        for _ in range(4):  # the pool is given up when the sizes change
            for size in (7, 1, 5):
                server.put_object(BUCKET, "k", b"x" * (size * MIB // 2))
    with (
        OwnServer(extra_args=["--threads", "1"]) as server,
        socket.create_connection(server.address, timeout=10),
    ):
        time.sleep(0.05)
        assert raw(server, b"").startswith(b"HTTP/1.1 503 ")


# Faults -------------------------------------------------------------------------------------------------------------

DATA = bytes(range(256)) * 4096  # 1 MiB


def fault_get(
    server: OwnServer, *, headers: dict[str, str] | None = None, **rule: str | int | float
) -> Answer:
    """Store DATA, install the fault, GET; the fault must have fired."""
    server.put_object(BUCKET, "k", DATA)
    fault = server.add_fault(op="GetObject", **rule)  # type: ignore[arg-type]
    try:
        return server.request("GET", f"/{BUCKET}/k", headers=headers)
    finally:
        assert fault.hits() == 1
        assert server.get_object(BUCKET, "k") == DATA  # once only


def test_fault_status(server: OwnServer) -> None:
    got = fault_get(
        server, kind="status", status=503, code="SlowDown", retry_after=7, message="so busy"
    )
    assert (got.status, code_of(got), got.headers["retry-after"]) == (503, "SlowDown", "7")
    assert "<Message>so busy</Message>" in got.text
    fault = server.add_fault(op="PutObject", kind="status", status=500, code="InternalError")
    assert server.request("PUT", f"/{BUCKET}/new", body=DATA).status == 500
    assert fault.hits() == 1
    assert server.request("HEAD", f"/{BUCKET}/new").status == 404


def test_fault_every(server: OwnServer) -> None:
    """The third, the sixth and so on behind those that were let pass, until `count` were hit."""
    server.request("PUT", f"/{BUCKET}/every", body=DATA)
    fault = server.add_fault(
        op="GetObject", kind="status", status=503, key="every", skip=2, every=3, count=2
    )
    got = [server.request("GET", f"/{BUCKET}/every").status for _ in range(12)]
    assert got == [200, 200, 200, 200, 503, 200, 200, 503, 200, 200, 200, 200]
    assert (fault.hits(), fault.matched()) == (2, 12)


def test_fault_resets(server: OwnServer) -> None:
    with pytest.raises(ConnectionResetError):
        fault_get(server, kind="reset_before")
    with pytest.raises((ConnectionResetError, http.client.HTTPException)):
        fault_get(server, kind="reset_in_headers")
    with pytest.raises(ConnectionResetError):
        fault_get(server, kind="reset_after_headers")
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        fault_get(server, kind="reset_after", bytes=100_000)


def test_fault_reset_after_delivers_its_bytes() -> None:
    with OwnServer(verify=False) as server:
        server.request("PUT", f"/{BUCKET}/k", body=DATA)
        fault = server.add_fault(op="GetObject", kind="reset_after", bytes=1000)
        received = b""
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(b"GET /bucket/k HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                while True:
                    received += connection.recv(1 << 16)
        assert fault.hits() == 1
        assert received.split(b"\r\n\r\n", 1)[1] == DATA[:1000]


def test_fault_truncate(server: OwnServer) -> None:
    with pytest.raises(http.client.IncompleteRead) as raised:
        fault_get(server, kind="truncate", bytes=12345)
    assert raised.value.partial == DATA[:12345]


@pytest.mark.parametrize("where", [{}, {"bytes": 1000}])
def test_fault_stall(server: OwnServer, where: dict[str, Any]) -> None:
    begin = time.monotonic()
    assert fault_get(server, kind="stall", seconds=0.3, **where).body == DATA
    assert time.monotonic() - begin >= 0.3


def test_fault_corrupt(server: OwnServer) -> None:
    for offset in (0, 777, len(DATA) - 1):
        wrong = bytearray(DATA)
        wrong[offset] ^= 1
        assert fault_get(server, kind="corrupt", offset=offset).body == wrong
    ranged = fault_get(
        server, kind="corrupt", offset=1, headers={"Range": "bytes=10-12"}, range_from=10
    )
    assert ranged.body == bytes([DATA[10], DATA[11] ^ 1, DATA[12]])


def test_faults_of_ranges(server: OwnServer) -> None:
    span = {"Range": "bytes=100-199"}
    shifted = fault_get(server, kind="wrong_range", headers=span)
    assert (shifted.status, shifted.headers["content-range"]) == (
        206,
        f"bytes 101-200/{len(DATA)}",
    )
    assert shifted.body == DATA[100:200]
    ignored = fault_get(server, kind="ignore_range", headers=span)
    assert (ignored.status, ignored.body) == (200, DATA)
    short = fault_get(server, kind="wrong_length", headers=span)
    assert (short.headers["content-range"], short.body) == (
        f"bytes 100-199/{len(DATA)}",
        DATA[100:199],
    )


def test_fault_etag_change(server: OwnServer) -> None:
    changed = fault_get(server, kind="etag_change")
    assert (changed.status, changed.body) == (200, DATA)
    assert changed.headers["etag"] != server.request("HEAD", f"/{BUCKET}/k").headers["etag"]


def test_fault_slow(server: OwnServer) -> None:
    begin = time.monotonic()
    assert fault_get(server, kind="slow", bytes_per_s=4 * MIB).body == DATA
    assert time.monotonic() - begin >= 0.2
    fault = server.add_fault(op="PutObject", kind="slow", bytes_per_s=4 * MIB)
    begin = time.monotonic()
    server.put_object(BUCKET, "slow", DATA)
    assert time.monotonic() - begin >= 0.2
    assert fault.hits() == 1


def test_fault_refuse_body(server: OwnServer) -> None:
    fault = server.add_fault(op="PutObject", kind="refuse_body", bytes=100_000)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        server.request("PUT", f"/{BUCKET}/k", body=DATA * 16)
    assert fault.hits() == 1
    assert server.request("HEAD", f"/{BUCKET}/k").status == 404


def test_fault_lost_reply(server: OwnServer) -> None:
    fault = server.add_fault(op="PutObject", kind="lost_reply")
    with pytest.raises(ConnectionResetError):
        server.request("PUT", f"/{BUCKET}/k", body=b"kept")
    assert fault.hits() == 1
    assert server.get_object(BUCKET, "k") == b"kept"
    upload_id = create_upload(server, "m")
    etag = upload_part(server, "m", upload_id, 1, b"part")
    fault = server.add_fault(op="CompleteMultipartUpload", kind="lost_reply")
    with pytest.raises(ConnectionResetError):
        complete(server, "m", upload_id, [(1, etag)])
    assert fault.hits() == 1
    assert server.get_object(BUCKET, "m") == b"part"


def test_fault_error_200(server: OwnServer) -> None:
    upload_id = create_upload(server, "m")
    etag = upload_part(server, "m", upload_id, 1, b"part")
    fault = server.add_fault(
        op="CompleteMultipartUpload", kind="error_200", code="InternalError"
    )
    failed = complete(server, "m", upload_id, [(1, etag)])
    assert (failed.status, code_of(failed), fault.hits()) == (200, "InternalError", 1)
    assert complete(server, "m", upload_id, [(1, etag)]).status == 200


def test_fault_body_200_and_blanks(server: OwnServer) -> None:
    upload_id = create_upload(server, "m")
    etag = upload_part(server, "m", upload_id, 1, b"part")
    any_text = server.add_fault(
        op="CompleteMultipartUpload", kind="body_200", text=" <a b='&'>"
    )
    answer = complete(server, "m", upload_id, [(1, etag)])
    assert (answer.status, answer.body, any_text.hits()) == (200, b" <a b='&'>", 1)
    blanks = server.add_fault(op="CompleteMultipartUpload", kind="blanks", bytes=9)
    answer = complete(server, "m", upload_id, [(1, etag)])
    assert (answer.status, answer.body[:10], blanks.hits()) == (200, b" " * 9 + b"<", 1)
    assert server.get_object(BUCKET, "m") == b"part"


def test_fault_drop_upload(server: OwnServer) -> None:
    upload_id = create_upload(server, "m")
    etag = upload_part(server, "m", upload_id, 1, b"part")
    fault = server.add_fault(
        op="CompleteMultipartUpload", kind="drop_upload", status=409, code="Conflict"
    )
    dropped = complete(server, "m", upload_id, [(1, etag)])
    assert (dropped.status, code_of(dropped), fault.hits()) == (409, "Conflict", 1)
    assert server.uploads() == []
    assert code_of(complete(server, "m", upload_id, [(1, etag)])) == "NoSuchUpload"


def test_fault_selection(server: OwnServer) -> None:
    fault = server.add_fault(op="any", key="x y/", kind="status", status=503, skip=1, count=2)
    first, later = [], []
    for number in range(4):
        first.append(server.request("PUT", f"/{BUCKET}/x y/{number}", body=b"1").status)
        later.append(server.request("PUT", f"/{BUCKET}/z/{number}", body=b"1").status)
    assert (first, later) == ([200, 503, 503, 200], [200] * 4)
    assert (fault.hits(), fault.matched()) == (2, 4)
    upload_id = create_upload(server, "m")
    second = server.add_fault(op="UploadPart", part=2, kind="status", status=500, count=-1)
    upload_part(server, "m", upload_id, 1, b"x")
    for _ in range(3):
        query = {"partNumber": "2", "uploadId": upload_id}
        assert server.request("PUT", f"/{BUCKET}/m", query=query, body=b"x").status == 500
    assert second.hits() == 3
    server.clear_faults()
    upload_part(server, "m", upload_id, 2, b"x")
    with pytest.raises(ServerError, match="not understood"):
        server.add_fault(op="GetObject", kind="no_such_kind")
    with pytest.raises(ServerError, match="not understood"):
        server.add_fault(op="GetObject", kind="truncate")


# Pacing, counters, life ---------------------------------------------------------------------------------------------


def test_latency_and_bandwidth() -> None:
    # Lower bounds only: a sleep never ends early, and what a busy machine adds is not the server's.
    with OwnServer(latency_ms=50) as server:
        begin = time.monotonic()
        for _ in range(4):
            server.request("HEAD", f"/{BUCKET}/k")
        assert time.monotonic() - begin >= 0.2
    with OwnServer(bandwidth_mbps=20) as server:
        data = b"x" * 8_000_000
        begin = time.monotonic()
        server.put_object(BUCKET, "k", data)
        middle = time.monotonic()
        assert server.get_object(BUCKET, "k") == data
        assert middle - begin >= 0.3
        assert time.monotonic() - middle >= 0.3


def test_counters(server: OwnServer) -> None:
    server.put_object(BUCKET, "k", b"x" * 1000)
    server.get_object(BUCKET, "k")
    server.request("GET", f"/{BUCKET}/k", headers={"Range": "bytes=0-99"})
    counters = server.counters()
    assert (counters["requests"]["PutObject"], counters["requests"]["GetObject"]) == (1, 2)
    assert (counters["bytes_in"], counters["bytes_out"]) == (1000, 1100)
    assert counters["signatures_verified"] == 3
    assert counters["connections"] == 3
    server.reset()
    assert server.counters()["requests"]["GetObject"] == 0
    assert [(o["key"], o["size"]) for o in server.objects() if o["bucket"] == BUCKET] == [
        ("k", 1000),
        ("virtual/huge", 5 << 30),
    ]
    server.reset(objects=True)
    assert [o["key"] for o in server.objects()] == ["virtual/huge"]


def test_ends_cleanly_with_work_in_hand() -> None:
    """Stalled, half-sent and idle connections do not keep it; the sanitizers find nothing left over."""
    server = OwnServer(verify=False, sanitize=True)
    with contextlib.ExitStack() as stack:
        server.start()
        server.request("PUT", f"/{BUCKET}/k", body=DATA * 8)
        create_upload(server, "open")
        server.add_fault(op="HeadObject", kind="stall", seconds=60, count=-1)
        for request in (
            b"HEAD /bucket/k HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /bucket/k HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PUT /bucket/l HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\nabc",
            b"GET /buck",
            b"",
        ):
            stack.enter_context(socket.create_connection(server.address, timeout=10)).sendall(
                request
            )
        # The GET's answer has begun: it is not counted any more.
        while server.counters()["open_requests"] < 2:
            time.sleep(0.01)
        server.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_on_signals(number: signal.Signals) -> None:
    server = OwnServer(sanitize=True)
    server.start()
    os.kill(server.pid, number)
    server.stop()


def test_refuses_other_addresses_and_bad_options() -> None:
    binary = str(build())
    for flags in (
        ["--host", "0.0.0.0"],
        ["--host", "::"],
        ["--host", "10.0.0.1"],
        ["--port", "x"],
        ["--verify"],
        ["stray"],
    ):
        done = subprocess.run([binary, *flags], capture_output=True, text=True, timeout=10)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("s3server: ") or "option" in done.stderr
    with pytest.raises(ServerError, match="did not start|ended with 2"):
        OwnServer(buckets=("Bad_Name",)).start()


def test_runs_in_the_foreground() -> None:
    command = [sys.executable, "-m", "tests.servers.own", "--no-verify"]
    done = subprocess.run(
        command, input="", capture_output=True, text=True, timeout=30, check=True
    )
    assert re.search(r"^export AWS_ENDPOINT_URL=https?://127\.0\.0\.1:\d+$", done.stdout, re.M)
    assert (
        "--latency-ms"
        in subprocess.run(
            [*command, "--help"], capture_output=True, text=True, check=True
        ).stdout
    )


def test_json_is_json(server: OwnServer) -> None:
    server.put_object(BUCKET, 'quote"back\\slash\n', b"")
    assert json.dumps([row["key"] for row in server.objects()])
