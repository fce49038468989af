"""Whole objects, output streams, settings and counters: what s3dlio_np has besides open()."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np

PART = 5 * 1024 * 1024  # the smallest that S3 takes
DATA = np.random.default_rng(7).integers(0, 256, 3 * PART + 12345, dtype=np.uint8).tobytes()


# --- whole objects ------------------------------------------------------------------------------


def test_put_stat_list_delete(target: Any) -> None:
    for name in ("dir-a", "dir-b ü", "dir-c%41"):
        result = s3dlio_np.put(target.uri(name), np.arange(4, dtype=np.int32))
        assert (result["size"], result["uri"]) == (16, target.uri(name))
    info = s3dlio_np.stat(target.uri("dir-a"))
    assert (info["size"], info["uri"]) == (16, target.uri("dir-a"))
    assert info["last_modified"] is not None
    assert info["last_modified"].utcoffset() is not None
    rows = s3dlio_np.list(target.uri("dir-"))
    assert [row["uri"] for row in rows] == sorted(
        target.uri(name) for name in ("dir-a", "dir-b ü", "dir-c%41")
    )
    assert all(s3dlio_np.stat(row["uri"]) == {**row, "checksum": None} for row in rows)
    for row in rows:
        s3dlio_np.delete(row["uri"])
    assert s3dlio_np.list(target.uri("")) == []


def test_list_has_all_pages(s3_own: Any) -> None:
    for i in range(1100):
        s3_own.put(f"many/{i:04}", b"")
    assert len(s3dlio_np.list(s3_own.uri("many/"))) == 1100
    assert s3_own.server.counters()["requests"]["ListObjectsV2"] == 2


@pytest.mark.parametrize("size", [10, 300_000, len(DATA)])
@pytest.mark.parametrize("threshold", [0, 2**40])
def test_get_whole(target: Any, size: int, threshold: int) -> None:
    target.write("data", DATA[:size])
    s3dlio_np.configure(get_threshold_bytes=threshold)
    try:
        data = s3dlio_np.get_bytes(target.uri("data"), part_size=65536, max_concurrency=5)
        view = s3dlio_np.get_bytes_view(target.uri("data"), part_size=65536)
        writable = s3dlio_np.get_bytes(target.uri("data"), writable=True)
    finally:
        s3dlio_np.configure(get_threshold_bytes=None)
    assert type(data) is bytes
    assert data == view == writable == DATA[:size]
    assert (view.readonly, writable.readonly) == (True, False)
    with pytest.raises(TypeError):
        view[0] = 1
    writable[0] ^= 255
    assert np.frombuffer(view, np.uint8)[0] == DATA[0]


def test_get_into(target: Any) -> None:
    target.write("data", DATA)
    array = np.zeros(len(DATA) + 10, np.uint8)
    assert s3dlio_np.get_into(target.uri("data"), array) == len(DATA)
    assert array[: len(DATA)].tobytes() == DATA
    assert not array[len(DATA) :].any()
    small = np.zeros((3, 5), ">i2", order="F")
    got = s3dlio_np.get_into(
        target.uri("data"), small, offset=PART, length=30, part_size=65536, max_concurrency=1
    )
    assert (got, small.tobytes(order="A")) == (30, DATA[PART : PART + 30])
    assert s3dlio_np.get_into(target.uri("data"), bytearray(9), offset=len(DATA) - 9) == 9
    assert s3dlio_np.get_into(target.uri("data"), bytearray(9), offset=len(DATA)) == 0
    assert s3dlio_np.get_into(target.uri("data"), bytearray(9), length=0) == 0


def test_get_into_refuses(target: Any) -> None:
    target.write("data", DATA[:100])
    uri = target.uri("data")
    for keywords in ({"length": 10}, {}, {"offset": 50}):
        with pytest.raises(ValueError, match="do not fit"):
            s3dlio_np.get_into(uri, bytearray(9), **keywords)
    with pytest.raises(TypeError, match="read-only"):
        s3dlio_np.get_into(uri, b"123")
    with pytest.raises(ValueError, match="contiguous"):
        s3dlio_np.get_into(uri, np.zeros(400, np.uint8)[::2])
    for keywords in ({"offset": 101}, {"offset": 95, "length": 9}):
        with pytest.raises(s3dlio_np.StorageError) as caught:
            s3dlio_np.get_into(uri, bytearray(9), **keywords)
        assert caught.value.code == "RANGE"


def test_output_streams(target: Any) -> None:
    stream = s3dlio_np.open_stream(target.uri("a"), part_size=PART, max_concurrency=2)
    assert isinstance(stream, s3dlio_np.PyObjectStream)
    assert stream.write_bytes(b"abc") == 3
    stream.flush()
    assert (stream.mode, stream.writable(), stream.readable()) == ("wb", True, False)
    assert stream.seekable() is False
    result = stream.close()
    assert (result["size"], result["bytes_written"], result["uri"]) == (3, 3, target.uri("a"))
    assert stream.close() is result
    with s3dlio_np.S3OutputStream(target.uri("b")) as other:
        other.write(b"12")
    assert other.close()["size"] == 2
    with pytest.warns(ResourceWarning, match="unclosed"):
        s3dlio_np.S3OutputStream(target.uri("c")).write(b"half")
    assert target.names() == ["a", "b"]


# --- settings -----------------------------------------------------------------------------------


def test_configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="no_such_setting"):
        s3dlio_np.configure(no_such_setting=1)
    with pytest.raises(ValueError, match="put_inflight"):
        s3dlio_np.configure(put_inflight=5000)
    with pytest.raises(TypeError, match="region"):
        s3dlio_np.configure(region=[1])  # type: ignore[arg-type]
    monkeypatch.setenv("S3DLIO_GET_INFLIGHT", "many")
    with pytest.raises(ValueError, match="S3DLIO_GET_INFLIGHT"):
        s3dlio_np.open(path)
    s3dlio_np.configure(get_inflight=3, sign_payload=False, ca_bundle=tmp_path)
    try:
        s3dlio_np.open(path).close()
    finally:
        s3dlio_np.configure(get_inflight=None, sign_payload=None, ca_bundle=None)
    with pytest.raises(ValueError, match="S3DLIO_GET_INFLIGHT"):
        s3dlio_np.open(path)


def test_stats_count(s3_own: Any) -> None:
    before = s3dlio_np.stats()
    with s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART) as stream:
        stream.write(DATA)
    with s3dlio_np.open(s3_own.uri("new")) as reader:
        reader.read()
    after = s3dlio_np.stats()
    assert after["objects_written"] == before["objects_written"] + 1
    assert after["objects_opened"] == before["objects_opened"] + 1
    assert after["bytes_sent"] - before["bytes_sent"] >= len(DATA)
    assert after["bytes_received"] - before["bytes_received"] >= len(DATA)
    assert after["memory_held_bytes"] == before["memory_held_bytes"]
    assert 0 < after["memory_peak_bytes"] <= after["memory_limit_bytes"]


def test_torch_is_not_imported() -> None:
    script = "import sys, s3dlio_np; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


def test_sub_interpreters_are_refused() -> None:
    script = (
        "import s3dlio_np\n"
        "try:\n import _interpreters as i\nexcept ImportError:\n import _xxsubinterpreters as i\n"
        "import sys\n"
        "made = i.create()\n"
        'code = "import sys; sys.path[:] = %r\\nimport s3dlio_np" % sys.path\n'
        "try:\n failure = i.run_string(made, code)\nexcept Exception as e:\n failure = e\n"
        "text = str(getattr(failure, 'msg', failure))\n"
        "sys.exit(0 if 'interpreter' in text else 'not refused: %r' % (failure,))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
