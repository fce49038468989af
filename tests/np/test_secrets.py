"""No secret in what a failing operation says: texts, repr, causes, warnings, logs, traces, statistics."""

from __future__ import annotations

import faulthandler
import io
import itertools
import logging
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

import numpy as np
import pytest

import s3dlio_np
from tests.servers.fake_aws import FakeAws, sts_error
from tests.servers.http_fake import HttpFake
from tests.servers.proxy_fake import ProxyFake
from tests.servers.relay import Relay, make_certificates

MARK = "s3cr3tMARK"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": f"{MARK}/key+=",
    "AWS_SESSION_TOKEN": f"{MARK}/token+=",
}
BIG = bytes(6 << 20)


def operations(uri: str) -> list[Callable[[], Any]]:
    def stream() -> None:
        with s3dlio_np.open(uri, "wb", part_size=5 << 20) as writer:
            writer.write(BIG)

    return [
        stream,
        lambda: s3dlio_np.open(uri).read(),
        lambda: s3dlio_np.put(uri, b"1"),
        lambda: s3dlio_np.get_bytes(uri),
        lambda: s3dlio_np.get_into(uri, bytearray(5)),
        lambda: s3dlio_np.stat(uri),
        lambda: s3dlio_np.exists(uri),
        lambda: s3dlio_np.list(uri),
        lambda: s3dlio_np.delete(uri),
        lambda: s3dlio_np.load_numpy(uri),
        lambda: s3dlio_np.save_numpy(uri, {"a": np.zeros(3)}),
    ]


def texts_of(error: BaseException) -> Iterator[str]:
    """All that a program can see of an error: its texts, attributes, and those it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield from (str(each), repr(each), repr(each.args), repr(vars(each)))
        public = (name for name in dir(each) if not name.startswith("__"))
        yield from (repr(getattr(each, name, None)) for name in public)
        yield "".join(traceback.format_exception(each))
        waiting += [each.__cause__, each.__context__]


def everything_said(uri: str) -> tuple[int, str]:
    """Runs every operation; how many failed, and whatever was said by anyone."""
    said, printed, failed = [], io.StringIO(), 0
    log = logging.StreamHandler(printed)
    logging.getLogger().addHandler(log)
    with warnings.catch_warnings(record=True) as warned, redirect_stdout(printed):
        warnings.simplefilter("always")
        with redirect_stderr(printed):
            for operation in operations(uri):
                try:
                    operation()
                except (OSError, ValueError) as error:
                    failed += 1
                    said += texts_of(error)
    logging.getLogger().removeHandler(log)
    said += [str(warning.message) for warning in warned]
    with tempfile.TemporaryFile("w+") as dump:
        faulthandler.dump_traceback(dump, all_threads=True)
        dump.seek(0)
        said.append(dump.read())
    return failed, "\n".join([*said, printed.getvalue(), repr(s3dlio_np.stats())])


@pytest.fixture
def marked(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return s3_own


def nothing_leaks(capfd: pytest.CaptureFixture[str], uri: str, least: int) -> None:
    failed, said = everything_said(uri)
    assert failed >= least
    for text in (said, *capfd.readouterr()):
        assert MARK not in text


def test_keys_that_the_server_rejects(marked: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Its answer holds the canonical request, in which the session token stands."""
    nothing_leaks(capfd, marked.uri("x"), least=11)
    assert sum(marked.server.counters()["requests"].values()) >= 11


@pytest.mark.parametrize("kind", ["reset_before", "reset_after_headers", "truncate"])
def test_broken_connections(marked: Any, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    marked.server.put_key("testkey", *SECRETS.values())
    fields = {"bytes": 1} if kind == "truncate" else {}
    fault = marked.server.add_fault(op="any", kind=kind, count=-1, **fields)
    nothing_leaks(capfd, marked.uri("x"), least=3)
    assert fault.hits() >= 3


def test_nobody_there(
    marked: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    nothing_leaks(capfd, marked.uri("x"), least=11)


def test_a_certificate_that_is_not_trusted(
    marked: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    files = make_certificates(tmp_path, ["127.0.0.1"])
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with Relay(marked.server.address, files.server_context()) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        nothing_leaks(capfd, marked.uri("x"), least=11)
        assert relay.heads == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_password_in_the_endpoint(
    marked: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://user:{MARK}@127.0.0.1:1")
    nothing_leaks(capfd, marked.uri("x"), least=11)


def test_a_password_in_the_endpoint_of_sts(
    marked: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", *SECRETS):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text(MARK)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"https://user:{MARK}@127.0.0.1:1")
    with pytest.raises(ValueError, match=r'"\*\*\*@127.0.0.1:1" has a login'):
        s3dlio_np.get_bytes(marked.uri("x"))
    nothing_leaks(capfd, marked.uri("x"), least=11)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_password_in_the_proxy(
    marked: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://user:{MARK}@127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://no-such-host.invalid")
    nothing_leaks(capfd, marked.uri("x"), least=11)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("fault", ["login", "port", "scheme", "path", "half an answer"])
def test_a_password_in_a_proxy_that_is_wrong(
    marked: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    fault: str,
) -> None:
    with ProxyFake(login="user:other") as proxy:
        if fault == "half an answer":
            proxy.answer = lambda: [b"HTTP/1.1 200 OK\r\nx: "]
        url = proxy.endpoint.replace("//", f"//user:{MARK}@")
        url = {"port": f"{url}0000", "scheme": f"x{url}", "path": f"{url}/x"}.get(fault, url)
        monkeypatch.setenv("S3DLIO_PROXY", url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://127.0.0.1:1")
        # A forwarded DELETE takes half of a 200 for an answer.
        nothing_leaks(capfd, marked.uri("x"), least=10 if fault == "half an answer" else 11)
        assert bool(proxy.seen) == (fault in ("login", "half an answer"))


def test_a_proxy_that_repeats(
    marked: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It forwards, and answers itself in the server's words."""
    body = f"<Error><Code>AccessDenied</Code><Message>user:{MARK}</Message></Error>".encode()
    with ProxyFake(login=f"user:{MARK}") as proxy:
        proxy.answer = lambda: [
            b"HTTP/1.1 403 No\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
            + body
        ]
        monkeypatch.setenv("S3DLIO_PROXY", proxy.endpoint.replace("//", f"//user:{MARK}@"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(PermissionError, match=r"\*\*\*"):
            s3dlio_np.list(marked.uri("x"))
        nothing_leaks(capfd, marked.uri("x"), least=11)
        assert proxy.seen


# --- a server that repeats what it was told ------------------------------------------------------

TOLD = {
    "secret key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",  # no server is told it, but it may know
    "session token": "IQoJb3JpZ2luX2VjEPT//////////wEaCXVzLWVhc3QtMSJHMEUCIQDW0+fakefakefake=="
    * 12,
    "customer key": "Y3VzdG9tZXIta2V5LW9mLTMyLWJ5dGVzLWV4YWN0bHk=",
    "signature": "",  # each request's own
}
Said = tuple[int, dict[str, str], str]  # status, headers, body


def refusal(**fields: str) -> str:
    texts = {"Code": "AccessDenied"} | fields
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in texts.items())
    return f"<Error>{inner}</Error>"


def as_tag(secret: str) -> str:
    return "t" + "".join(itertools.takewhile(str.isalnum, secret))[:40]


SAYINGS: dict[str, Callable[[str], Said]] = {
    "the message": lambda secret: (403, {}, refusal(Message=f"not {secret}, no")),
    "a message that is cut off": lambda secret: (403, {}, refusal(Message="x" * 235 + secret)),
    "its middle": lambda secret: (403, {}, refusal(Message=secret[5:-5])),
    "percent-encoded": lambda secret: (403, {}, refusal(Message=quote(secret, safe=""))),
    "a presigned URL": lambda secret: (
        403,
        {},
        refusal(
            Message=f"http://x/k?X-Amz-Security-Token={quote(secret)}&X-Amz-Signature=abcdef0123"
        ),
    ),
    "the code": lambda secret: (403, {}, refusal(Code=secret)),
    "the request's id": lambda secret: (403, {"x-amz-request-id": secret}, refusal()),
    "the request's id in the body": lambda secret: (403, {}, refusal(RequestId=secret)),
    "the region": lambda secret: (400, {}, refusal(Region=secret)),
    "the region in a header": lambda secret: (301, {"x-amz-bucket-region": secret}, ""),
    "the answer's root": lambda secret: (200, {}, f"<{as_tag(secret)}/>"),
    "broken XML": lambda secret: (200, {}, f"<ListBucketResult></{as_tag(secret)}>"),
    "a key": lambda secret: (
        200,
        {},
        f"<ListBucketResult><Contents><Key>{escape(secret[:900])}</Key><Size>1</Size></Contents>"
        "<IsTruncated>false</IsTruncated></ListBucketResult>",
    ),
}


class Echo(HttpFake):
    """Says one of the secrets to every request; `told` are those that it said."""

    def __init__(self, name: str, say: Callable[[str], Said]) -> None:
        self.told: set[str] = set()
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", "0")))
                sent = {
                    "secret key": TOLD["secret key"],
                    "session token": self.headers["x-amz-security-token"],
                    "customer key": self.headers.get(
                        f"{SSE}-customer-key", TOLD["customer key"]
                    ),
                    "signature": self.headers["authorization"].rpartition("Signature=")[2],
                }
                assert {**TOLD, "signature": sent["signature"]} == sent
                told.add(sent[name])
                status, headers, text = say(sent[name])
                body = text.encode()
                self.send_response_only(status)
                for each, value in headers.items():
                    self.send_header(each, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, *unused: object) -> None:
                pass

        super().__init__(Handler)


SSE = "x-amz-server-side-encryption"


def nothing_of_it_is_in(said: str, secret: str) -> None:
    """Not even eight bytes in a row, whatever of them is percent-encoded."""
    assert len(secret) >= 40
    pieces = {secret[at : at + 8] for at in range(len(secret) - 7)}
    for text in (said, unquote(said)):
        assert not [piece for piece in pieces if piece in text]


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("saying", SAYINGS)
def test_a_server_that_repeats(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, saying: str
) -> None:
    with Echo(name, SAYINGS[saying]) as server:
        for variable, value in {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": TOLD["secret key"],
            "AWS_SESSION_TOKEN": TOLD["session token"],
            "S3DLIO_SSE_CUSTOMER_KEY": TOLD["customer key"],
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(variable, value)
        failed, said = everything_said("s3://bucket/x")
    assert failed >= 5 and server.told
    said += "".join(capfd.readouterr())
    for secret in {*TOLD.values(), *server.told} - {""}:
        nothing_of_it_is_in(said, secret)
    assert "***" in said, "nothing was hidden: was anything said?"


def test_a_server_writes_no_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it steer a terminal."""
    saying = refusal(Message="no\n2026-01-01 root logged in\r\t\x9b2J")
    with Echo(
        "secret key", lambda secret: (403, {"x-amz-request-id": "a\x1b[2Jb"}, saying)
    ) as server:
        for variable, value in {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": TOLD["secret key"],
            "AWS_SESSION_TOKEN": TOLD["session token"],
        }.items():
            monkeypatch.setenv(variable, value)
        with pytest.raises(s3dlio_np.StorageError) as caught:
            s3dlio_np.list("s3://bucket/")
    assert server.told
    assert "no 2026-01-01 root logged in   2J" in str(caught.value)
    assert caught.value.request_id == "a [2Jb"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("web", [False, True])
def test_an_sts_that_repeats(
    marked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, web: bool
) -> None:
    """Of a base's secret key or a web identity's token."""
    secret = TOLD["secret key"]
    for name in ("AWS_ACCESS_KEY_ID", *SECRETS):
        monkeypatch.delenv(name)
    with FakeAws() as fake:
        fake.script.append(sts_error(403, "AccessDenied", f"not {secret}, no"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", fake.endpoint)
        if web:
            (tmp_path / "token").write_text(secret)
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
        else:
            (tmp_path / "config").write_text(
                f"[default]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\n"
                f"[profile base]\naws_access_key_id = a\naws_secret_access_key = {secret}\n"
            )
            monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        with pytest.raises(PermissionError, match=r"refused: not \*\*\*, no") as caught:
            s3dlio_np.get_bytes(marked.uri("x"))
    assert len(fake.seen) == 1
    nothing_of_it_is_in("\n".join(texts_of(caught.value)), secret)
