"""The native save writes torch.save's own bytes, from where the storages lie, whole or not at all."""

from __future__ import annotations

import gc
import io
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.serialization import config

import s3dlio_np
import s3dlio_torch
from s3dlio_np._native import ArchiveReader, ArchiveWriter
from tests import child
from tests.marks import near
from tests.servers.own import OwnServer
from tests.torch.test_interop import VALUES

MIB = 1 << 20
PART = 5 * MIB
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of old and of new dtypes


def stock(value: object, **arguments: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **arguments)
    return file.getvalue()


def assert_torchs_own(target: Any, value: object, **arguments: Any) -> bytes:
    """Saves both ways; the same bytes, the serialization id included."""
    s3dlio_torch.save(value, target.uri("m.pt"), part_size=PART, max_concurrency=2, **arguments)
    ours: bytes = target.read("m.pt")
    theirs = stock(value, **arguments)
    assert len(ours) == len(theirs)
    assert ours == theirs
    assert target.leftovers() == []
    return ours


@contextmanager
def setting(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def sums(on: bool) -> Iterator[None]:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(on)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def filled(nbytes: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=generator)


# --- byte for byte ------------------------------------------------------------------------------


class Subclass(torch.Tensor):
    pass


class Attributed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 4)
        self.register_buffer("steps", torch.tensor(3))
        self.note = "ü"


def odd_storage() -> torch.Tensor:
    storage = torch.UntypedStorage(7)
    storage.fill_(3)
    return torch.empty(0, dtype=torch.float32).set_(storage)


MORE: dict[str, Callable[[], Any]] = {
    "module": Attributed,
    "subclass": lambda: {"s": torch.ones(3).as_subclass(Subclass)},
    "parameter with grad": lambda: torch.nn.Parameter(torch.randn(4), requires_grad=False),
    "unicode names": lambda: {"gewicht.ü": torch.ones(2), "重み": torch.zeros(3), "": None},
    "storages": lambda: [torch.UntypedStorage(10).fill_(1), torch.FloatStorage([1.0, 2.0])],
    "a storage that is no multiple": lambda: odd_storage(),
    "one empty storage twice": lambda: [torch.empty(0)] * 2,
    "empties of many types": lambda: [
        torch.empty(0, dtype=d) for d in (torch.int8, torch.half)
    ],
    "no pickle at all": lambda: b"\x80" * 100_000,
    "a long pickle": lambda: {f"key {i}": "x" * i for i in range(5000)},
}


@near
@pytest.mark.parametrize("name", [*VALUES, *MORE])
def test_every_kind_of_value(target: Any, name: str) -> None:
    assert_torchs_own(target, (VALUES | MORE)[name]())


def test_seventy_thousand_records(s3_own: Any) -> None:
    """More than a zip without zip64 can hold."""
    value = [torch.tensor([float(i)]) for i in range(70_000)]
    s3dlio_torch.save(value, s3_own.uri("m.pt"))
    assert s3_own.get("m.pt") == stock(value)
    loaded = s3dlio_torch.load(s3_own.uri("m.pt"))
    assert torch.equal(torch.cat(loaded), torch.cat(value))


@near
@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize("alignment", [64, 256, 4096])
def test_alignment_and_sums(target: Any, alignment: int, with_sums: bool) -> None:
    value = {"a": torch.arange(5), "e": torch.empty(0), "big": filled(PART), "b": torch.ones(1)}
    with setting(config.save, "storage_alignment", alignment), sums(with_sums):
        assert_torchs_own(target, value)
    loaded = s3dlio_torch.load(target.uri("m.pt"))
    assert all(torch.equal(loaded[name], value[name]) for name in value)
    for info in s3dlio_torch.inspect(target.uri("m.pt")).values():
        assert info.offset % alignment == 0


@near
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("no_byteorder", [True, False])
def test_protocol_and_byteorder(target: Any, protocol: int, no_byteorder: bool) -> None:
    value = {"a": torch.arange(5), "nested": [Attributed(), {"x": 1 << 70, "y": "é" * 300}]}
    assert_torchs_own(
        target, value, pickle_protocol=protocol, _disable_byteorder_record=no_byteorder
    )


@near
@pytest.mark.parametrize("with_sums", [True, False])
def test_skip_data(target: Any, with_sums: bool) -> None:
    value = {"a": torch.ones(5), "e": torch.empty(0), "big": torch.ones(PART // 4 + 3)}
    with torch.serialization.skip_data(), sums(with_sums):
        written = assert_torchs_own(target, value)
    assert written.count(b"\0") > PART  # a hole where the data would be


EDGES = [64 * 1024, 128 * 1024, PART, 8 * MIB, 16 * MIB]


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("edge", EDGES)
def test_sizes_around_the_limits(s3_own: Any, edge: int, off: int) -> None:
    value = [torch.ones(3), filled(edge + off, edge), torch.ones(1), filled(edge + off, 2)]
    for part in (PART, 8 * MIB, None):
        s3dlio_torch.save(value, s3_own.uri("m.pt"), part_size=part)
        assert s3_own.get("m.pt") == stock(value)


@pytest.mark.parametrize("off", range(-66, 67, 33))
def test_a_part_that_ends_between_records(s3_own: Any, off: int) -> None:
    """The first payload begins 704 bytes in: the part's end falls on header, padding, sums."""
    value = {"a": filled(PART - 704 + off), "b": filled(100), "c": filled(PART - 900)}
    s3dlio_torch.save(value, s3_own.uri("m.pt"), part_size=PART)
    assert s3_own.get("m.pt") == stock(value)


def test_torch_itself_writes_to_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda *args: (calls.append(args), real(*args)))
    memory = io.BytesIO()
    s3dlio_torch.save([1], memory)
    assert [call[1] for call in calls] == [memory]
    assert memory.getvalue() == stock([1])


# --- memory -------------------------------------------------------------------------------------

SAVE_ZEROS = """
    import os, resource, sys, torch, s3dlio_np, s3dlio_torch
    uri, count, nbytes, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    value = {f"w{i}": torch.empty(nbytes, dtype=torch.uint8) for i in range(count)}
    if count > 1:
        for tensor in value.values():
            tensor.fill_(7)
    value["last"] = torch.ones(10)
    s3dlio_torch.save([1], uri)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    s3dlio_torch.save(value, uri)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if path:
        with torch.serialization.skip_data():
            torch.save(value, path)  # a sparse file, laid out as the object is
    print((after - before) >> 10, s3dlio_np.stats()["memory_peak_bytes"] >> 10)
"""


@pytest.fixture
def discarding() -> Iterator[OwnServer]:
    with OwnServer(discard=True) as server:
        yield server


def test_nothing_is_copied(discarding: OwnServer) -> None:
    said = child.run(
        SAVE_ZEROS, "s3://bucket/m.pt", 8, 32 * MIB, "", env=discarding.env()
    ).split()
    grown_mib, peak_kib = int(said[0]), int(said[1])
    assert discarding.counters()["bytes_in"] > 256 * MIB
    assert peak_kib <= 8 * 1024  # part buffers: for what lies between the storages only
    assert grown_mib <= 32


def test_a_record_beyond_4_gib(discarding: OwnServer, tmp_path: Path) -> None:
    """Untouched pages: they cost nothing. The layout is torch's: its sparse file is as long."""
    nbytes = (4 << 30) + 5
    path = tmp_path / "archive.pt"  # torch names the archive after the file
    said = child.run(
        SAVE_ZEROS, "s3://bucket/m.pt", 1, nbytes, path, env=discarding.env()
    ).split()
    assert int(said[0]) <= 200
    assert discarding.objects()[0]["size"] == path.stat().st_size > nbytes
    assert path.stat().st_blocks * 512 < 64 * MIB
    last = s3dlio_torch.inspect(path)["last"]
    assert (
        last.offset == ArchiveReader(s3dlio_np.open(path)).get_record_offset("data/1") > nbytes
    )


class Temporary:
    """Its tensor exists only while it is being pickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return (torch.Tensor.sum, (torch.full((PART // 4,), float(self.number)),))


def test_storages_made_while_pickling(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=0.2, count=-1)
    value = [Temporary(i) for i in range(6)]
    s3dlio_torch.save(value, s3_own.uri("m.pt"), part_size=PART, max_concurrency=3)
    assert fault.hits() >= 6
    sums_ = s3dlio_torch.load(s3_own.uri("m.pt"), weights_only=False)
    assert [int(s) for s in sums_] == [i * (PART // 4) for i in range(6)]


class Owner:
    """What a storage is to the writer: memory that lives as long as the object does."""

    def __init__(self, nbytes: int, value: int) -> None:
        self.storage = torch.full((nbytes,), value, dtype=torch.uint8).untyped_storage()

    def data_ptr(self) -> int:
        return self.storage.data_ptr()

    def nbytes(self) -> int:
        return self.storage.nbytes()


def test_storages_live_until_they_are_sent_and_no_longer(s3_own: Any) -> None:
    owners = []
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=0.3, part=9)
    with s3dlio_np.open(s3_own.uri("m"), "wb", part_size=PART, max_concurrency=2) as stream:
        archive = ArchiveWriter(stream)
        for i in range(12):
            owner = Owner(PART, i)
            owners.append(weakref.ref(owner))
            archive.write_record(f"data/{i}", owner, PART)
            del owner
            spoil = [torch.full((PART,), 255, dtype=torch.uint8) for _ in range(2)]
        gc.collect()
        alive = sum(ref() is not None for ref in owners)
        assert alive < len(owners)  # bounded by what is under way
        archive.write_end_of_file()
    del spoil
    gc.collect()
    assert fault.hits() == 1
    assert not any(ref() for ref in owners)
    with s3dlio_np.open(s3_own.uri("m")) as stream:
        reader = ArchiveReader(stream)
        for i in range(12):
            assert reader.get_record(f"data/{i}") == bytes([i]) * PART


def test_dropped_storages_live_until_an_abort(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=0.5, count=-1)
    with pytest.raises(ZeroDivisionError):
        with s3dlio_np.open(s3_own.uri("m"), "wb", part_size=PART) as stream:
            archive = ArchiveWriter(stream)
            for i in range(3):
                archive.write_record(f"data/{i}", Owner(PART, i), PART)
            while fault.hits() == 0:
                pass
            raise ZeroDivisionError
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_many_saves_at_once(s3_own: Any) -> None:
    values = [{"n": i, "w": filled(3 * MIB + i, i), "s": torch.ones(i)} for i in range(8)]

    def save(i: int) -> None:
        s3dlio_torch.save(values[i], s3_own.uri(f"{i}.pt"), part_size=PART)

    threads = [threading.Thread(target=save, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert s3_own.get(f"{i}.pt") == stock(values[i])


# --- whole or not at all ------------------------------------------------------------------------


@near
def test_a_storage_that_cannot_be_had(target: Any) -> None:
    """After others have been sent: torch cannot copy a meta storage to the CPU."""
    value = [filled(PART), filled(PART, 2), torch.UntypedStorage(8, device="meta")]
    target.write("m.pt", b"old")
    with pytest.raises((NotImplementedError, RuntimeError)) as theirs:
        stock(value)
    with pytest.raises(theirs.type):
        s3dlio_torch.save(value, target.uri("m.pt"), part_size=PART)
    assert (target.read("m.pt"), target.leftovers()) == (b"old", [])


@near
def test_aliases_of_two_types_are_refused_by_torch(target: Any) -> None:
    base = torch.ones(4)
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        s3dlio_torch.save([base, base.view(torch.int32)], target.uri("m.pt"))
    assert (target.exists("m.pt"), target.leftovers()) == (False, [])


@pytest.mark.parametrize("part", [1, 3, 5])
def test_a_part_that_fails(s3_own: Any, part: int) -> None:
    value = {f"w{i}": filled(PART, i) for i in range(5)}
    s3_own.put("m.pt", b"old")
    fault = s3_own.server.add_fault(
        op="UploadPart", part=part, kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(s3dlio_np.AccessDeniedError, match="UploadPart"):
        s3dlio_torch.save(value, s3_own.uri("m.pt"), part_size=PART, max_concurrency=2)
    assert fault.hits() >= 1
    assert (s3_own.get("m.pt"), s3_own.uploads()) == (b"old", [])


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "refuse_body", "bytes": 100_000},
        {"kind": "lost_reply"},
        {"kind": "reset_before"},
        {"kind": "status", "status": 503, "code": "SlowDown"},
    ],
    ids=lambda rule: rule["kind"],
)
def test_a_part_sent_again_is_the_same(s3_own: Any, rule: dict[str, Any]) -> None:
    """A part is a list of spans over storages and buffers: it must rewind to its beginning."""
    value = {f"w{i}": filled(PART // 2 + i, i) for i in range(8)}
    faults = [s3_own.server.add_fault(op="UploadPart", part=part, **rule) for part in (1, 2, 4)]
    s3dlio_torch.save(value, s3_own.uri("m.pt"), part_size=PART, max_concurrency=2)
    assert [fault.hits() for fault in faults] == [1, 1, 1]
    assert s3_own.get("m.pt") == stock(value)


INTERRUPTED = """
    import sys, torch, s3dlio_np, s3dlio_torch
    value = [torch.ones(2_000_000) for _ in range(5)]
    try:
        s3dlio_torch.save(value, sys.argv[1], part_size=5 << 20, max_concurrency=2)
    except KeyboardInterrupt:
        assert s3dlio_np.stats()["uploads_aborted"] == 1
    else:
        sys.exit("not interrupted")
"""


def test_ctrl_c_between_storages(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", part=4, kind="stall", seconds=30, count=-1)
    process = child.start(INTERRUPTED, s3_own.uri("m.pt"))
    status, said = child.kill_when(process, lambda: fault.hits() > 0, signal.SIGINT)
    assert status == 0, said
    s3_own.server.clear_faults()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- what save and load make of each other's results ----------------------------------------------


@near
@pytest.mark.parametrize("name", [*VALUES, *MORE])
def test_what_was_loaded_is_saved_as_by_torch(target: Any, name: str) -> None:
    """Storages of ours are storages like any other: empty ones are no aliases of one another."""
    if name == "a storage that is no multiple":
        pytest.skip("torch.load refuses such a file")
    target.write("m.pt", stock((VALUES | MORE)[name]()))
    loaded = s3dlio_torch.load(target.uri("m.pt"), weights_only=False)
    theirs = torch.load(io.BytesIO(target.read("m.pt")), weights_only=False)
    s3dlio_torch.save(loaded, target.uri("m.pt"))
    assert target.read("m.pt") == stock(loaded) == stock(theirs)
