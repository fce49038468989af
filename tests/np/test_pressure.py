"""64 writers and 64 readers at once within one small budget: bounded, and every one gets on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import child
from tests.marks import SANITIZED
from tests.servers.own import OwnServer, pattern

MIB = 1 << 20
STREAMS = 64
PART = 5 * MIB
PARTS = 4  # of each writer
READ_BYTES = 20 * MIB
LIMIT = 8 * PART  # where each writer alone would take 2 x 64 parts
SMALL = 256 * 1024  # what a stream without a buffer may have over the limit; a step of a reader
STEP = {"write": MIB, "read": SMALL}

# Prints the memory over what there was before; the counters; of every stream, how many steps all streams
# of its kind did at most from one step of its own to the next, or to its first.
CROWD = """
    import json, sys, threading
    import s3dlio_np
    from tests.servers.own import PATTERN_PERIOD, pattern

    source, goal, streams, part, parts, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    piece = 1 << 20
    expected = memoryview(pattern(0, PATTERN_PERIOD + piece))
    memories = [memoryview(bytearray(256 * 1024)) for _ in range(streams)]
    done, seen, longest = ({"write": [0] * streams, "read": [0] * streams} for _ in range(3))
    steps = {"write": 0, "read": 0}
    counting = threading.Lock()
    wrong = []
    together = threading.Barrier(2 * streams + 1)
    opened = threading.Barrier(2 * streams)

    def step(kind, i, size):
        done[kind][i] += size
        with counting:
            steps[kind] += 1
            longest[kind][i] = max(longest[kind][i], steps[kind] - seen[kind][i])
            seen[kind][i] = steps[kind]

    def write(i):
        with s3dlio_np.open(f"{goal}{i}", "wb", part_size=part) as stream:
            opened.wait()
            while done["write"][i] < parts * part:
                at = done["write"][i] % PATTERN_PERIOD
                step("write", i, stream.write(expected[at : at + piece]))
        assert stream.close()["size"] == parts * part

    def read(i):
        with s3dlio_np.open(source, part_size=part) as stream:
            opened.wait()
            while got := stream.readinto(memories[i]):
                at = done["read"][i] % PATTERN_PERIOD
                assert memories[i][:got] == expected[at : at + got], (i, done["read"][i])
                step("read", i, got)
        assert done["read"][i] == size

    def work(kind, i):
        together.wait()
        try:
            {"write": write, "read": read}[kind](i)
        except BaseException as error:
            wrong.append(repr(error))

    def in_memory(field):
        for line in open("/proc/self/status"):
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024

    s3dlio_np.stats()
    threads = [threading.Thread(target=work, args=(k, i)) for k in done for i in range(streams)]
    for thread in threads:
        thread.start()
    open("/proc/self/clear_refs", "w").write("5")
    before = in_memory("VmRSS")
    together.wait()
    for thread in threads:
        thread.join()
    extra = in_memory("VmHWM") - before
    print(json.dumps({"wrong": wrong, "extra": extra, "steps": steps, "longest": longest, **s3dlio_np.stats()}))
"""


def crowd(source: str, goal: str, env: Mapping[str, str]) -> dict[str, Any]:
    counts = (STREAMS, PART, PARTS, READ_BYTES)
    printed = child.run(
        CROWD, source, goal, *counts, env={**env, "S3DLIO_MEMORY_LIMIT": str(LIMIT)}
    )
    row: dict[str, Any] = json.loads(printed)
    assert row["wrong"] == []
    return row


def assert_bounded(row: dict[str, Any]) -> None:
    """Buffers: the limit, a small one for each stream, and (where all threads that fill one were kept from
    running for long) two more. Beside them each reader has its object's end, each request its own.
    """
    buffers = LIMIT + 2 * STREAMS * SMALL + 2 * PART
    assert LIMIT // 2 < row["memory_peak_bytes"] <= buffers
    assert row["memory_held_bytes"] == 0
    requests = 2 * STREAMS * 3 * SMALL
    extra = row["extra"]
    if not SANITIZED:
        assert extra <= buffers + STREAMS * SMALL + requests, f"{extra / MIB:.0f} MiB"


def assert_nobody_starves(row: dict[str, Any]) -> None:
    """Nobody waits while all others of its kind fill, or read, two parts each. One part each is what taking
    turns costs, and which thread runs when is in part the interpreter's choice.
    """
    for kind, size in (("write", PARTS * PART), ("read", READ_BYTES)):
        assert row["steps"][kind] >= STREAMS * size // STEP[kind]
        assert len(row["longest"][kind]) == STREAMS
        assert max(row["longest"][kind]) <= 2 * STREAMS * PART // STEP[kind]


def test_s3() -> None:
    with OwnServer(discard=True, pattern_objects={"bucket/data": READ_BYTES}) as server:
        row = crowd("s3://bucket/data", "s3://bucket/new", server.env())
        assert_bounded(row)
        assert_nobody_starves(row)
        assert (row["objects_written"], row["retries"]) == (STREAMS, 0)
        assert {item["size"] for item in server.objects()} == {PARTS * PART, READ_BYTES}
        assert len(server.objects()) == STREAMS + 1
        assert server.uploads() == []


def test_s3_that_takes_its_time() -> None:
    """No buffer comes back for longer than a stream waits that finds none to be under way."""
    with OwnServer(discard=True, pattern_objects={"bucket/data": READ_BYTES}) as server:
        fault = server.add_fault(op="UploadPart", kind="stall", seconds=0.22, count=-1)
        row = crowd("s3://bucket/data", "s3://bucket/new", server.env())
        assert fault.hits() == STREAMS * 4
        assert_bounded(row)
        assert_nobody_starves(row)
        assert len(server.objects()) == STREAMS + 1
        assert server.uploads() == []


def test_files(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(pattern(0, READ_BYTES))
    goal = tmp_path / "new"
    goal.mkdir()
    row = crowd(source.as_uri(), f"{goal.as_uri()}/", {})
    assert_bounded(row)
    assert_nobody_starves(row)
    expected = pattern(0, PARTS * PART)
    assert len(list(goal.iterdir())) == STREAMS
    for path in goal.iterdir():
        assert path.read_bytes() == expected
        path.unlink()


IDLE = """
    import json, sys, s3dlio_np
    part = int(sys.argv[2])
    idle = [s3dlio_np.open(f"{sys.argv[1]}-{i}", "wb", part_size=part) for i in range(12)]
    for stream in idle:
        stream.write(bytes(100_000))
    with s3dlio_np.open(sys.argv[1], "wb", part_size=part) as busy:
        for _ in range(60):
            busy.write(bytes(1_000_000))
    peak = s3dlio_np.stats()["memory_peak_bytes"]
    for stream in idle:
        stream.close()
    print(json.dumps({**s3dlio_np.stats(), "memory_peak_bytes": peak}))
"""


def test_idle_writers_hold_little() -> None:
    """Four have a part's buffer each, which is all; the others and the busy one make do."""
    with OwnServer() as server:
        env = {**server.env(), "S3DLIO_MEMORY_LIMIT": str(4 * PART)}
        row = json.loads(child.run(IDLE, "s3://bucket/new", PART, env=env))
        assert row["memory_peak_bytes"] <= 4 * PART + 9 * SMALL + PART
        assert row["memory_held_bytes"] == 0
        sizes = sorted(item["size"] for item in server.objects())
        assert sizes == [100_000] * 12 + [60_000_000]
