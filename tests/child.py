"""Python programs in processes of their own: for exits, signals, forks and engine settings."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _command(script: str, arguments: tuple[object, ...]) -> list[str]:
    words = [str(argument) for argument in arguments]
    return [sys.executable, "-c", textwrap.dedent(script), *words]


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **(extra or {})}


def run(
    script: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    status: int = 0,
    timeout_s: float = 120,
) -> str:
    """What the program printed; it must end with `status` (negative: by that signal)."""
    done = subprocess.run(
        _command(script, arguments),
        env=_environment(env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def start(
    script: str, *arguments: object, env: Mapping[str, str] | None = None, stdin: bool = False
) -> subprocess.Popen[str]:
    """The program, running; its output is piped, and on request its input."""
    return subprocess.Popen(
        _command(script, arguments),
        env=_environment(env),
        stdin=subprocess.PIPE if stdin else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(
    child: subprocess.Popen[str],
    ready: Callable[[], bool],
    signal_number: int,
    timeout_s: float = 60,
) -> tuple[int, str]:
    """Sends the signal once `ready`; returns the exit status and what went to stderr."""
    with child:
        try:
            deadline = time.monotonic() + timeout_s
            while not ready():
                if child.poll() is not None or time.monotonic() > deadline:
                    child.kill()
                    raise AssertionError(f"never ready\n{child.communicate()}")
                time.sleep(0.02)
            child.send_signal(signal_number)
            _, said = child.communicate(timeout=timeout_s)
        except BaseException:
            child.kill()
            raise
    return child.returncode, said
