"""Checksums that go with every part and for the whole object, checked by the store."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator

import pytest

import s3dlio_np
from s3dlio_np import WriterOptions
from tests.conftest import point_engine_at
from tests.servers.own import OwnServer

ALGORITHMS = ("crc64nvme", "crc32c", "crc32")
PART = 5 * 2**20
GENERATORS = {"crc64nvme": (64, 0x9A6C9329AC4BC9B5), "crc32c": (32, 0x82F63B78), "crc32": (32, 0xEDB88320)}


def checksum(algorithm: str, data: bytes) -> str:
    """As S3 writes it, from the definition; for short data."""
    bits, generator = GENERATORS[algorithm]
    ones = (1 << bits) - 1
    crc = ones
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (generator if crc & 1 else 0)
    return base64.b64encode((crc ^ ones).to_bytes(bits // 8, "big")).decode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServer]:
    with OwnServer(buckets=("sums",)) as started:
        point_engine_at(started, monkeypatch)
        yield started


def stored(server: OwnServer, key: str) -> dict[str, str]:
    """The checksum headers of an object, for one who asks."""
    answer = server.request("HEAD", f"/sums/{key}", headers={"x-amz-checksum-mode": "ENABLED"})
    return {
        name.lower(): value
        for name, value in answer.headers.items()
        if name.lower().startswith("x-amz-checksum")
    }


def test_the_definition_is_right() -> None:
    assert base64.b64decode(checksum("crc64nvme", b"123456789")).hex() == "ae8b14860a799888"
    assert int.from_bytes(base64.b64decode(checksum("crc32", b"abc")), "big") == zlib.crc32(b"abc")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data", [b"", b"x", b"0123456789" * 100])
def test_a_put_carries_it(server: OwnServer, algorithm: str, data: bytes) -> None:
    s3dlio_np.put("s3://sums/one", data, options=WriterOptions(checksum=algorithm))
    assert stored(server, "one") == {
        f"x-amz-checksum-{algorithm}": checksum(algorithm, data),
        "x-amz-checksum-type": "FULL_OBJECT",
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [2 * PART, 3 * PART + 12345])
def test_an_upload_carries_the_whole_objects(server: OwnServer, algorithm: str, size: int) -> None:
    """The server sums up the object anew, by other code, and refuses what does not match."""
    data = bytes(range(251)) * (size // 251 + 1)
    with s3dlio_np.open(
        "s3://sums/many", "wb", part_size=PART, options=WriterOptions(checksum=algorithm)
    ) as f:
        f.write(data[:size])
    assert server.counters()["requests"]["UploadPart"] == -(-size // PART)
    sums = stored(server, "many")
    assert set(sums) == {f"x-amz-checksum-{algorithm}", "x-amz-checksum-type"}
    if algorithm == "crc32":
        whole = zlib.crc32(data[:size]).to_bytes(4, "big")
        assert base64.b64decode(sums["x-amz-checksum-crc32"]) == whole
    assert s3dlio_np.get_bytes("s3://sums/many") == data[:size]


@pytest.mark.parametrize(
    ("setting", "option", "expected"),
    [
        (None, None, None),  # a custom endpoint
        ("when_required", None, None),
        ("when_supported", None, "crc64nvme"),
        ("WHEN_SUPPORTED", None, "crc64nvme"),
        ("when_supported", "none", None),
        ("when_required", "crc32c", "crc32c"),
    ],
)
def test_who_decides(
    server: OwnServer,
    monkeypatch: pytest.MonkeyPatch,
    setting: str | None,
    option: str | None,
    expected: str | None,
) -> None:
    if setting:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", setting)
    s3dlio_np.put("s3://sums/key", b"data", options=WriterOptions(checksum=option))
    names = set(stored(server, "key")) - {"x-amz-checksum-type"}
    assert names == ({f"x-amz-checksum-{expected}"} if expected else set())


def test_a_setting_that_does_not_exist(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "sometimes")
    with pytest.raises(ValueError, match=r"AWS_REQUEST_CHECKSUM_CALCULATION.*sometimes"):
        s3dlio_np.put("s3://sums/key", b"data")


@pytest.mark.parametrize("wrong", ["md5", "CRC32", ""])
def test_an_algorithm_that_does_not_exist(wrong: str) -> None:
    with pytest.raises(ValueError, match="checksum is"):
        WriterOptions(checksum=wrong)


@pytest.mark.parametrize(("op", "size"), [("PutObject", 1000), ("UploadPart", 3 * PART)])
def test_a_flipped_bit_on_the_way_is_sent_again(server: OwnServer, op: str, size: int) -> None:
    data = b"\x5a" * size
    fault = server.add_fault(op=op, kind="corrupt")
    options = WriterOptions(checksum="crc64nvme", part_size=PART)
    s3dlio_np.put("s3://sums/key", data, options=options)
    assert fault.hits() == 1
    assert s3dlio_np.get_bytes("s3://sums/key") == data


def test_without_a_checksum_nobody_notices(server: OwnServer) -> None:
    """That the fault above is one."""
    fault = server.add_fault(op="PutObject", kind="corrupt")
    s3dlio_np.put("s3://sums/key", b"\x5a" * 1000)
    assert fault.hits() == 1
    assert s3dlio_np.get_bytes("s3://sums/key") != b"\x5a" * 1000


def test_bits_that_always_flip_are_an_error(server: OwnServer) -> None:
    fault = server.add_fault(op="PutObject", kind="corrupt", count=-1)
    with pytest.raises(s3dlio_np.IntegrityError, match="BadDigest"):
        s3dlio_np.put("s3://sums/key", b"data", options=WriterOptions(checksum="crc32c"))
    assert fault.hits() > 1
    assert not s3dlio_np.exists("s3://sums/key")


def test_a_signed_body_has_both(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_SIGN_PAYLOAD", "1")
    s3dlio_np.put("s3://sums/key", b"data", options=WriterOptions(checksum="crc64nvme"))
    assert "x-amz-checksum-crc64nvme" in stored(server, "key")
