"""s3dlio_torch.save and load: the same files as torch's, whole or not at all."""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import s3dlio_np
import s3dlio_torch
from s3dlio_torch._memory import empty_storage
from tests.interrupts import interrupted_when

PART = 5 * 1024 * 1024


def make_state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(3000, 1000, generator=generator)  # 12 MB: several parts
    dtypes = [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.uint8,
        torch.int64,
        torch.bool,
    ]
    return {
        "base": base,
        "view": base[10:20, ::2],
        "transposed": base.t(),
        "dtypes": [torch.arange(7).to(dtype) for dtype in dtypes],
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "ordered": OrderedDict(a=1, b="ü"),
        "plain": (1, 2.5, None, True, [b"bytes"]),
    }


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.stride()) == (
            other.dtype,
            other.shape,
            other.stride(),
        )
        assert one.requires_grad == other.requires_grad
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("cannot be pickled")


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipfile", [True, False])
def test_written_here_read_everywhere(target: Any, zipfile: bool) -> None:
    state = make_state()
    s3dlio_torch.save(
        state, target.uri("m.pt"), part_size=PART, _use_new_zipfile_serialization=zipfile
    )
    stock = torch.load(io.BytesIO(target.read("m.pt")))
    ours = s3dlio_torch.load(target.uri("m.pt"), max_concurrency=3, part_size=1024**2)
    for loaded in (stock, ours):
        assert_same(loaded, state)
        assert loaded["view"].untyped_storage().data_ptr() == (
            loaded["base"].untyped_storage().data_ptr()
        )
    assert target.leftovers() == []


@pytest.mark.parametrize("zipfile", [True, False])
def test_written_by_torch_read_here(target: Any, zipfile: bool) -> None:
    state, stock = make_state(), io.BytesIO()
    torch.save(state, stock, _use_new_zipfile_serialization=zipfile)
    target.write("m.pt", stock.getvalue())
    assert_same(s3dlio_torch.load(target.uri("m.pt")), state)


def test_the_file_is_torchs_own(target: Any) -> None:
    state, stock = make_state(), io.BytesIO()
    torch.save(state, stock)
    s3dlio_torch.save(state, target.uri("m.pt"))
    assert target.read("m.pt") == stock.getvalue()


def test_open_streams_work_with_torch_itself(target: Any) -> None:
    state = make_state()
    with s3dlio_np.open(target.uri("m.pt"), "wb", part_size=PART) as stream:
        torch.save(state, stream)
        assert not target.exists("m.pt")  # torch has flushed
    with s3dlio_np.open(target.uri("m.pt")) as reader:
        assert_same(torch.load(reader), state)


def test_file_likes_are_handed_on(target: Any) -> None:
    state, memory = make_state(), io.BytesIO()
    s3dlio_torch.save(state, memory)
    memory.seek(0)
    assert_same(s3dlio_torch.load(memory), state)
    with s3dlio_np.open(target.uri("m.pt"), "wb") as stream:
        s3dlio_torch.save(state, stream)
        assert not stream.closed
    with s3dlio_np.open(target.uri("m.pt")) as reader:
        assert_same(s3dlio_torch.load(reader), state)
        assert not reader.closed
    with pytest.raises(ValueError, match="part_size"):
        s3dlio_torch.save(state, memory, part_size=PART)
    with pytest.raises(ValueError, match="max_concurrency"):
        s3dlio_torch.load(memory, max_concurrency=3)


def test_arguments_are_torchs(target: Any) -> None:
    uri = target.uri("m.pt")
    s3dlio_torch.save({"a": torch.ones(2)}, uri, pickle, 4)
    assert pickle.PROTO + b"\4" in target.read("m.pt")
    s3dlio_torch.save({"a": torch.ones(2)}, uri)
    assert s3dlio_torch.load(uri, "meta")["a"].device.type == "meta"
    assert s3dlio_torch.load(uri, map_location=lambda storage, _: storage)["a"].sum() == 2
    s3dlio_torch.save(Path("x"), uri)
    with pytest.raises(pickle.UnpicklingError, match="[Ww]eights"):
        s3dlio_torch.load(uri)  # weights_only is True unless said otherwise
    assert s3dlio_torch.load(uri, weights_only=False) == Path("x")
    assert s3dlio_torch.load(uri, None, pickle, weights_only=False) == Path("x")


def test_mmap(tmp_path: Path) -> None:
    path = tmp_path / "a model ü.pt"
    s3dlio_torch.save({"a": torch.arange(1000)}, path)
    for place in (path, str(path), path.as_uri()):
        assert torch.equal(s3dlio_torch.load(place, mmap=True)["a"], torch.arange(1000))
    with pytest.raises(ValueError, match="mmap"):
        s3dlio_torch.load("s3://bucket/key", mmap=True)
    with pytest.raises(ValueError, match="otherhost"):
        s3dlio_torch.load("file://otherhost/key", mmap=True)


def test_options_are_passed_on(s3_own: Any) -> None:
    options = s3dlio_np.WriterOptions(metadata={"epoch": "3"}, if_none_match=True)
    s3dlio_torch.save([1], s3_own.uri("m.pt"), options=options)
    headers = s3_own.server.request("HEAD", "/bucket/m.pt").headers
    assert headers["x-amz-meta-epoch"] == "3"
    with pytest.raises(FileExistsError):
        s3dlio_torch.save([2], s3_own.uri("m.pt"), options=options)
    assert s3dlio_torch.load(s3_own.uri("m.pt")) == [1]


# --- whole or not at all ------------------------------------------------------------------------


def test_an_unpicklable_object_writes_nothing(target: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="cannot be pickled"):
        s3dlio_torch.save([torch.zeros(4_000_000), Unpicklable()], target.uri("m.pt"))
    assert (target.exists("m.pt"), target.leftovers()) == (False, [])


def test_an_exception_after_torch_save_writes_nothing(target: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        with s3dlio_np.open(target.uri("m.pt"), "wb", part_size=PART) as stream:
            torch.save(torch.zeros(4_000_000), stream)
            raise ZeroDivisionError
    assert (target.exists("m.pt"), target.leftovers()) == (False, [])


def test_a_stream_dropped_after_torch_save_writes_nothing(target: Any) -> None:
    stream = s3dlio_np.open(target.uri("m.pt"), "wb", part_size=PART)
    torch.save(torch.zeros(4_000_000), stream)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del stream
        gc.collect()
    assert (target.exists("m.pt"), target.leftovers()) == (False, [])


@pytest.mark.parametrize(
    "op", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
)
def test_our_first_error_is_raised(s3_own: Any, op: str) -> None:
    """torch makes "unexpected pos" of it."""
    fault = s3_own.server.add_fault(
        op=op, kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises(s3dlio_np.AccessDeniedError, match=f"{op}.*AccessDenied"):
        s3dlio_torch.save(make_state(), s3_own.uri("m.pt"), part_size=PART, max_concurrency=1)
    assert fault.hits() >= 1
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


def test_a_failed_read_is_told_by_our_error(s3_own: Any) -> None:
    s3dlio_torch.save(make_state(), s3_own.uri("m.pt"))
    fault = s3_own.server.add_fault(
        op="GetObject", kind="status", status=403, code="AccessDenied", skip=1, count=-1
    )
    with pytest.raises(s3dlio_np.AccessDeniedError, match="GetObject"):
        s3dlio_torch.load(s3_own.uri("m.pt"))
    assert fault.hits() >= 1


def test_a_failed_part_is_tried_again(s3_own: Any) -> None:
    state = make_state()
    faults = [
        s3_own.server.add_fault(op="UploadPart", kind="status", status=503, code="SlowDown"),
        s3_own.server.add_fault(op="UploadPart", kind="refuse_body", bytes=100000, skip=1),
        s3_own.server.add_fault(op="GetObject", kind="reset_after", bytes=1000, skip=1),
    ]
    s3dlio_torch.save(state, s3_own.uri("m.pt"), part_size=PART)
    assert_same(s3dlio_torch.load(s3_own.uri("m.pt")), state)
    assert [fault.hits() for fault in faults] == [1, 1, 1]


def test_ctrl_c_in_a_save_writes_nothing(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=20, count=-1)
    with interrupted_when(lambda: fault.hits() > 0):
        s3dlio_torch.save(make_state(), s3_own.uri("m.pt"), part_size=PART, max_concurrency=1)
    s3_own.server.clear_faults()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


@pytest.mark.parametrize("skip", [0, 1, 3])
def test_ctrl_c_in_a_load(s3_own: Any, skip: int) -> None:
    state = make_state()
    s3dlio_torch.save(state, s3_own.uri("m.pt"), part_size=PART)
    few = {"part_size": 1 << 20, "max_concurrency": 2}
    fault = s3_own.server.add_fault(
        op="GetObject", kind="stall", seconds=60, skip=skip, count=-1
    )
    with interrupted_when(lambda: fault.hits() > 0):
        s3dlio_torch.load(s3_own.uri("m.pt"), **few)
    s3_own.server.clear_faults()
    assert_same(s3dlio_torch.load(s3_own.uri("m.pt"), **few), state)


def test_exit_in_the_middle_of_a_save_writes_nothing(s3_own: Any) -> None:
    """The main thread ends while a daemon thread saves: the engine aborts the upload."""
    fault = s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=20, count=-1)
    script = (
        "import sys, threading, torch, s3dlio_torch\n"
        "save = lambda: s3dlio_torch.save(torch.zeros(4_000_000), "
        f"{s3_own.uri('m.pt')!r}, part_size={PART})\n"
        "threading.Thread(target=save, daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert process.stdin is not None
    while process.poll() is None and fault.hits() == 0:
        pass
    process.stdin.close()
    assert process.wait(timeout=120) == 0
    s3_own.server.clear_faults()
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- errors -------------------------------------------------------------------------------------


def test_missing_and_wrong_places(target: Any) -> None:
    with pytest.raises(FileNotFoundError):
        s3dlio_torch.load(target.uri("none"))
    for use in (s3dlio_torch.load, lambda uri: s3dlio_torch.save([], uri)):
        with pytest.raises(ValueError, match="scheme"):
            use("ftp://host/x")
        with pytest.raises(ValueError, match="bucket"):
            use("s3:///x")
    with pytest.raises(ValueError, match="part_size"):
        s3dlio_torch.save([], target.uri("m.pt"), part_size=1)


def test_what_is_no_checkpoint(target: Any) -> None:
    for data in (b"", b"not a checkpoint", b"PK\3\4" + bytes(1000)):
        target.write("junk", data)
        with pytest.raises((EOFError, RuntimeError, pickle.UnpicklingError)):
            s3dlio_torch.load(target.uri("junk"))


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 3 * 1024 * 1024 + 1])
def test_empty_storage(nbytes: int) -> None:
    storage = empty_storage(nbytes)
    assert isinstance(storage, torch.UntypedStorage)
    assert (storage.nbytes(), storage.device.type, storage.is_pinned()) == (
        nbytes,
        "cpu",
        False,
    )
    tensor = torch.empty(0, dtype=torch.uint8).set_(storage)
    assert tensor.numel() == nbytes
    assert not tensor.any()
    tensor.fill_(7)
    view = tensor[nbytes // 2 :]
    del storage, tensor
    gc.collect()
    assert view.sum() == 7 * view.numel()  # the pages live as long as any tensor over them


def test_empty_storage_goes_back_to_the_system() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    size = 256 * 1024 * 1024
    before = resident_bytes()
    storage = empty_storage(size)
    torch.empty(0, dtype=torch.uint8).set_(storage).fill_(1)
    assert resident_bytes() - before > size * 0.9
    del storage
    assert resident_bytes() - before < size * 0.1


def test_empty_storage_refuses() -> None:
    with pytest.raises(ValueError, match="negative"):
        empty_storage(-1)
    with pytest.raises(MemoryError):
        empty_storage(1 << 60)
    with pytest.raises(TypeError):
        empty_storage("3")  # type: ignore[arg-type]


def test_the_operator_is_registered_once() -> None:
    assert str(torch.ops.s3dlio_native.empty.default._schema) == (
        "s3dlio_native::empty(int nbytes) -> Tensor"
    )
    import importlib

    import s3dlio_torch._native as native

    importlib.reload(native)
    assert empty_storage(3).nbytes() == 3
