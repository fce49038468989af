"""Device storages through rings of host slots, on devices that stand in for real ones."""

from __future__ import annotations

import gc
import io
import pickle
import random
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import safetensors.torch
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import s3dlio_np
import s3dlio_torch
from s3dlio_np._native import ArchiveWriter
from s3dlio_torch import _ring
from tests.interrupts import interrupted_when
from tests.marks import near
from tests.torch.standin import LIMIT_S, ReusedTooEarly, StandIn, installed
from tests.torch.test_native_damage import Layout
from tests.torch.test_native_save import filled

KIB = 1 << 10
MIB = 1 << 20
PART = 5 * MIB
SLOT = 256 * KIB
COUNT = 4
FEW: Any = {"part_size": PART, "max_concurrency": 3}


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Small slots, so that a few MiB go round the ring several times."""
    monkeypatch.setattr(_ring, "SLOT_BYTES", SLOT)
    monkeypatch.setattr(_ring, "SLOT_COUNT", COUNT)
    with installed(monkeypatch) as devices:
        yield devices


@pytest.fixture
def large_ring(devices: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Slots that hold more than a part, so that they wait for uploads, and nothing is copied."""
    monkeypatch.setattr(_ring, "SLOT_BYTES", 3 * MIB)
    return devices


def mixed(devices: StandIn) -> dict[str, Any]:
    """Sizes around slots and their alignment, on the CPU and two devices in turns."""
    base = devices.put(filled(3 * SLOT + 5, 1))
    sizes = [1, 63, 64, 65, 4096, SLOT - 64, SLOT - 1, SLOT, SLOT + 1, 5 * SLOT + 7]
    value: dict[str, Any] = {"base": base, "view": base[5:100], "alias": base, "n": 7}
    for i, size in enumerate(sizes):
        value[f"d{i}"] = devices.put(filled(size, i), i % 2)
        value[f"h{i}"] = filled(size, 100 + i)
    value["empty"] = devices.put(torch.empty(0))
    value["floats"] = devices.put(torch.arange(100_000.0).reshape(100, 1000)).t()
    value["step"] = torch.tensor(3.0)
    return value


def large(devices: StandIn, parts: int = 5) -> dict[str, torch.Tensor]:
    return {f"w{i}": devices.put(filled(PART + i, i)) for i in range(parts)}


def tensors(value: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: t for name, t in value.items() if isinstance(t, torch.Tensor)}


def stock(value: object, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def assert_same(loaded: dict[str, Any], value: dict[str, Any]) -> None:
    assert list(loaded) == list(value)
    for name, tensor in tensors(value).items():
        assert torch.equal(loaded[name], tensor), name
        assert (loaded[name].dtype, loaded[name].stride()) == (tensor.dtype, tensor.stride())


def assert_all_led(devices: StandIn) -> None:
    """Each copy to a device is one that the caller's queue waits for."""
    to_devices = [copy for copy in devices.copies if not devices.is_host(copy.target)]
    assert to_devices and all(copy.led for copy in to_devices)


def assert_bounded(devices: StandIn, rings: int = 1, slot: int = SLOT) -> None:
    assert len(devices.host) == rings
    assert all(memory.numel() <= COUNT * slot for memory in devices.host)


# --- saving -------------------------------------------------------------------------------------


@near
def test_a_save_is_torchs_own(target: Any, devices: StandIn) -> None:
    value = mixed(devices)
    s3dlio_torch.save(value, target.uri("m.pt"), **FEW)
    assert target.read("m.pt") == stock(value)
    assert devices.running() == 0 and target.leftovers() == []
    assert_bounded(devices)
    assert len(devices.copies) > 2 * COUNT


@near
def test_a_save_through_a_ring_larger_than_parts(target: Any, large_ring: StandIn) -> None:
    value = large(large_ring)
    s3dlio_torch.save(value, target.uri("m.pt"), **FEW)
    assert target.read("m.pt") == stock(value)
    assert_bounded(large_ring, slot=3 * MIB)


def test_parts_larger_than_the_ring(s3_own: Any, devices: StandIn) -> None:
    """What waits for its part to become full is copied, or the ring would wait for ever."""
    value = large(devices, 2)
    s3dlio_torch.save(value, s3_own.uri("m.pt"), part_size=64 * MIB)
    assert s3_own.get("m.pt") == stock(value)
    assert_bounded(devices)
    assert s3dlio_np.stats()["memory_held_bytes"] == 0


def test_copies_and_uploads_overlap(s3_own: Any, large_ring: StandIn) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=0.2, count=-1)
    s3dlio_torch.save(large(large_ring), s3_own.uri("m.pt"), **FEW)
    assert fault.hits() >= 5
    assert large_ring.copied_while_sending > 0


@near
@pytest.mark.parametrize("alignment", [64, 4096])
def test_settings_of_torchs(target: Any, devices: StandIn, alignment: int) -> None:
    save = torch.utils.serialization.config.save
    before, sums = save.storage_alignment, torch.serialization.get_crc32_options()
    value = mixed(devices)
    try:
        save.storage_alignment = alignment
        torch.serialization.set_crc32_options(alignment == 64)
        s3dlio_torch.save(value, target.uri("m.pt"), _disable_byteorder_record=True)
        expected = stock(value, _disable_byteorder_record=True)
    finally:
        save.storage_alignment = before
        torch.serialization.set_crc32_options(sums)
    assert target.read("m.pt") == expected


def test_a_payload_that_looks_like_a_descriptor(s3_own: Any, devices: StandIn) -> None:
    """Which torch's zip library then takes for one: the first piece must be looked at."""
    payload = b"PK\x07\x08" + bytes(range(96))
    value = devices.put(torch.frombuffer(bytearray(payload), dtype=torch.uint8).clone())
    s3dlio_torch.save([value], s3_own.uri("m.pt"))
    assert s3_own.get("m.pt") == stock([value])


def test_skip_data_of_the_callers(s3_own: Any, devices: StandIn) -> None:
    value = mixed(devices)
    with torch.serialization.skip_data():
        s3dlio_torch.save(value, s3_own.uri("m.pt"))
    skipped = s3_own.get("m.pt")
    assert devices.copies == []
    loaded = torch.load(io.BytesIO(skipped), "cpu")
    assert all(not tensor.any() for tensor in tensors(loaded).values())
    assert len(skipped) == len(stock(value))


def test_fake_tensors_are_saved_as_by_torch(s3_own: Any, devices: StandIn) -> None:
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        fake = {"a": torch.empty(3), "b": torch.empty(4)}
        s3dlio_torch.save(fake, s3_own.uri("m.pt"))
        assert s3_own.get("m.pt") == stock(fake)


def test_a_fake_storage_has_no_data_to_save(s3_own: Any, devices: StandIn) -> None:
    fake = torch.UntypedStorage(8, device="meta")
    fake._fake_device = torch.device("cuda:0")
    for value in ([fake], [fake, devices.put(filled(8))], [filled(8), fake]):
        with pytest.raises(NotImplementedError, match="(?i)meta"):
            torch.save(value, io.BytesIO())
        with pytest.raises(RuntimeError, match="fake tensor, which has no data|was resized"):
            s3dlio_torch.save(value, s3_own.uri("m.pt"))
    assert s3_own.objects() == {} and s3_own.uploads() == []


@near
@pytest.mark.parametrize("number", [1, 2, 7, 20])
@pytest.mark.parametrize("way", ["fail_copy", "refuse_copy"])
def test_a_copy_that_fails_ends_a_save(
    target: Any, devices: StandIn, way: str, number: int
) -> None:
    value = mixed(devices)
    setattr(devices, way, number)
    with pytest.raises(RuntimeError, match="the copy failed|refuses this copy"):
        s3dlio_torch.save(value, target.uri("m.pt"), **FEW)
    assert len(devices.copies) >= number - 1
    assert devices.running() == 0
    assert (target.exists("m.pt"), target.leftovers()) == (False, [])


@pytest.mark.parametrize("part", [1, 3])
def test_an_upload_that_fails(s3_own: Any, large_ring: StandIn, part: int) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", part=part, kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(s3dlio_np.AccessDeniedError, match="UploadPart"):
        s3dlio_torch.save(large(large_ring), s3_own.uri("m.pt"), **FEW)
    assert fault.hits() >= 1
    assert large_ring.running() == 0
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_a_part_that_is_sent_again_still_has_its_bytes(
    s3_own: Any, large_ring: StandIn
) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", kind="lost_reply", count=3, skip=1)
    value = large(large_ring)
    s3dlio_torch.save(value, s3_own.uri("m.pt"), **FEW)
    assert fault.hits() == 3
    assert s3_own.get("m.pt") == stock(value)


def test_the_detector_sees_a_slot_that_is_sent_too_early_again(
    s3_own: Any, large_ring: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring that does not wait for uploads: what all other tests here rely on."""
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=60, count=-1)

    def too_early(outflow: _ring.Outflow, slot: _ring.Slot, *, wait: bool) -> bool:
        while wait and not fault.hits():
            pass
        return wait

    monkeypatch.setattr(_ring.Outflow, "_reclaim", too_early)
    with pytest.raises(ReusedTooEarly, match="upload"):
        s3dlio_torch.save(large(large_ring), s3_own.uri("m.pt"), **FEW)
    assert fault.hits() > 0
    assert large_ring.running() == 0


def test_ctrl_c_in_a_save(s3_own: Any, large_ring: StandIn) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=60, count=-1)
    with interrupted_when(lambda: fault.hits() > 0):
        s3dlio_torch.save(large(large_ring), s3_own.uri("m.pt"), **FEW)
    assert large_ring.running() == 0
    s3_own.server.clear_faults()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- loading ------------------------------------------------------------------------------------

ON_DEVICE = ["cuda", "cuda:1", torch.device("cuda:0")]


@near
@pytest.mark.parametrize("place", ON_DEVICE, ids=str)
@pytest.mark.parametrize("verify", [True, False])
def test_all_to_one_device(target: Any, devices: StandIn, place: Any, verify: bool) -> None:
    value = mixed(devices)
    target.write("m.pt", stock(value))
    loaded = s3dlio_torch.load(target.uri("m.pt"), place, verify=verify, **FEW)
    assert_same(loaded, value)
    expected = torch.device("cuda", torch.device(place).index or 0)
    for tensor in tensors(loaded).values():
        assert devices.place_of(tensor.untyped_storage()) == expected
    assert devices.moved_by_torch == 0 and devices.running() == 0
    assert loaded["alias"].data_ptr() == loaded["base"].data_ptr()
    assert_bounded(devices)
    assert_all_led(devices)


@near
@pytest.mark.parametrize("place", [None, {}, {"cuda:1": "cuda:0"}, {"cpu": "cuda:1"}], ids=str)
def test_to_where_the_file_says(target: Any, devices: StandIn, place: Any) -> None:
    value = mixed(devices)
    target.write("m.pt", stock(value))
    loaded = s3dlio_torch.load(target.uri("m.pt"), place, **FEW)
    assert_same(loaded, value)
    for name, tensor in tensors(value).items():
        before = str(devices.place_of(tensor.untyped_storage()) or "cpu")
        after = str(devices.place_of(loaded[name].untyped_storage()) or "cpu")
        assert after == (place or {}).get(before, before), name
    assert devices.moved_by_torch == 0 and devices.running() == 0
    assert_bounded(devices)
    assert_all_led(devices)


@near
@pytest.mark.parametrize(
    "place", ["cpu", torch.device("cpu"), {"cuda:0": "cpu", "cuda:1": "cpu"}], ids=str
)
def test_from_a_device_to_the_cpu(target: Any, devices: StandIn, place: Any) -> None:
    value = mixed(devices)
    target.write("m.pt", stock(value))
    loaded = s3dlio_torch.load(target.uri("m.pt"), place, **FEW)
    assert_same(loaded, value)
    assert not any(map(devices.holds, tensors(loaded).values()))
    assert [copy for copy in devices.copies if not devices.is_host(copy.target)] == []


@near
def test_a_callable_is_given_the_data(target: Any, devices: StandIn) -> None:
    value = mixed(devices)
    target.write("m.pt", stock(value))
    seen: list[str] = []

    def place(storage: torch.UntypedStorage, location: str) -> Any:
        seen.append(location)
        assert storage.device.type == "cpu"
        return devices.restore(storage, "cuda:1") if len(seen) % 2 else None

    assert_same(s3dlio_torch.load(target.uri("m.pt"), place), value)
    assert set(seen) == {"cpu", "cuda:0", "cuda:1"} and devices.copies == []
    assert devices.moved_by_torch > 0


def test_files_for_the_cpu_take_the_direct_way(s3_own: Any, devices: StandIn) -> None:
    value = {f"w{i}": filled(MIB, i) for i in range(4)}
    s3_own.put("m.pt", stock(value))
    assert_same(s3dlio_torch.load(s3_own.uri("m.pt")), value)
    assert devices.host == [] and devices.fetches == []


def test_meta_and_fake_tensors_fetch_nothing(s3_own: Any, devices: StandIn) -> None:
    value = large(devices, 2)
    s3_own.put("m.pt", stock(value))
    received = s3dlio_np.stats()["bytes_received"]
    meta = s3dlio_torch.load(s3_own.uri("m.pt"), "meta")
    with FakeTensorMode():
        fake = s3dlio_torch.load(s3_own.uri("m.pt"), "cpu")
    for name, tensor in value.items():
        assert meta[name].is_meta and meta[name].shape == fake[name].shape == tensor.shape
    assert s3dlio_np.stats()["bytes_received"] - received < 3 * MIB
    assert devices.host == []


@near
def test_keys_bring_only_what_is_wanted(target: Any, devices: StandIn) -> None:
    value = mixed(devices)
    target.write("m.pt", stock(value))
    keys = ["d9", "h3", "view", "empty"]
    loaded = s3dlio_torch.load(target.uri("m.pt"), keys=keys, **FEW)
    assert set(loaded) == set(keys)
    assert all(torch.equal(loaded[key], value[key]) for key in keys)
    copied = sum(copy.target.numel() for copy in devices.copies)
    assert copied == value["d9"].numel() + value["base"].numel()


def test_fetches_and_copies_overlap(s3_own: Any, devices: StandIn) -> None:
    value = large(devices, 2)
    s3_own.put("m.pt", stock(value))
    assert_same(s3dlio_torch.load(s3_own.uri("m.pt"), **FEW), value)
    assert devices.copied_while_fetching > 0
    assert len(devices.copies) >= 2 * PART // SLOT


class Chosen(pickle.Pickler):
    """Storages by keys of the test's choice."""

    def __init__(self, file: Any, keys: dict[int, str]) -> None:
        super().__init__(file, 2)
        self._keys = keys

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, torch.storage.TypedStorage):
            return None
        key = self._keys[value._untyped_storage._cdata]
        return "storage", torch.ByteStorage, key, "cuda:0", value._size()


def archive_of(
    values: list[torch.Tensor], keys: list[str], order: list[int], target: Any
) -> None:
    """An archive that asks for values[i] by keys[i], and holds them in this order."""
    pickled = io.BytesIO()
    by_storage = {v.untyped_storage()._cdata: k for v, k in zip(values, keys, strict=True)}
    Chosen(pickled, by_storage).dump(values)
    with s3dlio_np.open(target.uri("m.pt"), "wb") as stream:
        archive = ArchiveWriter(stream)
        archive.write_record("data.pkl", pickled.getvalue(), len(pickled.getvalue()))
        archive.write_record("byteorder", sys.byteorder, len(sys.byteorder))
        for i in order:
            storage = values[i].untyped_storage()
            archive.write_record(f"data/{keys[i]}", storage, storage.nbytes())
        archive.write_end_of_file()


ORDERS = {
    "as in the file": range(12),
    "backwards": range(11, -1, -1),
    "last first": [11, *range(11)],
    "in turns": [i // 2 + i % 2 * 6 for i in range(12)],
}


@near
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1000, SLOT // 3, 2 * SLOT + 1])
def test_any_order_of_asking(target: Any, devices: StandIn, order: str, size: int) -> None:
    values = [filled(size + i, i) for i in range(12)]
    archive_of(values, [str(i) for i in ORDERS[order]], list(range(12)), target)
    loaded = s3dlio_torch.load(target.uri("m.pt"))
    assert all(map(devices.holds, loaded))
    assert all(torch.equal(a, b) for a, b in zip(loaded, values, strict=True))
    assert_bounded(devices)
    assert_all_led(devices)


def test_files_sorted_as_text_are_fetched_once(s3_own: Any, devices: StandIn) -> None:
    """As torch before 2.1 sorted them: 0, 1, 10, 11, 2..."""
    values = [filled(SLOT + i, i) for i in range(12)]
    keys = [str(i) for i in range(12)]
    archive_of(values, keys, sorted(range(12), key=str), _Place(s3_own))
    received = s3dlio_np.stats()["bytes_received"]
    loaded = s3dlio_torch.load(s3_own.uri("m.pt"), **FEW)
    assert all(torch.equal(a, b) for a, b in zip(loaded, values, strict=True))
    assert s3dlio_np.stats()["bytes_received"] - received < 12 * (SLOT + 100) + MIB


class _Place:
    def __init__(self, bucket: Any) -> None:
        self.uri = bucket.uri


# --- what goes wrong with loads -------------------------------------------------------------------


@near
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_damage_is_found(target: Any, devices: StandIn, where: str) -> None:
    value = large(devices, 2)
    layout = Layout(stock(value))
    size = layout.sizes["data/1"]
    at = {"first": 0, "middle": size // 2, "last": size - 1}[where]
    target.write("m.pt", layout.flipped(layout.payload("data/1") + at, 3))
    with pytest.raises(s3dlio_np.IntegrityError, match="archive/data/1.*CRC-32") as caught:
        s3dlio_torch.load(target.uri("m.pt"))
    assert (caught.value.code, caught.value.uri) == ("INTEGRITY", target.uri("m.pt"))
    assert devices.running() == 0
    loaded = s3dlio_torch.load(target.uri("m.pt"), verify=False)
    assert torch.equal(loaded["w0"], value["w0"])
    assert int((loaded["w1"] != value["w1"]).sum()) == 1


@near
@pytest.mark.parametrize("number", [1, 5, 12])
@pytest.mark.parametrize("way", ["fail_copy", "refuse_copy"])
def test_a_copy_that_fails_ends_a_load(
    target: Any, devices: StandIn, way: str, number: int
) -> None:
    value = mixed(devices)
    target.write("m.pt", stock(value))
    setattr(devices, way, number)
    with pytest.raises(RuntimeError, match="the copy failed|refuses this copy"):
        s3dlio_torch.load(target.uri("m.pt"), "cuda:0")
    assert len(devices.copies) >= number - 1
    assert devices.running() == 0
    assert not any(fetch.is_running for fetch in devices.fetches)


def test_the_last_copy_fails_when_all_was_handed_out(s3_own: Any, devices: StandIn) -> None:
    """load() itself waits for it, and raises."""
    s3_own.put("m.pt", stock([devices.put(filled(100))]))
    devices.fail_copy = 1
    with pytest.raises(RuntimeError, match="the copy failed"):
        s3dlio_torch.load(s3_own.uri("m.pt"))
    assert len(devices.copies) == 1


def test_a_request_that_fails(s3_own: Any, devices: StandIn) -> None:
    value = large(devices, 2)
    s3_own.put("m.pt", stock(value))
    fault = s3_own.server.add_fault(
        op="GetObject", kind="status", status=403, code="AccessDenied", skip=12, count=-1
    )
    devices.gate.clear()  # copies are under way when it fails
    opener = threading.Timer(0.5, devices.gate.set)
    opener.start()
    with pytest.raises(s3dlio_np.AccessDeniedError):
        s3dlio_torch.load(s3_own.uri("m.pt"), part_size=MIB, max_concurrency=4)
    opener.join()
    assert fault.hits() > 0 and devices.copies
    assert devices.running() == 0
    slots = [weakref.ref(memory) for memory in devices.host]
    devices.stop()
    for kept in (devices.lanes, devices.host, devices.copies, devices.fetches):
        kept.clear()
    gc.collect()
    assert slots and all(slot() is None for slot in slots)


def test_ctrl_c_in_a_load(s3_own: Any, devices: StandIn) -> None:
    s3_own.put("m.pt", stock(large(devices, 2)))
    fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=60, skip=8, count=-1)
    with interrupted_when(lambda: fault.hits() > 0):
        s3dlio_torch.load(s3_own.uri("m.pt"))
    assert devices.running() == 0
    assert not any(fetch.is_running for fetch in devices.fetches)


def test_an_unpickling_error_ends_what_runs(s3_own: Any, devices: StandIn) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            return eval, ("1 / 0",)

    s3_own.put("m.pt", stock([*large(devices, 2).values(), Odd()]))
    with pytest.raises(ZeroDivisionError):
        s3dlio_torch.load(s3_own.uri("m.pt"), weights_only=False)
    assert devices.copies and devices.running() == 0
    assert not any(fetch.is_running for fetch in devices.fetches)


def test_the_detector_sees_a_slot_that_is_filled_too_early_again(
    s3_own: Any, devices: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring that does not wait for copies: what all other tests here rely on."""
    s3_own.put("m.pt", stock(large(devices, 2)))
    monkeypatch.setattr(_ring.Inflow, "_reclaim", lambda self, slot, *, wait: True)
    with pytest.raises(ReusedTooEarly, match="copy"):
        s3dlio_torch.load(s3_own.uri("m.pt"), **FEW)
    assert devices.running() == 0


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_a_device_torch_says_so(s3_own: Any, tmp_path: Any) -> None:
    torch.save([torch.ones(3)], tmp_path / "m.pt")
    for place in ("cuda", torch.device("cuda:0")):
        with pytest.raises(RuntimeError, match="CUDA device|CPU-only") as theirs:
            torch.load(tmp_path / "m.pt", place)
        with pytest.raises(RuntimeError) as ours:
            s3dlio_torch.load(tmp_path / "m.pt", place)
        assert str(ours.value) == str(theirs.value)


# --- snapshots and safetensors ------------------------------------------------------------------


@near
def test_a_snapshot(target: Any, devices: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """All copies are queued before anybody waits, and afterwards everything may change."""
    monkeypatch.setattr(_ring, "_SLAB_BYTES", SLOT)
    value = mixed(devices)
    expected = stock(value)
    used = {devices.place_of(t.untyped_storage()) for t in tensors(value).values()} - {None}
    future = s3dlio_torch.async_save(value, target.uri("m.pt"), **FEW)
    assert devices.running() == 0
    assert devices.lane_waits == len(devices.lanes) == len(used) == 2
    for tensor in tensors(value).values():
        tensor.zero_()
    future.result(LIMIT_S)
    assert target.read("m.pt") == expected
    assert all(memory.numel() <= SLOT for memory in devices.host)


def test_a_snapshot_whose_copy_fails(s3_own: Any, devices: StandIn) -> None:
    devices.fail_copy = 3
    with pytest.raises(RuntimeError, match="the copy failed"):
        s3dlio_torch.async_save(mixed(devices), s3_own.uri("m.pt"))
    assert devices.running() == 0 and s3_own.objects() == {}


def flat_state(devices: StandIn) -> dict[str, torch.Tensor]:
    value = mixed(devices)
    return {
        name: tensor.contiguous() if devices.holds(tensor) else tensor
        for name, tensor in tensors(value).items()
        if name not in ("alias", "view", "floats")
    } | {"floats": devices.put(torch.arange(100_000.0))}


@near
def test_safetensors(target: Any, devices: StandIn) -> None:
    value = flat_state(devices)
    s3dlio_torch.save_safetensors(value, target.uri("m"), **FEW)
    assert target.read("m") == safetensors.torch.save(value)
    assert_bounded(devices)
    devices.copies.clear()
    loaded = s3dlio_torch.load_safetensors(target.uri("m"), device="cuda:1", **FEW)
    assert all(torch.equal(loaded[name], value[name]) for name in value)
    assert {devices.place_of(t.untyped_storage()) for t in loaded.values()} == {
        torch.device("cuda:1")
    }
    assert_bounded(devices, rings=2)
    assert_all_led(devices)
    assert devices.running() == 0


def test_a_piece_of_a_storage_as_safetensors(s3_own: Any, devices: StandIn) -> None:
    base = devices.put(filled(4 * SLOT))
    value = {"a": base[10 : SLOT + 11], "b": base[2 * SLOT + 3 : 3 * SLOT]}
    s3dlio_torch.save_safetensors(value, s3_own.uri("m"))
    assert s3_own.get("m") == safetensors.torch.save(value)


@near
def test_a_copy_that_fails_with_safetensors(target: Any, devices: StandIn) -> None:
    value = flat_state(devices)
    target.write("m", safetensors.torch.save(value))
    devices.fail_copy = 4
    with pytest.raises(RuntimeError, match="the copy failed"):
        s3dlio_torch.load_safetensors(target.uri("m"), device="cuda:0")
    assert devices.running() == 0
    devices.fail_copy = len(devices.copies) + 3
    with pytest.raises(RuntimeError, match="the copy failed"):
        s3dlio_torch.save_safetensors(value, target.uri("n"))
    assert devices.running() == 0
    assert (target.exists("n"), target.leftovers()) == (False, [])


# --- real devices -------------------------------------------------------------------------------

needs_accelerator = pytest.mark.skipif(
    not torch.accelerator.is_available(), reason="NEEDS AN ACCELERATOR"
)


@needs_accelerator
@near
def test_a_real_device(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of the caller's own is queued before the save and after the load."""
    monkeypatch.setattr(_ring, "SLOT_BYTES", SLOT)
    device = torch.accelerator.current_accelerator()
    assert device is not None
    value = {f"w{i}": filled(PART + i, i).to(device) for i in range(4)}
    for tensor in value.values():
        tensor.add_(1)
    value |= {"step": torch.tensor(3.0), "small": torch.arange(5, device=device)}
    s3dlio_torch.save(value, target.uri("m.pt"), **FEW)
    assert target.read("m.pt") == stock(value)
    for place in (None, device, f"{device.type}:0"):
        loaded = s3dlio_torch.load(target.uri("m.pt"), place, **FEW)
        for name in value:
            assert torch.equal(loaded[name].cpu() + 1, value[name].cpu() + 1)
            on_cpu = place is None and name == "step"
            assert loaded[name].is_cpu == on_cpu


@needs_accelerator
def test_streams_of_the_callers_stay_current(s3_own: Any) -> None:
    device = torch.accelerator.current_accelerator()
    assert device is not None
    value = [torch.ones(3 * MIB, device=device)]
    before = torch.accelerator.current_stream()
    s3dlio_torch.save(value, s3_own.uri("m.pt"))
    side = torch.Stream(device)
    torch.accelerator.set_stream(side)
    try:
        loaded = s3dlio_torch.load(s3_own.uri("m.pt"))
        assert torch.accelerator.current_stream() == side
        total = loaded[0].sum()  # on that stream, which waits for the copies
    finally:
        torch.accelerator.set_stream(before)
    side.synchronize()
    assert total.item() == 3 * MIB


@needs_accelerator
def test_memory_that_is_used_again_at_once(s3_own: Any) -> None:
    """The caller works on two streams in turn, and changes or frees tensors when a call returns."""
    device = torch.accelerator.current_accelerator()
    assert device is not None
    streams = [torch.accelerator.current_stream(), torch.Stream(device)]
    sizes = random.Random(1)
    try:
        for step in range(40):
            torch.accelerator.set_stream(streams[step % 2])
            value = [
                torch.randint(0, 256, (sizes.randrange(1, 40 * MIB),), dtype=torch.uint8, device=device)
                for _ in range(6)
            ]
            expected = [tensor.cpu() for tensor in value]
            torch.rand(2048, 2048, device=device).matmul(torch.rand(2048, 2048, device=device))
            s3dlio_torch.save(value, s3_own.uri("m.pt"))
            for tensor in value:
                tensor.zero_()
            del value, tensor
            loaded = s3dlio_torch.load(s3_own.uri("m.pt"), device)
            copies = [tensor.clone() for tensor in loaded]  # queued, perhaps before the bytes are there
            del loaded
            noise = [torch.full((20 * MIB,), 7, dtype=torch.uint8, device=device) for _ in range(4)]
            assert all(torch.equal(a.cpu(), b) for a, b in zip(copies, expected, strict=True))
            del copies, noise
    finally:
        torch.accelerator.set_stream(streams[0])
