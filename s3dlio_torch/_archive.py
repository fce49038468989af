"""Torch's zip archives, straight from and into storages.

torch.save and torch.load do their work against torch._C.PyTorchFileWriter and PyTorchFileReader.
Here the same code of torch's runs against ours: the writer is s3dlio_np._native.ArchiveWriter, and
the reader is Archive below, which fetches all records in one parallel wave while torch unpickles.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import torch

from s3dlio_np import ObjectReader, ObjectWriter
from s3dlio_np._native import ArchiveReader, ArchiveWriter, Fetch
from s3dlio_torch._device_records import (
    Awaited,
    DeviceRecords,
    may_reach_device,
    write_storages,
)
from s3dlio_torch._memory import empty_tensors
from s3dlio_torch._plain import NOT_PLAIN, load_plain

Restore = Callable[[Any, str], Any]

_DATA = "data/"


class Archive:
    """PyTorchFileReader's methods, as torch.serialization._load calls them, over an ObjectReader.

    The first storage that is asked for starts the wave: every record below data/ (or the `wanted`
    ones) is fetched at once, in the order of the file, into fresh storages; each call then waits
    for its own record only. Records that are not wanted come back as meta storages. verify: each
    record's CRC-32 is checked as it arrives, unless the archive was written without.
    """

    def __init__(
        self,
        stream: ObjectReader,
        *,
        verify: bool = True,
        pin_memory: bool = False,
        wanted: Collection[str] | None = None,
    ) -> None:
        self._stream = stream
        self.reader = ArchiveReader(stream)
        self._known_sizes: dict[str, int] | None = None
        self.verify = verify
        self._pin_memory = pin_memory
        self._wanted = wanted
        self._fetch: Fetch | None = None
        self._items: dict[str, tuple[int, torch.Tensor]] = {}
        self._for_devices: DeviceRecords | None = None
        self._seen: dict[str, bytes] = {}  # records that were read before torch asks for them

    @property
    def is_stored(self) -> bool:
        """Whether no record is compressed: only such can go straight to their place."""
        return self.reader.is_stored()

    @property
    def sizes(self) -> dict[str, int]:
        """Of all records, in bytes."""
        if self._known_sizes is None:
            self._known_sizes = {name: size for name, size, _ in self.reader.records()}
        return self._known_sizes

    @property
    def is_whole(self) -> bool:
        """Whether every record is wanted, and in ordinary memory."""
        return self._wanted is None and not self._pin_memory

    # --- what torch calls ---

    def has_record(self, name: str) -> bool:
        return self.reader.has_record(name)

    def get_record(self, name: str) -> bytes:
        self._require(name)
        return self._seen.pop(name) if name in self._seen else self.reader.get_record(name)

    def get_all_records(self) -> Collection[str]:
        return _Names(self)

    def get_record_offset(self, name: str) -> int:
        self._require(name)
        return self.reader.get_record_offset(name)

    def get_record_header_offset(self, name: str) -> int:
        self._require(name)
        return self.reader.get_record_header_offset(name)

    def get_record_offset_no_read(
        self, header_offset: int, name: str, nbytes: int, alignment: int
    ) -> int:
        return self.get_record_offset(name)

    def serialization_id(self) -> str:
        name = ".data/serialization_id"
        return self.get_record(name).decode() if self.has_record(name) else ""

    def get_storage_from_record(
        self, name: str, nbytes: int, kind: Any
    ) -> torch.Tensor | Awaited:
        self._require(name)
        if self._wanted is not None and name not in self._wanted:
            return torch.empty(nbytes, dtype=torch.uint8, device="meta")
        if self.sizes[name] != nbytes:
            raise RuntimeError(
                f"record {name} has {self.sizes[name]} bytes, but its storage needs {nbytes}: "
                "the archive is damaged"
            )
        if self._for_devices is not None:
            return self._for_devices.awaited(name)
        if self._fetch is None:
            self._start()
        assert self._fetch is not None
        item, tensor = self._items[name]
        self._fetch.wait(item)
        return tensor

    # --- ours ---

    def look_at_record(self, name: str) -> bytes:
        """As get_record, which then need not read it again."""
        self._seen[name] = self.get_record(name)
        return self._seen[name]

    def restore_over(self, restore: Restore, map_location: Any) -> Restore:
        """torch's placing of storages; those that nobody wants stay the meta storages they are."""
        if may_reach_device(self, map_location):
            self._for_devices = DeviceRecords(
                self._stream, self.reader, self._names(), restore, self.verify, self._pin_memory
            )

        def place(storage: Any, location: str) -> Any:
            if isinstance(storage, Awaited):
                return storage.place(location)
            return storage if storage.device.type == "meta" else restore(storage, location)

        return place

    def _require(self, name: str) -> None:
        if not self.has_record(name):
            raise RuntimeError(f"the archive has no record {name}: it is damaged")

    def _names(self) -> list[str]:
        """Of the records to fetch, in the order of the file."""
        return [
            name
            for name in self.sizes
            if name.startswith(_DATA) and (self._wanted is None or name in self._wanted)
        ]

    def _start(self) -> None:
        names = self._names()
        tensors = empty_tensors([self.sizes[name] for name in names], pin_memory=self._pin_memory)
        self._items = {name: (i, tensors[i]) for i, name in enumerate(names)}
        storages = [tensor.untyped_storage() for tensor in tensors]
        self._fetch = self.reader.fetch(
            names, storages, verify=self.verify, fresh=not self._pin_memory
        )

    def adopt(self, names: list[str], tensors: list[torch.Tensor], fetch: Fetch) -> None:
        """Takes over a wave that is under way: item i brings the record names[i] into tensors[i]."""
        self._items = {names[i]: (i, tensors[i]) for i in range(len(names))}
        self._fetch = fetch

    def close(self) -> None:
        """Cancels what nobody waited for. Nothing writes into any storage afterwards."""
        if self._fetch is not None:
            self._fetch.close()
        self._items = {}
        if self._for_devices is not None:
            self._for_devices.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Names(Collection[str]):
    """The names of all records, made only when somebody looks at more than one of them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._archive.has_record(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.sizes)

    def __len__(self) -> int:
        return len(self._archive.sizes)


def torch_load_over(stream: ObjectReader, **how: Any) -> Callable[..., Any]:
    """torch.load's own code, but for an Archive in the place of PyTorchFileReader.

    So weights_only, TorchScript, legacy files and every message stay torch's. `how` goes to
    Archive. Where torch.load has another shape than is known, torch.load itself, after a warning.
    """
    own: Any = torch.serialization
    names = ("_open_zipfile_reader", "_load")
    if not _uses(own.load, *names) or not _uses(own._load, "_get_restore_location"):
        _warn_once()
        return torch.load
    open_by_torch = own._open_zipfile_reader
    archives: list[Archive] = []

    def open_archive(opened: Any) -> Any:
        try:
            archive = Archive(stream, **how)
        except ValueError as error:  # as a type, what torch's reader raises
            raise RuntimeError(str(error)) from error
        if not archive.is_stored:
            return open_by_torch(opened)
        archives.append(archive)
        return archive

    def get_restore(map_location: Any) -> Restore:
        restore: Restore = own._get_restore_location(map_location)
        return archives[-1].restore_over(restore, map_location) if archives else restore

    load_by_torch = _with_globals(own._load, _get_restore_location=get_restore)

    def load_archive(archive: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(archive, Archive):
            result = load_plain(archive, *arguments, **keywords)
            if result is not NOT_PLAIN:
                torch._C._log_api_usage_metadata(
                    "torch.load.metadata", {"serialization_id": archive.serialization_id()}
                )
                return result
        return load_by_torch(archive, *arguments, **keywords)

    return _with_globals(own.load, _open_zipfile_reader=open_archive, _load=load_archive)


def _uses(function: object, *names: str) -> bool:
    """Whether it is Python code that looks up these globals, itself or in functions within it."""
    if not isinstance(function, types.FunctionType):
        return False
    inner = (code for code in function.__code__.co_consts if isinstance(code, types.CodeType))
    used = {name for code in (function.__code__, *inner) for name in code.co_names}
    return set(names) <= used


def _with_globals(function: types.FunctionType, **replaced: object) -> types.FunctionType:
    """The function, with other values for some of the globals that it uses."""
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **replaced},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def can_save() -> bool:
    """Whether torch.serialization has what save_archive takes from it."""
    names = ("_save", "_get_storage_alignment", "_check_dill_version", "get_crc32_options")
    if all(hasattr(torch.serialization, name) for name in names):
        return True
    _warn_once()
    return False


class RecordSink(Protocol):
    """PyTorchFileWriter's methods that torch.serialization._save calls."""

    def write_record(self, name: str, data: Any, size: int, /) -> None: ...
    def write_record_metadata(self, name: str, size: int, /) -> None: ...


class _Collector:
    """A sink for _save that passes small records on and keeps the storages, as they are.

    _save copies a device's storage to the CPU before it hands it over. Where it is told to skip data
    it names size and key instead; a key counts the storages in the order in which they were met,
    which is when location_tag is called.
    """

    def __init__(self, sink: RecordSink, tag: Callable[[Any], str]) -> None:
        self._sink = sink
        self._tag = tag
        self._seen: set[int] = set()  # _cdata, by which _save knows them
        self._order: list[torch.UntypedStorage] = []
        self.storages: list[tuple[str, torch.UntypedStorage]] = []

    def location_tag(self, storage: Any) -> str:
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._order.append(storage)
        return self._tag(storage)

    def write_record(self, name: str, data: Any, size: int, /) -> None:
        self._sink.write_record(name, data, size)

    def write_record_metadata(self, name: str, size: int, /) -> None:
        place = len(self.storages)
        if place >= len(self._order) or name != f"{_DATA}{place}":
            raise RuntimeError(f"record {name} is of a fake tensor, which has no data to save")
        if self._order[place].nbytes() != size:
            raise RuntimeError(f"record {name} was resized while it was saved")
        self.storages.append((name, self._order[place]))


def pickle_into(
    sink: RecordSink,
    obj: object,
    pickle_module: Any,
    pickle_protocol: int,
    disable_byteorder_record: bool,
) -> list[tuple[str, torch.UntypedStorage]] | None:
    """What torch.serialization._save writes: all but the storages, which are still to be written.

    They are returned by name, in their order, as the object holds them. None: _save has written
    them itself, as zeros (torch.serialization.skip_data), or because it has a shape that is not
    known here; those on devices are then copies.
    """
    own: Any = torch.serialization
    own._check_dill_version(pickle_module)
    how = (pickle_module, pickle_protocol, disable_byteorder_record)
    known = _uses(own._save, "_serialization_tls", "location_tag")
    if not known or own._serialization_tls.skip_data:
        own._save(obj, sink, *how)
        return None
    collector = _Collector(sink, own.location_tag)
    save = _with_globals(
        own._save,
        _serialization_tls=types.SimpleNamespace(skip_data=True),
        location_tag=collector.location_tag,
    )
    save(obj, collector, *how)
    return collector.storages


def save_archive(
    obj: object,
    stream: ObjectWriter,
    pickle_module: Any,
    pickle_protocol: int,
    disable_byteorder_record: bool,
) -> None:
    """torch.save's zip archive into a stream; the stream's close() makes it visible."""
    own: Any = torch.serialization
    archive = ArchiveWriter(
        stream,
        compute_crc32=own.get_crc32_options(),
        storage_alignment=own._get_storage_alignment(),
    )
    storages = pickle_into(archive, obj, pickle_module, pickle_protocol, disable_byteorder_record)
    if storages and all(storage.device.type == "cpu" for _, storage in storages):
        stream.expect(sum(storage.nbytes() for _, storage in storages))
    write_storages(archive, stream, storages or [])
    archive.write_end_of_file()


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"torch {torch.__version__} has changed its serialization: s3dlio_torch takes the "
            "slower way over a file object",
            stacklevel=4,
        )
