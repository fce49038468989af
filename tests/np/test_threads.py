"""Many threads, many streams, one engine: contents, and the budget that they share."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests import child
from tests.marks import near

PART = 5 * 1024 * 1024
SMALL = 256 * 1024
THREADS = 16


def content(i: int, size: int) -> bytes:
    return np.random.default_rng(i).integers(0, 256, size, np.uint8).tobytes()


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """The results of work(0) … work(count - 1), each in a thread of its own, all at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_different_objects_at_once(target: Any) -> None:
    sizes = [0, 1, 100_000, PART, 2 * PART + 5, 3 * PART - 1]
    uris = [target.uri(f"o{i}") for i in range(THREADS)]

    def work(i: int) -> bool:
        data = content(i, sizes[i % len(sizes)])
        for _ in range(2):
            with s3dlio_np.open(uris[i], "wb", part_size=PART, max_concurrency=3) as stream:
                for start in range(0, len(data), 700_001):
                    stream.write(data[start : start + 700_001])
            with s3dlio_np.open(uris[i], part_size=1 << 20, max_concurrency=3) as reader:
                if reader.read() != data:
                    return False
            if s3dlio_np.get_bytes(uris[i], part_size=1 << 20) != data:
                return False
        return True

    assert all(in_threads(work))
    for i in range(THREADS):
        assert target.read(f"o{i}") == content(i, sizes[i % len(sizes)])
    assert target.leftovers() == []


def test_one_object_in_many_readers(target: Any) -> None:
    data = content(0, 3 * PART + 11)
    target.write("x", data)
    uri = target.uri("x")

    def work(i: int) -> bool:
        rng = np.random.default_rng(i)
        with s3dlio_np.open(uri, part_size=256 * 1024, max_concurrency=2) as stream:
            for _ in range(20):
                place, size = int(rng.integers(len(data))), int(rng.integers(2_000_000))
                stream.seek(place)
                if stream.read(size) != data[place : place + size]:
                    return False
        return True

    assert all(in_threads(work, 8))


@near
@pytest.mark.parametrize("size", [1000, 65_537, 3_000_000])
def test_one_reader_in_many_threads(target: Any, size: int) -> None:
    """Each read is whole: together they are the object, each block once."""
    data = content(0, 3 * PART + 11)
    target.write("x", data[: size * 200])
    expected = sorted(
        data[: size * 200][start : start + size]
        for start in range(0, len(data[: size * 200]), size)
    )
    with s3dlio_np.open(target.uri("x"), part_size=1 << 20, max_concurrency=4) as stream:
        blocks = in_threads(lambda _: list(iter(lambda: stream.read(size), b"")), 6)
    assert sorted(block for some in blocks for block in some) == expected


@near
def test_one_writer_in_many_threads(target: Any) -> None:
    with s3dlio_np.open(target.uri("x"), "wb", part_size=PART, max_concurrency=2) as stream:
        in_threads(lambda i: [stream.write(bytes([i]) * 50_000) for _ in range(20)])
    data = target.read("x")
    assert len(data) == THREADS * 20 * 50_000
    blocks = [data[i : i + 50_000] for i in range(0, len(data), 50_000)]
    assert sorted(blocks) == sorted(
        bytes([i]) * 50_000 for i in range(THREADS) for _ in range(20)
    )


@near
def test_closing_while_others_use_it(target: Any) -> None:
    """An end is an exception in the others, never a crash or a wrong byte."""
    data = content(0, 2 * PART)
    target.write("x", data)
    for _ in range(10):
        stream = s3dlio_np.open(target.uri("x"), part_size=1 << 20, max_concurrency=2)

        def work(i: int, stream: Any = stream) -> bool:
            if i == 0:
                stream.close()
                return True
            try:
                while block := stream.read(300_000):
                    assert block in data
            except ValueError as error:
                return "closed" in str(error)
            return True

        assert all(in_threads(work, 4))


@near
def test_aborting_while_others_write(target: Any) -> None:
    for _ in range(5):
        stream = s3dlio_np.open(target.uri("x"), "wb", part_size=PART, max_concurrency=2)

        def work(i: int, stream: Any = stream) -> bool:
            try:
                for _ in range(8):
                    stream.write(bytes(1_000_000))
                if i == 0:
                    stream.abort()
            except (ValueError, s3dlio_np.StorageError):
                return True
            return True

        assert all(in_threads(work, 4))
        stream.abort()
        assert (target.names(), target.leftovers()) == ([], [])


def test_one_failing_stream_leaves_the_others_alone(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", key="bad", kind="status", status=403, code="AccessDenied", count=-1
    )
    data = content(0, 2 * PART + 5)

    def work(i: int) -> str:
        name = f"{'bad' if i % 4 == 0 else 'good'}{i}"
        try:
            with s3dlio_np.open(s3_own.uri(name), "wb", part_size=PART) as stream:
                stream.write(data)
        except PermissionError:
            return "denied"
        return "written"

    results = in_threads(work)
    assert results == ["denied" if i % 4 == 0 else "written" for i in range(THREADS)]
    assert fault.hits() >= 4
    assert sorted(s3_own.objects()) == sorted(f"good{i}" for i in range(THREADS) if i % 4)
    assert s3_own.uploads() == []


BUDGET = """
    import json, sys, threading
    import s3dlio_np
    limit = int(sys.argv[2])
    s3dlio_np.configure(memory_limit_bytes=limit)
    failures = []
    def work(i):
        try:
            uri = f"{sys.argv[1]}-{i}"
            for _ in range(2):
                with s3dlio_np.open(uri, "wb", part_size=5 << 20, max_concurrency=4) as stream:
                    for _ in range(22):
                        stream.write(bytes([i]) * 1_000_000)
                with s3dlio_np.open(uri, part_size=5 << 20, max_concurrency=4) as stream:
                    while data := stream.read(300_000):
                        assert data.count(i) == len(data)
        except BaseException as error:
            failures.append(repr(error))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"wrong": failures, **s3dlio_np.stats()}))
"""


@near
@pytest.mark.parametrize("buffers", [32, 4, 1])
def test_the_budget_holds(target: Any, buffers: int) -> None:
    """16 streams of which each alone would take 8 buffers. Over the limit there is a small one for each,
    and a part's for those that find all others' kept from running (or larger than the limit).
    """
    limit = buffers * PART
    stats = json.loads(child.run(BUDGET, target.uri("x"), limit, timeout_s=100))
    assert stats["wrong"] == []
    assert stats["memory_limit_bytes"] == limit
    assert 0 < stats["memory_peak_bytes"] <= limit + THREADS * SMALL + 2 * PART
    assert stats["memory_held_bytes"] == 0
    [target.uri(f"x-{i}") for i in range(THREADS)]
    assert target.leftovers() == []
    assert all(target.read(f"x-{i}") == bytes([i]) * 22_000_000 for i in range(THREADS))


def test_idle_streams_do_not_starve_a_busy_one(s3_own: Any) -> None:
    """Every idle writer keeps the buffer that it is filling; the budget is four of them."""
    script = """
        import sys, s3dlio_np
        s3dlio_np.configure(memory_limit_bytes=4 * (5 << 20))
        idle = [s3dlio_np.open(f"{sys.argv[1]}-{i}", "wb", part_size=5 << 20) for i in range(12)]
        for stream in idle:
            stream.write(b"a little")
        with s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20) as busy:
            for _ in range(30):
                busy.write(bytes(1_000_000))
        assert s3dlio_np.open(sys.argv[1]).read() == bytes(30_000_000)
        for stream in idle:
            stream.close()
    """
    child.run(script, s3_own.uri("x"), timeout_s=60)
    assert len(s3_own.objects()) == 13
