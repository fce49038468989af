"""safetensors files of NumPy arrays, and what s3dlio_torch shares of the format.

The format is that of https://github.com/huggingface/safetensors; the bytes are those of its
safetensors.numpy.save_file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from s3dlio_np._native import ObjectReader, ObjectWriter, fetch_arrays, safetensors_header
from s3dlio_np._npy import Array, Header, chunks, new_array, send_pieces
from s3dlio_np._open import open_writer
from s3dlio_np._options import WriterOptions
from s3dlio_np._typing import Uri

_ALIGNMENT = 8  # of the data section
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000
_MAX_RANK = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32

# Dtypes of torch, and all but the one of two elements in a byte of NumPy and ml_dtypes. In the
# reference's order: files hold the widest dtypes first, from the end of this list.
NAMES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_NAMES = {code: own for code, own in NAMES.items() if code != "F4"}
_CODES = {own: code for code, own in _NAMES.items()}
_RANKS = {code: rank for rank, code in enumerate(_NAMES)}


# --- for s3dlio_torch as well -------------------------------------------------------------------


def refuse_big_endian() -> None:
    if sys.byteorder != "little":
        raise RuntimeError("safetensors files are little-endian, and this machine is not")


def header_bytes(
    entries: Iterable[tuple[str, str, Iterable[int], int]], metadata: Mapping[str, str] | None
) -> bytes:
    """The length and the JSON, padded with spaces.

    entries: (name, dtype as in the file, shape, size in bytes), in the order of the file. Raises
    TypeError for metadata that are not texts, ValueError for a header that no reader would take.
    """
    fields: dict[str, Any] = {}
    if metadata is not None:
        for pair in metadata.items():
            if not all(isinstance(text, str) for text in pair):
                raise TypeError(f"metadata must be texts by text, not {pair!r}")
        fields[_METADATA] = dict(metadata)
    end = 0
    for name, code, shape, size in entries:
        offsets = [end, end + size]
        end = offsets[1]
        fields[name] = {"dtype": code, "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"the header has {len(text)} bytes; readers take {_MAX_HEADER}")
    return len(text).to_bytes(8, "little") + text


# --- arrays -------------------------------------------------------------------------------------


def save_safetensors(
    tensors: dict[str, Array],
    uri: Uri,
    metadata: dict[str, str] | None = None,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> None:
    """Writes a dict of arrays as a safetensors file, byte for byte as safetensors.numpy.save_file.

    tensors: arrays of bool, integers, float16 to float64, complex64, or ml_dtypes' bfloat16 and
        float8 kinds that the format knows; in either byte order.
    uri: s3://bucket/key, file:///path or a path.
    metadata: texts for the header, written in the dict's order.
    part_size (bytes), max_concurrency, options: as for open().

    C-contiguous arrays in little-endian order are sent from their memory, without a copy: they must
    not change before this returns. Others are copied in chunks of 8 MiB. The object appears whole or
    not at all. Raises ValueError for what is no dict of arrays, for a dtype that the format lacks and
    an array named "__metadata__"; TypeError for names and metadata that are not str; what open()
    raises.
    """
    refuse_big_endian()
    codes = _codes(tensors)
    order = sorted(tensors, key=lambda name: (-_RANKS[codes[name]], name))
    header = header_bytes(
        ((name, codes[name], tensors[name].shape, tensors[name].nbytes) for name in order),
        metadata,
    )
    options = options or WriterOptions()
    if options.expected_size is None:
        expected = len(header) + sum(array.nbytes for array in tensors.values())
        options = replace(options, expected_size=expected)
    with open_writer(uri, part_size, max_concurrency, options) as stream:
        stream.write(header)
        for name in order:
            _send(stream, np.asarray(tensors[name]))


def load_safetensors(
    uri: Uri,
    *,
    keys: Iterable[str] | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
) -> dict[str, Array]:
    """Reads a safetensors file; the dict is in the order in which the file holds the arrays.

    uri: s3://bucket/key, file:///path or a path.
    keys: names of the arrays that are wanted; only their bytes are fetched. None: all. A name that is
        not there is a KeyError.
    part_size (bytes), max_concurrency: as for open().

    The arrays are C-contiguous, writable and 64-byte aligned, each with memory of its own, which its
    base holds; they are fetched at once by parallel requests, straight into it. bfloat16 and float8
    kinds need the package ml_dtypes. Raises ValueError, with the URI and the array, for a file that
    is cut, damaged or no safetensors file at all, and for a dtype that NumPy lacks; what open()
    raises.
    """
    refuse_big_endian()
    with ObjectReader(uri, part_size=part_size, max_concurrency=max_concurrency) as stream:
        start, entries, _ = safetensors_header(stream)
        if keys is not None:
            entries = _select(entries, list(keys), stream.uri)
        loaded: dict[str, Array] = {}
        parts: list[tuple[str, int, Array, int | None]] = []
        for name, code, shape, offset, size in entries:
            where = f"{stream.uri}: array {name!r}"
            if len(shape) > _MAX_RANK:
                raise ValueError(f"{where} has {len(shape)} dimensions, more than NumPy allows")
            header = Header(shape, False, _dtype(where, code), 0, size)
            try:
                loaded[name], flat = new_array(header)
            except ValueError as error:  # a shape without elements may have any other dimension
                raise ValueError(f"{where}: {error}") from error
            if size:
                parts.append((f"array {name!r}", start + offset, flat, None))
        fetch = fetch_arrays(stream, tuple(parts), fresh=True)
        try:
            for item in range(len(parts)):
                fetch.wait(item)
        finally:
            fetch.close()
        return loaded


def _codes(tensors: object) -> dict[str, str]:
    """The format's dtype for each array."""
    if not isinstance(tensors, dict):
        raise ValueError(f"tensors must be a dict of str and array, not {type(tensors).__name__}")
    codes: dict[str, str] = {}
    for name, array in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"the key {name!r} must be str, not {type(name).__name__}")
        if name == _METADATA:
            raise ValueError(f"{name!r} is the format's own name: no reader would take it")
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name!r} must be an array, not {type(array).__name__}")
        if array.dtype.name not in _CODES:
            raise ValueError(f"{name!r} has dtype {array.dtype}, which safetensors does not know")
        codes[name] = _CODES[array.dtype.name]
    return codes


def _send(stream: ObjectWriter, array: Array) -> None:
    little = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    if array.flags.c_contiguous and little == array.dtype:
        send_pieces(stream, array, None)
    elif array.size:
        for chunk in chunks(array, little):
            stream.write(chunk)


def _dtype(where: str, code: str) -> np.dtype[Any]:
    name = _NAMES.get(code)
    if name is None:
        raise ValueError(f"{where} has dtype {code}, which NumPy lacks")
    if hasattr(np, name):
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ValueError(f"{where} has dtype {code}: install ml_dtypes to load it") from error
    own = getattr(ml_dtypes, name, None)
    if own is None:
        raise ValueError(f"{where} has dtype {code}, which this ml_dtypes lacks")
    dtype: np.dtype[Any] = np.dtype(own)
    return dtype


def _select(entries: list[Any], keys: list[str], uri: str) -> list[Any]:
    names = {entry[0] for entry in entries}
    for key in keys:
        if key not in names:
            raise KeyError(f"{uri} has no array {key!r}")
    return [entry for entry in entries if entry[0] in keys]
