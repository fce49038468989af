"""Whether a process grows while it works: its memory, its threads, its descriptors by kind.

Memory is the resident set after malloc has given back what it holds free, sampled at intervals. What
counts is the trend over the second half of the run, by the median of the slopes between all pairs of
samples (Theil and Sen), which a fifth of them being off does not move. Descriptors and threads have no
trend: they are counted in a state that can be brought about again, before and after, and must be equal.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

TREND_SAMPLES = 20  # fewer tell nothing
GROWTH_KIB = 1024  # within the second half; less than that is no growth


class Sample(NamedTuple):
    seconds: float
    rss_kib: int


class Held(NamedTuple):
    """What a process holds of the system."""

    threads: int
    descriptors: dict[str, int]


_libc = ctypes.CDLL(None)


def give_back_at_once() -> None:
    """Has malloc map large blocks and trim its arenas, always: else each arena keeps the most that it ever held."""
    m_trim_threshold, m_mmap_threshold, bytes_ = -1, -3, 128 * 1024  # malloc.h; mallopt(3)
    if not (
        _libc.mallopt(m_mmap_threshold, bytes_) and _libc.mallopt(m_trim_threshold, bytes_)
    ):
        raise RuntimeError("mallopt failed")


def status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise RuntimeError(f"/proc/self/status has no {field}")


def sample() -> Sample:
    _libc.malloc_trim(0)
    return Sample(time.monotonic(), status("VmRSS"))


def held(server_port: int) -> Held:
    """`server_port`: descriptors of connections that lead there are a kind of their own."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    there = {row[9] for row in rows if int(row[2].rpartition(":")[2], 16) == server_port}
    kinds: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one by which the folder was read
        kind, _, inode = target.partition(":[")
        if kind == "socket":
            kind = "connections" if inode.rstrip("]") in there else "other sockets"
        kinds["files" if target.startswith("/") else kind] += 1
    return Held(status("Threads"), dict(sorted(kinds.items())))


def slope(samples: Sequence[Sample]) -> float:
    """KiB a second."""
    return statistics.median(
        (after.rss_kib - before.rss_kib) / (after.seconds - before.seconds)
        for before, after in combinations(samples, 2)
    )


def second_half(samples: Sequence[Sample]) -> Sequence[Sample]:
    middle = (samples[0].seconds + samples[-1].seconds) / 2
    return [row for row in samples if row.seconds >= middle]


def trend_kib(samples: Sequence[Sample]) -> float:
    """By how much memory grew within the second half; of too few samples, nothing is known."""
    late = second_half(samples)
    if len(late) < 2:
        return 0
    return slope(late) * (late[-1].seconds - late[0].seconds)


def memory(samples: Sequence[Sample]) -> dict[str, float]:
    late = second_half(samples)
    return {
        "samples": len(samples),
        "middle_kib": late[0].rss_kib,
        "last_kib": late[-1].rss_kib,
        "most_kib": max(row.rss_kib for row in samples),
        "second_half_trend_kib": round(trend_kib(samples)),
        "allowed_kib": GROWTH_KIB,
    }


def problems(samples: Sequence[Sample], before: Held, after: Held) -> list[str]:
    found = []
    if len(second_half(samples)) < TREND_SAMPLES:
        found.append(f"too short to tell whether memory grows: {len(samples)} samples")
    elif (grown := trend_kib(samples)) > GROWTH_KIB:
        found.append(f"memory grew by {grown:.0f} KiB in the second half of the run")
    if before.threads != after.threads:
        found.append(f"threads: {before.threads} before, {after.threads} after")
    for kind in sorted(before.descriptors.keys() | after.descriptors.keys()):
        was, now = before.descriptors.get(kind, 0), after.descriptors.get(kind, 0)
        if was != now:
            found.append(f"descriptors, {kind}: {was} before, {now} after")
    return found


# One of each a second, to see that the run fails.
_leaked: list[object] = []


def _leak_memory() -> None:
    _leaked.append(os.urandom(100_000))


def _leak_descriptor() -> None:
    _leaked.append(os.open(os.devnull, os.O_RDONLY))


def _leak_thread() -> None:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    _leaked.append(thread)


LEAKS: dict[str, Callable[[], None]] = {
    "memory": _leak_memory,
    "descriptor": _leak_descriptor,
    "thread": _leak_thread,
}
