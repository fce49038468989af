"""s3dlio_np.open: the io contract of readers and writers, atomic writes, options, text."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
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
