"""Every request kind under every fault of the table in test_fault_matrix.py, all at once.

`python -m tests.np.fault_matrix` starts a server, reads cells as JSON from stdin, runs them in
threads (none: kills the server under all uses) and prints what came of each: in a process of its own, since attempts are the engine's.
Faults find their cell by its object's key, or the list's prefix.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import s3dlio_np
from tests.servers.own import OwnServer, ServerError

PART = 5 * 1024 * 1024
SMALL = np.random.default_rng(1).integers(0, 256, 300_000, np.uint8).tobytes()
LARGE = np.random.default_rng(2).integers(0, 256, 2 * PART + 4321, np.uint8).tobytes()
ARRAYS = {"a": np.frombuffer(LARGE, np.uint8), "b": np.arange(100)}
THREADS = 24


class Told(Exception):
    """What a body of `with` raises, so that its stream is aborted."""


def stat(uri: str) -> bool:
    return s3dlio_np.stat(uri)["size"] == len(SMALL)


def get_whole(uri: str) -> bool:
    return s3dlio_np.get_bytes(uri) == SMALL


def get_range(uri: str) -> bool:
    with s3dlio_np.open(uri, part_size=1 << 16, max_concurrency=2) as stream:
        return stream.read() == SMALL


def load(uri: str) -> bool:
    with s3dlio_np.load(uri) as loaded:
        return all(np.array_equal(loaded[name], ARRAYS[name]) for name in ARRAYS)


def put(uri: str) -> bool:
    options = s3dlio_np.WriterOptions(checksum="crc64nvme")
    return s3dlio_np.put(uri, SMALL, options=options)["size"] == len(SMALL)


def write(uri: str) -> bool:
    options = s3dlio_np.WriterOptions(part_size=PART, max_concurrency=2, checksum="crc64nvme")
    with s3dlio_np.open(uri, "wb", options=options) as stream:
        stream.write(LARGE)
    return stream.close()["size"] == len(LARGE)


def savez(uri: str) -> bool:
    options = s3dlio_np.WriterOptions(part_size=PART, checksum="crc64nvme")
    s3dlio_np.savez(uri, options=options, **ARRAYS)
    return True


def abort(uri: str) -> bool:
    try:
        with s3dlio_np.open(uri, "wb", part_size=PART, max_concurrency=2) as stream:
            stream.write(LARGE)
            raise Told
    except Told:
        return True


def names(uri: str) -> bool:
    return [entry["uri"] for entry in s3dlio_np.list(uri)] == [uri]


def delete(uri: str) -> bool:
    s3dlio_np.delete(uri)
    return True


# What is done: the request that the fault is for, the use, what lies there before.
WORKS: dict[str, tuple[str, Callable[[str], bool], str]] = {
    "head": ("HeadObject", stat, "small"),
    "get whole": ("GetObject", get_whole, "small"),
    "get range": ("GetObject", get_range, "small"),
    "load": ("GetObject", load, "npz"),
    "put": ("PutObject", put, ""),
    "create": ("CreateMultipartUpload", write, ""),
    "part": ("UploadPart", write, ""),
    "part of savez": ("UploadPart", savez, ""),
    "complete": ("CompleteMultipartUpload", write, ""),
    "abort": ("AbortMultipartUpload", abort, ""),
    "list": ("ListObjectsV2", names, "small"),
    "delete": ("DeleteObject", delete, "small"),
}


def caught(error: BaseException) -> dict[str, Any]:
    about = ("code", "status", "attempts", "operation", "uri")
    said = {name: getattr(error, name, None) for name in about}
    classes = [each.__name__ for each in type(error).__mro__]
    return {"classes": classes, "text": str(error), **said}


def content(server: OwnServer, key: str) -> bytes | None:
    answer = server.request("GET", f"/bucket/{key}")
    return answer.body if answer.status == 200 else None


def is_whole(work: str, body: bytes) -> bool:
    if work in ("load", "part of savez"):
        return LARGE in body and body[:2] == b"PK" and body[-22:-18] == b"PK\5\6"
    return body == (LARGE if WORKS[work][1] is write or work == "abort" else SMALL)


def run_cell(server: OwnServer, cell: dict[str, Any], npz: bytes) -> dict[str, Any]:
    op, use, before = WORKS[cell["work"]]
    key = f"cell-{cell['id']}-"
    uri = f"s3://bucket/{key}"
    for _ in range(10):  # each success gives a token back of those that retries take
        s3dlio_np.exists("s3://bucket/full")
    if before:
        server.put_object("bucket", key, npz if before == "npz" else SMALL)
    rule = server.add_fault(op=op, key=key, count=cell["count"], **cell["rule"])
    try:
        result: dict[str, Any] = {"right": use(uri)}
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        result = caught(error)
    result["hits"] = rule.hits()
    body = content(server, key) if op != "GetObject" else None
    result["there"] = None if body is None else is_whole(cell["work"], body)
    result["uploads"] = sum(row["key"] == key for row in server.uploads())
    if op != "DeleteObject":
        server.request("DELETE", f"/bucket/{key}")  # memory
    return result


def run_all(server: OwnServer, cells: list[dict[str, Any]]) -> dict[str, Any]:
    s3dlio_np.put("s3://bucket/full", b"1")
    s3dlio_np.savez("s3://bucket/npz", **ARRAYS)
    npz = server.get_object("bucket", "npz")

    def one(cell: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return cell["id"], run_cell(server, cell, npz)

    with ThreadPoolExecutor(THREADS) as threads:
        return dict(threads.map(one, cells))


def run_until_gone(server: OwnServer) -> dict[str, Any]:
    """Every use waits for an answer when the server is killed; from then on nobody listens."""
    s3dlio_np.savez("s3://bucket/npz", **ARRAYS)
    npz = server.get_object("bucket", "npz")
    keys = {work: f"gone-{number}-" for number, work in enumerate(WORKS)}
    rules = []
    for work, (op, _, before) in WORKS.items():
        if before:
            server.put_object("bucket", keys[work], npz if before == "npz" else SMALL)
        rules.append(server.add_fault(op=op, key=keys[work], kind="stall", seconds=60, count=-1))

    def one(work: str) -> dict[str, Any]:
        try:
            return {"right": WORKS[work][1](f"s3://bucket/{keys[work]}")}
        except OSError as error:
            return caught(error)

    with ThreadPoolExecutor(len(WORKS)) as threads:
        running = {work: threads.submit(one, work) for work in WORKS}
        while not all(rule.matched() for rule in rules):
            time.sleep(0.02)
        os.kill(server.pid, signal.SIGKILL)
        outcomes = {work: each.result() for work, each in running.items()}
    return outcomes | {"afterwards": one("head"), "address": {"text": server.endpoint}}


def main() -> None:
    cells = json.load(sys.stdin)
    gone = contextlib.nullcontext() if cells else contextlib.suppress(ServerError)
    with gone, OwnServer(md5=True) as server:
        s3dlio_np.configure(
            endpoint=server.endpoint,
            ca_bundle=server.env().get("AWS_CA_BUNDLE"),
            access_key=server.access_key,
            secret_key=server.secret_key,
            region=server.region,
            get_threshold_bytes=1 << 20,
        )
        print(json.dumps(run_all(server, cells) if cells else run_until_gone(server)))


if __name__ == "__main__":
    main()
