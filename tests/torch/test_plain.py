"""The unpickler in C: what it takes is just what torch makes of it, the rest is left to torch."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import io
import math
import pickle
import random
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import s3dlio_np
import s3dlio_torch
from s3dlio_np import IntegrityError
from s3dlio_np._native import ArchiveReader
from s3dlio_torch import _archive, _native, _plain

DTYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    torch.float8_e8m0fnu,
)


class Taken(list[bool]):
    """For each load whether the unpickler in C did it."""

    on = True


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    loads, load_plain = Taken(), _archive.load_plain

    def watched(*arguments: Any, **keywords: Any) -> Any:
        if not loads.on:
            return _plain.NOT_PLAIN
        result = load_plain(*arguments, **keywords)
        loads.append(result is not _plain.NOT_PLAIN)
        return result

    monkeypatch.setattr(_archive, "load_plain", watched)
    return loads


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "m.pt")


# --- equality, down to what is shared ---------------------------------------------------------


class Comparison:
    """Holds two objects against one another; the first difference is an AssertionError."""

    def __init__(self) -> None:
        self._twins: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        self._keep: list[Any] = []

    def check(self, a: Any, b: Any) -> None:
        assert type(a) is type(b)
        if isinstance(a, (torch.Tensor, list, dict, set, bytearray)):
            first = id(a) not in self._twins
            assert self._twins.setdefault(id(a), id(b)) == id(b)
            self._keep += (a, b)
            if not first:
                return
        if isinstance(a, torch.Tensor):
            self._tensors(a, b)
        elif isinstance(a, dict):
            self.check(list(a), list(b))
            self.check(list(a.values()), list(b.values()))
            if isinstance(a, collections.OrderedDict):
                self.check(vars(a), vars(b))
        elif isinstance(a, (list, tuple)):
            assert len(a) == len(b)
            for one, other in zip(a, b, strict=True):
                self.check(one, other)
        elif isinstance(a, float):
            assert struct.pack("d", a) == struct.pack("d", b)
        else:
            assert a == b

    def _tensors(self, a: torch.Tensor, b: torch.Tensor) -> None:
        for name in ("dtype", "shape", "device", "layout", "requires_grad", "is_leaf", "grad_fn"):
            assert getattr(a, name) == getattr(b, name), name
        assert a.stride() == b.stride()
        assert a.storage_offset() == b.storage_offset()
        assert a._backward_hooks == b._backward_hooks
        assert type(a._backward_hooks) is type(b._backward_hooks)
        assert a._is_view() == b._is_view()
        assert a.is_inference() == b.is_inference()
        assert a.__dict__ == b.__dict__
        mine, theirs = a.untyped_storage(), b.untyped_storage()
        assert mine.nbytes() == theirs.nbytes()
        assert bytes_of(mine) == bytes_of(theirs)
        assert (mine.data_ptr() == 0) == (mine.nbytes() == 0)
        assert self._storages.setdefault(mine._cdata, theirs._cdata) == theirs._cdata
        self._keep += (mine, theirs)


def bytes_of(storage: torch.UntypedStorage) -> bytes:
    if storage.device.type != "cpu":
        return b""
    return ctypes.string_at(storage.data_ptr(), storage.nbytes())


def check_same(a: Any, b: Any) -> None:
    Comparison().check(a, b)
    Comparison().check(b, a)  # what is shared on the other side only


def test_the_comparison_sees_what_is_shared() -> None:
    shared, tensor = [1], torch.ones(2)
    for a, b in (
        ([shared, shared], [[1], [1]]),
        ([tensor, tensor], [tensor, tensor.clone()]),
        ([tensor, tensor[:1]], [tensor, tensor[:1].clone()]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (0.0, -0.0),
        (1, True),
    ):
        with pytest.raises(AssertionError):
            check_same(a, b)


# --- plain ones -------------------------------------------------------------------------------


def check_plain(value: Any, file: str, taken: Taken, **how: Any) -> Any:
    torch.save(value, file)
    taken.clear()
    loaded = s3dlio_torch.load(file, **how)
    assert taken == [True]
    check_same(loaded, torch.load(file, **how))
    return loaded


def random_bytes_as(dtype: torch.dtype, shape: tuple[int, ...], dice: random.Random) -> torch.Tensor:
    itemsize = torch.empty(0, dtype=dtype).element_size()
    raw = bytearray(dice.randbytes(math.prod(shape) * itemsize))
    if dtype is torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).clone().reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4), (2, 1, 3, 1)], ids=str)
def test_a_tensor_of_each_dtype(
    file: str, taken: Taken, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = random_bytes_as(dtype, shape, random.Random(1))
    check_plain({"a": tensor, "dtype": dtype}, file, taken)


def test_every_dtype_of_the_scan_is_tried() -> None:
    assert {str(dtype) for dtype in DTYPES} == {f"torch.{name}" for name in _plain.Plain.dtypes()}


BASE = torch.arange(60.0).reshape(3, 4, 5)


@pytest.mark.parametrize(
    "value",
    [
        {"t": BASE, "again": BASE, "rows": BASE[1:], "strided": BASE[:, ::2, 1:]},
        {"transposed": BASE.mT, "expanded": torch.ones(1).expand(4, 5), "last": BASE[2, 3, 4]},
        {"empty view": BASE[3:], "and": BASE[:, :0], "end": BASE.reshape(60)[60:]},
        [torch.empty(0), torch.empty(0, 3), torch.empty(3, 0)],
        {"p": torch.nn.Parameter(torch.ones(3)), "q": torch.nn.Parameter(BASE[1], False)},
        (lambda p: [p, p, {"p": p}])(torch.nn.Parameter(torch.ones(2, 2))),
        {"grad": torch.ones(2, requires_grad=True), "z": torch.ones(1, dtype=torch.cfloat).requires_grad_()},
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict(),
        collections.OrderedDict([("b", 1), ("a", collections.OrderedDict())]),
        [None, True, False, 0, 1, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31)],
        [2**31, 2**32, -(2**31) - 1, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**64), 1 << 999, -(1 << 999)],
        [0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324],
        ["", "a", "ä", "€", "\U0001f600", "a\0b", "x" * 70_000],
        [b"", b"a", bytes(range(256)), bytearray(), bytearray(range(256))][1:],
        [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((((1,),),),), [], [[]], {}],
        [{1, 2, 3}, set(), {"a", (1, 2), None, 2.5}],
        [torch.Size([]), torch.Size([1, 2, 3]), torch.float32, torch.int8, 1j, -0.0 + 2j],
        [torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")],
        {1: "int", 1.5: "float", None: "none", (1, "a"): "tuple", b"x": "bytes", False: "false"},
        {torch.float32: 1, torch.Size([2]): 2, 1j: 3, torch.device("cpu"): 4},
        5,
        "text",
        None,
        torch.ones(3),
        (torch.ones(2), [torch.zeros(1), {"x": (BASE, [BASE[0]])}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_plain_value(file: str, taken: Taken, value: Any) -> None:
    check_plain(value, file, taken)


def test_values_that_hold_themselves(file: str, taken: Taken) -> None:
    loop: list[Any] = [torch.ones(2)]
    loop.append({"up": loop, "t": loop[0]})
    torch.save(loop, file)
    loaded = s3dlio_torch.load(file)
    assert taken == [True]
    assert loaded[1]["up"] is loaded
    assert loaded[1]["t"] is loaded[0]


def test_shared_things_stay_shared(file: str, taken: Taken) -> None:
    inner, text = [1], "a text of some length"
    loaded = check_plain({"a": inner, "b": inner, "t": BASE, "u": BASE, text: text}, file, taken)
    assert loaded["a"] is loaded["b"]
    assert loaded["t"] is loaded["u"]
    loaded["t"][0] = 7
    assert loaded["u"][0, 0, 0] == 7


def test_loaded_tensors_can_be_used(file: str, taken: Taken) -> None:
    loaded = check_plain({"p": torch.nn.Parameter(torch.ones(3)), "t": torch.ones(3)}, file, taken)
    (loaded["p"] * loaded["t"]).sum().backward()
    assert loaded["p"].grad.tolist() == [1, 1, 1]
    loaded["t"].add_(1)
    seen: list[Any] = []
    loaded["p"].register_hook(seen.append)
    (loaded["p"] * 2).sum().backward()
    assert len(seen) == 1
    copy = pickle.loads(pickle.dumps(loaded["t"]))
    assert copy.tolist() == [2, 2, 2]


def test_memory_outlives_the_load_and_is_not_another_ones(file: str, taken: Taken) -> None:
    sizes = [1, 63, 64, 65, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20] + [700_000] * 30
    value = [torch.full((size,), i, dtype=torch.uint8) for i, size in enumerate(sizes)]
    loaded = check_plain(value, file, taken)
    spans = sorted((t.data_ptr(), t.data_ptr() + t.numel()) for t in loaded)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    assert all(t.data_ptr() % 64 == 0 for t in loaded)
    kept = loaded[::3]
    del loaded
    gc.collect()
    for tensor, original in zip(kept, value[::3], strict=True):
        assert torch.equal(tensor, original)


class Generator:
    """Random plain values, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._made: list[Any] = []
        self._bases: list[torch.Tensor] = []

    def value(self, depth: int = 0) -> Any:
        dice = self._dice
        if self._made and dice.random() < 0.1:
            return dice.choice(self._made)
        kinds = [self._scalar, self._tensor, self._tensor, self._view, self._parameter]
        if depth < 4:
            kinds += [self._list, self._tuple, self._dict, self._ordered, self._set]
        made = dice.choice(kinds)(depth)
        self._made.append(made)
        return made

    def _scalar(self, depth: int) -> Any:
        dice = self._dice
        return dice.choice(
            [
                None,
                dice.random() < 0.5,
                dice.randint(-300, 70_000),
                dice.randint(-(2**80), 2**80),
                dice.uniform(-1e9, 1e9),
                "".join(dice.choices("abc.äß€\U0001f600", k=dice.randint(0, 20))),
                bytes(dice.choices(range(256), k=dice.randint(1, 300))),
                torch.Size(dice.choices(range(9), k=3)),
                dice.choice(DTYPES),
            ]
        )

    def _tensor(self, depth: int) -> torch.Tensor:
        shape = tuple(self._dice.choices(range(4), k=self._dice.randint(0, 4)))
        tensor = random_bytes_as(self._dice.choice(DTYPES), shape, self._dice)
        if tensor.dtype in (torch.float32, torch.cdouble, torch.bfloat16):
            tensor.requires_grad = self._dice.random() < 0.5
        self._bases.append(tensor.detach())
        return tensor

    def _view(self, depth: int) -> torch.Tensor:
        if not self._bases:
            return self._tensor(depth)
        base = self._dice.choice(self._bases)
        for axis in range(base.ndim):
            start = self._dice.randint(0, base.shape[axis])
            base = base.narrow(axis, start, self._dice.randint(0, base.shape[axis] - start))
        return base.mT if base.ndim >= 2 and self._dice.random() < 0.5 else base

    def _parameter(self, depth: int) -> torch.Tensor:
        return torch.nn.Parameter(torch.rand(3), self._dice.random() < 0.7)

    def _items(self, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(self._dice.randint(0, 6))]

    def _list(self, depth: int) -> Any:
        return self._items(depth)

    def _tuple(self, depth: int) -> Any:
        return tuple(self._items(depth))

    def _key(self) -> Any:
        return self._dice.choice([f"k{self._dice.randint(0, 99)}", self._dice.randint(0, 99)])

    def _dict(self, depth: int) -> Any:
        return {self._key(): item for item in self._items(depth)}

    def _ordered(self, depth: int) -> Any:
        made = collections.OrderedDict((self._key(), item) for item in self._items(depth))
        if self._dice.random() < 0.5:
            made._metadata = self._dict(depth)  # type: ignore[attr-defined]
        return made

    def _set(self, depth: int) -> Any:
        return {self._key() for _ in range(self._dice.randint(0, 5))}


@pytest.mark.parametrize("seed", range(150))
def test_a_random_plain_value(file: str, taken: Taken, seed: int) -> None:
    check_plain(Generator(seed).value(), file, taken)


@pytest.mark.parametrize("location", ["cpu", torch.device("cpu")])
def test_to_the_cpu(file: str, taken: Taken, location: Any) -> None:
    check_plain({"a": BASE, "v": BASE[1]}, file, taken, map_location=location)


def test_tensors_from_another_device_go_to_the_cpu(
    file: str, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
    torch.save({"a": BASE}, file)
    loaded = s3dlio_torch.load(file, map_location="cpu")
    assert taken == [True]
    check_same(loaded, {**torch.load(file, map_location="cpu")})
    with pytest.raises(RuntimeError, match="cuda"):  # torch's own refusal
        s3dlio_torch.load(file)
    assert taken == [True, False]


def test_more_records_than_a_plain_zip_holds(file: str, taken: Taken) -> None:
    torch.save([torch.tensor([i], dtype=torch.int32) for i in range(65_600)], file)
    loaded = s3dlio_torch.load(file)
    assert taken == [True]
    assert torch.cat(loaded).tolist() == list(range(65_600))
    assert len({t.untyped_storage()._cdata for t in loaded}) == 65_600


def test_by_s3(s3: Any, taken: Taken) -> None:
    value = {f"t{i}": torch.full((i % 97,), float(i)) for i in range(500)}
    s3dlio_torch.save(value, s3.uri("m.pt"))
    loaded = s3dlio_torch.load(s3.uri("m.pt"))
    assert taken == [True]
    check_same(loaded, torch.load(io.BytesIO(s3.get("m.pt"))))


def test_many_threads_at_once(tmp_path: Path, taken: Taken) -> None:
    names = [str(tmp_path / f"{i}.pt") for i in range(4)]
    for i, name in enumerate(names):
        torch.save([torch.full((5,), i * 1000 + j) for j in range(200 + i)], name)
    wrong: list[str] = []

    def load(i: int) -> None:
        for _ in range(10):
            loaded = s3dlio_torch.load(names[i])
            if [int(t[0]) for t in loaded] != [i * 1000 + j for j in range(200 + i)]:
                wrong.append(names[i])

    threads = [threading.Thread(target=load, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert taken == [True] * 40


def test_collections_go_on_afterwards(file: str, taken: Taken) -> None:
    assert gc.isenabled()
    check_plain([BASE], file, taken)
    assert gc.isenabled()
    gc.disable()
    try:
        check_plain([BASE], file, taken)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_user_globals_are_no_hindrance(file: str, taken: Taken) -> None:
    with torch.serialization.safe_globals([Custom]):
        check_plain({"a": BASE}, file, taken)


def test_a_damaged_record(file: str, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.full((1000,), 7.0), "b": BASE}, file)
    data = Path(file).read_bytes()
    at = data.index(struct.pack("f", 7.0) * 10)
    Path(file).write_bytes(data[:at] + b"\1" + data[at + 1 :])
    calls: list[Any] = []
    make = _native.make_tensors
    monkeypatch.setattr(_native, "make_tensors", lambda *a: calls.append(a) or make(*a))
    with pytest.raises(IntegrityError, match="data/0"):
        s3dlio_torch.load(file)
    assert len(calls) == 1  # so it was found on the way through C
    unchecked = s3dlio_torch.load(file, verify=False)
    assert taken == [True]
    check_same(unchecked, torch.load(file))


# --- the others: torch's own code, result and errors ------------------------------------------


class Custom:
    def __eq__(self, other: object) -> bool:
        return type(other) is Custom

    __hash__ = None  # type: ignore[assignment]


def with_attribute() -> torch.Tensor:
    tensor = torch.ones(2)
    tensor.note = "x"  # type: ignore[attr-defined]
    return tensor


def parameter_with_attribute() -> torch.Tensor:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "x"  # type: ignore[attr-defined]
    return parameter


def outcome(function: Callable[..., Any], *arguments: Any, **how: Any) -> tuple[Any, Any]:
    """What comes out: (value, None) or (None, exception)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments, **how), None
    except Exception as error:  # noqa: BLE001 - whatever it is
        return None, error


@pytest.mark.parametrize(
    "value",
    [
        Custom(),
        collections.Counter("abca"),
        frozenset([1]),
        b"",  # torch cannot load it
        collections.deque([1]),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, dtype=torch.cfloat).conj(),
        with_attribute(),
        parameter_with_attribute(),
        torch.ones(3).untyped_storage(),
        torch.empty(2, device="meta"),
        [torch.Size, torch.ones(1)],
        [torch.FloatStorage],
        collections.OrderedDict,
        {torch.ones(1): "a tensor as a key"},
        {BASE.untyped_storage(): 1},
        torch.nn.Linear(1, 1),
        [torch.device("cpu", 0), torch.device("vulkan")],
        torch.nn.Parameter(torch.ones(1)).requires_grad_(False).to_sparse(),
        range(3),
        slice(1),
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain(file: str, taken: Taken, value: Any) -> None:
    torch.save(value, file)
    mine, my_error = outcome(s3dlio_torch.load, file)
    theirs, their_error = outcome(torch.load, file)
    assert taken == [False]
    assert type(my_error) is type(their_error)
    assert str(my_error) == str(their_error)
    if isinstance(theirs, torch.Tensor) and theirs.layout is torch.strided and not theirs.is_meta:
        assert theirs.is_conj() or theirs.__dict__ == mine.__dict__
    elif isinstance(theirs, collections.Counter):
        assert mine == theirs


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantized_tensor(file: str, taken: Taken) -> None:
    value = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    torch.save(value, file)
    assert torch.equal(s3dlio_torch.load(file), value)
    assert taken == [False]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(file: str, taken: Taken, protocol: int) -> None:
    """torch reads protocol 3 with a warning, and no later one."""
    torch.save({"a": BASE, "b": [1, "x"]}, file, pickle_protocol=protocol)
    mine, my_error = outcome(s3dlio_torch.load, file)
    theirs, their_error = outcome(torch.load, file)
    assert taken == [protocol == 2]
    assert str(my_error) == str(their_error)
    assert (their_error is None) == (protocol < 4)
    check_same(mine, theirs)
    if protocol == 3:
        with pytest.warns(UserWarning, match="pickle protocol 3"):
            s3dlio_torch.load(file)


@contextlib.contextmanager
def skip_data() -> Iterator[None]:
    with torch.serialization.skip_data():
        yield


@contextlib.contextmanager
def big_endian_by_default() -> Iterator[None]:
    before = torch.serialization.get_default_load_endianness()
    torch.serialization.set_default_load_endianness(torch.serialization.LoadEndianness.BIG)
    try:
        yield
    finally:
        torch.serialization.set_default_load_endianness(before)


@contextlib.contextmanager
def another_way_to_the_cpu() -> Iterator[None]:
    before = list(torch.serialization._package_registry)
    torch.serialization.register_package(1, lambda storage: None, lambda storage, location: storage)
    try:
        yield
    finally:
        torch.serialization._package_registry[:] = before


class FunctionMode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "mode",
    [
        FakeTensorMode,
        lambda: torch.device("cpu"),
        FunctionMode,
        torch.inference_mode,
        skip_data,
        another_way_to_the_cpu,
    ],
)
def test_modes_of_torchs(file: str, taken: Taken, mode: Callable[[], Any]) -> None:
    torch.save({"a": BASE}, file)
    with mode():
        mine = s3dlio_torch.load(file)
        theirs = torch.load(file)
    assert taken == [False]
    assert type(mine["a"]) is type(theirs["a"])
    assert mine["a"].is_inference() == theirs["a"].is_inference()
    s3dlio_torch.load(file)
    assert taken == [False, True]


@pytest.mark.parametrize(
    "how",
    [
        {"weights_only": False},
        {"weights_only": False, "pickle_module": pickle},
        {"map_location": lambda storage, location: storage},
        {"map_location": {"cpu": "cpu"}},
        {"map_location": "meta"},
        {"map_location": torch.device("meta")},
        {"map_location": "cpu:0"},
        {"encoding": "ascii"},
        {"anything": 1},
    ],
)
@pytest.mark.filterwarnings("ignore:pickle_load_args")
def test_arguments_of_torchs(file: str, taken: Taken, how: dict[str, Any]) -> None:
    torch.save({"a": BASE, "v": BASE[1]}, file)
    mine, my_error = outcome(s3dlio_torch.load, file, **how)
    theirs, their_error = outcome(torch.load, file, **how)
    assert taken == [False]
    assert type(my_error) is type(their_error)
    if their_error is None and not theirs["a"].is_meta:
        check_same(mine, theirs)


def test_wrong_map_locations_are_torchs_to_refuse(file: str, taken: Taken) -> None:
    torch.save({"a": BASE}, file)
    for wrong in ("nonsense", "cuda:99", 3.5):
        mine, theirs = (outcome(load, file, wrong)[1] for load in (s3dlio_torch.load, torch.load))
        assert type(mine) is type(theirs)
        assert str(mine) == str(theirs)
    assert taken == [False] * 3


def test_parts_are_loaded_as_ever(file: str, taken: Taken) -> None:
    torch.save({"a": BASE, "b": {"c": BASE + 1}}, file)
    assert set(s3dlio_torch.load(file, keys="b")) == {"b"}
    assert True not in taken


@pytest.mark.parametrize("record", [b"big", b"little", b"nonsense", None])
@pytest.mark.parametrize("default", [contextlib.nullcontext, big_endian_by_default])
def test_byte_orders(file: str, taken: Taken, record: bytes | None, default: Any) -> None:
    torch.save({"a": torch.tensor([1.0, 2.0]), "b": [3]}, file)
    change(file, {"byteorder": record})
    with default():
        mine, my_error = outcome(s3dlio_torch.load, file)
        theirs, their_error = outcome(torch.load, file)
    assert taken == [record == b"little" or (record is None and default is contextlib.nullcontext)]
    assert str(my_error) == str(their_error)
    check_same(mine, theirs)


# --- hostile ones -----------------------------------------------------------------------------


def change(file: str, records: dict[str, bytes | None]) -> None:
    """Other bytes for some records of the archive; None: it is left out."""
    old, new = zipfile.ZipFile(file), io.BytesIO()
    with old, zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            data = records.get(name.split("/", 1)[1], old.read(name))
            if data is not None:
                archive.writestr(name, data)
    Path(file).write_bytes(new.getvalue())


def pickle_of(file: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


class Hostile:
    """Loads the same archive with other pickles, with and without the unpickler in C."""

    def __init__(self, file: str, taken: Taken) -> None:
        self._file, self._taken = file, taken
        self._whole = Path(file).read_bytes()
        self._pickle = pickle_of(file)
        self.plain = self.refused = 0

    def check(self, pickled: bytes) -> None:
        Path(self._file).write_bytes(self._whole)
        change(self._file, {"data.pkl": pickled})
        self._taken.clear()
        mine, my_error = outcome(s3dlio_torch.load, self._file)
        plain = True in self._taken
        self._taken.on = False
        by_torch, error = outcome(s3dlio_torch.load, self._file)
        self._taken.on = True
        assert type(my_error) is type(error)
        assert str(my_error) == str(error)
        if plain:  # of what is not, both are the same code's
            check_same(mine, by_torch)
            theirs, their_error = outcome(torch.load, self._file)
            assert their_error is None
            check_same(mine, theirs)
        self.plain += plain
        self.refused += error is not None


@pytest.fixture
def hostile(file: str, taken: Taken) -> Hostile:
    value = {
        "t": torch.arange(6.0).reshape(2, 3)[:, 1:],
        "m": collections.OrderedDict(p=torch.nn.Parameter(torch.ones(2))),
        "s": [1, (2.5, "x", None, torch.Size([1])), {3, 70_000}],
        "b": b"ab",
    }
    value["m"]._metadata = {"v": 1}  # type: ignore[union-attr]
    torch.save(value, file)
    return Hostile(file, taken)


def test_a_pickle_that_ends_early(hostile: Hostile) -> None:
    whole = hostile._pickle
    for length in range(len(whole)):
        hostile.check(whole[:length])
    assert hostile.plain == 0
    assert hostile.refused == len(whole)
    hostile.check(whole)
    assert hostile.plain == 1


@pytest.mark.parametrize("bits", [0x01, 0x02, 0x04, 0x20, 0x80, 0xFF])
def test_every_byte_flipped(hostile: Hostile, bits: int) -> None:
    whole = bytearray(hostile._pickle)
    for i in range(len(whole)):
        whole[i] ^= bits
        hostile.check(bytes(whole))
        whole[i] ^= bits
    assert hostile.refused > len(whole) // 3
    assert hostile.plain + hostile.refused > 0


def test_opcodes_put_in_and_left_out(hostile: Hostile) -> None:
    whole, dice = hostile._pickle, random.Random(5)
    for _ in range(400):
        at, opcode = dice.randrange(2, len(whole)), dice.choice(b"()].NQR]abcehtsu}\x85\x86\x87\x88")
        hostile.check(whole[:at] + bytes([opcode]) + whole[at:])
        at, length = dice.randrange(2, len(whole)), dice.randrange(1, 9)
        hostile.check(whole[:at] + whole[at + length :])
    assert hostile.refused > 400


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def storage(key: str = "0", count: bytes = b"K\x06", kind: str = "FloatStorage", place: str = "cpu") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(place) + count + b"tQ"


HOOKS = b"ccollections\nOrderedDict\n)R"


def tensor(
    over: bytes = b"",
    offset: bytes = b"K\0",
    sizes: bytes = b"K\x06\x85",
    strides: bytes = b"K\x01\x85",
    rest: bytes = b"\x89" + HOOKS,
    function: str = "_rebuild_tensor_v2",
) -> bytes:
    arguments = (over or storage()) + offset + sizes + strides + rest
    return f"ctorch._utils\n{function}\n(".encode() + arguments + b"tR"


UNTYPED = storage(count=b"K\x18").replace(b"ctorch\nFloat", b"ctorch.storage\nUntyped")
BIG = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2**63 - 1
NEGATIVE = b"J\xff\xff\xff\xff"

# By hand; True: it is plain.
BY_HAND: dict[str, tuple[bytes, bool]] = {
    "sound": (tensor(), True),
    "a view": (tensor(offset=b"K\x01", sizes=b"K\x02K\x02\x86", strides=b"K\x03K\x01\x86"), True),
    "up to the end": (tensor(offset=b"K\x05", sizes=b"K\x01\x85"), True),
    "beyond the end": (tensor(offset=b"K\x06", sizes=b"K\x01\x85"), False),
    "one too many": (tensor(offset=b"K\x01"), False),
    "a stride too many": (tensor(strides=b"K\x02\x85"), False),
    "no strides": (tensor(strides=b")"), False),
    "a negative offset": (tensor(offset=NEGATIVE, sizes=b"K\x01\x85"), False),
    "a negative size": (tensor(sizes=NEGATIVE + b"\x85"), False),
    "a negative stride": (tensor(strides=NEGATIVE + b"\x85"), False),
    "a huge size": (tensor(sizes=BIG + b"\x85"), False),
    "a huge stride": (tensor(strides=BIG + b"\x85"), False),
    "a huge offset": (tensor(offset=BIG), False),
    "a huge product": (tensor(sizes=BIG + BIG + b"\x86", strides=b"K\0K\0\x86"), False),
    "a huge product of nothing": (tensor(sizes=b"K\0" + BIG + BIG + b"\x87", strides=b"K\x01K\x01K\x01\x87"), False),
    "a huge expansion": (tensor(sizes=b"K\x02" + BIG + b"\x86", strides=b"K\0K\0\x86"), False),
    "an expansion": (tensor(sizes=b"K\x02M\xe8\x03\x86", strides=b"K\x01K\0\x86"), True),
    "nothing of it": (tensor(sizes=b"K\0\x85"), True),
    "nothing, far away": (tensor(offset=b"K\x63", sizes=b"K\0\x85"), True),
    "nothing, too far away": (tensor(offset=BIG, sizes=b"K\0\x85"), False),
    "another count": (tensor(storage(count=b"K\x05")), False),
    "a huge count": (tensor(storage(count=BIG)), False),
    "a negative count": (tensor(storage(count=NEGATIVE)), False),
    "a boolean count": (tensor(storage(count=b"\x88")), False),
    "no such record": (tensor(storage("7")), False),
    "a key of zeros": (tensor(storage("00")), False),
    "a key like a path": (tensor(storage("../data/0")), False),
    "a long key": (tensor(storage("9" * 20)), False),
    "an empty key": (tensor(storage("")), False),
    "of bytes": (tensor(storage(count=b"K\x18", kind="ByteStorage"), sizes=b"K\x18\x85"), True),
    "of another type": (tensor(storage(kind="QInt8Storage")), False),
    "of no type": (tensor(storage(kind="Size")), False),
    "from a GPU": (tensor(storage(place="cuda:0")), False),
    "two dtypes": (b"(" + tensor() + tensor(storage(kind="IntStorage")) + b"t", False),
    "two storages in one": (b"(" + tensor() + tensor() + b"t", True),
    "untyped, with a dtype": (
        tensor(
            UNTYPED,
            sizes=b"K\x0c\x85",
            rest=b"\x89" + HOOKS + b"ctorch\nuint16\n",
            function="_rebuild_tensor_v3",
        ),
        True,
    ),
    "untyped, under two dtypes": (
        b"".join(
            tensor(
                UNTYPED + b"q\x01" if name == "uint16" else b"h\x01",
                sizes=b"K\x01\x85",
                rest=b"\x89" + HOOKS + f"ctorch\n{name}\n".encode(),
                function="_rebuild_tensor_v3",
            )
            for name in ("uint16", "uint32")
        )
        + b"\x86",
        False,
    ),
    "a gradient": (tensor(rest=b"\x88" + HOOKS), True),
    "a gradient of integers": (tensor(storage(kind="IntStorage"), rest=b"\x88" + HOOKS), False),
    "a number for a gradient": (tensor(rest=b"K\x01" + HOOKS), False),
    "hooks": (tensor(rest=b"\x89" + HOOKS + b"K\x01K\x02s"), False),
    "no hooks": (tensor(rest=b"\x89N"), False),
    "hooks for two": (b"(" + HOOKS + b"q\x01" + tensor(rest=b"\x89h\x01") * 2 + b"t", False),
    "hooks as a value": (b"(" + HOOKS + b"q\x01" + tensor(rest=b"\x89h\x01") + b"t", False),
    "hooks filled later": (
        b"(" + HOOKS + b"q\x01" + tensor(rest=b"\x89h\x01") + b"h\x01K\x01K\x02st",
        False,
    ),
    "metadata": (tensor(rest=b"\x89" + HOOKS + b"}"), False),
    "no arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", False),
    "an old tensor": (tensor(rest=b"", function="_rebuild_tensor"), False),
    "a parameter of a list": (b"ctorch._utils\n_rebuild_parameter\n]\x89" + HOOKS + b"\x87R", False),
    "a parameter of a parameter": (
        b"ctorch._utils\n_rebuild_parameter\n" * 2 + tensor() + (b"\x89" + HOOKS + b"\x87R") * 2,
        False,
    ),
    "eval": (b"cbuiltins\neval\n" + text("1") + b"\x85R", False),
    "os.system": (b"cos\nsystem\n" + text("false") + b"\x85R", False),
    "a global in two lines": (b"ctorch\n_utils._rebuild_tensor_v2\n", False),
    "a call of text": (text("x") + b")R", False),
    "a call without a tuple": (b"ccollections\nOrderedDict\n]R", False),
    "a dict as a key": (b"}}K\x01s", False),
    "a list in a tuple as a key": (b"}]\x85K\x01s", False),
    "items for a list": (b"]K\x01K\x02s", False),
    "a key alone": (b"}(K\x01K\x02K\x03u", False),
    "append to a dict": (b"}K\x01a", False),
    "state for a dict": (b"}}b", False),
    "state that is no dict": (HOOKS + b"K\x01b", False),
    "state for an OrderedDict": (HOOKS + b"}" + text("a") + b"K\x01sb", True),
    "a set of lists": (b"c__builtin__\nset\n](]e\x85R", False),
    "a set of a list that grows": (b"(](K\x01eq\x01c__builtin__\nset\nh\x01\x85Rh\x01K\x05aK\x07t", True),
    "filled after it was put somewhere": (b"(}K\0]q\x01sh\x01K\x09at", True),
    "a memo that is not there": (b"h\x07", False),
    "a huge memo": (b"]r\xff\xff\xff\x7f", False),
    "a memo put twice": (b"]q\x01}q\x01h\x01\x87", True),
    "a memo behind a mark": (b"K\x01(q\x01t", False),
    "pops behind a mark": (b"K\x01K\x02(\x86", False),
    "two values": (b"K\x01K\x02", False),
    "an open mark": (b"(K\x01", False),
    "no mark": (b"K\x01t", False),
    "a persistent id of text": (text("storage") + b"Q", False),
    "a persistent id of another kind": (storage().replace(b"storage", b"module_"), False),
    "a storage": (storage(), False),
    "a class": (b"ctorch\nFloatStorage\n", False),
    "a text that is not UTF-8": (b"X\x02\0\0\0\xc3\x28", False),
    "a text longer than the rest": (b"X\xff\xff\xff\x7fab", False),
    "surrogates": (b"X\x03\0\0\0\xed\xa0\x80", False),
    "bytes beyond Latin-1": (b"c_codecs\nencode\n" + text("€") + text("latin1") + b"\x86R", False),
    "bytes by another code": (b"c_codecs\nencode\n" + text("a") + text("utf8") + b"\x86R", False),
    "a size that is negative": (b"ctorch\nSize\n" + NEGATIVE + b"\x85\x85R", False),
    "a device": (b"ctorch\ndevice\n" + text("cpu") + b"\x85R", True),
    "a device of another kind": (b"ctorch\ndevice\n" + text("nothing") + b"\x85R", False),
    "tuples a little deep": (b")" + b"\x85" * 50, True),
    "tuples very deep": (b")" + b"\x85" * 300, False),
    "lists a little deep": (b"]" * 200 + b"a" * 199, True),
    "a second protocol": (b"\x80\x02K\x01", False),
    "an opcode of protocol 4": (b"K\x01\x94", False),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_pickle_by_hand(file: str, taken: Taken, name: str) -> None:
    pickled, plain = BY_HAND[name]
    torch.save([torch.arange(6.0)], file)
    hostile = Hostile(file, taken)
    hostile.check(b"\x80\x02" + pickled + b".")
    assert hostile.plain == plain


def test_what_stands_after_the_stop_is_torchs_to_judge(hostile: Hostile) -> None:
    hostile.check(hostile._pickle + b"x")
    assert hostile.plain == hostile.refused == 0


@pytest.mark.parametrize("text", [b"", b"x", b"-1", b"0", b"1" * 30, b"64\n"])
def test_nonsense_as_the_alignment(file: str, taken: Taken, text: bytes) -> None:
    torch.save([BASE], file)
    change(file, {".storage_alignment": text})
    mine, my_error = outcome(s3dlio_torch.load, file)
    theirs, their_error = outcome(torch.load, file)
    assert type(my_error) is type(their_error)
    assert taken == [text == b"0"]
    check_same(mine, theirs)


# --- its own functions ------------------------------------------------------------------------


def test_records_are_fetched_once_though_it_is_not_plain(s3_own: Any, taken: Taken) -> None:
    size = 9 * 2**20
    value = [collections.Counter("aab"), torch.arange(size // 8), torch.empty(0), BASE]
    s3dlio_torch.save(value, s3_own.uri("m.pt"))
    before = s3dlio_np.stats()["bytes_received"]
    loaded = s3dlio_torch.load(s3_own.uri("m.pt"))
    assert taken == [False]
    assert size < s3dlio_np.stats()["bytes_received"] - before < 1.2 * size
    check_same(loaded, torch.load(io.BytesIO(s3_own.get("m.pt"))))


def test_the_pieces_refuse_what_would_be_wrong(file: str) -> None:
    operator = torch.ops.s3dlio_native.tensors.default
    assert operator() == []  # nothing is under way
    torch.save({"a": BASE, "b": torch.ones(3)}, file)
    parts = (_plain._DTYPES, torch.Size, torch.device, torch.Tensor._make_subclass, torch.nn.Parameter)
    with s3dlio_np.open(file) as stream:
        reader = ArchiveReader(stream)
        with pytest.raises(ValueError, match="no record"):
            reader.plain("nothing.pkl", False, True)
        with pytest.raises(TypeError, match="Plain"):
            _native.make_tensors(reader, operator)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            _native.make_tensors(3, operator)  # type: ignore[arg-type]
        plain, fetch = reader.plain("data.pkl", False, True)
        assert plain.is_plain()
        assert plain.names() == ["data/0", "data/1"]
        with pytest.raises(MemoryError, match="torch did not make"):
            _native.make_tensors(plain, list)
        with pytest.raises(ValueError, match="not as many"):
            plain.build([], *parts)
        with pytest.raises(ValueError, match="not as many"):
            plain.build([BASE, BASE], (), *parts[1:])
        tensors = _native.make_tensors(plain, operator)
        fetch.wait_all()
        fetch.close()
        with pytest.raises(ValueError, match="ended"):
            fetch.wait_all()
        built = plain.build(tensors, *parts)
    assert torch.equal(built["a"], BASE)
    del plain, fetch, tensors
    gc.collect()
    assert torch.equal(built["b"], torch.ones(3))


def test_the_pieces_of_what_is_not_plain(file: str) -> None:
    torch.save([BASE, collections.Counter(), torch.empty(0, dtype=torch.int8)], file)
    with s3dlio_np.open(file) as stream:
        plain, fetch = ArchiveReader(stream).plain("data.pkl", False, True)
        assert not plain.is_plain()
        whole, empty = _native.make_tensors(plain, torch.ops.s3dlio_native.tensors.default)
        fetch.wait_all()
        fetch.close()
        with pytest.raises(ValueError, match="not plain"):
            plain.build([whole, empty], _plain._DTYPES, *[None] * 4)  # type: ignore[arg-type]
    assert whole.dtype is empty.dtype is torch.uint8
    assert torch.equal(whole.view(torch.float32).reshape(BASE.shape), BASE)
    assert empty.numel() == empty.data_ptr() == 0


def test_compressed_records_are_refused(file: str) -> None:
    torch.save([BASE], file)
    old = zipfile.ZipFile(io.BytesIO(Path(file).read_bytes()))
    with old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in old.namelist():
            kind = zipfile.ZIP_DEFLATED if "/data/" in name else zipfile.ZIP_STORED
            archive.writestr(name, old.read(name), kind)
    with s3dlio_np.open(file) as stream:
        reader = ArchiveReader(stream)
        assert not reader.is_stored()
        with pytest.raises(ValueError, match="compressed"):
            reader.plain("data.pkl", False, True)
    assert torch.equal(s3dlio_torch.load(file)[0], BASE)
