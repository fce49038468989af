"""Arrays of every kind, and what NumPy itself writes of them."""

from __future__ import annotations

import io
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib.recfunctions import repack_fields

Array = np.ndarray[Any, Any]
MIB = 1 << 20
PART = 5 * MIB


class Unseekable(io.RawIOBase):
    """A file that only takes bytes, as an object does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)

    def tell(self) -> int:
        raise OSError

    def seek(self, offset: int, whence: int = 0) -> int:
        raise OSError


def stock_save(array: Any, **arguments: Any) -> bytes:
    file = Unseekable()
    np.save(file, array, **arguments)
    return bytes(file.data)


def stock_savez(*args: Any, compressed: bool = False, **kwds: Any) -> bytes:
    file = Unseekable()
    (np.savez_compressed if compressed else np.savez)(file, *args, **kwds)
    return bytes(file.data)


def filled(size: int, seed: int = 0) -> Array:
    """Bytes of which none is like its neighbours."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def of_dtype(dtype: Any, *shape: int) -> Array:
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = filled(count * dtype.itemsize, 1)
    if dtype == np.bool_:
        raw &= 1
    if dtype.kind == "U":
        raw = np.full(count * dtype.itemsize // 4, ord("é"), dtype.newbyteorder("=").str[0] + "u4").view(np.uint8)
    return np.ndarray(shape, dtype, raw)


RECORD = np.dtype([("a", "<i4"), ("b", ">f8", (2, 3)), ("c", "S3"), ("d", [("e", "u1"), ("f", "M8[s]")])])
PADDED = np.dtype({"names": ["a", "b"], "formats": ["u1", "<f8"], "offsets": [0, 8], "itemsize": 24})
DTYPES: list[Any] = [
    *"?bBhHiIlLqQefdgFDG",
    *("<i2", ">i4", ">u8", ">f4", ">f8", ">c16", "S5", "<U7", ">U7", "V9"),
    *("M8[ns]", ">M8[D]", "m8[us]", "<m8[Y]"),
    RECORD,
    PADDED,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2fnuz,
]


def names(dtype: Any) -> str:
    return np.dtype(dtype).str if np.dtype(dtype).names is None else f"record{np.dtype(dtype).itemsize}"


def kinds() -> dict[str, Array]:
    """Shapes and orders that are written and read in ways of their own."""
    large = filled(3 * MIB).view("<f8").reshape(128, 3072)
    return {
        "scalar": np.array(2.5),
        "one": np.arange(1),
        "vector": np.arange(100_000, dtype="<u2"),
        "empty": np.empty((3, 0, 5)),
        "nothing": np.empty(0, "U0"),
        "no bytes": np.zeros((2, 3), "S0"),
        "large": large,
        "fortran": np.asfortranarray(large[:, :1000]),
        "transposed": large.T,
        "strided": large[::3, 5:2000:7],
        "backwards": large[::-1],
        "permuted": large.reshape(128, 3, 1024).transpose(1, 2, 0),
        "broadcast": np.broadcast_to(np.arange(1000.0), (300, 1000)),
        "flat fortran": np.zeros((1, 70_000), order="F"),
        "deep": np.zeros((1,) * 32),
        "matrix": np.arange(4).reshape(2, 2).view(np.matrix),
        "masked": np.ma.masked_array([1, 2, 3], [0, 1, 0]),
        "read-only": np.frombuffer(bytes(1000), "<i4"),
        "record": of_dtype(RECORD, 400, 3),
        "strided record": of_dtype(RECORD, 400, 6)[:, ::2],
        "padded": of_dtype(PADDED, 300),
        "strided bf16": of_dtype(ml_dtypes.bfloat16, 90, 70)[:, ::3],
        "strided time": of_dtype("M8[s]", 90, 70)[:, ::3],
    }


def elements(array: Any) -> bytes:
    """Every bit of them, but none of those between the fields of a record."""
    return bytes(repack_fields(array).tobytes() if array.dtype.names else array.tobytes())


def same(one: Any, other: Any) -> bool:
    """dtype, shape, order and every bit."""
    return (
        (one.dtype, one.shape) == (other.dtype, other.shape)
        and one.flags.c_contiguous == other.flags.c_contiguous
        and one.flags.f_contiguous == other.flags.f_contiguous
        and elements(one) == elements(other)
    )
