"""Records of torch's archives, between the archive and devices.

Loading, torch asks for a record first and says afterwards where it shall be: what it is given is an
Awaited, which is placed then. Records are fetched ahead, in the order in which torch's pickles name
them, into a ring (see _ring), from which each is copied to its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from s3dlio_np import ObjectReader, ObjectWriter
from s3dlio_np._native import ArchiveReader, ArchiveWriter
from s3dlio_torch import _device
from s3dlio_torch._memory import empty_tensors
from s3dlio_torch._ring import Inflow, Item, Outflow, Source, Sums

_SMALL = 1 << 20  # CPU storages that a mapping of their own does not pay for

# --- whether any is for a device ----------------------------------------------------------------


class Records(Protocol):
    def has_record(self, name: str) -> bool: ...
    def look_at_record(self, name: str) -> bytes: ...


def may_reach_device(archive: Records, map_location: Any) -> bool:
    """Whether torch may put a storage on a device; if not, all go straight to CPU memory.

    Only a guess, as it is made before anything is unpickled: what it lets through by mistake is
    right all the same, but takes a way that is made for the other case.
    """
    if callable(map_location):
        return False  # it is given a storage with its data
    if map_location is not None and not isinstance(map_location, dict):
        return _is_device(map_location) and _has_own_byte_order(archive)
    tags = _device.current().tags()
    targets = () if map_location is None else map_location.values()
    if not tags or not _has_own_byte_order(archive):
        return False
    if any(map(_is_device, targets)):
        return True
    pickled = archive.look_at_record("data.pkl")
    return any(tag.encode() in pickled for tag in tags)


def _is_device(location: Any) -> bool:
    if isinstance(location, bytes):
        location = location.decode("ascii", "replace")
    try:
        return torch.device(location).type not in ("cpu", "meta")
    except (RuntimeError, TypeError):  # whatever it is, torch's own rules decide
        return False


def _has_own_byte_order(archive: Records) -> bool:
    """Else torch swaps bytes on the CPU, before it places anything."""
    if archive.has_record("byteorder"):
        return archive.look_at_record("byteorder") == sys.byteorder.encode()
    is_little = torch.serialization.get_default_load_endianness() is None  # torch's assumption
    return is_little and sys.byteorder == "little"


# --- loading ------------------------------------------------------------------------------------


class Awaited:
    """A record in a storage's place, until it is known where that shall be."""

    def __init__(self, records: DeviceRecords, name: str) -> None:
        self._records = records
        self._name = name

    # torch looks for the storage within what a reader returns.

    def _typed_storage(self) -> Awaited:
        return self

    @property
    def _untyped_storage(self) -> Awaited:
        return self

    def place(self, location: str) -> Any:
        return self._records.place(self._name, location)


class DeviceRecords:
    """Records on their way to wherever `restore`, torch's placing of storages, says.

    names: of all that may be asked for. A record for a device is copied to it from the ring; one for
    the CPU is copied from there as far as the ring has it, and else fetched straight into its
    storage.
    """

    def __init__(
        self,
        stream: ObjectReader,
        reader: ArchiveReader,
        names: Iterable[str],
        restore: Callable[[Any, str], Any],
        verify: bool,
        pin_memory: bool,
    ) -> None:
        self._devices = _device.current()
        self._reader = reader
        self._restore = restore
        self._pin_memory = pin_memory
        self._places: dict[str, torch.device | None] = {}
        sizes = {name: size for name, size, _ in reader.records()}
        # By number: torch's pickles ask in this order, also where the file (torch before 2.1) is
        # sorted as text.
        self._names = sorted(names, key=lambda name: (len(name), name))
        self._items = {name: i for i, name in enumerate(self._names)}
        self._ranges = [
            Item(name, reader.get_record_offset(name), sizes[name]) for name in self._names
        ]
        check = self._check if verify else None
        self._inflow = Inflow(self._devices, stream, self._ranges, check)

    def awaited(self, name: str) -> Awaited:
        return Awaited(self, name)

    def place(self, name: str, location: str) -> Any:
        """The record's storage, filled."""
        item = self._items[name]
        place = self._place_of(location)
        if place is None:
            return self._restore(self._on_host(item), location)
        storage = self._devices.empty(self._ranges[item].nbytes, place)
        self._inflow.to_device(item, _device.bytes_of(storage), place)
        return storage

    def close(self) -> None:
        """Ends all; raises what a copy failed with. Nothing writes into any storage afterwards."""
        self._inflow.close()

    def _check(self, item: int, sums: Sums) -> None:
        if self._ranges[item].nbytes:
            self._reader.check_pieces(self._names[item], sums)

    def _place_of(self, location: str) -> torch.device | None:
        """Where torch puts storages with this location, tried with one without bytes."""
        if location not in self._places:
            nothing = torch.empty(0, dtype=torch.uint8, device="cpu").untyped_storage()
            tried = self._restore(nothing, location)
            is_plain = isinstance(tried, torch.UntypedStorage)
            self._places[location] = self._devices.place_of(tried) if is_plain else None
        return self._places[location]

    def _on_host(self, item: int) -> torch.UntypedStorage:
        nbytes = self._ranges[item].nbytes
        if nbytes < _SMALL and not self._pin_memory:
            tensor = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
        else:
            tensor = empty_tensors([nbytes], pin_memory=self._pin_memory)[0]
        self._inflow.to_host(item, tensor)
        return tensor.untyped_storage()


# --- saving -------------------------------------------------------------------------------------


def _on_cpu(storage: Any) -> Any:
    """The same storage if it is there; torch's own error for one without data."""
    return storage.cpu()


def write_storages(
    archive: ArchiveWriter, stream: ObjectWriter, storages: list[tuple[str, torch.UntypedStorage]]
) -> None:
    """Appends each as a record: from where it lies on the CPU, through a ring from devices."""
    devices = _device.current()
    places = [devices.place_of(storage) for _, storage in storages]
    sources = [
        Source(_device.bytes_of(storage), place)
        for (_, storage), place in zip(storages, places, strict=True)
        if place is not None
    ]
    outflow = Outflow(devices, stream, sources)
    sent = 0
    try:
        for (name, storage), place in zip(storages, places, strict=True):
            nbytes = storage.nbytes()
            if place is None:
                archive.write_record(name, _on_cpu(storage), nbytes)
            else:
                archive.begin_record(name, nbytes)
                outflow.send(sent, archive.extend_record)
                sent += 1
    finally:
        outflow.close()
