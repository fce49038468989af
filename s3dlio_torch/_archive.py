"""Torch's zip archives, straight from and into storages.

torch.save and torch.load do their work against torch._C.PyTorchFileWriter and PyTorchFileReader.
Here the same code of torch's runs against ours: the writer is s3dlio_np._native.ArchiveWriter, and
the reader is Archive below, which fetches all records in one parallel wave while torch unpickles.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch

from s3dlio_np import ObjectReader, ObjectWriter
from s3dlio_np._native import ArchiveReader, ArchiveWriter, Fetch
from s3dlio_torch._memory import empty_tensors

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
        self._reader = ArchiveReader(stream)
        self._records = self._reader.records()
        self._sizes = {name: size for name, size, _ in self._records}
        self._verify = verify
        self._pin_memory = pin_memory
        self._wanted = wanted
        self._fetch: Fetch | None = None
        self._items: dict[str, tuple[int, torch.Tensor]] = {}

    @property
    def is_stored(self) -> bool:
        """Whether no record is compressed: only such can go straight to their place."""
        return all(stored for _, _, stored in self._records)

    @property
    def sizes(self) -> dict[str, int]:
        """Of all records, in bytes."""
        return self._sizes

    # --- what torch calls ---

    def has_record(self, name: str) -> bool:
        return name in self._sizes

    def get_record(self, name: str) -> bytes:
        self._require(name)
        return self._reader.get_record(name)

    def get_all_records(self) -> list[str]:
        return list(self._sizes)

    def get_record_offset(self, name: str) -> int:
        self._require(name)
        return self._reader.get_record_offset(name)

    def get_record_header_offset(self, name: str) -> int:
        self._require(name)
        return self._reader.get_record_header_offset(name)

    def get_record_offset_no_read(
        self, header_offset: int, name: str, nbytes: int, alignment: int
    ) -> int:
        return self.get_record_offset(name)

    def serialization_id(self) -> str:
        name = ".data/serialization_id"
        return self.get_record(name).decode() if self.has_record(name) else ""

    def get_storage_from_record(self, name: str, nbytes: int, kind: Any) -> torch.Tensor:
        self._require(name)
        if self._wanted is not None and name not in self._wanted:
            return torch.empty(nbytes, dtype=torch.uint8, device="meta")
        if self._fetch is None:
            self._start()
        assert self._fetch is not None
        item, tensor = self._items[name]
        if tensor.numel() != nbytes:
            raise RuntimeError(
                f"record {name} has {tensor.numel()} bytes, but its storage needs {nbytes}: "
                "the archive is damaged"
            )
        self._fetch.wait(item)
        return tensor

    # --- ours ---

    def _require(self, name: str) -> None:
        if name not in self._sizes:
            raise RuntimeError(f"the archive has no record {name}: it is damaged")

    def _start(self) -> None:
        names = [
            name
            for name in self._sizes
            if name.startswith(_DATA) and (self._wanted is None or name in self._wanted)
        ]
        tensors = empty_tensors([self._sizes[name] for name in names], pin_memory=self._pin_memory)
        self._items = {name: (i, tensors[i]) for i, name in enumerate(names)}
        storages = [tensor.untyped_storage() for tensor in tensors]
        self._fetch = self._reader.fetch(
            names, storages, verify=self._verify, fresh=not self._pin_memory
        )

    def close(self) -> None:
        """Cancels what nobody waited for. Nothing writes into any storage afterwards."""
        if self._fetch is not None:
            self._fetch.close()
        self._items = {}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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

    def open_archive(opened: Any) -> Any:
        try:
            archive = Archive(stream, **how)
        except ValueError as error:  # as a type, what torch's reader raises
            raise RuntimeError(str(error)) from error
        return archive if archive.is_stored else open_by_torch(opened)

    load_archive = _with_globals(own._load, _get_restore_location=_restore_but_meta)
    return _with_globals(own.load, _open_zipfile_reader=open_archive, _load=load_archive)


def _restore_but_meta(map_location: Any) -> Callable[[Any, str], Any]:
    """torch's placing of storages; those that nobody wants stay the meta storages they are."""
    own: Any = torch.serialization
    restore = own._get_restore_location(map_location)

    def place(storage: Any, location: str) -> Any:
        return storage if storage.device.type == "meta" else restore(storage, location)

    return place


def _uses(function: object, *names: str) -> bool:
    """Whether it is Python code that looks up these globals."""
    return isinstance(function, types.FunctionType) and set(names) <= set(
        function.__code__.co_names
    )


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


def save_archive(
    obj: object,
    stream: ObjectWriter,
    pickle_module: Any,
    pickle_protocol: int,
    disable_byteorder_record: bool,
) -> None:
    """torch.save's zip archive into a stream; the stream's close() makes it visible."""
    own: Any = torch.serialization
    own._check_dill_version(pickle_module)
    archive = ArchiveWriter(
        stream,
        compute_crc32=own.get_crc32_options(),
        storage_alignment=own._get_storage_alignment(),
    )
    sizes: dict[int, int] = {}  # by storage; a device's are copied one after the other, as they go
    on_cpu = True

    def see(storage: Any) -> None:
        nonlocal on_cpu
        on_cpu = on_cpu and storage.device.type == "cpu"
        sizes[storage._cdata] = storage.nbytes()

    def write_first(name: str, data: Any, size: int) -> None:
        records.write_record = archive.write_record
        if on_cpu and sizes:
            stream.expect(size + sum(sizes.values()))
        archive.write_record(name, data, size)

    records = types.SimpleNamespace(
        write_record=write_first, write_record_metadata=archive.write_record_metadata
    )
    save = seeing_storages(own._save, see) or own._save
    save(obj, records, pickle_module, pickle_protocol, disable_byteorder_record)
    archive.write_end_of_file()


def seeing_storages(save: Any, see: Callable[[Any], None]) -> Any:
    """torch's _save, but calling see(storage) for each storage that it meets while it pickles.

    None where _save has another shape than is known.
    """
    name = "location_tag"
    codes = [save.__code__, *(c for c in save.__code__.co_consts if hasattr(c, "co_names"))]
    if not isinstance(save, types.FunctionType) or not any(name in c.co_names for c in codes):
        return None
    tag = save.__globals__[name]

    def seen(storage: Any) -> Any:
        see(storage)
        return tag(storage)

    return _with_globals(save, location_tag=seen)


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
