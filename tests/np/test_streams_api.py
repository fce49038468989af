"""The streaming API in full: what write() takes, how objects are fetched, the traps of io."""

from __future__ import annotations

import array
import csv
import io
import mmap
import pickle
import uuid
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import s3dlio_np

MIB = 1024 * 1024
PART = 5 * MIB  # the smallest that S3 takes
CUBE = np.arange(7 * 11 * 13, dtype="<i4").reshape(7, 11, 13)
LARGE = np.random.default_rng(3).integers(0, 256, (3000, 4001), dtype=np.uint8)


# --- what write() takes -------------------------------------------------------------------------


class Pixels:
    """No buffer, but tobytes()."""

    def tobytes(self) -> bytes:
        return b"pixels"


class Label:
    """Neither, but encode()."""

    def encode(self) -> bytes:
        return b"label"


def mapped() -> mmap.mmap:
    memory = mmap.mmap(-1, 4096)
    memory[:5] = b"mmap!"
    return memory


AS_BYTES: dict[str, tuple[Any, bytes]] = {
    "bytes": (b"abc", b"abc"),
    "bytearray": (bytearray(b"abc"), b"abc"),
    "memoryview": (memoryview(b"abc")[1:], b"bc"),
    "PickleBuffer": (pickle.PickleBuffer(b"abc"), b"abc"),
    "array.array": (array.array("d", [1.5, 2.5]), np.array([1.5, 2.5]).tobytes()),
    "mmap": (mapped(), b"mmap!" + bytes(4091)),
    "0-d": (np.array(7, ">i8"), np.array(7, ">i8").tobytes()),
    "no bytes": (np.zeros((0, 3)), b""),
    "C order": (CUBE, CUBE.tobytes()),
    "F order, as it lies": (np.asfortranarray(CUBE), CUBE.T.tobytes()),
    "every second": (CUBE[:, ::2], CUBE[:, ::2].tobytes()),
    "reversed": (CUBE[::-1], CUBE[::-1].tobytes()),
    "reversed inside": (CUBE[..., ::-1], CUBE[..., ::-1].tobytes()),
    "permuted": (CUBE.transpose(1, 0, 2), CUBE.transpose(1, 0, 2).tobytes()),
    "transposed part": (CUBE.T[1:, ::3], CUBE.T[1:, ::3].tobytes()),
    "broadcast": (np.broadcast_to(CUBE[0, 0], (3, 5, 13)), CUBE[0, 0].tobytes() * 15),
    "strided memoryview": (memoryview(b"abcdef")[::-2], b"fdb"),
    "large strided": (LARGE[:, :-1], LARGE[:, :-1].tobytes()),
    "datetime64": (CUBE.astype("M8[s]"), CUBE.astype("M8[s]").tobytes()),
    "strided datetime64": (CUBE.astype("M8[s]")[::2], CUBE.astype("M8[s]")[::2].tobytes()),
    "bfloat16": (
        CUBE.astype(ml_dtypes.bfloat16),
        CUBE.astype(ml_dtypes.bfloat16).tobytes(),
    ),
    "datetime64 scalar": (np.datetime64(5, "s"), np.array(5, "i8").tobytes()),
    "tobytes": (Pixels(), b"pixels"),
}


@pytest.mark.parametrize("name", AS_BYTES)
def test_what_write_takes(target: Any, name: str) -> None:
    value, expected = AS_BYTES[name]
    with s3dlio_np.open(target.uri("x"), "wb", part_size=PART, max_concurrency=2) as stream:
        assert stream.write(b"<") == 1
        assert stream.write(value) == len(expected)
        assert stream.tell() == 1 + len(expected)
        stream.write(b">")
    assert target.read("x") == b"<" + expected + b">"


def test_put_and_output_streams_take_the_same(target: Any) -> None:
    for value, expected in AS_BYTES.values():
        assert s3dlio_np.put(target.uri("put"), value)["size"] == len(expected)
        assert target.read("put") == expected
        with s3dlio_np.open_stream(target.uri("stream")) as stream:
            assert stream.write_bytes(value) == len(expected)
        assert target.read("stream") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("grün", "grün".encode()), (np.str_("grün"), "grün".encode()), (Label(), b"label")],
    ids=["str", "numpy.str_", "encode"],
)
def test_text_is_for_output_streams_only(target: Any, value: Any, expected: bytes) -> None:
    """np.savetxt writes str first and bytes after the TypeError: nothing may have been taken."""
    for opened in (
        s3dlio_np.open_stream(target.uri("x")),
        s3dlio_np.S3OutputStream(target.uri("x")),
        s3dlio_np.PyObjectStream(target.uri("x")),
    ):
        with opened as stream:
            assert stream.write(value) == len(expected)
            assert stream.write_bytes(value) == len(expected)
        assert target.read("x") == expected * 2
    with s3dlio_np.open(target.uri("plain"), "wb") as plain:
        with pytest.raises(TypeError, match="bytes-like"):
            plain.write(value)
        assert plain.tell() == 0
    assert target.read("plain") == b""


class Liar:
    def tobytes(self) -> str:
        return "text"


class Broken:
    def tobytes(self) -> bytes:
        raise ZeroDivisionError


@pytest.mark.parametrize("value", [3, None, [1], object(), Liar(), np.array([None])])
def test_nothing_else(target: Any, value: Any) -> None:
    with s3dlio_np.open_stream(target.uri("x")) as stream:
        with pytest.raises(TypeError):
            stream.write(value)
        with pytest.raises(ZeroDivisionError):
            stream.write(Broken())
        stream.write(b"good")
    assert target.read("x") == b"good"


def test_strided_memory_is_never_held_whole(target: Any) -> None:
    """A failure in the middle of it poisons the stream as any other."""
    strided = np.zeros((64, 2 * MIB), np.uint8)[:, ::2]
    with s3dlio_np.open(target.uri("x"), "wb", part_size=PART, max_concurrency=1) as stream:
        assert stream.write(strided) == 64 * MIB
    assert target.read("x") == bytes(64 * MIB)


# --- close() ------------------------------------------------------------------------------------


def open_streams(uri: str) -> list[Any]:
    return [
        s3dlio_np.open(uri, "wb"),
        s3dlio_np.open_stream(uri),
        s3dlio_np.S3OutputStream(uri),
        s3dlio_np.PyObjectStream(uri),
    ]


def test_close_after_with_tells_what_was_written(target: Any) -> None:
    for opened in open_streams(target.uri("x")):
        with opened as stream:
            stream.write(b"12345")
        told = stream.close()
        assert told == {
            "size": 5,
            "bytes_written": 5,
            "etag": s3dlio_np.stat(target.uri("x"))["etag"],
            "uri": target.uri("x"),
        }
        assert stream.close() is told
        assert stream.closed
        with pytest.raises(ValueError, match="closed"):
            stream.write(b"1")


def test_close_after_an_abort_is_no_success(target: Any) -> None:
    for opened in open_streams(target.uri("x")):
        with pytest.raises(ZeroDivisionError):
            with opened as stream:
                stream.write(b"12345")
                raise ZeroDivisionError
        for _ in range(2):
            with pytest.raises(s3dlio_np.StorageError, match="nothing was written"):
                stream.close()
    assert target.names() == []


# --- whole objects: how many requests -----------------------------------------------------------


@pytest.fixture
def threshold() -> Any:
    s3dlio_np.configure(get_threshold_bytes=4 * MIB)
    yield 4 * MIB
    s3dlio_np.configure(get_threshold_bytes=None)


GETS: dict[str, Any] = {
    "get_bytes": s3dlio_np.get_bytes,
    "get_bytes writable": lambda uri, **how: s3dlio_np.get_bytes(uri, writable=True, **how),
    "get_bytes_view": s3dlio_np.get_bytes_view,
}


def ranges(size: int, head: int, part: int) -> int:
    return 1 + max(0, -(-(size - head) // part))


# size, concurrent -> GETs, HEADs; the threshold is 4 MiB, a part 2 MiB
COUNTS: list[tuple[int, bool | None, int, int]] = [
    (0, None, 1, 0),
    (10, None, 1, 0),
    (300_000, None, 1, 0),
    (4 * MIB - 1, None, 1, 0),
    (4 * MIB, None, 2, 0),
    (12 * MIB + 5, None, ranges(12 * MIB + 5, 4 * MIB - 1, 2 * MIB), 0),
    (0, True, 1, 0),
    (10, True, 1, 0),
    (MIB, True, 1, 0),
    (3 * MIB, True, 3, 0),
    (12 * MIB + 5, True, ranges(12 * MIB + 5, MIB, 2 * MIB), 0),
    (0, False, 0, 1),
    (10, False, 1, 1),
    (12 * MIB + 5, False, 1, 1),
]


@pytest.mark.parametrize("use", GETS)
@pytest.mark.parametrize(("size", "concurrent", "gets", "heads"), COUNTS)
def test_requests_for_a_whole_object(
    s3_own: Any, threshold: int, use: str, size: int, concurrent: Any, gets: int, heads: int
) -> None:
    data = LARGE.tobytes() + bytes(4 * MIB)
    s3_own.put("x", data[:size])
    s3_own.server.reset()
    got = GETS[use](
        s3_own.uri("x"), concurrent=concurrent, part_size=2 * MIB, max_concurrency=2
    )
    counters = s3_own.server.counters()
    assert len(got) == size
    assert got == data[:size]
    requests = {name: n for name, n in counters["requests"].items() if n}
    expected = {"GetObject": gets, "HeadObject": heads}
    assert requests == {name: n for name, n in expected.items() if n}
    assert counters["bytes_out"] < size + 4096 * (gets + heads)  # no byte comes twice
    assert counters["max_requests"] <= 3


@pytest.mark.parametrize("use", GETS)
@pytest.mark.parametrize("concurrent", [None, True, False])
def test_the_same_bytes_each_way(
    target: Any, threshold: int, use: str, concurrent: Any
) -> None:
    data = LARGE.tobytes()
    for size in (0, 1, 65536, 65537, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, len(data)):
        target.write("x", data[:size])
        got = GETS[use](target.uri("x"), concurrent=concurrent)
        assert got == data[:size]
        assert len(memoryview(got)) == size
        if "writable" in use and size:
            got[0] ^= 255
        elif "view" in use:
            assert got.readonly


def test_bytes_of_earlier_calls_stay_as_they_are(target: Any) -> None:
    """Memory that one call did not need may serve the next: never memory that a caller holds."""
    sizes = (0, 100, 65536, 300 * 1024, MIB, 4 * MIB)
    for number, size in enumerate(sizes):
        target.write(f"x{number}", bytes([number + 1]) * size)
    held = []
    for part_size in (None, None, 64 * 1024, 2 * MIB):
        for number in (*range(len(sizes)), *reversed(range(len(sizes)))):
            held.append((number, s3dlio_np.get_bytes(target.uri(f"x{number}"), part_size=part_size)))
    with pytest.raises(FileNotFoundError):
        s3dlio_np.get_bytes(target.uri("none"))
    for number, got in held:
        assert got == bytes([number + 1]) * sizes[number]


@pytest.mark.parametrize("use", GETS)
def test_a_number_is_no_answer_to_concurrent(target: Any, use: str) -> None:
    target.write("x", b"1")
    for wrong in (5, 1, 0, "yes"):
        with pytest.raises(TypeError, match="max_concurrency"):
            GETS[use](target.uri("x"), concurrent=wrong)


@pytest.fixture
def key() -> str:
    """A key of this test's own: a request that an earlier one cancelled may come late."""
    return uuid.uuid4().hex


@pytest.mark.parametrize("use", GETS)
@pytest.mark.parametrize("op", ["GetObject", "HeadObject"])
def test_a_failing_request_for_a_whole_object(
    s3_own: Any, key: str, threshold: int, use: str, op: str
) -> None:
    s3_own.put(key, LARGE.tobytes())
    concurrent = None if op == "GetObject" else False
    once = s3_own.server.add_fault(key=key, op=op, kind="status", status=500)
    assert GETS[use](s3_own.uri(key), concurrent=concurrent) == LARGE.tobytes()
    assert once.hits() == 1
    always = s3_own.server.add_fault(
        key=key, op=op, kind="status", status=403, code="AccessDenied"
    )
    with pytest.raises(PermissionError):
        GETS[use](s3_own.uri(key), concurrent=concurrent)
    assert always.hits() == 1


@pytest.mark.parametrize("use", GETS)
@pytest.mark.parametrize("kind", ["reset_after", "truncate"])
@pytest.mark.parametrize("size", [300_000, 3 * 4 * MIB - 5])
def test_a_first_request_cut_in_its_body(
    s3_own: Any, key: str, threshold: int, use: str, kind: str, size: int
) -> None:
    """Its second attempt finds the memory in place, and the rest on its way."""
    data = LARGE.tobytes()[:size]
    s3_own.put(key, data)
    fault = s3_own.server.add_fault(
        key=key, op="GetObject", kind=kind, bytes=100_000, range_from=0
    )
    assert GETS[use](s3_own.uri(key)) == data
    assert fault.hits() == 1


@pytest.mark.parametrize("use", GETS)
@pytest.mark.parametrize("skip", [0, 1])
def test_another_version_after_the_first_headers(
    s3_own: Any, key: str, threshold: int, use: str, skip: int
) -> None:
    """Between head and rest, and between two attempts at the head."""
    s3_own.put(key, LARGE.tobytes())
    cut = s3_own.server.add_fault(
        key=key, op="GetObject", kind="reset_after", bytes=100_000, range_from=0
    )
    fault = s3_own.server.add_fault(
        key=key, op="GetObject", kind="etag_change", skip=skip, count=-1
    )
    with pytest.raises(s3dlio_np.ObjectChangedError):
        GETS[use](s3_own.uri(key))
    assert (cut.hits(), fault.hits() >= 1) == (1, True)


@pytest.mark.parametrize("use", GETS)
def test_a_range_that_the_server_ignores(
    s3_own: Any, key: str, threshold: int, use: str
) -> None:
    data = LARGE.tobytes()
    for size in (10, 3 * MIB):
        s3_own.put(key, data[:size])
        fault = s3_own.server.add_fault(key=key, op="GetObject", kind="ignore_range")
        assert GETS[use](s3_own.uri(key)) == data[:size]
        assert fault.hits() == 1


# --- the traps of io ----------------------------------------------------------------------------

TEXT = b"".join(b"line %d\n" % i for i in range(30_000)) + b"no newline at the end"


@pytest.fixture
def text(target: Any) -> Any:
    target.write("t", TEXT)
    with s3dlio_np.open(target.uri("t"), part_size=65536) as stream:
        yield stream


@pytest.mark.parametrize(
    "name", ["read", "read1", "readinto", "readline", "peek", "seek", "tell"]
)
def test_what_is_called_often_is_in_c(name: str) -> None:
    assert type(getattr(s3dlio_np.ObjectReader, name)).__name__ == "method_descriptor"
    for kind in (s3dlio_np.ObjectReader, s3dlio_np.ObjectWriter):
        assert type(kind.__dict__["closed"]).__name__ == "getset_descriptor"
        assert type(kind) is type  # abc.ABCMeta would make each isinstance() slow
    for kind in (s3dlio_np.PyObjectStream, s3dlio_np.S3OutputStream):
        assert type(kind.write).__name__ == "method_descriptor"  # type: ignore[attr-defined]


def test_reads_are_of_full_length(text: Any) -> None:
    """pickle and h5py take a short read for a cut file."""
    for size in (1, 65535, 65537, 200_000):
        text.seek(3)
        assert text.read(size) == TEXT[3 : 3 + size]
        buffer = bytearray(size)
        text.seek(3)
        assert text.readinto(buffer) == size
    text.seek(-5, 2)
    assert text.read(6) == TEXT[-5:]
    assert text.read(1) == b""


def test_read_buffer_is_read_into_aligned_memory(text: Any) -> None:
    """pyarrow's hook for reads without a copy."""
    view = text.read_buffer(100_000)
    assert view.readonly
    assert view == TEXT[:100_000]
    assert np.frombuffer(view, np.uint8).ctypes.data % 4096 == 0
    assert text.tell() == 100_000
    small = text.read_buffer(10)
    assert (small.readonly, bytes(small)) == (True, TEXT[100_000:100_010])
    assert text.read_buffer() == TEXT[100_010:]
    assert text.read_buffer(5) == text.read_buffer() == b""
    text.seek(0)
    assert text.read_buffer(None) == TEXT
    assert view == TEXT[:100_000]  # never used again
    with pytest.raises(TypeError):
        text.read_buffer("5")
    text.close()
    with pytest.raises(ValueError, match="closed"):
        text.read_buffer(1)


def test_standard_wrappers_on_a_reader(text: Any, target: Any) -> None:
    with io.TextIOWrapper(text, "ascii", newline="\n") as wrapped:
        assert wrapped.readline() == "line 0\n"
        assert sum(1 for _ in wrapped) == 30_000
        assert wrapped.seek(0) == 0
        assert wrapped.read() == TEXT.decode()
    assert text.closed
    with s3dlio_np.open(target.uri("t")) as stream:
        buffered = io.BufferedReader(stream, 5000)
        assert buffered.peek(10)[:5] == TEXT[:5]
        assert buffered.readline() == b"line 0\n"
        assert buffered.read(100_000) == TEXT[7:100_007]
        buffered.seek(-3, io.SEEK_END)
        assert buffered.read() == TEXT[-3:]
        buffered.detach()
        assert not stream.closed


def test_standard_wrappers_on_a_writer(target: Any) -> None:
    with s3dlio_np.open(target.uri("x"), "wb") as stream:
        buffered = io.BufferedWriter(stream, 10)  # type: ignore[type-var]
        assert buffered.write(b"0123456789" * 3) == 30
        buffered.flush()
        buffered.detach()
        wrapped = io.TextIOWrapper(stream, "utf-8", newline="\r\n")
        wrapped.write("grün\n")
        wrapped.flush()
        wrapped.detach()
        assert stream.tell() == 30 + 7
    assert target.read("x") == b"0123456789" * 3 + "grün\r\n".encode()


def test_csv_over_text(target: Any) -> None:
    rows = [["a", "b,c", 'd"e'], ["1", "zwei\nzeilen", "ü"]]
    with s3dlio_np.open(target.uri("c"), "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    with s3dlio_np.open(target.uri("c"), "r", newline="") as stream:
        assert list(csv.reader(stream)) == rows


def test_text_positions_and_modes(target: Any) -> None:
    target.write("t", "grün\nblau\n".encode())
    with s3dlio_np.open(target.uri("t"), "r") as stream:
        assert stream.readline() == "grün\n"
        place = stream.tell()
        assert stream.read() == "blau\n"
        stream.seek(place)
        assert stream.read() == "blau\n"
        assert (stream.readable(), stream.writable(), stream.seekable()) == (True, False, True)
        assert stream.name == target.uri("t")
        with pytest.raises(io.UnsupportedOperation):
            stream.write("x")
    with s3dlio_np.open(target.uri("u"), "w") as stream:
        with pytest.raises(io.UnsupportedOperation):
            stream.read()
        with pytest.raises((io.UnsupportedOperation, OSError)):
            stream.seek(0)
        with pytest.raises(TypeError):
            stream.write(b"bytes")  # type: ignore[arg-type]
        stream.write("x")
    assert target.read("u") == b"x"


def test_undecodable_text(target: Any) -> None:
    target.write("t", b"\xff\xfe")
    with s3dlio_np.open(target.uri("t"), "r") as stream:
        with pytest.raises(UnicodeDecodeError):
            stream.read()
    with s3dlio_np.open(target.uri("t"), "r", errors="replace") as stream:
        assert stream.read() == "\ufffd\ufffd"


def test_no_file_descriptor_even_of_a_file(target: Any) -> None:
    """np.fromfile, PIL and torch would read past our position."""
    target.write("t", TEXT)
    for mode in ("rb", "r", "wb", "w"):
        with s3dlio_np.open(target.uri("t"), mode) as stream:
            with pytest.raises(io.UnsupportedOperation):
                stream.fileno()
    target.write("t", TEXT)
    with s3dlio_np.open(target.uri("x"), "wb") as stream:
        with pytest.raises(OSError):
            np.arange(3.0).tofile(stream)
    with s3dlio_np.open(target.uri("a"), "wb") as stream:
        np.save(stream, np.arange(9.0))
    with s3dlio_np.open(target.uri("a")) as stream:
        with pytest.raises((TypeError, OSError)):
            np.load(stream, mmap_mode="r")
        with pytest.raises((TypeError, OSError)):
            np.memmap(stream)


def test_a_writer_that_cannot_seek_says_so_by_oserror(target: Any) -> None:
    """zipfile takes the stream for unseekable then; a ValueError would end it."""
    with s3dlio_np.open(target.uri("z"), "wb") as stream:
        for how in ((0,), (0, 1), (0, 2), (5,)):
            with pytest.raises(OSError) as caught:
                stream.seek(*how)
            assert isinstance(caught.value, io.UnsupportedOperation)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", b"1" * 100_000)
            with archive.open("b", "w") as member:
                member.write(TEXT)
    with zipfile.ZipFile(s3dlio_np.open(target.uri("z"))) as archive:
        assert archive.testzip() is None
        assert archive.read("b") == TEXT


def test_tiny_archives(target: Any) -> None:
    """np.load looks 42 bytes before the end of a zip of 22: that must be an OSError."""
    with s3dlio_np.open(target.uri("e"), "wb") as stream:
        np.savez(stream)
    assert np.load(s3dlio_np.open(target.uri("e"))).files == []


def test_closed_streams_raise_valueerror(target: Any) -> None:
    target.write("t", TEXT)
    stream = s3dlio_np.open(target.uri("t"))
    stream.close()
    stream.close()
    uses: list[Any] = [
        stream.read,
        stream.read1,
        stream.peek,
        stream.readline,
        stream.tell,
        stream.readable,
        stream.seekable,
        lambda: stream.seek(0),
        lambda: stream.readinto(bytearray(1)),
        lambda: next(stream),
        lambda: stream.__enter__(),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="closed"):
            use()
    assert (stream.closed, stream.name, stream.mode) == (True, target.uri("t"), "rb")
