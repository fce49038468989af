"""The checksum that is kept with an object, compared when it is read; verify(); writes that replace one version only."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from s3dlio_np import WriterOptions
from tests.conftest import FileTarget, S3Target, earn_retries, point_engine_at
from tests.marks import near
from tests.servers.own import OwnServer

PART = 5 * 2**20
RANGE = 2**20
SETTING = "AWS_RESPONSE_CHECKSUM_VALIDATION"
ATTRIBUTE = "user.s3dlio.checksum"
ATTEMPTS = 5
SIZES = [1, 1000, 256 * 1024, 256 * 1024 + 1, 3 * 2**20 + 77, 11 * 2**20]


@pytest.fixture(scope="module")
def running() -> Iterator[OwnServer]:
    with OwnServer(buckets=("sums",)) as started:
        yield started


@pytest.fixture
def server(running: OwnServer, monkeypatch: pytest.MonkeyPatch) -> OwnServer:
    """With validation on, and a threshold that makes ranges of all but small objects."""
    running.reset(objects=True)
    point_engine_at(running, monkeypatch)
    monkeypatch.setenv(SETTING, "when_supported")
    monkeypatch.setenv("S3DLIO_GET_THRESHOLD", str(2 * RANGE))
    monkeypatch.setenv("S3DLIO_GET_PART_SIZE", str(RANGE))
    earn_retries("s3://sums/none", ATTEMPTS * 5)
    return running


def some_bytes(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def store(data: bytes, checksum: str = "crc64nvme", key: str = "key") -> str:
    uri = f"s3://sums/{key}"
    s3dlio_np.put(uri, data, options=WriterOptions(checksum=checksum, part_size=PART))
    return uri


# --- ways to read a whole object, all of which must notice ---------------------------------------


def into(uri: str) -> bytes:
    buffer = bytearray(s3dlio_np.stat(uri)["size"])
    assert s3dlio_np.get_into(uri, buffer) == len(buffer)
    return bytes(buffer)


def into_of_known_length(uri: str) -> bytes:
    size = int(uri.rsplit("-", 1)[1])
    buffer = bytearray(size)
    s3dlio_np.get_into(uri, buffer, length=size)
    return bytes(buffer)


def in_small_reads(uri: str) -> bytes:
    with s3dlio_np.open(uri) as f:
        return b"".join(iter(lambda: f.read(100_001), b""))


def in_one_read(uri: str) -> bytes:
    with s3dlio_np.open(uri) as f:
        data: bytes = f.read()
    return data


def with_a_look_elsewhere(uri: str) -> bytes:
    """What zip readers and the like do first does not end the check."""
    with s3dlio_np.open(uri) as f:
        f.read(4)
        f.seek(-1, os.SEEK_END)
        f.read()
        f.seek(0)
        return b"".join(iter(lambda: f.read(2**19 - 1), b""))


WAYS: list[Callable[[str], bytes]] = [
    s3dlio_np.get_bytes,
    lambda uri: bytes(s3dlio_np.get_bytes_view(uri)),
    lambda uri: s3dlio_np.get_bytes(uri, concurrent=False),
    lambda uri: s3dlio_np.get_bytes(uri, concurrent=True),
    into,
    into_of_known_length,
    in_small_reads,
    in_one_read,
    with_a_look_elsewhere,
]
NAMES = [
    "bytes", "view", "single", "ranges", "into", "into-length", "small-reads", "read", "seeks",
]
ways = pytest.mark.parametrize("read", WAYS, ids=NAMES)


@ways
@pytest.mark.parametrize("size", SIZES)
def test_good_bytes_pass(server: OwnServer, read: Callable[[str], bytes], size: int) -> None:
    data = some_bytes(size)
    assert read(store(data, key=f"key-{size}")) == data


@ways
@pytest.mark.parametrize("size", SIZES)
def test_a_flipped_bit_is_noticed(
    server: OwnServer, read: Callable[[str], bytes], size: int
) -> None:
    uri = store(some_bytes(size), key=f"key-{size}")
    fault = server.add_fault(op="GetObject", kind="corrupt", offset=size // 2, count=-1)
    with pytest.raises(s3dlio_np.IntegrityError, match="crc64nvme is .* but the store keeps") as seen:
        read(uri)
    assert fault.hits() >= 1
    assert seen.value.uri == uri
    assert seen.value.operation == "GetObject"
    assert seen.value.code == "INTEGRITY"


@ways
@pytest.mark.parametrize("size", [1, 1000, 256 * 1024])
def test_a_flipped_bit_in_the_only_answer_is_asked_for_again(
    server: OwnServer, read: Callable[[str], bytes], size: int
) -> None:
    data = some_bytes(size)
    uri = store(data, key=f"key-{size}")
    fault = server.add_fault(op="GetObject", kind="corrupt", offset=size // 2, count=2)
    retries = s3dlio_np.stats()["retries"]
    assert read(uri) == data
    assert fault.hits() == 2
    assert s3dlio_np.stats()["retries"] == retries + 2


@ways
@pytest.mark.parametrize("size", [1000, 3 * 2**20])
def test_without_validation_nobody_notices(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], bytes], size: int
) -> None:
    """That the faults here are some; and that nothing more is sent."""
    monkeypatch.setenv(SETTING, "when_required")
    data = some_bytes(size)
    uri = store(data, key=f"key-{size}")
    fault = server.add_fault(op="GetObject", kind="corrupt", offset=1)
    assert read(uri) != data
    assert fault.hits() == 1


@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c", "crc32"])
@pytest.mark.parametrize("size", [1000, 5 * 2**20 + 1])
def test_every_kind(server: OwnServer, algorithm: str, size: int) -> None:
    data = some_bytes(size)
    uri = store(data, algorithm)
    assert s3dlio_np.get_bytes(uri) == data
    fault = server.add_fault(op="GetObject", kind="corrupt", offset=size - 1, count=-1)
    with pytest.raises(s3dlio_np.IntegrityError, match=algorithm):
        s3dlio_np.get_bytes(uri)
    assert fault.hits() >= 1


@pytest.mark.parametrize("size", [1000, 3 * 2**20])
@pytest.mark.parametrize("op", ["GetObject", "HeadObject"])
def test_a_wrong_stored_value(server: OwnServer, size: int, op: str) -> None:
    """Of a small object the answer tells it, of another a request for it."""
    uri = store(some_bytes(size))
    silent = server.add_fault(op="GetObject", kind="no_sum", count=-1) if op == "HeadObject" else None
    fault = server.add_fault(op="any", kind="wrong_sum", count=-1)
    with pytest.raises(s3dlio_np.IntegrityError, match="keeps AAAAAAAAAAA="):
        s3dlio_np.get_bytes(uri)
    # Told by the only answer, it is an attempt that has failed.
    assert fault.hits() == (ATTEMPTS if size < RANGE and op == "GetObject" else 1)
    if silent is not None and size < RANGE:
        assert silent.hits() == 1


@ways
@pytest.mark.parametrize("kind", ["composite_sum", "no_sum"])
@pytest.mark.parametrize("size", [1000, 3 * 2**20])
def test_what_cannot_be_compared_is_not(
    server: OwnServer, read: Callable[[str], bytes], kind: str, size: int
) -> None:
    data = some_bytes(size)
    uri = store(data, key=f"key-{size}")
    fault = server.add_fault(op="any", kind=kind, count=-1)
    assert read(uri) == data
    assert fault.hits() >= 1


def test_an_object_without_one(server: OwnServer) -> None:
    data = some_bytes(3 * 2**20)
    server.put_object("sums", "plain", data)
    server.put_object("sums", "empty", b"")
    assert s3dlio_np.get_bytes("s3://sums/plain") == data
    assert s3dlio_np.get_bytes("s3://sums/empty") == b""
    assert in_one_read("s3://sums/empty") == b""


def test_an_object_replaced_before_the_question(server: OwnServer) -> None:
    """The bytes are all of the version that was read, of which nothing is known any more."""
    data = some_bytes(100_000)
    uri = store(data)
    silent = server.add_fault(op="GetObject", kind="no_sum")
    other = server.add_fault(op="HeadObject", kind="etag_change")
    assert s3dlio_np.get_bytes(uri) == data
    assert silent.hits() == other.hits() == 1


def test_a_question_that_fails(server: OwnServer) -> None:
    uri = store(some_bytes(3 * 2**20))
    fault = server.add_fault(op="HeadObject", kind="status", status=403, code="AccessDenied")
    with pytest.raises(s3dlio_np.AccessDeniedError):
        s3dlio_np.get_bytes(uri)
    assert fault.hits() == 1


def test_a_part_of_an_object_is_not_compared(server: OwnServer) -> None:
    data = some_bytes(4 * 2**20)
    uri = store(data)
    fault = server.add_fault(op="any", kind="wrong_sum", count=-1)
    buffer = bytearray(3 * 2**20)
    s3dlio_np.get_into(uri, buffer, length=len(buffer))
    assert bytes(buffer) == data[: len(buffer)]
    s3dlio_np.get_into(uri, buffer, offset=2**20, length=len(buffer))
    assert bytes(buffer) == data[2**20 :]
    with s3dlio_np.open(uri) as f:
        f.seek(1)
        assert f.read() == data[1:]
    assert fault.hits() == 0


def test_a_small_object_takes_no_further_request(server: OwnServer) -> None:
    uri = store(some_bytes(1000))
    server.reset()
    s3dlio_np.get_bytes(uri)
    in_one_read(uri)
    requests = server.counters()["requests"]
    assert {op: count for op, count in requests.items() if count} == {"GetObject": 2}


# --- loads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.npy", "a.data"])
@pytest.mark.parametrize("count", [10, 200_000, 1_500_000])
def test_a_loaded_array(server: OwnServer, name: str, count: int) -> None:
    array = np.arange(count, dtype=np.float64)
    uri = f"s3://sums/{name}"
    s3dlio_np.save(uri, array, options=WriterOptions(checksum="crc64nvme"))
    assert np.array_equal(s3dlio_np.load(uri), array)
    fault = server.add_fault(op="any", kind="wrong_sum", count=-1)
    with pytest.raises(s3dlio_np.IntegrityError):
        s3dlio_np.load(uri)
    assert fault.hits() >= 1


@pytest.mark.parametrize("size", [1000, 3 * 2**20])
def test_a_loaded_pickle(server: OwnServer, size: int) -> None:
    """By pickle itself, so that only the stream is under test."""
    uri = store(pickle.dumps(some_bytes(size)))
    with s3dlio_np.open(uri) as f:
        assert pickle.load(f) == some_bytes(size)
    fault = server.add_fault(op="GetObject", kind="corrupt", offset=500, count=-1)
    with pytest.raises(s3dlio_np.IntegrityError), s3dlio_np.open(uri) as f:
        pickle.load(f)
    assert fault.hits() >= 1


@pytest.mark.parametrize("count", [10, 1_500_000])
def test_loaded_safetensors(server: OwnServer, count: int) -> None:
    uri = "s3://sums/a.safetensors"
    arrays = {"a": np.arange(count, dtype=np.float64), "b": np.ones(count, np.float32)}
    s3dlio_np.save_safetensors(arrays, uri, options=WriterOptions(checksum="crc64nvme"))
    loaded = s3dlio_np.load_safetensors(uri)
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    fault = server.add_fault(op="any", kind="wrong_sum", count=-1)
    with pytest.raises(s3dlio_np.IntegrityError):
        s3dlio_np.load_safetensors(uri)
    assert fault.hits() >= 1


@pytest.mark.parametrize("size", [1000, 3 * 2**20])
def test_a_compressed_object(server: OwnServer, size: int) -> None:
    """The sum is that of what is stored."""
    data, uri = some_bytes(size), "s3://sums/packed"
    s3dlio_np.put(uri, data, options=WriterOptions(checksum="crc64nvme", compression="zstd"))
    assert s3dlio_np.get_bytes(uri) == data
    assert in_small_reads(uri) == data
    found = s3dlio_np.verify(uri)
    assert found is not None
    assert found.ok


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "configured", "profile", "checks"),
    [
        (None, None, None, False),  # a custom endpoint
        ("when_supported", None, None, True),
        ("WHEN_SUPPORTED", None, None, True),
        ("when_required", None, None, False),
        ("when_required", "when_supported", None, True),
        (None, None, "when_supported", True),
        ("when_required", None, "when_supported", False),
    ],
)
def test_who_decides(
    server: OwnServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: str | None,
    configured: str | None,
    profile: str | None,
    checks: bool,
) -> None:
    uri = store(b"data")
    monkeypatch.delenv(SETTING)
    if environment:
        monkeypatch.setenv(SETTING, environment)
    if profile:
        config = tmp_path / "config"
        config.write_text(f"[default]\nresponse_checksum_validation = {profile}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    fault = server.add_fault(op="GetObject", kind="wrong_sum", count=-1)
    s3dlio_np.configure(checksum_validation=configured)
    try:
        if checks:
            with pytest.raises(s3dlio_np.IntegrityError):
                s3dlio_np.get_bytes(uri)
        else:
            assert s3dlio_np.get_bytes(uri) == b"data"
            assert s3dlio_np.stat(uri)["checksum"] is None
    finally:
        s3dlio_np.configure(checksum_validation=None)
    assert fault.hits() == (ATTEMPTS if checks else 0)


def test_a_setting_that_does_not_exist(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "sometimes")
    with pytest.raises(ValueError, match=rf"{SETTING}.*sometimes"):
        s3dlio_np.get_bytes("s3://sums/key")


# --- verify() --------------------------------------------------------------------------------------


@near
@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c", "crc32"])
@pytest.mark.parametrize("size", [0, 1000, 2 * PART + 3])
def test_verify(target: S3Target | FileTarget, algorithm: str, size: int) -> None:
    """Asks in any case: validation is not on here."""
    data = some_bytes(size)
    uri = target.uri("object")
    s3dlio_np.put(uri, data, options=WriterOptions(checksum=algorithm, part_size=PART))
    found = s3dlio_np.verify(uri)
    assert found is not None
    assert found.ok
    assert found.uri == uri
    assert (found.size, found.algorithm) == (size, algorithm)
    assert found.etag == s3dlio_np.stat(uri)["etag"]
    if algorithm == "crc32":
        assert base64.b64decode(found.stored) == zlib.crc32(data).to_bytes(4, "big")


@near
def test_verify_finds_nothing_to_compare(target: S3Target | FileTarget) -> None:
    target.write("plain", b"data")
    assert s3dlio_np.verify(target.uri("plain")) is None
    with pytest.raises(FileNotFoundError):
        s3dlio_np.verify(target.uri("missing"))


@pytest.mark.parametrize("validation", ["when_supported", "when_required"])
@pytest.mark.parametrize(("size", "skip"), [(3 * 2**20, 1), (1000, 0)])
def test_verify_reports_a_flipped_bit(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch, validation: str, size: int, skip: int
) -> None:
    """Also of an object in one answer, which others would ask for again."""
    monkeypatch.setenv(SETTING, validation)
    uri = store(some_bytes(size))
    fault = server.add_fault(op="GetObject", kind="corrupt", skip=skip)
    found = s3dlio_np.verify(uri)
    assert fault.hits() == 1
    assert found is not None
    assert not found.ok
    assert found.stored != found.computed
    good = s3dlio_np.verify(uri)
    assert good is not None
    assert good.ok
    assert good.stored == found.stored


def test_verify_and_a_composite(server: OwnServer) -> None:
    uri = store(b"data")
    fault = server.add_fault(op="HeadObject", kind="composite_sum")
    assert s3dlio_np.verify(uri) is None
    assert fault.hits() == 1


def test_verify_of_an_object_that_is_replaced(server: OwnServer) -> None:
    uri = store(b"data")
    fault = server.add_fault(op="GetObject", kind="etag_change")
    with pytest.raises(s3dlio_np.ObjectChangedError):
        s3dlio_np.verify(uri)
    assert fault.hits() == 1


def test_stat_tells_it(server: OwnServer) -> None:
    uri = store(b"123456789")
    value = base64.b64encode(bytes.fromhex("ae8b14860a799888")).decode()
    assert s3dlio_np.stat(uri)["checksum"] == f"crc64nvme:{value}"


# --- files -----------------------------------------------------------------------------------------


def test_a_files_attribute(tmp_path: Path) -> None:
    path = tmp_path / "file"
    s3dlio_np.put(path, b"123456789", options=WriterOptions(checksum="crc64nvme"))
    value = base64.b64encode(bytes.fromhex("ae8b14860a799888")).decode()
    assert os.getxattr(path, ATTRIBUTE).decode() == f"crc64nvme:{value}"
    assert s3dlio_np.stat(path)["checksum"] == f"crc64nvme:{value}"


@pytest.mark.parametrize("checksum", [None, "none"])
def test_a_file_has_none_by_default(tmp_path: Path, checksum: str | None) -> None:
    path = tmp_path / "file"
    s3dlio_np.put(path, b"data", options=WriterOptions(checksum="crc32"))
    s3dlio_np.put(path, b"other", options=WriterOptions(checksum=checksum))
    assert os.listxattr(path) == []
    assert s3dlio_np.stat(path)["checksum"] is None


def test_a_file_that_rotted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = some_bytes(2 * PART + 1)
    s3dlio_np.put(path, data, options=WriterOptions(checksum="crc32c", part_size=PART))
    with path.open("r+b") as f:
        f.seek(PART + 5)
        f.write(bytes([data[PART + 5] ^ 1]))
    found = s3dlio_np.verify(path)
    assert found is not None
    assert not found.ok
    assert s3dlio_np.get_bytes(path) == path.read_bytes()  # readers do not look


def test_a_file_without_write_permission(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    s3dlio_np.put(path, b"new", options=WriterOptions(checksum="crc32"))
    assert path.stat().st_mode & 0o777 == 0o444
    found = s3dlio_np.verify(path)
    assert found is not None
    assert found.ok


@pytest.mark.parametrize("text", [b"", b"md5:abc", b"crc32", b"crc32:", b"x" * 200, b"crc32:" + b"A" * 40])
def test_an_attribute_of_somebody_elses(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    os.setxattr(path, ATTRIBUTE, text)
    assert s3dlio_np.stat(path)["checksum"] is None
    assert s3dlio_np.verify(path) is None


def test_an_attribute_moves_with_the_file(tmp_path: Path) -> None:
    s3dlio_np.put(tmp_path / "file", b"data", options=WriterOptions(checksum="crc32"))
    shutil.copy2(tmp_path / "file", tmp_path / "copy")
    found = s3dlio_np.verify(tmp_path / "copy")
    assert found is not None
    assert found.ok


# --- if_match --------------------------------------------------------------------------------------


def replace(uri: Any, data: bytes, etag: str) -> None:
    s3dlio_np.put(uri, data, options=WriterOptions(if_match=etag, part_size=PART))


@near
@pytest.mark.parametrize("size", [10, 2 * PART + 1])
def test_a_version_is_replaced(target: S3Target | FileTarget, size: int) -> None:
    uri, data = target.uri("object"), some_bytes(size)
    s3dlio_np.put(uri, b"first")
    replace(uri, data, s3dlio_np.stat(uri)["etag"])
    assert target.read("object") == data
    assert target.leftovers() == []


@near
@pytest.mark.parametrize("size", [10, 2 * PART + 1])
def test_another_version_is_not(target: S3Target | FileTarget, size: int) -> None:
    uri = target.uri("object")
    old = s3dlio_np.put(uri, b"first")["etag"]
    s3dlio_np.put(uri, b"second one")
    with pytest.raises(s3dlio_np.ObjectChangedError):
        replace(uri, some_bytes(size), old)
    assert target.read("object") == b"second one"
    assert target.leftovers() == []


@near
@pytest.mark.parametrize("size", [10, 2 * PART + 1])
def test_a_deleted_version_is_not_written_again(target: S3Target | FileTarget, size: int) -> None:
    uri = target.uri("object")
    old = s3dlio_np.put(uri, b"first")["etag"]
    s3dlio_np.delete(uri)
    with pytest.raises(s3dlio_np.ObjectChangedError):
        replace(uri, some_bytes(size), old)
    assert not target.exists("object")
    assert target.leftovers() == []


@near
@pytest.mark.parametrize("size", [10, 2 * PART + 1])
def test_a_race_lost_while_writing(target: S3Target | FileTarget, size: int) -> None:
    """Two writers begin with the same version: the first to close wins."""
    uri = target.uri("object")
    etag = s3dlio_np.put(uri, b"first")["etag"]
    options = WriterOptions(if_match=etag, part_size=PART)
    late = s3dlio_np.open(uri, "wb", options=options)
    late.write(some_bytes(size))
    replace(uri, b"quick", etag)
    with pytest.raises(s3dlio_np.ObjectChangedError):
        late.close()
    assert target.read("object") == b"quick"
    assert target.leftovers() == []


@near
def test_a_counter_that_loses_nothing(target: S3Target | FileTarget) -> None:
    """What if_match is for, one writer after the other."""
    uri = target.uri("counter")
    s3dlio_np.put(uri, b"0")
    for _ in range(5):
        etag, value = s3dlio_np.stat(uri)["etag"], int(s3dlio_np.get_bytes(uri))
        replace(uri, str(value + 1).encode(), etag)
    assert target.read("counter") == b"5"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"if_match": '"a"', "if_none_match": True}, ValueError),
        ({"if_match": ""}, ValueError),
        ({"if_match": '"a"\r\nx: y'}, ValueError),
        ({"if_match": True}, TypeError),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="if_match"):
        WriterOptions(**options)
