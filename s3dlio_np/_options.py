"""How an object is to be written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Literal, TypedDict

# Header names are tokens (RFC 9110, section 5.6.2); values go over the wire as ASCII.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_CHECKSUMS = ("crc64nvme", "crc32c", "crc32", "none")
_LEVELS = range(1, 20)
_METADATA_MAX_BYTES = 2048  # S3's limit on names and values together
_WRITE_ID_BYTES = len("s3dlio-write-id") + 32  # what a conditional write adds


class _NativeOptions(TypedDict):
    content_type: str | None
    content_encoding: str | None
    storage_class: str | None
    metadata: tuple[str, ...] | None
    if_none_match: bool
    expected_size: int
    checksum: str | None
    zstd_level: int
    if_match: str | None


@dataclass(frozen=True)
class WriterOptions:
    """Options of a write; hand it to open(), put() or s3dlio_torch.save().

    part_size: bytes in each of the first parts of an upload, 5 MiB to 5 GiB; None: the setting
        S3DLIO_PUT_PART_SIZE, or, when that is not set either, 8 MiB, and more for a far store.
    max_concurrency: parts in flight at once, 1 to 1024; None: S3DLIO_PUT_INFLIGHT.
    content_type, content_encoding, storage_class: stored with the object; None: the store's default.
    metadata: the user's own names and values, ASCII, at most 2 KiB together.
    expected_size: bytes of the object, as far as they are known: parts are made large enough for it
        (up to S3's 48.8 TiB). None: parts grow on the way, which from 8 MiB carries 17 TiB.
    checksum: "crc64nvme", "crc32c" or "crc32": sent with every part and for the whole object; an S3
        store checks it on arrival and keeps it. "none": none. None: as
        AWS_REQUEST_CHECKSUM_CALCULATION says, which is crc64nvme on AWS and none on custom
        endpoints. With a local file the first three are stored in its extended attribute
        user.s3dlio.checksum, as "crc64nvme:" and the base64 of the value's bytes, highest first; on a
        file system without such attributes that is an OSError, before anything is written.
    compression: "zstd": the bytes are compressed on the way, by several threads and in bounded memory,
        and the object says Content-Encoding: zstd, by which this package's readers decompress it
        without being asked. Any zstd tool reads it. It is made of frames of 32 MiB (more in objects
        of many GiB), each with its checksum, and ends with a table of their sizes, in the format of
        zstd's contrib/seekable_format: so its size is known at once, and reading can begin at any
        frame. Local files have no Content-Encoding: read them with decompress=True. close() then
        tells the object's own size, and in bytes_written what was written.
    compression_level: 1 to 19; None: 3.
    if_none_match: create only; writing an existing object is an ObjectExistsError, meeting another
        conditional write each time an ObjectChangedError (code CONFLICT): try again.
    if_match: replace only the version that has this ETag, as stat() tells it; when the object has been
        replaced or deleted by then it stays as it is, and that is an ObjectChangedError. The store
        decides when the object is to become visible. Of a local file the ETag is compared just before
        the rename, and files have no way to do both in one step: a writer that comes between is lost.
        Objects that are written on one of these conditions carry an id of their write as metadata
        (s3dlio-write-id): when an answer is lost, the object tells whether it is this write's. If it
        cannot be asked, that is a StorageError with code UNDECIDED, never a success.

    Raises ValueError or TypeError for a value that no store would take; the ranges of the numbers
    are checked when the object is opened.
    """

    part_size: int | None = None
    max_concurrency: int | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    storage_class: str | None = None
    if_none_match: bool = False
    expected_size: int | None = None
    checksum: str | None = None
    compression: Literal["zstd"] | None = None
    compression_level: int | None = None
    if_match: str | None = None

    def __post_init__(self) -> None:
        for name in ("part_size", "max_concurrency"):
            number = getattr(self, name)
            if number is not None and index(number) < 1:
                raise ValueError(f"{name} is {number!r}, but must be at least 1")
        if self.expected_size is not None and index(self.expected_size) < 0:
            raise ValueError(f"expected_size is {self.expected_size!r}, but must not be negative")
        for name in ("content_type", "content_encoding", "storage_class"):
            text = getattr(self, name)
            if text is not None:
                _check_value(name, text)
        if self.checksum is not None and self.checksum not in _CHECKSUMS:
            raise ValueError(
                f"checksum is {self.checksum!r}, but must be one of {', '.join(_CHECKSUMS)}"
            )
        if not isinstance(self.if_none_match, bool):
            raise TypeError(f"if_none_match must be a bool, not {self.if_none_match!r}")
        if self.if_match is not None:
            _check_value("if_match", self.if_match)
            if not self.if_match:
                raise ValueError("if_match is empty, but must be an ETag as stat() tells it")
            if self.if_none_match:
                raise ValueError("if_match and if_none_match exclude each other")
        _check_compression(self)
        conditional = self.if_none_match or self.if_match is not None
        _check_metadata(self.metadata, _WRITE_ID_BYTES if conditional else 0)
        # A copy, so that the caller's mapping may change afterwards.
        object.__setattr__(self, "metadata", dict(self.metadata))


def _check_compression(options: WriterOptions) -> None:
    level = options.compression_level
    if options.compression not in (None, "zstd"):
        raise ValueError(f'compression is {options.compression!r}, but must be "zstd" or None')
    if level is not None and options.compression is None:
        raise ValueError('compression_level needs compression="zstd"')
    if level is not None and index(level) not in _LEVELS:
        raise ValueError(f"compression_level is {level!r}, but must be from 1 to 19")
    if options.compression and options.content_encoding not in (None, "zstd"):
        raise ValueError(
            f"content_encoding is {options.content_encoding!r}, but with compression it is zstd"
        )


def _check_value(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {type(text).__name__}")
    if not _VALUE.fullmatch(text):
        raise ValueError(f"{name} is {text!r}, but must be printable ASCII")


def _check_metadata(metadata: object, taken: int) -> None:
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {type(metadata).__name__}")
    for name, value in metadata.items():
        if not isinstance(name, str):
            raise TypeError(f"metadata names must be str, not {type(name).__name__}")
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"metadata name {name!r} must be letters, digits and -_. only")
        _check_value(f"metadata[{name!r}]", value)
    size = sum(len(name) + len(value) for name, value in metadata.items())
    if size > _METADATA_MAX_BYTES - taken:
        raise ValueError(
            f"metadata has {size} bytes, but at most {_METADATA_MAX_BYTES - taken} are allowed"
        )


def native_options(options: WriterOptions | None) -> _NativeOptions:
    """As keyword arguments of the engine's writer, but part_size and max_concurrency."""
    options = options or WriterOptions()
    pairs = tuple(text for pair in options.metadata.items() for text in pair)
    return {
        "content_type": options.content_type,
        "content_encoding": options.compression or options.content_encoding,
        "storage_class": options.storage_class,
        "metadata": pairs or None,
        "if_none_match": options.if_none_match,
        "expected_size": options.expected_size or 0,
        "checksum": options.checksum,
        "zstd_level": (options.compression_level or 3) if options.compression else 0,
        "if_match": options.if_match,
    }
