"""Whole objects: their bytes, what the store knows of them, and their end."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypedDict, overload

from s3dlio_np import _native
from s3dlio_np._open import WriteResult, open_writer
from s3dlio_np._options import WriterOptions
from s3dlio_np._typing import Uri

if TYPE_CHECKING:
    from s3dlio_np._typing import AnyBuffer, HasToBytes


class ObjectInfo(TypedDict):
    """One object as its store describes it; last_modified is in UTC, None where not told."""

    size: int
    etag: str
    last_modified: datetime | None
    uri: str


class ObjectStat(ObjectInfo):
    """What stat() tells besides: the checksum of all bytes, as "crc64nvme:VALUE", VALUE in base64."""

    checksum: str | None


@dataclass(frozen=True)
class Verification:
    """What verify() found. stored, computed: base64 of the checksum's bytes, the highest first."""

    uri: str
    size: int
    etag: str
    algorithm: str
    stored: str
    computed: str

    @property
    def ok(self) -> bool:
        """Whether the object's bytes are those that were stored."""
        return self.stored == self.computed


def stat(uri: Uri) -> ObjectStat:
    """Size in bytes, ETag, time and checksum of an object, by one request.

    checksum: None where none is kept with the object, where it is not one of all its bytes, and where
    an S3 store was not asked, because AWS_RESPONSE_CHECKSUM_VALIDATION says when_required. verify()
    asks in any case.

    Raises FileNotFoundError, PermissionError or another StorageError; ValueError for a wrong URI.
    """
    return _native.stat(uri)


def verify(
    uri: Uri, *, part_size: int | None = None, max_concurrency: int | None = None
) -> Verification | None:
    """Reads an object again and compares its bytes with the checksum that is kept with it.

    The checksum is the store's own for S3 (CRC64NVME, CRC32C or CRC32 of the full object) and that of
    WriterOptions(checksum=) for local files. Asks for it whatever AWS_RESPONSE_CHECKSUM_VALIDATION
    says. part_size (bytes), max_concurrency: as for open(). The object passes through the engine's
    buffers in order; memory does not grow with its size.

    Returns what was found: look at .ok, nothing is raised for bytes that differ. None when there is
    nothing to compare with: no checksum is kept, or only one of an upload's parts (COMPOSITE).
    Compressed objects are summed up as they are stored. Raises ObjectChangedError when the object was
    replaced meanwhile, else what open() raises.
    """
    found = _native.verify(uri, part_size=part_size, max_concurrency=max_concurrency)
    return None if found is None else Verification(*found)


def exists(uri: Uri) -> bool:
    """Whether the object is there, by one request.

    Raises PermissionError or another StorageError when the store does not say; ValueError for a
    wrong URI.
    """
    try:
        _native.stat(uri)
    except FileNotFoundError:
        return False
    return True


def list(uri: Uri) -> builtins.list[ObjectInfo]:
    """All objects whose key begins with the URI's, in the store's order.

    uri: s3://bucket/prefix (the prefix may be empty, "/" has no special meaning), file:///path or a
    path. Each result's uri opens that object: s3:// keys come as the bytes that they are ("../x", a line
    break), which are nothing until you make a local path of one. A store's listing that goes in circles, or
    names what does not begin with the prefix, is a StorageError. Raises what stat() raises.
    """
    return _native.list(uri)


def delete(uri: Uri) -> None:
    """Deletes an object. One that is not there counts as deleted, as in S3.

    Raises PermissionError or another StorageError; ValueError for a wrong URI.
    """
    _native.delete(uri)


def put(
    uri: Uri, buffer: AnyBuffer | HasToBytes, *, options: WriterOptions | None = None
) -> WriteResult:
    """Writes one buffer of any dtype as an object, whole or not at all.

    buffer: what write() of open(uri, "wb") takes. C- or F-contiguous memory is written as it lies;
    large parts are sent from there without a copy, and nothing refers to it afterwards. Strided
    memory is written in its logical (C) order. Returns {size, bytes_written, etag, uri}. Raises
    TypeError for what is no buffer and has no tobytes(), else what open() raises.
    """
    with open_writer(uri, None, None, options) as stream:
        stream.write(buffer)
    return stream.close()


def get_into(
    uri: Uri,
    buffer: AnyBuffer,
    *,
    offset: int = 0,
    length: int | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    decompress: bool | None = None,
) -> int:
    """Reads a range of an object straight into the caller's memory, in parallel requests.

    buffer: writable and contiguous, of any dtype; its first bytes are filled. offset: the first byte
    wanted. length: bytes wanted, which the object must have; None: all from offset on (one request
    more, to learn the size). decompress: as for open(); of a compressed object offset and length count in
    its content. Returns how many bytes were read.

    Raises ValueError when they do not fit into the buffer, TypeError for read-only memory,
    ObjectChangedError when the object was replaced meanwhile (the buffer then holds anything), else
    what open() raises.
    """
    return _native.get_into(
        uri,
        buffer,
        offset=offset,
        length=length,
        part_size=part_size,
        max_concurrency=max_concurrency,
        decompress=decompress,
    )


def get_bytes_view(
    uri: Uri,
    *,
    concurrent: bool | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    decompress: bool | None = None,
) -> memoryview:
    """Reads a whole object; the result is a read-only view of page memory of its own, no copy.

    concurrent: None: an object below the setting S3DLIO_GET_THRESHOLD by one request, others by
        parallel ranges. True: ranges in any case. False: one request for the size and one for all
        the bytes.
    part_size: bytes in each range; max_concurrency: ranges in flight at once. None: the settings
        S3DLIO_GET_*.
    decompress: as for open(). A compressed object is read in order, whatever concurrent says, with
        parallel requests ahead of it.

    The memory goes back to the system with the last view. Raises what open() raises.
    """
    return _native.get_view(
        uri,
        writable=False,
        concurrent=concurrent,
        part_size=part_size,
        max_concurrency=max_concurrency,
        decompress=decompress,
    )


@overload
def get_bytes(
    uri: Uri,
    *,
    writable: Literal[False] = False,
    concurrent: bool | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    decompress: bool | None = None,
) -> bytes: ...
@overload
def get_bytes(
    uri: Uri,
    *,
    writable: Literal[True],
    concurrent: bool | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    decompress: bool | None = None,
) -> memoryview: ...
@overload
def get_bytes(
    uri: Uri,
    *,
    writable: bool,
    concurrent: bool | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    decompress: bool | None = None,
) -> bytes | memoryview: ...
def get_bytes(
    uri: Uri,
    *,
    writable: bool = False,
    concurrent: bool | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    decompress: bool | None = None,
) -> bytes | memoryview:
    """Reads a whole object into a bytes object's own memory, or into writable memory.

    writable: a writable memoryview over page memory of its own instead of bytes, without any copy.
        (Of a bytes object larger than its first request, that request's bytes are copied once.)
    The rest as for get_bytes_view().
    """
    if writable:
        return _native.get_view(
            uri,
            writable=True,
            concurrent=concurrent,
            part_size=part_size,
            max_concurrency=max_concurrency,
            decompress=decompress,
        )
    return _native.get_bytes(
        uri,
        concurrent=concurrent,
        part_size=part_size,
        max_concurrency=max_concurrency,
        decompress=decompress,
    )
