"""What a lane asks of torch.accelerator, call by call: there need not be an accelerator to see it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from s3dlio_torch import _device

CPU_ONLY = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="there is an accelerator: test_device.py uses it"
)


class Event:
    def __init__(self, log: list[str]) -> None:
        self._log = log

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._log.append("event waited for")


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    def __repr__(self) -> str:
        return self._name

    def wait_stream(self, other: Stream) -> None:
        self._log.append(f"{self} waits for {other}")

    def record_event(self) -> Event:
        self._log.append(f"event on {self}")
        return Event(self._log)

    def wait_event(self, event: Event) -> None:
        self._log.append(f"{self} waits for an event")

    def synchronize(self) -> None:
        self._log.append(f"{self} waited for")


class Accelerator:
    """torch.accelerator with two devices, of which the first is the current one."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current = [Stream("main 0", self.log), Stream("main 1", self.log)]
        self.device = 0

    def new_stream(self, place: torch.device) -> Stream:
        return Stream(f"side {place.index}", self.log)

    def current_accelerator(self) -> torch.device:
        return torch.device("cuda")

    def current_stream(self, place: torch.device | None = None) -> Stream:
        return self.current[self.device if place is None else place.index or 0]

    def set_stream(self, stream: Stream) -> None:
        self.device = int(str(stream).split()[1])
        self.current[self.device] = stream
        self.log.append(f"current: {stream}")


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    accelerator = Accelerator()
    for name in ("current_accelerator", "current_stream", "set_stream"):
        monkeypatch.setattr(torch.accelerator, name, getattr(accelerator, name))
    monkeypatch.setattr(torch, "Stream", accelerator.new_stream)
    return accelerator


class Source(torch.Tensor):
    """Tells when it is copied from, or refuses."""

    log: list[str]
    refuses = False

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.Tensor.copy_:
            cls.log.append(f"copy {kwargs}")
            if cls.refuses:
                raise RuntimeError("refused")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.fixture
def source(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(Source, "log", accelerator.log, raising=False)
    return torch.arange(5, dtype=torch.uint8).as_subclass(Source)


def test_a_copy_on_a_stream_of_its_own(accelerator: Accelerator, source: Any) -> None:
    lane = _device.current().lane(torch.device("cuda:1"))
    target = torch.zeros(5, dtype=torch.uint8)
    lane.follow()
    mark = lane.copy(target, source)
    lane.lead(mark)
    assert mark.is_passed()
    mark.wait()
    lane.wait()
    assert accelerator.log == [
        "side 1 waits for main 1",
        "current: side 1",
        "copy {'non_blocking': True}",
        "current: main 1",
        "current: main 0",
        "event on side 1",
        "main 1 waits for an event",
        "event waited for",
        "side 1 waited for",
    ]
    assert (accelerator.device, str(accelerator.current)) == (0, "[main 0, main 1]")
    assert target.tolist() == [0, 1, 2, 3, 4]


def test_streams_are_put_back_when_a_copy_is_refused(
    accelerator: Accelerator, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "refuses", True)
    lane = _device.current().lane(torch.device("cuda:1"))
    with pytest.raises(RuntimeError, match="refused"):
        lane.copy(torch.zeros(5, dtype=torch.uint8), source)
    assert "event on side 1" not in accelerator.log
    assert (accelerator.device, str(accelerator.current)) == (0, "[main 0, main 1]")


@pytest.mark.parametrize("kind", ["mps", "xla", "cpu"])
def test_devices_without_streams_copy_at_once(accelerator: Accelerator, kind: str) -> None:
    lane = _device.current().lane(torch.device(kind))
    target = torch.zeros(5, dtype=torch.uint8)
    lane.follow()
    mark = lane.copy(target, torch.ones(5, dtype=torch.uint8))
    assert mark.is_passed() and target.tolist() == [1] * 5
    lane.lead(mark)
    mark.wait()
    lane.wait()
    assert accelerator.log == []


@CPU_ONLY
def test_memory_that_cannot_be_pinned(accelerator: Accelerator) -> None:
    with pytest.warns(RuntimeWarning, match="no pinned memory .*slower"):
        memory = _device.current().host_memory(1000)
    assert (memory.numel(), memory.dtype, memory.device.type) == (1000, torch.uint8, "cpu")


class Slow:
    """A lane whose end is waited for in vain a few times."""

    def __init__(self, *failures: BaseException) -> None:
        self._failures = list(failures)
        self.has_ended = False

    def wait(self) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.has_ended = True


def test_an_interrupt_does_not_end_the_waiting_for_copies() -> None:
    lane, error = Slow(KeyboardInterrupt(), KeyboardInterrupt("second")), RuntimeError("x")
    failure = _device.end_all([Slow(error), lane])  # type: ignore[list-item]
    assert lane.has_ended and str(failure) == "second"
    assert _device.end_all([Slow(error), Slow()]) is error  # type: ignore[list-item]
    assert _device.end_all([]) is None
