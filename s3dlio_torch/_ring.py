"""Rings of host memory between an object and devices: bounded, whatever the checkpoint's size.

    object -> Fetch -> slot -> lane -> device      Inflow
    device -> lane -> slot -> ObjectWriter         Outflow

Items (storages) are cut into pieces that fill slots in the order in which they are expected; while
one slot is copied the others are fetched into, or sent. A slot is filled again only when nothing
reads it any more: for an Inflow, when its copies have ended; for an Outflow, when the upload has
let go of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

import s3dlio_np
from s3dlio_np import ObjectReader, ObjectWriter
from s3dlio_np._native import Fetch, fetch
from s3dlio_torch._device import Devices, Lane, Mark, end_all

ALIGNMENT = 64  # of pieces in a slot
SLOT_BYTES = 16 << 20
SLOT_COUNT = 8
_MIN_SLOT_BYTES = 64 << 10
_SLAB_BYTES = 64 << 20  # of HostCopies; torch makes pinned memory in powers of two
Sums = list[tuple[int, int]]  # CRC-32 and size in bytes of each piece of an item


def aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Span:
    """A uint8 CPU tensor as the engine takes memory: with a storage's two methods."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def data_ptr(self) -> int:
        return self._tensor.data_ptr()

    def nbytes(self) -> int:
        return self._tensor.numel()


@dataclass(frozen=True)
class Piece:
    """Bytes [at, at + memory.numel()) of an item, and where in a slot they are."""

    item: int
    at: int
    memory: torch.Tensor


class Plan:
    """Cuts items, in order, into pieces; the cursor is at the first byte not cut yet."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._dropped: set[int] = set()
        self._item = 0
        self._at = 0
        self._settle()

    @property
    def is_at_end(self) -> bool:
        return self._item == len(self._sizes)

    @property
    def nbytes(self) -> int:
        """What the items from the cursor on take in slots, at most."""
        return sum(map(aligned, self._sizes[self._item :]))

    def fill(self, memory: torch.Tensor) -> list[Piece]:
        """The next pieces, side by side in `memory`, whose size is a multiple of the alignment."""
        pieces: list[Piece] = []
        used = 0
        while used < memory.numel() and not self.is_at_end:
            nbytes = min(self._sizes[self._item] - self._at, memory.numel() - used)
            pieces.append(Piece(self._item, self._at, memory[used : used + nbytes]))
            used += aligned(nbytes)
            self._at += nbytes
            self._settle()
        return pieces

    def is_ahead(self, item: int, at: int) -> bool:
        """Whether going on will come to this byte."""
        return (self._item, self._at) <= (item, at) and item not in self._dropped

    def seek(self, item: int, at: int) -> None:
        self._dropped.discard(item)
        self._item, self._at = item, at
        self._settle()

    def drop(self, item: int) -> None:
        """Cuts no more of it."""
        self._dropped.add(item)
        self._settle()

    def _settle(self) -> None:
        while not self.is_at_end and (
            self._item in self._dropped or self._at == self._sizes[self._item]
        ):
            self._item, self._at = self._item + 1, 0


@dataclass(eq=False)
class Slot:
    memory: torch.Tensor
    pieces: list[Piece] = field(default_factory=list)
    left: int = 0  # pieces that nobody has taken yet
    marks: dict[Lane, Mark] = field(default_factory=dict)  # the last of each lane
    fetch: Fetch | None = None  # Inflow: what fills it
    end: int = 0  # Outflow: the stream's position behind its last piece

    def is_copied(self) -> bool:
        return all(mark.is_passed() for mark in self.marks.values())

    def wait(self) -> None:
        """Until its copies have ended; raises what one has failed with."""
        for mark in self.marks.values():
            mark.wait()


def make_slots(devices: Devices, nbytes: int) -> list[Slot]:
    """As many slots as `nbytes` need, but no more memory than the engine may hold."""
    limit = s3dlio_np.stats()["memory_limit_bytes"]
    size = min(SLOT_BYTES, max(limit // 2 // ALIGNMENT * ALIGNMENT, _MIN_SLOT_BYTES))
    count = min(SLOT_COUNT, max(limit // size, 2))
    if nbytes <= size:
        size, count = aligned(nbytes), 1
    count = min(count, -(-nbytes // size))
    memory = devices.host_memory(size * count)
    return [Slot(memory[i * size : (i + 1) * size]) for i in range(count)]


class _Flow:
    """What both directions share: slots and lanes."""

    def __init__(self, devices: Devices, sizes: Sequence[int]) -> None:
        self._devices = devices
        self._plan = Plan(sizes)
        self._lanes: dict[torch.device, Lane] = {}
        self._free: list[Slot] = []
        self._full: deque[Slot] = deque()  # in the order in which they were filled
        self._spent: deque[Slot] = deque()  # all pieces are taken, but perhaps still in use
        self._has_slots = False
        self._has_ended = False

    def _lane(self, place: torch.device) -> Lane:
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = self._devices.lane(place)
        return lane

    def _make_slots(self) -> None:
        if not self._has_slots:
            self._has_slots = True
            self._free = make_slots(self._devices, self._plan.nbytes)

    def _free_slot(self, *, wait: bool) -> Slot | None:
        """One that nothing reads or writes; None: none is now, or (wait) none will be so soon."""
        if self._has_ended:
            raise ValueError("the transfer has ended")
        self._make_slots()
        if self._free:
            return self._free.pop()
        if self._spent and self._reclaim(self._spent[0], wait=wait):
            slot = self._spent.popleft()
            slot.marks.clear()
            return slot
        return None

    def _reclaim(self, slot: Slot, *, wait: bool) -> bool:
        raise NotImplementedError

    def _drain(self) -> BaseException | None:
        """Waits until nothing of this runs any more, and lets the slots go.

        Returns the first failure of a copy, once.
        """
        if self._has_ended and not self._lanes:
            return None
        self._has_ended = True
        for slot in self._full:
            if slot.fetch is not None:
                slot.fetch.close()
        failure = end_all(self._lanes.values())
        self._lanes.clear()
        self._full.clear()
        self._spent.clear()
        self._free.clear()
        return failure

    def close(self) -> None:
        """Ends all; raises what a copy failed with. No copy runs afterwards."""
        failure = self._drain()
        if failure is not None:
            raise failure


# --- to devices ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A range of an object. name: for errors."""

    name: str
    offset: int
    nbytes: int


class Inflow(_Flow):
    """Ranges of an object on their way to devices, in the order in which they are expected.

    Ranges that are asked for in that order are there ahead of time; one out of order makes the ring
    start again from there. check: told the sums of each item before anybody relies on its bytes.
    """

    def __init__(
        self,
        devices: Devices,
        stream: ObjectReader,
        items: Sequence[Item],
        check: Callable[[int, Sums], None] | None = None,
    ) -> None:
        super().__init__(devices, [item.nbytes for item in items])
        self._stream = stream
        self._items = items
        self._check = check
        self._where: dict[tuple[int, int], tuple[Slot, int]] = {}  # pieces by item and offset
        self._ahead = SLOT_COUNT  # slots that may be filled before anybody asks

    def to_device(self, item: int, target: torch.Tensor, place: torch.device) -> None:
        """Fills a uint8 tensor there; what the caller queues afterwards finds the bytes."""
        lane, mark, at, sums = self._lane(place), None, 0, Sums()
        try:
            lane.follow()  # its memory may have been somebody else's just before
            while at < target.numel():
                slot, number = self._await_piece(item, at)
                memory = self._arrived(slot, number, sums)
                mark = slot.marks[lane] = lane.copy(target[at : at + memory.numel()], memory)
                at += memory.numel()
                self._taken(item, slot, number)
            self._verify(item, sums)
            if mark is not None:
                lane.lead(mark)
        except BaseException:
            self._drain()  # while the target is still there
            raise

    def to_host(self, item: int, target: torch.Tensor) -> None:
        """Fills a uint8 CPU tensor: from the slots as far as these have it or soon will."""
        at, sums = 0, Sums()
        try:
            while at < target.numel():
                if (item, at) not in self._where:
                    rest = target.numel() - at
                    if rest >= SLOT_BYTES or not self._go_on(item, at):
                        self._fetch_directly(item, at, target[at:], sums)
                        break
                    continue
                slot, number = self._where[item, at]
                memory = self._arrived(slot, number, sums)
                target[at : at + memory.numel()].copy_(memory)
                at += memory.numel()
                self._taken(item, slot, number)
            self._verify(item, sums)
        except BaseException:
            self._drain()
            raise

    def _verify(self, item: int, sums: Sums) -> None:
        if self._check is not None:
            self._check(item, sums)

    def _arrived(self, slot: Slot, number: int, sums: Sums) -> torch.Tensor:
        """Waits for a piece."""
        assert slot.fetch is not None
        memory = slot.pieces[number].memory
        slot.fetch.wait(number)
        if self._check is not None:
            sums.append((slot.fetch.sum(number), memory.numel()))
        return memory

    def _await_piece(self, item: int, at: int) -> tuple[Slot, int]:
        while (item, at) not in self._where:
            if not self._go_on(item, at):
                self._start_again(item, at)
        return self._where[item, at]

    def _go_on(self, item: int, at: int) -> bool:
        """Fills one more slot on the way to this byte; False when that leads nowhere."""
        if not self._plan.is_ahead(item, at):
            return False
        slot = self._free_slot(wait=True)
        if slot is None:
            return False  # all hold what has not been asked for
        self._fill(slot)
        return True

    def _start_again(self, item: int, at: int) -> None:
        """Gives up what was fetched ahead. Then looks ahead by one slot more after each slot."""
        for slot in self._full:
            assert slot.fetch is not None
            slot.fetch.close()
        self._spent.extend(self._full)
        self._full.clear()
        self._where.clear()
        self._plan.seek(item, at)
        self._ahead = 1

    def _fetch_directly(self, item: int, at: int, target: torch.Tensor, sums: Sums) -> None:
        self._plan.drop(item)
        source = self._items[item]
        rest = fetch(
            self._stream,
            ((source.name, source.offset + at, Span(target)),),
            sums=self._check is not None,
        )
        try:
            self._fill_free()
            rest.wait(0)
            if self._check is not None:
                sums.append((rest.sum(0), target.numel()))
        finally:
            rest.close()

    def _fill(self, slot: Slot) -> None:
        slot.pieces = self._plan.fill(slot.memory)
        slot.left = len(slot.pieces)
        parts = tuple(
            (self._items[p.item].name, self._items[p.item].offset + p.at, Span(p.memory))
            for p in slot.pieces
        )
        slot.fetch = fetch(self._stream, parts, sums=self._check is not None)
        self._full.append(slot)
        for number, piece in enumerate(slot.pieces):
            self._where[piece.item, piece.at] = slot, number

    def _fill_free(self) -> None:
        while len(self._full) < self._ahead and not self._plan.is_at_end:
            slot = self._free_slot(wait=False)
            if slot is None:
                return
            self._fill(slot)

    def _taken(self, item: int, slot: Slot, number: int) -> None:
        del self._where[item, slot.pieces[number].at]
        slot.left -= 1
        if not slot.left:
            assert slot.fetch is not None
            slot.fetch.close()
            self._full.remove(slot)
            self._spent.append(slot)
            self._ahead += 1
        self._fill_free()

    def _reclaim(self, slot: Slot, *, wait: bool) -> bool:
        if wait:
            slot.wait()
        return slot.is_copied()


# --- from devices -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A uint8 tensor on a device."""

    memory: torch.Tensor
    place: torch.device


class Outflow(_Flow):
    """Device memory on its way into an ObjectWriter, in the order of `sources`."""

    def __init__(
        self, devices: Devices, stream: ObjectWriter, sources: Sequence[Source]
    ) -> None:
        super().__init__(devices, [source.memory.numel() for source in sources])
        self._stream = stream
        self._sources = sources
        self._next = 0  # of the pieces of the first full slot

    def send(self, item: int, sink: Callable[[Span], object]) -> None:
        """Hands each piece of a source to `sink`, which appends it to the stream.

        Sources must be sent in their order, each once.
        """
        at, size = 0, self._sources[item].memory.numel()
        try:
            while at < size:
                slot, piece = self._next_piece()
                if (piece.item, piece.at) != (item, at):
                    raise ValueError(f"source {item} is not the next one")
                slot.wait()
                sink(Span(piece.memory))
                at += piece.memory.numel()
                self._taken(slot)
        except BaseException:
            self._drain()  # while the sources are still there
            raise

    def _next_piece(self) -> tuple[Slot, Piece]:
        if not self._full:
            self._fill_free(wait=True)
        slot = self._full[0]
        return slot, slot.pieces[self._next]

    def _fill_free(self, *, wait: bool = False) -> None:
        while not self._plan.is_at_end:
            slot = self._free_slot(wait=wait and not self._full)
            if slot is None:
                return
            self._fill(slot)

    def _fill(self, slot: Slot) -> None:
        slot.pieces = self._plan.fill(slot.memory)
        slot.left = len(slot.pieces)
        self._full.append(slot)
        for piece in slot.pieces:
            source = self._sources[piece.item]
            lane = self._lane(source.place)
            bytes_there = source.memory[piece.at : piece.at + piece.memory.numel()]
            slot.marks[lane] = lane.copy(piece.memory, bytes_there)

    def _lane(self, place: torch.device) -> Lane:
        is_new = place not in self._lanes
        lane = super()._lane(place)
        if is_new:
            lane.follow()  # what computes the sources is queued already
        return lane

    def _taken(self, slot: Slot) -> None:
        self._next += 1
        slot.left -= 1
        if not slot.left:
            self._next = 0
            self._full.popleft()
            slot.end = self._stream.tell()
            self._spent.append(slot)
        self._fill_free()

    def _reclaim(self, slot: Slot, *, wait: bool) -> bool:
        """The upload may send it again after a failure: until the store has it all."""
        if wait:
            self._stream.let_go(slot.end)
            return True
        return self._stream.stored_bytes >= slot.end


class HostCopies:
    """Copies of all sources in host memory, under way at once and beside the caller's own work.

    pieces: of each source, in order; their bytes are there after wait().
    """

    def __init__(self, devices: Devices, sources: Sequence[Source]) -> None:
        self.pieces: list[list[torch.Tensor]] = [[] for _ in sources]
        self._devices = devices
        self._lanes: dict[torch.device, Lane] = {}
        plan = Plan([source.memory.numel() for source in sources])
        left = plan.nbytes
        try:
            while not plan.is_at_end:
                slab = devices.host_memory(min(_SLAB_BYTES, left))
                left -= slab.numel()
                for piece in plan.fill(slab):
                    self._copy(piece, sources[piece.item])
        except BaseException:
            end_all(self._lanes.values())
            raise

    def wait(self) -> None:
        """Until no copy runs; raises what one has failed with."""
        failure = end_all(self._lanes.values())
        if failure is not None:
            raise failure

    def _copy(self, piece: Piece, source: Source) -> None:
        lane = self._lanes.get(source.place)
        if lane is None:
            lane = self._lanes[source.place] = self._devices.lane(source.place)
            lane.follow()
        end = piece.at + piece.memory.numel()
        lane.copy(piece.memory, source.memory[piece.at : end])
        self.pieces[piece.item].append(piece.memory)
