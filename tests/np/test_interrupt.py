"""Ctrl-C in everything that waits for a store: over at once, clean, and the engine goes on."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests import child
from tests.interrupts import interrupted_when
from tests.servers.own import pattern

PART = 5 << 20
FOREVER = 600
OLD = b"old"
DATA = pattern(0, 3 * PART + 7)
ARRAY = np.frombuffer(DATA, np.uint8)
OPTIONS = s3dlio_np.WriterOptions(part_size=PART, max_concurrency=2, checksum="crc64nvme")


def write(uri: str) -> None:
    with s3dlio_np.open(uri, "wb", options=OPTIONS) as stream:
        stream.write(DATA)


def write_nothing_yet(uri: str) -> None:
    """All is sent by the end of the block."""
    with s3dlio_np.open(uri, "wb", options=OPTIONS) as stream:
        stream.write(DATA[:100])


def leave(uri: str) -> None:
    with s3dlio_np.open(uri, "wb", options=OPTIONS) as stream:
        stream.write(DATA)
        raise LookupError


def read(uri: str) -> None:
    with s3dlio_np.open(uri) as stream:
        stream.read()


def read_in_pieces(uri: str) -> None:
    with s3dlio_np.open(uri) as stream:
        while stream.read(100_000):
            pass


def get_into(uri: str) -> None:
    s3dlio_np.get_into(uri, bytearray(len(DATA)))


def load_members(uri: str) -> None:
    with s3dlio_np.load(uri) as archive:
        archive["a"]


# What is read, how, and by which request.
READS: dict[str, tuple[Callable[[str], object], Callable[[str], object], str]] = {
    "stat": (write, s3dlio_np.stat, "HeadObject"),
    "exists": (write, s3dlio_np.exists, "HeadObject"),
    "list": (write, lambda uri: list(s3dlio_np.list(uri)), "ListObjectsV2"),
    "verify": (write, s3dlio_np.verify, "GetObject"),
    "read": (write, read, "GetObject"),
    "read in pieces": (write, read_in_pieces, "GetObject"),
    "get_bytes": (write, s3dlio_np.get_bytes, "GetObject"),
    "get_bytes_view": (write, s3dlio_np.get_bytes_view, "GetObject"),
    "get_into": (write, get_into, "GetObject"),
    "load": (lambda uri: s3dlio_np.save(uri, ARRAY), s3dlio_np.load, "GetObject"),
    "members": (lambda uri: s3dlio_np.savez(uri, a=ARRAY), load_members, "GetObject"),
    "load_numpy": (
        lambda uri: s3dlio_np.save_numpy(uri, {"a": ARRAY}),
        s3dlio_np.load_numpy,
        "GetObject",
    ),
    "load_pickle": (
        lambda uri: s3dlio_np.save_pickle(uri, ARRAY),
        s3dlio_np.load_pickle,
        "GetObject",
    ),
    "load_safetensors": (
        lambda uri: s3dlio_np.save_safetensors({"a": ARRAY}, uri),
        s3dlio_np.load_safetensors,
        "GetObject",
    ),
    "load_tree": (
        lambda uri: s3dlio_np.save_tree(uri, {"a": ARRAY}),
        s3dlio_np.load_tree,
        "GetObject",
    ),
}
MANY = [name for name, (_, _, op) in READS.items() if op == "GetObject"]  # ranges
WRITES: dict[str, tuple[Callable[[str], object], str]] = {
    "put small": (lambda uri: s3dlio_np.put(uri, b"1"), "PutObject"),
    "put": (lambda uri: s3dlio_np.put(uri, DATA, options=OPTIONS), "UploadPart"),
    "end of with": (write_nothing_yet, "PutObject"),
    "create": (write, "CreateMultipartUpload"),
    "part": (write, "UploadPart"),
    "save": (lambda uri: s3dlio_np.save(uri, ARRAY, options=OPTIONS), "UploadPart"),
    "savez": (lambda uri: s3dlio_np.savez(uri, a=ARRAY, options=OPTIONS), "UploadPart"),
    "save_numpy": (lambda uri: s3dlio_np.save_numpy(uri, {"a": ARRAY}), "UploadPart"),
    "save_pickle": (lambda uri: s3dlio_np.save_pickle(uri, ARRAY), "UploadPart"),
    "save_safetensors": (
        lambda uri: s3dlio_np.save_safetensors({"a": ARRAY}, uri),
        "UploadPart",
    ),
    "save_tree": (lambda uri: s3dlio_np.save_tree(uri, {"a": ARRAY}), "UploadPart"),
    "delete": (s3dlio_np.delete, "DeleteObject"),
}
STALL = {"kind": "stall", "seconds": FOREVER, "count": -1}
# Comes back only after so long that a test would notice; the engine waits by itself.
SENT_AWAY = {"kind": "status", "status": 503, "code": "SlowDown", "retry_after": 20, "count": 1}


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_GET_PART_SIZE", str(1 << 20))
    monkeypatch.setenv("S3DLIO_GET_THRESHOLD", "0")


def interrupt(s3_own: Any, use: Callable[[str], object], op: str, **rule: Any) -> None:
    fault = s3_own.server.add_fault(op=op, **rule)
    with interrupted_when(lambda: fault.hits() > 0):
        use(s3_own.uri("x"))
    s3_own.server.clear_faults()


def goes_on(s3_own: Any) -> None:
    gc.collect()
    assert s3dlio_np.stats()["memory_held_bytes"] == 0
    write(s3_own.uri("after"))
    assert s3dlio_np.get_bytes(s3_own.uri("after")) == DATA
    assert s3_own.uploads() == []


@pytest.mark.parametrize(
    ("name", "skip"),
    [(name, skip) for name in READS for skip in ((0, 1, 5) if name in MANY else (0,))],
)
def test_in_a_read(s3_own: Any, name: str, skip: int) -> None:
    """So many answers come."""
    prepare, use, op = READS[name]
    prepare(s3_own.uri("x"))
    interrupt(s3_own, use, op, skip=skip, **STALL)
    use(s3_own.uri("x"))
    goes_on(s3_own)


@pytest.mark.parametrize("name", WRITES)
def test_in_a_write(s3_own: Any, name: str) -> None:
    use, op = WRITES[name]
    s3_own.put("x", OLD)
    interrupt(s3_own, use, op, **STALL)
    assert s3_own.get("x") == OLD
    use(s3_own.uri("x"))
    goes_on(s3_own)


def test_in_the_request_that_commits(s3_own: Any) -> None:
    """Nobody knows what has come of it: the old version or the new one, and no upload."""
    s3_own.put("x", OLD)
    interrupt(s3_own, write, "CompleteMultipartUpload", **STALL)
    assert s3_own.get("x") in (OLD, DATA)
    goes_on(s3_own)


def test_in_the_request_that_aborts(s3_own: Any) -> None:
    """That one is waited for; then Ctrl-C comes first, whatever ended the block."""
    s3_own.put("x", OLD)
    fault = s3_own.server.add_fault(op="AbortMultipartUpload", kind="stall", seconds=1)
    with interrupted_when(lambda: fault.hits() > 0) as caught:
        leave(s3_own.uri("x"))
    assert isinstance(caught.value.__context__, LookupError)
    assert s3_own.get("x") == OLD
    goes_on(s3_own)


@pytest.mark.parametrize("name", ["get_bytes", "list", "read"])
def test_while_a_read_backs_off(s3_own: Any, name: str) -> None:
    prepare, use, op = READS[name]
    prepare(s3_own.uri("x"))
    interrupt(s3_own, use, op, **SENT_AWAY)
    goes_on(s3_own)


@pytest.mark.parametrize("name", ["put small", "part", "savez"])
def test_while_a_write_backs_off(s3_own: Any, name: str) -> None:
    use, op = WRITES[name]
    s3_own.put("x", OLD)
    interrupt(s3_own, use, op, **SENT_AWAY)
    assert s3_own.get("x") == OLD
    goes_on(s3_own)


def test_while_a_write_waits_for_memory(s3_own: Any, tmp_path: Path) -> None:
    """Another stream has all buffers: one part that stalls, one that may be its last."""
    script = """
        import sys, s3dlio_np
        part = 5 << 20
        first = s3dlio_np.open(sys.argv[1], "wb", part_size=part)
        first.write(bytearray(2 * part))
        second = s3dlio_np.open(sys.argv[1] + "-2", "wb", part_size=part)
        with open(sys.argv[2], "ab", 0) as written:
            while True:
                second.write(bytearray(10_000))
                written.write(b".")
    """
    written = tmp_path / "written"
    seen = [0]

    def waits() -> bool:
        """Nothing was written since the last look."""
        seen.append(written.stat().st_size if written.exists() else 0)
        return fault.hits() > 0 and seen[-1] == seen[-2] > 0

    fault = s3_own.server.add_fault(op="UploadPart", **STALL)
    env = {"S3DLIO_MEMORY_LIMIT": str(2 * PART)}
    waiting = child.start(script, s3_own.uri("x"), written, env=env)
    status, said = child.kill_when(waiting, waits, signal.SIGINT)
    assert (status, "KeyboardInterrupt" in said) == (-signal.SIGINT, True)
    assert written.stat().st_size * 10_000 < PART
    assert fault.hits() == 1  # nothing had ended
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])
