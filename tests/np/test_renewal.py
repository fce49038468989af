"""How long credentials last: asked for once, renewed before they end, and ended with the process."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import s3dlio_np
from tests import child
from tests.np.credentials import HANGING, put, refused, use_container
from tests.servers.fake_aws import SECRET, FakeAws, Keys, Reply

PART = 5 << 20


# --- once in a process --------------------------------------------------------------------------


def test_threads_that_open_at_once_ask_once(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_container(fake, monkeypatch)
    fake.delay_s = 0.3
    barrier, failures = threading.Barrier(16), []

    def work(number: int) -> None:
        barrier.wait()
        try:
            put(place, str(number))
        except Exception as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert fake.actions() == ["GET /container"]
    assert place.server.keys() == {fake.issued[0].access: 16}


def test_a_failure_is_told_to_all_and_not_kept(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_container(fake, monkeypatch)
    fake.script.append(Reply(403))
    refused(place, "container")
    put(place)
    assert len(fake.seen) == 2


def test_another_source_is_another_identity(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/container/a", "/container/b", "/container/a"):
        use_container(fake, monkeypatch, path)
        put(place)
    assert [seen.path for seen in fake.seen] == ["/container/a", "/container/b"]


# --- renewal ------------------------------------------------------------------------------------


def slow_save(place: Any, seconds: float) -> None:
    """A multipart upload whose parts spread over that time."""
    with s3dlio_np.open(place.uri("long"), "wb", part_size=PART, max_concurrency=2) as stream:
        end = time.monotonic() + seconds
        written = 0
        while time.monotonic() < end or written < 4:
            stream.write(bytes(PART))
            written += 1
            time.sleep(seconds / 12)
    assert place.objects()["long"] == written * PART


def test_a_save_longer_than_its_keys(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses ended keys, so every part was signed with keys of its moment."""
    use_container(fake, monkeypatch)
    fake.lifetime_s = 3
    slow_save(place, 7)
    assert len(fake.issued) >= 3
    used = place.server.keys()
    assert sum(count > 0 for count in used.values()) >= 3
    assert place.uploads() == []


def test_a_save_longer_than_a_callbacks_keys(place: Any, fake: FakeAws) -> None:
    names: set[str] = set()

    def callback() -> tuple[str, str, str | None, datetime.datetime]:
        names.add(threading.current_thread().name)
        keys = fake.issue()
        expiry = datetime.datetime.fromtimestamp(keys.expires, datetime.timezone.utc)
        return keys.access, keys.secret, keys.token, expiry

    fake.lifetime_s = 3
    s3dlio_np.configure(credentials=callback)
    slow_save(place, 7)
    assert len(fake.issued) >= 3
    assert names == {"s3dlio-credentials"}


def test_a_failed_early_renewal_keeps_the_old_keys(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_container(fake, monkeypatch)
    fake.lifetime_s = 6
    put(place)
    fake.script += [Reply(403, b"not now")]
    end = time.monotonic() + 4.5  # renewal is due after three seconds and a bit
    while time.monotonic() < end:
        put(place)
        time.sleep(0.1)
    assert fake.script == []  # it was tried, and failed
    assert len(fake.issued) == 1
    while time.time() < fake.issued[0].expires + 0.2:  # time() lags behind by a tick of the kernel
        time.sleep(0.05)
    fake.script += [Reply(403, b"not now either")]
    with pytest.raises(PermissionError, match="container"):
        put(place)
    put(place)
    assert len(fake.issued) == 2


def expire(place: Any, keys: Keys) -> None:
    """By the server's clock they have ended, whatever the client thinks."""
    place.server.put_key(keys.access, keys.secret, keys.token, 1)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda uri: s3dlio_np.put(uri, b"1"), id="put"),
        pytest.param(lambda uri: s3dlio_np.get_bytes(uri), id="get"),
        pytest.param(lambda uri: s3dlio_np.stat(uri), id="stat"),
        pytest.param(lambda uri: s3dlio_np.delete(uri), id="delete"),
        pytest.param(lambda uri: s3dlio_np.list(uri), id="list"),
    ],
)
def test_the_server_says_expired(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, use: Callable[[str], Any]
) -> None:
    use_container(fake, monkeypatch)
    put(place)
    expire(place, fake.issued[0])
    use(place.uri("x"))
    assert len(fake.issued) == 2
    assert place.server.keys()[fake.issued[1].access] >= 1


def test_expired_in_the_middle_of_a_save(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All parts in flight learn of it, and one renewal serves them."""
    use_container(fake, monkeypatch)
    with s3dlio_np.open(place.uri("x"), "wb", part_size=PART, max_concurrency=8) as stream:
        stream.write(bytes(9 * PART))
        expire(place, fake.issued[0])
        stream.write(bytes(9 * PART))
    assert place.objects() == {"x": 18 * PART}
    assert len(fake.issued) == 2


def test_expired_again_at_once(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_container(fake, monkeypatch)
    fault = place.server.add_fault(
        op="PutObject", kind="status", status=400, code="ExpiredToken", count=-1
    )
    with pytest.raises(PermissionError, match="ExpiredToken"):
        put(place)
    assert fault.hits() == 2
    assert len(fake.issued) == 2


def test_expired_static_keys(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place.server.put_key("SK", f"{SECRET}k", f"{SECRET}t", 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}k")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{SECRET}t")
    with pytest.raises(PermissionError, match="ExpiredToken") as caught:
        put(place)
    assert caught.value.attempts == 1  # type: ignore[attr-defined]
    assert SECRET not in str(caught.value)


# --- the callback -------------------------------------------------------------------------------


EXPIRIES = [
    None,
    4102444800,
    4102444800.5,
    "2100-01-01T00:00:00Z",
    datetime.datetime(2100, 1, 1, tzinfo=datetime.timezone.utc),
]


@pytest.mark.parametrize("expiry", EXPIRIES)
def test_a_callback(place: Any, expiry: Any) -> None:
    asked: list[int] = []

    def callback() -> tuple[str, str, str | None, Any]:
        asked.append(threading.get_ident())
        return "testkey", "testsecret", None, expiry

    s3dlio_np.configure(credentials=callback)
    put(place)
    put(place)
    assert len(asked) == 1
    assert asked[0] != threading.get_ident()


def raising() -> Any:
    raise KeyError("the vault is shut")


@pytest.mark.parametrize(
    ("callback", "text"),
    [
        (raising, "KeyError: 'the vault is shut'"),
        (lambda: None, "NoneType"),
        (lambda: ("a", SECRET), "must return"),
        (lambda: [SECRET] * 4, "list"),
        (lambda: (b"a", SECRET, None, None), "must be str"),
        (lambda: ("a", SECRET, 1, None), "session_token"),
        (lambda: ("a", f"{SECRET}\0", None, None), "NUL"),
        (lambda: ("a", f"{SECRET}\ud800", None, None), "Unicode"),
        (lambda: ("a", "", None, None), "secret key"),
        (lambda: ("a", f"{SECRET}\n", None, None), "ASCII"),
        (lambda: ("a", SECRET, None, "soon"), "ValueError"),
        (lambda: ("a", SECRET, None, datetime.datetime(2100, 1, 1)), "time zone"),
        (lambda: ("a", SECRET, None, True), "expiry"),
        (lambda: ("a", SECRET, None, -5), "expiry"),
        (lambda: ("a", SECRET, None, float("nan")), "expiry"),
        (lambda: ("a", SECRET, None, object()), "expiry"),
        (lambda: ("a", SECRET, None, 1), "expired"),
        (lambda: sys.exit(3), "SystemExit"),
    ],
)
def test_a_callback_that_fails(place: Any, callback: Any, text: str) -> None:
    s3dlio_np.configure(credentials=callback)
    refused(place, text)


def test_a_callback_that_is_none() -> None:
    with pytest.raises(TypeError, match="callable"):
        s3dlio_np.configure(credentials="keys")  # type: ignore[arg-type]


def test_a_callback_recovers(place: Any) -> None:
    answers: list[Any] = [None, ("testkey", "testsecret", None, None)]
    s3dlio_np.configure(credentials=lambda: answers.pop(0))
    refused(place, "must return")
    put(place)


def serving_threads() -> int:
    return sum(thread.name == "s3dlio-credentials" for thread in threading.enumerate())


def test_a_replaced_callback_serves_what_is_open(place: Any, fake: FakeAws) -> None:
    """And its thread ends when that is closed."""
    asked: list[str] = []

    def make(name: str) -> Callable[[], tuple[str, str, str | None, int]]:
        def callback() -> tuple[str, str, str | None, int]:
            asked.append(name)
            keys = fake.issue()
            return keys.access, keys.secret, keys.token, keys.expires

        return callback

    s3dlio_np.configure(credentials=make("first"))
    with s3dlio_np.open(place.uri("a"), "wb", part_size=PART) as stream:
        stream.write(bytes(PART))
        s3dlio_np.configure(credentials=make("second"))
        put(place, "b")
        expire(place, fake.issued[0])
        stream.write(bytes(3 * PART))
    assert asked[:2] == ["first", "second"]
    assert asked[2:] == ["first"]
    del stream
    s3dlio_np.configure(credentials=None)
    deadline = time.monotonic() + 20
    while serving_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert serving_threads() == 0


def test_a_thousand_callbacks(place: Any) -> None:
    for _ in range(1000):
        s3dlio_np.configure(credentials=lambda: ("testkey", "testsecret", None, None))
    put(place)
    s3dlio_np.configure(credentials=None)
    deadline = time.monotonic() + 20
    while serving_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert serving_threads() == 0


# --- processes ----------------------------------------------------------------------------------

FORK = """
    import os, sys, threading, s3dlio_np
    uri = sys.argv[1]
    if sys.argv[2] == "callback":
        def callback():
            print("asked", flush=True)
            return "testkey", "testsecret", None, None
        s3dlio_np.configure(credentials=callback)
    if sys.argv[3] == "under way":
        opening = threading.Thread(target=s3dlio_np.put, args=(uri + "thread", b"1"))
        opening.start()
        while threading.active_count() > 3:
            pass
        import time; time.sleep(0.15)
    else:
        s3dlio_np.put(uri + "before", b"1")
    pid = os.fork()
    s3dlio_np.put(uri + ("parent" if pid else "child"), b"1")
    if not pid:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@pytest.mark.parametrize("source", ["container", "callback"])
@pytest.mark.parametrize("when", ["after", "under way"])
def test_fork(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, source: str, when: str
) -> None:
    use_container(fake, monkeypatch)
    fake.delay_s = 0.4 if when == "under way" else 0.0
    child.run(FORK, place.uri("k"), source, when)
    names = {"kparent", "kchild", "kthread" if when == "under way" else "kbefore"}
    assert set(place.objects()) == names
    if source == "container":
        # What was fetched before is the child's as well; what was not, it fetches itself.
        assert len(fake.seen) == (2 if when == "under way" else 1)


EXIT = """
    import sys, threading, time, s3dlio_np
    asked = threading.Event()
    def callback():
        asked.set()
        time.sleep(600)
    s3dlio_np.configure(credentials=callback)
    threading.Thread(target=s3dlio_np.put, args=(sys.argv[1], b"1"), daemon=True).start()
    asked.wait()
"""


def test_exit_while_a_callback_hangs(place: Any) -> None:
    child.run(EXIT, place.uri("x"))
    assert place.objects() == {}


EXIT_WITH_OPEN_UPLOAD = """
    import sys, time, s3dlio_np
    keys = [("A", sys.argv[2] + "a", None, time.time() + 2)]
    s3dlio_np.configure(credentials=lambda: keys.pop())
    stream = s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20)
    stream.write(bytes(20 << 20))
    time.sleep(2.5)
"""


def test_exit_with_ended_keys_and_an_open_upload(place: Any) -> None:
    """Its abort can be signed by nobody any more: the exit must not wait for it."""
    place.server.put_key("A", f"{SECRET}a")
    child.run(EXIT_WITH_OPEN_UPLOAD, place.uri("x"), SECRET)
    assert place.objects() == {}


def test_exit_while_a_service_is_slow(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_container(fake, monkeypatch)
    fake.script.append(Reply(delay_s=3))
    started = child.start(HANGING, place.uri("x"))
    status, said = child.kill_when(started, lambda: bool(fake.seen), signal.SIGINT)
    assert (status, said) == (0, "")


def test_no_secret_lies_in_the_environment_of_errors(place: Any, fake: FakeAws) -> None:
    """repr and stats show none either."""
    s3dlio_np.configure(credentials=lambda: ("testkey", "testsecret", None, None))
    stream = s3dlio_np.open(place.uri("x"), "wb")
    shown = repr(stream) + str(s3dlio_np.stats()) + repr(vars(s3dlio_np._settings))
    stream.abort()
    assert "testsecret" not in shown
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") is None
