"""What streams do when something goes wrong: failures, Ctrl-C, fork, wrong arguments."""

from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests.interrupts import interrupted_when

PART = 5 * 1024 * 1024  # the smallest that S3 takes
DATA = np.random.default_rng(7).integers(0, 256, 3 * PART + 12345, dtype=np.uint8).tobytes()


# --- faults -------------------------------------------------------------------------------------


def test_the_first_failure_is_told_each_time(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    stream = s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART, max_concurrency=1)
    with pytest.raises(s3dlio_np.AccessDeniedError) as first:
        for _ in range(10):
            stream.write(DATA[:PART])
    assert fault.hits() >= 1
    assert isinstance(first.value, PermissionError)
    assert first.value.errno == errno.EACCES
    assert (first.value.code, first.value.status) == ("DENIED", 403)
    assert first.value.server_code == "AccessDenied"
    assert first.value.uri == s3_own.uri("new")
    assert s3_own.uri("new") in str(first.value)
    assert "UploadPart" in str(first.value)
    assert "HTTP 403 AccessDenied" in str(first.value)
    s3_own.server.clear_faults()
    for again in (lambda: stream.write(b"x"), stream.close, stream.close):
        with pytest.raises(s3dlio_np.AccessDeniedError) as later:
            again()
        assert str(later.value) == str(first.value)
    assert stream.closed
    assert str(stream.failure) == str(first.value)
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_a_failed_commit_is_told_each_time(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="CompleteMultipartUpload", kind="status", status=400, code="InvalidPart", count=-1
    )
    with pytest.raises(s3dlio_np.StorageError, match="InvalidPart") as first:
        with s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART) as stream:
            stream.write(DATA)
    assert fault.hits() == 1
    with pytest.raises(s3dlio_np.StorageError, match="InvalidPart") as again:
        stream.close()
    assert str(again.value) == str(first.value)
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_a_swallowed_failure_does_not_commit(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(s3dlio_np.AccessDeniedError):
        with s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART, max_concurrency=1) as f:
            for _ in range(6):
                try:
                    f.write(DATA[:PART])
                except OSError:
                    pass
    assert fault.hits() >= 1
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_ctrl_c_in_a_write(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=20, count=-1)
    stream = s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART, max_concurrency=1)
    with interrupted_when(lambda: fault.hits() > 0):
        stream.write(DATA * 3)  # cannot end before its first part has
    s3_own.server.clear_faults()
    assert isinstance(stream.failure, KeyboardInterrupt)
    for again in (lambda: stream.write(b"x"), stream.close):
        with pytest.raises(s3dlio_np.StorageError, match="interrupted"):
            again()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_ctrl_c_in_close(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", part=2, kind="stall", seconds=20)
    stream = s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART, max_concurrency=2)
    stream.write(DATA[: PART + 1])  # the second part is sent by close()
    with interrupted_when(lambda: fault.hits() > 0):
        stream.close()
    s3_own.server.clear_faults()
    with pytest.raises(s3dlio_np.StorageError, match="interrupted"):
        stream.close()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_ctrl_c_in_a_read(s3_own: Any) -> None:
    s3_own.put("data", DATA)
    stream = s3dlio_np.open(s3_own.uri("data"), max_concurrency=2)
    fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=5, count=-1)
    memory = bytearray(2 * PART)
    with interrupted_when(lambda: fault.hits() > 0):
        stream.readinto(memory)
    memory.clear()  # nobody holds it
    s3_own.server.clear_faults()
    assert stream.tell() == 0
    assert stream.read() == DATA  # reading can go on


def test_a_replaced_object_is_an_error(s3_own: Any) -> None:
    s3_own.put("data", DATA)
    with s3dlio_np.open(s3_own.uri("data")) as stream:
        assert stream.read(10) == DATA[:10]
        s3_own.put("data", DATA[::-1])
        with pytest.raises(s3dlio_np.ObjectChangedError):
            stream.seek(PART) and stream.read(2 * PART)
        assert isinstance(stream.failure, s3dlio_np.ObjectChangedError)


def test_transient_failures_are_tried_again(s3_own: Any) -> None:
    faults = [
        s3_own.server.add_fault(op="UploadPart", kind="status", status=503, code="SlowDown"),
        s3_own.server.add_fault(op="UploadPart", kind="reset_before", skip=1),
    ]
    with s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART) as stream:
        stream.write(DATA)
    faults += [s3_own.server.add_fault(op="GetObject", kind="truncate", bytes=1000, skip=1)]
    assert s3dlio_np.get_bytes(s3_own.uri("new"), concurrent=True) == DATA
    assert [fault.hits() for fault in faults] == [1, 1, 1]


def test_a_forked_child_fails_and_leaves_the_parent_alone(target: Any) -> None:
    target.write("data", DATA)
    reader = s3dlio_np.open(target.uri("data"))
    writer = s3dlio_np.open(target.uri("new"), "wb", part_size=PART)
    writer.write(DATA[: PART + 5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        child = os.fork()
    if child == 0:
        failures = 0
        for use in (lambda: reader.read(1), lambda: writer.write(b"x"), writer.close):
            try:
                use()
                failures += 1
            except s3dlio_np.StorageError as error:
                failures += error.code != "FORKED"
        del writer, reader
        gc.collect()
        os._exit(failures)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert reader.read() == DATA
    writer.write(DATA[PART + 5 :])
    writer.close()
    assert target.read("new") == DATA


# --- errors -------------------------------------------------------------------------------------


def test_a_missing_object(target: Any) -> None:
    uri = target.uri("none")
    for use in (
        lambda: s3dlio_np.open(uri),
        lambda: s3dlio_np.stat(uri),
        lambda: s3dlio_np.get_bytes(uri),
        lambda: s3dlio_np.get_into(uri, bytearray(3)),
        lambda: s3dlio_np.get_into(uri, bytearray(3), length=3),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            use()
        error = caught.value
        assert isinstance(error, s3dlio_np.StorageError)
        assert isinstance(error, s3dlio_np.ObjectNotFoundError)
        assert (error.code, error.errno, error.uri) == ("NOT_FOUND", errno.ENOENT, uri)
        assert str(error).startswith(uri + ": ")
        assert error.filename == (uri if target.kind == "s3" else uri.removeprefix("file://"))
    assert s3dlio_np.exists(uri) is False
    s3dlio_np.delete(uri)  # as in S3, nothing to do


def test_errors_pickle(target: Any) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        s3dlio_np.stat(target.uri("none"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is s3dlio_np.ObjectNotFoundError
    assert (str(copy), copy.args) == (str(caught.value), caught.value.args)
    assert vars(copy) == vars(caught.value)
    assert (copy.errno, copy.filename) == (caught.value.errno, caught.value.filename)


def test_an_error_of_ones_own_has_the_attributes() -> None:
    error = s3dlio_np.StorageError("text")
    assert (str(error), error.code, error.attempts) == ("text", None, 0)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("s3://", "bucket"),
        ("s3:///key", "bucket"),
        ("s3://bucket", "key"),
        ("s3://bucket/", "key"),
        ("ftp://host/x", "ftp"),
        ("file://otherhost/x", "host"),
        ("", "path is empty"),
        ("s3://bucket/a\0b", "NUL"),
    ],
)
@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_wrong_uris(uri: str, text: str, mode: str) -> None:
    with pytest.raises(ValueError, match=text):
        s3dlio_np.open(uri, mode)


def test_wrong_kinds_of_uri() -> None:
    wrongs: list[Any] = [None, 3, io.BytesIO()]
    for wrong in wrongs:
        with pytest.raises(TypeError, match="URI"):
            s3dlio_np.open(wrong)


@pytest.mark.parametrize("mode", ["", "b", "a", "r+b", "xb", "rw", None])
def test_wrong_modes(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(ValueError, match="mode"):
        s3dlio_np.open(tmp_path / "x", mode)


@pytest.mark.parametrize(
    ("mode", "name", "value", "limits"),
    [
        ("wb", "part_size", 5 * 1024**2 - 1, "5242880 to 5368709120"),
        ("wb", "part_size", 5 * 1024**3 + 1, "5242880 to 5368709120"),
        ("wb", "max_concurrency", 0, "1 to 1024"),
        ("rb", "part_size", 100, "65536 to"),
        ("rb", "max_concurrency", 1025, "1 to 1024"),
        ("rb", "max_concurrency", -1, "1 to 1024"),
        ("rb", "max_concurrency", 2**70, "1 to 1024"),
    ],
)
def test_numbers_out_of_range(
    tmp_path: Path, mode: str, name: str, value: int, limits: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    keywords: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=limits) as caught:
        s3dlio_np.open(path, mode, **keywords)
    for part in (name, str(value), str(path)):
        assert part in str(caught.value)
    assert path.read_bytes() == b"old"


def test_no_credentials(s3_own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError, match="AWS_ACCESS_KEY_ID") as caught:
        s3dlio_np.open(s3_own.uri("x"))
    assert isinstance(caught.value, s3dlio_np.AccessDeniedError)
    assert caught.value.code == "NO_CREDENTIALS"


def test_wrong_credentials(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(s3dlio_np.AccessDeniedError, match="SignatureDoesNotMatch"):
        s3dlio_np.open(s3_own.uri("x"))
    with pytest.raises(s3dlio_np.AccessDeniedError, match="SignatureDoesNotMatch"):
        s3dlio_np.put(s3_own.uri("x"), b"1")


def test_a_wrong_endpoint(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(s3dlio_np.StorageError) as caught:
        s3dlio_np.stat(s3_own.uri("x"))
    assert caught.value.code == "NETWORK"
    assert "127.0.0.1:1" in str(caught.value) or "127.0.0.1 port 1" in str(caught.value)


def test_system_errors_are_what_python_calls_them(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        s3dlio_np.open(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.EISDIR, str(tmp_path))
