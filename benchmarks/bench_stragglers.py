"""How long single ranged GETs take when some of the store's answers stall, with and without hedges.

    python benchmarks/bench_stragglers.py [--gets N] [--threads N] [--stall S] [--rounds N]

Each case is N GETs of 64 KiB (`get_into` with an offset) by several threads in a process of its own,
against the project's own S3 server, near (answers at once) and at the distance of a real one (answers
begin after 30 ms). One GET in so many stalls for S seconds before its first byte; the server counts them.
The cases of a row run one after the other, and the rounds in turn; each figure is over all its rounds.
Writes benchmarks/results/stragglers.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine, write_json
from tests.servers.own import OwnServer

RESULTS = Path(__file__).resolve().parent / "results"
PIECE = 64 * 1024
OBJECT_PIECES = 1024
WARM_UP = 100
DISTANCES_MS = {"near": 0, "30 ms away": 30}
# name, one GET in so many stalls (0: none), hedge setting
CASES = [
    ("no stalls", 0, None),
    ("1 % stall", 100, None),
    ("2 % stall", 50, None),
    ("2 % stall, from 50 ms on", 50, "50"),
    ("no stalls, hedges off", 0, "0"),
    ("1 % stall, hedges off", 100, "0"),
    ("2 % stall, hedges off", 50, "0"),
]

WORKER = f"""
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import s3dlio_np

def fetch(i):
    memory = bytearray({PIECE})
    start = time.perf_counter()
    s3dlio_np.get_into(
        "s3://bucket/data", memory, offset=i % {OBJECT_PIECES} * {PIECE}, length={PIECE}
    )
    return time.perf_counter() - start

gets, threads = int(sys.argv[1]), int(sys.argv[2])
with ThreadPoolExecutor(threads) as pool:
    list(pool.map(fetch, range({WARM_UP})))
    print("warm", flush=True)
    sys.stdin.readline()
    seconds = list(pool.map(fetch, range(gets)))
stats = s3dlio_np.stats()
print(json.dumps({{"seconds": seconds, "hedges": stats["hedges"], "retries": stats["retries"]}}))
"""


def run_case(
    distance_ms: int, every: int, hedge: str | None, options: argparse.Namespace
) -> dict[str, Any]:
    """One process's GETs; the stalls begin when it is warm."""
    data = {"bucket/data": PIECE * OBJECT_PIECES}
    with OwnServer(latency_ms=distance_ms, pattern_objects=data) as server:
        env = server.env() | ({} if hedge is None else {"S3DLIO_HEDGE": hedge})
        root = str(Path(__file__).resolve().parents[1])
        command = [sys.executable, "-c", WORKER, str(options.gets), str(options.threads)]
        with subprocess.Popen(
            command,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            if process.stdout.readline() != "warm\n":
                raise RuntimeError("the client did not start")
            fault = None
            if every:
                fault = server.add_fault(
                    op="GetObject", kind="stall", seconds=options.stall, every=every, count=-1
                )
            process.stdin.write("go\n")
            process.stdin.flush()
            found: dict[str, Any] = json.loads(process.stdout.readline())
        found["stalls"] = fault.hits() if fault else 0
        if bool(every) != bool(found["stalls"]):
            raise RuntimeError("the stalls did not take place")
        return found


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank: at least this share is not longer."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    ordered = sorted(seconds for run in runs for seconds in run["seconds"])
    return {
        "p50_ms": percentile(ordered, 0.5) * 1e3,
        "p99_ms": percentile(ordered, 0.99) * 1e3,
        "p99_9_ms": percentile(ordered, 0.999) * 1e3,
        "max_ms": ordered[-1] * 1e3,
        "gets": len(ordered),
        "stalls": sum(run["stalls"] for run in runs),
        "hedges": sum(run["hedges"] for run in runs),
        "retries": sum(run["retries"] for run in runs),
    }


def measure(distance_ms: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in CASES}
    for _ in range(options.rounds):
        for name, every, hedge in CASES:
            runs[name].append(run_case(distance_ms, every, hedge, options))
    figures = {name: summary(of_case) for name, of_case in runs.items()}
    for row in figures.values():
        row["p99_over_no_stalls"] = row["p99_ms"] / figures["no stalls"]["p99_ms"]
    return figures


def report(title: str, figures: dict[str, dict[str, float]]) -> None:
    print(
        f"\n{title:<25} {'p50':>8} {'p99':>8} {'p99.9':>8} {'max ms':>8} {'stalls':>7} {'hedges':>7}"
    )
    for name, row in figures.items():
        times = " ".join(
            f"{row[key]:8.1f}" for key in ("p50_ms", "p99_ms", "p99_9_ms", "max_ms")
        )
        print(f"{name:<25} {times} {row['stalls']:7.0f} {row['hedges']:7.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gets", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--stall", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "options": vars(options), "figures": {}}
    for title, distance_ms in DISTANCES_MS.items():
        document["figures"][title] = measure(distance_ms, options)
        report(title, document["figures"][title])
    write_json(RESULTS / "stragglers.json", document)


if __name__ == "__main__":
    main()
