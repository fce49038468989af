"""What rings stand on: records in pieces, sums of pieces, and memory that is let go of."""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

import s3dlio_np
from s3dlio_np._native import ArchiveReader, ArchiveWriter, fetch, send
from s3dlio_torch import _ring
from s3dlio_torch._memory import empty_tensors
from tests.marks import near
from tests.torch.test_native_save import filled

MIB = 1 << 20
PART = 5 * MIB


def cut(tensor: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Into pieces of any size from 8 bytes on, but for the last."""
    chance, pieces, at = random.Random(seed), [], 0
    while at < tensor.numel():
        nbytes = chance.choice([8, 100, 65536, 70_000, 3 * MIB])
        pieces.append(tensor[at : at + nbytes])
        at += nbytes
    return pieces


# --- records in pieces --------------------------------------------------------------------------


@near
@pytest.mark.parametrize("sums", [True, False])
def test_pieces_make_the_same_archive(target: Any, sums: bool) -> None:
    values = [filled(size, size) for size in (0, 1, 7, 8, 9, 65_536, 7 * MIB + 3)]
    values.append(torch.tensor(list(b"PK\x07\x08" + bytes(60)), dtype=torch.uint8))
    for name in ("whole", "pieces"):
        with s3dlio_np.open(target.uri(name), "wb", part_size=PART) as stream:
            archive = ArchiveWriter(stream, compute_crc32=sums)
            for i, value in enumerate(values):
                if name == "whole":
                    archive.write_record(f"data/{i}", value.untyped_storage(), value.numel())
                    continue
                archive.begin_record(f"data/{i}", value.numel())
                for piece in cut(value, i):
                    archive.extend_record(_ring.Span(piece))
            archive.write_end_of_file()
    assert target.read("pieces") == target.read("whole")


MISUSES: dict[str, Callable[[ArchiveWriter], object]] = {
    "no record is open": lambda archive: archive.extend_record(b"x"),
    "said to be shorter": lambda archive: (
        archive.begin_record("a", 3),
        archive.extend_record(b"1234"),
    ),
    "is not whole yet": lambda archive: (
        archive.begin_record("a", 3),
        archive.extend_record(b"12"),
        archive.write_record("b", b"", 0),
    ),
    "before it is not whole": lambda archive: (
        archive.begin_record("a", 1),
        archive.write_end_of_file(),
    ),
    "no record is": lambda archive: (archive.begin_record("a", 0), archive.extend_record(b"")),
}


@pytest.mark.parametrize("message", MISUSES)
def test_misuse_is_refused(s3_own: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with s3dlio_np.open(s3_own.uri("m"), "wb") as stream:
            MISUSES[message](ArchiveWriter(stream))
    assert s3_own.objects() == {}


# --- sums ---------------------------------------------------------------------------------------


@near
def test_sums_of_parts(target: Any) -> None:
    data = bytes(filled(3 * MIB + 1).tolist())
    target.write("m", data)
    places = [(0, 1), (1, 70_000), (100_000, 2 * MIB), (3 * MIB, 1), (3 * MIB + 1, 0)]
    memory = empty_tensors([size for _, size in places])
    parts = tuple(
        (f"part {i}", at, _ring.Span(tensor))
        for i, ((at, _), tensor) in enumerate(zip(places, memory, strict=True))
    )
    with s3dlio_np.open(target.uri("m"), part_size=MIB) as stream:
        arrival = fetch(stream, parts, sums=True)
        for i, (at, size) in enumerate(places):
            arrival.wait(i)
            assert arrival.sum(i) == zlib.crc32(data[at : at + size])
        with pytest.raises(ValueError, match="no such item"):
            arrival.sum(len(places))
        arrival.close()
        with pytest.raises(ValueError, match="ended"):
            arrival.sum(0)
        without = fetch(stream, parts)
        without.wait(0)
        with pytest.raises(ValueError, match="no sums"):
            without.sum(0)


def test_a_sum_is_not_told_before_its_bytes_are_there(s3_own: Any) -> None:
    s3_own.put("m", bytes(8 * MIB))
    with s3dlio_np.open(s3_own.uri("m")) as stream:
        fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=30, count=-1)
        arrival = fetch(stream, (("a", 0, _ring.Span(empty_tensors([MIB])[0])),), sums=True)
        with pytest.raises(ValueError, match="not there yet"):
            arrival.sum(0)
        while not fault.hits():
            pass
        arrival.close()
    assert fault.hits() > 0


def test_a_fetch_is_not_closed_while_it_is_waited_for(s3_own: Any) -> None:
    s3_own.put("x", bytes(2 * MIB))
    stream = s3dlio_np.open(s3_own.uri("x"))
    fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=1)
    arrival = fetch(stream, (("a", 0, _ring.Span(empty_tensors([MIB])[0])),))
    waiting = threading.Thread(target=arrival.wait, args=(0,))
    waiting.start()
    while not fault.hits():
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="waited for"):
        arrival.close()
    waiting.join()
    arrival.close()
    with pytest.raises(ValueError, match="has ended"):
        arrival.wait(0)


@near
def test_pieces_are_checked_against_the_record(target: Any) -> None:
    value = filled(MIB)
    with s3dlio_np.open(target.uri("m"), "wb") as stream:
        archive = ArchiveWriter(stream)
        archive.write_record("data/0", value.untyped_storage(), MIB)
        archive.write_end_of_file()
    pieces = [(zlib.crc32(bytes(p.tolist())), p.numel()) for p in cut(value, 3)]
    with s3dlio_np.open(target.uri("m")) as stream:
        reader = ArchiveReader(stream)
        reader.check_pieces("data/0", pieces)
        for wrong in (pieces[::-1], pieces[1:], [(0, MIB)]):
            with pytest.raises(s3dlio_np.IntegrityError, match="archive/data/0.*CRC-32"):
                reader.check_pieces("data/0", wrong)
        with pytest.raises(ValueError, match="no record"):
            reader.check_pieces("data/1", pieces)
        with pytest.raises(TypeError):
            reader.check_pieces("data/0", [1])  # type: ignore[list-item]


# --- letting go ---------------------------------------------------------------------------------


@near
@pytest.mark.parametrize("part", [PART, 64 * MIB])
def test_memory_may_change_once_it_was_let_go(target: Any, part: int) -> None:
    memory = filled(3 * MIB)
    expected = b""
    with s3dlio_np.open(target.uri("m"), "wb", part_size=part, max_concurrency=2) as stream:
        for i in range(6):
            memory.fill_(i)
            send(stream, memory.untyped_storage(), 0, memory.numel())
            expected += bytes([i]) * memory.numel()
            stream.let_go(stream.tell())
            assert stream.stored_bytes <= stream.tell()
        memory.fill_(99)
    assert target.read("m") == expected
    assert stream.stored_bytes == len(expected)
    assert s3dlio_np.stats()["memory_held_bytes"] == 0
    with pytest.raises(ValueError, match="closed"):
        stream.let_go(0)


def test_letting_go_raises_what_the_upload_has_failed_with(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    memory = filled(12 * MIB)
    with pytest.raises(s3dlio_np.AccessDeniedError):
        with s3dlio_np.open(s3_own.uri("m"), "wb", part_size=PART) as stream:
            send(stream, memory.untyped_storage(), 0, memory.numel())
            stream.let_go(stream.tell())
    assert fault.hits() > 0
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- plans and slots ----------------------------------------------------------------------------


def test_a_plan_covers_all_items_in_order() -> None:
    sizes = [0, 1, 64, 65, 0, 1000, 63, 0]
    plan = _ring.Plan(sizes)
    assert plan.nbytes == sum(map(_ring.aligned, sizes))
    seen = [0] * len(sizes)
    while not plan.is_at_end:
        memory = torch.empty(192, dtype=torch.uint8)
        pieces = plan.fill(memory)
        assert pieces
        for piece in pieces:
            assert piece.at == seen[piece.item] and piece.memory.numel() > 0
            assert (piece.memory.data_ptr() - memory.data_ptr()) % _ring.ALIGNMENT == 0
            seen[piece.item] += piece.memory.numel()
    assert seen == sizes
    plan.seek(3, 10)
    plan.drop(5)
    pieces = plan.fill(torch.empty(1024, dtype=torch.uint8))
    assert [(piece.item, piece.at) for piece in pieces] == [(3, 10), (6, 0)]


@pytest.mark.parametrize(
    ("limit", "needed", "slots", "slot"),
    [
        (1 << 30, 1 << 30, 8, 16 * MIB),
        (1 << 30, 40 * MIB, 3, 16 * MIB),
        (1 << 30, 1000, 1, 1024),
        (64 * MIB, 1 << 30, 4, 16 * MIB),
        (3 * MIB, 1 << 30, 2, 3 * MIB // 2),
        (1, 1 << 30, 2, 64 << 10),
    ],
)
def test_slots_respect_the_memory_limit(
    monkeypatch: pytest.MonkeyPatch, limit: int, needed: int, slots: int, slot: int
) -> None:
    class Host:
        def host_memory(self, nbytes: int) -> torch.Tensor:
            return empty_tensors([nbytes])[0]

    monkeypatch.setattr(s3dlio_np, "stats", lambda: {"memory_limit_bytes": limit})
    made = _ring.make_slots(Host(), needed)  # type: ignore[arg-type]
    assert [one.memory.numel() for one in made] == [slot] * slots
