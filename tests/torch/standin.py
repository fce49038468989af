"""Devices that are none: their storages lie in CPU memory, their copies are done later by threads.

What a real device would punish with wrong bytes is an error here at once: memory that is filled while
a copy or an upload still reads it, copied from before all of it has come, or handed out before the
caller's queue waits for it. Fresh memory of either side is poisoned.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from s3dlio_torch import _device, _device_records, _ring, _safetensors
from s3dlio_torch._memory import empty_tensors

POISON = 0xA5
FRESH = 0x5A  # device memory that nothing was copied to
LIMIT_S = 60


class ReusedTooEarly(AssertionError):
    pass


def span_of(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.data_ptr() + tensor.numel()


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@dataclass(eq=False)
class Copy:
    """Also the mark behind it."""

    target: torch.Tensor
    source: torch.Tensor
    ended: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    led: bool = False  # the caller's queue waits for it

    def is_passed(self) -> bool:
        return self.ended.is_set()

    def wait(self) -> None:
        assert self.ended.wait(LIMIT_S)
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        if self.error is None:
            self.target.copy_(self.source)
        self.ended.set()


class StandInLane:
    def __init__(self, devices: StandIn, place: torch.device) -> None:
        self._devices = devices
        self._place = place
        self._queue: queue.SimpleQueue[Copy | None] = queue.SimpleQueue()
        self._copies: list[Copy] = []
        self._followed = -1  # how many storages there were at the last follow()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (copy := self._queue.get()) is not None:
            self._devices.gate.wait(LIMIT_S)
            self._devices.pause()
            copy.run()

    def follow(self) -> None:
        self._followed = len(self._devices.storages)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Copy:
        assert target.dtype == source.dtype == torch.uint8
        assert target.numel() == source.numel()
        self._devices.check_copy(target, source, self._followed)
        copy = Copy(target, source)
        if self._devices.is_host(target):
            target.fill_(POISON)
        self._devices.note_copy(copy)
        self._copies.append(copy)
        self._queue.put(copy)
        return copy

    def lead(self, mark: Any) -> None:
        for copy in self._copies[: self._copies.index(mark) + 1]:
            copy.led = True

    def wait(self) -> None:
        self._devices.lane_waits += 1
        for copy in self._copies:
            assert copy.ended.wait(LIMIT_S)
        for copy in self._copies:
            copy.wait()

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join(LIMIT_S)


class StandIn:
    """Two devices, "cuda:0" and "cuda:1"; see tests/torch/test_device.py's fixture."""

    def __init__(self) -> None:
        self.storages: dict[int, tuple[torch.UntypedStorage, torch.device]] = {}
        self.copies: list[Copy] = []
        self.lanes: list[StandInLane] = []
        self.host: list[torch.Tensor] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail_copy = 0  # the number of the copy that fails, from 1
        self.refuse_copy = 0  # the same, but copy() itself raises
        self.lane_waits = 0
        self.moved_by_torch = 0  # storages with bytes that torch itself put on a device
        self.fetches: list[WatchedFetch] = []
        self.uploads: list[tuple[tuple[int, int], Any, int]] = []  # memory, stream, its end
        self.copied_while_fetching = self.copied_while_sending = 0

    # --- Devices ---

    def tags(self) -> tuple[str, ...]:
        return ("cuda:",)

    def place_of(self, storage: torch.UntypedStorage) -> torch.device | None:
        known = self.storages.get(storage._cdata)
        return None if known is None else known[1]

    def empty(self, nbytes: int, place: torch.device) -> torch.UntypedStorage:
        storage = torch.UntypedStorage(nbytes)
        if nbytes:
            storage.fill_(FRESH)
        self.storages[storage._cdata] = storage, torch.device("cuda", place.index or 0)
        return storage

    def host_memory(self, nbytes: int) -> torch.Tensor:
        memory = empty_tensors([nbytes])[0].fill_(POISON)
        self.host.append(memory)
        return memory

    def lane(self, place: torch.device) -> StandInLane:
        lane = StandInLane(self, place)
        self.lanes.append(lane)
        return lane

    # --- torch's registry ---

    def tag(self, storage: Any) -> str | None:
        place = self.place_of(storage)
        return None if place is None else str(place)

    def restore(self, storage: Any, location: str) -> Any:
        if not location.startswith("cuda"):
            return None
        moved = self.empty(storage.nbytes(), torch.device(location))
        if storage.nbytes():
            self.moved_by_torch += 1
            moved.copy_(storage)
        return moved

    # --- for tests ---

    def put(self, tensor: torch.Tensor, index: int = 0) -> torch.Tensor:
        """A tensor like it on a device."""
        storage = self.empty(tensor.untyped_storage().nbytes(), torch.device("cuda", index))
        storage.copy_(tensor.untyped_storage())
        return torch.empty(0, dtype=tensor.dtype).set_(
            storage, tensor.storage_offset(), tensor.shape, tensor.stride()
        )

    def holds(self, tensor: torch.Tensor) -> bool:
        return self.place_of(tensor.untyped_storage()) is not None

    def running(self) -> int:
        return sum(not copy.ended.is_set() for copy in self.copies)

    def pause(self) -> None:
        threading.Event().wait(0.002)

    def stop(self) -> None:
        self.gate.set()
        for lane in self.lanes:
            lane.stop()

    # --- watching ---

    def is_host(self, tensor: torch.Tensor) -> bool:
        return any(overlap(span_of(tensor), span_of(memory)) for memory in self.host)

    def check_copy(self, target: torch.Tensor, source: torch.Tensor, followed: int) -> None:
        number = len(self.copies) + 1
        if number == self.refuse_copy:
            raise RuntimeError("the device refuses this copy")
        for there in (target, source):
            for i, (storage, _) in enumerate(self.storages.values()):
                begin = storage.data_ptr()
                if overlap(span_of(there), (begin, begin + storage.nbytes())):
                    assert i < followed, "the lane does not wait for the caller's own work"
        self.check_idle(target)
        for fetch in self.fetches:
            fetch.check_arrived(source)

    def check_idle(self, target: torch.Tensor) -> None:
        """That nobody reads or writes it: it is to be filled anew."""
        for copy in self.copies:
            if not copy.ended.is_set() and (
                overlap(span_of(copy.source), span_of(target))
                or overlap(span_of(copy.target), span_of(target))
            ):
                raise ReusedTooEarly("a copy still uses this memory")
        for memory, stream, end in self.uploads:
            if overlap(memory, span_of(target)) and stream.free_up_to() < end:
                raise ReusedTooEarly("an upload still reads this memory")

    def note_copy(self, copy: Copy) -> None:
        if len(self.copies) + 1 == self.fail_copy:
            copy.error = RuntimeError("the copy failed on the device")
        self.copies.append(copy)
        self.copied_while_sending += any(
            stream.stored_bytes < end for _, stream, end in self.uploads
        )
        self.copied_while_fetching += any(fetch.is_running for fetch in self.fetches)


class WatchedFetch:
    """What _ring calls fetch()."""

    def __init__(self, devices: StandIn, real: Any, stream: Any, parts: Any, sums: bool) -> None:
        self._parts = [(name, span._tensor) for name, _, span in parts]
        self._arrived: set[int] = set()
        self.is_running = True
        for _, tensor in self._parts:
            devices.check_idle(tensor)
            tensor.fill_(POISON)
        self._fetch = real(stream, parts, sums=sums)
        devices.fetches.append(self)

    def wait(self, index: int) -> None:
        self._fetch.wait(index)
        self._arrived.add(index)

    def sum(self, index: int) -> int:
        total: int = self._fetch.sum(index)
        return total

    def close(self) -> None:
        self.is_running = False
        self._fetch.close()

    def check_arrived(self, source: torch.Tensor) -> None:
        for i, (name, tensor) in enumerate(self._parts if self.is_running else []):
            if overlap(span_of(tensor), span_of(source)):
                assert i in self._arrived, f"{name} is copied before it is there"


class WatchedStream:
    """What an Outflow uses of an ObjectWriter."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._let_go = 0

    def tell(self) -> int:
        position: int = self._stream.tell()
        return position

    def let_go(self, end: int) -> None:
        self._stream.let_go(end)
        self._let_go = max(self._let_go, end)

    @property
    def stored_bytes(self) -> int:
        stored: int = self._stream.stored_bytes
        return stored

    def free_up_to(self) -> int:
        return max(self._let_go, self.stored_bytes)


def watched_outflow(devices: StandIn) -> type[_ring.Outflow]:
    class Watched(_ring.Outflow):
        def __init__(self, used: Any, stream: Any, sources: Any) -> None:
            super().__init__(used, WatchedStream(stream), sources)  # type: ignore[arg-type]

        def send(self, item: int, sink: Any) -> None:
            def watched_sink(span: _ring.Span) -> None:
                sink(span)
                end = self._stream.tell()
                if span.nbytes() >= 64 << 10:  # smaller ones are copied
                    devices.uploads.append((span_of(span._tensor), self._stream, end))

            super().send(item, watched_sink)

    return Watched


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in is what the package takes for this process's devices, and torch knows it too."""
    devices = StandIn()
    real = _ring.fetch
    registry = list(torch.serialization._package_registry)
    monkeypatch.setattr(torch.serialization, "_package_registry", registry)
    torch.serialization.register_package(5, devices.tag, devices.restore)
    monkeypatch.setattr(_device, "current", lambda: devices)
    monkeypatch.setattr(
        _ring, "fetch", lambda stream, parts, *, sums: WatchedFetch(devices, real, stream, parts, sums)
    )
    for module in (_device_records, _safetensors):
        monkeypatch.setattr(module, "Outflow", watched_outflow(devices))
    try:
        yield devices
    finally:
        devices.stop()
