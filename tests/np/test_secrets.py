"""No secret in what a failing operation says: texts, repr, causes, warnings, logs, traces, statistics."""

from __future__ import annotations

import faulthandler
import io
import logging
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
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
    with pytest.raises(ValueError, match=r'"\*\*\*@127.0.0.1:1" is not'):
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
