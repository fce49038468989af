"""save_torch_state and load_torch_state."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

import s3dlio_np
import s3dlio_torch

PART = 5 * 1024 * 1024


def make_model() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(700, 900), torch.nn.BatchNorm1d(900), torch.nn.Linear(900, 1500)
    )


def assert_same(one: Any, other: Any) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name])


def test_there_and_back(target: Any) -> None:
    state = make_model().state_dict()
    told = s3dlio_torch.save_torch_state(target.uri("m.pt"), state, part_size=PART)
    stored = target.read("m.pt")
    assert told == {
        "size": len(stored),
        "bytes_written": len(stored),
        "etag": s3dlio_np.stat(target.uri("m.pt"))["etag"],
        "uri": target.uri("m.pt"),
    }
    assert_same(torch.load(io.BytesIO(stored)), state)
    for concurrent in (True, False):
        loaded = s3dlio_torch.load_torch_state(target.uri("m.pt"), concurrent=concurrent)
        assert isinstance(loaded, OrderedDict)
        assert_same(loaded, state)
        make_model().load_state_dict(loaded)


def test_the_same_file_as_save(target: Any) -> None:
    state = {"a": torch.arange(1000.0), "step": 5}
    s3dlio_torch.save_torch_state(target.uri("one"), state)
    s3dlio_torch.save(state, target.uri("two"))
    one, two = target.read("one"), target.read("two")
    assert len(one) == len(two)
    assert s3dlio_torch.load_torch_state(target.uri("two"))["step"] == 5
    assert torch.load(io.BytesIO(one))["step"] == 5


def test_stock_files_are_read(target: Any) -> None:
    state = make_model().state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    target.write("m.pt", buffer.getvalue())
    assert_same(s3dlio_torch.load_torch_state(target.uri("m.pt")), state)


def test_map_location(target: Any) -> None:
    s3dlio_torch.save_torch_state(target.uri("m.pt"), {"a": torch.ones(5)})
    assert s3dlio_torch.load_torch_state(target.uri("m.pt"), map_location="meta")["a"].is_meta
    moved = s3dlio_torch.load_torch_state(
        target.uri("m.pt"), map_location=lambda storage, location: storage
    )
    assert torch.equal(moved["a"], torch.ones(5))


def test_requests(s3_own: Any) -> None:
    state = {str(i): torch.zeros(1 << 20) for i in range(4)}  # 4 MiB each
    s3dlio_torch.save_torch_state(s3_own.uri("m.pt"), state, part_size=PART)
    for concurrent in (True, False):
        s3_own.server.reset()
        fault = s3_own.server.add_fault(op="GetObject", kind="stall", seconds=0.05, count=-1)
        assert_same(
            s3dlio_torch.load_torch_state(s3_own.uri("m.pt"), concurrent=concurrent), state
        )
        counters = s3_own.server.counters()
        assert fault.hits() == counters["requests"]["GetObject"]
        assert (counters["max_requests"] > 2) == concurrent


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return _run, ()


def _run() -> None:
    Evil.ran = True


def test_no_code_of_the_file_runs(target: Any) -> None:
    s3dlio_torch.save_torch_state(target.uri("m.pt"), {"evil": Evil()})
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        s3dlio_torch.load_torch_state(target.uri("m.pt"))
    assert Evil.ran is False


def test_failures(target: Any) -> None:
    with pytest.raises(FileNotFoundError):
        s3dlio_torch.load_torch_state(target.uri("none"))
    with pytest.raises(ValueError, match="part_size"):
        s3dlio_torch.save_torch_state(target.uri("m.pt"), {}, part_size=3)
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        s3dlio_torch.save_torch_state(target.uri("m.pt"), {"a": torch.ones(9), "b": lambda: 0})
    assert (target.names(), target.leftovers()) == ([], [])


def test_a_refused_part_is_told(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(PermissionError):
        s3dlio_torch.save_torch_state(
            s3_own.uri("m.pt"), {"a": torch.zeros(4 << 20)}, part_size=PART
        )
    assert fault.hits() >= 1
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- compressed ---------------------------------------------------------------------------------

ZSTD = s3dlio_np.WriterOptions(compression="zstd", part_size=PART)


def make_large_state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "layer.weight": torch.randint(0, 4, (3000, 1000), generator=generator).float(),
        "layer.bias": torch.arange(1000.0),
        "head": torch.zeros(500, 300, dtype=torch.bfloat16),
        "shared": torch.ones(7),
    }


def test_a_compressed_checkpoint(s3: Any) -> None:
    """The same archive, compressed on the way; every way to load decompresses."""
    state = make_large_state()
    s3dlio_torch.save(state, s3.uri("m.pt"), options=ZSTD)
    stored = s3.get("m.pt")
    with zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True) as reader:
        archive = reader.read()
    assert len(stored) < len(archive) / 3
    assert_same(torch.load(io.BytesIO(archive)), state)
    assert_same(s3dlio_torch.load(s3.uri("m.pt")), state)
    assert_same(s3dlio_torch.load_torch_state(s3.uri("m.pt"), concurrent=False), state)
    part = s3dlio_torch.load(s3.uri("m.pt"), keys="layer")
    assert_same(part, {name: state[name] for name in ("layer.weight", "layer.bias")})
    assert s3dlio_torch.inspect(s3.uri("m.pt"))["head"].shape == (500, 300)
    with s3dlio_np.open(s3.uri("m.pt")) as stream:
        assert_same(torch.load(stream), state)


def test_what_another_tool_compressed(s3: Any) -> None:
    """No table tells the size of the archive, whose directory lies at its end."""
    state = make_large_state()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    stored = compressor.compress(buffer.getvalue()) + compressor.flush()
    options = s3dlio_np.WriterOptions(content_encoding="zstd")
    s3dlio_np.put(s3.uri("m.pt"), stored, options=options)
    assert_same(s3dlio_torch.load(s3.uri("m.pt")), state)


def test_compressed_safetensors(s3: Any) -> None:
    state = make_large_state()
    s3dlio_torch.save_safetensors(state, s3.uri("m.safetensors"), options=ZSTD)
    loaded = s3dlio_torch.load_safetensors(s3.uri("m.safetensors"))
    assert loaded.keys() == state.keys()
    assert_same({name: loaded[name] for name in state}, state)
    one = s3dlio_torch.load_safetensors(s3.uri("m.safetensors"), keys=["shared"])
    assert_same(one, {"shared": state["shared"]})


def test_a_damaged_record_in_a_good_frame(s3: Any) -> None:
    """The archive's own sums are checked as well."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(100_000)}, buffer)
    archive = bytearray(buffer.getvalue())
    archive[len(archive) // 2] ^= 1
    stored = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(archive))
    options = s3dlio_np.WriterOptions(content_encoding="zstd")
    s3dlio_np.put(s3.uri("m.pt"), stored, options=options)
    with pytest.raises(s3dlio_np.IntegrityError, match="CRC-32"):
        s3dlio_torch.load(s3.uri("m.pt"))


def test_a_damaged_frame(s3: Any) -> None:
    s3dlio_torch.save(make_large_state(), s3.uri("m.pt"), options=ZSTD)
    stored = bytearray(s3.get("m.pt"))
    stored[len(stored) // 2] ^= 1
    options = s3dlio_np.WriterOptions(content_encoding="zstd")
    s3dlio_np.put(s3.uri("m.pt"), bytes(stored), options=options)
    with pytest.raises(s3dlio_np.IntegrityError, match="zstd"):
        s3dlio_torch.load(s3.uri("m.pt"))


def test_a_compressed_file(tmp_path: Path) -> None:
    state = make_large_state()
    s3dlio_torch.save(state, tmp_path / "m.pt.zst", options=ZSTD)
    with s3dlio_np.open(tmp_path / "m.pt.zst", decompress=True) as stream:
        assert_same(torch.load(stream), state)
