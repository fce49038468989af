"""Runs a use while its n-th allocation fails, for n = 1, 2, ... until none is left to fail.

Each of the first 200, then about each third.

ENGINE: the engine's own, on any of its threads; only builds for debugging and sanitizers can do that
(csrc/core/mem.h). The interpreter's: what CPython asks for, once or ten times in a row, by its own
test module. Never for good: CPython 3.11 then goes round for ever where it notes the place of an
exception (ceval.c, exception_unwind).
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import random
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
HANG_S = 120
EACH_TO, N_MAX = 200, 5000
OLD = b"the old content"


def missing() -> str | None:
    """Why none of this can be done here."""
    if _native is None or not hasattr(_native, "_fail_allocation"):
        return "a build without allocation faults; run make pytest SAN=asan"
    if _testcapi is None:
        return "this Python has no _testcapi; on Debian: apt-get install libpython3-testsuite"
    return None


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_native, _testcapi = _module("s3dlio_np._native"), _module("_testcapi")


@dataclass(frozen=True)
class Allocations:
    """fail(n): from the n-th on; stop(): whether one is known to have failed.

    quiet: when nothing was seen to fail in so many attempts in a row, no more is left. stop() asks
    for no memory: there may be none yet.
    """

    fail: Callable[[int], object]
    stop: Callable[[], object]
    quiet: int


def _stop_engine() -> bool:
    failed: bool = _native._allocation_failed()
    _native._fail_allocation(0)
    return failed


def _interpreter(count: int) -> Allocations:
    def fail(n: int) -> None:
        _testcapi.set_nomemory(n, n + count)

    # It keeps no record, and goes on without some of what it does not get (a larger cache).
    return Allocations(fail, getattr(_testcapi, "remove_mem_hooks", bool), 30)


ENGINE = Allocations(lambda n: _native._fail_allocation(n), _stop_engine, 3)
_OF_INTERPRETER = [_interpreter(1), _interpreter(10)]
_NAMES = ["engine", "interpreter", "interpreter, ten"]
of_each_kind = pytest.mark.parametrize("allocations", [ENGINE, *_OF_INTERPRETER], ids=_NAMES)
of_the_interpreter = pytest.mark.parametrize("allocations", _OF_INTERPRETER, ids=_NAMES[1:])


def _attempt(
    allocations: Allocations, n: int, use: Callable[[], object]
) -> tuple[bool, BaseException | None]:
    raised: BaseException | None = None
    allocations.fail(n)
    try:
        use()
    except BaseException as error:  # noqa: BLE001 - judged by the caller
        raised = error
    finally:
        failed = allocations.stop()
    return bool(failed) or raised is not None, raised


def each_failure(
    allocations: Allocations, use: Callable[[], object], prepare: Callable[[], object]
) -> Iterator[BaseException | None]:
    """What each attempt that met a failure raised, None where it succeeded all the same."""
    quiet = 0
    dice = random.Random(1)
    n = 0
    while n < N_MAX:
        n += 1 if n < EACH_TO else dice.randrange(1, 6)
        prepare()
        failed, raised = _attempt(allocations, n, use)
        if raised is not None:
            traceback.clear_frames(raised.__traceback__)  # and the streams in them
        gc.collect()
        quiet = 0 if failed else quiet + 1
        if quiet == allocations.quiet:
            return
        if failed:
            yield raised
    raise AssertionError(f"there are more than {N_MAX} allocations")


# --- what may be raised -------------------------------------------------------------------------

# Where CPython or NumPy loses its MemoryError in what one of our Python functions calls.
LOST = {
    ("new_bytes", "NULL object passed to Py_BuildValue"): "numpy.ndarray.ctypes",
    ("save_pickle", "import of module 'numpy._core.numeric' failed"): "pickle",
    ("header_of", "error return without exception set"): "the call of a function in Python",
}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_lost(error: BaseException) -> bool:
    """Raised in a function of another library, which was not told about memory, or did not tell."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = Path(frame.filename)
    ours = place.is_relative_to(ROOT) and "site-packages" not in place.parts
    return not ours or any(name == frame.name and text in str(error) for name, text in LOST)


def judge(error: BaseException | None, allocations: Allocations) -> None:
    """A MemoryError, or raised because of one; where it was the interpreter's, it may be lost."""
    if error is None or any(isinstance(each, MemoryError) for each in _causes(error)):
        return
    if allocations is ENGINE or not _is_lost(error):
        raise AssertionError(f"raised without memory: {error!r}") from error


# --- reads and saves ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Save:
    """How something is written, how it is read again, and whether that is what was written."""

    do: Callable[[str], object]
    load: Callable[[str], object]
    right: Callable[[Any], bool]


def check_load(
    allocations: Allocations,
    uri: str,
    load: Callable[[str], object],
    right: Callable[[Any], bool],
) -> None:
    """Raises or is right; the next time, it is right."""
    assert right(load(uri))
    got: list[object] = []
    failures = 0
    for error in each_failure(allocations, lambda: got.append(load(uri)), got.clear):
        failures += 1
        judge(error, allocations)
        assert len(got) == (error is None) and all(right(each) for each in got)
        assert right(load(uri))
    assert failures > 0


def check_save(allocations: Allocations, target: Any, save: Save) -> None:
    """Whole or not at all, nothing left behind; the next time, it is there."""
    uri = target.uri("x")
    kept = 0
    for error in each_failure(
        allocations, lambda: save.do(uri), lambda: target.write("x", OLD)
    ):
        judge(error, allocations)
        assert target.leftovers() == []
        if target.read("x") == OLD:
            assert error is not None
            kept += 1
            save.do(uri)
        assert save.right(save.load(uri))
    assert kept > 0


@contextmanager
def bounded() -> Iterator[None]:
    """Ends the process, with every thread's stack, should this take minutes."""
    gc.collect()
    gc.freeze()  # what is there already need not be looked through each time
    faulthandler.dump_traceback_later(HANG_S, exit=True, file=2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # no memory for a stream's close()
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        gc.unfreeze()
