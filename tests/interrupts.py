"""Ctrl-C at a chosen moment, in the tests' own process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def interrupted_when(
    ready: Callable[[], object],
) -> Iterator[pytest.ExceptionInfo[KeyboardInterrupt]]:
    """Sends Ctrl-C to the main thread once `ready`; the body must end with KeyboardInterrupt."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if ready():
                os.kill(os.getpid(), signal.SIGINT)
                return
            done.wait(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            yield caught
    finally:
        done.set()
        watcher.join()
