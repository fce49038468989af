"""torch saves that fail leave nothing, loads that fail say why; bad input of save and load."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import s3dlio_np
import s3dlio_torch
from tests import child

PART = 5 * 1024 * 1024
OLD = b"the old content"


def state(parts: int = 4) -> dict[str, torch.Tensor]:
    return {f"w{i}": torch.full((PART // 4,), float(i)) for i in range(parts)}


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in pickling")


class UnpicklableLate:
    """Its state is asked for only after other tensors are known."""

    def __getstate__(self) -> Any:
        raise ZeroDivisionError("in pickling")


def by_save(value: object, uri: str, **keywords: Any) -> None:
    s3dlio_torch.save(value, uri, part_size=PART, max_concurrency=2, **keywords)


def by_stream(value: object, uri: str, **keywords: Any) -> None:
    with s3dlio_np.open(uri, "wb", part_size=PART, max_concurrency=2) as stream:
        torch.save(value, stream, **keywords)


def by_both(value: object, uri: str, **keywords: Any) -> None:
    with s3dlio_np.open(uri, "wb", part_size=PART, max_concurrency=2) as stream:
        s3dlio_torch.save(value, stream, **keywords)


def load_stream(uri: str) -> Any:
    with s3dlio_np.open(uri) as stream:
        return torch.load(stream)


SAVERS = [by_save, by_stream, by_both]
LOADERS: list[Callable[[str], Any]] = [s3dlio_torch.load, load_stream]


def savers() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("save", SAVERS)


# --- saves that fail here -----------------------------------------------------------------------


@savers()
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [Unpicklable, UnpicklableLate])
def test_pickling_fails(target: Any, save: Any, old: bool, zipped: bool, kind: Any) -> None:
    if old:
        target.write("m.pt", OLD)
    with pytest.raises(ZeroDivisionError):
        save(
            {**state(), "bad": kind()},
            target.uri("m.pt"),
            _use_new_zipfile_serialization=zipped,
        )
    gc.collect()
    assert [target.read(name) for name in target.names()] == ([OLD] if old else [])
    assert target.leftovers() == []


@savers()
def test_torch_refuses(target: Any, save: Any) -> None:
    base = torch.zeros(10)
    with pytest.raises(RuntimeError, match="different types"):
        save({"a": base, "b": base.view(torch.int32)}, target.uri("m.pt"))
    assert (target.names(), target.leftovers()) == ([], [])


@pytest.mark.parametrize("end", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_exception_after_the_save(target: Any, end: type[BaseException]) -> None:
    """All bytes were written and flushed by torch, but the body did not end well."""
    with pytest.raises(end):
        with s3dlio_np.open(target.uri("m.pt"), "wb", part_size=PART) as stream:
            torch.save(state(), stream)
            raise end
    assert (target.names(), target.leftovers()) == ([], [])


def test_no_close_after_the_save(target: Any) -> None:
    stream = s3dlio_np.open(target.uri("m.pt"), "wb", part_size=PART)
    torch.save(state(), stream)
    assert not target.exists("m.pt")
    with pytest.warns(ResourceWarning, match="unclosed"):
        del stream
        gc.collect()
    assert (target.names(), target.leftovers()) == ([], [])


def test_two_saves_in_one_stream(target: Any) -> None:
    """torch's zip reader finds the last one; what counts is that no flush committed the first."""
    with s3dlio_np.open(target.uri("m.pt"), "wb", part_size=PART) as stream:
        torch.save(state(2), stream, _use_new_zipfile_serialization=False)
        torch.save({"second": 1}, stream, _use_new_zipfile_serialization=False)
        assert not target.exists("m.pt")
    with s3dlio_np.open(target.uri("m.pt")) as reader:
        assert sorted(torch.load(reader)) == ["w0", "w1"]
        assert torch.load(reader) == {"second": 1}


# --- saves that fail there ----------------------------------------------------------------------

FAULTS = {
    "create": {"op": "CreateMultipartUpload", "status": 403, "code": "AccessDenied"},
    "first part": {"op": "UploadPart", "part": 1, "status": 403, "code": "AccessDenied"},
    "third part": {"op": "UploadPart", "part": 3, "status": 403, "code": "ExpiredToken"},
    "last part": {"op": "UploadPart", "part": 5, "status": 400, "code": "EntityTooLarge"},
    "complete": {"op": "CompleteMultipartUpload", "status": 403, "code": "AccessDenied"},
}


@pytest.mark.parametrize("save", [by_save, by_both])
@pytest.mark.parametrize("name", FAULTS)
def test_the_first_cause_is_told(s3_own: Any, save: Any, name: str) -> None:
    """Not torch's "unexpected pos" behind it."""
    rule = {"kind": "status", "count": -1, **FAULTS[name]}
    s3_own.put("m.pt", OLD)
    fault = s3_own.server.add_fault(**rule)
    with pytest.raises(s3dlio_np.StorageError, match=str(rule["code"])) as caught:
        save(state(), s3_own.uri("m.pt"))
    assert fault.hits() == 1
    assert caught.value.uri == s3_own.uri("m.pt")
    assert caught.value.status == rule["status"]
    assert str(caught.value.operation).startswith(str(rule["op"]))
    assert isinstance(caught.value, PermissionError) == (rule["status"] == 403)
    assert s3_own.objects() == {"m.pt": len(OLD)}
    assert s3_own.uploads() == []


def test_plain_torch_save_fails_too(s3_own: Any) -> None:
    """By torch's own error or ours, but nothing is there; the stream keeps the cause."""
    s3_own.server.add_fault(
        op="UploadPart", part=1, kind="status", status=403, code="AccessDenied", count=-1
    )
    stream = s3dlio_np.open(s3_own.uri("m.pt"), "wb", part_size=PART, max_concurrency=1)
    with pytest.raises((s3dlio_np.StorageError, RuntimeError)):
        with stream:
            torch.save(state(), stream)
    assert isinstance(stream.failure, PermissionError)
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


@savers()
def test_transient_faults_are_survived(s3_own: Any, save: Any) -> None:
    value = state()
    faults = [
        s3_own.server.add_fault(op="UploadPart", part=2, kind="reset_before"),
        s3_own.server.add_fault(op="UploadPart", part=3, kind="status", status=500, code="X"),
        s3_own.server.add_fault(op="GetObject", skip=1, kind="truncate", bytes=1000),
        s3_own.server.add_fault(
            op="GetObject", skip=3, kind="status", status=503, code="SlowDown"
        ),
    ]
    save(value, s3_own.uri("m.pt"))
    loaded = s3dlio_torch.load(s3_own.uri("m.pt"), part_size=1 << 20)
    assert all(torch.equal(loaded[name], value[name]) for name in value)
    assert [fault.hits() for fault in faults] == [1, 1, 1, 1]


# --- signals and exits --------------------------------------------------------------------------

SAVE = {
    "save": "s3dlio_torch.save(value, sys.argv[1], part_size=5 << 20, max_concurrency=2)",
    "stream": (
        "with s3dlio_np.open(sys.argv[1], 'wb', part_size=5 << 20, max_concurrency=2) as stream:"
        " torch.save(value, stream)"
    ),
}
SCRIPT = """
import sys, torch, s3dlio_np, s3dlio_torch
value = {f"w{i}": torch.zeros(5 << 18) for i in range(12)}
"""


@pytest.mark.parametrize("name", SAVE)
def test_ctrl_c_in_a_save(s3_own: Any, name: str) -> None:
    s3_own.put("m.pt", OLD)
    slow = s3_own.server.add_fault(
        op="UploadPart", kind="slow", bytes_per_s=1_000_000, count=-1
    )
    save = child.start(SCRIPT + SAVE[name], s3_own.uri("m.pt"))
    status, said = child.kill_when(save, lambda: slow.matched() >= 2, signal.SIGINT)
    assert "KeyboardInterrupt" in said
    assert s3_own.get("m.pt") == OLD
    assert s3_own.uploads() == []
    assert status == -signal.SIGINT


@pytest.mark.parametrize("name", SAVE)
def test_kill_in_a_save_to_a_file(tmp_path: Path, name: str) -> None:
    """SIGKILL at the worst time: what was there is whole."""
    path = tmp_path / "m.pt"
    path.write_bytes(OLD)
    script = SCRIPT + "value = {'a': torch.zeros(200 << 20, dtype=torch.uint8)}\n" + SAVE[name]
    save = child.start(script, path)
    child.kill_when(
        save,
        lambda: any(
            entry != path and entry.stat().st_size > PART for entry in tmp_path.iterdir()
        ),
        signal.SIGKILL,
    )
    assert path.read_bytes() == OLD
    s3dlio_torch.save({"a": 1}, path)
    assert s3dlio_torch.load(path) == {"a": 1}


def test_exit_in_a_save(s3_own: Any) -> None:
    script = SCRIPT + (
        "class Quit:\n"
        "    def __reduce__(self): sys.exit(5)\n"
        "stream = s3dlio_np.open(sys.argv[1], 'wb', part_size=5 << 20)\n"
        "stream.write(bytes(11 << 20))\n"
        "torch.save({**value, 'quit': Quit()}, stream)\n"
    )
    child.run(script, s3_own.uri("m.pt"), status=5)
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- bad input ----------------------------------------------------------------------------------

USES: dict[str, Callable[[str], Any]] = {
    "save": lambda uri: s3dlio_torch.save(state(1), uri),
    "save parts": lambda uri: s3dlio_torch.save(state(3), uri, part_size=PART),
    "load": s3dlio_torch.load,
}


def uses() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("use", USES.values(), ids=USES)


@uses()
@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("ftp://host/key", "unknown scheme"),
        ("s3:///key", "bucket is empty"),
        ("s3://bucket", "key is empty"),
        ("s3://bucket/", "key is empty"),
        ("file://host/x", "file:///path"),
    ],
)
def test_wrong_uris(use: Any, uri: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        use(uri)
    assert uri in str(caught.value)


@uses()
def test_access(s3_own: Any, monkeypatch: pytest.MonkeyPatch, use: Any, tmp_path: Path) -> None:
    with pytest.raises(s3dlio_np.AccessDeniedError, match="credentials") as caught:
        use("s3://denied-bucket/m.pt")
    assert (caught.value.code, caught.value.status) == ("DENIED", 403)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(s3dlio_np.AccessDeniedError, match="AWS_SECRET_ACCESS_KEY"):
        use(s3_own.uri("m.pt"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(s3dlio_np.AccessDeniedError, match="AWS_ACCESS_KEY_ID") as caught:
        use(s3_own.uri("m.pt"))
    assert caught.value.code == "NO_CREDENTIALS"
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


@uses()
def test_nobody_listens(s3_own: Any, use: Any) -> None:
    script = """
        import json, sys, torch, s3dlio_np, s3dlio_torch
        try:
            if sys.argv[2] == "load":
                s3dlio_torch.load(sys.argv[1])
            else:
                s3dlio_torch.save({"a": torch.zeros(int(sys.argv[2]))}, sys.argv[1])
        except s3dlio_np.StorageError as error:
            print(json.dumps([error.code, error.attempts, error.uri, str(error)]))
    """
    what = (
        "load"
        if use is s3dlio_torch.load
        else {"save": 1, "save parts": 9_000_000}[
            next(name for name, each in USES.items() if each is use)
        ]
    )
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "2"}
    code, attempts, uri, text = json.loads(child.run(script, s3_own.uri("m"), what, env=env))
    assert (code, attempts, uri) == ("NETWORK", 2, s3_own.uri("m"))
    assert "127.0.0.1:1" in text or "127.0.0.1 port 1" in text


@pytest.mark.parametrize("load", LOADERS)
def test_missing(target: Any, load: Any) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(target.uri("none.pt"))
    assert target.uri("none.pt") in str(caught.value)


@uses()
def test_a_missing_bucket(s3: Any, use: Any) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        use(f"s3://none-{s3.bucket}/m.pt")
    assert isinstance(caught.value, s3dlio_np.StorageError)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"part_size": PART - 1}, "5242880"),
        ({"part_size": 0}, "5242880"),
        ({"max_concurrency": 0}, "1 to 1024"),
        ({"max_concurrency": 1025}, "1 to 1024"),
    ],
)
def test_numbers_out_of_range(target: Any, keywords: Any, text: str) -> None:
    target.write("m.pt", OLD)
    with pytest.raises(ValueError, match=text) as caught:
        s3dlio_torch.save(state(1), target.uri("m.pt"), **keywords)
    assert target.uri("m.pt") in str(caught.value)
    assert target.read("m.pt") == OLD


def test_arguments_without_effect(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        with pytest.raises(ValueError, match="part_size"):
            s3dlio_torch.save({}, file, part_size=PART)
    with open(tmp_path / "a", "rb") as file:
        with pytest.raises(ValueError, match="max_concurrency"):
            s3dlio_torch.load(file, max_concurrency=3)


@pytest.mark.parametrize("wrong", [None, 3, object()])
def test_no_file_at_all(wrong: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        s3dlio_torch.save({}, wrong)
    with pytest.raises((TypeError, AttributeError)):
        s3dlio_torch.load(wrong)


# --- loads that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "status", "status": 403, "code": "AccessDenied"}, "DENIED"),
        ({"kind": "etag_change"}, "CHANGED"),
        ({"kind": "wrong_range"}, "PROTOCOL"),
    ],
)
def test_the_first_cause_of_a_failed_load(
    s3_own: Any, fault: dict[str, Any], code: str
) -> None:
    by_save(state(), s3_own.uri("m.pt"))
    rule = s3_own.server.add_fault(op="GetObject", skip=1, count=-1, **fault)
    with pytest.raises(s3dlio_np.StorageError) as caught:
        s3dlio_torch.load(s3_own.uri("m.pt"))
    assert rule.hits() >= 1
    assert (caught.value.code, caught.value.uri) == (code, s3_own.uri("m.pt"))


def test_a_loader_that_fails_frees_its_memory(s3_own: Any) -> None:
    by_save(state(), s3_own.uri("m.pt"))
    rule = s3_own.server.add_fault(
        op="GetObject", skip=2, count=-1, kind="status", status=403, code="AccessDenied"
    )
    for _ in range(3):
        with pytest.raises(PermissionError):
            s3dlio_torch.load(s3_own.uri("m.pt"))
    assert rule.hits() >= 1
    gc.collect()
    assert s3dlio_np.stats()["memory_held_bytes"] == 0
    assert sys.exc_info() == (None, None, None)
