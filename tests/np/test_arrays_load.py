"""load brings numpy's own files straight into arrays, and only sound ones."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import s3dlio_np
from s3dlio_np._native import allocate, fetch_arrays, npy_bytes, npy_prefix
from tests.interrupts import interrupted_when
from tests.marks import near, passing_faults
from tests.np.arrays import (
    DTYPES,
    MIB,
    RECORD,
    filled,
    kinds,
    names,
    of_dtype,
    same,
    stock_save,
    stock_savez,
)

TAIL = 256 * 1024  # what opening brings
OBJECTS = np.array([1, "two", None, [3.0]], dtype=object)


def load(uri: str, **arguments: Any) -> Any:
    return s3dlio_np.load(uri, part_size=MIB, max_concurrency=4, **arguments)


def stock(data: bytes, **arguments: Any) -> Any:
    return np.load(io.BytesIO(data), **arguments)


def npy(text: str | bytes, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A .npy file with this header text."""
    text = text.encode() if isinstance(text, str) else text
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def header(descr: str = "'<f8'", order: str = "False", shape: str = "(3,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


# --- what numpy wrote ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_each_kind(target: Any, kind: str) -> None:
    data = stock_save(kinds()[kind])
    for name in ("x.npy", "x", "x.npz"):  # the name decides nothing but the order of requests
        target.write(name, data)
        loaded = load(target.uri(name))
        assert type(loaded) is np.ndarray
        assert same(loaded, stock(data))
        assert loaded.flags.writeable and loaded.flags.aligned
        assert not loaded.nbytes or loaded.ctypes.data % 64 == 0


@near
@pytest.mark.parametrize("dtype", DTYPES, ids=names)
def test_each_dtype(target: Any, dtype: Any) -> None:
    for array in (
        of_dtype(dtype, 5, 4),
        np.asfortranarray(of_dtype(dtype, 5, 4)),
        of_dtype(dtype),
        of_dtype(dtype, 0, 3),
        of_dtype(dtype, 400_000 // np.dtype(dtype).itemsize),
    ):
        data = stock_save(array)
        target.write("x.npy", data)
        if np.dtype(dtype).str == "<f1":  # a float8 that NumPy cannot read either
            for read in (lambda: load(target.uri("x.npy")), lambda data=data: stock(data)):
                with pytest.raises(ValueError, match="descr"):
                    read()
        else:
            assert same(load(target.uri("x.npy")), stock(data))


@near
def test_our_own_files(target: Any) -> None:
    for name, array in kinds().items():
        s3dlio_np.save(target.uri(name), array)
        assert same(load(target.uri(name)), stock(target.read(name)))


@near
@pytest.mark.parametrize("size", [0, 1, 1000, TAIL - 129, TAIL - 128, TAIL - 127, TAIL + 16_384 - 128,
                                  TAIL + 16_385 - 128, 3 * MIB, 3 * MIB + 1])
@pytest.mark.parametrize("name", ["x", "x.npy"])
def test_sizes_around_what_opening_brings(target: Any, size: int, name: str) -> None:
    array = filled(size)
    target.write(name, stock_save(array))
    loaded = load(target.uri(name))
    assert np.array_equal(loaded, array)
    loaded[...] = 0  # nobody else has it
    assert np.array_equal(load(target.uri(name)), array)


@near
@pytest.mark.parametrize("alignment", [16, 64, 4096])
@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_headers_of_any_length(target: Any, alignment: int, size: int) -> None:
    """NumPy before 1.14 aligned to 16; longer ones do not fit what is waited for first."""
    array = filled(size)
    for pad in (0, 16, 17, 48, 100, 5000, 20_000):
        text = header("'|u1'", shape=f"({size},)") + " " * pad
        text += " " * (-(len(text) + 11) % alignment) + "\n"
        target.write("x.npy", npy(text, array.tobytes()))
        loaded = load(target.uri("x.npy"), max_header_size=100_000)
        assert np.array_equal(loaded, array)
        assert loaded.ctypes.data % 64 == 0


@near
def test_versions_2_and_3(target: Any) -> None:
    long = np.dtype([(f"field{i}", "<i4") for i in range(6000)])
    for dtype in (long, np.dtype([("名前", "<i4"), ("b", ">f8")])):
        for count in (2, 50):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                data = stock_save(np.ones(count, dtype))
            target.write("x.npy", data)
            loaded = load(target.uri("x.npy"), max_header_size=10**6)
            assert same(loaded, stock(data, max_header_size=10**6))
            if dtype is long:
                with pytest.raises(ValueError, match="max_header_size"):
                    load(target.uri("x.npy"))


@near
def test_a_file_of_python_2(target: Any) -> None:
    data = npy(header(shape="(3L,)"), np.arange(3.0).tobytes())
    target.write("x", data)
    with pytest.warns(UserWarning, match="Python 2"):
        loaded = load(target.uri("x"))
    assert np.array_equal(loaded, np.arange(3.0))


@near
def test_arrays_one_after_the_other(target: Any) -> None:
    """As numpy.load: the first one counts."""
    for size in (10, 2 * MIB):
        target.write("x.npy", stock_save(filled(size)) + stock_save(np.arange(5)))
        assert np.array_equal(load(target.uri("x.npy")), filled(size))


def test_ml_dtypes_come_back_by_a_view(s3_own: Any) -> None:
    array = of_dtype(ml_dtypes.bfloat16, 70, 30)
    s3dlio_np.save(s3_own.uri("x"), array)
    assert np.array_equal(
        load(s3_own.uri("x")).view(ml_dtypes.bfloat16).view("u2"), array.view("u2")
    )


# --- requests -----------------------------------------------------------------------------------


def gets(bucket: Any) -> int:
    return int(bucket.server.counters()["requests"]["GetObject"])


def test_a_small_object_is_one_request(s3_own: Any) -> None:
    s3_own.put("x.npy", stock_save(filled(TAIL - 128)))
    s3_own.put("x.npz", stock_savez(filled(1000), filled(100_000), filled(0)))
    s3_own.server.reset()
    load(s3_own.uri("x.npy"))
    assert gets(s3_own) == 1
    assert len(load(s3_own.uri("x.npz"), load_all=True)) == 3
    assert gets(s3_own) == 2
    with load(s3_own.uri("x.npz")) as archive:
        assert [len(archive[name]) for name in archive] == [1000, 100_000, 0]
    assert gets(s3_own) == 3


def test_a_large_array_is_one_request_and_a_wave(s3_own: Any) -> None:
    """Nothing is fetched twice: one request for the end, and ranges that are the rest."""
    data = stock_save(filled(20 * MIB))
    s3_own.put("x.npy", data)
    s3_own.server.reset()
    load(s3_own.uri("x.npy"))
    assert s3_own.server.counters()["bytes_out"] == len(data)
    assert gets(s3_own) == 1 + 20


def test_the_header_is_not_waited_for(s3_own: Any) -> None:
    """The wave starts before it is known: the ranges are under way while the first one stalls."""
    s3_own.put("x.npy", stock_save(filled(8 * MIB)))
    s3_own.server.reset()
    fault = s3_own.server.add_fault(op="GetObject", range_from=0, kind="stall", seconds=1)
    load(s3_own.uri("x.npy"))
    assert fault.hits() == 1
    assert s3_own.server.counters()["max_requests"] >= 2


def test_a_wrong_name_does_not_bring_the_whole_object(s3_own: Any) -> None:
    s3_own.put("x.npy", filled(64 * MIB).tobytes())
    s3_own.server.reset()
    with pytest.raises(ValueError, match="allow_pickle"):
        load(s3_own.uri("x.npy"))
    assert s3_own.server.counters()["bytes_out"] < 16 * MIB


# --- pickles ------------------------------------------------------------------------------------


@near
@pytest.mark.parametrize("name", ["x", "x.npy", "x.npz"])
def test_object_arrays(target: Any, name: str) -> None:
    large = np.array([bytes(400_000), *OBJECTS], dtype=object)
    for array in (OBJECTS, large, np.zeros(3, "O,i4")):
        target.write(name, stock_save(array))
        loaded = load(target.uri(name), allow_pickle=True)
        assert loaded.dtype == array.dtype and loaded.tolist() == array.tolist()
        with pytest.raises(ValueError, match="Object arrays cannot be loaded when allow_pickle"):
            load(target.uri(name))


@near
def test_strings(target: Any) -> None:
    array = np.array(["", "é" * 50, "plain"], np.dtypes.StringDType())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        target.write("x", stock_save(array))
    loaded = load(target.uri("x"), allow_pickle=True)
    assert loaded.dtype == array.dtype and loaded.tolist() == array.tolist()


@near
def test_plain_pickles(target: Any) -> None:
    value = {"a": [1, 2], "b": bytes(300_000)}
    target.write("x", pickle.dumps(value))
    assert load(target.uri("x"), allow_pickle=True) == value
    with pytest.raises(ValueError, match="contains pickled"):
        load(target.uri("x"))
    target.write("x", b"hello world")
    with pytest.raises(pickle.UnpicklingError, match="Failed to interpret"):
        load(target.uri("x"), allow_pickle=True)


class Trap:
    """Remembers that it was unpickled."""

    sprung = False

    def __reduce__(self) -> Any:
        return (setattr, (Trap, "sprung", True))


@near
def test_nothing_runs_unless_it_may(target: Any) -> None:
    target.write("p", pickle.dumps(Trap()))
    target.write("a.npy", stock_save(np.array([Trap()])))
    target.write("z.npz", stock_savez(a=np.array([Trap()])))
    for name in ("p", "a.npy"):
        with pytest.raises(ValueError):
            load(target.uri(name))
    with load(target.uri("z.npz")) as archive, pytest.raises(ValueError, match="allow_pickle"):
        archive["a"]
    with pytest.raises(ValueError, match="allow_pickle"):
        load(target.uri("z.npz"), load_all=True)
    assert not Trap.sprung


def test_encoding(tmp_path: Path) -> None:
    """A str of Python 2 within a pickle."""
    (tmp_path / "x").write_bytes(b"\x80\x02U\x02\xe9x.")
    assert load(str(tmp_path / "x"), allow_pickle=True, encoding="latin1") == "éx"
    assert load(str(tmp_path / "x"), allow_pickle=True, encoding="bytes") == b"\xe9x"
    with pytest.raises(ValueError, match="encoding must be"):
        load(str(tmp_path / "x"), encoding="utf-8")


# --- mmap_mode ----------------------------------------------------------------------------------


def test_mmap_mode(tmp_path: Path) -> None:
    path = tmp_path / "a b.npy"
    np.save(path, np.arange(1000))
    for uri in (path, str(path), path.as_uri()):
        loaded = s3dlio_np.load(uri, "r")
        assert isinstance(loaded, np.memmap)
        assert np.array_equal(loaded, np.arange(1000))
        with pytest.raises(ValueError):
            loaded[0] = 1
    changed = s3dlio_np.load(path, mmap_mode="r+")
    changed[0] = 7
    changed.flush()
    assert np.load(path)[0] == 7


def test_mmap_mode_of_an_object() -> None:
    with pytest.raises(ValueError, match="mmap_mode needs a local file. Leave it out"):
        s3dlio_np.load("s3://bucket/x.npy", "r")
    with pytest.raises(ValueError, match="another host"):
        s3dlio_np.load("file://elsewhere/x.npy", "r")


# --- bad files ----------------------------------------------------------------------------------

BAD_HEADERS = {
    "magic only": b"\x93NUMPY",
    "no length": b"\x93NUMPY\1\0",
    "version 0": npy(header(), version=1).replace(b"Y\1\0", b"Y\0\0"),
    "version 4": npy(header(), version=1).replace(b"Y\1\0", b"Y\4\0"),
    "version 1.1": npy(header(), version=1).replace(b"Y\1\0", b"Y\1\1"),
    "no text": npy(""),
    "text cut": npy(header(), length=500),
    "huge length": npy(header(), version=2, length=2**32 - 1),
    "no dict": npy("[1, 2]", bytes(24)),
    "not closed": npy("{'descr': '<f8'", bytes(24)),
    "code": npy("__import__('os').getpid()", bytes(24)),
    "missing key": npy("{'descr': '<f8', 'shape': (3,)}", bytes(24)),
    "further key": npy(header()[:-1] + "'x': 1}", bytes(24)),
    "shape a list": npy(header(shape="[3]"), bytes(24)),
    "shape of texts": npy(header(shape="('3',)"), bytes(24)),
    "negative": npy(header(shape="(-3,)"), bytes(24)),
    "negative twice": npy(header(shape="(-3, -1)"), bytes(24)),
    "too many": npy(header(shape="(4,)"), bytes(24)),
    "overflow": npy(header(shape="(2**63, 2)".replace("2**63", str(2**63))), bytes(24)),
    "wraps to 24": npy(header(shape=f"({2**61 + 3},)"), bytes(24)),
    "wraps to 0": npy(header(shape=f"({2**32}, {2**32})"), bytes(24)),
    "beyond 64 bits": npy(header(shape=f"({10**30},)"), bytes(24)),
    "zero and overflow": npy(header(shape=f"(0, {2**62}, {2**62})"), bytes(24)),
    "65 dimensions": npy(header(shape="(1," + " 1," * 64 + ")"), bytes(24)),
    "order a number": npy(header(order="0"), bytes(24)),
    "no dtype": npy(header("'nonsense'"), bytes(24)),
    "dtype a number": npy(header("5"), bytes(24)),
    "dtype an empty tuple": npy(header("()"), bytes(24)),
    "subarray": npy(header("('<f8', (3,))", shape="(1,)"), bytes(24)),
    "not Latin-1 nor UTF-8": npy(header().encode() + b"\xff\xfe", bytes(24), version=3),
    "unhashable": npy("{[]: 1}", bytes(24)),
    "keys of two types": npy("{1: 1, 'a': 2}", bytes(24)),
    "deep": npy("(" * 5000, bytes(24)),
    "nul": npy(header() + "\0", bytes(24)),
    "spaces": npy(" " * 60, bytes(24)),
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
@pytest.mark.parametrize("name", ["x", "x.npy"])
def test_bad_headers(tmp_path: Path, kind: str, name: str) -> None:
    """ValueError, as NumPy says in most cases; alone, and with much behind it."""
    data = BAD_HEADERS[kind]
    for behind in (b"", bytes(0 if "cut" in kind or "only" in kind or "no " in kind else TAIL + 1)):
        if kind in ("too many",) and behind:
            continue  # then they are there
        (tmp_path / name).write_bytes(data + behind)
        uri = (tmp_path / name).as_uri()
        with pytest.raises(ValueError) as caught:
            load(uri)
        assert type(caught.value) is ValueError and str(caught.value).startswith(uri)


@pytest.mark.parametrize("kind", sorted(set(BAD_HEADERS) - {"65 dimensions", "deep"}))
def test_numpy_refuses_them_too(kind: str) -> None:
    """So that nothing is refused that NumPy reads; what it raises is not always ValueError."""
    if kind in ("zero and overflow", "wraps to 0", "wraps to 24"):
        return  # whether NumPy reads what wraps depends on its version
    with pytest.raises(Exception):  # noqa: B017
        stock(BAD_HEADERS[kind])


@near
def test_a_large_header_is_not_read(target: Any) -> None:
    text = header() + " " * 20_000
    target.write("x", npy(text, np.arange(3.0).tobytes()))
    with pytest.raises(ValueError, match="max_header_size"):
        load(target.uri("x"))
    for how in ({"max_header_size": 30_000}, {"allow_pickle": True}):
        assert np.array_equal(load(target.uri("x"), **how), np.arange(3.0))


def test_a_length_beyond_the_object_brings_nothing(s3_own: Any) -> None:
    s3_own.put("x", npy(header(), filled(8 * MIB).tobytes(), version=2, length=2**32 - 1))
    s3_own.server.reset()
    with pytest.raises(ValueError, match="EOF: reading array header, expected 4294967295"):
        load(s3_own.uri("x"), allow_pickle=True)
    assert s3_own.server.counters()["bytes_out"] < MIB


@near
@pytest.mark.parametrize("name", ["x", "x.npy"])
def test_cut_anywhere(target: Any, name: str) -> None:
    for size in (40, 2 * MIB):
        data = stock_save(filled(size))
        for length in {1, 5, 6, 7, 9, 10, 50, 127, 128, 129, size // 2, size + 127} - {size + 128}:
            target.write(name, data[:length])
            with pytest.raises(ValueError, match="EOF: reading|contains pickled"):
                load(target.uri(name))
    target.write(name, b"")
    with pytest.raises(EOFError, match="No data left in file"):
        load(target.uri(name))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Paths of other encodings, in results and in errors."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.npy"
    path = os.fsdecode(name)
    for size in (10, MIB):
        Path(path).write_bytes(stock_save(filled(size)))
        assert np.array_equal(load(path), filled(size))
        Path(path).write_bytes(npy(header(shape="(-1,)")) + bytes(size))
        with pytest.raises(ValueError, match="negative"):
            load(path)
        Path(path).write_bytes(npy(header(), length=50_000))
        with pytest.raises(ValueError, match="EOF|large"):
            load(path)
    s3dlio_np.savez(path, a=filled(MIB))
    assert np.array_equal(load(path)["a"], filled(MIB))


def test_missing(target: Any) -> None:
    with pytest.raises(FileNotFoundError):
        load(target.uri("nothing.npy"))


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npy", "x"])
@pytest.mark.parametrize("skip", [1, 3, 8])
def test_changed_meanwhile(s3_own: Any, name: str, skip: int) -> None:
    s3_own.put(name, stock_save(filled(16 * MIB)))
    fault = s3_own.server.add_fault(op="GetObject", skip=skip, kind="etag_change")
    with pytest.raises(s3dlio_np.ObjectChangedError):
        load(s3_own.uri(name))
    assert fault.hits() == 1


@pytest.mark.parametrize("name", ["x.npy", "x"])
@passing_faults
def test_what_fails_once_is_fetched_again(s3_own: Any, name: str, rule: dict[str, Any]) -> None:
    s3_own.put(name, stock_save(filled(8 * MIB)))
    faults = [s3_own.server.add_fault(op="GetObject", skip=skip, **rule) for skip in (1, 3, 4)]
    assert np.array_equal(load(s3_own.uri(name)), filled(8 * MIB))
    assert sum(fault.hits() for fault in faults) >= 2


def test_what_fails_always_is_an_error(s3_own: Any) -> None:
    s3_own.put("x.npy", stock_save(filled(8 * MIB)))
    fault = s3_own.server.add_fault(
        op="GetObject", range_from=0, kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(PermissionError):
        load(s3_own.uri("x.npy"))
    assert fault.hits() >= 1
    assert s3dlio_np.stats()["memory_held_bytes"] == 0


# --- the pieces ---------------------------------------------------------------------------------


def test_allocated_memory() -> None:
    view = allocate(5 * MIB)
    array = np.frombuffer(view, np.uint8)
    assert not view.readonly and not array.any() and array.ctypes.data % 4096 == 0
    del view
    array[-1] = 1
    assert len(allocate(0)) == 0
    for wrong in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            allocate(wrong)
    with pytest.raises(MemoryError):
        allocate(1 << 62)


def test_fetching_parts(s3_own: Any) -> None:
    data = filled(2 * MIB)
    s3_own.put("x", data.tobytes())
    with s3dlio_np.open(s3_own.uri("x")) as stream:
        out = np.zeros(2 * MIB, np.uint8)
        parts = tuple(("x", at, out[at : at + 1000], None) for at in (2 * MIB - 1000, 0, 500_000))
        fetch = fetch_arrays(stream, parts)
        for item in range(3):
            fetch.wait(item)
        fetch.close()
        for _, at, _, _ in parts:
            assert np.array_equal(out[at : at + 1000], data[at : at + 1000])
        for at in (0, 2 * MIB - 1000):
            with pytest.raises(s3dlio_np.IntegrityError, match="x is damaged"):
                fetch_arrays(stream, (("x", at, out[:1000], 5),)).wait(0)
        for wrong, error in (
            (("x", 2 * MIB, out[:1], None), ValueError),
            (("x", 2**64 - 1, out[:1], None), ValueError),
            (("x", 0, data[::2], None), ValueError),
            (("x", 0, b"read-only", None), TypeError),
            (("x", 0, 5, None), TypeError),
            (("x", 0, out), TypeError),
            ("x", TypeError),
        ):
            with pytest.raises(error):
                fetch_arrays(stream, (wrong,))  # type: ignore[arg-type]


def test_numbers_of_headers() -> None:
    assert npy_bytes("x", (3, 4), 8, 96) == 96
    assert npy_bytes("x", (), 8, 8) == 8
    for shape in ((-1,), (1 << 64,), (1,) * 65, (1 << 40, 1 << 40)):
        with pytest.raises(ValueError):
            npy_bytes("x", shape, 8, 1 << 60)
    with pytest.raises(TypeError):
        npy_bytes("x", ("3",), 8, 100)  # type: ignore[arg-type]
    assert npy_prefix("x", b"\x93NUMPY\1\0\2\0{}", 12, 100) == (1, 10, 12, 0)
    assert npy_prefix("x", b"\x93NUMPY\1\0\2\0", 12, 100) == (1, 10, 12, 12)
    with pytest.raises(ValueError, match="^where: the magic"):
        npy_prefix("where", b"x" * 20, 20, 100)


def test_record_arrays(tmp_path: Path) -> None:
    array = of_dtype(RECORD, 4, 3)
    np.save(tmp_path / "x.npy", array)
    assert same(load(str(tmp_path / "x.npy")), np.load(tmp_path / "x.npy"))


def test_load_numpy(s3_own: Any) -> None:
    a, b = filled(3 * MIB), np.arange(5)
    s3_own.put("z", stock_savez(a, b=b))
    s3_own.put("a", stock_save(a))
    for concurrent in (True, False):
        s3_own.server.reset()
        loaded = s3dlio_np.load_numpy(s3_own.uri("z"), concurrent=concurrent, part_size=MIB)
        assert list(loaded) == ["b", "arr_0"]
        assert np.array_equal(loaded["arr_0"], a) and np.array_equal(loaded["b"], b)
        assert concurrent or s3_own.server.counters()["max_requests"] == 1
    assert np.array_equal(s3dlio_np.load_numpy(s3_own.uri("a"))["arr_0"], a)
    s3_own.put("p", pickle.dumps([1]))
    with pytest.raises(ValueError, match="neither"):
        s3dlio_np.load_numpy(s3_own.uri("p"), allow_pickle=True)


def test_interrupted_by_a_signal(s3_own: Any) -> None:
    """The wave ends, and nothing writes into memory that is gone."""
    s3_own.put("x.npy", stock_save(filled(4 * MIB)))
    fault = s3_own.server.add_fault(
        op="GetObject", range_from=MIB, kind="stall", seconds=30, count=-1
    )
    with interrupted_when(lambda: fault.hits() > 0):
        load(s3_own.uri("x.npy"))
    assert fault.hits() >= 1
