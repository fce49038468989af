"""save_tree and load_tree: what goes in comes out, in a file that stock NumPy reads."""

from __future__ import annotations

import collections
import io
import json
import math
import sys
from array import array as python_array
from typing import Any, NamedTuple

import numpy as np
import pytest

import s3dlio_np
from tests.marks import near

RNG = np.random.default_rng(11)


class Moments(NamedTuple):
    mu: Any
    nu: Any


def alike(left: Any, right: Any) -> bool:
    """The same types, keys in the same order, dtypes, shapes, layout and bytes."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(alike(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, (np.ndarray, np.generic)):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        return left.flags.fnc == right.flags.fnc and left.tobytes("A") == right.tobytes("A")
    return bool(left == right) or (left != left and right != right)


TREES: dict[str, Any] = {
    "an array": np.arange(12.0).reshape(3, 4),
    "a number": 5,
    "none": None,
    "nothing in it": {"a": {}, "b": [], "c": ()},
    "layers": {
        "embed": RNG.random((100, 8), np.float32),
        "layers": [{"w": RNG.random((8, 8)), "b": np.zeros(8)} for _ in range(3)],
        "step": 7,
    },
    "tuples": (np.ones(2), [(np.zeros(1), 2.5)], ()),
    "numbers": {
        "int": -(2**80),
        "true": True,
        "float": 0.1,
        "zero": -0.0,
        "infinite": [math.inf, -math.inf, math.nan],
        "complex": complex(1.5, -0.0),
        "text": 'ü"\\\n\0\ud800',
        "bytes": b"\0\xff" * 10,
        "none": None,
    },
    "numpy scalars": [np.float32(1.5), np.int8(-3), np.datetime64("2020-01-02"), np.bool_(True)],
    "dtypes": [
        np.zeros((2, 3), dtype)
        for dtype in ("?", "i1", ">i4", "u8", "f2", "g", "D", "M8[ns]", "S3", "U5", "V7")
    ],
    "structured": np.zeros(4, [("a", "<i4"), ("b", ">f8", (2, 3))]),
    "layouts": {
        "fortran": np.asfortranarray(RNG.random((30, 20))),
        "empty": np.empty((0, 3)),
        "scalar": np.array(2.0),
    },
    "large": {"a": RNG.integers(0, 255, 6_000_000, np.uint8), "b": RNG.random(1_000_000)},
    "keys": {
        "": 1,
        "a/b": np.array(1),
        "a": {"b": np.array(2), "b.npy": np.array(3)},
        "a.npy": np.array(4),
        1: np.array(5),
        "1": np.array(6),
        "%": np.array(7),
        "%25": np.array(8),
        "..": {".": np.array(9)},
        "\0\n\\": np.array(10),
        "\ud800": np.array(11),
        "日本": np.array(12),
        "__tree__": np.array(13),
        "file": np.array(14),
        "allow_pickle": np.array(15),
        "long" * 20_000: [np.array(16), np.array(17)],
    },
}


@pytest.mark.parametrize("name", TREES)
def test_round_trip(target: Any, name: str) -> None:
    result = s3dlio_np.save_tree(target.uri("t.npz"), TREES[name], part_size=5 << 20)
    assert result["size"] == len(target.read("t.npz"))
    loaded = s3dlio_np.load_tree(target.uri("t.npz"), part_size=1 << 20)
    assert alike(loaded, TREES[name])


def test_strided_arrays_come_back_contiguous(target: Any) -> None:
    strided = RNG.random((30, 20))[::2, ::-3]
    s3dlio_np.save_tree(target.uri("t.npz"), [strided])
    assert alike(s3dlio_np.load_tree(target.uri("t.npz")), [np.ascontiguousarray(strided)])


def test_numpy_lists_the_paths(target: Any) -> None:
    tree = {"params": {"dense": {"kernel": np.ones(3), "bias": np.zeros(2)}}, "opt": [np.ones(1)]}
    s3dlio_np.save_tree(target.uri("t.npz"), tree)
    with np.load(io.BytesIO(target.read("t.npz"))) as stock:
        names = ["__tree__", "params/dense/kernel", "params/dense/bias", "opt/0"]
        assert stock.files == names
        assert (stock["params/dense/kernel"] == 1).all()
        document = json.loads(stock["__tree__"].item())
    assert document == {
        "format": "s3dlio tree",
        "version": 1,
        "tree": {
            "dict": [
                [
                    "params",
                    {
                        "dict": [
                            [
                                "dense",
                                {
                                    "dict": [
                                        ["kernel", {"array": "params/dense/kernel"}],
                                        ["bias", {"array": "params/dense/bias"}],
                                    ]
                                },
                            ]
                        ]
                    },
                ],
                ["opt", {"list": [{"array": "opt/0"}]}],
            ]
        },
    }


def test_every_array_has_aligned_memory_of_its_own(target: Any) -> None:
    tree = [np.ones(n, dtype) for n in (1, 7, 100_000) for dtype in ("f4", "u1")]
    s3dlio_np.save_tree(target.uri("t.npz"), tree)
    first, second = (s3dlio_np.load_tree(target.uri("t.npz")) for _ in range(2))
    for array in first + second:
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0
        array[:] = 9
    assert alike(s3dlio_np.load_tree(target.uri("t.npz")), tree)
    assert not np.shares_memory(first[2], second[2])


class OnlyDlpack:
    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **keywords: Any) -> Any:
        return self._array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class OnlyArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.arange(3, dtype=np.int16)


def test_whatever_can_be_an_array(target: Any) -> None:
    leaves = [
        OnlyArray(),
        OnlyDlpack(np.arange(3, dtype=np.int16)),
        python_array("h", [0, 1, 2]),
        memoryview(np.arange(3, dtype=np.int16)),
        np.arange(3, dtype=np.int16).view(np.matrix),
    ]
    s3dlio_np.save_tree(target.uri("t.npz"), leaves)
    for loaded in s3dlio_np.load_tree(target.uri("t.npz")):
        assert type(loaded) is np.ndarray and loaded.dtype == np.int16
        assert loaded.ravel().tolist() == [0, 1, 2]


# --- types that come from `like` ----------------------------------------------------------------


def test_mappings_and_namedtuples(target: Any) -> None:
    tree = collections.OrderedDict(state=Moments(np.ones(2), {"x": np.zeros(3)}), step=3)
    s3dlio_np.save_tree(target.uri("t.npz"), tree)
    plain = s3dlio_np.load_tree(target.uri("t.npz"))
    assert type(plain) is dict
    assert type(plain["state"]).__name__ == "Moments" and type(plain["state"]) is not Moments
    assert (plain["state"].mu == 1).all() and plain["state"]._fields == ("mu", "nu")
    assert alike(s3dlio_np.load_tree(target.uri("t.npz"), like=tree), tree)


def test_like_gives_the_order_of_keys(target: Any) -> None:
    s3dlio_np.save_tree(target.uri("t.npz"), {"b": np.ones(1), "a": 2})
    loaded = s3dlio_np.load_tree(target.uri("t.npz"), like={"a": 0, "b": np.zeros(1)})
    assert list(loaded) == ["a", "b"]


UNLIKE = {
    "a missing key": {"w": np.ones((2, 3), "f4")},
    "another key": {"w": np.ones((2, 3), "f4"), "l": [1, 2], "m": Moments(1, 2), "more": 1},
    "another shape": {"w": np.ones((3, 2), "f4"), "l": [1, 2], "m": Moments(1, 2)},
    "another dtype": {"w": np.ones((2, 3), "f8"), "l": [1, 2], "m": Moments(1, 2)},
    "another length": {"w": np.ones((2, 3), "f4"), "l": [1], "m": Moments(1, 2)},
    "a tuple for a list": {"w": np.ones((2, 3), "f4"), "l": (1, 2), "m": Moments(1, 2)},
    "a tuple for a namedtuple": {"w": np.ones((2, 3), "f4"), "l": [1, 2], "m": (1, 2)},
    "a leaf for a list": {"w": np.ones((2, 3), "f4"), "l": 1, "m": Moments(1, 2)},
    "a list for a leaf": {"w": np.ones((2, 3), "f4"), "l": [1, [2]], "m": Moments(1, 2)},
    "none for a leaf": {"w": np.ones((2, 3), "f4"), "l": [1, None], "m": Moments(1, 2)},
    "no dict": [1],
}


@near
@pytest.mark.parametrize("name", UNLIKE)
def test_what_does_not_fit_like(target: Any, name: str) -> None:
    tree = {"w": np.ones((2, 3), "f4"), "l": [1, 2], "m": Moments(1, 2)}
    s3dlio_np.save_tree(target.uri("t.npz"), tree)
    with pytest.raises(ValueError, match="does not fit|has shape|has dtype"):
        s3dlio_np.load_tree(target.uri("t.npz"), like=UNLIKE[name])


# --- what cannot be saved -----------------------------------------------------------------------


def loop() -> Any:
    tree: dict[str, Any] = {"a": [1]}
    tree["a"].append(tree)
    return tree


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "an object": ({"a": [object()]}, TypeError, r"\['a'\]\[0\]: object is no array"),
    "a set": ([{1, 2}], TypeError, "set is no array"),
    "objects": ([np.array([None, 1], object)], TypeError, "refer to Python objects"),
    "object fields": ([np.zeros(2, [("o", "O")])], TypeError, "refer to Python objects"),
    "a float key": ({1.5: 1}, TypeError, "a key must be str or int, not float"),
    "a bool key": ({True: 1}, TypeError, "a key must be str or int, not bool"),
    "itself": (loop(), ValueError, r"\['a'\]\[1\]: the tree contains itself"),
}


@near
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_tree(target: Any, name: str) -> None:
    tree, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        s3dlio_np.save_tree(target.uri("t.npz"), tree)
    assert target.names() == [] and target.leftovers() == []


def test_text_of_numpys_string_dtype(target: Any) -> None:
    with pytest.raises(TypeError, match=r"astype\('U'\)"):
        s3dlio_np.save_tree(target.uri("t.npz"), np.array(["a"], np.dtypes.StringDType()))
    assert target.names() == []


def test_the_same_list_twice_is_no_loop(target: Any) -> None:
    shared = [np.ones(2)]
    s3dlio_np.save_tree(target.uri("t.npz"), {"a": shared, "b": shared})
    loaded = s3dlio_np.load_tree(target.uri("t.npz"))
    assert alike(loaded, {"a": shared, "b": shared})
    assert not np.shares_memory(loaded["a"][0], loaded["b"][0])


# --- what is no file of save_tree() -------------------------------------------------------------


def npz(tree: Any = None, raw: Any = None, **members: Any) -> bytes:
    document = {"format": "s3dlio tree", "version": 1, "tree": tree}
    structure = json.dumps(document).encode() if raw is None else raw
    file = io.BytesIO()
    np.savez(file, __tree__=np.array(structure), **members)
    return file.getvalue()


def plain_npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(1))
    return file.getvalue()


def plain_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(1))
    return file.getvalue()


MALFORMED = {
    "a plain npz": plain_npz(),
    "a plain npy": plain_npy(),
    "no JSON": npz(raw=b"{"),
    "deep JSON": npz(raw=b"[" * 100_000),
    "no bytes": npz(raw=np.ones(3)),
    "another format": npz(raw=b'{"format": "x"}'),
    "a list": npz(raw=b"[1]"),
    "a later version": npz(raw=b'{"format": "s3dlio tree", "version": 2, "tree": {"value": 1}}'),
    "no tree": npz(),
    "no kind": npz({"what": 1}),
    "two kinds": npz({"list": [], "tuple": []}),
    "no pair": npz({"dict": [["a"]]}),
    "an unhashable key": npz({"dict": [[[1], {"value": 1}]]}),
    "no list": npz({"list": 5}),
    "an array that is missing": npz({"array": "a"}),
    "a name that is none": npz({"array": ["a"]}, a=np.ones(1)),
    "a value of another kind": npz({"value": [1]}),
    "no number": npz({"int": "x"}),
    "half a number": npz({"complex": ["1"]}),
    "code for a field": npz({"namedtuple": "N", "fields": [["x=1", {"value": 1}]]}),
    "code for a name": npz({"namedtuple": "N(", "fields": []}),
}


@near
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(target: Any, name: str) -> None:
    target.write("t.npz", MALFORMED[name])
    with pytest.raises(ValueError, match=r"t\.npz: not a file of save_tree\(\)"):
        s3dlio_np.load_tree(target.uri("t.npz"))


def test_objects_are_not_unpickled(target: Any) -> None:
    target.write("t.npz", npz({"array": "a"}, a=np.array([None], object)))
    with pytest.raises(ValueError, match="allow_pickle"):
        s3dlio_np.load_tree(target.uri("t.npz"))


def test_a_missing_file(target: Any) -> None:
    with pytest.raises(FileNotFoundError):
        s3dlio_np.load_tree(target.uri("none.npz"))


def test_a_failed_part_leaves_nothing(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(PermissionError):
        s3dlio_np.save_tree(s3_own.uri("t.npz"), np.zeros(12_000_000, "u1"), part_size=5 << 20)
    assert fault.hits() >= 1
    assert s3_own.objects() == {} and s3_own.uploads() == []


def test_a_dtype_whose_package_is_missing(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    target.write("t.npz", npz({"array": "a", "dtype": "bfloat16"}, a=np.ones(1, "u2")))
    with pytest.raises(ImportError, match="the root has dtype bfloat16, which needs"):
        s3dlio_np.load_tree(target.uri("t.npz"))
