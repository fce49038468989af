"""Each allocation fails once, the engine's and the interpreter's: an error, a whole object, and on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests import child, oom
from tests.marks import near
from tests.oom import Allocations, Save

PART = 5 * 1024 * 1024
SMALL = np.random.default_rng(1).integers(0, 256, 20_000, np.uint8)
LARGE = np.random.default_rng(2).integers(0, 256, PART + 4321, np.uint8).tobytes()
ARRAYS: dict[str, Any] = {"a": SMALL, "b": np.arange(100)}
SUMS = s3dlio_np.WriterOptions(part_size=PART, max_concurrency=2, checksum="crc64nvme")
ZSTD = s3dlio_np.WriterOptions(part_size=PART, max_concurrency=2, compression="zstd")

pytestmark = [
    pytest.mark.oom,
    # Finalizers, which have no memory either and nobody to tell.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def write(uri: str, data: bytes, options: s3dlio_np.WriterOptions) -> None:
    with s3dlio_np.open(uri, "wb", options=options) as stream:
        stream.write(data)


def read(uri: str, decompress: bool | None = None) -> bytes:
    with s3dlio_np.open(
        uri, part_size=1 << 20, max_concurrency=2, decompress=decompress
    ) as stream:
        return stream.read(1000) + stream.read()


def get_into(uri: str) -> bytearray:
    buffer = bytearray(len(SMALL))
    assert s3dlio_np.get_into(uri, buffer) == len(buffer)
    return buffer


def is_small(got: Any) -> bool:
    return bytes(got) == SMALL.tobytes()


def is_large(got: Any) -> bool:
    return bytes(got) == LARGE


def is_arrays(got: Any) -> bool:
    return all(np.array_equal(got[name], ARRAYS[name]) for name in ARRAYS)


SAVES = {
    "put": Save(lambda uri: s3dlio_np.put(uri, SMALL), s3dlio_np.get_bytes, is_small),
    "write": Save(lambda uri: write(uri, LARGE, SUMS), read, is_large),
    "write, zstd": Save(
        lambda uri: write(uri, SMALL.tobytes(), ZSTD), lambda uri: read(uri, True), is_small
    ),
    "save": Save(lambda uri: s3dlio_np.save(uri, SMALL), s3dlio_np.load, is_small),
    "savez": Save(
        lambda uri: s3dlio_np.savez(uri, **ARRAYS),
        lambda uri: dict(s3dlio_np.load(uri)),
        is_arrays,
    ),
    "savez_compressed": Save(
        lambda uri: s3dlio_np.savez_compressed(uri, **ARRAYS), s3dlio_np.load_numpy, is_arrays
    ),
    "save_pickle": Save(
        lambda uri: s3dlio_np.save_pickle(uri, ARRAYS), s3dlio_np.load_pickle, is_arrays
    ),
    "save_safetensors": Save(
        lambda uri: s3dlio_np.save_safetensors(ARRAYS, uri),
        s3dlio_np.load_safetensors,
        is_arrays,
    ),
}
# Of SMALL, with its checksum.
ASKED: dict[str, tuple[Callable[[str], object], Callable[[Any], bool]]] = {
    "stat": (s3dlio_np.stat, lambda got: got["size"] == len(SMALL)),
    "exists": (s3dlio_np.exists, lambda got: got is True),
    "list": (s3dlio_np.list, lambda got: [each["size"] for each in got] == [len(SMALL)]),
    "verify": (s3dlio_np.verify, lambda got: got.ok),
    "get_into": (get_into, is_small),
    "read": (read, is_small),
}


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    with oom.bounded():
        yield


@near
@oom.of_each_kind
@pytest.mark.parametrize("name", SAVES)
def test_a_save(target: Any, name: str, allocations: Allocations) -> None:
    oom.check_save(allocations, target, SAVES[name])


@near
@oom.of_each_kind
@pytest.mark.parametrize("name", SAVES)
def test_a_load(target: Any, name: str, allocations: Allocations) -> None:
    SAVES[name].do(target.uri("x"))
    oom.check_load(allocations, target.uri("x"), SAVES[name].load, SAVES[name].right)


@near
@oom.of_each_kind
@pytest.mark.parametrize("name", ASKED)
def test_a_question(target: Any, name: str, allocations: Allocations) -> None:
    s3dlio_np.put(target.uri("x"), SMALL, options=SUMS)
    oom.check_load(allocations, target.uri("x"), *ASKED[name])


@near
def test_a_delete(target: Any) -> None:
    """The interpreter is asked for nothing there."""
    uri = target.uri("x")
    failures = 0
    for error in oom.each_failure(
        oom.ENGINE, lambda: s3dlio_np.delete(uri), lambda: target.write("x", b"1")
    ):
        failures += 1
        oom.judge(error, oom.ENGINE)
        assert target.exists("x") == (error is not None)
        s3dlio_np.delete(uri)
        assert not target.exists("x")
    assert failures > 0


START = """
    import os, sys
    import s3dlio_np
    from s3dlio_np import _native

    def first_use(n):
        _native._fail_allocation(n)
        try:
            s3dlio_np.stat(sys.argv[1])
            return "right"
        except MemoryError:
            assert _native._allocation_failed()
        _native._fail_allocation(0)
        assert s3dlio_np.stat(sys.argv[1])["size"] == 1
        return "failed"

    for n in range(1, 1000):
        if (child := os.fork()) == 0:
            os._exit(3 if first_use(n) == "failed" else 0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        assert status == 3, (n, status)
    print(n)
"""


@near
def test_the_first_use_of_a_process(target: Any) -> None:
    """The engine starts: I/O threads, the store, settings, keys."""
    target.write("x", b"1")
    assert 10 < int(child.run(START, target.uri("x"))) < 1000
