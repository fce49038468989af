"""How long single ranged GETs take when some of the store's answers stall, with and without hedges.

    python benchmarks/bench_stragglers.py [--gets N] [--threads N] [--stall S] [--rounds N] [--hedge MS ...]

GETs of 64 KiB (`get_into` with an offset) by several threads, against the project's own S3 server, near
(answers at once) and at the distance of a real one (answers begin after 30 ms). One GET in so many stalls
for S seconds before its first byte; the server counts them.

A round is one process with one hedge setting. In it batches without stalls and with more and more of
them take turns, so that all arms meet the same mood of the machine; N GETs for each arm. A ratio is an
arm's percentile over that of the round's own arm without stalls: the median of all rounds, and the least
and the most. With as many stalls as GETs that p99 leaves out, it is the longest of all others: a noisy
figure, for which one stall in 200 stands beside it, and p99.5. Milliseconds are over the GETs of all
rounds. Writes benchmarks/results/stragglers.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine, write_json
from tests import child
from tests.servers.own import OwnServer

RESULTS = Path(__file__).resolve().parent / "results"
PIECE = 64 * 1024
OBJECT_PIECES = 1024
WARM_UP = 100
BATCH = 200
DISTANCES_MS = {"near": 0, "30 ms away": 30}
ARMS = {
    "no stalls": 0,
    "0.5 % stall": 200,
    "1 % stall": 100,
    "2 % stall": 50,
}  # one GET in so many
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.5": 0.995, "p99.9": 0.999}

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

with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    for line in sys.stdin:
        seconds = list(pool.map(fetch, range(int(line))))
        stats = s3dlio_np.stats()
        print(json.dumps([seconds, stats["hedges"], stats["retries"]]), flush=True)
"""


def percentile(seconds: list[float], share: float) -> float:
    """Nearest rank: at least this share is not longer."""
    return sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]


class Arm:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.stalls = self.hedges = self.retries = 0


def fetch(process: subprocess.Popen[str], gets: int) -> tuple[list[float], int, int]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{gets}\n")
    process.stdin.flush()
    seconds, hedges, retries = json.loads(process.stdout.readline())
    return seconds, hedges, retries


def run_round(distance_ms: int, hedge: str, options: argparse.Namespace) -> dict[str, Arm]:
    """One process's GETs, all arms in turn."""
    arms = {name: Arm() for name in ARMS}
    data = {"bucket/data": PIECE * OBJECT_PIECES}
    with OwnServer(latency_ms=distance_ms, pattern_objects=data) as server:
        env = {**server.env(), "S3DLIO_HEDGE": hedge}
        with child.start(WORKER, options.threads, env=env, stdin=True) as process:
            _, hedges, retries = fetch(process, WARM_UP)
            for _ in range(max(1, options.gets // BATCH)):
                for name, every in ARMS.items():
                    arm, fault = arms[name], None
                    if every:
                        fault = server.add_fault(
                            op="GetObject",
                            kind="stall",
                            seconds=options.stall,
                            every=every,
                            count=-1,
                        )
                    seconds, hedges_then, retries_then = fetch(process, BATCH)
                    arm.seconds += seconds
                    arm.hedges += hedges_then - hedges
                    arm.retries += retries_then - retries
                    hedges, retries = hedges_then, retries_then
                    arm.stalls += fault.hits() if fault else 0
                    server.clear_faults()
            process.communicate()
    if any(bool(every) != bool(arms[name].stalls) for name, every in ARMS.items()):
        raise RuntimeError("the stalls did not take place")
    return arms


def summary(rounds: list[dict[str, Arm]], name: str) -> dict[str, Any]:
    arms = [arms[name] for arms in rounds]
    pooled = [seconds for arm in arms for seconds in arm.seconds]
    row: dict[str, Any] = {
        "gets": len(pooled),
        "stalls": sum(arm.stalls for arm in arms),
        "hedges": sum(arm.hedges for arm in arms),
        "retries": sum(arm.retries for arm in arms),
        "max_ms": max(pooled) * 1e3,
    }
    for label, share in PERCENTILES.items():
        row[f"{label}_ms"] = percentile(pooled, share) * 1e3
        ratios = sorted(
            percentile(of[name].seconds, share) / percentile(of["no stalls"].seconds, share)
            for of in rounds
        )
        row[f"{label}_ratio"] = [statistics.median(ratios), ratios[0], ratios[-1]]
    return row


def report(title: str, rows: dict[str, dict[str, Any]]) -> None:
    heads = " ".join(f"{label + ' ms':>9}" for label in PERCENTILES)
    print(
        f"\n{title:<30} {heads} {'p99 over no stalls':>20} {'p99.5':>20} {'stalls':>7} {'hedges':>7}"
    )
    for name, row in rows.items():
        times = " ".join(f"{row[f'{label}_ms']:9.1f}" for label in PERCENTILES)
        ratios = " ".join(
            "{:7.2f} ({:.2f}-{:.2f})".format(*row[f"{label}_ratio"]).rjust(20)
            for label in ("p99", "p99.5")
        )
        print(f"{name:<30} {times} {ratios} {row['stalls']:7} {row['hedges']:7}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gets", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--stall", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hedge", nargs="+", default=["100", "50", "0"])
    options = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "options": vars(options), "figures": {}}
    for title, distance_ms in DISTANCES_MS.items():
        rounds: dict[str, list[dict[str, Arm]]] = {hedge: [] for hedge in options.hedge}
        for _ in range(options.rounds):
            for hedge, of in rounds.items():
                of.append(run_round(distance_ms, hedge, options))
        rows = {
            f"{name}, S3DLIO_HEDGE={hedge}": summary(of, name)
            for hedge, of in rounds.items()
            for name in ARMS
        }
        document["figures"][title] = rows
        report(title, rows)
    write_json(RESULTS / "stragglers.json", document)


if __name__ == "__main__":
    main()
