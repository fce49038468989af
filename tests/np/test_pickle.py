"""save_pickle and load_pickle."""

from __future__ import annotations

import collections
import datetime
import io
import pickle
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from s3dlio_np import WriterOptions

MIB = 1024 * 1024
PART = 5 * MIB
Point = collections.namedtuple("Point", "x y")


def make_value() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    large = rng.standard_normal((1500, 1000))
    shared = [1, 2]
    return {
        "large": large,
        "fortran": np.asfortranarray(large[:300]),
        "strided": large[::7, ::3],
        "dates": np.arange(100_000).astype("M8[s]"),
        "objects": np.array([None, "a", 1], object),
        "bytes": b"b" * (3 * MIB),
        "bytearray": bytearray(b"c" * 100_000),
        "text": "ü" * 200_000,
        "shared": {"one": shared, "two": shared},
        "point": Point(1, 2),
        "empty": np.zeros((0, 4)),
    }


def assert_same(value: Any, expected: dict[str, Any]) -> None:
    assert value.keys() == expected.keys()
    for name, item in expected.items():
        if isinstance(item, np.ndarray):
            assert (value[name].dtype, value[name].shape) == (item.dtype, item.shape)
            np.testing.assert_array_equal(value[name], item)
        else:
            assert value[name] == item
            assert type(value[name]) is type(item)
    assert value["shared"]["one"] is value["shared"]["two"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_there_and_back(target: Any, protocol: int) -> None:
    value = make_value()
    result = s3dlio_np.save_pickle(
        target.uri("p"), value, protocol=protocol, part_size=PART, max_concurrency=2
    )
    stock = pickle.dumps(value, protocol)
    assert target.read("p") == stock
    assert result == {
        "size": len(stock),
        "bytes_written": len(stock),
        "etag": s3dlio_np.stat(target.uri("p"))["etag"],
        "uri": target.uri("p"),
    }
    for concurrent in (True, False):
        assert_same(s3dlio_np.load_pickle(target.uri("p"), concurrent=concurrent), value)


def test_stock_pickles_are_read(target: Any) -> None:
    target.write("p", pickle.dumps(make_value()))
    assert_same(s3dlio_np.load_pickle(target.uri("p"), part_size=MIB), make_value())


def test_loaded_arrays_are_writable(target: Any) -> None:
    s3dlio_np.save_pickle(target.uri("p"), np.arange(1e6))
    array = s3dlio_np.load_pickle(target.uri("p"))
    array += 1
    assert array[0] == 1


class Recorder:
    """Stands for an array: what pickle gets to see of it is a buffer that notes who holds it."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytearray, (pickle.PickleBuffer(self.data),)


def test_buffers_are_sent_from_where_they_lie(s3_own: Any) -> None:
    """While the store keeps the upload waiting the memory is still lent out, and free afterwards."""
    data = bytearray(np.random.default_rng(1).bytes(6 * MIB))
    expected = bytes(data)

    class Peek:
        """Pickled after the buffer: is it held, or was it copied?"""

        def __reduce_ex__(self, protocol: Any) -> Any:
            with pytest.raises(BufferError):
                data.append(0)
            return (str, ("held",))

    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=0.3)
    result = s3dlio_np.save_pickle(
        s3_own.uri("p"), [Recorder(data), Peek()], part_size=PART, max_concurrency=1
    )
    assert fault.hits() == 1
    data.append(0)  # free again
    assert result["size"] == len(s3_own.get("p"))
    assert s3dlio_np.load_pickle(s3_own.uri("p")) == [expected, "held"]


def test_large_buffers_are_fetched_in_parallel(s3_own: Any) -> None:
    s3dlio_np.save_pickle(s3_own.uri("p"), np.zeros(16 * MIB, np.uint8))
    for concurrent in (True, False):
        s3_own.server.reset()
        fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=0.05, count=-1)
        s3dlio_np.load_pickle(s3_own.uri("p"), concurrent=concurrent, part_size=2 * MIB)
        counters = s3_own.server.counters()
        assert fault.hits() == counters["requests"]["GetObject"]
        assert (counters["max_requests"] > 2) == concurrent


def test_an_exception_in_pickling_writes_nothing(target: Any) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        s3dlio_np.save_pickle(target.uri("p"), [np.zeros(2 * PART, np.uint8), lambda: 0])
    assert (target.names(), target.leftovers()) == ([], [])


def test_options_and_arguments_arrive(target: Any) -> None:
    s3dlio_np.save_pickle(target.uri("p"), 1)
    with pytest.raises(FileExistsError):
        s3dlio_np.save_pickle(target.uri("p"), 2, options=WriterOptions(if_none_match=True))
    assert s3dlio_np.load_pickle(target.uri("p")) == 1
    with pytest.raises(ValueError, match="protocol"):
        s3dlio_np.save_pickle(target.uri("q"), 2, protocol=99)
    with pytest.raises(FileNotFoundError):
        s3dlio_np.load_pickle(target.uri("q"))
    with pytest.raises(ValueError, match="part_size"):
        s3dlio_np.load_pickle(target.uri("p"), part_size=1)


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -1000])
def test_a_cut_pickle_says_so(target: Any, keep: int) -> None:
    data = pickle.dumps(make_value(), 5)
    target.write("p", data[:keep] if keep >= 0 else data[: len(data) + keep])
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        s3dlio_np.load_pickle(target.uri("p"))


def test_a_cut_transfer_is_tried_again(s3_own: Any) -> None:
    s3dlio_np.save_pickle(s3_own.uri("p"), make_value())
    fault = s3_own.server.add_fault(op="GetObject", kind="truncate", bytes=5, skip=1, count=2)
    assert_same(s3dlio_np.load_pickle(s3_own.uri("p"), part_size=MIB), make_value())
    assert fault.hits() == 2


# --- allow --------------------------------------------------------------------------------------

ARRAYS = {"numpy.ndarray", "numpy.dtype", "numpy._core.numeric._frombuffer"}


def test_only_what_is_allowed(target: Any) -> None:
    value = {"array": np.arange(5.0), "point": Point(1, 2)}
    s3dlio_np.save_pickle(target.uri("p"), value)
    for allow in ({*ARRAYS, Point}, {*ARRAYS, f"{__name__}.Point"}):
        loaded = s3dlio_np.load_pickle(target.uri("p"), allow=allow)
        np.testing.assert_array_equal(loaded["array"], value["array"])
        assert loaded["point"] == value["point"]
    with pytest.raises(pickle.UnpicklingError, match=rf"{__name__}\.Point, which is not"):
        s3dlio_np.load_pickle(target.uri("p"), allow=ARRAYS)


def test_the_documented_names_let_arrays_through(target: Any) -> None:
    s3dlio_np.save_pickle(target.uri("p"), [np.arange(3.0), np.zeros((2, 3), "i1")])
    assert len(s3dlio_np.load_pickle(target.uri("p"), allow=ARRAYS)) == 2


def test_plain_data_needs_no_name(target: Any) -> None:
    plain = {"a": [1, 2.5, "x", b"y", None, (True,)], "b": {1, 2}}
    s3dlio_np.save_pickle(target.uri("p"), plain)
    assert s3dlio_np.load_pickle(target.uri("p"), allow=()) == plain


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return _run, ()


def _run() -> None:
    Evil.ran = True


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_refused_global_does_not_run(target: Any, protocol: int) -> None:
    target.write("p", pickle.dumps(Evil(), protocol))
    with pytest.raises(pickle.UnpicklingError, match="_run, which is not in allow="):
        s3dlio_np.load_pickle(target.uri("p"), allow=[datetime.datetime, "builtins.list"])
    assert Evil.ran is False


def test_names_reach_no_further_than_they_say(target: Any) -> None:
    """Neither a prefix, nor an attribute of what is allowed."""
    target.write("p", b"\x80\x04\x8c\x08datetime\x8c\x16datetime.fromisoformat\x93.")
    for allow in (["datetime.datetime"], [datetime.datetime]):
        with pytest.raises(pickle.UnpicklingError, match="datetime.datetime.fromisoformat"):
            s3dlio_np.load_pickle(target.uri("p"), allow=allow)
    assert s3dlio_np.load_pickle(target.uri("p"), allow=["datetime.datetime.fromisoformat"])


def test_wrong_allow(target: Any) -> None:
    s3dlio_np.save_pickle(target.uri("p"), 1)
    with pytest.raises(ValueError, match="module.name"):
        s3dlio_np.load_pickle(target.uri("p"), allow=["list"])
    with pytest.raises(TypeError, match="allow takes"):
        s3dlio_np.load_pickle(target.uri("p"), allow=[5])  # type: ignore[list-item]


def test_a_file_object_still_works(target: Any) -> None:
    s3dlio_np.save_pickle(target.uri("p"), make_value())
    assert_same(pickle.load(io.BytesIO(target.read("p"))), make_value())
