"""Files that are damaged, made to mislead, or replaced while they are read: an error, no result."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import Any

import pytest
import torch

import s3dlio_np
import s3dlio_torch
from s3dlio_np._native import ArchiveReader
from tests.marks import near, passing_faults
from tests.torch.test_native_load import packed_anew
from tests.torch.test_native_save import filled, stock, sums

MIB = 1 << 20
# What a damaged file may raise: ours and torch's, none of which says less than that.
ERRORS = (
    s3dlio_np.IntegrityError,
    RuntimeError,
    ValueError,
    EOFError,
    pickle.UnpicklingError,
    IndexError,  # torch, of a file without a zip's first bytes: it takes it for an old one
)


def value() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(1000), "b": filled(300_000), "c": torch.ones(3), "d": filled(70)}


class Layout:
    """Where the pieces of one of torch's archives lie."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        archive = zipfile.ZipFile(io.BytesIO(data))
        self.directory = archive.start_dir
        self.headers = {
            i.filename.split("/", 1)[1]: i.header_offset for i in archive.infolist()
        }
        self.sizes = {i.filename.split("/", 1)[1]: i.file_size for i in archive.infolist()}

    def payload(self, name: str) -> int:
        at = self.headers[name]
        name_bytes, extra = struct.unpack_from("<HH", self.data, at + 26)
        return int(at + 30 + name_bytes + extra)

    def descriptor(self, name: str) -> int:
        return self.payload(name) + self.sizes[name]

    def flipped(self, offset: int, bit: int = 0) -> bytes:
        data = bytearray(self.data)
        data[offset] ^= 1 << bit
        return bytes(data)

    def entry(self, name: str) -> int:
        """Of the directory."""
        return self.data.index(b"archive/" + name.encode(), self.directory) - 46

    def with_u32(self, offset: int, number: int) -> bytes:
        data = bytearray(self.data)
        struct.pack_into("<I", data, offset, number)
        return bytes(data)


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(stock(value()))


def same(loaded: Any) -> bool:
    expected = value()
    return list(loaded) == list(expected) and all(
        torch.equal(loaded[name], expected[name]) for name in expected
    )


def assert_error_or_same(uri: str) -> bool:
    """Whether it was an error."""
    try:
        loaded = s3dlio_torch.load(uri)
    except ERRORS as error:
        assert str(error)
        return True
    assert same(loaded)
    return False


# --- one bit ------------------------------------------------------------------------------------


@near
@pytest.mark.parametrize("name", ["data/0", "data/1", "data/2", "data/3"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_bit_of_a_record(target: Any, layout: Layout, name: str, where: str) -> None:
    size = layout.sizes[name]
    at = {"first": 0, "middle": size // 2, "last": size - 1}[where]
    target.write("m.pt", layout.flipped(layout.payload(name) + at, 5))
    with pytest.raises(s3dlio_np.IntegrityError, match=f"archive/{name}.*CRC-32") as caught:
        s3dlio_torch.load(target.uri("m.pt"))
    assert (caught.value.code, caught.value.uri) == ("INTEGRITY", target.uri("m.pt"))
    loaded = s3dlio_torch.load(target.uri("m.pt"), verify=False)
    wrong = [key for key, tensor in value().items() if not torch.equal(tensor, loaded[key])]
    assert wrong == [list(value())[int(name[-1])]]


@near
def test_a_file_without_sums_is_not_checked(target: Any) -> None:
    with sums(False):
        layout = Layout(stock(value()))
    target.write("m.pt", layout.flipped(layout.payload("data/1")))
    assert not same(s3dlio_torch.load(target.uri("m.pt")))


@near
def test_every_byte_of_the_pickle(target: Any, layout: Layout) -> None:
    """Its sum is checked whatever `verify` says: it decides what is run."""
    start = layout.payload("data.pkl")
    for at in range(start, start + layout.sizes["data.pkl"], 7):
        target.write("m.pt", layout.flipped(at, at % 8))
        for verify in (True, False):
            with pytest.raises(s3dlio_np.IntegrityError, match="data.pkl"):
                s3dlio_torch.load(target.uri("m.pt"), verify=verify)


def test_every_byte_of_the_directory(s3_own: Any, layout: Layout) -> None:
    """What no reader needs (times, versions) may be wrong; else it is an error."""
    errors = 0
    for at in range(layout.directory, len(layout.data)):
        s3_own.put("m.pt", layout.flipped(at, at % 8))
        errors += assert_error_or_same(s3_own.uri("m.pt"))
    assert errors > (len(layout.data) - layout.directory) // 3


@pytest.mark.parametrize("name", ["data.pkl", "data/0", "data/1", ".storage_alignment"])
def test_every_byte_of_local_headers_and_descriptors(
    s3_own: Any, layout: Layout, name: str
) -> None:
    """Those of torch's own records are not even fetched: their place and sum are known."""
    header = range(layout.headers[name], layout.headers[name] + 30 + len("archive/" + name))
    descriptor = range(layout.descriptor(name), layout.descriptor(name) + 16)
    for at in (*header, *descriptor):
        s3_own.put("m.pt", layout.flipped(at, at % 8))
        assert_error_or_same(s3_own.uri("m.pt"))


def test_headers_count_where_the_layout_is_not_torchs(s3_own: Any) -> None:
    """Then they say where the payload is, and must agree with the directory."""
    layout = Layout(packed_anew(stock(value())))
    at = layout.headers["data/1"]
    errors = 0
    for offset in range(at, at + 30 + len("archive/data/1")):
        s3_own.put("m.pt", layout.flipped(offset, offset % 8))
        errors += assert_error_or_same(s3_own.uri("m.pt"))
    assert errors >= 20


# --- cut and lengthened -------------------------------------------------------------------------


def test_cut_anywhere(s3_own: Any, layout: Layout) -> None:
    size = len(layout.data)
    places = {*range(0, 200, 13), *range(layout.directory - 40, size, 17), size - 1, size // 2}
    places |= {place + d for place in layout.headers.values() for d in (-1, 0, 1) if place}
    for place in sorted(places):
        s3_own.put("m.pt", layout.data[:place])
        with pytest.raises(ERRORS):
            s3dlio_torch.load(s3_own.uri("m.pt"))


@near
@pytest.mark.parametrize("extra", [b"\0", b"x" * 100, bytes(70_000)])
def test_bytes_in_front_and_behind(target: Any, layout: Layout, extra: bytes) -> None:
    target.write("m.pt", extra + layout.data)
    with pytest.raises(ERRORS):
        s3dlio_torch.load(target.uri("m.pt"))
    target.write("m.pt", layout.data + extra)
    with pytest.raises(ERRORS):
        s3dlio_torch.load(target.uri("m.pt"))


@near
def test_a_hole_in_the_middle(target: Any, layout: Layout) -> None:
    at = layout.payload("data/1") + 1000
    target.write("m.pt", layout.data[:at] + layout.data[at + 64 :])
    with pytest.raises(ERRORS):
        s3dlio_torch.load(target.uri("m.pt"))


# --- a directory that lies ----------------------------------------------------------------------

COMPRESSED, SIZE, OFFSET, CRC = 20, 24, 42, 16  # within a directory entry


@near
@pytest.mark.parametrize("name", ["data.pkl", "data/0", "data/1", "data/3"])
@pytest.mark.parametrize("change", [-1, 1, 64, 1 << 20, (1 << 32) - 2])
def test_wrong_sizes(target: Any, layout: Layout, name: str, change: int) -> None:
    size = min(layout.sizes[name] + change, (1 << 32) - 2)
    for fields in ((SIZE,), (COMPRESSED,), (SIZE, COMPRESSED)):
        data = layout.data
        for field in fields:
            data = with_u32(data, layout.entry(name) + field, size)
        target.write("m.pt", data)
        for verify in (True, False):
            with pytest.raises(ERRORS):
                s3dlio_torch.load(target.uri("m.pt"), verify=verify)


def with_u32(data: bytes, offset: int, number: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<I", changed, offset, number)
    return bytes(changed)


@near
def test_overlapping_records(target: Any, layout: Layout) -> None:
    """Two entries for one place, and one entry in the middle of another's payload."""
    for at in (layout.headers["data/0"], layout.payload("data/1") + 512, layout.directory - 10):
        target.write("m.pt", layout.with_u32(layout.entry("data/3") + OFFSET, at))
        with pytest.raises(ERRORS):
            s3dlio_torch.load(target.uri("m.pt"), verify=False)


@near
def test_offsets_beyond_the_object(target: Any, layout: Layout) -> None:
    for at in (len(layout.data), (1 << 32) - 2):
        target.write("m.pt", layout.with_u32(layout.entry("data/1") + OFFSET, at))
        with pytest.raises(ERRORS):
            s3dlio_torch.load(target.uri("m.pt"))


@near
def test_exchanged_records(target: Any, layout: Layout) -> None:
    """Each entry at the other's offset: the names in the local headers tell, or the sums."""
    data = layout.with_u32(layout.entry("data/0") + OFFSET, layout.headers["data/1"])
    data = with_u32(data, layout.entry("data/1") + OFFSET, layout.headers["data/0"])
    target.write("m.pt", data)
    with pytest.raises(ERRORS):
        s3dlio_torch.load(target.uri("m.pt"))


@near
def test_a_wrong_sum(target: Any, layout: Layout) -> None:
    target.write("m.pt", layout.with_u32(layout.entry("data/2") + CRC, 0x12345678))
    with pytest.raises(s3dlio_np.IntegrityError, match="archive/data/2"):
        s3dlio_torch.load(target.uri("m.pt"))
    assert same(s3dlio_torch.load(target.uri("m.pt"), verify=False))


def changed(records: dict[str, bytes | None]) -> bytes:
    """A sound zip with some records replaced, or left out (None)."""
    old, new = zipfile.ZipFile(io.BytesIO(stock(value()))), io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            short = name.split("/", 1)[1]
            data = records.get(short, old.read(name))
            if data is not None:
                archive.writestr(name, data)
    return new.getvalue()


@near
@pytest.mark.parametrize("name", ["data/0", "data/2", "data.pkl"])
def test_a_missing_record(target: Any, name: str) -> None:
    target.write("m.pt", changed({name: None}))
    with pytest.raises(RuntimeError, match=name):
        s3dlio_torch.load(target.uri("m.pt"))


@near
@pytest.mark.parametrize("size", [0, 1, 2_999, 3_001, 299_999, 300_001, 2_000_000])
def test_a_record_of_another_size_than_the_pickle_says(target: Any, size: int) -> None:
    target.write("m.pt", changed({"data/1": bytes(size)}))
    with pytest.raises(RuntimeError, match="data/1 .*300000"):
        s3dlio_torch.load(target.uri("m.pt"))


@near
@pytest.mark.parametrize("text", [b"", b"x", b"-1", b"0", b"1" * 30, b"3\0"])
def test_nonsense_in_small_records(target: Any, text: bytes) -> None:
    for name in (".storage_alignment", "byteorder", ".format_version"):
        data = changed({name: text})
        target.write("m.pt", data)
        try:
            torch.load(io.BytesIO(data))
        except Exception as theirs:  # noqa: BLE001 - whatever torch makes of it
            with pytest.raises(type(theirs)):
                s3dlio_torch.load(target.uri("m.pt"))
        else:
            assert same(s3dlio_torch.load(target.uri("m.pt")))


@near
@pytest.mark.parametrize(
    "data",
    [b"", b"PK\5\6" + bytes(18), b"PK\5\6" + bytes(17), b"PK\3\4" + bytes(100), bytes(100)],
)
def test_hardly_a_zip(target: Any, data: bytes) -> None:
    target.write("m.pt", data)
    with pytest.raises(ERRORS):
        s3dlio_torch.load(target.uri("m.pt"))
    with pytest.raises(ERRORS):
        s3dlio_torch.inspect(target.uri("m.pt"))


@near
def test_two_records_of_one_name(target: Any) -> None:
    memory = io.BytesIO(stock(value()))
    with pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile(memory, "a") as archive:
            archive.writestr("archive/data/0", bytes(8000))
    target.write("m.pt", memory.getvalue())
    with pytest.raises(RuntimeError, match="one name"):
        s3dlio_torch.load(target.uri("m.pt"))


def test_names_are_looked_up_whole(s3_own: Any, layout: Layout) -> None:
    s3_own.put("m.pt", layout.data)
    with s3dlio_np.open(s3_own.uri("m.pt")) as stream:
        reader = ArchiveReader(stream)
        for name in ("", "data", "data/", "data/00", "../data/0", "x" * 100_000):
            assert not reader.has_record(name)
            with pytest.raises(ValueError, match="has no record"):
                reader.get_record(name)
        for use in (reader.has_record, reader.get_record, reader.get_record_offset):
            with pytest.raises(ValueError, match="null"):
                use("data/0\0")
        with pytest.raises(ValueError, match="null"):
            reader.fetch(["data/0\0"], [torch.UntypedStorage(8000)])
        for wrong in (None, 3, b"data/0"):
            with pytest.raises(TypeError):
                reader.get_record(wrong)  # type: ignore[arg-type]


# --- on the way, and in the store ---------------------------------------------------------------


def large() -> dict[str, torch.Tensor]:
    return {f"w{i}": filled(2 * MIB, i) for i in range(8)}


def test_damage_on_the_way(s3_own: Any) -> None:
    s3_own.put("m.pt", stock(large()))
    first = s3dlio_torch.inspect(s3_own.uri("m.pt"))["w0"].offset
    fault = s3_own.server.add_fault(
        op="GetObject", range_from=first, kind="corrupt", offset=1000, count=-1
    )
    with pytest.raises(s3dlio_np.IntegrityError, match="archive/data/0 .*CRC-32"):
        s3dlio_torch.load(s3_own.uri("m.pt"))
    assert fault.hits() >= 1
    loaded = s3dlio_torch.load(s3_own.uri("m.pt"), verify=False)
    assert not torch.equal(loaded["w0"], large()["w0"])
    assert torch.equal(loaded["w1"], large()["w1"])
    s3_own.server.clear_faults()
    assert torch.equal(s3dlio_torch.load(s3_own.uri("m.pt"))["w0"], large()["w0"])


@pytest.mark.parametrize("skip", [1, 3, 6])
def test_another_version_in_the_middle(s3_own: Any, skip: int) -> None:
    s3_own.put("m.pt", stock(large()))
    fault = s3_own.server.add_fault(op="GetObject", skip=skip, kind="etag_change")
    with pytest.raises(s3dlio_np.ObjectChangedError):
        s3dlio_torch.load(s3_own.uri("m.pt"), part_size=2 * MIB, max_concurrency=2)
    assert fault.hits() == 1


def test_replaced_between_pickle_and_storages(s3_own: Any) -> None:
    """In the moment in which the first storage is asked for, when the directory is known."""
    old = stock(large())
    new = stock({name: tensor ^ 255 for name, tensor in large().items()})
    assert len(old) == len(new)
    for data in (new, stock(value())):
        s3_own.put("m.pt", old)
        # So that the wave is not over before the object is replaced; it may fail earlier, too.
        s3_own.server.clear_faults()
        s3_own.server.add_fault(op="GetObject", skip=6, kind="stall", seconds=1, count=-1)
        calls = 0

        def replace(storage: Any, location: str, data: bytes = data) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                s3_own.put("m.pt", data)
            return storage

        with pytest.raises(s3dlio_np.ObjectChangedError):
            s3dlio_torch.load(s3_own.uri("m.pt"), replace, part_size=MIB, max_concurrency=1)
        assert calls >= 1


@passing_faults
def test_what_is_fetched_again_is_summed_up_once(s3_own: Any, rule: dict[str, Any]) -> None:
    s3_own.put("m.pt", stock(large()))
    faults = [s3_own.server.add_fault(op="GetObject", skip=n, **rule) for n in (1, 2, 4)]
    loaded = s3dlio_torch.load(s3_own.uri("m.pt"), part_size=MIB, max_concurrency=2)
    assert sum(fault.hits() for fault in faults) >= 2
    assert all(torch.equal(loaded[name], tensor) for name, tensor in large().items())


def test_failures_leave_no_memory_behind(s3_own: Any, layout: Layout) -> None:
    s3_own.put("m.pt", layout.flipped(layout.payload("data/1")))
    for _ in range(50):
        with pytest.raises(s3dlio_np.IntegrityError):
            s3dlio_torch.load(s3_own.uri("m.pt"))
    assert s3dlio_np.stats()["memory_held_bytes"] == 0
