"""The .npy format: headers, and memory for arrays.

The format, and the words of most errors, are those of numpy.lib.format.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from s3dlio_np import _native
from s3dlio_np._native import ObjectWriter, allocate, npy_bytes, npy_prefix, send_array

Array = np.ndarray[Any, Any]

MAGIC = b"\x93NUMPY"
HEAD_BYTES = 4096  # holds the header of nearly every array
ALIGNMENT = 64
_PAGES_FROM = 1 << 20  # smaller arrays: a mapping each would cost more than its bytes
_CHUNK = 8 << 20  # of what is not contiguous, copied at once
_NO_LIMIT = 2**64 - 1
_KEYS = {"descr", "fortran_order", "shape"}


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    data_offset: int  # from the file's start
    nbytes: int  # of the elements; for arrays of objects not known: 0


# --- reading ------------------------------------------------------------------------------------


def text_max(max_header_size: int, allow_pickle: bool) -> int:
    """The ceiling on a header; as in NumPy, none for a file that is trusted anyway."""
    return _NO_LIMIT if allow_pickle else min(max(max_header_size, 0), _NO_LIMIT)


def read_header(
    where: str,
    head: bytes | memoryview,
    read: Callable[[int], bytes | memoryview],
    available: int,
    limit: int,
) -> Header:
    """The header of a file of `available` bytes, of which `head` are the first.

    where: begins the text of errors. read(n) gives the first n bytes, when `head` has too few. limit:
    characters that the header may have. Raises ValueError for what is no header, and for elements
    that the file does not have.
    """
    major, text_offset, data_offset, need = npy_prefix(where, head, available, limit)
    while need:
        head = read(need)
        major, text_offset, data_offset, need = npy_prefix(where, head, available, limit)
    try:
        shape, fortran_order, dtype = _parse(major, bytes(head[8:data_offset]), limit)
    except (
        ValueError, SyntaxError, TypeError, LookupError, OverflowError, RecursionError,
        MemoryError, tokenize.TokenError,
    ) as error:
        why = str(error) or "its header is too complex, or memory ran out"
        raise ValueError(f"{where}: {why}") from error
    if dtype.hasobject:
        return Header(shape, fortran_order, dtype, data_offset, 0)
    nbytes = npy_bytes(where, shape, dtype.itemsize, available - data_offset)
    return Header(shape, fortran_order, dtype, data_offset, nbytes)


def _parse(major: int, text: bytes, limit: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """From the bytes behind magic and version, the length first."""
    if major == 3:
        parsed = _parse_utf8(text[4:].decode("utf-8"), limit)
    else:
        readers = {1: npy_format.read_array_header_1_0, 2: npy_format.read_array_header_2_0}
        parsed = readers[major](io.BytesIO(text), max_header_size=limit)
    if parsed[2].subdtype is not None:
        raise ValueError(f"descr is not a valid dtype descriptor: {parsed[2]!r}")
    return parsed


def _parse_utf8(text: str, limit: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Version 3.0, for which NumPy has no public reader."""
    if len(text) > limit:
        raise ValueError(
            f"Header info length ({len(text)}) is large and may not be safe to load securely"
        )
    fields = ast.literal_eval(text)
    if not isinstance(fields, dict):
        raise ValueError(f"Header is not a dictionary: {fields!r}")
    if fields.keys() != _KEYS:
        raise ValueError(f"Header does not contain the correct keys: {list(fields)!r}")
    shape, fortran_order = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
        raise ValueError(f"shape is not valid: {shape!r}")
    if not isinstance(fortran_order, bool):
        raise ValueError(f"fortran_order is not a valid bool: {fortran_order!r}")
    return shape, fortran_order, npy_format.descr_to_dtype(fields["descr"])


def new_array(header: Header) -> tuple[Array, Array]:
    """An array of that header and its bytes: fresh, writable, 64-byte aligned, not filled."""
    flat = new_bytes(header.nbytes)
    return array_over(flat, 0, header), flat


def array_over(memory: Array, offset: int, header: Header) -> Array:
    """An array of that header over the bytes from `offset` on, which it keeps."""
    # Not frombuffer and reshape: those would widen dtypes without bytes, such as "U0".
    array: Array = np.ndarray(
        header.shape,
        header.dtype,
        memory if header.nbytes else None,
        offset,
        order="F" if header.fortran_order else "C",
    )
    return array


def new_bytes(size: int) -> Array:
    """Fresh memory, 64-byte aligned; large pieces are pages of their own, huge where it pays."""
    if size >= _PAGES_FROM:
        return np.frombuffer(allocate(size), np.uint8)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


# --- writing ------------------------------------------------------------------------------------


class _Header:
    """A file that takes NumPy's header, and no more."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        length = self.data[8:10] if self.data[6:7] == b"\1" else self.data[8:12]
        start = 8 + (2 if self.data[6:7] == b"\1" else 4)
        if len(self.data) >= start + int.from_bytes(length, "little") > start:
            raise _Complete
        return len(data)


class _Complete(Exception):
    """The header is there: NumPy need not go on."""


def header_of(array: Array) -> bytes:
    """The header that NumPy writes for the array, its warnings included."""
    header = _Header()
    try:
        npy_format.write_array(header, array)
    except _Complete:
        pass
    return header.data


def has_bytes(array: Array) -> bool:
    """Whether the file holds the elements themselves; NumPy pickles the others."""
    return not array.dtype.hasobject and getattr(type(array.dtype), "_legacy", True)


def pieces(array: Array) -> Iterator[tuple[Array, bool]]:
    """The elements' bytes in the file's order; True: views of its memory, False: to be copied."""
    array = np.asarray(array)  # a matrix cannot be flattened, a masked array has data of its own
    if not array.nbytes:
        return
    if array.flags.c_contiguous:
        yield array.reshape(-1).view(np.uint8), True
    elif array.flags.f_contiguous:
        yield array.T.reshape(-1).view(np.uint8), True
    else:
        if array.dtype.names is not None:
            # Raw, or the bytes between the fields would be whatever lay in the copy's memory.
            array = array.view(np.dtype((np.void, array.itemsize)))
        yield from ((chunk, False) for chunk in chunks(array, array.dtype))


def chunks(array: Array, dtype: np.dtype[Any]) -> Iterator[Array]:
    """Bytes of the elements in C order, as a dtype that differs at most in byte order.

    Each chunk is valid until the next is asked for.
    """
    parts = np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_dtypes=[dtype],
        casting="equiv",
        buffersize=max(_CHUNK // array.itemsize, 1),
        order="C",
    )
    for part in parts:
        yield np.ascontiguousarray(part).reshape(-1).view(np.uint8)


def send_pieces(stream: ObjectWriter, array: Array, crc: int | None) -> int | None:
    """Appends the elements; those in contiguous memory from there, others in copied chunks.

    The memory must not change before the stream is closed. Returns the CRC-32 of what `crc` is the
    sum of and the elements behind it.
    """
    for piece, stays in pieces(array):
        if stays:
            crc = send_array(stream, piece, crc)
        else:
            stream.write(piece)
            crc = None if crc is None else _native.crc32(piece, crc)
    return crc


def write_array(stream: ObjectWriter, array: Array, allow_pickle: bool) -> None:
    """A whole .npy file."""
    if has_bytes(array):
        stream.write(header_of(array))
        send_pieces(stream, array, None)
    else:
        npy_format.write_array(stream, array, allow_pickle=allow_pickle)
