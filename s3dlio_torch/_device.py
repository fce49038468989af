"""What the rings need of devices, as one small interface over torch.accelerator.

A lane is a queue of copies between the host and one device, beside the queue into which the caller
puts its own work there. `current()` is the one place that says whose devices these are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from s3dlio_torch._memory import empty_tensors


class Mark(Protocol):
    """A point in a lane: it is passed when all copies queued before it have ended."""

    def is_passed(self) -> bool: ...

    def wait(self) -> None:
        """Until it is passed. Raises what a copy before it has failed with."""
        ...


class Lane(Protocol):
    """Copies to or from one device; each begins when those before it have ended."""

    def follow(self) -> None:
        """Copies queued from now on begin after all that the caller has queued so far."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Mark:
        """Queues a copy of uint8 tensors of one size; both stay as they are until the mark."""
        ...

    def lead(self, mark: Mark) -> None:
        """What the caller queues from now on begins after the mark."""
        ...

    def wait(self) -> None:
        """Until all copies have ended. Raises what one has failed with."""
        ...


class Devices(Protocol):
    def tags(self) -> tuple[str, ...]:
        """What the locations of their storages begin with in torch's files ("cuda:")."""
        ...

    def place_of(self, storage: torch.UntypedStorage) -> torch.device | None:
        """The device that it is on; None for the CPU and for meta storages."""
        ...

    def empty(self, nbytes: int, place: torch.device) -> torch.UntypedStorage: ...

    def host_memory(self, nbytes: int) -> torch.Tensor:
        """One uint8 CPU tensor that copies are fast from and to: pinned, where that can be."""
        ...

    def lane(self, place: torch.device) -> Lane: ...


def current() -> Devices:
    """The devices of this process."""
    return _TorchDevices()


def bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """A uint8 tensor over all of a storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class _TorchDevices:
    """torch's own. Those without streams (MPS, and what is no accelerator) copy at once."""

    def tags(self) -> tuple[str, ...]:
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is None:
            return ()
        return ("mps",) if accelerator.type == "mps" else (f"{accelerator.type}:",)

    def place_of(self, storage: torch.UntypedStorage) -> torch.device | None:
        return None if storage.device.type in ("cpu", "meta") else storage.device

    def empty(self, nbytes: int, place: torch.device) -> torch.UntypedStorage:
        return torch.empty(nbytes, dtype=torch.uint8, device=place).untyped_storage()

    def host_memory(self, nbytes: int) -> torch.Tensor:
        if torch.accelerator.current_accelerator() is not None:
            try:
                return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)
            except RuntimeError as error:  # no such memory on this device, or none left
                warnings.warn(
                    f"no pinned memory ({error}): copies to and from the device are slower",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return empty_tensors([nbytes])[0]

    def lane(self, place: torch.device) -> Lane:
        accelerator = torch.accelerator.current_accelerator()
        # torch.accelerator's documentation promises streams of every accelerator; MPS has one only.
        if accelerator is None or place.type != accelerator.type or place.type == "mps":
            return _DirectLane()
        return _StreamLane(place)


class _StreamLane:
    """A stream of its own."""

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._stream = torch.Stream(place)

    def follow(self) -> None:
        self._stream.wait_stream(torch.accelerator.current_stream(self._place))

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Mark:
        with self._as_current():
            target.copy_(source, non_blocking=True)
        return _EventMark(self._stream.record_event())

    def lead(self, mark: Mark) -> None:
        if not isinstance(mark, _EventMark):
            raise TypeError(f"the mark must be of a stream, not {type(mark).__name__}")
        torch.accelerator.current_stream(self._place).wait_event(mark.event)

    def wait(self) -> None:
        self._stream.synchronize()

    @contextmanager
    def _as_current(self) -> Iterator[None]:
        """set_stream makes its device the current one as well: both are put back."""
        callers = torch.accelerator.current_stream()
        own = torch.accelerator.current_stream(self._place)
        torch.accelerator.set_stream(self._stream)
        try:
            yield
        finally:
            torch.accelerator.set_stream(own)
            torch.accelerator.set_stream(callers)


class _EventMark:
    def __init__(self, event: torch.Event) -> None:
        self.event = event

    def is_passed(self) -> bool:
        return self.event.query()

    def wait(self) -> None:
        self.event.synchronize()


class _DirectLane:
    """Copies that have ended when copy() returns."""

    def follow(self) -> None:
        pass

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Mark:
        target.copy_(source)
        return _PassedMark()

    def lead(self, mark: Mark) -> None:
        pass

    def wait(self) -> None:
        pass


class _PassedMark:
    def is_passed(self) -> bool:
        return True

    def wait(self) -> None:
        pass


def end_all(lanes: Iterable[Lane]) -> BaseException | None:
    """Waits until no copy runs any more, whatever fails; returns the first failure.

    An interrupt does not end the waiting, as the copies' memory goes away afterwards: it is what is
    returned then.
    """
    first: BaseException | None = None
    interrupt: BaseException | None = None
    for lane in lanes:
        waiting = True
        while waiting:
            try:
                lane.wait()
                waiting = False
            except Exception as error:  # noqa: BLE001 - the copies have ended all the same
                first = first or error
                waiting = False
            except BaseException as error:  # noqa: BLE001 - returned, not swallowed
                interrupt = error
    return interrupt or first
