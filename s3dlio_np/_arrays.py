"""NumPy's load and save with a URI in the file's place, parallel and without copies."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.lib import format as npy_format

from s3dlio_np._native import ObjectReader, ObjectWriter, fetch_arrays
from s3dlio_np._npy import (
    ALIGNMENT,
    HEAD_BYTES,
    MAGIC,
    Array,
    Header,
    array_over,
    new_array,
    new_bytes,
    read_header,
    text_max,
    write_array,
)
from s3dlio_np._npz import NpzFile, named, open_npz, write_npz
from s3dlio_np._open import WriteResult, open_writer
from s3dlio_np._options import WriterOptions
from s3dlio_np._typing import Uri

MmapMode = Literal["r", "r+", "w+", "c"]

_MAX_HEADER_SIZE = 10000
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an archive of nothing
_TAIL = 256 << 10  # what a reader has in memory once open
_LEAD = 16 << 10  # of a .npy: waited for first
_LIKELY_OFFSET = 128  # of the elements
_PAGE = 4096


# --- loading ------------------------------------------------------------------------------------


def load(
    uri: Uri,
    mmap_mode: MmapMode | None = None,
    allow_pickle: bool = False,
    fix_imports: bool = True,
    encoding: str = "ASCII",
    *,
    max_header_size: int = _MAX_HEADER_SIZE,
    load_all: bool = False,
    part_size: int | None = None,
    max_concurrency: int | None = None,
) -> Any:
    """numpy.load of an object: .npy, .npz, or with allow_pickle a pickle.

    uri: s3://bucket/key, file:///path or a path. Its first bytes tell what it is, not its name (by
        which only the order of requests is guessed).
    mmap_mode: for local files only, numpy.load then maps the file.
    allow_pickle: whether pickles and arrays of objects may be loaded, which runs code that the file
        contains. fix_imports, encoding: for pickles of Python 2, as in numpy.load.
    max_header_size: characters that the header of an array may have; not for allow_pickle.
    load_all: all members of a .npz at once, as a dict by name; their bytes are fetched in one wave
        (deflated members one after the other).
    part_size (bytes), max_concurrency: as for open().

    .npy: an array with the file's shape, dtype and order, writable and 64-byte aligned, filled by
    parallel requests straight into its memory; nothing else uses that memory, ever. The array's base
    holds the memory. .npz: an NpzFile, to be closed; see there. A small object takes one request.

    Raises what numpy.load raises: EOFError for an empty object, ValueError for a header that is broken
    or too large, for fewer elements than it says, and for pickles that are not allowed,
    zipfile.BadZipFile for a .npz that is cut or contradicts itself, pickle.UnpicklingError. Besides
    ObjectChangedError, DamagedMemberError, and what open() raises.
    """
    if encoding not in ("ASCII", "latin1", "bytes"):
        raise ValueError("encoding must be 'ASCII', 'latin1', or 'bytes'")
    pickle_kwargs: dict[str, Any] = {"encoding": encoding, "fix_imports": fix_imports}
    if mmap_mode is not None:
        return np.load(
            _local_path(uri), mmap_mode, allow_pickle, max_header_size=max_header_size,
            **pickle_kwargs,
        )
    stream = ObjectReader(uri, part_size=part_size, max_concurrency=max_concurrency)
    loaded: Any = None
    try:
        loaded = _Loader(stream, allow_pickle, pickle_kwargs, max_header_size).load()
        if load_all and isinstance(loaded, NpzFile):
            loaded = loaded.read_all()
    finally:
        if not isinstance(loaded, NpzFile):
            stream.close()
    return loaded


def load_numpy(
    uri: Uri,
    *,
    concurrent: bool = True,
    allow_pickle: bool = False,
    max_header_size: int = _MAX_HEADER_SIZE,
    part_size: int | None = None,
    max_concurrency: int | None = None,
) -> dict[str, Any]:
    """All arrays of a .npz object by name, in the archive's order; of a .npy, as "arr_0".

    concurrent: False sends one request at a time. The rest as for load(), whose exceptions are raised
    as well; ValueError for an object that is neither.
    """
    loaded = load(
        uri,
        allow_pickle=allow_pickle,
        max_header_size=max_header_size,
        load_all=True,
        part_size=part_size,
        max_concurrency=max_concurrency if concurrent else 1,
    )
    if isinstance(loaded, dict):
        return loaded
    if isinstance(loaded, np.ndarray):
        return {"arr_0": loaded}
    raise ValueError(f"{uri}: neither .npy nor .npz, but a pickled {type(loaded).__name__}")


def _local_path(uri: Uri) -> str:
    """The path of a local file; NumPy maps files by path only."""
    text = os.fspath(uri)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    if parts.scheme != "file":
        raise ValueError(
            f"{text}: mmap_mode needs a local file. Leave it out: the array is then read into memory"
        )
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{text}: the file is on another host, {parts.netloc}")
    return unquote(text[len("file://") + len(parts.netloc) :])


class _Loader:
    """What an object is, and its content."""

    def __init__(
        self,
        stream: ObjectReader,
        allow_pickle: bool,
        pickle_kwargs: dict[str, Any],
        max_header_size: int,
    ) -> None:
        self._stream = stream
        self._allow_pickle = allow_pickle
        self._pickle_kwargs = pickle_kwargs
        self._max_header_size = max_header_size
        self._limit = text_max(max_header_size, allow_pickle)

    def load(self) -> Any:
        stream, name = self._stream, self._stream.uri.lower()
        if not stream.size:
            raise EOFError(f"{stream.uri}: No data left in file")
        if stream.size > _TAIL and name.endswith(".npz"):
            archive = self._likely_npz()
            if archive is not None:
                return archive
        if stream.size > _TAIL and name.endswith(".npy"):
            array = self._likely_npy()
            if array is not None:
                return array
        stream.seek(0)
        magic = stream.read(len(MAGIC))
        stream.seek(0)
        if magic.startswith(_ZIP_MAGICS):
            return self._npz()
        return self._npy() if magic == MAGIC else self._pickle()

    def _npz(self) -> NpzFile:
        return open_npz(
            self._stream,
            allow_pickle=self._allow_pickle,
            pickle_kwargs=self._pickle_kwargs,
            max_header_size=self._max_header_size,
        )

    def _likely_npz(self) -> NpzFile | None:
        """The archive, when the end of the object is one's; no look at its beginning is needed."""
        try:
            archive = self._npz()
        except zipfile.BadZipFile:
            return None  # its first bytes tell whether it should have been one
        if any(member.header_offset == 0 for member in archive._members):
            return archive
        return None

    def _begin(self, length: int) -> bytes:
        self._stream.seek(0)
        return self._stream.read(length)

    def _npy(self) -> Any:
        stream = self._stream
        head = self._begin(HEAD_BYTES)
        header = read_header(stream.uri, head, self._begin, stream.size, self._limit)
        if header.dtype.hasobject:
            return self._pickled_array()
        array, flat = new_array(header)
        self._fill(header, flat)
        return array

    def _fill(self, header: Header, flat: Array) -> None:
        if header.nbytes:
            fetch = fetch_arrays(
                self._stream, (("array", header.data_offset, flat, None),), fresh=True
            )
            try:
                fetch.wait(0)
            finally:
                fetch.close()

    def _likely_npy(self) -> Array | None:
        """The array, when the object is what its size and name promise: a header and its elements.

        Both are then on their way at once, into memory in which the elements are aligned.
        """
        stream, size = self._stream, self._stream.size
        lead, tail = min(_LEAD, size - _TAIL), size - _TAIL
        start = _PAGE - _LIKELY_OFFSET
        memory = new_bytes(start + size)
        body = memory[start:]
        fetch = fetch_arrays(
            stream,
            (
                ("array", 0, body[:lead], None),
                ("array", lead, body[lead:tail], None),
                ("array", tail, body[tail:], None),
            ),
            fresh=True,
        )
        try:
            fetch.wait(0)
            if body[: len(MAGIC)].tobytes() != MAGIC:
                return None
            header = read_header(stream.uri, body[:lead].data, self._begin, size, self._limit)
            end = header.data_offset + header.nbytes
            if header.dtype.hasobject or end != size or header.data_offset % ALIGNMENT:
                return None
            fetch.wait(1)
        finally:
            fetch.close()
        return array_over(memory, start + header.data_offset, header)

    def _pickled_array(self) -> Any:
        if not self._allow_pickle:
            raise ValueError(
                f"{self._stream.uri}: Object arrays cannot be loaded when allow_pickle=False"
            )
        self._stream.seek(0)
        return npy_format.read_array(
            self._stream,
            allow_pickle=True,
            pickle_kwargs=self._pickle_kwargs,
            max_header_size=self._max_header_size,
        )

    def _pickle(self) -> Any:
        if not self._allow_pickle:
            raise ValueError(
                f"{self._stream.uri}: This file contains pickled (object) data. If you trust the "
                "file you can load it unsafely using the `allow_pickle=` keyword argument or "
                "`pickle.load()`."
            )
        try:
            return pickle.load(self._stream, **self._pickle_kwargs)
        except Exception as error:
            raise pickle.UnpicklingError(
                f"Failed to interpret file {self._stream.uri!r} as a pickle"
            ) from error


# --- saving -------------------------------------------------------------------------------------


def save(
    uri: Uri,
    arr: Any,
    allow_pickle: bool = True,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> None:
    """numpy.save of anything array-like, to an object: the same bytes.

    uri: s3://bucket/key, file:///path or a path, taken as it is: no ".npy" is appended.
    allow_pickle: whether arrays of objects may be saved.
    part_size (bytes), max_concurrency, options: as for open().

    C- and F-contiguous arrays are sent from their memory, without a copy: they must not change before
    save returns. Others are copied in chunks of 8 MiB. The object appears whole or not at all.
    Raises ValueError for an array of objects without allow_pickle, else what open() raises.
    """
    array = np.asanyarray(arr)
    with _open(uri, [array], part_size, max_concurrency, options) as stream:
        write_array(stream, array, allow_pickle)


def savez(
    uri: Uri,
    /,
    *args: Any,
    allow_pickle: bool = True,
    options: WriterOptions | None = None,
    **kwds: Any,
) -> None:
    """numpy.savez of array-likes, to an object: the bytes that it writes to a file that cannot seek.

    uri: s3://bucket/key, file:///path or a path, taken as it is: no ".npz" is appended.
    args: are named arr_0, arr_1, ...; kwds: by their keys, which come first in the archive.
    allow_pickle: whether arrays of objects may be saved.
    options: WriterOptions, part_size and max_concurrency among them. Anything else by that name is
        an array to be saved, so that every name but allow_pickle is free for arrays.

    As for save() nothing is copied that is contiguous, and no array may change before this returns.
    The object appears whole or not at all, also when one array cannot be saved. Raises what save()
    raises.
    """
    _savez(uri, args, kwds, options, False, allow_pickle)


def savez_compressed(
    uri: Uri,
    /,
    *args: Any,
    allow_pickle: bool = True,
    options: WriterOptions | None = None,
    **kwds: Any,
) -> None:
    """numpy.savez_compressed of array-likes, to an object; arguments as for savez().

    The bytes are those of the running Python's zlib. Arrays pass through memory in chunks of 16 MiB.
    """
    _savez(uri, args, kwds, options, True, allow_pickle)


def _savez(
    uri: Uri,
    args: tuple[Any, ...],
    kwds: dict[str, Any],
    options: Any,
    compress: bool,
    allow_pickle: bool,
) -> None:
    if options is not None and not isinstance(options, WriterOptions):
        kwds["options"] = options
        options = None
    arrays = named(args, kwds)
    with _open(uri, arrays.values(), None, None, options) as stream:
        write_npz(stream, arrays, compress, allow_pickle)


def save_numpy(
    uri: Uri,
    arrays: Any,
    *,
    compressed: bool = False,
    allow_pickle: bool = False,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> WriteResult:
    """Writes arrays as a .npz object; load_numpy() reads it, and so does numpy.load.

    arrays: a mapping of names to array-likes; a list or tuple of them, or one array, which are named
        arr_0, arr_1, ...
    compressed: deflated. allow_pickle: whether arrays of objects may be saved.
    part_size (bytes), max_concurrency, options: as for open().

    Copies and errors as for savez(); TypeError for names that are not str. Returns {size,
    bytes_written, etag, uri}.
    """
    if isinstance(arrays, Mapping):
        for name in arrays:
            if not isinstance(name, str):
                raise TypeError(f"names of arrays must be str, not {type(name).__name__}")
        by_name = named((), arrays)
    else:
        by_name = named(arrays if isinstance(arrays, (list, tuple)) else (arrays,), {})
    with _open(uri, by_name.values(), part_size, max_concurrency, options) as stream:
        write_npz(stream, by_name, compressed, allow_pickle)
    return stream.close()


def _open(
    uri: Uri,
    arrays: Any,
    part_size: int | None,
    max_concurrency: int | None,
    options: WriterOptions | None,
) -> ObjectWriter:
    """Parts are made large enough for the size that is to be expected."""
    if options is None or (isinstance(options, WriterOptions) and options.expected_size is None):
        expected = sum(array.nbytes + 512 for array in arrays)
        options = replace(options or WriterOptions(), expected_size=expected)
    return open_writer(uri, part_size, max_concurrency, options)
