"""A store that answers late and sends slowly: fewer and longer requests, never more at once.

How fast that is, benchmarks/bench_torch.py tells; here requests are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import s3dlio_np
import s3dlio_torch
from tests.conftest import point_engine_at
from tests.servers.own import OwnServer

MIB = 1 << 20
PARTS, CONCURRENCY = 10, 2  # of 8 MiB, the default size
URI = "s3://bucket/far"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServer]:
    with OwnServer(latency_ms=20, bandwidth_mbps=400) as server:
        point_engine_at(server, monkeypatch)
        yield server


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {f"layer{i}": torch.rand(MIB) for i in range(2 * PARTS)}  # 4 MiB each


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def requests(server: OwnServer, op: str) -> int:
    """How many of them there were since the last time; never more than CONCURRENCY at once."""
    counters = server.counters()
    assert counters["max_requests"] <= CONCURRENCY
    server.reset()
    return int(counters["requests"].get(op, 0))


SAVES = {
    "save": lambda value, **how: s3dlio_torch.save(value, URI, **how),
    "async_save": lambda value, **how: s3dlio_torch.async_save(value, URI, **how).result(),
}


@pytest.mark.parametrize("name", SAVES)
def test_saves_in_large_parts(far: OwnServer, name: str) -> None:
    value = state()
    SAVES[name](value, max_concurrency=CONCURRENCY)
    parts = requests(far, "UploadPart")
    assert 2 <= parts < PARTS
    assert same(torch.load(s3dlio_np.open(URI)), value)


def test_saves_safetensors_in_large_parts(far: OwnServer) -> None:
    value = state()
    s3dlio_torch.save_safetensors(value, URI, max_concurrency=CONCURRENCY)
    assert 2 <= requests(far, "UploadPart") < PARTS
    assert same(s3dlio_torch.load_safetensors(URI), value)


def test_loads_in_long_ranges(far: OwnServer) -> None:
    value = state()
    s3dlio_torch.save(value, URI)
    far.reset()
    assert same(s3dlio_torch.load(URI, max_concurrency=CONCURRENCY), value)
    assert 4 <= requests(far, "GetObject") < PARTS  # the directory and the pickle are two


def test_keeps_to_a_part_size(far: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    value = state()
    given: dict[str, Any] = {"part_size": 8 * MIB, "max_concurrency": CONCURRENCY}
    s3dlio_torch.save(value, URI, **given)
    assert requests(far, "UploadPart") > PARTS
    s3dlio_torch.load(URI, **given)
    assert requests(far, "GetObject") > PARTS
    monkeypatch.setenv("S3DLIO_PUT_PART_SIZE", str(8 * MIB))
    monkeypatch.setenv("S3DLIO_GET_PART_SIZE", str(8 * MIB))
    s3dlio_torch.save(value, URI, max_concurrency=CONCURRENCY)
    assert requests(far, "UploadPart") > PARTS
    s3dlio_torch.load(URI, max_concurrency=CONCURRENCY)
    assert requests(far, "GetObject") > PARTS


def test_streams(far: OwnServer) -> None:
    """torch.save and torch.load over file objects: every byte is sent once."""
    value = state()
    with s3dlio_np.open(URI, "wb", max_concurrency=CONCURRENCY) as stream:
        torch.save(value, stream)
    assert 2 <= requests(far, "UploadPart") <= PARTS + 1
    with s3dlio_np.open(URI, max_concurrency=CONCURRENCY) as stream:
        assert same(torch.load(stream), value)
    size = s3dlio_np.stat(URI)["size"]
    sent = far.counters()["bytes_out"]
    assert size <= sent < size + 2 * MIB
    requests(far, "GetObject")


def test_gets_in_long_ranges(far: OwnServer) -> None:
    data = bytes(range(256)) * (PARTS * 8 * MIB // 256)
    s3dlio_np.put(URI, data, options=s3dlio_np.WriterOptions(max_concurrency=CONCURRENCY))
    assert 2 <= requests(far, "UploadPart") <= PARTS
    assert s3dlio_np.get_bytes(URI, max_concurrency=CONCURRENCY) == data
    assert 3 <= requests(far, "GetObject") < PARTS


def test_expect_is_a_hint(far: OwnServer) -> None:
    with s3dlio_np.open(URI, "wb") as stream:
        stream.expect(10**15)
        stream.write(b"little")
    assert s3dlio_np.get_bytes(URI) == b"little"
    with pytest.raises((ValueError, OverflowError)):
        stream.expect(-1)
    with pytest.raises(ValueError, match="closed"):
        stream.expect(1)
