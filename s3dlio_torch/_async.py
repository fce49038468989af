"""Saves that go on in the background, from a snapshot."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

import s3dlio_np
from s3dlio_np import ObjectWriter, WriterOptions
from s3dlio_np._native import ArchiveWriter
from s3dlio_torch import _device
from s3dlio_torch._archive import can_save, pickle_into
from s3dlio_torch._memory import empty_tensors
from s3dlio_torch._ring import HostCopies, Source, Span


def async_save(
    obj: object,
    uri: str | os.PathLike[str],
    pickle_module: Any = pickle,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> Future[None]:
    """Takes a snapshot of what save() would save, and saves that in the background.

    uri: s3://bucket/key, file:///path or a path.
    All other arguments: as for save().

    When this returns, everything is copied and may change: each storage on the CPU was cloned once,
    each on a device was copied once into pinned host memory (slabs of 64 MiB; all copies queued on
    a stream of their own beside the clones, then one wait for all), the rest was pickled. So every
    save that is not done holds, in host memory, as many bytes as its file will have (storages that
    tensors share count once); they are given back as they are sent, the pinned ones to torch's own
    cache of such memory. Nothing on top of that.

    Saves run one after the other, in the order of the calls; each object appears whole or not at
    all. The future's result() is None, or raises what went wrong with the upload; cancel() works
    until the save begins. The interpreter finishes open saves before it exits; a process that is
    killed leaves no object. A child process made by fork() starts with none.

    Raises at once what pickling raises, ValueError for an open file in the place of the URI, and
    MemoryError when there is no room for the copy.
    """
    if not isinstance(uri, (str, os.PathLike)):
        raise ValueError(f"async_save needs a URI, not {type(uri).__name__}: use save for open files")
    how = (pickle_module, pickle_protocol)
    replay: Callable[[ObjectWriter], None]
    if _use_new_zipfile_serialization and can_save():
        replay = _Snapshot(obj, *how, _disable_byteorder_record).write_into
    else:
        memory = io.BytesIO()
        torch.save(obj, memory, *how, _use_new_zipfile_serialization, _disable_byteorder_record)
        replay = _Bytes(memory).write_into
    transfer = {"part_size": part_size, "max_concurrency": max_concurrency, "options": options}
    return _saver().submit(_upload, replay, os.fspath(uri), transfer)


def _upload(
    replay: Callable[[ObjectWriter], None], uri: str, transfer: dict[str, Any]
) -> None:
    with s3dlio_np.open(uri, "wb", **transfer) as stream:
        replay(stream)


# --- snapshots ----------------------------------------------------------------------------------


class _Snapshot:
    """What torch.serialization._save writes, kept: a sink for it."""

    def __init__(
        self, obj: object, pickle_module: Any, pickle_protocol: int, no_byteorder: bool
    ) -> None:
        own: Any = torch.serialization
        self._sums = own.get_crc32_options()
        self._alignment = own._get_storage_alignment()
        # Data: bytes or str; a storage; None for zeros; tensors that hold the record in pieces.
        self._records: deque[tuple[str, Any, int]] = deque()
        storages = pickle_into(self, obj, pickle_module, pickle_protocol, no_byteorder)
        if storages is None:  # then nobody knows which are copies already
            storages = self._take_storages()
        self._copy(storages)

    # --- what torch calls ---

    def write_record(self, name: str, data: Any, size: int, /) -> None:
        self._records.append((name, data, size))

    def write_record_metadata(self, name: str, size: int, /) -> None:
        self._records.append((name, None, size))

    # --- ours ---

    def _take_storages(self) -> list[tuple[str, torch.UntypedStorage]]:
        """Out of the records: _save writes all that are of storages behind all others."""
        storages: list[tuple[str, torch.UntypedStorage]] = []
        while self._records and isinstance(self._records[-1][1], torch.UntypedStorage):
            name, storage, _ = self._records.pop()
            storages.append((name, storage))
        return storages[::-1]

    def _copy(self, storages: list[tuple[str, torch.UntypedStorage]]) -> None:
        """All at once: so small ones share slabs. The caller still waits in async_save."""
        devices = _device.current()
        places = [devices.place_of(storage) for _, storage in storages]
        here = [s for (_, s), place in zip(storages, places, strict=True) if place is None]
        there = [
            Source(_device.bytes_of(storage), place)
            for (_, storage), place in zip(storages, places, strict=True)
            if place is not None
        ]
        copies = HostCopies(devices, there)
        try:
            clones = iter(_clone(here))  # while those from devices are under way
        finally:
            copies.wait()
        pieces = iter(copies.pieces)
        for (name, storage), place in zip(storages, places, strict=True):
            data = next(clones) if place is None else next(pieces)
            self._records.append((name, data, storage.nbytes()))

    def write_into(self, stream: ObjectWriter) -> None:
        """Once: lets go of each record as it goes out, and of all when one fails."""
        try:
            stream.expect(sum(size for _, _, size in self._records))
            archive = ArchiveWriter(
                stream, compute_crc32=self._sums, storage_alignment=self._alignment
            )
            while self._records:
                name, data, size = self._records.popleft()
                if data is None:
                    archive.write_record_metadata(name, size)
                elif isinstance(data, list):
                    archive.begin_record(name, size)
                    while data:
                        archive.extend_record(Span(data.pop(0)))
                else:
                    archive.write_record(name, data, size)
            archive.write_end_of_file()
        finally:
            self._records.clear()


def _clone(storages: list[Any]) -> list[list[torch.Tensor]]:
    """Each as a list of one tensor; of none, where there are no bytes."""
    here = [storage.cpu() for storage in storages]  # themselves, or torch's error for meta ones
    clones = empty_tensors([storage.nbytes() for storage in here])
    for clone, storage in zip(clones, here, strict=True):
        clone.copy_(_device.bytes_of(storage))
    return [[clone] if clone.numel() else [] for clone in clones]


class _Bytes:
    """A file that torch has written into memory."""

    def __init__(self, memory: io.BytesIO) -> None:
        self._memory = memory

    def write_into(self, stream: ObjectWriter) -> None:
        try:
            stream.write(self._memory.getbuffer())
        finally:
            self._memory = io.BytesIO()


# --- the thread ---------------------------------------------------------------------------------

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None


def _saver() -> ThreadPoolExecutor:
    """One thread: saves end in the order in which they began. Python joins it before it exits."""
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(1, thread_name_prefix="s3dlio-save")
        return _executor


def _forget_saver() -> None:
    global _lock, _executor
    _lock = threading.Lock()
    _executor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_saver)
