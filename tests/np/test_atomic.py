"""An object appears whole or not at all, however its writer ends; nothing else stays behind."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import pickle
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests import child
from tests.marks import near

PART = 5 * 1024 * 1024
DATA = np.random.default_rng(4).integers(0, 256, 4 * PART + 99, np.uint8).tobytes()
OLD = b"the old content"
BEFORE_PARTS, AFTER_PARTS = 1000, 3 * PART + 1  # how much is written when it happens


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in pickling")


def opened(target: Any, **keywords: Any) -> Any:
    return s3dlio_np.open(target.uri("x"), "wb", part_size=PART, max_concurrency=2, **keywords)


@pytest.fixture(params=["new", "old"])
def place(request: pytest.FixtureRequest, target: Any) -> Any:
    """A target where x does not exist yet, or has content that must stay."""
    if request.param == "old":
        target.write("x", OLD)
    target.unchanged = lambda: unchanged(target, request.param)
    return target


def unchanged(target: Any, kind: str) -> bool:
    content = [target.read(name) for name in target.names()]
    return content == ([OLD] if kind == "old" else []) and target.leftovers() == []


# --- in the `with` body -------------------------------------------------------------------------

ENDS: dict[str, BaseException] = {
    "exception": ZeroDivisionError(),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator exit": GeneratorExit(),
}


@pytest.mark.parametrize("size", [0, BEFORE_PARTS, AFTER_PARTS])
@pytest.mark.parametrize("name", ENDS)
def test_an_exception_in_the_body(place: Any, size: int, name: str) -> None:
    with pytest.raises(type(ENDS[name])):
        with opened(place) as stream:
            stream.write(DATA[:size])
            raise ENDS[name]
    assert stream.closed
    assert place.unchanged()


@pytest.mark.parametrize("size", [0, BEFORE_PARTS, AFTER_PARTS])
@pytest.mark.parametrize("how", ["del", "cycle", "abort"])
def test_no_close(place: Any, size: int, how: str) -> None:
    stream = opened(place)
    stream.write(DATA[:size])
    if how == "abort":
        stream.abort()
        assert place.unchanged()
        return
    if how == "cycle":
        stream.me = [stream]
    with pytest.warns(ResourceWarning, match="unclosed"):
        del stream
        gc.collect()
    assert place.unchanged()


@near
def test_an_abandoned_generator(place: Any) -> None:
    def write() -> Any:
        with opened(place) as stream:
            while True:
                stream.write(DATA[:PART])
                yield

    generator = write()
    for _ in range(3):
        next(generator)
    generator.close()
    assert place.unchanged()


@near
def test_in_an_exit_stack(place: Any) -> None:
    with pytest.raises(ZeroDivisionError), contextlib.ExitStack() as stack:
        stream = stack.enter_context(opened(place))
        stream.write(DATA)
        stack.callback(lambda: 1 // 0)
    assert place.unchanged()


WRITERS: dict[str, Callable[[Any], Any]] = {
    "np.save": lambda file: np.save(file, np.array([1, Unpicklable()], object)),
    "np.savez": lambda file: np.savez(
        file, a=np.zeros(AFTER_PARTS, "u1"), b=np.array([Unpicklable()], object)
    ),
    "np.savez_compressed": lambda file: np.savez_compressed(
        file, a=np.frombuffer(DATA, "u1"), b=np.array([Unpicklable()], object)
    ),
    "pickle": lambda file: pickle.dump([DATA[:AFTER_PARTS], Unpicklable()], file),
}


@near
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_writer_that_fails_half_way(place: Any, write: Any) -> None:
    """zipfile writes its directory even then, and its finaliser once more."""
    with pytest.raises(ZeroDivisionError):
        with opened(place) as stream:
            write(stream)
    gc.collect()
    assert place.unchanged()


@near
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_zip_file_that_outlives_the_stream(place: Any) -> None:
    stream = opened(place)
    archive = zipfile.ZipFile(stream, "w")
    archive.writestr("a", DATA[: 2 * PART])
    stream.abort()
    del archive
    gc.collect()
    assert place.unchanged()
    stream = opened(place)
    archive = zipfile.ZipFile(stream, "w")
    archive.writestr("a", DATA[: 2 * PART])
    del stream, archive  # the archive's finaliser writes a whole file, but no one closes it
    gc.collect()
    assert place.unchanged()


def test_flush_is_no_commit(place: Any) -> None:
    stream = opened(place)
    for size in (BEFORE_PARTS, AFTER_PARTS):
        stream.write(DATA[:size])
        stream.flush()
    wrapped = io.BufferedWriter(stream)
    wrapped.write(b"more")
    wrapped.flush()
    wrapped.detach()
    stream.abort()
    assert place.unchanged()


def test_visible_only_after_close(target: Any) -> None:
    target.write("x", OLD)
    stream = opened(target)
    for start in range(0, len(DATA), 1_000_000):
        stream.write(DATA[start : start + 1_000_000])
        assert target.read("x") == OLD
    stream.close()
    assert target.read("x") == DATA
    assert target.leftovers() == []


# --- the server says no -------------------------------------------------------------------------


def write_all(target: Any) -> None:
    with opened(target) as stream:
        for start in range(0, len(DATA), 1_000_000):
            stream.write(DATA[start : start + 1_000_000])


FAILURES = {
    "create": {"op": "CreateMultipartUpload", "status": 403, "code": "AccessDenied"},
    "create, bad": {"op": "CreateMultipartUpload", "status": 400, "code": "InvalidRequest"},
    "first part": {"op": "UploadPart", "part": 1, "status": 403, "code": "AccessDenied"},
    "third part": {"op": "UploadPart", "part": 3, "status": 403, "code": "ExpiredToken"},
    "last part": {"op": "UploadPart", "part": 5, "status": 400, "code": "EntityTooLarge"},
    "part, upload gone": {"op": "UploadPart", "part": 2, "status": 404, "code": "NoSuchUpload"},
    "complete": {"op": "CompleteMultipartUpload", "status": 403, "code": "AccessDenied"},
    "complete, bad": {"op": "CompleteMultipartUpload", "status": 400, "code": "InvalidPart"},
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_a_refusal(s3_own: Any, name: str, old: bool) -> None:
    rule = {"kind": "status", "count": -1, **FAILURES[name]}
    if old:
        s3_own.put("x", OLD)
    fault = s3_own.server.add_fault(**rule)
    with pytest.raises(s3dlio_np.StorageError, match=str(rule["code"])) as caught:
        write_all(s3_own)
    assert fault.hits() == 1
    assert caught.value.status == rule["status"]
    assert isinstance(caught.value, PermissionError) == (rule["status"] == 403)
    s3_own.server.clear_faults()
    assert s3_own.objects() == ({"x": len(OLD)} if old else {})
    assert s3_own.uploads() == []


PERSISTENT: dict[str, dict[str, Any]] = {
    "500 to a part": {"op": "UploadPart", "part": 2, "kind": "status", "status": 500},
    "503 to all parts": {"op": "UploadPart", "kind": "status", "status": 503},
    "reset parts": {"op": "UploadPart", "kind": "reset_before"},
    "refused bodies": {"op": "UploadPart", "kind": "refuse_body", "bytes": 1000},
    "500 to create": {"op": "CreateMultipartUpload", "kind": "status", "status": 500},
    "reset create": {"op": "CreateMultipartUpload", "kind": "reset_before"},
    "500 to complete": {"op": "CompleteMultipartUpload", "kind": "status", "status": 500},
    "error behind a 200": {"op": "CompleteMultipartUpload", "kind": "error_200"},
    "reset complete": {"op": "CompleteMultipartUpload", "kind": "reset_before"},
}


@pytest.mark.parametrize("name", PERSISTENT)
def test_a_server_that_stays_broken(s3_own: Any, name: str) -> None:
    """In a process of its own: two attempts are enough here, and that counts for an engine."""
    rule = {"count": -1, "code": "InternalError", **PERSISTENT[name]}
    if "status" not in rule and rule["kind"] != "error_200":
        del rule["code"]
    if rule["kind"] == "error_200":
        del rule["count"]
        faults = [s3_own.server.add_fault(**rule) for _ in range(2)]
    else:
        faults = [s3_own.server.add_fault(**rule)]
    script = """
        import json, sys, s3dlio_np
        try:
            with s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20, max_concurrency=2) as stream:
                for _ in range(4):
                    stream.write(bytes(5 << 20))
        except s3dlio_np.StorageError as error:
            print(json.dumps([error.code, error.attempts, error.operation, str(error)]))
    """
    printed = child.run(script, s3_own.uri("x"), env={"AWS_MAX_ATTEMPTS": "2"})
    code, attempts, operation, text = json.loads(printed)
    assert all(fault.hits() >= 1 for fault in faults)
    assert code in ("SERVER", "THROTTLED", "NETWORK")
    assert attempts == 2
    assert operation.startswith(str(rule["op"]))
    assert s3_own.uri("x") in text
    s3_own.server.clear_faults()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_an_abort_that_fails_is_told(s3_own: Any) -> None:
    """The first cause stays the error; its text names the upload that is left."""
    s3_own.server.add_fault(
        op="UploadPart", part=1, kind="status", status=400, code="EntityTooLarge", count=-1
    )
    refused = s3_own.server.add_fault(
        op="AbortMultipartUpload", kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(s3dlio_np.StorageError, match="EntityTooLarge") as caught:
        write_all(s3_own)
    assert refused.hits() == 1
    left = s3_own.server.uploads()
    assert len(left) == 1
    assert left[0]["upload_id"] in str(caught.value)


# --- the process ends ---------------------------------------------------------------------------

WRITE_AND = """
    import atexit, os, signal, sys, threading, time
    import s3dlio_np
    uri, size, end = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if end == "atexit first":
        atexit.register(lambda: stream.write(b"late"))
    stream = s3dlio_np.open(uri, "wb", part_size=5 << 20, max_concurrency=2)
    if end == "atexit last":
        atexit.register(lambda: stream.write(b"late"))
    stream.write(bytes(size))
    def forever():
        while True:
            stream.write(bytes(100_000))
    if end == "exit":
        sys.exit(0)
    elif end == "exception":
        1 / 0
    elif end == "in a function":
        def write(other):
            other.write(bytes(size))
            sys.exit(0)
        write(s3dlio_np.open(uri, "wb", part_size=5 << 20))
    elif end == "cycle":
        stream.me = stream
    elif end == "daemon thread":
        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.3)
    elif end == "os._exit":
        os._exit(0)
    elif end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif end == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    elif end == "abort":
        os.abort()
"""
CLEAN_ENDS = ["nothing", "exit", "exception", "in a function", "cycle", "daemon thread"]
HARD_ENDS = {
    "os._exit": 0,
    "kill": -signal.SIGKILL,
    "terminate": -signal.SIGTERM,
    "abort": -signal.SIGABRT,
}


@pytest.mark.parametrize("size", [BEFORE_PARTS, AFTER_PARTS])
@pytest.mark.parametrize("end", [*CLEAN_ENDS, "atexit first", "atexit last"])
def test_the_interpreter_exits(place: Any, size: int, end: str) -> None:
    if type(getattr(place, "bucket", None)).__name__ == "S3Bucket" and size < PART:
        size = AFTER_PARTS  # short ones send nothing: once, on files, is enough
    child.run(WRITE_AND, place.uri("x"), size, end, status=1 if end == "exception" else 0)
    assert place.unchanged()


@near
@pytest.mark.parametrize("size", [BEFORE_PARTS, AFTER_PARTS])
@pytest.mark.parametrize("end", HARD_ENDS)
def test_the_process_is_gone_at_once(place: Any, size: int, end: str) -> None:
    """Nobody could clean up; what was there is whole all the same, and nothing new is seen."""
    child.run(WRITE_AND, place.uri("x"), size, end, status=HARD_ENDS[end])
    content = [place.read(name) for name in place.names() if name == "x"]
    assert content in ([], [OLD])
    place.write("y", b"")  # the place is as usable as before
    with opened(place) as stream:
        stream.write(DATA)
    assert place.read("x") == DATA


# --- Ctrl-C -------------------------------------------------------------------------------------

SAVE = {
    "write": "stream.write(bytes(60 << 20))",
    "many writes": "[stream.write(bytes(1 << 20)) for _ in range(60)]",
    "np.savez": "np.savez(stream, a=np.zeros(30 << 20, 'u1'), b=np.zeros(30 << 20, 'u1'))",
    "pickle": "pickle.dump(np.zeros(60 << 20, 'u1'), stream, 5)",
}


@pytest.mark.parametrize("name", SAVE)
def test_ctrl_c_in_a_save(s3_own: Any, name: str) -> None:
    """In the middle of a transfer that would take minutes: over at once, and clean."""
    s3_own.put("x", OLD)
    slow = s3_own.server.add_fault(
        op="UploadPart", kind="slow", bytes_per_s=1_000_000, count=-1
    )
    script = f"""
        import pickle, sys, numpy as np, s3dlio_np
        with s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20, max_concurrency=2) as stream:
            {SAVE[name]}
        print("not reached")
    """
    save = child.start(script, s3_own.uri("x"))
    status, said = child.kill_when(save, lambda: slow.matched() >= 2, signal.SIGINT)
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in said
    assert s3_own.get("x") == OLD
    assert s3_own.uploads() == []


def test_ctrl_c_in_a_put(s3_own: Any) -> None:
    slow = s3_own.server.add_fault(
        op="UploadPart", kind="slow", bytes_per_s=1_000_000, count=-1
    )
    script = "import sys, s3dlio_np; s3dlio_np.put(sys.argv[1], bytes(60 << 20))"
    save = child.start(script, s3_own.uri("x"))
    status, said = child.kill_when(save, lambda: slow.matched() >= 2, signal.SIGINT)
    assert (status, "KeyboardInterrupt" in said) == (-signal.SIGINT, True)
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_ctrl_c_between_writes_to_a_file(tmp_path: Path) -> None:
    path, ready = tmp_path / "x", tmp_path / "ready"
    path.write_bytes(OLD)
    script = """
        import sys, time, s3dlio_np
        with s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20) as stream:
            stream.write(bytes(20 << 20))
            open(sys.argv[2], "w").close()
            time.sleep(60)
    """
    save = child.start(script, path, ready)
    status, _ = child.kill_when(save, ready.exists, signal.SIGINT)
    assert status == -signal.SIGINT
    assert path.read_bytes() == OLD
    assert sorted(os.listdir(tmp_path)) == ["ready", "x"]


def test_a_reader_is_no_reason_to_linger(target: Any) -> None:
    """Open readers and finished writers at exit: no warning, no wait, no crash."""
    target.write("x", DATA)
    script = """
        import sys, s3dlio_np
        reader = s3dlio_np.open(sys.argv[1], part_size=1 << 20)
        assert reader.read(2 << 20)
        view = s3dlio_np.get_bytes_view(sys.argv[1])
        writer = s3dlio_np.open(sys.argv[1], "wb")
        writer.close()
        print("done")
    """
    assert child.run(script, target.uri("x"), env={"PYTHONWARNINGS": "error"}) == "done\n"
    assert target.read("x") == b""


@near
def test_warnings_as_errors_do_not_commit(place: Any) -> None:
    caught: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, caught.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            opened(place).write(DATA)
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert len(caught) == 1
    assert place.unchanged()
