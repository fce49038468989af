"""Tests with third-party libraries; `make interop` runs them in an environment that has those.

A library that cannot be imported fails its file here: nothing is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

import s3dlio_np
from tests.conftest import FileTarget, S3Target, open_target

PART = 5 * 1024 * 1024  # the smallest that S3 takes
Broken = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(params=["s3-own", "file"])
def target(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[S3Target | FileTarget]:
    """The two places that a library can tell apart; real servers add nothing here."""
    yield from open_target(request, monkeypatch, tmp_path)


@pytest.fixture
def write(target: Any) -> Callable[[str], Any]:
    """Opens a name for writing, in small parts so that large values take the parallel path."""
    return lambda name: s3dlio_np.open(
        target.uri(name), "wb", part_size=PART, max_concurrency=2
    )


@pytest.fixture
def read(target: Any) -> Callable[[str], Any]:
    """Opens a name for reading, in small ranges for the same reason."""
    return lambda name: s3dlio_np.open(
        target.uri(name), part_size=256 * 1024, max_concurrency=4
    )


@pytest.fixture
def broken(target: Any, write: Any) -> Broken:
    """A `with` for a library's writer that fails half-way: bytes were written, no object appears."""

    @contextmanager
    def body(kind: type[BaseException], match: str | None = None) -> Iterator[Any]:
        with pytest.raises(kind, match=match), write("broken") as stream:
            try:
                yield stream
            finally:
                written = stream.tell()
        assert written > 0
        assert target.names() == []
        assert target.leftovers() == []

    return body


@pytest.fixture
def refused(target: Any) -> Broken:
    """As `broken`, but the library seeks or reads back, which a stream to an object cannot do."""

    @contextmanager
    def body(kind: type[BaseException] = OSError) -> Iterator[Any]:
        with pytest.raises(kind), s3dlio_np.open(target.uri("refused"), "wb") as stream:
            yield stream
        assert target.names() == []
        assert target.leftovers() == []

    return body
