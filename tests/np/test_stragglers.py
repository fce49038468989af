"""Stragglers: a GET that is late is asked for again, and does not wait for the answer that is.

Stalls last longer than any test may. So what ends at all did not wait for one; and as `retries` stays 0
it was no time-out either that ended it.
"""

from __future__ import annotations

import json
from typing import Any

from tests import child
from tests.servers.own import OwnServer

MIB = 1 << 20
SIZE = 64 * MIB
PIECE = 64 * 1024
FOREVER = 600

# get_into by many threads: `first` .. `last` of the object's pieces of `piece` bytes each. Prints the
# counters after each such round.
ROUNDS = """
    import json, sys
    from concurrent.futures import ThreadPoolExecutor
    import s3dlio_np
    from tests.servers.own import pattern

    def fetch(i):
        memory = bytearray(piece)
        s3dlio_np.get_into("s3://bucket/data", memory, offset=i * piece, length=piece)
        assert memory == pattern(i * piece, piece), i

    for line in sys.stdin:
        first, last, piece = json.loads(line)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, range(first, last)))
        print(json.dumps(s3dlio_np.stats()), flush=True)
"""


class Client:
    """The program above, running against a server."""

    def __init__(self, server: OwnServer, **env: str) -> None:
        self.process = child.start(ROUNDS, env={**server.env(), **env}, stdin=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stderr is not None
        self.process.stdin.close()
        said = self.process.stderr.read()
        assert self.process.wait(60) == 0, said

    def fetch(self, first: int, last: int, piece: int = PIECE) -> dict[str, int]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([first, last, piece]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        counters: dict[str, int] = json.loads(line)
        return counters


def server_with_data(**options: Any) -> OwnServer:
    return OwnServer(pattern_objects={"bucket/data": SIZE}, **options)


def test_one_get_in_a_hundred_stalls() -> None:
    with server_with_data() as server, Client(server) as client:
        assert client.fetch(0, 100)["requests"] >= 100  # what is usual is known from here on
        fault = server.add_fault(
            op="GetObject", kind="stall", seconds=FOREVER, every=100, count=-1
        )
        stats = client.fetch(0, 1000)
        assert fault.hits() >= 10
        assert stats["hedges"] >= fault.hits()
        assert (stats["retries"], stats["failures"]) == (0, 0)
        assert stats["bytes_received"] == 1100 * PIECE


def test_bodies_that_stall() -> None:
    """What has come of a body is fetched once more, into the same place."""
    with server_with_data() as server, Client(server) as client:
        client.fetch(0, 100)
        fault = server.add_fault(
            op="GetObject", kind="stall", seconds=FOREVER, bytes=20_000, skip=10, count=3
        )
        stats = client.fetch(100, 200)
        assert fault.hits() == 3
        assert stats["hedges"] >= 3
        assert (stats["retries"], stats["failures"]) == (0, 0)
        assert stats["bytes_received"] == 200 * PIECE


def test_a_range_of_a_large_object_stalls() -> None:
    """One of many ranges of one get."""
    ranges = {"S3DLIO_GET_PART_SIZE": str(MIB), "S3DLIO_GET_THRESHOLD": "0"}
    with server_with_data() as server, Client(server, **ranges) as client:
        client.fetch(0, 100)
        before = server.add_fault(
            op="GetObject", kind="stall", seconds=FOREVER, range_from=7 * MIB
        )
        within = server.add_fault(
            op="GetObject", kind="stall", seconds=FOREVER, range_from=9 * MIB, bytes=700_000
        )
        stats = client.fetch(0, 1, 16 * MIB)
        assert (before.hits(), within.hits()) == (1, 1)
        assert stats["hedges"] >= 2
        assert (stats["retries"], stats["failures"]) == (0, 0)


def test_a_hedge_that_stalls() -> None:
    with server_with_data() as server, Client(server) as client:
        client.fetch(0, 100)
        fault = server.add_fault(
            op="GetObject", kind="stall", seconds=FOREVER, range_from=200 * PIECE, count=2
        )
        stats = client.fetch(200, 201)
        assert fault.hits() == 2
        assert stats["hedges"] >= 2
        assert (stats["retries"], stats["failures"]) == (0, 0)


def test_a_hedge_that_fails_is_retried() -> None:
    with server_with_data() as server, Client(server) as client:
        client.fetch(0, 100)
        place = 200 * PIECE
        stall = server.add_fault(
            op="GetObject", kind="stall", seconds=FOREVER, range_from=place
        )
        reset = server.add_fault(op="GetObject", kind="reset_after", bytes=9, range_from=place)
        stats = client.fetch(200, 201)
        assert (stall.hits(), reset.hits()) == (1, 1)
        assert stats["hedges"] >= 1
        assert (stats["retries"], stats["failures"]) == (1, 0)


def test_off() -> None:
    with server_with_data() as server, Client(server, S3DLIO_HEDGE="0") as client:
        client.fetch(0, 100)
        fault = server.add_fault(op="GetObject", kind="stall", seconds=1)
        stats = client.fetch(0, 20)
        assert fault.hits() == 1
        assert (stats["hedges"], stats["retries"]) == (0, 0)
        assert server.counters()["requests"]["GetObject"] == 120


def test_a_store_that_has_become_slow_is_not_flooded() -> None:
    """Each answer takes longer than was usual, hedges' too: ten hedges at once, then one in twenty."""
    with server_with_data() as server, Client(server) as client:
        client.fetch(0, 50)
        fault = server.add_fault(op="GetObject", kind="stall", seconds=0.15, count=-1)
        stats = client.fetch(0, 100)
        assert fault.hits() >= 100
        assert 1 <= stats["hedges"] <= 10 + 150 // 20
        assert (stats["retries"], stats["failures"]) == (0, 0)
        assert server.counters()["requests"]["GetObject"] == 150 + stats["hedges"]
