"""Runs one job at a time in a process of its own and takes its figures.

A job is a function in the benchmark script, registered with @job. `measure` starts the script
again with the job's name, so that memory, CPU time and caches of one way never colour another's.
Rounds go through all jobs in turn, which spreads a noisy machine's moods over all of them; the
median of the rounds is what is reported.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TOUCHED_BYTES = 1 << 30  # where a job's result holds nothing
SETTLE_S = 3
Step = Callable[[], Any]
_jobs: dict[str, Callable[..., tuple[Step, int]]] = {}


def job(function: Callable[..., tuple[Step, int]]) -> Callable[..., tuple[Step, int]]:
    """Registers a job: called with the job's arguments, it prepares and returns (step, keeps).

    Only `step()` is timed; `keeps` is how many bytes its result holds, which are not counted as
    extra memory.
    """
    _jobs[function.__name__] = function
    return function


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _touch_memory(size: int) -> None:
    """Touches and frees `size` bytes.

    A virtual machine's host backs memory when it is touched for the first time, at several times
    the cost of the kernel's own page faults, and may take free memory back within seconds. That
    cost belongs to no way that is measured here, so it is paid before. Private memory, so that it
    comes and goes in huge pages where the system has them. Linux reports free memory to the host
    two seconds after some has become free: what was freed before is to be told by then, and what is
    freed here not before the step has ended.
    """
    time.sleep(SETTLE_S)
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        with memoryview(memory) as view:
            pages = view[:: mmap.PAGESIZE]
            pages[:] = bytes(len(pages))
            pages.release()


def _run_here(name: str, arguments: dict[str, Any]) -> dict[str, float]:
    step, keeps = _jobs[name](**arguments)
    _touch_memory(3 * keeps or TOUCHED_BYTES)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = status_bytes("VmRSS")
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    result = step()
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    extra = status_bytes("VmHWM") - before - keeps
    del result
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime,
        "extra_bytes": max(0, extra),
    }


def run_as_worker() -> bool:
    """In the child process: runs the job and prints its figures. False in the parent."""
    if len(sys.argv) != 4 or sys.argv[1] != "--job":
        return False
    print("FIGURES " + json.dumps(_run_here(sys.argv[2], json.loads(sys.argv[3]))))
    return True


def _run_apart(script: str, name: str, arguments: dict[str, Any], env: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, script, "--job", name, json.dumps(arguments)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("FIGURES "):
            figures: dict[str, float] = json.loads(line.removeprefix("FIGURES "))
            return figures
    raise RuntimeError(f"{name} {arguments} failed ({done.returncode}):\n{done.stderr[-3000:]}")


def warm_up(script: str, name: str, arguments: dict[str, Any], env: dict[str, str]) -> None:
    """Runs a job once, uncounted."""
    _run_apart(script, name, arguments, env)


def measure(
    script: str,
    plan: list[tuple[str, str, dict[str, Any]]],
    *,
    size: int,
    rounds: int,
    env: dict[str, str],
    between: Step = lambda: None,
    observe: Callable[[], dict[str, float]] = dict,
) -> dict[str, dict[str, float]]:
    """Runs every (label, job, arguments) of the plan `rounds` times in turn; medians by label.

    `size` (bytes) turns seconds into gb_per_s and CPU seconds into cpu_s_per_gb. A job that
    fails is reported with its error and left out, so that one broken peer does not hide the rest.
    observe() tells more figures of the run that has just ended; between() follows it.
    """
    taken: dict[str, list[dict[str, float]]] = {label: [] for label, _, _ in plan}
    broken: dict[str, str] = {}
    for _ in range(rounds):
        for label, name, arguments in plan:
            if label in broken:
                continue
            try:
                taken[label].append({**_run_apart(script, name, arguments, env), **observe()})
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                broken[label] = str(error)
                print(f"!! {label} left out: {error}", file=sys.stderr)
            between()
    medians = {}
    for label, runs in taken.items():
        if label in broken:
            continue
        seconds = statistics.median(run["seconds"] for run in runs)
        cpu = statistics.median(run["cpu_seconds"] for run in runs)
        medians[label] = {
            "seconds": seconds,
            "gb_per_s": size / seconds / 1e9,
            "cpu_s_per_gb": cpu / (size / 1e9),
            "extra_mib": statistics.median(run["extra_bytes"] for run in runs) / 2**20,
        }
        observed = runs[0].keys() - {"seconds", "cpu_seconds", "extra_bytes"}
        medians[label] |= {
            name: statistics.median(run[name] for run in runs) for name in sorted(observed)
        }
    return medians


def machine() -> dict[str, Any]:
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {"cores": os.cpu_count(), "cpu": cpu, "python": platform.python_version()}


def report(title: str, figures: dict[str, dict[str, float]]) -> None:
    print(f"\n{title:<36} {'GB/s':>7} {'CPU-s/GB':>9} {'extra MiB':>10} {'in flight':>10}")
    for label, row in figures.items():
        cells = f"{row['gb_per_s']:7.2f} {row['cpu_s_per_gb']:9.2f} {row['extra_mib']:10.1f}"
        print(f"{label:<36} {cells} {row.get('requests_in_flight', float('nan')):10.0f}")


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\nwritten: {path}")
