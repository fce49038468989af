"""h5py reads from streams of ours; writing needs a file that can be sought and cut."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import pytest

import s3dlio_np

RNG = np.random.default_rng(3)
PLAIN = RNG.random((1000, 300))
CHUNKED = RNG.integers(0, 9, (500, 400))


def hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["plain"] = PLAIN
        h5.create_dataset("group/chunked", data=CHUNKED, chunks=(50, 40), compression="gzip")
        h5.create_dataset("text", data=["a", "ü"], dtype=h5py.string_dtype())
        h5["plain"].attrs["unit"] = "m"
    return file.getvalue()


FILE = hdf5()


def test_read(target: Any, read: Any) -> None:
    target.write("f.h5", FILE)
    with read("f.h5") as stream, h5py.File(stream, "r") as h5:
        assert sorted(h5) == ["group", "plain", "text"]
        np.testing.assert_array_equal(h5["plain"][:], PLAIN)
        np.testing.assert_array_equal(h5["group/chunked"][40:70, ::3], CHUNKED[40:70, ::3])
        assert h5["text"].asstr()[:].tolist() == ["a", "ü"]
        assert h5["plain"].attrs["unit"] == "m"
        into = np.empty((1000, 300))
        h5["plain"].read_direct(into)
        np.testing.assert_array_equal(into, PLAIN)


def test_a_row_costs_its_own_bytes(s3_own: Any) -> None:
    s3_own.put("f.h5", FILE)
    with s3dlio_np.open(s3_own.uri("f.h5"), part_size=64 * 1024) as stream:
        with h5py.File(stream, "r") as h5:
            np.testing.assert_array_equal(h5["plain"][5], PLAIN[5])
    assert s3_own.server.counters()["bytes_out"] < len(FILE) / 2


def test_not_for_writing(refused: Any) -> None:
    with refused() as stream, h5py.File(stream, "w") as h5:
        h5["plain"] = PLAIN


def test_write_by_memory(target: Any) -> None:
    s3dlio_np.put(target.uri("f.h5"), FILE)
    with h5py.File(io.BytesIO(target.read("f.h5")), "r") as h5:
        np.testing.assert_array_equal(h5["plain"][:], PLAIN)


def test_no_hdf5_file(target: Any, read: Any) -> None:
    target.write("f.h5", b"no HDF5 file" * 1000)
    with read("f.h5") as stream, pytest.raises(OSError, match="file signature not found"):
        h5py.File(stream, "r")
