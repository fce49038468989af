"""async_save: a snapshot first, then a save in the background, in order, whole or not at all."""

from __future__ import annotations

import gc
import io
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest
import torch

import s3dlio_np
import s3dlio_torch
from s3dlio_torch import _async
from tests import child

PART = 5 * 1024 * 1024
OLD = b"the old content"


def state(parts: int = 3) -> dict[str, Any]:
    base = torch.arange(parts * PART // 4, dtype=torch.float32)
    return {
        "base": base,
        "view": base[5:10],
        "alias": base,
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "small": [torch.full((4,), float(i)) for i in range(50)],
        "empty": torch.empty(0),
        "step": 7,
        "names": ["a", "ü"],
    }


def file_of(obj: object, **how: Any) -> bytes:
    memory = io.BytesIO()
    torch.save(obj, memory, **how)
    return memory.getvalue()


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """The background thread waits, before the saves of this test, for this event."""
    event = threading.Event()
    _async._saver().submit(event.wait, 60)
    yield event
    event.set()
    _async._saver().submit(int).result(60)


# --- what is saved ------------------------------------------------------------------------------


def test_the_file_is_that_of_save(target: Any) -> None:
    future = s3dlio_torch.async_save(state(), target.uri("m.pt"), part_size=PART)
    assert isinstance(future, Future)
    assert future.result(60) is None
    assert target.read("m.pt") == file_of(state())
    assert target.leftovers() == []


@pytest.mark.parametrize("zipfile", [True, False])
def test_changes_after_the_call_are_not_saved(
    target: Any, blocked: threading.Event, zipfile: bool
) -> None:
    saved = state()
    expected = file_of(saved, _use_new_zipfile_serialization=zipfile)
    future = s3dlio_torch.async_save(
        saved, target.uri("m.pt"), part_size=PART, _use_new_zipfile_serialization=zipfile
    )
    saved["base"].fill_(-1)
    saved["bf16"].zero_()
    for tensor in saved["small"]:
        tensor.zero_()
    saved["names"].append("later")
    saved["step"] = 8
    del saved["alias"]
    assert not future.done() and not target.exists("m.pt")
    blocked.set()
    future.result(60)
    if zipfile:
        assert target.read("m.pt") == expected
    else:  # the legacy format names storages by their addresses
        loaded = s3dlio_torch.load(target.uri("m.pt"))
        assert loaded["base"][1] == 1 and loaded["small"][3][0] == 3
        assert (loaded["step"], loaded["names"]) == (7, ["a", "ü"])


def test_the_snapshot_shares_nothing_and_copies_once(tmp_path: Any) -> None:
    saved = state()
    snapshot = _async._Snapshot(saved, pickle, 2, False)
    theirs = {
        t.untyped_storage().data_ptr()
        for t in [saved["base"], saved["bf16"], *saved["small"]]
    }
    kept = [data for _, data, _ in snapshot._records if isinstance(data, list)]
    assert len(kept) == 53  # base, bf16, empty and the small ones; views share
    full = [copy.data_ptr() for pieces in kept for copy in pieces]
    assert len(set(full)) == len(full) == 52
    assert not theirs & set(full)
    assert (
        sum(copy.nbytes for pieces in kept for copy in pieces)
        == saved["base"].nbytes + 6 + 50 * 16
    )


def test_an_unknown_save_of_torchs(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes the storages itself; those are cloned, as they may be the caller's."""
    theirs = torch.serialization._save

    def other(*arguments: Any) -> None:
        theirs(*arguments)

    saved = state(1)
    expected = file_of(saved)
    monkeypatch.setattr(torch.serialization, "_save", other)
    snapshot = _async._Snapshot(saved, pickle, 2, False)
    saved["base"].zero_()
    saved["bf16"].zero_()
    with s3dlio_np.open(tmp_path / "m.pt", "wb") as stream:
        snapshot.write_into(stream)
    assert (tmp_path / "m.pt").read_bytes() == expected


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="NEEDS AN ACCELERATOR")
def test_a_device(tmp_path: Any) -> None:
    device = torch.accelerator.current_accelerator()
    saved = {"a": torch.arange(1000.0, device=device), "b": torch.ones(3)}
    expected = file_of(saved)
    future = s3dlio_torch.async_save(saved, tmp_path / "m.pt")
    saved["a"].zero_()
    saved["b"].zero_()
    future.result(60)
    assert (tmp_path / "m.pt").read_bytes() == expected


def test_torchs_settings_are_those_of_the_call(
    tmp_path: Any, blocked: threading.Event
) -> None:
    crc, alignment = torch.serialization.get_crc32_options(), 4096
    config = torch.utils.serialization.config.save
    before = config.storage_alignment
    try:
        torch.serialization.set_crc32_options(False)
        config.storage_alignment = alignment
        expected = file_of(state(1))
        future = s3dlio_torch.async_save(state(1), tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(crc)
        config.storage_alignment = before
    blocked.set()
    future.result(60)
    assert (tmp_path / "m.pt").read_bytes() == expected


def test_a_default_device_changes_nothing(tmp_path: Any) -> None:
    saved = state(1)
    with torch.device("meta"):
        s3dlio_torch.async_save(saved, tmp_path / "m.pt").result(60)
        s3dlio_torch.save_safetensors({"a": saved["base"]}, tmp_path / "a")
        loaded = s3dlio_torch.load_safetensors(tmp_path / "a")
    assert (tmp_path / "m.pt").read_bytes() == file_of(saved)
    assert torch.equal(loaded["a"], saved["base"])


def test_skip_data(tmp_path: Any) -> None:
    with torch.serialization.skip_data():
        expected = file_of(state(1))
        s3dlio_torch.async_save(state(1), tmp_path / "m.pt").result(60)
    assert (tmp_path / "m.pt").read_bytes() == expected


def test_arguments_are_saves(target: Any) -> None:
    options = s3dlio_np.WriterOptions(metadata={"a": "b"})
    s3dlio_torch.async_save(
        {"a": torch.ones(2)}, target.uri("m.pt"), pickle, 4, max_concurrency=2, options=options
    ).result(60)
    assert pickle.PROTO + b"\4" in target.read("m.pt")
    with pytest.raises(ValueError, match="URI"):
        wrong: Any = io.BytesIO()
        s3dlio_torch.async_save({}, wrong)


# --- order, memory ------------------------------------------------------------------------------


def test_saves_end_in_the_order_of_the_calls(target: Any) -> None:
    ended: list[int] = []
    futures = []

    def note(i: int) -> Callable[[Future[None]], None]:
        return lambda _: ended.append(i)

    for i in range(8):
        size = PART // 2 if i % 2 == 0 else 1
        future = s3dlio_torch.async_save(
            {"i": i, "w": torch.full((size,), float(i))}, target.uri("same.pt")
        )
        future.add_done_callback(note(i))
        futures.append(future)
    wait(futures, 60)
    s3dlio_torch.async_save({}, target.uri("last.pt")).result(60)
    assert ended == list(range(8))
    loaded = s3dlio_torch.load(target.uri("same.pt"))
    assert (loaded["i"], loaded["w"][0]) == (7, 7)


def test_the_snapshot_is_given_back(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots: list[Any] = []
    init = _async._Snapshot.__init__

    def spying(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        snapshots.append(self._records)

    monkeypatch.setattr(_async._Snapshot, "__init__", spying)
    done = s3dlio_torch.async_save(state(), tmp_path / "m.pt")
    failed = s3dlio_torch.async_save(state(), tmp_path / "none" / "x" / "m.pt", part_size=1)
    done.result(60)
    assert failed.exception(60) is not None
    assert len(snapshots[0]) == 0
    del failed, done, snapshots[:]
    gc.collect()
    assert s3dlio_np.stats()["memory_held_bytes"] == 0


# --- failures -----------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("cannot be pickled")


def test_pickling_fails_at_once(target: Any) -> None:
    target.write("m.pt", OLD)
    with pytest.raises(ZeroDivisionError):
        s3dlio_torch.async_save({"w": torch.ones(3), "x": Unpicklable()}, target.uri("m.pt"))
    with pytest.raises(RuntimeError, match="different types"):
        base = torch.zeros(10)
        s3dlio_torch.async_save({"a": base, "b": base.view(torch.int32)}, target.uri("m.pt"))
    assert target.read("m.pt") == OLD


def test_result_raises_what_the_save_raises(s3_own: Any) -> None:
    rule = s3_own.server.add_fault(
        op="UploadPart", skip=1, count=-1, kind="status", status=403, code="AccessDenied"
    )
    failing = s3dlio_torch.async_save(state(), s3_own.uri("m.pt"), part_size=PART)
    with pytest.raises(s3dlio_np.AccessDeniedError) as caught:
        failing.result(60)
    assert rule.hits() >= 1
    assert caught.value.uri == s3_own.uri("m.pt")
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])
    s3_own.server.reset()
    s3dlio_torch.async_save(state(), s3_own.uri("m.pt"), part_size=PART).result(60)
    assert s3_own.get("m.pt") == file_of(state())  # one failure does not stop the next


@pytest.mark.parametrize(
    ("uri", "keywords", "kind"),
    [
        ("ftp://host/key", {}, ValueError),
        ("s3://bucket/m.pt", {"part_size": 1}, ValueError),
        ("s3://none/m.pt", {}, FileNotFoundError),
    ],
)
def test_wrong_targets(s3_own: Any, uri: str, keywords: Any, kind: type[Exception]) -> None:
    future = s3dlio_torch.async_save({"a": torch.ones(2)}, uri, **keywords)
    with pytest.raises(kind):
        future.result(60)


def test_a_cancelled_save_writes_nothing(target: Any, blocked: threading.Event) -> None:
    first = s3dlio_torch.async_save({"a": 1}, target.uri("first.pt"))
    second = s3dlio_torch.async_save({"a": 2}, target.uri("second.pt"))
    assert first.cancel()
    blocked.set()
    second.result(60)
    with pytest.raises(CancelledError):
        first.result(60)
    assert target.names() == ["second.pt"]


# --- exit and fork ------------------------------------------------------------------------------

SAVE_AND_LEAVE = """
    import os, sys, torch, s3dlio_torch
    base = torch.arange(15_000_000, dtype=torch.float32)
    for i in range(3):
        s3dlio_torch.async_save({"w": base, "i": i}, f"{sys.argv[1]}{i}", part_size=5 << 20)
        base.fill_(0)
        base += torch.arange(15_000_000, dtype=torch.float32)
"""


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)", 3), ("raise ZeroDivisionError", 1)]
)
def test_open_saves_are_finished_at_exit(target: Any, end: str, status: int) -> None:
    target.uri("m.pt0"), target.uri("m.pt1"), target.uri("m.pt2")  # known to the target
    child.run(SAVE_AND_LEAVE + f"    {end}\n", target.uri("m.pt"), status=status)
    assert target.names() == ["m.pt0", "m.pt1", "m.pt2"]
    assert target.leftovers() == []
    expected = torch.arange(15_000_000, dtype=torch.float32)
    for i in range(3):
        loaded = s3dlio_torch.load(target.uri(f"m.pt{i}"))
        assert loaded["i"] == i and torch.equal(loaded["w"], expected)


def test_a_process_that_dies_leaves_no_object(s3_own: Any) -> None:
    rule = s3_own.server.add_fault(op="UploadPart", part=2, count=-1, kind="stall", seconds=20)
    dying = child.start(SAVE_AND_LEAVE, s3_own.uri("m.pt"))
    status, _ = child.kill_when(dying, lambda: rule.hits() >= 1, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert rule.hits() >= 1
    assert s3_own.objects() == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_afresh(tmp_path: Any) -> None:
    script = """
        import os, sys, torch, s3dlio_torch
        s3dlio_torch.async_save({"w": torch.ones(1000)}, sys.argv[1] + "0").result(60)
        pid = os.fork()
        name = "1" if pid else "2"
        s3dlio_torch.async_save({"w": torch.ones(1000)}, sys.argv[1] + name).result(60)
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
    """
    child.run(script, tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1", "m2"]
