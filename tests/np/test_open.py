"""s3dlio_np.open and its companions: the io contract, atomic writes, errors, whole objects."""

from __future__ import annotations

import dataclasses
import errno
import gc
import gzip
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from s3dlio_np import WriterOptions

PART = 5 * 1024 * 1024  # the smallest that S3 takes
DATA = np.random.default_rng(7).integers(0, 256, 3 * PART + 12345, dtype=np.uint8).tobytes()
TEXT = (
    b"".join(b"line %d\n" % i for i in range(20000)) + b"x" * 10000 + b"\nno newline at the end"
)


@contextmanager
def interrupted_when(ready: Callable[[], bool]) -> Iterator[None]:
    """Sends Ctrl-C to the main thread once `ready`; the body must end with KeyboardInterrupt."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if ready():
                os.kill(os.getpid(), signal.SIGINT)
                return
            done.wait(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        done.set()
        watcher.join()


# --- reading ------------------------------------------------------------------------------------


@pytest.fixture
def reader(target: Any) -> Iterator[s3dlio_np.ObjectReader]:
    target.write("data", DATA)
    with s3dlio_np.open(target.uri("data"), part_size=256 * 1024, max_concurrency=4) as stream:
        yield stream


def test_a_reader_says_what_it_is(reader: Any, target: Any) -> None:
    assert issubclass(type(reader), io.BufferedIOBase)
    assert reader.name == reader.uri == str(reader) == target.uri("data")
    assert (reader.mode, reader.size, reader.closed) == ("rb", len(DATA), False)
    assert (reader.readable(), reader.seekable(), reader.writable()) == (True, True, False)
    assert reader.isatty() is False
    assert reader.etag
    with pytest.raises(io.UnsupportedOperation):
        reader.fileno()
    with pytest.raises(io.UnsupportedOperation):
        reader.write(b"x")
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(reader)


def test_reading_agrees_with_bytesio(reader: Any) -> None:
    model = io.BytesIO(DATA)
    rng = np.random.default_rng(1)
    sizes = [0, 1, 3, 100, 4096, 4097, 70000, 300000, 2 * 1024 * 1024, 2 * PART]
    for _ in range(150):
        size = int(rng.choice(sizes))
        action = rng.integers(6)
        if action == 0:
            place = int(rng.integers(0, len(DATA) + 1000))
            assert reader.seek(place) == model.seek(place)
        elif action == 1:
            assert reader.read(size) == model.read(size)
        elif action == 2:
            mine, theirs = bytearray(size), bytearray(size)
            assert reader.readinto(mine) == model.readinto(theirs)
            assert mine == theirs
        elif action == 3 and model.tell() >= 50:
            assert reader.seek(-50, 1) == model.seek(-50, 1)
        elif action == 4:
            assert reader.seek(-size, 2) == model.seek(-size, 2)
        else:
            peeked = reader.peek(size)
            rest = DATA[model.tell() : model.tell() + len(peeked)]
            assert peeked == rest
            assert peeked or model.tell() >= len(DATA)
        assert reader.tell() == model.tell()


def test_read_to_the_end_in_all_spellings(reader: Any) -> None:
    assert reader.read() == DATA
    assert reader.read() == b""
    reader.seek(10)
    assert reader.read(None) == DATA[10:]
    reader.seek(20)
    assert reader.read(-1) == DATA[20:]
    reader.seek(len(DATA) + 5)
    assert reader.read(3) == b""
    assert reader.readinto(bytearray(3)) == 0
    assert reader.peek() == b""


def test_sizes_and_offsets_are_index_like(reader: Any) -> None:
    assert reader.read(np.int64(5)) == DATA[:5]
    assert reader.seek(np.int32(7)) == 7
    assert reader.read1(np.uint8(3)) == DATA[7:10]
    for wrong in (1.5, "3"):
        with pytest.raises(TypeError):
            reader.read(wrong)
        with pytest.raises(TypeError):
            reader.seek(wrong)


def test_seeking_before_the_start_is_both_errors(reader: Any) -> None:
    """zipfile expects OSError, as a file says; BytesIO's users ValueError."""
    reader.seek(3)
    for error in (OSError, ValueError):
        with pytest.raises(error, match="before the start"):
            reader.seek(-(len(DATA) + 1), 2)
    with pytest.raises(ValueError, match="whence"):
        reader.seek(0, 3)
    with pytest.raises(OverflowError):
        reader.seek(2**63 - 1, 1)
    assert reader.tell() == 3


def test_readinto_fills_any_writable_contiguous_memory(reader: Any) -> None:
    for array in (
        np.empty((7, 11), np.float64),
        np.empty((7, 11), np.complex128, order="F"),
        np.empty(9, "M8[s]"),
        np.empty(3, [("a", "<i2"), ("b", ">f8")]),
        np.empty((), np.int32),
        np.empty(0),
    ):
        reader.seek(0)
        assert reader.readinto(array) == array.nbytes
        assert array.tobytes(order="A") == DATA[: array.nbytes]


def test_readinto_refuses_what_it_cannot_fill(reader: Any) -> None:
    for wrong in (b"read-only", np.frombuffer(b"12345678"), "text", 5):
        with pytest.raises(TypeError):
            reader.readinto(wrong)
    with pytest.raises(ValueError, match="contiguous"):
        reader.readinto(np.empty(10)[::2])
    assert reader.tell() == 0


def test_lines(target: Any) -> None:
    target.write("text", TEXT)
    with s3dlio_np.open(target.uri("text")) as stream:
        assert list(stream) == list(io.BytesIO(TEXT))
        stream.seek(2)
        assert stream.readline() == b"ne 0\n"
        assert stream.readline(3) == b"lin"
        assert stream.readline(0) == b""
        assert stream.readlines(20) == [b"e 1\n", b"line 2\n", b"line 3\n", b"line 4\n"]
        stream.seek(len(TEXT) - 4)
        assert stream.readline() == b" end"
        assert stream.readline() == b""


def test_closing_a_reader(target: Any) -> None:
    target.write("data", b"12345")
    stream: Any = s3dlio_np.open(target.uri("data"))
    assert stream.close() is None
    assert stream.close() is None
    assert stream.closed
    for use in (
        stream.read,
        stream.readline,
        stream.peek,
        stream.tell,
        stream.readable,
        stream.__enter__,
        lambda: stream.seek(0),
        lambda: stream.readinto(bytearray(1)),
        lambda: next(iter(stream)),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert (stream.size, stream.name) == (5, target.uri("data"))


def test_empty_and_tiny_objects(target: Any) -> None:
    for data in (b"", b"x"):
        target.write("tiny", data)
        with s3dlio_np.open(target.uri("tiny")) as stream:
            assert (stream.size, stream.read(), stream.peek()) == (len(data), data, b"")
        assert s3dlio_np.get_bytes(target.uri("tiny")) == data
        assert bytes(s3dlio_np.get_bytes_view(target.uri("tiny"))) == data
        assert s3dlio_np.get_into(target.uri("tiny"), bytearray(4)) == len(data)


def test_threads_share_a_reader(reader: Any) -> None:
    """Each read is whole: together they give every block of the object once."""
    blocks: list[bytes] = []

    def work() -> None:
        while block := reader.read(100_000):
            blocks.append(block)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [DATA[i : i + 100_000] for i in range(0, len(DATA), 100_000)]
    assert sorted(blocks) == sorted(expected)


# --- writing ------------------------------------------------------------------------------------


def test_a_writer_says_what_it_is(target: Any) -> None:
    with s3dlio_np.open(target.uri("new"), "wb") as stream:
        assert isinstance(stream, io.BufferedIOBase)
        assert stream.name == target.uri("new")
        assert (stream.mode, stream.closed, stream.tell()) == ("wb", False, 0)
        assert (stream.readable(), stream.seekable(), stream.writable()) == (False, False, True)
        assert hasattr(stream, "read")  # np.savez asks for it
        for refused in (
            stream.read,
            stream.fileno,
            lambda: stream.seek(0),
            lambda: stream.truncate(0),
            lambda: stream.readinto(bytearray(1)),
        ):
            with pytest.raises(io.UnsupportedOperation):
                refused()


@pytest.mark.parametrize("sizes", [[0], [1], [PART], [len(DATA)], [3, PART - 3, 1, 2 * PART]])
def test_written_bytes_are_the_object(target: Any, sizes: list[int]) -> None:
    place = 0
    with s3dlio_np.open(target.uri("new"), "wb", part_size=PART, max_concurrency=3) as stream:
        for size in sizes:
            assert stream.write(memoryview(DATA)[place : place + size]) == size
            place += size
            assert stream.tell() == place
        stream.flush()
        assert not target.exists("new")
    assert target.read("new") == DATA[:place]
    assert target.leftovers() == []


def test_close_tells_and_repeats(target: Any) -> None:
    stream = s3dlio_np.open(target.uri("new"), "wb")
    stream.write(b"abc")
    result = stream.close()
    assert result == {
        "size": 3,
        "bytes_written": 3,
        "etag": s3dlio_np.stat(target.uri("new"))["etag"],
        "uri": target.uri("new"),
    }
    assert stream.close() is result
    assert stream.closed
    stream.abort()  # too late, and harmless
    assert stream.close() is result
    for use in (lambda: stream.write(b"x"), stream.flush, stream.tell, stream.writable):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert target.read("new") == b"abc"


def test_any_contiguous_buffer_counts_in_bytes(target: Any) -> None:
    arrays = [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array(["2020-01-01"], "M8[D]"),
        np.array(3, ">i4"),
    ]
    with s3dlio_np.open(target.uri("new"), "wb") as stream:
        for array in arrays:
            assert stream.write(array) == array.nbytes
        assert stream.write(bytearray(b"ab")) == 2
        assert stream.write(pickle.PickleBuffer(b"cd")) == 2
        stream.writelines([b"e", b"f"])
    assert target.read("new") == b"".join(a.tobytes(order="A") for a in arrays) + b"abcdef"


def test_what_cannot_be_written_changes_nothing(target: Any) -> None:
    with s3dlio_np.open(target.uri("new"), "wb") as stream:
        for wrong in ("text", 5, None, [1]):
            with pytest.raises(TypeError):
                stream.write(wrong)  # type: ignore[arg-type]
        assert stream.tell() == 0
        stream.write(b"good")
    assert target.read("new") == b"good"


def test_the_callers_memory_is_free_after_write(target: Any) -> None:
    memory = bytearray(DATA)
    with s3dlio_np.open(target.uri("new"), "wb", part_size=PART, max_concurrency=2) as stream:
        stream.write(memory)
        memory[:] = bytes(len(memory))
        memory.clear()  # a BufferError if anything still held it
    assert target.read("new") == DATA


@pytest.mark.parametrize("size", [10, 2 * PART + 1])
def test_an_exception_in_the_body_writes_nothing(target: Any, size: int) -> None:
    with pytest.raises(ZeroDivisionError):
        with s3dlio_np.open(target.uri("new"), "wb", part_size=PART) as stream:
            stream.write(DATA[:size])
            raise ZeroDivisionError
    assert stream.closed
    with pytest.raises(s3dlio_np.StorageError, match="aborted") as caught:
        stream.close()  # must not look like a commit
    assert caught.value.code == "CANCELLED"
    assert not target.exists("new")
    assert target.leftovers() == []


def test_abort_and_a_clean_exit(target: Any) -> None:
    with s3dlio_np.open(target.uri("new"), "wb", part_size=PART) as stream:
        stream.write(DATA[: 2 * PART])
        stream.abort()
    assert (target.exists("new"), target.leftovers()) == (False, [])


@pytest.mark.parametrize("size", [10, 2 * PART + 1])
def test_a_dropped_writer_writes_nothing(target: Any, size: int) -> None:
    stream = s3dlio_np.open(target.uri("new"), "wb", part_size=PART)
    stream.write(DATA[:size])
    with pytest.warns(ResourceWarning, match="unclosed .* was aborted"):
        del stream
        gc.collect()
    assert (target.exists("new"), target.leftovers()) == (False, [])


def test_a_writer_in_a_cycle_writes_nothing(target: Any) -> None:
    stream: Any = s3dlio_np.open(target.uri("new"), "wb")
    stream.myself = stream
    stream.write(b"half")
    with pytest.warns(ResourceWarning, match="unclosed"):
        del stream
        gc.collect()
    assert (target.exists("new"), target.leftovers()) == (False, [])


def test_an_old_object_stays_until_the_new_one_is_whole(target: Any) -> None:
    target.write("data", b"old")
    with pytest.raises(ZeroDivisionError):
        with s3dlio_np.open(target.uri("data"), "wb", part_size=PART) as stream:
            stream.write(DATA)
            raise ZeroDivisionError
    assert target.read("data") == b"old"
    with s3dlio_np.open(target.uri("data"), "wb") as stream:
        stream.write(b"new")
        assert target.read("data") == b"old"
    assert target.read("data") == b"new"


def test_interpreter_exit_writes_nothing(target: Any) -> None:
    script = (
        "import s3dlio_np, sys\n"
        f"keep = s3dlio_np.open({target.uri('new')!r}, 'wb', part_size={PART})\n"
        f"keep.write(bytes({2 * PART + 1}))\n"
        "print('written')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "written\n"), done.stderr
    assert (target.exists("new"), target.leftovers()) == (False, [])


def test_threads_share_a_writer(target: Any) -> None:
    with s3dlio_np.open(target.uri("new"), "wb", part_size=PART, max_concurrency=2) as stream:

        def work(letter: bytes) -> None:
            for _ in range(40):
                stream.write(letter * 100_000)

        threads = [
            threading.Thread(target=work, args=(letter,)) for letter in (b"a", b"b", b"c")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    data = target.read("new")
    assert len(data) == 12_000_000
    blocks = {data[i : i + 100_000] for i in range(0, len(data), 100_000)}
    assert blocks == {b"a" * 100_000, b"b" * 100_000, b"c" * 100_000}


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


# --- options ------------------------------------------------------------------------------------


def test_options_arrive(s3_own: Any) -> None:
    options = WriterOptions(
        content_type="application/x-npy",
        content_encoding="identity",
        metadata={"run": "42", "Author": "some one"},
    )
    with s3dlio_np.open(s3_own.uri("new"), "wb", options=options) as stream:
        stream.write(b"x")
    headers = s3_own.server.request("HEAD", "/bucket/new").headers
    assert headers["content-type"] == "application/x-npy"
    assert headers["content-encoding"] == "identity"
    assert (headers["x-amz-meta-run"], headers["x-amz-meta-author"]) == ("42", "some one")


@pytest.mark.parametrize("size", [3, PART + 1])
def test_create_only(target: Any, size: int) -> None:
    server = type(getattr(getattr(target, "bucket", None), "server", None)).__name__
    if size > PART and server == "CephServer":
        pytest.skip("Ceph ignores If-None-Match when a multipart upload completes")
    options = WriterOptions(if_none_match=True, part_size=PART)
    with s3dlio_np.open(target.uri("data"), "wb", options=options) as stream:
        stream.write(DATA[:size])
    with pytest.raises(FileExistsError) as caught:
        with s3dlio_np.open(target.uri("data"), "wb", options=options) as stream:
            stream.write(bytes(size))
    assert isinstance(caught.value, s3dlio_np.ObjectExistsError)
    assert target.read("data") == DATA[:size]
    assert target.leftovers() == []


def test_options_are_checked() -> None:
    wrong: list[dict[str, Any]] = [
        {"content_type": "a\r\nx-amz-acl: public-read"},
        {"metadata": {"a b": "1"}},
        {"metadata": {"a": "line\nbreak"}},
        {"metadata": {"a": "ü"}},
        {"metadata": {"a": "x" * 3000}},
        {"part_size": 0},
        {"max_concurrency": -1},
    ]
    for keywords in wrong:
        with pytest.raises(ValueError, match=next(iter(keywords))):
            WriterOptions(**keywords)
    for keywords in ({"metadata": [1]}, {"content_type": 3}, {"if_none_match": 1}):
        with pytest.raises(TypeError, match=next(iter(keywords))):
            WriterOptions(**keywords)


def test_options_are_values(tmp_path: Path) -> None:
    options = WriterOptions(metadata={"a": "1"})
    assert pickle.loads(pickle.dumps(options)) == options
    assert dataclasses.replace(options, part_size=PART).metadata == {"a": "1"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.part_size = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="writing"):
        s3dlio_np.open(tmp_path / "x", "rb", options=options)


# --- text ---------------------------------------------------------------------------------------


def test_text(target: Any) -> None:
    words = "ein\nzwei\r\ndrei ü\n"
    with s3dlio_np.open(target.uri("text"), "w") as stream:
        stream.write(words)
        json.dump([1], stream)
    assert target.read("text") == (words + "[1]").encode()
    with s3dlio_np.open(target.uri("text"), "r") as stream:
        assert list(stream) == ["ein\n", "zwei\n", "drei ü\n", "[1]"]
    with s3dlio_np.open(target.uri("text"), "rt", encoding="latin-1", newline="") as stream:
        assert stream.read() == (words + "[1]").encode().decode("latin-1")


def test_text_aborts_like_bytes(target: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        with s3dlio_np.open(target.uri("text"), "w") as stream:
            stream.write("half")
            raise ZeroDivisionError
    with pytest.raises(UnicodeEncodeError):
        with s3dlio_np.open(target.uri("text"), "w", encoding="ascii") as stream:
            stream.write("ü")
    stream = s3dlio_np.open(target.uri("text"), "w")
    stream.write("half")
    with pytest.warns(ResourceWarning, match="unclosed"):
        del stream
        gc.collect()
    with pytest.raises(LookupError):
        s3dlio_np.open(target.uri("text"), "w", encoding="no such")
    gc.collect()
    assert (target.exists("text"), target.leftovers()) == (False, [])


# --- other libraries on top ---------------------------------------------------------------------


def test_npz_there_and_back(target: Any) -> None:
    arrays: dict[str, Any] = {
        "weights": np.random.default_rng(0).random((500, 700)),
        "fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
        "empty": np.empty((0, 3), np.int8),
        "scalar": np.array(3.5),
        "when": np.array(["2020-01-01"], "M8[D]"),
        "records": np.array([(1, b"x")], [("a", ">i4"), ("b", "S3")]),
        "text": np.array(["ü", "abc"]),
    }
    for save in (np.savez, np.savez_compressed):
        with s3dlio_np.open(target.uri("a.npz"), "wb") as stream:
            save(stream, **arrays)
        for source in (io.BytesIO(target.read("a.npz")), s3dlio_np.open(target.uri("a.npz"))):
            with source, np.load(source) as loaded:
                assert sorted(loaded.files) == sorted(arrays)
                for name, array in arrays.items():
                    assert loaded[name].dtype == array.dtype
                    np.testing.assert_array_equal(loaded[name], array)


def test_stock_npz_and_npy_are_read(target: Any) -> None:
    stock = io.BytesIO()
    np.savez(stock)  # 22 bytes: zipfile seeks before its start
    target.write("empty.npz", stock.getvalue())
    with s3dlio_np.open(target.uri("empty.npz")) as stream:
        assert np.load(stream).files == []
    stock = io.BytesIO()
    np.save(stock, np.arange(5))
    np.save(stock, np.array([None, "x"], object))
    target.write("two.npy", stock.getvalue())
    with s3dlio_np.open(target.uri("two.npy")) as stream:
        np.testing.assert_array_equal(np.load(stream), np.arange(5))
        assert np.load(stream, allow_pickle=True).tolist() == [None, "x"]
        assert stream.read() == b""


def test_np_text_and_raw(target: Any) -> None:
    with s3dlio_np.open(target.uri("t"), "wb") as stream:
        np.savetxt(stream, np.arange(6.0).reshape(2, 3))
    with s3dlio_np.open(target.uri("t")) as stream:
        np.testing.assert_array_equal(np.loadtxt(stream), np.arange(6.0).reshape(2, 3))
        with pytest.raises(io.UnsupportedOperation):
            np.fromfile(stream)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(target: Any, protocol: int) -> None:
    value = {"a": np.arange(200_000), "b": [1, "ü" * 1000, b"x" * 100_000], "c": None}
    with s3dlio_np.open(target.uri("p"), "wb") as stream:
        pickle.dump(value, stream, protocol)
        pickle.dump("second", stream, protocol)
    for source in (io.BytesIO(target.read("p")), s3dlio_np.open(target.uri("p"))):
        with source:
            loaded = pickle.load(source)
            np.testing.assert_array_equal(loaded.pop("a"), value["a"])
            assert loaded == {"b": value["b"], "c": None}
            assert pickle.load(source) == "second"


def test_gzip_and_tar(target: Any) -> None:
    with s3dlio_np.open(target.uri("t.tgz"), "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            info = tarfile.TarInfo("member")
            info.size = len(TEXT)
            tar.addfile(info, io.BytesIO(TEXT))
    with s3dlio_np.open(target.uri("t.tgz")) as raw:
        with tarfile.open(fileobj=raw, mode="r:gz") as tar:
            member = tar.extractfile("member")
            assert member is not None
            assert member.read() == TEXT
        raw.seek(0)
        with gzip.open(raw) as unpacked:
            assert TEXT in unpacked.read()


# --- whole objects ------------------------------------------------------------------------------


def test_put_stat_list_delete(target: Any) -> None:
    for name in ("dir-a", "dir-b ü", "dir-c%41"):
        result = s3dlio_np.put(target.uri(name), np.arange(4, dtype=np.int32))
        assert (result["size"], result["uri"]) == (16, target.uri(name))
    info = s3dlio_np.stat(target.uri("dir-a"))
    assert (info["size"], info["uri"]) == (16, target.uri("dir-a"))
    assert info["last_modified"] is not None
    assert info["last_modified"].utcoffset() is not None
    rows = s3dlio_np.list(target.uri("dir-"))
    assert [row["uri"] for row in rows] == sorted(
        target.uri(name) for name in ("dir-a", "dir-b ü", "dir-c%41")
    )
    assert all(s3dlio_np.stat(row["uri"]) == {**row, "checksum": None} for row in rows)
    for row in rows:
        s3dlio_np.delete(row["uri"])
    assert s3dlio_np.list(target.uri("")) == []


def test_list_has_all_pages(s3_own: Any) -> None:
    for i in range(1100):
        s3_own.put(f"many/{i:04}", b"")
    assert len(s3dlio_np.list(s3_own.uri("many/"))) == 1100
    assert s3_own.server.counters()["requests"]["ListObjectsV2"] == 2


@pytest.mark.parametrize("size", [10, 300_000, len(DATA)])
@pytest.mark.parametrize("threshold", [0, 2**40])
def test_get_whole(target: Any, size: int, threshold: int) -> None:
    target.write("data", DATA[:size])
    s3dlio_np.configure(get_threshold_bytes=threshold)
    try:
        data = s3dlio_np.get_bytes(target.uri("data"), part_size=65536, max_concurrency=5)
        view = s3dlio_np.get_bytes_view(target.uri("data"), part_size=65536)
        writable = s3dlio_np.get_bytes(target.uri("data"), writable=True)
    finally:
        s3dlio_np.configure(get_threshold_bytes=None)
    assert type(data) is bytes
    assert data == view == writable == DATA[:size]
    assert (view.readonly, writable.readonly) == (True, False)
    with pytest.raises(TypeError):
        view[0] = 1
    writable[0] ^= 255
    assert np.frombuffer(view, np.uint8)[0] == DATA[0]


def test_get_into(target: Any) -> None:
    target.write("data", DATA)
    array = np.zeros(len(DATA) + 10, np.uint8)
    assert s3dlio_np.get_into(target.uri("data"), array) == len(DATA)
    assert array[: len(DATA)].tobytes() == DATA
    assert not array[len(DATA) :].any()
    small = np.zeros((3, 5), ">i2", order="F")
    got = s3dlio_np.get_into(
        target.uri("data"), small, offset=PART, length=30, part_size=65536, max_concurrency=1
    )
    assert (got, small.tobytes(order="A")) == (30, DATA[PART : PART + 30])
    assert s3dlio_np.get_into(target.uri("data"), bytearray(9), offset=len(DATA) - 9) == 9
    assert s3dlio_np.get_into(target.uri("data"), bytearray(9), offset=len(DATA)) == 0
    assert s3dlio_np.get_into(target.uri("data"), bytearray(9), length=0) == 0


def test_get_into_refuses(target: Any) -> None:
    target.write("data", DATA[:100])
    uri = target.uri("data")
    for keywords in ({"length": 10}, {}, {"offset": 50}):
        with pytest.raises(ValueError, match="do not fit"):
            s3dlio_np.get_into(uri, bytearray(9), **keywords)
    with pytest.raises(TypeError, match="read-only"):
        s3dlio_np.get_into(uri, b"123")
    with pytest.raises(ValueError, match="contiguous"):
        s3dlio_np.get_into(uri, np.zeros(400, np.uint8)[::2])
    for keywords in ({"offset": 101}, {"offset": 95, "length": 9}):
        with pytest.raises(s3dlio_np.StorageError) as caught:
            s3dlio_np.get_into(uri, bytearray(9), **keywords)
        assert caught.value.code == "RANGE"


def test_output_streams(target: Any) -> None:
    stream = s3dlio_np.open_stream(target.uri("a"), part_size=PART, max_concurrency=2)
    assert isinstance(stream, s3dlio_np.PyObjectStream)
    assert stream.write_bytes(b"abc") == 3
    stream.flush()
    assert (stream.mode, stream.writable(), stream.readable()) == ("wb", True, False)
    assert stream.seekable() is False
    result = stream.close()
    assert (result["size"], result["bytes_written"], result["uri"]) == (3, 3, target.uri("a"))
    assert stream.close() is result
    with s3dlio_np.S3OutputStream(target.uri("b")) as other:
        other.write(b"12")
    assert other.close()["size"] == 2
    with pytest.warns(ResourceWarning, match="unclosed"):
        s3dlio_np.S3OutputStream(target.uri("c")).write(b"half")
    assert target.names() == ["a", "b"]


# --- settings -----------------------------------------------------------------------------------


def test_configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="no_such_setting"):
        s3dlio_np.configure(no_such_setting=1)
    with pytest.raises(ValueError, match="put_inflight"):
        s3dlio_np.configure(put_inflight=5000)
    with pytest.raises(TypeError, match="region"):
        s3dlio_np.configure(region=[1])  # type: ignore[arg-type]
    monkeypatch.setenv("S3DLIO_GET_INFLIGHT", "many")
    with pytest.raises(ValueError, match="S3DLIO_GET_INFLIGHT"):
        s3dlio_np.open(path)
    s3dlio_np.configure(get_inflight=3, sign_payload=False, ca_bundle=tmp_path)
    try:
        s3dlio_np.open(path).close()
    finally:
        s3dlio_np.configure(get_inflight=None, sign_payload=None, ca_bundle=None)
    with pytest.raises(ValueError, match="S3DLIO_GET_INFLIGHT"):
        s3dlio_np.open(path)


def test_stats_count(s3_own: Any) -> None:
    before = s3dlio_np.stats()
    with s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART) as stream:
        stream.write(DATA)
    with s3dlio_np.open(s3_own.uri("new")) as reader:
        reader.read()
    after = s3dlio_np.stats()
    assert after["objects_written"] == before["objects_written"] + 1
    assert after["objects_opened"] == before["objects_opened"] + 1
    assert after["bytes_sent"] - before["bytes_sent"] >= len(DATA)
    assert after["bytes_received"] - before["bytes_received"] >= len(DATA)
    assert after["memory_held_bytes"] == before["memory_held_bytes"]
    assert 0 < after["memory_peak_bytes"] <= after["memory_limit_bytes"]


def test_torch_is_not_imported() -> None:
    script = "import sys, s3dlio_np; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


def test_sub_interpreters_are_refused() -> None:
    script = (
        "import s3dlio_np\n"
        "try:\n import _interpreters as i\nexcept ImportError:\n import _xxsubinterpreters as i\n"
        "import sys\n"
        "made = i.create()\n"
        'code = "import sys; sys.path[:] = %r\\nimport s3dlio_np" % sys.path\n'
        "try:\n failure = i.run_string(made, code)\nexcept Exception as e:\n failure = e\n"
        "text = str(getattr(failure, 'msg', failure))\n"
        "sys.exit(0 if 'interpreter' in text else 'not refused: %r' % (failure,))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
