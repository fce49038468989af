"""Saves, loads, lists and deletes for a while, on s3:// and file://, while one request in twenty fails.

    python benchmarks/soak.py [--minutes 10] [--seed 1] [--leak memory|descriptor|connection|thread]

Every byte that comes back is compared with what was written. Before the faults begin and after they have
ended, all connections that the settings allow for are in use at once, both ways; from the one time to
the other not one descriptor of any kind and no thread may have been added, and memory must not grow
within the second half (benchmarks/growth.py). The run also fails when a fault kind never fired, or when
uploads, temporary files or buffers are left. --leak lets something go every second, to see that.

Results: benchmarks/results/soak.json. The faults come from the project's own server (S3D_TLS=1: over
TLS).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import s3dlio_np  # noqa: E402
from benchmarks import growth  # noqa: E402
from tests.servers.own import Fault, OwnServer  # noqa: E402

PART = 5 << 20
SAMPLE_S = 1.0
CONNECTIONS = 16  # what the engine may have
SETTINGS = {
    "AWS_MAX_ATTEMPTS": "8",
    "S3DLIO_HTTP_MAX_CONNS": str(CONNECTIONS),
    "S3DLIO_RT_THREADS": "2",
}
LIVE_OBJECTS = 12  # for each place: beyond that, the oldest is deleted
RANDOM = np.random.default_rng(1).integers(0, 256, 48 << 20, np.uint8)

# Together about 5 % of the requests that can meet them. Not `corrupt` for GetObject: the own server
# sends no checksum by which a reader of plain bytes could tell.
FAULTS: list[dict[str, Any]] = [
    {"op": "any", "kind": "status", "status": 503, "code": "SlowDown", "per_mille": 10},
    {"op": "any", "kind": "status", "status": 500, "code": "InternalError", "per_mille": 5},
    {"op": "any", "kind": "reset_before", "per_mille": 10},
    {"op": "any", "kind": "stall", "seconds": 0.05, "per_mille": 5},
    {"op": "GetObject", "kind": "reset_after", "bytes": 50_000, "per_mille": 10},
    {"op": "GetObject", "kind": "truncate", "bytes": 70_000, "per_mille": 10},
    {"op": "GetObject", "kind": "reset_after_headers", "per_mille": 10},
    {"op": "UploadPart", "kind": "refuse_body", "bytes": 90_000, "per_mille": 10},
    {"op": "UploadPart", "kind": "lost_reply", "per_mille": 20},
    {"op": "PutObject", "kind": "lost_reply", "per_mille": 20},
    {"op": "CompleteMultipartUpload", "kind": "error_200", "per_mille": 20},
]


@dataclass
class Place:
    """Where objects go, and what is known to lie there: the slice of RANDOM that each one holds."""

    prefix: str
    live: dict[str, tuple[int, int]] = field(default_factory=dict)
    arrays: dict[str, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict)
    made: int = 0

    def fresh(self, suffix: str) -> str:
        self.made += 1
        return f"{self.prefix}/{self.made:06d}{suffix}"


class Soak:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.bytes_compared = 0

    def slice(self) -> tuple[int, int]:
        size = self.dice.choice([0, 1, 1000, 65_537, 1 << 20, PART + 3, 17_000_001])
        return self.dice.randrange(RANDOM.size - size + 1), size

    def expect(self, place: Place, uri: str, got: Any) -> None:
        start, size = place.live[uri]
        if not np.array_equal(np.frombuffer(got, np.uint8), RANDOM[start : start + size]):
            raise AssertionError(f"{uri}: other bytes than were written")
        self.bytes_compared += size

    def put(self, place: Place) -> None:
        uri, (start, size) = place.fresh(".bin"), self.slice()
        s3dlio_np.put(uri, RANDOM[start : start + size])
        place.live[uri] = (start, size)

    def write_stream(self, place: Place) -> None:
        uri, (start, size) = place.fresh(".bin"), self.slice()
        options = s3dlio_np.WriterOptions(compression=self.dice.choice([None, None, "zstd"]))
        if place.prefix.startswith("file:"):
            options = s3dlio_np.WriterOptions()  # a file does not say how it is compressed
        with s3dlio_np.open(uri, "wb", part_size=PART, options=options) as stream:
            for at in range(start, start + size, 3_000_000):
                stream.write(RANDOM[at : min(at + 3_000_000, start + size)])
        place.live[uri] = (start, size)

    def leave_stream(self, place: Place) -> None:
        """An exception in the body: no object, no upload."""
        uri = place.fresh(".left")
        try:
            with s3dlio_np.open(uri, "wb", part_size=PART) as stream:
                stream.write(RANDOM[: 2 * PART])
                raise KeyError("on purpose")
        except KeyError:
            pass
        if s3dlio_np.exists(uri):
            raise AssertionError(f"{uri}: an object that was never closed is there")

    def get(self, place: Place) -> None:
        if place.live:
            uri = self.dice.choice(list(place.live))
            self.expect(place, uri, s3dlio_np.get_bytes(uri))

    def read_stream(self, place: Place) -> None:
        if place.live:
            uri = self.dice.choice(list(place.live))
            with s3dlio_np.open(uri, part_size=1 << 20) as stream:
                pieces = []
                while piece := stream.read(self.dice.choice([4096, 300_000, 4_000_000])):
                    pieces.append(piece)
            self.expect(place, uri, b"".join(pieces))

    def save_arrays(self, place: Place) -> None:
        uri = place.fresh(".npz")
        first, second = (
            RANDOM[start : start + size] for start, size in (self.slice(), self.slice())
        )
        arrays = {"a": first, "b": second[: second.size // 8 * 8].view(np.float64)}
        s3dlio_np.save_numpy(uri, arrays, part_size=PART)
        place.arrays[uri] = arrays

    def load_arrays(self, place: Place) -> None:
        if place.arrays:
            uri = self.dice.choice(list(place.arrays))
            loaded = s3dlio_np.load_numpy(uri)
            for name, array in place.arrays[uri].items():
                if loaded[name].tobytes() != array.tobytes():
                    raise AssertionError(f"{uri}: {name} is another array than was saved")
                self.bytes_compared += array.nbytes

    def list_all(self, place: Place) -> None:
        found = {item["uri"] for item in s3dlio_np.list(place.prefix + "/")}
        if found != place.live.keys() | place.arrays.keys():
            raise AssertionError(f"{place.prefix}: {sorted(found)} is not what was written")

    def drop_oldest(self, place: Place) -> None:
        for known in (place.live, place.arrays):
            while len(known) > LIVE_OBJECTS:
                uri = next(iter(known))
                s3dlio_np.delete(uri)
                del known[uri]

    def step(self, place: Place) -> None:
        steps: list[Callable[[Place], None]] = [
            self.put, self.write_stream, self.leave_stream, self.get, self.get, self.read_stream,
            self.save_arrays, self.load_arrays, self.list_all, self.drop_oldest,
        ]  # fmt: skip
        chosen = self.dice.choice(steps)
        chosen(place)
        self.counts[chosen.__name__] += 1


def use_all(server: OwnServer, places: list[Place], pool: ThreadPoolExecutor) -> growth.Held:
    """What is held after all connections have been in use at once, for GETs and for parts."""
    stalls = [
        server.add_fault(op=op, kind="stall", seconds=0.3, count=-1)
        for op in ("GetObject", "UploadPart")
    ]
    whole = RANDOM[: RANDOM.size // PART * PART]
    uris = [f"{place.prefix}/all{i}" for place in places for i in range(4)]
    options = s3dlio_np.WriterOptions(part_size=PART)
    for uri in uris[::4]:
        s3dlio_np.put(uri, whole, options=options)
        with s3dlio_np.open(uri, part_size=1 << 20) as stream:
            if stream.read() != whole.tobytes():
                raise AssertionError(f"{uri}: other bytes than were written")
    # Parts last: a GET that stalls may be hedged, which closes its connection.
    list(pool.map(lambda uri: s3dlio_np.put(uri, whole, options=options), uris))
    held = growth.held(server.address[1])
    for uri in uris:
        s3dlio_np.delete(uri)
    if not all(stall.hits() > 2 * CONNECTIONS for stall in stalls):
        raise AssertionError("not all connections can have been in use")
    server.clear_faults()
    return held


def run(
    soak: Soak, places: list[Place], seconds: float, leak: Callable[[], Any]
) -> list[growth.Sample]:
    samples = [growth.sample()]
    while (now := time.monotonic()) < samples[0].seconds + seconds:
        soak.step(soak.dice.choice(places))
        if now - samples[-1].seconds >= SAMPLE_S:
            samples.append(growth.sample())
            leak()
    return samples


def faults_by_kind(faults: list[Fault]) -> dict[str, int]:
    rows = {row["id"]: row for row in faults[0].server.faults()}
    hits: Counter[str] = Counter()
    for fault in faults:
        row = rows[fault.id]
        hits[f"{row['op']} {row['kind']}"] += row["hits"]
    return dict(hits)


def left_behind(server: OwnServer, folder: str, soak: Soak, places: list[Place]) -> list[str]:
    """Uploads and files that nobody knows of; deletes what is known."""
    for place in places:
        soak.list_all(place)
        for uri in [*place.live, *place.arrays]:
            s3dlio_np.delete(uri)
    names = [str(row["key"]) for row in [*server.uploads(), *server.objects()]]
    return names + [path.name for path in Path(folder).rglob("*") if path.is_file()]


def problems(figures: dict[str, Any]) -> list[str]:
    found: list[str] = figures.pop("growth")
    found += [
        f"the fault {name} never fired" for name, hits in figures["faults"].items() if not hits
    ]
    found += [f"left behind: {name}" for name in figures["left_behind"]]
    if figures["engine"]["memory_held_bytes"]:
        found.append(f"buffers held: {figures['engine']['memory_held_bytes']} bytes")
    if figures["held"]["after"]["descriptors"].get("connections") != CONNECTIONS:
        found.append(f"not the {CONNECTIONS} connections that the settings say")
    return found


def work(
    soak: Soak, args: argparse.Namespace, server: OwnServer, folder: str
) -> dict[str, Any]:
    places = [Place(f"file://{folder}"), Place("s3://bucket/soak")]
    kept: list[socket.socket] = []
    leaks = growth.LEAKS | {
        "connection": lambda: kept.append(socket.create_connection(server.address))
    }
    with ThreadPoolExecutor(4) as pool:  # its threads count, too
        before = use_all(server, places, pool)
        server.reset()
        rules = [{"count": -1, "seed": args.seed + i, **rule} for i, rule in enumerate(FAULTS)]
        faults = [server.add_fault(**rule) for rule in rules]
        samples = run(soak, places, args.minutes * 60, leaks.get(args.leak, lambda: None))
        requests = sum(server.counters()["requests"].values())
        hits = faults_by_kind(faults)
        server.clear_faults()
        after = use_all(server, places, pool)
    return {
        "minutes": args.minutes,
        "seed": args.seed,
        "tls": server.tls,
        "steps": dict(sorted(soak.counts.items())),
        "bytes_compared": soak.bytes_compared,
        "requests": requests,
        "faults": hits,
        "faults_percent": round(100 * sum(hits.values()) / requests, 2),
        "engine": s3dlio_np.stats(),
        "memory": growth.memory(samples),
        "held": {"before": before._asdict(), "after": after._asdict()},
        "left_behind": left_behind(server, folder, soak, places),
        "growth": growth.problems(samples, before, after),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leak", choices=[*growth.LEAKS, "connection"])
    args = parser.parse_args()
    growth.give_back_at_once()
    soak = Soak(args.seed)
    with tempfile.TemporaryDirectory() as folder, OwnServer(md5=True) as server:
        os.environ.update(server.env() | SETTINGS)
        figures = work(soak, args, server, folder)
    figures["problems"] = problems(figures)
    print(json.dumps(figures, indent=2))
    if args.leak is None:
        results = ROOT / "benchmarks" / "results" / "soak.json"
        results.write_text(json.dumps(figures, indent=2) + "\n")
    for problem in figures["problems"]:
        print(f"soak: {problem}", file=sys.stderr)
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
