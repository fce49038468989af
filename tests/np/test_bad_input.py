"""Wrong input: a specific exception that names the URI and what to do, and nothing left behind."""

from __future__ import annotations

import errno
import http.server
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests import child
from tests.marks import near

PART = 5 * 1024 * 1024


def open_and_write(uri: Any) -> None:
    with s3dlio_np.open(uri, "wb", part_size=PART) as stream:
        stream.write(b"x")


def write_parts(uri: Any) -> None:
    with s3dlio_np.open(uri, "wb", part_size=PART, max_concurrency=1) as stream:
        for _ in range(4):
            stream.write(bytes(PART))


READ: dict[str, Callable[[Any], Any]] = {
    "open": s3dlio_np.open,
    "open text": lambda uri: s3dlio_np.open(uri, "r"),
    "stat": s3dlio_np.stat,
    "get_bytes": s3dlio_np.get_bytes,
    "get_bytes writable": lambda uri: s3dlio_np.get_bytes(uri, writable=True),
    "get_bytes_view": s3dlio_np.get_bytes_view,
    "get_into": lambda uri: s3dlio_np.get_into(uri, bytearray(10)),
    "get_into a range": lambda uri: s3dlio_np.get_into(uri, bytearray(10), length=5),
}
WRITE: dict[str, Callable[[Any], Any]] = {
    "open to write": open_and_write,
    "write parts": write_parts,
    "open_stream": lambda uri: s3dlio_np.open_stream(uri).close(),
    "S3OutputStream": lambda uri: s3dlio_np.S3OutputStream(uri).close(),
    "put": lambda uri: s3dlio_np.put(uri, b"x"),
}
OTHER: dict[str, Callable[[Any], Any]] = {
    "list": s3dlio_np.list,
    "delete": s3dlio_np.delete,
    "exists": s3dlio_np.exists,
}
ALL = {**READ, **WRITE, **OTHER}


def reads() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("use", READ.values(), ids=READ)


def writes() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("use", WRITE.values(), ids=WRITE)


def everything() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("use", ALL.values(), ids=ALL)


def everything_but(*names: str) -> pytest.MarkDecorator:
    some = {name: use for name, use in ALL.items() if name not in names}
    return pytest.mark.parametrize("use", some.values(), ids=some)


@pytest.fixture(autouse=True)
def no_memory_is_kept() -> Iterator[None]:
    before = s3dlio_np.stats()["memory_held_bytes"]
    yield
    assert s3dlio_np.stats()["memory_held_bytes"] == before


def catch(use: Callable[[Any], Any], uri: str, kind: type[BaseException], *texts: str) -> Any:
    with pytest.raises(kind) as caught:
        use(uri)
    for text in (uri, *texts):
        assert text in str(caught.value), caught.value
    return caught.value


def catch_storage(
    use: Callable[[Any], Any], uri: str, kind: type[BaseException], code: str, *texts: str
) -> Any:
    error = catch(use, uri, kind, *texts)
    assert isinstance(error, s3dlio_np.StorageError)
    assert (error.code, error.uri) == (code, uri)
    return error


# --- the URI ------------------------------------------------------------------------------------

WRONG_URIS = [
    ("ftp://host/key", 'unknown scheme "ftp"', "s3://bucket/key"),
    ("S4://bucket/key", 'unknown scheme "S4"', "s3://bucket/key"),
    ("://bucket/key", "unknown scheme", "s3://bucket/key"),
    ("https://bucket.s3.amazonaws.com/key", 'unknown scheme "https"', "s3://bucket/key"),
    ("s3:///key", "bucket is empty", "s3://bucket/key"),
    ("s3://", "bucket is empty", "s3://bucket/key"),
    ("s3://a/key", "not a bucket name", "3 to 63"),
    ("s3://no spaces/key", "not a bucket name", "3 to 63"),
    ("s3://user:word@bucket/key", "not a bucket name", "3 to 63"),
    ("s3://" + "b" * 64 + "/key", "not a bucket name", "3 to 63"),
    ("s3://bucket/" + "k" * 1025, "1025 bytes", "1024"),
    ("file://host/path", "file:///path", "three slashes"),
    ("file://", "file:///path", "three slashes"),
    ("file:///bad%zz", "two hex digits", "%25"),
    ("file:///nul%00", "two hex digits", "%25"),
]


@everything()
@pytest.mark.parametrize(("uri", "what", "advice"), WRONG_URIS)
def test_wrong_uris(use: Any, uri: str, what: str, advice: str) -> None:
    catch(use, uri, ValueError, what, advice)


@everything_but("list")
@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/"])
def test_no_key(use: Any, uri: str) -> None:
    catch(use, uri, ValueError, "key is empty", "s3://bucket/key")


@everything()
@pytest.mark.parametrize("uri", ["", b""])
def test_an_empty_path(use: Any, uri: Any) -> None:
    with pytest.raises(ValueError, match="empty"):
        use(uri)


@everything()
@pytest.mark.parametrize("uri", ["s3://bucket/a\0b", "/tmp/a\0b", "file:///tmp/a\0b"])
def test_nul(use: Any, uri: str) -> None:
    with pytest.raises(ValueError, match="NUL"):
        use(uri)


@everything()
@pytest.mark.parametrize("uri", [None, 3, 1.5, ["s3://bucket/key"], object()])
def test_no_uri_at_all(use: Any, uri: Any) -> None:
    with pytest.raises(TypeError, match="URI"):
        use(uri)


# --- access -------------------------------------------------------------------------------------


def without_credentials(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("HOME", str(home))
    kept = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_EC2_METADATA_DISABLED")
    for name in list(os.environ):
        if name.startswith("AWS_") and name not in kept:
            monkeypatch.delenv(name)


@everything()
def test_no_credentials(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, use: Any
) -> None:
    without_credentials(monkeypatch, tmp_path)
    error = catch_storage(
        use, s3_own.uri("x"), PermissionError, "NO_CREDENTIALS", "AWS_ACCESS_KEY_ID"
    )
    assert isinstance(error, s3dlio_np.AccessDeniedError)
    assert (error.errno, error.status, error.attempts) == (errno.EACCES, None, 0)
    assert not any(s3_own.server.counters()["requests"].values())


@everything()
@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_the_credentials(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, use: Any, missing: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(missing)
    with pytest.raises((PermissionError, ValueError), match=missing) as caught:
        use(s3_own.uri("x"))
    assert s3_own.uri("x") in str(caught.value)


@everything_but("open_stream", "S3OutputStream")
@pytest.mark.parametrize(
    ("variable", "code", "advice"),
    [
        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials(
    s3_own: Any,
    monkeypatch: pytest.MonkeyPatch,
    use: Any,
    variable: str,
    code: str,
    advice: str,
) -> None:
    s3_own.put("x", b"old")
    monkeypatch.setenv(variable, "wrong")
    uri = s3_own.uri("x")
    if use in (READ["stat"], READ["get_into"], OTHER["exists"]):  # HEAD: no body, no code
        error = catch_storage(use, uri, PermissionError, "DENIED", "credentials")
    else:
        error = catch_storage(use, uri, PermissionError, "DENIED", code, advice)
        assert error.server_code == code
    assert (error.status, error.attempts, error.errno) == (403, 1, errno.EACCES)
    assert error.request_id
    assert error.request_id in str(error)
    monkeypatch.undo()
    assert (s3_own.objects(), s3_own.uploads()) == ({"x": 3}, [])


@pytest.mark.parametrize("use", [*READ.values(), *WRITE.values()], ids=[*READ, *WRITE])
@pytest.mark.parametrize("s3", [pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)
def test_wrong_credentials_on_ceph(s3: Any, monkeypatch: pytest.MonkeyPatch, use: Any) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    catch_storage(use, s3.uri("x"), PermissionError, "DENIED", "; check the ")
    assert (s3.objects(), s3.uploads()) == ({}, [])


@everything()
def test_a_denied_bucket(s3_own: Any, use: Any) -> None:
    """Buckets of this name answer 403 to everything."""
    error = catch_storage(
        use, "s3://denied-bucket/x", PermissionError, "DENIED", "credentials", "policy"
    )
    assert isinstance(error, s3dlio_np.AccessDeniedError)
    assert (error.status, error.attempts, error.errno) == (403, 1, errno.EACCES)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of a user who is not root, and that user's rights."""
    with tempfile.TemporaryDirectory() as folder:
        nobody = 65534
        user = os.geteuid()
        if user == 0:
            os.chown(folder, nobody, -1)
            os.seteuid(nobody)  # in all threads
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("use", READ.values(), ids=READ)
def test_a_denied_file(as_nobody: Path, use: Any) -> None:
    path = as_nobody / "x"
    path.write_bytes(b"old")
    path.chmod(0)
    if use is not s3dlio_np.stat:  # needs no right on the file itself
        catch_storage(use, str(path), PermissionError, "DENIED")


@writes()
def test_a_denied_folder(as_nobody: Path, use: Any) -> None:
    path = as_nobody / "x"
    path.write_bytes(b"old")
    as_nobody.chmod(0o500)
    catch_storage(use, str(path), PermissionError, "DENIED")
    assert os.listdir(as_nobody) == ["x"]
    assert path.read_bytes() == b"old"


# --- the endpoint -------------------------------------------------------------------------------


def one_of_each() -> pytest.MarkDecorator:
    """Few: each is tried five times, and the process's quota of retries serves all tests."""
    some = {name: ALL[name] for name in ("open", "get_into", "put", "list")}
    return pytest.mark.parametrize("use", some.values(), ids=some)


@one_of_each()
def test_nobody_listens(s3_own: Any, monkeypatch: pytest.MonkeyPatch, use: Any) -> None:
    with socket.socket() as reserved:  # bound, but not listening
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        error = catch_storage(
            use, s3_own.uri("x"), s3dlio_np.StorageError, "NETWORK", address, "endpoint"
        )
    assert type(error) is s3dlio_np.StorageError
    assert error.status is None
    assert 1 < error.attempts <= 5
    assert f"{error.attempts} attempts" in str(error)


@one_of_each()
def test_no_such_host(s3_own: Any, monkeypatch: pytest.MonkeyPatch, use: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    catch_storage(
        use, s3_own.uri("x"), s3dlio_np.StorageError, "NETWORK", "no-such-host.invalid"
    )


@everything()
@pytest.mark.parametrize(
    ("endpoint", "fault", "write"),
    [
        (
            "127.0.0.1:9000",
            "does not begin with http://",
            "write http://127.0.0.1:9000 or https",
        ),
        ("ftp://127.0.0.1", "does not begin with http://", "write http://host[:port] or https"),
        ("http://", "has no host", "http://host"),
        ("http://bücher.example", "has no host (a name in ASCII", "http://host"),
        ("http://h/path", "has a path", "http://host"),
        ("http://h?query", "has a query", "http://host"),
        ("http://h:70000", "has a port", "http://host"),
        ("http://u@h", "has a login", "http://host"),
    ],
)
def test_an_endpoint_that_is_none(
    s3_own: Any,
    monkeypatch: pytest.MonkeyPatch,
    use: Any,
    endpoint: str,
    fault: str,
    write: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    shown = endpoint.replace("http://u@", "***@")  # a login is not repeated
    catch(use, s3_own.uri("x"), ValueError, f'"{shown}" {fault}', write, "(AWS_ENDPOINT_URL)")


@pytest.fixture(scope="module")
def web_server() -> Iterator[int]:
    """Something that listens, speaks HTTP, and is no S3 server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b"<html><body>Not here!</body></html>"
            self.send_response(405)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *unused: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@everything()
def test_an_endpoint_that_is_no_store(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch, use: Any, web_server: int
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{web_server}")
    error = catch_storage(use, s3_own.uri("x"), s3dlio_np.StorageError, "REJECTED", "405")
    assert error.status == 405


# --- what is not there --------------------------------------------------------------------------


@reads()
def test_a_missing_object(target: Any, use: Any) -> None:
    uri = target.uri("none")
    error = catch_storage(use, uri, FileNotFoundError, "NOT_FOUND")
    assert isinstance(error, s3dlio_np.ObjectNotFoundError)
    assert error.errno == errno.ENOENT
    assert error.status == (404 if target.kind == "s3" else None)
    assert target.names() == []


@everything_but("delete", "exists")
def test_a_missing_bucket(s3: Any, use: Any) -> None:
    uri = f"s3://none-{s3.bucket}/x"
    error = catch_storage(use, uri, FileNotFoundError, "NOT_FOUND", "bucket")
    assert (error.status, error.errno) == (404, errno.ENOENT)


@reads()
@pytest.mark.parametrize("path", ["none/x", "file/x"])
def test_a_missing_folder_to_read(tmp_path: Path, use: Any, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        use(str(tmp_path / path))
    assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)
    assert str(tmp_path / path) in str(caught.value)


@writes()
def test_a_missing_folder_to_write(tmp_path: Path, use: Any) -> None:
    path = str(tmp_path / "none" / "x")
    catch_storage(use, path, FileNotFoundError, "NOT_FOUND", "folder")
    assert os.listdir(tmp_path) == []


@everything_but("stat", *OTHER)
def test_a_folder_is_no_file(tmp_path: Path, use: Any) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        use(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert os.listdir(tmp_path) == []


# --- arguments ----------------------------------------------------------------------------------

OUT_OF_RANGE = [
    ("wb", {"part_size": 0}, "5242880 to 5368709120"),
    ("wb", {"part_size": PART - 1}, "5242880 to 5368709120"),
    ("wb", {"part_size": 5 * 1024**3 + 1}, "5242880 to 5368709120"),
    ("wb", {"part_size": -1}, "5242880 to 5368709120"),
    ("wb", {"max_concurrency": 0}, "1 to 1024"),
    ("wb", {"max_concurrency": 2**64}, "1 to 1024"),
    ("rb", {"part_size": 65535}, "65536 to 5368709120"),
    ("rb", {"max_concurrency": 1025}, "1 to 1024"),
]


@near
@pytest.mark.parametrize(("mode", "keywords", "limits"), OUT_OF_RANGE)
def test_numbers_out_of_range(target: Any, mode: Any, keywords: Any, limits: str) -> None:
    target.write("x", b"old")
    name, value = next(iter(keywords.items()))
    catch(
        lambda uri: s3dlio_np.open(uri, mode, **keywords),
        target.uri("x"),
        ValueError,
        *(name, str(value), limits),
    )
    assert target.read("x") == b"old"
    assert (target.names(), target.leftovers()) == (["x"], [])


@near
@pytest.mark.parametrize("value", ["8MiB", 8e6, [1]])
@pytest.mark.parametrize("name", ["part_size", "max_concurrency"])
@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_numbers_of_another_type(target: Any, mode: str, name: str, value: Any) -> None:
    with pytest.raises(TypeError):
        s3dlio_np.open(target.uri("x"), mode, **{name: value})
    assert target.names() == []


NOT_BYTES = {
    "text": "text",
    "number": 5,
    "nothing": None,
    "list": [1, 2],
    "object array": np.array([None, 1], object),
}


@near
@pytest.mark.parametrize("before", [0, 3, 2 * PART + 1])
@pytest.mark.parametrize("name", NOT_BYTES)
def test_what_is_not_bytes(target: Any, name: str, before: int) -> None:
    """Refused, changes nothing, and unless caught leaves nothing."""
    value: Any = NOT_BYTES[name]
    with pytest.raises(TypeError):
        with s3dlio_np.open(target.uri("x"), "wb", part_size=PART) as stream:
            stream.write(bytes(before))
            stream.write(value)
    assert (target.names(), target.leftovers()) == ([], [])
    with s3dlio_np.open(target.uri("x"), "wb", part_size=PART) as stream:
        stream.write(bytes(before))
        with pytest.raises(TypeError):
            stream.write(value)
        assert stream.tell() == before
    assert target.read("x") == bytes(before)


@near
@pytest.mark.parametrize("name", NOT_BYTES)
def test_what_cannot_be_put(target: Any, name: str) -> None:
    value: Any = NOT_BYTES[name]
    with pytest.raises(TypeError):
        s3dlio_np.put(target.uri("x"), value)
    assert (target.names(), target.leftovers()) == ([], [])


def test_after_close(target: Any) -> None:
    stream = s3dlio_np.open(target.uri("x"), "wb")
    stream.write(b"1")
    stream.close()
    for use in (lambda: stream.write(b"2"), stream.flush, stream.__enter__, stream.tell):
        with pytest.raises(ValueError, match="closed"):
            use()
    reader = s3dlio_np.open(target.uri("x"))
    reader.close()
    for again in (reader.read, reader.tell, reader.__enter__, lambda: reader.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            again()
    assert target.read("x") == b"1"


def test_the_wrong_direction(target: Any) -> None:
    target.write("x", b"old")
    with s3dlio_np.open(target.uri("x")) as reader:
        with pytest.raises(OSError, match="write"):
            reader.write(b"1")
    with pytest.raises(OSError, match="read"):
        with s3dlio_np.open(target.uri("x"), "wb") as writer:
            writer.read()
    assert target.read("x") == b"old"


@near
@pytest.mark.parametrize("name", ["read-only", "text", "strided", "short"])
def test_get_into_what_does_not_fit(target: Any, name: str) -> None:
    target.write("x", b"1234567890")
    buffers: dict[str, Any] = {
        "read-only": b"1234567890",
        "text": "1234567890",
        "strided": np.zeros(30, np.uint8)[::2],
        "short": bytearray(9),
    }
    kind = TypeError if name in ("read-only", "text") else ValueError
    with pytest.raises(kind):
        s3dlio_np.get_into(target.uri("x"), buffers[name])


def test_objects_are_never_read_into(tmp_path: Path) -> None:
    """In a process of its own: pointers overwritten by bytes end it."""
    script = """
        import sys, numpy as np, s3dlio_np
        with s3dlio_np.open(sys.argv[1], "wb") as stream:
            stream.write(b"\\x01" * 80)
        refused = 0
        for read in (
            lambda array: s3dlio_np.get_into(sys.argv[1], array),
            lambda array: s3dlio_np.open(sys.argv[1]).readinto(array),
        ):
            try:
                read(np.empty(10, object))
            except TypeError:
                refused += 1
        sys.exit(10 + refused)
    """
    child.run(script, tmp_path / "x", status=12)


@near
@pytest.mark.parametrize("keywords", [{"offset": -1}, {"length": -1}, {"offset": 2**64}])
def test_get_into_an_impossible_range(target: Any, keywords: dict[str, int]) -> None:
    target.write("x", b"1234567890")
    with pytest.raises(ValueError, match=next(iter(keywords))) as caught:
        s3dlio_np.get_into(target.uri("x"), bytearray(10), **keywords)
    assert target.uri("x") in str(caught.value)
