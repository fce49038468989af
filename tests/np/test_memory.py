"""Memory: streaming of any size stays within the budget, asked of the kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import child
from tests.servers.own import OwnServer

MIB = 1 << 20
GIB = 1 << 30
LIMIT = 192 * MIB  # 2 x max_concurrency x part_size is 128 MiB of it
STREAM = {"max_concurrency": 8, "part_size": 8 * MIB}

# Everything that the measurement needs is in memory before it begins; `extra` prints how much more
# there was at most.
MEASURE = """
import json, sys
import numpy as np
import s3dlio_np
from tests.servers.own import PATTERN_PERIOD, pattern

uri, size, piece, keywords = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
s3dlio_np.stats()
twice = np.frombuffer(pattern(0, 2 * PATTERN_PERIOD + piece), np.uint8)
memory = np.ones(piece, np.uint8)
same = np.ones(1 << 20, bool)

def in_memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024

def check(offset, data):
    for start in range(0, len(data), len(same)):
        part = data[start : start + len(same)]
        begin = (offset + start) % PATTERN_PERIOD
        np.equal(part, twice[begin : begin + len(part)], out=same[: len(part)])
        assert same[: len(part)].all(), offset + start

def write():
    with s3dlio_np.open(uri, "wb", **keywords) as stream:
        for offset in range(0, size, piece):
            begin = offset % PATTERN_PERIOD
            stream.write(twice[begin : begin + min(piece, size - offset)])
    assert stream.close()["size"] == size

def read():
    with s3dlio_np.open(uri, **keywords) as stream:
        offset = 0
        while got := stream.readinto(memory):
            check(offset, memory[:got])
            offset += got
    assert offset == size

def read_bytes():
    with s3dlio_np.open(uri, **keywords) as stream:
        offset = 0
        while data := stream.read(piece):
            check(offset, np.frombuffer(data, np.uint8))
            offset += len(data)
    assert offset == size

for work in sys.argv[5:]:
    open("/proc/self/clear_refs", "w").write("5")
    before = in_memory("VmRSS")
    globals()[work]()
    extra = in_memory("VmHWM") - before
    print(json.dumps({"work": work, "extra": extra, **s3dlio_np.stats()}))
"""


def measure(
    uri: str, size: int, piece: int, *work: str, server: OwnServer | None = None
) -> list[dict[str, Any]]:
    env = server.env() if server else {}
    printed = child.run(
        MEASURE, uri, size, piece, json.dumps(STREAM), *work, env=env, timeout_s=500
    )
    return [json.loads(line) for line in printed.splitlines()]


def assert_bounded(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert 0 < row["extra"] <= LIMIT, f"{row['work']}: {row['extra'] / MIB:.0f} MiB"
        assert row["memory_peak_bytes"] <= row["memory_limit_bytes"]
        assert row["memory_held_bytes"] == 0


@pytest.mark.parametrize("piece", [MIB, 256 * MIB], ids=["small writes", "large writes"])
def test_4_gib_written(piece: int) -> None:
    with OwnServer(discard=True) as server:
        assert_bounded(measure("s3://bucket/new", 4 * GIB, piece, "write", server=server))
        assert [row["size"] for row in server.objects()] == [4 * GIB]
        assert server.counters()["bytes_in"] >= 4 * GIB
        assert server.uploads() == []


@pytest.mark.parametrize(
    ("work", "piece"),
    [("read", MIB // 2), ("read", 256 * MIB), ("read_bytes", 3 * MIB)],
    ids=["small readinto", "large readinto", "read"],
)
def test_4_gib_read(work: str, piece: int) -> None:
    with OwnServer(pattern_objects={"bucket/data": 4 * GIB}) as server:
        assert_bounded(measure("s3://bucket/data", 4 * GIB, piece, work, server=server))
        sent = server.counters()["bytes_out"]
        assert 4 * GIB <= sent <= 4 * GIB + 16 * MIB  # nothing is fetched twice


def test_1_gib_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    assert_bounded(measure(path.as_uri(), GIB, 1_000_003, "write", "read"))
    assert path.stat().st_size == GIB
    path.unlink()


def test_written_parts_are_the_pattern() -> None:
    """What the discarding server cannot tell: the same stream, kept and compared."""
    size = 256 * MIB + 5
    with OwnServer() as server:
        rows = measure("s3://bucket/new", size, 1_000_003, "write", "read", server=server)
        assert_bounded(rows)
