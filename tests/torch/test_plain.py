"""The unpickler in C: what it takes is just what torch makes of it, the rest is left to torch."""

from __future__ import annotations

import collections
import contextlib
import gc
import io
import math
import pickle
import random
import struct
import threading
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
from s3dlio_torch import _native, _plain
from tests.torch.plain import BASE, Taken, change, check_same, outcome

DTYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    torch.float8_e8m0fnu,
)


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
