"""What makes `make soak` fail."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable

import pytest

from benchmarks import growth

HELD = growth.Held(7, {"connections": 16, "files": 5})


def run(of: Callable[[int], float], minutes: float = 10) -> list[growth.Sample]:
    """A sample a second, each with up to 200 KiB of noise and one in fifty with 30 MiB of it."""
    dice = random.Random(1)
    return [
        growth.Sample(
            second,
            int(100_000 + of(second) + dice.randrange(200) + 30_000 * (dice.random() < 0.02)),
        )
        for second in range(int(minutes * 60))
    ]


@pytest.mark.parametrize(
    "of",
    [
        lambda second: 0,
        lambda second: min(second, 240) * 100,  # warming up
        lambda second: -second * 10,
        lambda second: second % 20 * 50,  # up and down
    ],
    ids=["flat", "warms up", "shrinks", "waves"],
)
def test_what_does_not_grow(of: Callable[[int], float]) -> None:
    assert growth.problems(run(of), HELD, HELD) == []


@pytest.mark.parametrize(
    ("of", "least_kib"),
    [(lambda second: second * 5, 1400), (lambda second: second // 60 * 300, 1300)],
    ids=["slowly", "in steps"],
)
def test_memory_that_grows(of: Callable[[int], float], least_kib: int) -> None:
    (problem,) = growth.problems(run(of), HELD, HELD)
    assert problem.startswith("memory grew by ")
    assert int(problem.split()[3]) >= least_kib


@pytest.mark.parametrize("seconds", [1, 30])
def test_a_run_that_is_too_short(seconds: int) -> None:
    samples = run(lambda second: second * 1000, minutes=seconds / 60)
    (problem,) = growth.problems(samples, HELD, HELD)
    assert "too short" in problem
    assert growth.memory(samples)["samples"] == seconds


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (growth.Held(8, HELD.descriptors), "threads: 7 before, 8 after"),
        (
            growth.Held(7, {"connections": 17, "files": 5}),
            "descriptors, connections: 16 before, 17 after",
        ),
        (
            growth.Held(7, {"connections": 16, "files": 5, "pipe": 1}),
            "descriptors, pipe: 0 before, 1 after",
        ),
        (growth.Held(7, {"connections": 16}), "descriptors, files: 5 before, 0 after"),
    ],
)
def test_what_is_held_longer(after: growth.Held, said: str) -> None:
    assert growth.problems(run(lambda second: 0), HELD, after) == [said]


def test_descriptors_by_kind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        before = growth.held(port).descriptors
        pipe = os.pipe()
        with socket.create_connection(("127.0.0.1", port)), open(os.devnull) as _:
            after = growth.held(port).descriptors
        for number in pipe:
            os.close(number)
        assert growth.held(port).descriptors == before
    added = {kind: after[kind] - before.get(kind, 0) for kind in after}
    expected = {"connections": 1, "files": 1, "pipe": 2}
    assert {kind: count for kind, count in added.items() if count} == expected


@pytest.mark.parametrize("leak", sorted(growth.LEAKS))
def test_leaks_are_seen(leak: str) -> None:
    """In a process of its own, as what leaks stays."""
    from tests import child

    script = """
        import sys
        from benchmarks import growth
        def measure(count):
            first, before = growth.sample(), growth.held(1)
            for _ in range(count):
                growth.LEAKS[sys.argv[1]]()
            return growth.sample().rss_kib - first.rss_kib, before, growth.held(1)
        growth.give_back_at_once()
        measure(1)
        grown, before, after = measure(100)
        print("memory" if grown > 5000 else "-")
        print("descriptor" if sum(after[1].values()) - sum(before[1].values()) == 100 else "-")
        print("thread" if after.threads - before.threads == 100 else "-")
    """
    assert leak in child.run(script, leak).split()
