"""Listings that do not end, and keys that are none: an error in the end; any other key is data."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

import pytest

import s3dlio_np
from tests.servers.http_fake import HttpFake

Answer = Callable[[str | None], str]  # from the token that is asked with


class ListingFake(HttpFake):
    """Answers every request by `answer(token)`, as the body of a ListBucketResult."""

    def __init__(self, answer: Answer) -> None:
        self.tokens: list[str | None] = []
        tokens = self.tokens

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet

            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                token = query.get("continuation-token", [None])[0]
                tokens.append(token)
                body = f"<ListBucketResult>{answer(token)}</ListBucketResult>".encode()
                self.send_response_only(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *unused: object) -> None:
                pass

        super().__init__(Handler)


def entry(key: str, **fields: str) -> str:
    fields = {"Size": "1"} | fields
    texts = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
    return f"<Contents><Key>{escape(key)}</Key>{texts}</Contents>"


def page(*keys: str, token: str | None = None, encoded: bool = False) -> str:
    truncated = "false" if token is None else "true"
    following = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    encoding = "<EncodingType>url</EncodingType>" * encoded
    return (
        f"{encoding}<IsTruncated>{truncated}</IsTruncated>{following}"
        f"{''.join(entry(key) for key in keys)}"
    )


@pytest.fixture
def listed() -> Iterator[Callable[..., list[Any]]]:
    """Lists what an answer says, with the number of requests that this took in .requests."""
    s3dlio_np.configure(access_key="k", secret_key="s", region="us-east-1")

    def run(answer: Answer, uri: str = "s3://bucket/") -> list[Any]:
        with ListingFake(answer) as server:
            s3dlio_np.configure(endpoint=server.endpoint)
            try:
                return s3dlio_np.list(uri)
            finally:
                run.requests = len(server.tokens)  # type: ignore[attr-defined]

    yield run
    s3dlio_np.configure(access_key=None, secret_key=None, region=None, endpoint=None)


def numbered(text: Callable[[int], str]) -> Answer:
    """The n-th page, from 0, whatever it is asked with."""
    numbers = itertools.count()
    return lambda token: text(next(numbers))


ENDLESS: dict[str, tuple[Callable[[int], str], str, int]] = {
    # what each page says, what is told, at most so many requests
    "the same token": (lambda n: page(f"k{n}", token="t"), "leads back", 2),
    "tokens in a circle": (lambda n: page(f"k{n}", token=f"t{n % 7}"), "leads back", 40),
    "a circle far behind": (
        lambda n: page(f"k{n}", token=f"t{n if n < 50 else n % 50}"),
        "leads back",
        400,
    ),
    "the same page": (lambda n: page("a", "b", token=f"t{n}"), "was there before", 2),
    "pages in a circle": (lambda n: page(f"k{n % 9}", token=f"t{n}"), "was there before", 60),
    "no keys, other tokens": (lambda n: page(token=f"t{n}"), "hold no key", 10_001),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_no_end(listed: Any, name: str) -> None:
    text, told, most = ENDLESS[name]
    with pytest.raises(s3dlio_np.StorageError, match=f"listing has no end: .*{told}") as caught:
        listed(numbered(text))
    assert caught.value.code == "PROTOCOL"
    assert caught.value.operation == "ListObjects"
    assert 2 <= listed.requests <= most


def test_pages_without_keys_are_no_end(listed: Any) -> None:
    """As from S3, where it passes over delete markers."""
    rows = listed(
        numbered(lambda n: page(*["k"] * (n == 99), token=None if n == 99 else f"t{n}"))
    )
    assert [row["uri"] for row in rows] == ["s3://bucket/k"]
    assert listed.requests == 100


REFUSED = {
    "no token": ("<IsTruncated>true</IsTruncated>", "NextContinuationToken"),
    "no token, but keys": (
        f"<IsTruncated>true</IsTruncated>{entry('below/a')}",
        "NextContinuationToken",
    ),
    "an empty token": (
        "<IsTruncated>true</IsTruncated><NextContinuationToken/>",
        "NextContinuationToken",
    ),
    "a token of 5 KiB": (page("a", token="t" * 5120), "NextContinuationToken"),
    "a token of 4 MiB": (page("a", token="t" * (4 << 20)), "longer than 16384"),
    "a token of 16 MiB": (page("a", token="t" * (16 << 20)), "longer than 8388608"),
    "not said whether there is more": (entry("below/a"), "IsTruncated"),
    "neither true nor false": ("<IsTruncated>2</IsTruncated>", "IsTruncated"),
    "another prefix": (page("below/a", "beside"), 'key "beside", which does not begin with'),
    "the prefix behind ../": (
        page("below/a", "../below/a"),
        'key "../below/a", which does not',
    ),
    "an empty key": (page("below/a", ""), "Key"),
    "a key of 1,025 bytes": (page("below/" + "k" * 1019), "key of 1025 bytes"),
    "a key of 8 KiB": (page("below/" + "k" * 8192), "Key"),
    "a raw NUL": (page("below/\0"), "NUL"),
    "an encoded NUL": (page("below/%00", encoded=True), "Key"),
    "a raw control character": (page("below/\x1b[2J"), "broken"),
    "a broken escape": (page("below/%4", encoded=True), "Key"),
    "another broken escape": (page("below/%zz", encoded=True), "Key"),
    "a size below zero": (page() + entry("below/a", Size="-1"), "Size"),
    "a size beyond 64 bits": (page() + entry("below/a", Size="18446744073709551616"), "Size"),
    "a size in words": (page() + entry("below/a", Size="1 KiB"), "Size"),
    "no size": (page() + "<Contents><Key>below/a</Key></Contents>", "Size"),
    "two sizes": (page() + entry("below/a").replace("<Size>", "<Size>1</Size><Size>"), "Size"),
    "two keys": (page() + entry("below/a").replace("<Key>", "<Key>a</Key><Key>"), "Key"),
    "a date of rubbish": (page() + entry("below/a", LastModified="yesterday"), "LastModified"),
    "an ETag without end": (page() + entry("below/a", ETag="e" * 4096), "ETag"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(listed: Any, name: str) -> None:
    text, told = REFUSED[name]
    with pytest.raises(s3dlio_np.StorageError) as caught:
        listed(lambda token: text, "s3://bucket/below/")
    assert caught.value.code == "PROTOCOL"
    assert told in str(caught.value)
    assert 1 <= listed.requests <= 5


def test_bytes_that_are_no_text(listed: Any) -> None:
    """Raw, they are no XML; encoded, they are a key like any other."""
    rows = listed(lambda token: page("a%FF%C0%AF", "%F0%9F%92%BE", encoded=True))
    assert [row["uri"] for row in rows] == ["s3://bucket/a\udcff\udcc0\udcaf", "s3://bucket/💾"]


STRANGE = [
    "../../etc/passwd",
    "/etc/passwd",
    "//host/share",
    "a//b",
    "a/./b/../c",
    "..",
    ".",
    "C:\\x",
    "~root",
    "file:///etc/passwd",
    "s3://other/key",
    " ",
    "+",
    "%2F%00",
    "a\x1b[2J\r\n\t\x7f",
    "-rf",
    "$(touch x)`x`;|&",
    "a?b#c&d='\"<>",
    "\N{COMBINING ACUTE ACCENT}e\N{RIGHT-TO-LEFT OVERRIDE}",
    "x" * 1024,
    "folder/",
]


def test_strange_keys_are_data(listed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """They come as the keys that they are, in the order of the store; nothing happens locally."""
    monkeypatch.chdir(tmp_path)
    rows = listed(lambda token: page(*(quote(key, safe="") for key in STRANGE), encoded=True))
    assert [row["uri"] for row in rows] == [f"s3://bucket/{key}" for key in STRANGE]
    assert list(tmp_path.iterdir()) == []


def test_an_encoding_that_is_named_behind_the_keys(listed: Any) -> None:
    body = page("below%20/a+b", "below%20/c") + "<EncodingType>url</EncodingType>"
    rows = listed(lambda token: body, "s3://bucket/below /")
    assert [row["uri"] for row in rows] == ["s3://bucket/below /a b", "s3://bucket/below /c"]
    with pytest.raises(s3dlio_np.StorageError, match='key "below /c", which does not begin'):
        listed(lambda token: body, "s3://bucket/below /a")


@pytest.mark.parametrize("escaped", [False, True])
def test_the_encoding_that_the_answer_names_counts(listed: Any, escaped: bool) -> None:
    rows = listed(lambda token: page("a+b%2Fc", encoded=escaped))
    assert rows[0]["uri"] == ("s3://bucket/a b/c" if escaped else "s3://bucket/a+b%2Fc")


def test_numbers_at_their_ends(listed: Any) -> None:
    rows = listed(
        lambda token: (
            page()
            + entry(
                "huge", Size="18446744073709551615", LastModified="9999-12-31T23:59:59.999Z"
            )
            + entry("early", LastModified="0001-01-01T00:00:00Z")
            + entry("before", LastModified="0000-01-01T00:00:00Z")
        )
    )
    assert [row["size"] for row in rows] == [2**64 - 1, 1, 1]
    assert rows[0]["last_modified"] == datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
    assert rows[1]["last_modified"] == datetime(1, 1, 1, tzinfo=timezone.utc)
    assert rows[2]["last_modified"] is None


def test_a_files_time_that_python_does_not_know() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # others end in the year 2446
        path = Path(folder, "x")
        path.write_bytes(b"1")
        os.utime(path, (1, 2**40))
        assert path.stat().st_mtime == 2**40
        assert s3dlio_np.stat(path)["last_modified"] is None
        assert s3dlio_np.list(folder)[0]["last_modified"] is None
