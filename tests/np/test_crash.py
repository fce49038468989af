"""SIGKILL at any moment of a save: the object is the old version or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import s3dlio_np
from tests import child
from tests.marks import near

SEED = 20240607
KILLS = 50
SIZE = 11 * 1024 * 1024  # three parts
FORKS = """
    import os, sys
    import s3dlio_np  # once: each line from stdin forks a process that saves until it is killed
    for line in sys.stdin:
        version, uri, size = line.split()
        data = bytes([int(version)]) * int(size)
        pid = os.fork()
        if pid == 0:
            while True:
                with s3dlio_np.open(uri, "wb", part_size=5 << 20, max_concurrency=2) as stream:
                    stream.write(data)
                os.write(1, b"saved\\n")
        os.write(1, b"%d\\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"gone\\n")
"""


def start_forks() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FORKS)],
        env={**os.environ, "PYTHONPATH": str(child.ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@near
def test_kill_at_random_moments(target: Any) -> None:
    """Each child saves a version of its own over and over, and is killed within a save."""
    random_moments = random.Random(SEED)
    uri, seen, killed_early = target.uri("x"), {0}, 0
    target.write("x", bytes(SIZE))
    with start_forks() as forks:
        assert forks.stdin is not None
        try:
            for kill in range(KILLS):
                version = kill + 1
                forks.stdin.write(f"{version} {uri} {SIZE}\n")
                forks.stdin.flush()
                pid = int(next_line(forks))
                if kill % 2:  # every other one in its second save or a later one
                    assert next_line(forks) == "saved"
                time.sleep(random_moments.uniform(0, 0.04))
                os.kill(pid, signal.SIGKILL)
                saves = kill % 2
                while (line := next_line(forks)) == "saved":
                    saves += 1
                assert line == "gone", line
                data = target.read("x")
                found = f"seed {SEED}, kill {kill}: {len(data)} bytes, {data[:1]!r}, {data[-1:]!r}"
                assert data == data[:1] * SIZE, found
                assert data[0] == version if saves else data[0] in (*seen, version), found
                killed_early += not saves
                seen = {data[0]}
        finally:
            forks.stdin.close()
    assert killed_early >= 5, "no kill came before a first save was done"
    with s3dlio_np.open(uri, "wb", part_size=5 << 20) as stream:
        stream.write(b"z" * SIZE)
    assert target.read("x") == b"z" * SIZE


def test_what_a_killed_process_leaves_can_be_found(tmp_path: Path) -> None:
    """A hidden file beside the target that the README names, never listed, in nobody's way."""
    script = """
        import os, signal, sys, s3dlio_np
        stream = s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20)
        stream.write(bytes(11 << 20))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "model.npz"
    child.run(script, path, status=-signal.SIGKILL)
    left = list(tmp_path.glob(".model.npz.*.s3dlio-tmp"))
    assert len(left) == 1 and list(tmp_path.iterdir()) == left
    assert s3dlio_np.list(tmp_path.as_uri() + "/") == []
    s3dlio_np.put(path, b"new")
    assert path.read_bytes() == b"new"
    assert left[0].exists()  # it may be another process's that is still at work
