"""Opening objects as files."""

from __future__ import annotations

import io
import warnings
from types import TracebackType
from typing import Any, Literal, TypedDict, overload

from s3dlio_np._native import ObjectReader, ObjectWriter
from s3dlio_np._options import WriterOptions, native_options
from s3dlio_np._typing import Uri

BinaryReadMode = Literal["rb"]
BinaryWriteMode = Literal["wb"]
TextMode = Literal["r", "rt", "w", "wt"]


class WriteResult(TypedDict):
    """What close() of a writer tells of the object that it made visible.

    size: bytes of the object. bytes_written: bytes that were written to the stream, which differ from
    it with compression. etag: the version, as the store names it. uri: as it was given.
    """

    size: int
    bytes_written: int
    etag: str
    uri: str


@overload
def open(
    uri: Uri,
    mode: BinaryReadMode = "rb",
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
    decompress: bool | None = None,
) -> ObjectReader: ...
@overload
def open(
    uri: Uri,
    mode: BinaryWriteMode,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
    decompress: bool | None = None,
) -> ObjectWriter: ...
@overload
def open(
    uri: Uri,
    mode: TextMode,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
    decompress: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> io.TextIOWrapper: ...
@overload
def open(
    uri: Uri,
    mode: str,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
    decompress: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any: ...
def open(
    uri: Uri,
    mode: str = "rb",
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
    decompress: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:
    """Opens an object as a file: a reader can seek, a writer writes from start to end.

    uri: s3://bucket/key, file:///path or a path.
    mode: "rb" or "wb" for bytes; "r", "rt", "w", "wt" for text (UTF-8 unless encoding says else).
    part_size: bytes in each request of a large transfer; None: the setting S3DLIO_GET_PART_SIZE or
        S3DLIO_PUT_PART_SIZE, or, when that is not set either, 8 MiB, and more for a far store.
    max_concurrency: such requests in flight at once; None: S3DLIO_GET_INFLIGHT or ..._PUT_INFLIGHT.
    options: WriterOptions, for writing only; the two arguments above win over its own.
    decompress: for reading only. None: what the store says is Content-Encoding: zstd is decompressed
        as it is read, whoever compressed it. True: any object is, local files among them; one that
        is no zstd stream is an IntegrityError. False: the stored bytes.
    encoding, errors, newline: as for the builtin open(), for text only.

    A reader's read() copies the object's bytes once, into the result; readinto() fills the caller's
    memory (any contiguous buffer) without a copy in between. A writer's write() takes any buffer and
    keeps no reference to it: memory order where it is C- or F-contiguous, else logical (C) order;
    what has no buffer but tobytes() is taken by that, and str is a TypeError. close() makes the object
    visible and returns {size, bytes_written, etag, uri}; leaving `with` by an exception, abort(), or
    dropping the writer leaves nothing behind.

    A compressed object is read on at no cost. A seek further back than 64 KiB begins anew with a frame,
    and its size may have to be found by reading it to the end (size, seek from the end), unless it
    was written here, or by another tool that puts a table of frames at the end. Each frame's
    checksum is checked; damage, and a stream that was cut off, is an IntegrityError.

    Raises FileNotFoundError for a missing object, PermissionError when access is refused or there
    are no credentials, ValueError for a wrong argument, StorageError (which all but ValueError are)
    for the rest. With if_none_match FileExistsError at close(), with if_match ObjectChangedError. A
    reader raises ObjectChangedError when the object is replaced while it is read. Where
    AWS_RESPONSE_CHECKSUM_VALIDATION asks for checks, IntegrityError from the read of the last byte, or
    from open() of a small object, for bytes that are not those stored.
    """
    if mode not in ("rb", "wb", "r", "rt", "w", "wt"):
        raise ValueError(f'mode is {mode!r}, but must be "rb", "wb", "r", "rt", "w" or "wt"')
    text = "b" not in mode
    if not text and (encoding is not None or errors is not None or newline is not None):
        raise ValueError(f"encoding, errors and newline need a text mode, not {mode!r}")
    if mode[0] == "r":
        if options is not None:
            raise ValueError(f"options are for writing, and the mode is {mode!r}")
        raw: Any = open_reader(uri, part_size, max_concurrency, decompress)
    else:
        if decompress is not None:
            raise ValueError(f"decompress is for reading, and the mode is {mode!r}")
        raw = open_writer(uri, part_size, max_concurrency, options)
    return _wrap_text(raw, encoding, errors, newline) if text else raw


def open_reader(
    uri: Uri,
    part_size: int | None,
    max_concurrency: int | None,
    decompress: bool | None = None,
) -> ObjectReader:
    return ObjectReader(
        uri, part_size=part_size, max_concurrency=max_concurrency, decompress=decompress
    )


def open_writer(
    uri: Uri,
    part_size: int | None,
    max_concurrency: int | None,
    options: WriterOptions | None,
) -> ObjectWriter:
    if options is not None and not isinstance(options, WriterOptions):
        raise TypeError(f"options must be WriterOptions, not {type(options).__name__}")
    if options is not None and part_size is None:
        part_size = options.part_size
    if options is not None and max_concurrency is None:
        max_concurrency = options.max_concurrency
    return ObjectWriter(
        uri,
        part_size=part_size,
        max_concurrency=max_concurrency,
        **native_options(options),
    )


# --- text ---------------------------------------------------------------------------------------


class _TextStream(io.TextIOWrapper):
    """Text over a stream of ours; the standard wrapper would commit a half-written object.

    It hides exceptions of a `with` body from the stream below, and its finaliser closes, which for
    a writer means to make the object visible.
    """

    def close(self) -> None:
        if self.closed:
            self.buffer.close()  # tells the first failure again
            return
        try:
            self.flush()
        except BaseException:
            self._abort()
            raise
        super().close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        elif isinstance(self.buffer, ObjectWriter):
            self.buffer.__exit__(exc_type, exc, traceback)
        else:
            self.buffer.close()

    def __del__(self) -> None:
        try:
            unclosed = not self.closed
        except (AttributeError, ValueError):  # never initialised, or detached
            return
        if not unclosed:
            return
        if isinstance(self.buffer, ObjectWriter):
            warnings.warn(
                f"unclosed text writer of {self.buffer.name}: nothing was written. "
                "Use `with`, or call close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        self._abort()

    def _abort(self) -> None:
        if isinstance(self.buffer, ObjectWriter):
            self.buffer.abort()
        else:
            self.buffer.close()


def _wrap_text(
    raw: Any, encoding: str | None, errors: str | None, newline: str | None
) -> io.TextIOWrapper:
    try:
        return _TextStream(raw, encoding or "utf-8", errors, newline)
    except BaseException:  # an unknown encoding, for one
        if isinstance(raw, ObjectWriter):
            raw.abort()
        else:
            raw.close()
        raise


# --- output streams -----------------------------------------------------------------------------


class PyObjectStream(ObjectWriter):
    """A writer as open(uri, "wb") returns it, whose write() also takes text.

    write(data) takes, in this order: any buffer, counted in bytes (strided memory in its logical
    order); what has tobytes(); str and what has encode(), by that. Anything else is a TypeError and
    changes nothing. write_bytes() is the same method.
    """

    write = ObjectWriter._write_or_encode
    write_bytes = ObjectWriter._write_or_encode


class S3OutputStream(PyObjectStream):
    """A writer opened by calling its class.

    uri, part_size (bytes), max_concurrency: as for open(). Raises what open(uri, "wb") raises.
    """

    def __new__(
        cls, uri: Uri, *, part_size: int | None = None, max_concurrency: int | None = None
    ) -> S3OutputStream:
        return super().__new__(cls, uri, part_size=part_size, max_concurrency=max_concurrency)


def open_stream(
    uri: Uri, *, part_size: int = 8 * 1024 * 1024, max_concurrency: int = 64
) -> PyObjectStream:
    """Opens an object for writing; close() makes it visible and may be called again.

    uri: s3://bucket/key, file:///path or a path. part_size: bytes in each of the first parts of the
    upload. max_concurrency: parts in flight at once. Raises what open(uri, "wb") raises.
    """
    return PyObjectStream(uri, part_size=part_size, max_concurrency=max_concurrency)
