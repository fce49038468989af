"""Every use of fault_matrix.py, and a wide load, while the server is away and comes back.

`python -m tests.np.outage start|middle` prints what came of each: with AWS_MAX_ATTEMPTS of its own, and
in a process of its own, since attempts are the engine's. The way to the server is a relay: it is
back when it has been missed often enough, not after some time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import s3dlio_np
from tests.np.fault_matrix import ARRAYS, LARGE, SMALL, WORKS, caught, content, is_whole
from tests.servers.own import OwnServer
from tests.servers.relay import Relay

LIMIT_S = 60  # for what is waited for here; reached only where something is broken
WIDE, WIDE_PART = 64, 1 << 16
USES = [*WORKS, "wide"]


def wide(uri: str) -> bool:
    """More ranges at once than the process may retry of requests that a server has failed."""
    return s3dlio_np.get_bytes(uri, part_size=WIDE_PART, max_concurrency=2 * WIDE) == LARGE


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("what the test waits for does not come")
        time.sleep(0.01)


def retries() -> int:
    return int(s3dlio_np.stats()["retries"])


def key_of(use: str) -> str:
    return f"use-{USES.index(use)}-"


def put_what_is_read(server: OwnServer, npz: bytes) -> None:
    before = {"small": SMALL, "npz": npz}
    for work, (_, _, kind) in WORKS.items():
        if kind:
            server.put_object("bucket", key_of(work), before[kind])
    server.put_object("bucket", key_of("wide"), LARGE)


def one(use: str) -> dict[str, Any]:
    work = wide if use == "wide" else WORKS[use][1]
    try:
        return {"right": work(f"s3://bucket/{key_of(use)}")}
    except OSError as error:
        return caught(error)


def run(server: OwnServer, relay: Relay, moment: str) -> dict[str, Any]:
    s3dlio_np.savez("s3://bucket/npz", a=ARRAYS["a"], b=ARRAYS["b"])
    put_what_is_read(server, server.get_object("bucket", "npz"))
    rules = []
    if moment == "middle":
        for use in USES:
            op, skip = (WORKS[use][0], 0) if use != "wide" else ("GetObject", 1)
            # All of them, or one that is sent again while connections break would leave an upload.
            rules.append(
                server.add_fault(
                    op=op, key=key_of(use), kind="stall", seconds=60, skip=skip, count=-1
                )
            )
    else:
        relay.go_down()
    with ThreadPoolExecutor(len(USES)) as threads:
        before = retries()
        missed = 2 * len(USES) + (2 * WIDE if moment == "middle" else 0)
        running = {use: threads.submit(one, use) for use in USES}
        try:
            if moment == "middle":
                wait_until(lambda: all(rule.hits() for rule in rules))
                wait_until(lambda: rules[-1].hits() >= WIDE + WIDE // 2)
                relay.go_down()
                server.clear_faults()
            wait_until(lambda: retries() >= before + missed)
        finally:
            relay.come_back()
        outcomes = {use: each.result() for use, each in running.items()}
    for use, outcome in outcomes.items():
        body = content(server, key_of(use))
        outcome["there"] = None if body is None else use == "wide" or is_whole(use, body)
    left = [row["key"] for row in server.uploads()]
    return {"uses": outcomes, "uploads": left, "retries": retries() - before}


def main() -> None:
    with OwnServer(md5=True) as server, Relay(server.address) as relay:
        s3dlio_np.configure(
            endpoint=relay.endpoint,
            access_key=server.access_key,
            secret_key=server.secret_key,
            region=server.region,
            get_threshold_bytes=1 << 20,
            hedge_ms=0,
        )
        print(json.dumps(run(server, relay, sys.argv[1])))


if __name__ == "__main__":
    main()
