"""fork, threads and signals around open streams; what the process looks like from outside."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests import child
from tests.marks import near

PART = 5 * 1024 * 1024
DATA = np.random.default_rng(6).integers(0, 256, 3 * PART + 7, np.uint8).tobytes()

PROLOGUE = """
    import gc, os, signal, sys, threading, time, traceback, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
    import s3dlio_np
    data = bytes(range(256)) * 60_000
    def save(uri):
        with s3dlio_np.open(uri, "wb", part_size=5 << 20, max_concurrency=2) as stream:
            stream.write(data)
    def load(uri):
        return s3dlio_np.get_bytes(uri, part_size=1 << 20, max_concurrency=4)
    def in_child(work):
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(99)
            os._exit(0)
        return pid
    def ended_well(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def run(script: str, *arguments: object, **keywords: Any) -> str:
    return child.run(PROLOGUE + script, *arguments, **keywords)


# --- fork ---------------------------------------------------------------------------------------


@near
def test_a_child_starts_afresh(target: Any) -> None:
    """After the parent's engine has run, and again while it runs; three generations."""
    script = """
    uri = sys.argv[1]
    save(uri)
    def grandchild():
        save(uri + "-c")
        assert load(uri) == data
    def child():
        assert load(uri) == data
        save(uri + "-b")
        assert ended_well(in_child(grandchild))
    for _ in range(3):
        assert ended_well(in_child(child))
        assert load(uri + "-b") == data
    s3dlio_np.open(uri).close()
    """
    run(script, target.uri("a"))
    target.uri("a-b"), target.uri("a-c")
    assert len({target.read(name) for name in ("a", "a-b", "a-c")}) == 1
    assert target.leftovers() == []


@near
def test_forks_in_the_middle_of_transfers(target: Any) -> None:
    script = """
    uri = sys.argv[1]
    stop = threading.Event()
    failures = []
    def work(i):
        while not stop.is_set():
            try:
                save(f"{uri}-{i}")
                assert load(f"{uri}-{i}") == data
            except BaseException as error:
                failures.append(error)
                raise
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    save(uri)
    def child():
        assert load(uri) == data
        save(uri + "-child")
    pids = []
    for _ in range(8):
        pids.append(in_child(child))
        time.sleep(0.02)
    ended = [ended_well(pid) for pid in pids]
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and all(ended), (failures, ended)
    """
    run(script, target.uri("a"))
    assert target.names() == ["a", "a-0", "a-1", "a-2", "a-3", "a-child"]


def test_an_open_upload_stays_the_parents(s3_own: Any) -> None:
    """A child that ends, cleanly or not, neither aborts nor commits it."""
    script = """
    uri = sys.argv[1]
    stream = s3dlio_np.open(uri, "wb", part_size=5 << 20, max_concurrency=2)
    stream.write(data[: 12 << 20])
    for end in (lambda: None, lambda: gc.collect(), lambda: sys.exit(0), lambda: stream.abort()):
        pid = os.fork()
        if pid == 0:
            try:
                end()
            except s3dlio_np.StorageError:
                pass
            except SystemExit:
                os.close(1)  # what else exit would flush is the parent's
                raise
            os._exit(0)
        assert ended_well(pid)
    stream.write(data[12 << 20 :])
    stream.close()
    """
    run(script, s3_own.uri("a"))
    assert s3_own.objects() == {"a": 256 * 60_000}
    assert s3_own.uploads() == []


@near
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(target: Any, method: str, tmp_path: Path) -> None:
    """A pool as data loaders use it: the parent has worked before, the children do now."""
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, sys, s3dlio_np\n"
        "def work(uri):\n"
        "    with s3dlio_np.open(uri, 'wb', part_size=5 << 20) as stream:\n"
        "        stream.write(bytes(11 << 20))\n"
        "    return len(s3dlio_np.get_bytes(uri))\n"
        "if __name__ == '__main__':\n"
        "    base, method = sys.argv[1:]\n"
        "    assert work(base) == 11 << 20\n"
        "    with multiprocessing.get_context(method).Pool(3) as pool:\n"
        "        sizes = pool.map(work, [f'{base}-{i}' for i in range(6)])\n"
        "    assert sizes == [11 << 20] * 6\n"
    )
    child.run(
        "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
        if method == "fork"
        else f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(program)!r},"
        " *sys.argv[2:]]))",
        program,
        target.uri("m"),
        method,
    )
    assert len(target.names()) == 7


@near
def test_programs_started_by_the_process_inherit_nothing(target: Any) -> None:
    """Neither connections nor files; curl's wake-up socket pairs are out of our reach."""
    script = """
    import json, subprocess
    listing = (
        "import json, os, socket, stat\\n"
        "for n in map(int, os.listdir('/proc/self/fd')):\\n"
        "    try: mode = os.fstat(n).st_mode\\n"
        "    except OSError: continue\\n"
        "    if n > 2 and stat.S_ISREG(mode): print('file', os.readlink(f'/proc/self/fd/{n}'))\\n"
        "    if n > 2 and stat.S_ISSOCK(mode) and socket.socket(fileno=n).family != socket.AF_UNIX:\\n"
        "        print('connection', n)\\n"
    )
    uri = sys.argv[1]
    save(uri)
    reader = s3dlio_np.open(uri, part_size=1 << 20)
    writer = s3dlio_np.open(uri + "-2", "wb", part_size=5 << 20)
    writer.write(data)
    reader.read(3 << 20)
    print(subprocess.check_output([sys.executable, "-c", listing], close_fds=False, text=True))
    writer.abort()
    """
    assert run(script, target.uri("a")).strip() == ""


# --- exit ---------------------------------------------------------------------------------------


@near
def test_use_at_exit(target: Any) -> None:
    """In atexit handlers, in finalisers of the last objects: a result or an exception, no crash."""
    script = """
    import atexit
    uri = sys.argv[1]
    class Late:
        def __del__(self):
            try:
                s3dlio_np.get_bytes(uri)
                s3dlio_np.open(uri + "-late", "wb").write(b"1")
            except Exception:
                pass
    late = Late()
    cycle = [late]
    cycle.append(cycle)
    def handler():
        try:
            save(uri + "-2")
            assert load(uri + "-2") == data
        except s3dlio_np.StorageError as error:
            assert "exit" in str(error)
        except RuntimeError as error:  # no new threads at this stage of exit
            pass
    save(uri)
    atexit.register(handler)
    """
    run(script, target.uri("a"))
    assert "a-late" not in target.names()


@near
def test_transfers_in_daemon_threads_at_exit(target: Any) -> None:
    script = """
    uri = sys.argv[1]
    save(uri)
    def forever(i):
        while True:
            save(f"{uri}-{i}")
            load(uri)
            s3dlio_np.open(uri, part_size=1 << 20).read()
    for i in range(4):
        threading.Thread(target=forever, args=(i,), daemon=True).start()
    time.sleep(0.5)
    """
    for _ in range(3):
        run(script, target.uri("a"))
    [target.uri(f"a-{i}") for i in range(4)]
    assert target.leftovers() == []
    for name in target.names():
        assert len(target.read(name)) == 256 * 60_000


def test_importing_twice_and_reloading() -> None:
    script = """
    import importlib
    first = s3dlio_np._native
    importlib.reload(s3dlio_np)
    del sys.modules["s3dlio_np._native"]
    try:
        again = importlib.import_module("s3dlio_np._native")
        s3dlio_np.stats()
    except ImportError:
        pass
    """
    run(script)


# --- signals ------------------------------------------------------------------------------------


def test_a_handler_runs_during_a_read_and_the_read_goes_on(s3_own: Any) -> None:
    s3_own.put("data", DATA)
    fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=0.5, skip=1, count=2)
    fired: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda number, frame: fired.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with s3dlio_np.open(s3_own.uri("data"), part_size=1 << 20, max_concurrency=2) as stream:
            assert stream.read() == DATA
        with s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART) as writer:
            writer.write(DATA)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert fault.hits() >= 1
    assert fired
    assert s3_own.get("new") == DATA


def test_a_handlers_exception_comes_through(s3_own: Any) -> None:
    class Told(Exception):
        pass

    def tell(number: int, frame: object) -> None:
        raise Told

    gc.collect()  # streams of other tests, which Ctrl-C ended: their failures lead back to them
    s3_own.put("data", DATA)
    fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=20, count=-1)
    old = signal.signal(signal.SIGALRM, tell)
    try:
        for use in (s3dlio_np.open, s3dlio_np.get_bytes, s3dlio_np.get_bytes_view):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Told):
                use(s3_own.uri("data"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert fault.matched() >= 3
    s3_own.server.clear_faults()
    assert s3dlio_np.get_bytes(s3_own.uri("data")) == DATA
    assert s3dlio_np.stats()["memory_held_bytes"] == 0


def test_sigpipe_and_broken_connections_do_not_end_the_process(s3_own: Any) -> None:
    script = """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    save(sys.argv[1])
    assert load(sys.argv[1]) == data
    """
    fault = s3_own.server.add_fault(op="UploadPart", kind="refuse_body", bytes=10_000, count=3)
    run(script, s3_own.uri("a"))
    assert fault.hits() == 3


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signals_during_a_load(s3_own: Any, signal_number: int) -> None:
    s3_own.put("data", DATA)
    fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=20, count=-1)
    script = PROLOGUE + "\n    load(sys.argv[1])\n"
    load = child.start(script, s3_own.uri("data"))
    status, _ = child.kill_when(load, lambda: fault.matched() > 0, signal_number)
    assert status == -signal_number


def test_ctrl_c_in_a_thread_that_waits_for_anothers_write(s3_own: Any) -> None:
    """The main thread waits for the stream's lock, held by a thread in a stalled write."""
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=2, count=-1)
    script = """
    stream = s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20, max_concurrency=1)
    failed = []
    def write():
        try:
            stream.write(data)
        except s3dlio_np.StorageError as error:
            failed.append(error)
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    time.sleep(0.3)
    stream.write(b"x")
    """
    waiting = child.start(PROLOGUE + script, s3_own.uri("a"))
    status, _ = child.kill_when(waiting, lambda: fault.matched() > 0, signal.SIGINT)
    assert status == -signal.SIGINT
    s3_own.server.clear_faults()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- other threads ------------------------------------------------------------------------------


def test_the_gil_is_free_during_transfers(s3_own: Any) -> None:
    """Python code of another thread runs while one thread waits for a stalled answer."""
    s3_own.put("data", DATA)
    fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=0.5, count=-1)
    counted = [0]
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    s3dlio_np.get_bytes(s3_own.uri("data"))
    during = counted[0]
    done.set()
    thread.join()
    assert fault.hits() >= 1
    assert during > 20


@near
def test_io_threads_take_no_signals(target: Any) -> None:
    """Python's handlers belong to Python's threads: ours block all signals."""
    target.write("x", DATA)
    assert s3dlio_np.get_bytes(target.uri("x")) == DATA
    masks = []
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "s3dlio-io":
            status = (task / "status").read_text()
            line = next(row for row in status.splitlines() if row.startswith("SigBlk:"))
            masks.append(int(line.split()[1], 16))
    assert masks
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1):
        assert all(mask >> (number - 1) & 1 for mask in masks), os.getpid()
