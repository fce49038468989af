"""The native load gives what torch.load gives, in few requests, with the first storage early."""

from __future__ import annotations

import gc
import io
import pickle
import random
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import s3dlio_np
import s3dlio_torch
from tests import child
from tests.marks import near
from tests.torch.test_interop import VALUES, assert_same
from tests.torch.test_native_save import MORE, filled, setting, stock, sums

MIB = 1 << 20
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def packed_anew(
    data: bytes,
    *,
    prefix: str = "archive",
    order: Callable[[str], Any] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The records of an archive in a zip that is not torch's work."""
    old, new = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(new, "w", compression) as archive:
        for name in sorted(old.namelist(), key=order) if order else old.namelist():
            archive.writestr(name.replace("archive", prefix, 1), old.read(name))
    return new.getvalue()


def assert_as_torch(uri: str, data: bytes, **arguments: Any) -> Any:
    ours = s3dlio_torch.load(uri, **arguments)
    assert_same_results(ours, torch.load(io.BytesIO(data), **arguments))
    return ours


def assert_same_results(ours: Any, theirs: Any) -> None:
    assert stock(ours) == stock(theirs)


# --- values and places --------------------------------------------------------------------------


@near
@pytest.mark.parametrize("name", [*VALUES, *MORE])
def test_every_kind_of_value(target: Any, name: str) -> None:
    data = stock((VALUES | MORE)[name]())
    target.write("m.pt", data)
    if name == "a storage that is no multiple":
        for load in (torch.load, s3dlio_torch.load):
            with pytest.raises(RuntimeError, match="7 bytes"):
                load(io.BytesIO(data) if load is torch.load else target.uri("m.pt"))
        return
    assert_as_torch(target.uri("m.pt"), data, weights_only=False)


@near
@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize("alignment", [64, 4096])
def test_alignments_and_sums(target: Any, alignment: int, with_sums: bool) -> None:
    value = {"a": torch.arange(5), "e": torch.empty(0), "big": filled(3 * MIB)}
    with setting(torch.utils.serialization.config.save, "storage_alignment", alignment):
        with sums(with_sums):
            target.write("m.pt", stock(value))
    assert_same(s3dlio_torch.load(target.uri("m.pt")), value)


def by_name(name: str) -> str:
    return name


def shuffled(name: str) -> float:
    return random.Random(name).random()


def small() -> dict[str, torch.Tensor]:
    return {f"w{i}": torch.full((3 + i,), float(i)) for i in range(30)}


@near
@pytest.mark.parametrize("order", [None, by_name, shuffled])
@pytest.mark.parametrize("prefix", ["archive", "model", "völlig anders", "a" * 400])
def test_other_layouts(target: Any, prefix: str, order: Any) -> None:
    """data/10 before data/2, no alignment, no descriptors: as older torch, and as zipfile."""
    data = packed_anew(stock(small()), prefix=prefix, order=order)
    target.write("m.pt", data)
    assert_as_torch(target.uri("m.pt"), data)


@near
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_packed_by_others(target: Any, compression: int) -> None:
    data = packed_anew(stock(VALUES["views"]()), compression=compression)
    target.write("m.pt", data)
    assert_as_torch(target.uri("m.pt"), data)


@near
def test_archives_of_earlier_torches(target: Any) -> None:
    """No .format_version, .storage_alignment, byteorder or id."""
    old, new = zipfile.ZipFile(io.BytesIO(stock(small()))), io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name in sorted(old.namelist()):
            if name.endswith((".pkl", "version")) and "format" not in name or "/data/" in name:
                archive.writestr(name, old.read(name))
    target.write("m.pt", new.getvalue())
    assert_as_torch(target.uri("m.pt"), new.getvalue())


@near
def test_the_other_byte_order(target: Any) -> None:
    old, new = zipfile.ZipFile(io.BytesIO(stock(small()))), io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            big = name.endswith("byteorder")
            archive.writestr(name, b"big" if big else old.read(name))
    target.write("m.pt", new.getvalue())
    assert_as_torch(target.uri("m.pt"), new.getvalue())


@near
@pytest.mark.parametrize("name", ["views", "training", "parameter", "containers"])
def test_legacy_files(target: Any, name: str) -> None:
    data = stock(VALUES[name](), _use_new_zipfile_serialization=False)
    target.write("m.pt", data)
    assert_as_torch(target.uri("m.pt"), data)


class Plus(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.w


@near
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(target: Any) -> None:
    memory = io.BytesIO()
    torch.jit.save(torch.jit.script(Plus()), memory)
    target.write("m.pt", memory.getvalue())
    with pytest.raises(RuntimeError, match="TorchScript"):
        s3dlio_torch.load(target.uri("m.pt"))
    with pytest.warns(UserWarning, match="TorchScript"):
        loaded = s3dlio_torch.load(target.uri("m.pt"), weights_only=False)
    assert torch.equal(loaded(torch.zeros(3)), torch.ones(3))


PLACES: dict[str, Any] = {
    "None": None,
    "str": "cpu",
    "device": torch.device("cpu"),
    "dict": {"cuda:0": "cpu", "cuda:1": "cpu"},
    "callable": lambda storage, location: storage,
    "callable None": lambda storage, location: None,
    "meta": "meta",
    "meta device": torch.device("meta"),
}


@near
@pytest.mark.parametrize("place", PLACES)
def test_places(target: Any, place: str) -> None:
    data = stock(VALUES["views"]())
    target.write("m.pt", data)
    ours = s3dlio_torch.load(target.uri("m.pt"), PLACES[place])
    theirs = torch.load(io.BytesIO(data), PLACES[place])
    for name, tensor in theirs.items():
        mine = ours[name]
        assert (mine.device, mine.shape, mine.stride()) == (
            tensor.device,
            tensor.shape,
            tensor.stride(),
        )
        offsets = [t.untyped_storage()._checkpoint_offset for t in (mine, tensor)]
        assert offsets[0] == offsets[1]
        assert mine.is_meta or torch.equal(mine, tensor)


@near
def test_places_that_torch_refuses(target: Any) -> None:
    data = stock(small())
    target.write("m.pt", data)
    for place in ("cuda:99", "nowhere", lambda storage, location: 1 / 0):
        with pytest.raises(Exception) as theirs:
            torch.load(io.BytesIO(data), place)
        with pytest.raises(theirs.type):
            s3dlio_torch.load(target.uri("m.pt"), place)


def test_locations_are_told(s3_own: Any) -> None:
    s3_own.put("m.pt", stock(small()))
    seen = []

    def place(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        seen.append((storage.nbytes(), location))
        return storage

    s3dlio_torch.load(s3_own.uri("m.pt"), place)
    assert seen == [((3 + i) * 4, "cpu") for i in range(30)]


@near
def test_nothing_is_fetched_for_meta_and_fake_tensors(target: Any) -> None:
    value = {"big": filled(8 * MIB), "p": torch.nn.Parameter(torch.ones(3))}
    target.write("m.pt", stock(value))
    for fake in (False, True):
        before = s3dlio_np.stats()["bytes_received"]
        if fake:
            with FakeTensorMode():
                loaded = s3dlio_torch.load(target.uri("m.pt"))
            assert isinstance(loaded["big"], FakeTensor)
            assert loaded["big"].device.type == "cpu"
        else:
            loaded = s3dlio_torch.load(target.uri("m.pt"), "meta")
        assert loaded["big"].shape == (8 * MIB,)
        assert s3dlio_np.stats()["bytes_received"] - before < MIB


@near
def test_skip_data(target: Any) -> None:
    value = {"big": filled(8 * MIB)}
    target.write("m.pt", stock(value))
    before = s3dlio_np.stats()["bytes_received"]
    with torch.serialization.skip_data():
        loaded = s3dlio_torch.load(target.uri("m.pt"))
    assert loaded["big"].shape == (8 * MIB,)
    assert s3dlio_np.stats()["bytes_received"] - before < MIB


def test_mmap_maps(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    s3dlio_torch.save({"a": torch.arange(1000)}, path)
    loaded = s3dlio_torch.load(path, mmap=True)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert torch.equal(loaded["a"], torch.arange(1000))


class Renaming:
    """A pickle_module of the user's."""

    load = staticmethod(pickle.load)
    dump = staticmethod(pickle.dump)
    Pickler = pickle.Pickler
    __name__ = "renaming"

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return (
                (lambda *args: "seen")
                if name == "PosixPath"
                else super().find_class(module, name)
            )


@near
def test_pickle_module(target: Any) -> None:
    target.write("m.pt", stock({"a": torch.ones(2), "path": Path("x")}))
    loaded = s3dlio_torch.load(target.uri("m.pt"), None, Renaming, weights_only=False)
    assert loaded["path"] == "seen"
    with pytest.raises(RuntimeError, match="pickle_module"):
        s3dlio_torch.load(target.uri("m.pt"), None, Renaming, weights_only=True)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        s3dlio_torch.load(target.uri("m.pt"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is pinned memory")
def test_no_pinned_memory_here(s3_own: Any) -> None:
    s3_own.put("m.pt", stock(small()))
    with pytest.raises(RuntimeError, match="accelerator"):
        s3dlio_torch.load(s3_own.uri("m.pt"), pin_memory=True)
    assert len(s3dlio_torch.load(s3_own.uri("m.pt"))) == 30


# --- memory -------------------------------------------------------------------------------------


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


@near
def test_storages(target: Any) -> None:
    """Aligned, of just their sizes, writable, each its own; not resizable."""
    value = {f"w{i}": filled(n, i) for i, n in enumerate((1, 63, 64, 65, 4097, MIB, 3 * MIB))}
    target.write("m.pt", stock(value))
    loaded = s3dlio_torch.load(target.uri("m.pt"))
    spans = []
    for name, tensor in loaded.items():
        storage = storage_of(tensor)
        assert storage.nbytes() == value[name].numel()
        assert storage.data_ptr() % 64 == 0
        spans.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
        assert not storage.resizable()
        with pytest.raises(RuntimeError, match="not resizable"):
            storage.resize_(10 * MIB)
        tensor.add_(1)
        assert torch.equal(tensor, value[name] + 1)
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


@near
def test_every_empty_record_has_a_storage_of_its_own(target: Any) -> None:
    target.write("m.pt", stock([torch.empty(0), torch.empty(0, 2, dtype=torch.int8)]))
    one, other = s3dlio_torch.load(target.uri("m.pt"))
    assert storage_of(one)._cdata != storage_of(other)._cdata
    assert storage_of(one).data_ptr() == storage_of(other).data_ptr() == 0


@near
def test_tensors_go_in_any_order(target: Any) -> None:
    value = small() | {f"big{i}": filled(2 * MIB, i) for i in range(3)}
    target.write("m.pt", stock(value))
    for seed in range(3):
        loaded = s3dlio_torch.load(target.uri("m.pt"))
        names = list(loaded)
        random.Random(seed).shuffle(names)
        for i, name in enumerate(names):
            del loaded[name]
            for other in names[i + 1 :: 7]:
                assert torch.equal(loaded[other], value[other])


FREED = """
    import gc, sys, torch, s3dlio_torch
    from pathlib import Path

    def resident_mib():
        return int(Path("/proc/self/statm").read_text().split()[1]) >> 8

    uri = sys.argv[1]
    loaded = s3dlio_torch.load(uri)
    del loaded
    before = resident_mib()
    loaded = s3dlio_torch.load(uri)
    grown = resident_mib() - before
    kept = loaded["w7"]  # one small tensor keeps its slab, and nothing else
    del loaded
    gc.collect()
    left = resident_mib() - before
    total = int(kept.sum())
    del kept
    gc.collect()
    print(grown, left, resident_mib() - before, total)
    for _ in range(20):
        s3dlio_torch.load(uri)
    print(resident_mib() - before)
"""


def test_memory_goes_back_to_the_system(s3_own: Any) -> None:
    value = {f"w{i}": torch.full((100_000,), i % 5, dtype=torch.uint8) for i in range(400)}
    value["big"] = filled(40 * MIB)
    s3_own.put("m.pt", stock(value))
    grown, left, end, total, later = map(int, child.run(FREED, s3_own.uri("m.pt")).split())
    assert grown >= 70
    assert left <= 16  # of slabs of 8 MiB
    assert end <= 4 + 8
    assert later <= 40  # twenty loads of 80 MiB
    assert total == 100_000 * 2


def test_results_do_not_change_later(s3_own: Any) -> None:
    """Nothing of the stream's is behind the tensors."""
    first, second = filled(5 * MIB, 1), filled(5 * MIB, 2)
    s3_own.put("a.pt", stock([first, torch.ones(3)]))
    s3_own.put("b.pt", stock([second, torch.zeros(3)]))
    one = s3dlio_torch.load(s3_own.uri("a.pt"))
    for _ in range(3):
        other = s3dlio_torch.load(s3_own.uri("b.pt"))
        gc.collect()
    assert torch.equal(one[0], first) and torch.equal(one[1], torch.ones(3))
    assert torch.equal(other[0], second) and torch.equal(other[1], torch.zeros(3))


# --- requests -----------------------------------------------------------------------------------


def gets(server: Any) -> int:
    return int(server.counters()["requests"]["GetObject"])


def test_a_large_checkpoint_takes_few_requests(s3_own: Any) -> None:
    s3_own.put("m.pt", stock({f"w{i}": filled(4 * MIB, i) for i in range(16)}))
    s3_own.server.reset()
    s3dlio_torch.load(s3_own.uri("m.pt"), part_size=8 * MIB, max_concurrency=8)
    requests, sent = gets(s3_own.server), s3_own.server.counters()["bytes_out"]
    assert 8 <= requests <= 8 + 3
    assert sent < 65 * MIB


def test_small_records_share_requests(s3_own: Any) -> None:
    value = {f"w{i}": torch.full((100,), float(i)) for i in range(2000)}
    s3_own.put("m.pt", stock(value))
    s3_own.server.reset()
    loaded = s3dlio_torch.load(s3_own.uri("m.pt"))
    assert gets(s3_own.server) <= 6
    assert all(torch.equal(loaded[name], value[name]) for name in value)


def test_everything_small_is_in_the_first_answer(s3_own: Any) -> None:
    s3_own.put("m.pt", stock({"a": torch.ones(3)}))
    s3_own.server.reset()
    s3dlio_torch.load(s3_own.uri("m.pt"))
    assert gets(s3_own.server) <= 2


def test_the_first_storage_is_there_before_the_last_byte(s3_own: Any) -> None:
    """The wave's last request is held back; the records before it are handed out meanwhile."""
    s3_own.put("m.pt", stock([filled(4 * MIB, i) for i in range(8)]))
    fault = s3_own.server.add_fault(
        op="GetObject", kind="stall", seconds=60, bytes=1, skip=wave_requests(s3_own) - 1
    )
    handed_out = []

    class Stop(Exception):
        pass

    def place(storage: Any, location: str) -> Any:
        handed_out.append(storage)
        if len(handed_out) < 7:
            return storage
        while fault.hits() == 0:
            pass
        raise Stop

    with pytest.raises(Stop):
        s3dlio_torch.load(s3_own.uri("m.pt"), place, part_size=4 * MIB, max_concurrency=1)
    assert fault.hits() == 1
    first = torch.empty(0, dtype=torch.uint8).set_(handed_out[0])
    assert torch.equal(first, filled(4 * MIB, 0))


def wave_requests(s3_own: Any) -> int:
    """How many requests a load like the one above takes."""
    s3_own.server.reset()
    s3dlio_torch.load(s3_own.uri("m.pt"), part_size=4 * MIB, max_concurrency=1)
    return gets(s3_own.server)


def test_many_loads_at_once(s3_own: Any) -> None:
    values = [{"n": i, "w": filled(3 * MIB + i, i), **small()} for i in range(8)]
    for i, value in enumerate(values):
        s3_own.put(f"{i}.pt", stock(value))
    wrong: list[BaseException] = []

    def load(i: int) -> None:
        try:
            for k in range(3):
                assert_same(
                    s3dlio_torch.load(s3_own.uri(f"{(i + k) % 8}.pt")), values[(i + k) % 8]
                )
        except BaseException as error:  # noqa: BLE001 - for the main thread
            wrong.append(error)

    threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
