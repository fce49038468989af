"""Ctrl-C in the middle of something."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def interrupted_when(ready: Callable[[], bool]) -> Iterator[None]:
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
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        done.set()
        watcher.join()
