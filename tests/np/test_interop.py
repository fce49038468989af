"""NumPy and pickle files: written here and read by stock tools, and the reverse, on every store."""

from __future__ import annotations

import collections
import copyreg
import datetime
import decimal
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import s3dlio_np

PART = 5 * 1024 * 1024
RNG = np.random.default_rng(3)
STRUCTURE = [
    ("a", "<i4"),
    ("b", ">f8", (2, 3)),
    ("c", "S5"),
    ("d", [("x", "?"), ("y", "M8[s]")]),
]


def numbers(dtype: str) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 100, (7, 5)).astype(dtype)


PLAIN = {
    name: numbers(name)
    for name in (
        *("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
        *(
            "f2",
            "f4",
            "f8",
            "g",
            "F",
            "D",
            "G",
            ">i2",
            ">f8",
            ">c16",
            "M8[ns]",
            "M8[D]",
            "m8[us]",
        ),
    )
}
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    **PLAIN,
    "unicode": np.array([["", "ü"], ["日本", "a longer text"]]),
    "bytes": np.array([b"", b"ab\0c", b"x" * 40]),
    "void": np.array([b"abc", b"\0\1\2"], "V3"),
    "structured": np.zeros(4, STRUCTURE),
    "aligned": np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "nat and nan": np.array(["NaT", "2020-01-01"], "M8[D]"),
    "infinities": np.array([np.nan, np.inf, -np.inf, -0.0]),
    "fortran": np.asfortranarray(RNG.random((30, 20))),
    "strided": RNG.random((30, 20))[::2, ::-3],
    "transposed": RNG.random((3, 4, 5)).transpose(1, 2, 0),
    "scalar": np.array(3.25),
    "empty": np.empty(0),
    "empty 2-d": np.empty((0, 3), "i2"),
    "no bytes": np.empty((3, 0), "U4"),
    "large": RNG.integers(0, 255, PART + 12345, np.uint8),
    "large fortran": np.asfortranarray(RNG.random((1500, 900))),
    "large strided": RNG.random((1500, 1800))[:, ::2],
}
OBJECTS = {
    "objects": np.array([None, 1, "text", [1, {"a": b"x"}], 2.5], object),
    "object fields": np.array([(1, "x"), (2, None)], [("n", "i4"), ("o", "O")]),
}
SAVERS = {"savez": np.savez, "savez_compressed": np.savez_compressed}


def same(left: Any, right: Any) -> bool:
    """The same dtype, shape, layout and bytes."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.hasobject:
        return bool(left.tolist() == right.tolist())
    fortran = left.flags.f_contiguous and not left.flags.c_contiguous
    if fortran != (right.flags.f_contiguous and not right.flags.c_contiguous):
        return False
    if left.dtype.fields:  # bytes between the fields may be anything
        return bool((left == right).all())
    return bool(left.tobytes("A") == right.tobytes("A"))


def read_back(array: np.ndarray[Any, Any]) -> Any:
    """What stock NumPy makes of it: strided arrays come back contiguous."""
    stock = io.BytesIO()
    np.save(stock, array)
    return np.load(io.BytesIO(stock.getvalue()), allow_pickle=array.dtype.hasobject)


def stock_bytes(save: Callable[[Any], Any]) -> bytes:
    stock = io.BytesIO()
    save(stock)
    return stock.getvalue()


@pytest.mark.parametrize("name", [*ARRAYS, *OBJECTS])
def test_npy_both_ways(target: Any, name: str) -> None:
    array = {**ARRAYS, **OBJECTS}[name]
    objects = array.dtype.hasobject
    expected = read_back(array)
    with s3dlio_np.open(target.uri("a.npy"), "wb", part_size=PART) as stream:
        np.save(stream, array)
    written = target.read("a.npy")
    assert written == stock_bytes(lambda file: np.save(file, array))
    assert same(np.load(io.BytesIO(written), allow_pickle=objects), expected)
    with s3dlio_np.open(target.uri("a.npy")) as stream:
        assert same(np.load(stream, allow_pickle=objects), expected)


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_npz_written_here(target: Any, save: Any) -> None:
    with s3dlio_np.open(target.uri("a.npz"), "wb", part_size=PART, max_concurrency=2) as stream:
        save(stream, **ARRAYS)
    stock = io.BytesIO(target.read("a.npz"))
    assert zipfile.ZipFile(stock).testzip() is None
    stock.seek(0)
    with np.load(stock) as loaded:
        assert sorted(loaded.files) == sorted(ARRAYS)
        wrong = [name for name in ARRAYS if not same(loaded[name], read_back(ARRAYS[name]))]
    assert wrong == []


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_npz_read_here(target: Any, save: Any) -> None:
    target.write("a.npz", stock_bytes(lambda file: save(file, **ARRAYS)))
    with s3dlio_np.open(target.uri("a.npz"), part_size=1 << 20, max_concurrency=2) as stream:
        with np.load(stream) as loaded:
            assert sorted(loaded.files) == sorted(ARRAYS)
            backwards = list(reversed(loaded.files))
            wrong = [n for n in backwards if not same(loaded[n], read_back(ARRAYS[n]))]
    assert wrong == []


def test_stock_npz_and_npy_are_read(target: Any) -> None:
    stock = io.BytesIO()
    np.savez(stock)  # 22 bytes: zipfile seeks before its start
    target.write("empty.npz", stock.getvalue())
    with s3dlio_np.open(target.uri("empty.npz")) as stream:
        assert np.load(stream).files == []
    stock = io.BytesIO()
    np.save(stock, np.arange(5))
    np.save(stock, np.array([None, "x"], object))
    target.write("two.npy", stock.getvalue())
    with s3dlio_np.open(target.uri("two.npy")) as stream:
        np.testing.assert_array_equal(np.load(stream), np.arange(5))
        assert np.load(stream, allow_pickle=True).tolist() == [None, "x"]
        assert stream.read() == b""


def test_one_member_costs_a_few_requests(s3_own: Any) -> None:
    arrays: dict[str, Any] = {f"m{i}": np.full(300_000, i) for i in range(20)}
    s3_own.put("a.npz", stock_bytes(lambda file: np.savez(file, **arrays)))
    with s3dlio_np.open(s3_own.uri("a.npz")) as stream, np.load(stream) as loaded:
        assert (loaded["m7"] == 7).all()
    counters = s3_own.server.counters()
    assert counters["bytes_out"] < 3 * arrays["m7"].nbytes
    assert counters["requests"]["GetObject"] < 20


def test_objects_need_leave(target: Any) -> None:
    array = OBJECTS["objects"]
    with s3dlio_np.open(target.uri("o.npy"), "wb") as stream:
        with pytest.raises(ValueError, match="allow_pickle"):
            np.save(stream, array, allow_pickle=False)
    with s3dlio_np.open(target.uri("o.npz"), "wb") as stream:
        np.savez(stream, array)
    with s3dlio_np.open(target.uri("o.npz")) as stream:
        with np.load(stream) as loaded, pytest.raises(ValueError, match="allow_pickle"):
            loaded["arr_0"]
        stream.seek(0)
        with np.load(stream, allow_pickle=True) as loaded:
            assert same(loaded["arr_0"], array)


def test_many_arrays_in_one_object(target: Any) -> None:
    arrays = list(ARRAYS.values())
    with s3dlio_np.open(target.uri("many"), "wb", part_size=PART) as stream:
        for array in arrays:
            np.save(stream, array)
    stock = io.BytesIO(target.read("many"))
    with s3dlio_np.open(target.uri("many")) as stream:
        for array in arrays:
            expected = read_back(array)
            assert same(np.load(stream), expected)
            assert same(np.load(stock), expected)
        assert stream.read(1) == stock.read(1) == b""


def test_raw_memory_both_ways(target: Any) -> None:
    array = ARRAYS["large fortran"]
    s3dlio_np.put(target.uri("raw"), array)
    assert target.read("raw") == array.tobytes("A")
    view = s3dlio_np.get_bytes_view(target.uri("raw"), part_size=1 << 20)
    assert same(np.frombuffer(view).reshape(array.shape, order="F"), array)


# --- pickle -------------------------------------------------------------------------------------

Point = collections.namedtuple("Point", "x y")


class Node:
    def __init__(self, value: object) -> None:
        self.value = value
        self.next: Node | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


def pickle_cases() -> dict[str, Any]:
    shared = [1, 2]
    return {
        "scalars": (None, True, 3, -(2**200), 2.5, 1 - 2j, ..., "ü", b"\0", range(3)),
        "containers": {"a": [1, (2, {3, 4})], "b": frozenset("xy"), "c": bytearray(b"1")},
        "shared": {"one": shared, "two": shared},
        "library": (Point(1, 2), decimal.Decimal("1.10"), datetime.datetime(2020, 1, 2), Point),
        "instances": [Node(i) for i in range(3)],
        "long": {
            "bytes": b"x" * (PART + 3),
            "text": "ü" * 300_000,
            "list": list(range(50_000)),
        },
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", pickle_cases())
def test_pickle_both_ways(target: Any, protocol: int, name: str) -> None:
    value = pickle_cases()[name]
    stock = stock_bytes(lambda file: pickle.dump(value, file, protocol))
    with s3dlio_np.open(target.uri("p"), "wb", part_size=PART) as stream:
        pickle.dump(value, stream, protocol)
    assert target.read("p") == stock
    with s3dlio_np.open(target.uri("p")) as stream:
        loaded = pickle.load(stream)
    assert loaded == value
    if name == "shared":
        assert loaded["one"] is loaded["two"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays(target: Any, protocol: int) -> None:
    with s3dlio_np.open(target.uri("p"), "wb") as stream:
        pickle.dump({**ARRAYS, **OBJECTS}, stream, protocol)
    stock = pickle.loads(target.read("p"))
    with s3dlio_np.open(target.uri("p")) as stream:
        here = pickle.load(stream)
    for name, array in {**ARRAYS, **OBJECTS}.items():
        expected = pickle.loads(pickle.dumps(array, protocol))  # may be in native byte order
        assert here[name].dtype == stock[name].dtype == expected.dtype
        np.testing.assert_array_equal(here[name], array)
        np.testing.assert_array_equal(stock[name], array)


def test_pickle_cycles_and_out_of_band_buffers(target: Any) -> None:
    node = Node("first")
    node.next = node
    array = ARRAYS["large"]
    buffers: list[pickle.PickleBuffer] = []
    with s3dlio_np.open(target.uri("p"), "wb") as stream:
        pickle.dump((node, array), stream, 5, buffer_callback=buffers.append)
    with s3dlio_np.open(target.uri("buffers"), "wb", part_size=PART) as stream:
        for buffer in buffers:
            stream.write(buffer)
    memory = s3dlio_np.get_bytes(target.uri("buffers"), writable=True)
    with s3dlio_np.open(target.uri("p")) as stream:
        loaded, copy = pickle.load(stream, buffers=[memory])
    assert loaded.next is loaded
    assert same(copy, array)
    assert np.shares_memory(copy, np.frombuffer(memory, np.uint8))


def test_a_pickler_with_a_dispatch_table(target: Any) -> None:
    with s3dlio_np.open(target.uri("p"), "wb") as stream:
        pickler = pickle.Pickler(stream)
        pickler.dispatch_table = copyreg.dispatch_table.copy()
        pickler.dispatch_table[Node] = lambda node: (Node, (f"reduced {node.value}",))
        pickler.dump(Node(1))
    assert pickle.loads(target.read("p")).value == "reduced 1"


def test_a_cut_pickle_says_so(target: Any) -> None:
    target.write("p", pickle.dumps(pickle_cases()["long"])[:-100])
    with s3dlio_np.open(target.uri("p")) as stream:
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            pickle.load(stream)
