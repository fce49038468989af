""".npz archives: read member by member, or all at once; and written.

The format is a zip archive of .npy files, as numpy.savez writes it.
"""

from __future__ import annotations

import weakref
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.lib.npyio import NpzFile as NumpyNpzFile

from s3dlio_np._errors import IntegrityError
from s3dlio_np._native import (
    Inflater,
    NpzReader,
    ObjectReader,
    ObjectWriter,
    crc32,
    crc32_behind,
    fetch_arrays,
)
from s3dlio_np._npy import (
    HEAD_BYTES,
    MAGIC,
    Array,
    Header,
    has_bytes,
    header_of,
    new_array,
    read_header,
    send_pieces,
    text_max,
)

_SMALL = 64 << 10  # members up to this size come whole with their header
_SCRATCH = 16 << 20  # for headers and small members
_DRAIN = 256 << 10
_DEFLATE_RATIO_MAX = 1032
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class DamagedMemberError(IntegrityError, zipfile.BadZipFile):
    """A member's bytes are not those that were written: its CRC-32 or its compression is wrong.

    An IntegrityError of this package and, as from numpy.load, a zipfile.BadZipFile.
    """


@contextmanager
def _damage_is_bad_zip() -> Generator[None, None, None]:
    try:
        yield
    except IntegrityError as error:
        damaged = DamagedMemberError(*error.args)
        damaged.__dict__.update(error.__dict__)
        raise damaged from error


@contextmanager
def _nonsense_is_bad_zip() -> Generator[None, None, None]:
    try:
        yield
    except ValueError as error:
        raise zipfile.BadZipFile(str(error)) from error


class Member(NamedTuple):
    """An entry of the directory; its local header and bytes lie in [header_offset, end_offset)."""

    name: str
    method: int
    crc: int
    header_offset: int
    end_offset: int
    compressed: int
    size: int


class _Attributes:
    """The arrays as attributes, as NpzFile.f has them; it keeps nothing alive."""

    def __init__(self, archive: NpzFile) -> None:
        self._archive = weakref.proxy(archive)

    def __getattribute__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_archive")[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self) -> list[str]:
        return list(object.__getattribute__(self, "_archive"))


class NpzFile(NumpyNpzFile):  # type: ignore[type-arg,unused-ignore]
    """numpy.lib.npyio.NpzFile over an object: a mapping that reads an array whenever it is asked.

    Nothing is cached: each [name] reads anew, by one request for the headers and one parallel wave
    of ranges straight into the array's own memory. Names are taken with and without ".npy"; of
    several members with one name the last counts; members that are no .npy files come as bytes.
    files, f, allow_pickle, max_header_size, pickle_kwargs and the context manager are NumPy's; fid is
    the ObjectReader; zip is a zipfile.ZipFile over it, made when it is first asked for.

    Each member's CRC-32 is checked as it arrives (DamagedMemberError). All of it is read from the
    version of the object that was opened: after a change ObjectChangedError. [name] raises KeyError
    for a name that is not there, ValueError for what is no .npy file, for an array of objects without
    allow_pickle and once closed, zipfile.BadZipFile where the archive contradicts itself, and
    s3dlio_np.open's exceptions. Any thread may read.
    """

    def __init__(
        self,
        stream: ObjectReader,
        reader: NpzReader,
        *,
        allow_pickle: bool,
        pickle_kwargs: dict[str, Any],
        max_header_size: int,
    ) -> None:
        # Not NumPy's own: it would read the directory a second time.
        self._reader = reader
        self._members = [Member(*fields) for fields in reader.members()]
        self._index = {member.name: i for i, member in enumerate(self._members)}
        names = [member.name for member in self._members]
        self.files = [name.removesuffix(".npy") for name in names]
        self._files = dict(zip(self.files, names, strict=True))
        self._files.update(zip(names, names, strict=True))
        self.allow_pickle = allow_pickle
        self.max_header_size = max_header_size
        self.pickle_kwargs: dict[str, Any] = pickle_kwargs
        self.f = _Attributes(self)  # type: ignore[assignment]
        self.fid = stream  # type: ignore[assignment]
        self._zip: zipfile.ZipFile | None = None

    @property
    def zip(self) -> zipfile.ZipFile | None:  # type: ignore[override]
        if self._zip is None and self.fid is not None:
            self._zip = zipfile.ZipFile(self.fid)  # type: ignore[arg-type]
        return self._zip

    def close(self) -> None:
        """Ends reading; arrays that were read stay. Again does nothing."""
        stream, self.fid = self.fid, None
        self._zip = None
        self.f = None  # type: ignore[assignment]
        if stream is not None:
            stream.close()

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def __getitem__(self, key: str) -> Any:
        try:
            name = self._files[key]
        except KeyError:
            raise KeyError(f"{key} is not a file in the archive") from None
        return self._read([name])[0]

    def read_all(self) -> dict[str, Any]:
        """All members by name without ".npy", their bytes fetched in one wave."""
        keys = list(dict.fromkeys(self.files))
        values = self._read([self._files[key] for key in keys])
        return dict(zip(keys, values, strict=True))

    # --- reading ---

    def _read(self, names: Sequence[str]) -> list[Any]:
        if self.fid is None:
            raise ValueError("I/O operation on closed file.")
        wave = _Wave(self, [self._index[name] for name in names])
        with _damage_is_bad_zip():
            return wave.run()

    def _by_zipfile(self, member: Member) -> Any:
        """Pickled arrays and rare compressions, by NumPy and zipfile over the stream."""
        archive = self.zip
        assert archive is not None
        with archive.open(member.name) as file:
            magic = file.read(len(MAGIC))
            file.seek(0)
            if magic != MAGIC:
                return file.read()
            array = npy_format.read_array(
                file,
                allow_pickle=self.allow_pickle,
                pickle_kwargs=self.pickle_kwargs,
                max_header_size=self.max_header_size,
            )
            while file.read(_DRAIN):  # zipfile checks the sum at the end
                pass
            return array


class _Wave:
    """Members on their way into memory: their headers first, then all that is large at once."""

    def __init__(self, archive: NpzFile, indices: Sequence[int]) -> None:
        self._archive = archive
        self._stream: Any = archive.fid
        self._limit = text_max(archive.max_header_size, archive.allow_pickle)
        self._indices = indices
        self._values: dict[int, Any] = {}
        self._parts: list[tuple[str, int, Array, int | None]] = []
        self._unchecked: list[tuple[Member, Header, Array, int]] = []

    def run(self) -> list[Any]:
        for batch in self._batches():
            for index, head in self._heads(batch):
                self._values[index] = self._member(index, head)
        self._fetch(self._parts, fresh=True)
        for member, header, flat, offset in self._unchecked:
            self._check_behind(member, header, flat, offset)
        return [self._values[index] for index in self._indices]

    def _batches(self) -> Iterator[list[int]]:
        """In the order of the object, so that neighbours come in one request."""
        members = self._archive._members
        batch: list[int] = []
        size = 0
        for index in sorted(set(self._indices), key=lambda i: members[i].header_offset):
            length = _head_length(members[index])
            if batch and size + length > _SCRATCH:
                yield batch
                batch, size = [], 0
            batch.append(index)
            size += length
        if batch:
            yield batch

    def _heads(self, batch: list[int]) -> Iterator[tuple[int, memoryview]]:
        members = [self._archive._members[index] for index in batch]
        lengths = [_head_length(member) for member in members]
        scratch = np.empty(sum(lengths), np.uint8)
        heads: list[Array] = []
        start = 0
        for length in lengths:
            heads.append(scratch[start : start + length])
            start += length
        self._fetch(
            (f"member {member.name!r}", member.header_offset, head, None)
            for member, head in zip(members, heads, strict=True)
        )
        yield from ((index, head.data) for index, head in zip(batch, heads, strict=True))

    def _fetch(
        self, parts: Iterable[tuple[str, int, Array, int | None]], *, fresh: bool = False
    ) -> None:
        """Fills all of them; afterwards nothing writes there."""
        parts = tuple(parts)
        if not parts:
            return
        fetch = fetch_arrays(self._stream, parts, fresh=fresh)
        try:
            for item in range(len(parts)):
                fetch.wait(item)
        finally:
            fetch.close()

    def _more(self, offset: int, length: int) -> memoryview:
        memory = np.empty(length, np.uint8)
        self._fetch([("a header", offset, memory, None)])
        return memory.data

    def _where(self, member: Member) -> str:
        return f"{self._stream.uri}: member {member.name!r}"

    # --- one member ---

    def _member(self, index: int, head: memoryview) -> Any:
        """Its value, which the wave fills later if it is not in `head`."""
        member = self._archive._members[index]
        with _nonsense_is_bad_zip():
            offset, need = self._archive._reader.local(index, head)
            while need:
                head = self._more(member.header_offset, need)
                offset, need = self._archive._reader.local(index, head)
        if member.method == _DEFLATED:
            return self._deflated(member, offset)
        if member.method != _STORED:
            return self._archive._by_zipfile(member)
        return self._stored(member, offset, head[offset - member.header_offset :][: member.size])

    def _stored(self, member: Member, offset: int, begin: memoryview) -> Any:
        """begin: its first bytes, which begin at `offset` of the object."""
        if len(begin) < len(MAGIC) < member.size:
            begin = self._more(offset, min(member.size, HEAD_BYTES))
        whole = len(begin) == member.size
        if whole:
            self._check_sum(member, crc32(begin))
        if begin[: len(MAGIC)] != MAGIC:
            return bytes(begin) if whole else self._stored_bytes(member, offset)

        def read(length: int) -> memoryview:
            return begin if length <= len(begin) else self._more(offset, length)

        header = read_header(self._where(member), begin, read, member.size, self._limit)
        if header.dtype.hasobject:
            return self._pickled(member)
        array, flat = new_array(header)
        end = header.data_offset + header.nbytes
        if whole:
            flat[:] = begin[header.data_offset : end]
        elif end == member.size:
            sum_before = crc32(read(header.data_offset)[: header.data_offset])
            crc = crc32_behind(member.crc, sum_before, header.nbytes)
            name = f"member {member.name!r}"
            self._parts.append((name, offset + header.data_offset, flat, crc))
        else:
            self._parts.append(("array", offset + header.data_offset, flat, None))
            self._unchecked.append((member, header, flat, offset))
        return array

    def _stored_bytes(self, member: Member, offset: int) -> bytes:
        self._stream.seek(offset)
        data: bytes = self._stream.read(member.size)
        self._check_sum(member, crc32(data))
        return data

    def _check_behind(self, member: Member, header: Header, flat: Array, offset: int) -> None:
        """The sum of a member that goes on behind its array."""
        crc = crc32(flat, crc32(self._more(offset, header.data_offset)))
        at, end = offset + header.data_offset + header.nbytes, offset + member.size
        while at < end:
            length = min(end - at, _DRAIN)
            self._stream.seek(at)
            crc = crc32(self._stream.read(length), crc)
            at += length
        self._check_sum(member, crc)

    def _check_sum(self, member: Member, crc: int) -> None:
        if crc != member.crc:
            raise self._damaged(
                member, f"its CRC-32 is {crc:08x}, but the archive says {member.crc:08x}"
            )

    def _damaged(self, member: Member, why: str) -> DamagedMemberError:
        error = DamagedMemberError(f"{self._where(member)} is damaged: {why}")
        error.code, error.uri = "INTEGRITY", self._stream.uri
        return error

    def _pickled(self, member: Member) -> Any:
        if not self._archive.allow_pickle:
            raise ValueError(
                f"{self._where(member)}: Object arrays cannot be loaded when allow_pickle=False"
            )
        return self._archive._by_zipfile(member)

    def _deflated(self, member: Member, offset: int) -> Any:
        if member.size > (member.compressed + 1) * _DEFLATE_RATIO_MAX:
            raise self._damaged(
                member, f"{member.compressed} bytes cannot be {member.size} compressed ones"
            )
        name = f"member {member.name!r}"
        source = Inflater(
            self._stream, name, offset, member.compressed, member.size, member.crc
        )
        begin = np.empty(min(member.size, HEAD_BYTES), np.uint8)
        source.readinto(begin)
        if begin[: len(MAGIC)].tobytes() != MAGIC:
            return self._inflated(source, begin, member.size).tobytes()

        def read(length: int) -> memoryview:
            nonlocal begin
            begin = self._inflated(source, begin, max(length, len(begin)))
            return begin.data

        where = self._where(member)
        header = read_header(where, begin.data, read, member.size, self._limit)
        if header.dtype.hasobject:
            return self._pickled(member)
        array, flat = new_array(header)
        there = begin[header.data_offset :][: header.nbytes]
        flat[: len(there)] = there
        source.readinto(flat[len(there) :])
        left = member.size - max(header.data_offset + header.nbytes, len(begin))
        while left:  # up to the end, where the sum is checked
            source.readinto(np.empty(min(left, _DRAIN), np.uint8))
            left -= min(left, _DRAIN)
        return array

    def _inflated(self, source: Inflater, begin: Array, length: int) -> Array:
        """`begin` and what follows, up to `length` in all."""
        longer = np.empty(length, np.uint8)
        longer[: len(begin)] = begin
        if length > len(begin):
            source.readinto(longer[len(begin) :])
        return longer


def _head_length(member: Member) -> int:
    room = member.end_offset - member.header_offset
    return room if room <= _SMALL else HEAD_BYTES


def open_npz(
    stream: ObjectReader,
    *,
    allow_pickle: bool,
    pickle_kwargs: dict[str, Any],
    max_header_size: int,
) -> NpzFile:
    """The archive in a stream, which it closes. Raises zipfile.BadZipFile when it is none."""
    with _nonsense_is_bad_zip():
        reader = NpzReader(stream)
    return NpzFile(
        stream,
        reader,
        allow_pickle=allow_pickle,
        pickle_kwargs=pickle_kwargs,
        max_header_size=max_header_size,
    )


# --- writing ------------------------------------------------------------------------------------


def write_npz(
    stream: ObjectWriter, arrays: Mapping[str, Array], compress: bool, allow_pickle: bool
) -> None:
    """The archive that numpy.savez writes to a file that cannot seek, byte for byte.

    All but the elements of stored arrays is written by the zipfile module itself, whose headers
    differ from one Python to the next.
    """
    with zipfile.ZipFile(stream, "w", _DEFLATED if compress else _STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_member(stream, member, array, allow_pickle)


def _write_member(
    stream: ObjectWriter, member: Any, array: Array, allow_pickle: bool
) -> None:
    if not has_bytes(array) or not _takes_sums(member):
        npy_format.write_array(member, array, allow_pickle=allow_pickle)
        return
    header = header_of(array)
    stream.write(header)
    member._crc = send_pieces(stream, array, crc32(header))
    member._file_size = len(header) + array.nbytes


def _takes_sums(member: Any) -> bool:
    """Whether zipfile can be told the size and sum of bytes that went past it: stored ones only."""
    known = all(hasattr(member, name) for name in ("_crc", "_file_size", "_compressor"))
    return known and member._compressor is None


def named(
    args: Sequence[Any], kwds: Mapping[str, Any], as_array: Callable[[Any], Array] = np.asanyarray
) -> dict[str, Array]:
    """As numpy.savez names them: keywords first, then arr_0 and so on."""
    arrays = {name: as_array(value) for name, value in kwds.items()}
    for i, value in enumerate(args):
        if f"arr_{i}" in arrays:
            raise ValueError(f"Cannot use un-named variables and keyword arr_{i}")
        arrays[f"arr_{i}"] = as_array(value)
    return arrays
