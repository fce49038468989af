"""save_safetensors and load_safetensors of NumPy arrays, held against the safetensors package."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy as stock
import torch

import s3dlio_np
import s3dlio_torch
from tests.marks import near
from tests.np.arrays import MIB, PART, Array, filled, of_dtype, same

PLAIN = [*"?bBhHiIlLefdF"]
OWN = [
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e8m0fnu,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2fnuz,
]


def all_dtypes() -> dict[str, Array]:
    return {f"{np.dtype(dtype)}": of_dtype(dtype, 3, 4) for dtype in (*PLAIN, *OWN)}


def mixed() -> dict[str, Array]:
    return {
        "z": np.arange(35.0).reshape(5, 7),
        "a.b": np.arange(3, dtype="f4"),
        "a": np.float16([1, 2]),
        "scalar": np.array(2.5),
        "empty": np.empty((0, 3)),
        "": np.ones(1),
        'é"\n\x01\u2028/\\😀': np.ones(1),
        "large": filled(3 * PART).view("<f8"),
        "after": filled(70_001),
    }


@pytest.mark.parametrize("make", [all_dtypes, mixed])
@pytest.mark.parametrize("metadata", [None, {"k": 'v\n"é😀'}])
def test_bytes_are_those_of_the_package(target: Any, make: Any, metadata: Any) -> None:
    arrays = make()
    s3dlio_np.save_safetensors(
        arrays, target.uri("m"), metadata, part_size=PART, max_concurrency=3
    )
    assert target.read("m") == stock.save(arrays, metadata)
    assert target.leftovers() == []


@near
def test_both_ways(target: Any, tmp_path: Path) -> None:
    for arrays in (all_dtypes(), mixed()):
        target.write("theirs", stock.save(arrays))
        loaded = s3dlio_np.load_safetensors(target.uri("theirs"), part_size=MIB)
        assert set(loaded) == set(arrays)
        for name, array in arrays.items():
            assert same(loaded[name], array), name
            assert loaded[name].flags.writeable
            assert not array.nbytes or loaded[name].ctypes.data % 64 == 0
    s3dlio_np.save_safetensors(mixed(), target.uri("ours"))
    theirs = stock.load(target.read("ours"))
    assert all(same(theirs[name], array) for name, array in mixed().items())
    with_torch = s3dlio_torch.load_safetensors(target.uri("ours"))
    assert np.array_equal(with_torch["z"].numpy(), mixed()["z"])
    s3dlio_torch.save_safetensors({"x": torch.arange(3).to(torch.bfloat16)}, target.uri("t"))
    back = s3dlio_np.load_safetensors(target.uri("t"))["x"]
    assert back.dtype == ml_dtypes.bfloat16 and back.tolist() == [0, 1, 2]


def test_the_order_of_the_dict_does_not_matter(tmp_path: Path) -> None:
    arrays = {**all_dtypes(), **mixed()}
    names = list(arrays)
    for seed in range(5):
        random.Random(seed).shuffle(names)
        s3dlio_np.save_safetensors({name: arrays[name] for name in names}, tmp_path / "m")
        assert (tmp_path / "m").read_bytes() == stock.save(arrays)
    with safetensors.safe_open(tmp_path / "m", "np") as file:
        assert list(s3dlio_np.load_safetensors(tmp_path / "m")) == sorted(
            file.keys(), key=list(s3dlio_np.load_safetensors(tmp_path / "m")).index
        )


@near
def test_what_is_not_contiguous_or_swapped(target: Any) -> None:
    """Written as its elements are, in C order and little-endian."""
    base = np.arange(600_000.0).reshape(1000, 600)
    arrays = {
        "transposed": base.T,
        "fortran": np.asfortranarray(base[:7]),
        "strided": base[::3, ::-7],
        "swapped": base.astype(">f8"),
        "both": base.astype(">f8").T[::2],
        "short": np.arange(9, dtype=">u2"),
        "matrix": np.arange(4).reshape(2, 2).view(np.matrix),
        "broadcast": np.broadcast_to(np.float32(5), (3, 3)),
    }
    s3dlio_np.save_safetensors(arrays, target.uri("m"))
    plain = {k: np.ascontiguousarray(v.astype(v.dtype.newbyteorder("<"))) for k, v in arrays.items()}
    assert target.read("m") == stock.save({k: np.asarray(v) for k, v in plain.items()})


@near
def test_keys(target: Any) -> None:
    s3dlio_np.save_safetensors(mixed(), target.uri("m"))
    loaded = s3dlio_np.load_safetensors(target.uri("m"), keys=["scalar", "after"])
    assert {name: same(array, mixed()[name]) for name, array in loaded.items()} == {
        "scalar": True,
        "after": True,
    }
    assert s3dlio_np.load_safetensors(target.uri("m"), keys=[]) == {}
    with pytest.raises(KeyError, match="no array 'b'"):
        s3dlio_np.load_safetensors(target.uri("m"), keys=["b"])


def test_only_what_is_wanted_is_fetched(s3_own: Any) -> None:
    arrays = {f"{i}": filled(4 * MIB, i) for i in range(4)}
    s3_own.put("m", stock.save(arrays))
    s3_own.server.reset()
    loaded = s3dlio_np.load_safetensors(s3_own.uri("m"), keys=["1"])
    assert np.array_equal(loaded["1"], arrays["1"])
    assert s3_own.server.counters()["bytes_out"] < 6 * MIB


@pytest.mark.parametrize(
    ("tensors", "error", "why"),
    [
        ([np.ones(1)], ValueError, "must be a dict"),
        ({1: np.ones(1)}, TypeError, "must be str"),
        ({"x": [1]}, ValueError, "must be an array"),
        ({"x": np.array(["a"])}, ValueError, "does not know"),
        ({"x": np.array([None])}, ValueError, "does not know"),
        ({"x": np.zeros(1, "M8[s]")}, ValueError, "does not know"),
        ({"x": np.zeros(1, "i4,i4")}, ValueError, "does not know"),
        ({"x": np.zeros(1, complex)}, ValueError, "does not know"),
        ({"x": np.zeros(1, ml_dtypes.float4_e2m1fn)}, ValueError, "does not know"),
        ({"__metadata__": np.ones(1)}, ValueError, "own name"),
    ],
)
def test_refused_before_anything_is_sent(
    s3_own: Any, tensors: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        s3dlio_np.save_safetensors(tensors, s3_own.uri("m"))
    with pytest.raises(TypeError, match="metadata"):
        s3dlio_np.save_safetensors({}, s3_own.uri("m"), {"a": 1})  # type: ignore[dict-item]
    assert s3_own.objects() == {}
    assert s3_own.server.counters()["requests"]["PutObject"] == 0


def file_of(entry: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps({"x": entry}).encode()
    return len(text).to_bytes(8, "little") + text + data


@near
def test_bad_files(target: Any) -> None:
    good = stock.save({"x": np.arange(1000.0)})
    bad = [good[:length] for length in (0, 5, 8, 50, len(good) - 1)]
    bad += [good + b"x", b"\xff" * 8 + good[8:], bytes(100)]
    for code, shape, size in (("F4", [2], 1), ("F6_E2M3", [4], 3), ("U8", [1] * 65, 1),
                              ("U8", [0, 1 << 62, 1 << 62], 0)):
        bad.append(file_of({"dtype": code, "shape": shape, "data_offsets": [0, size]}, bytes(size)))
    for data in bad:
        target.write("m", data)
        with pytest.raises(ValueError) as caught:
            s3dlio_np.load_safetensors(target.uri("m"))
        assert target.uri("m") in str(caught.value)


def test_without_ml_dtypes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio_np.save_safetensors({"x": np.ones(2, ml_dtypes.bfloat16)}, tmp_path / "m")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ValueError, match="install ml_dtypes"):
        s3dlio_np.load_safetensors(tmp_path / "m")


@pytest.mark.parametrize("skip", [1, 2, 5])
def test_changed_meanwhile(s3_own: Any, skip: int) -> None:
    s3_own.put("m", stock.save({f"{i}": filled(2 * MIB, i) for i in range(4)}))
    fault = s3_own.server.add_fault(op="GetObject", skip=skip, kind="etag_change")
    with pytest.raises(s3dlio_np.ObjectChangedError):
        s3dlio_np.load_safetensors(s3_own.uri("m"), part_size=MIB, max_concurrency=2)
    assert fault.hits() == 1


def test_a_failing_part_leaves_nothing(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", part=2, kind="status", status=400, code="InvalidPart", count=-1
    )
    with pytest.raises(s3dlio_np.StorageError, match="InvalidPart"):
        s3dlio_np.save_safetensors(mixed(), s3_own.uri("m"), part_size=PART)
    assert fault.hits() >= 1
    assert s3_own.objects() == {} and s3_own.uploads() == []
