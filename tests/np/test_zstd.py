"""compression="zstd": what is written, what reads it, and what damage does."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

import s3dlio_np
from s3dlio_np import WriterOptions
from tests import child
from tests.servers.own import OwnServer

MIB = 1024 * 1024
PART = 5 * MIB
FRAME = 32 * MIB
ZSTD = WriterOptions(compression="zstd")
RNG = np.random.default_rng(11)
# Compresses to about a half, and nowhere is like elsewhere.
DATA = (RNG.integers(0, 16, 70 * MIB, dtype=np.uint8) * 16).tobytes()
LINES = b"".join(b"line %d of many\n" % i for i in range(100_000)) + b"x" * 300_000 + b"\nend"


def stock(data: bytes, **how: Any) -> bytes:
    """As other tools compress."""
    return zstandard.ZstdCompressor(**{"write_checksum": True, **how}).compress(data)


def streamed(data: bytes) -> bytes:
    """The same, with no size in its header."""
    compressor = zstandard.ZstdCompressor(
        write_content_size=False, write_checksum=True
    ).compressobj()
    return compressor.compress(data) + compressor.flush()


def expand(stored: bytes) -> bytes:
    """All frames of a stream, by zstandard."""
    with zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True) as reader:
        return reader.read()


class Place:
    """A target whose compressed objects are read without asking on S3, with on files."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.how: dict[str, Any] = {"decompress": True} if target.kind == "file" else {}

    def uri(self, name: str = "z") -> str:
        return str(self.target.uri(name))

    def save(self, data: Any, name: str = "z", **how: Any) -> Any:
        options = WriterOptions(compression="zstd", **how)
        with s3dlio_np.open(self.uri(name), "wb", part_size=PART, options=options) as stream:
            stream.write(data)
        return stream.close()

    def store(self, stored: bytes, name: str = "z") -> None:
        """Bytes that another tool compressed."""
        options = WriterOptions(content_encoding="zstd")
        s3dlio_np.put(self.uri(name), stored, options=options)

    def save_as(self, kind: str, data: Any) -> None:
        """By one of KINDS."""
        compress = KINDS[kind]
        if compress is None:
            self.save(data)
        else:
            self.store(compress(data))

    def stored(self, name: str = "z") -> bytes:
        return bytes(self.target.read(name))

    def open(self, name: str = "z", mode: str = "rb", **how: Any) -> Any:
        return s3dlio_np.open(self.uri(name), mode, **self.how, **how)


@pytest.fixture
def place(target: Any) -> Place:
    return Place(target)


@pytest.fixture
def s3_place(s3_own: Any) -> Place:
    """On the server with faults."""
    s3_own.kind = "s3"
    s3_own.read = s3_own.get
    return Place(s3_own)


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, FRAME, FRAME + 1, len(DATA)])
def test_any_zstd_tool_reads_what_is_written(place: Place, size: int) -> None:
    told = place.save(DATA[:size])
    stored = place.stored()
    assert (told["size"], told["bytes_written"]) == (len(stored), size)
    assert expand(stored) == DATA[:size]
    assert size < 100_000 or len(stored) < 0.6 * size
    frames = max(1, -(-size // FRAME))
    assert stored[-9:] == struct.pack("<IBI", frames, 0, 0x8F92EAB1)
    first = zstandard.get_frame_parameters(stored)
    assert first.has_checksum
    assert s3dlio_np.get_bytes(place.uri(), decompress=False) == stored


def test_levels(place: Place) -> None:
    text = Path(__file__).read_bytes()
    sizes = []
    for level in (1, 19):
        place.save(text, compression_level=level)
        assert expand(place.stored()) == text
        sizes.append(len(place.stored()))
    assert sizes[1] < sizes[0]


def test_the_object_says_so(s3_own: Any) -> None:
    for size in (10, 2 * PART):  # one PUT, and a multipart upload
        with s3dlio_np.open(s3_own.uri("z"), "wb", options=ZSTD) as stream:
            stream.write(RNG.bytes(size))
        headers = s3_own.server.request("HEAD", "/bucket/z").headers
        assert headers["content-encoding"] == "zstd"


def test_all_ways_to_write_compress(place: Place) -> None:
    strided = np.frombuffer(DATA, np.uint8)[: 4 * MIB].reshape(2048, 2048)[:, ::2]
    options = WriterOptions(compression="zstd", part_size=PART)
    with s3dlio_np.open(place.uri(), "wb", options=options) as stream:
        for piece in (b"", b"abc", DATA[: PART + 1], bytearray(b"d"), strided):
            stream.write(piece)
        assert stream.tell() == 3 + PART + 1 + 1 + strided.size
        stream.flush()
    assert expand(place.stored()) == b"abc" + DATA[: PART + 1] + b"d" + strided.tobytes()
    told = s3dlio_np.put(place.uri("put"), DATA[:PART], options=options)
    assert told == {**told, "size": len(place.stored("put")), "bytes_written": PART}
    assert expand(place.stored("put")) == DATA[:PART]
    value = {"array": np.arange(1e6), "text": "x" * 100_000}
    s3dlio_np.save_pickle(place.uri("p"), value, options=options)
    assert expand(place.stored("p")) == pickle.dumps(value, 5)
    with s3dlio_np.open(place.uri("text"), "w", options=options) as text:
        text.write("grün\n" * 1000)
    assert expand(place.stored("text")).decode() == "grün\n" * 1000


def test_options_are_checked() -> None:
    for wrong in (
        {"compression": "gzip"},
        {"compression": True},
        {"compression_level": 3},
        {"compression": "zstd", "compression_level": 0},
        {"compression": "zstd", "compression_level": 20},
        {"compression": "zstd", "content_encoding": "gzip"},
    ):
        with pytest.raises(ValueError, match="compression"):
            WriterOptions(**wrong)  # type: ignore[arg-type]
    WriterOptions(compression="zstd", content_encoding="zstd")


def test_decompress_is_checked(place: Place) -> None:
    place.save(b"1")
    with pytest.raises(ValueError, match="for reading"):
        s3dlio_np.open(place.uri(), "wb", decompress=True)
    uses: list[Any] = [s3dlio_np.open, s3dlio_np.get_bytes, s3dlio_np.get_bytes_view]
    for use in uses:
        with pytest.raises(TypeError, match="decompress must be"):
            use(place.uri(), decompress="zstd")
    with pytest.raises(TypeError, match="decompress must be"):
        s3dlio_np.get_into(place.uri(), bytearray(9), decompress=1)  # type: ignore[arg-type]


def test_an_exception_writes_nothing(place: Place) -> None:
    for size in (10, 2 * PART):
        with pytest.raises(ZeroDivisionError):
            with s3dlio_np.open(place.uri(), "wb", part_size=PART, options=ZSTD) as stream:
                stream.write(RNG.bytes(size))
                raise ZeroDivisionError
        assert (place.target.names(), place.target.leftovers()) == ([], [])


def test_a_dropped_writer_writes_nothing(place: Place) -> None:
    with pytest.warns(ResourceWarning, match="unclosed"):
        s3dlio_np.open(place.uri(), "wb", options=ZSTD).write(RNG.bytes(PART))
    assert (place.target.names(), place.target.leftovers()) == ([], [])


def test_a_failed_part_poisons_the_stream(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    stream = s3dlio_np.open(
        s3_own.uri("z"), "wb", part_size=PART, max_concurrency=1, options=ZSTD
    )
    with pytest.raises(PermissionError):
        for _ in range(100):
            stream.write(RNG.bytes(PART))
    for _ in range(2):
        with pytest.raises(PermissionError):
            stream.close()
    assert fault.hits() >= 1
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_transient_failures_are_tried_again(s3_place: Place) -> None:
    server = s3_place.target.server
    faults = [
        server.add_fault(op="UploadPart", kind="status", status=503, code="SlowDown"),
        server.add_fault(op="UploadPart", kind="reset_before", skip=1),
        server.add_fault(op="CompleteMultipartUpload", kind="status", status=500),
    ]
    s3_place.save(DATA)
    assert [fault.hits() for fault in faults] == [1, 1, 1]
    fault = server.add_fault(op="GetObject", kind="truncate", bytes=1000, skip=1, count=2)
    assert s3dlio_np.get_bytes(s3_place.uri()) == DATA
    assert fault.hits() == 2


def test_a_forked_child_leaves_the_parents_writer_alone(place: Place) -> None:
    with s3dlio_np.open(place.uri(), "wb", part_size=PART, options=ZSTD) as stream:
        stream.write(DATA[: 2 * PART])
        child_id = os.fork()
        if child_id == 0:  # zstd's threads are not here
            try:
                stream.write(b"1")
            except s3dlio_np.StorageError:
                stream.abort()
                del stream
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child_id, 0)[1] == 0
    assert expand(place.stored()) == DATA[: 2 * PART]


# --- reading ------------------------------------------------------------------------------------

KINDS = {
    "ours": None,
    "stock": stock,
    "no size": streamed,
    "no checksum": lambda data: stock(data, write_checksum=False),
    "many frames": lambda data: b"".join(
        stock(data[at : at + 400_000]) for at in range(0, len(data), 400_000)
    ),
    "skippable frames": lambda data: (
        struct.pack("<II", 0x184D2A50, 5)
        + b"12345"
        + stock(data[:1000])
        + struct.pack("<II", 0x184D2A5F, 0)
        + streamed(data[1000:])
    ),
}
SMALL = DATA[: 3 * MIB + 17]


@pytest.fixture(params=KINDS)
def small(request: pytest.FixtureRequest, place: Place) -> Iterator[Any]:
    """SMALL as an open object, from each kind of compressor."""
    place.save_as(request.param, SMALL)
    with place.open(part_size=MIB) as stream:
        yield stream


def test_reading_agrees_with_bytesio(small: Any) -> None:
    model = io.BytesIO(SMALL)
    rng = np.random.default_rng(1)
    sizes = [0, 1, 3, 100, 4096, 4097, 70000, 300000, 2 * MIB]
    for _ in range(120):
        size = int(rng.choice(sizes))
        action = rng.integers(7)
        if action == 0:
            there = int(rng.integers(0, len(SMALL) + 1000))
            assert small.seek(there) == model.seek(there)
        elif action in (1, 2):
            assert small.read(size) == model.read(size)
        elif action == 3:
            mine, theirs = bytearray(size), bytearray(size)
            assert small.readinto(mine) == model.readinto(theirs)
            assert mine == theirs
        elif action == 4 and model.tell() >= 50:
            assert small.seek(-50, 1) == model.seek(-50, 1)
        elif action == 5:
            assert small.seek(-size, 2) == model.seek(-size, 2)
        else:
            peeked = small.peek(size)
            assert peeked == SMALL[model.tell() : model.tell() + len(peeked)]
            assert peeked or model.tell() >= len(SMALL)
        assert small.tell() == model.tell()


def test_reading_to_the_end_in_all_spellings(small: Any) -> None:
    assert small.compression == "zstd"
    assert small.read() == SMALL
    assert small.read() == small.read(5) == small.read1() == small.peek() == b""
    assert small.readinto(bytearray(3)) == 0
    small.seek(10)
    assert small.read(None) == SMALL[10:]
    small.seek(0)
    assert small.read(2**40) == SMALL
    small.seek(0)
    assert b"".join(iter(lambda: small.read1(100_000), b"")) == SMALL
    small.seek(0)
    buffer = bytearray(len(SMALL) + 100)
    assert small.readinto(buffer) == len(SMALL)
    assert buffer[: len(SMALL)] == SMALL
    assert small.size == len(SMALL)
    assert small.seek(0, 2) == len(SMALL)


def test_the_size_comes_first(small: Any) -> None:
    assert small.size == len(SMALL)
    assert small.read(100) == SMALL[:100]


@pytest.mark.parametrize("kind", ["ours", "no size"])
def test_lines(place: Place, kind: str) -> None:
    if kind == "ours":
        place.save(LINES)
    else:
        place.store(streamed(LINES))
    with place.open() as stream:
        assert list(stream) == list(io.BytesIO(LINES))
    with place.open() as stream:
        assert stream.readline(5) == LINES[:5]
        assert stream.readlines() == io.BytesIO(LINES[5:]).readlines()
    with place.open(mode="rt") as text:
        assert text.read() == LINES.decode()


GETS: dict[str, Any] = {
    "get_bytes": s3dlio_np.get_bytes,
    "writable": lambda uri, **how: s3dlio_np.get_bytes(uri, writable=True, **how),
    "get_bytes_view": s3dlio_np.get_bytes_view,
}


@pytest.mark.parametrize("use", GETS)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_objects(place: Place, kind: str, use: str) -> None:
    for size in (0, 10, len(SMALL)):
        data = SMALL[:size]
        if kind == "many frames" and not size:
            continue  # no frame at all is no zstd stream
        place.save_as(kind, data)
        for concurrent in (None, True, False):
            got = GETS[use](place.uri(), concurrent=concurrent, **place.how)
            assert got == data
            assert len(memoryview(got)) == size
        assert GETS[use](place.uri(), decompress=False) == place.stored()


def test_get_into(place: Place) -> None:
    place.save(DATA)
    array = np.zeros(len(DATA) + 10, np.uint8)
    assert s3dlio_np.get_into(place.uri(), array, **place.how) == len(DATA)
    assert array[: len(DATA)].tobytes() == DATA
    for offset, length in ((0, 10), (FRAME - 5, 10), (len(DATA) - 3, 3), (len(DATA), 0)):
        got = s3dlio_np.get_into(place.uri(), array, offset=offset, length=length, **place.how)
        assert (got, array[:got].tobytes()) == (length, DATA[offset : offset + length])
    got = s3dlio_np.get_into(place.uri(), array, offset=len(DATA) - 50, **place.how)
    assert (got, array[:50].tobytes()) == (50, DATA[-50:])
    for offset, length in ((len(DATA) + 1, 0), (len(DATA) - 3, 4)):
        with pytest.raises(s3dlio_np.StorageError, match="past the end"):
            s3dlio_np.get_into(place.uri(), array, offset=offset, length=length, **place.how)
    with pytest.raises(ValueError, match="do not fit"):
        s3dlio_np.get_into(place.uri(), bytearray(100), **place.how)
    raw = bytearray(100)
    s3dlio_np.get_into(place.uri(), raw, length=100, decompress=False)
    assert raw == place.stored()[:100]


def test_frames_are_entered_in_the_middle(s3_place: Place) -> None:
    """A jump reads the frame that it lands in, no other."""
    s3_place.save(DATA)
    third = len(s3_place.stored()) // 3
    s3_place.target.server.reset()
    with s3_place.open(max_concurrency=1) as stream:
        assert stream.size == len(DATA)
        stream.seek(2 * FRAME + 1000)
        assert stream.read(1000) == DATA[2 * FRAME + 1000 : 2 * FRAME + 2000]
        assert s3_place.target.server.counters()["bytes_out"] < third
        stream.seek(5)
        assert stream.read(10) == DATA[5:15]
        assert s3_place.target.server.counters()["bytes_out"] < 2 * third


def test_a_table_with_checksums_is_read(place: Place) -> None:
    """As zstd's own seekable compressor writes it."""
    pieces = [SMALL[at : at + MIB] for at in range(0, len(SMALL), MIB)]
    frames = [stock(piece) for piece in pieces]
    entries = b"".join(
        struct.pack("<III", len(frame), len(piece), 7)
        for frame, piece in zip(frames, pieces, strict=True)
    )
    footer = struct.pack("<IBI", len(frames), 0x80, 0x8F92EAB1)
    table = struct.pack("<II", 0x184D2A5E, len(entries) + 9) + entries + footer
    place.store(b"".join(frames) + table)
    with place.open() as stream:
        assert stream.size == len(SMALL)
        stream.seek(2 * MIB + 5)
        assert stream.read() == SMALL[2 * MIB + 5 :]


def test_other_encodings_are_left_alone(s3_own: Any) -> None:
    for encoding in ("gzip", "identity", "gzip, zstd", "zstandard"):
        options = WriterOptions(content_encoding=encoding)
        s3dlio_np.put(s3_own.uri("x"), b"as it is", options=options)
        assert s3dlio_np.get_bytes(s3_own.uri("x")) == b"as it is"
        with s3dlio_np.open(s3_own.uri("x")) as stream:
            assert (stream.read(), stream.compression) == (b"as it is", None)
    for encoding in ("zstd", "ZSTD", "aws-chunked,zstd", "aws-chunked, zstd"):
        options = WriterOptions(content_encoding=encoding)
        s3dlio_np.put(s3_own.uri("x"), stock(b"data"), options=options)
        assert s3dlio_np.get_bytes(s3_own.uri("x")) == b"data"


def test_files_are_decompressed_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "data.zst"
    s3dlio_np.put(path, SMALL, options=ZSTD)
    assert s3dlio_np.get_bytes(path) == path.read_bytes() != SMALL
    assert s3dlio_np.get_bytes(path, decompress=True) == SMALL
    path.write_bytes(b"no zstd at all")
    for use in (s3dlio_np.get_bytes, s3dlio_np.open):
        with pytest.raises(s3dlio_np.IntegrityError, match="does not begin with a zstd frame"):
            use(path, decompress=True)


def test_npz_tar_and_pickle_on_top(place: Place) -> None:
    arrays = {"a": np.arange(1e6), "b": RNG.standard_normal((300, 700))}
    with s3dlio_np.open(place.uri("npz"), "wb", options=ZSTD) as stream:
        np.savez(stream, **arrays)
    with np.load(place.open("npz")) as loaded:
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array)
    with place.open("npz") as stream:
        assert zipfile.ZipFile(stream).testzip() is None
    with s3dlio_np.open(place.uri("npy"), "wb", options=ZSTD) as stream:
        for array in arrays.values():
            np.save(stream, array)
    with place.open("npy") as stream:  # each ends exactly where the next begins
        for array in arrays.values():
            np.testing.assert_array_equal(np.load(stream), array)
        assert stream.read() == b""
    s3dlio_np.save_pickle(place.uri("p"), arrays, options=ZSTD)
    assert s3dlio_np.load_pickle(place.uri("p"), **place.how).keys() == arrays.keys()
    with s3dlio_np.open(place.uri("tar"), "wb", options=ZSTD) as stream:
        with tarfile.open(fileobj=stream, mode="w") as tar:
            info = tarfile.TarInfo("member")
            info.size = len(LINES)
            tar.addfile(info, io.BytesIO(LINES))
    with place.open("tar") as stream, tarfile.open(fileobj=stream) as tar:
        member = tar.extractfile("member")
        assert member is not None
        assert member.read() == LINES


# --- damage -------------------------------------------------------------------------------------


def refuse_everywhere(place: Place, match: str) -> None:
    for use in GETS.values():
        with pytest.raises(s3dlio_np.IntegrityError, match=match):
            use(place.uri(), **place.how)
    with pytest.raises(s3dlio_np.IntegrityError, match=match):
        with place.open() as stream:
            while stream.read(100_000):
                pass


@pytest.mark.parametrize("kind", ["ours", "stock", "no size"])
def test_a_flipped_bit(place: Place, kind: str) -> None:
    place.save_as(kind, SMALL)
    whole = place.stored()
    end = len(whole) - (25 if kind == "ours" else 0)  # of the frame, whose checksum is its end
    for at in (5000, len(whole) // 2, end - 5, end - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        place.store(bytes(damaged))
        refuse_everywhere(place, "zstd")


def test_a_wrong_checksum_is_told_before_the_last_byte(place: Place) -> None:
    """A reader that takes exactly the content never comes to the checksum by itself."""
    place.save(SMALL)
    damaged = bytearray(place.stored())
    damaged[-25 - 1] ^= 255  # the table has 8 + 8 + 9 bytes
    place.store(bytes(damaged))
    for piece in (len(SMALL), 4096):
        with place.open() as stream:
            got = 0
            with pytest.raises(s3dlio_np.IntegrityError, match="checksum"):
                while got < len(SMALL):
                    got += len(stream.read(min(piece, len(SMALL) - got)))
            assert got < len(SMALL)


@pytest.mark.parametrize("kind", ["ours", "stock", "no size", "many frames"])
def test_a_cut_object(place: Place, kind: str) -> None:
    place.save_as(kind, SMALL)
    whole = place.stored()
    for keep in (len(whole) - 30, len(whole) // 2, 100, 5):
        place.store(whole[:keep])
        refuse_everywhere(place, "zstd")
    place.store(whole[:3])
    refuse_everywhere(place, "does not begin with a zstd frame")
    place.store(b"")  # a store that is asked for nothing says nothing of how it is encoded
    with pytest.raises(s3dlio_np.IntegrityError, match="does not begin with a zstd frame"):
        s3dlio_np.get_bytes(place.uri(), decompress=True)


def test_garbage_behind_the_last_frame(place: Place) -> None:
    place.store(stock(SMALL) + b"garbage")
    refuse_everywhere(place, "zstd")


def with_table(frames: list[bytes], entries: list[tuple[int, int]]) -> bytes:
    packed = b"".join(struct.pack("<II", *entry) for entry in entries)
    footer = struct.pack("<IBI", len(entries), 0, 0x8F92EAB1)
    return b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(packed) + 9) + packed + footer


def test_a_table_that_lies(place: Place) -> None:
    halves = [SMALL[: 2 * MIB], SMALL[2 * MIB :]]
    frames = [stock(half) for half in halves]
    sizes = [len(frame) for frame in frames]
    contents = [len(half) for half in halves]
    place.store(with_table(frames, list(zip(sizes, contents, strict=True))))
    assert s3dlio_np.get_bytes(place.uri(), **place.how) == SMALL
    lies: list[list[tuple[int, int]]] = [
        [(sizes[0], contents[0]), (sizes[1], contents[1] + 1)],
        [(sizes[0], contents[0]), (sizes[1], contents[1] - 1)],
        [(sizes[0], contents[0] + 1), (sizes[1], contents[1] - 1)],
        [(sizes[0] - 1, contents[0]), (sizes[1] + 1, contents[1])],
        [(sizes[0], contents[0])],
        [(sizes[0], contents[0]), (sizes[1], 2**32 - 1)],  # more than the bytes can hold
        [(sum(sizes), sum(contents))],
    ]
    for entries in lies:
        place.store(with_table(frames, entries))
        refuse_everywhere(place, "table|zstd frames hold")
    place.store(b"".join(frames) + b"\0\0\0\0\0" + struct.pack("<I", 0x8F92EAB1))
    refuse_everywhere(place, "table|zstd")


def test_a_replaced_object(s3_place: Place) -> None:
    s3_place.save(DATA)
    with s3_place.open(part_size=MIB) as stream:
        stream.read(100)
        s3_place.save(DATA[::-1])
        with pytest.raises(s3dlio_np.ObjectChangedError):
            stream.read()


# --- memory -------------------------------------------------------------------------------------

MEASURE = """
import json, sys
import numpy as np
import s3dlio_np

uri, size, piece = sys.argv[1], int(sys.argv[2]), 1 << 20
half = (np.random.default_rng(0).integers(0, 16, piece, dtype=np.uint8) * 16).tobytes()
memory = bytearray(piece)
s3dlio_np.stats()

def in_memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024

def write():
    options = s3dlio_np.WriterOptions(compression="zstd")
    with s3dlio_np.open(uri, "wb", part_size=5 << 20, max_concurrency=4, options=options) as stream:
        for _ in range(0, size, piece):
            stream.write(half)

def read():
    total = 0
    with s3dlio_np.open(uri, max_concurrency=4, part_size=1 << 20) as stream:
        while got := stream.readinto(memory):
            assert got == piece and memory == half
            total += got
    assert total == size

def bomb():
    import zstandard
    options = s3dlio_np.WriterOptions(content_encoding="zstd")
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    zeros = bytes(piece)
    with s3dlio_np.open(uri, "wb", options=options) as stream:
        for _ in range(0, size, piece):
            stream.write(compressor.compress(zeros))
        stream.write(compressor.flush())
    read_zeros = 0
    with s3dlio_np.open(uri) as stream:
        assert stream.seek(0, 2) == size
        stream.seek(0)
        while got := stream.readinto(memory):
            read_zeros += got
    assert read_zeros == size

for work in sys.argv[3:]:
    open("/proc/self/clear_refs", "w").write("5")
    before = in_memory("VmRSS")
    globals()[work]()
    print(json.dumps({"work": work, "extra": in_memory("VmHWM") - before}))
"""


@pytest.mark.parametrize("work", [["write", "read"], ["bomb"]], ids=["half", "bomb"])
def test_memory_does_not_grow_with_the_object(own_server: OwnServer, work: list[str]) -> None:
    """1 GiB. The most are zstd's own buffers, 8 threads' at most, and two budgets of 40 MiB."""
    own_server.reset(objects=True)
    printed = child.run(
        MEASURE, "s3://bucket/z", str(1 << 30), *work, env=own_server.env(), timeout_s=300
    )
    for line in printed.splitlines():
        row = json.loads(line)
        assert 0 < row["extra"] < 160 * MIB, row
