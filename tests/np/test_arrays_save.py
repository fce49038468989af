"""save, savez and their kin write numpy's own bytes, from where the arrays lie, whole or not at all."""

from __future__ import annotations

import gc
import io
import os
import threading
import warnings
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from s3dlio_np import WriterOptions, _npz
from s3dlio_np._native import crc32, send_array
from tests.interrupts import interrupted_when
from tests.marks import near
from tests.np.arrays import (
    DTYPES,
    MIB,
    PADDED,
    PART,
    RECORD,
    Unseekable,
    filled,
    kinds,
    names,
    of_dtype,
    stock_save,
    stock_savez,
)

OPTIONS = WriterOptions(part_size=PART, max_concurrency=2)
OBJECTS = np.array([1, "two", None, [3.0]], dtype=object)
STRINGS = np.array(["", "é" * 50, "plain"], np.dtypes.StringDType())


# --- the same bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_save_each_kind(target: Any, kind: str) -> None:
    array = kinds()[kind]
    s3dlio_np.save(target.uri("x"), array, part_size=PART, max_concurrency=2)
    assert target.read("x") == stock_save(array)
    assert target.names() == ["x"]
    assert target.leftovers() == []


@near
@pytest.mark.parametrize("dtype", DTYPES, ids=names)
def test_save_each_dtype(target: Any, dtype: Any) -> None:
    for array in (
        of_dtype(dtype, 5, 4),
        np.asfortranarray(of_dtype(dtype, 5, 4)),
        # NumPy writes anything between the fields of what it has to copy.
        of_dtype(dtype, 50, 8)[:: 1 if dtype == PADDED else 2],
        of_dtype(dtype),
        of_dtype(dtype, 0),
    ):
        s3dlio_np.save(target.uri("x"), array)
        assert target.read("x") == stock_save(array)


def test_bytes_between_fields_are_the_arrays_own(tmp_path: Path) -> None:
    """Never what happened to lie in memory."""
    array = of_dtype(PADDED, 60, 7)
    raw = array.view("V24")
    s3dlio_np.save(tmp_path / "x", array[::2, ::3])
    assert (tmp_path / "x").read_bytes()[-30 * 3 * 24 :] == raw[::2, ::3].tobytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_savez_all_kinds(target: Any, compressed: bool) -> None:
    save = s3dlio_np.savez_compressed if compressed else s3dlio_np.savez
    arrays = {**kinds(), "objects": OBJECTS}
    save(target.uri("x"), *arrays.values(), **arrays, options=OPTIONS)
    data = target.read("x")
    assert data == stock_savez(*arrays.values(), **arrays, compressed=compressed)
    assert target.leftovers() == []
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


@near
def test_savez_each_dtype(target: Any) -> None:
    arrays = {f"{i}": of_dtype(dtype, 300, 7) for i, dtype in enumerate(DTYPES)}
    s3dlio_np.savez(target.uri("x"), **arrays)
    assert target.read("x") == stock_savez(**arrays)


@near
@pytest.mark.parametrize("array", [OBJECTS, STRINGS, np.zeros(3, "O,i4")], ids=["O", "T", "O,i4"])
def test_pickled_arrays(target: Any, array: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of dtypes that NumPy pickles
        s3dlio_np.save(target.uri("x"), array)
        assert target.read("x") == stock_save(array)
        s3dlio_np.savez(target.uri("z"), np.arange(3), array)
        assert target.read("z") == stock_savez(np.arange(3), array)


@near
def test_headers_of_every_version(target: Any) -> None:
    """Long ones are version 2.0, names beyond Latin-1 version 3.0; NumPy's warnings stay."""
    long = np.dtype([(f"field{i}", "<i4") for i in range(6000)])
    for dtype, version in ((long, 2), (np.dtype([("名前", "<i4")]), 3)):
        with pytest.warns(UserWarning, match=f"format {version}.0"):
            s3dlio_np.save(target.uri("x"), np.zeros(2, dtype))
        with pytest.warns(UserWarning):
            assert target.read("x") == stock_save(np.zeros(2, dtype))
        assert target.read("x")[6] == version


@near
def test_dtype_with_metadata(target: Any) -> None:
    array = np.zeros(3, np.dtype("<i4", metadata={"unit": "m"}))
    with pytest.warns(UserWarning, match="metadata"):
        s3dlio_np.save(target.uri("x"), array)
    with pytest.warns(UserWarning, match="metadata"):
        assert target.read("x") == stock_save(array)


@near
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, PART - 1, PART, 3 * PART + 1])
def test_sizes_around_parts(target: Any, size: int) -> None:
    array = filled(size)
    s3dlio_np.save(target.uri("x"), array, part_size=PART, max_concurrency=2)
    assert target.read("x") == stock_save(array)
    s3dlio_np.savez(target.uri("z"), array, array, options=OPTIONS)
    assert target.read("z") == stock_savez(array, array)


@near
def test_many_members(target: Any) -> None:
    """More than 65,535, from which on a zip needs its 64-bit end record."""
    arrays = {f"{i}": np.uint8(i % 256) for i in range(65_536)}
    s3dlio_np.savez(target.uri("x"), **arrays)
    assert target.read("x") == stock_savez(**arrays)


@near
def test_names_of_all_kinds(target: Any) -> None:
    arrays = {
        name: np.arange(3)
        for name in ("", "a b", "a/b", "名前", "x.npy", "../up", "'\"\\", "n" * 300, "é")
    }
    s3dlio_np.savez(target.uri("x"), **arrays)
    assert target.read("x") == stock_savez(**arrays)


def test_what_zipfile_does_not_say_goes_through_it(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later zipfile without the two fields: NumPy's own way, the same bytes."""
    monkeypatch.setattr(_npz, "_takes_sums", lambda member: False)
    s3dlio_np.savez(s3_own.uri("x"), **kinds())
    assert s3_own.get("x") == stock_savez(**kinds())


def test_this_zipfile_takes_sums(tmp_path: Path) -> None:
    with zipfile.ZipFile(Unseekable(), "w") as archive:
        with archive.open("x", "w", force_zip64=True) as member:
            assert _npz._takes_sums(member)
        with archive.open(zipfile.ZipInfo("y"), "w") as member:
            assert _npz._takes_sums(member)
    with zipfile.ZipFile(Unseekable(), "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x", "w") as member:
            assert not _npz._takes_sums(member)


# --- names and arguments ------------------------------------------------------------------------


def test_nothing_is_appended_to_the_uri(tmp_path: Path) -> None:
    s3dlio_np.save(tmp_path / "a", np.arange(3))
    s3dlio_np.savez(str(tmp_path / "b.zip"), np.arange(3))
    assert sorted(os.listdir(tmp_path)) == ["a", "b.zip"]


@pytest.mark.parametrize("save", [s3dlio_np.savez, s3dlio_np.savez_compressed])
def test_every_other_name_is_free_for_arrays(tmp_path: Path, save: Callable[..., None]) -> None:
    arrays: dict[str, Any] = {
        name: np.arange(i)
        for i, name in enumerate(("uri", "file", "args", "kwds", "part_size", "options", "self"))
    }
    save(tmp_path / "x", **arrays)
    with np.load(tmp_path / "x") as loaded:
        assert {name: len(loaded[name]) for name in loaded} == {
            name: len(array) for name, array in arrays.items()
        }


def test_names_that_collide(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="un-named variables and keyword arr_0"):
        s3dlio_np.savez(tmp_path / "x", np.arange(3), arr_0=np.arange(4))
    assert not (tmp_path / "x").exists()


def test_array_likes(tmp_path: Path) -> None:
    for value in ([1, 2, 3], 5, 2.5, True, "text", b"bytes", [[1], [2]], range(4), None):
        s3dlio_np.save(tmp_path / "x", value)
        assert (tmp_path / "x").read_bytes() == stock_save(value)
        s3dlio_np.savez(tmp_path / "z", value, x=value)
        assert (tmp_path / "z").read_bytes() == stock_savez(value, x=value)


@near
def test_objects_where_not_allowed(target: Any) -> None:
    for array in (OBJECTS, STRINGS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            with pytest.raises(ValueError, match="allow_pickle=False"):
                s3dlio_np.save(target.uri("x"), array, allow_pickle=False)
            with pytest.raises(ValueError, match="allow_pickle=False"):
                s3dlio_np.savez(target.uri("x"), filled(PART * 2), array, allow_pickle=False)
            with pytest.raises(ValueError, match="allow_pickle=False"):
                s3dlio_np.save_numpy(target.uri("x"), [array])
    assert target.names() == []
    assert target.leftovers() == []


def test_options(s3_own: Any) -> None:
    s3dlio_np.savez(s3_own.uri("x"), np.arange(3), options=WriterOptions(if_none_match=True))
    with pytest.raises(FileExistsError):
        s3dlio_np.savez(s3_own.uri("x"), np.arange(4), options=WriterOptions(if_none_match=True))
    with pytest.raises(FileExistsError):
        s3dlio_np.save(s3_own.uri("x"), 1, options=WriterOptions(if_none_match=True))
    with pytest.raises(TypeError, match="WriterOptions"):
        s3dlio_np.save(s3_own.uri("x"), 1, options={})  # type: ignore[arg-type]
    assert len(s3dlio_np.load_numpy(s3_own.uri("x"))["arr_0"]) == 3


# --- save_numpy ---------------------------------------------------------------------------------


@near
def test_save_numpy(target: Any) -> None:
    a, b = filled(PART + 5), np.asfortranarray(np.ones((30, 40)))
    result = s3dlio_np.save_numpy(target.uri("x"), {"a": a, "b/c": b, "n": 5}, part_size=PART)
    assert target.read("x") == stock_savez(**{"a": a, "b/c": b, "n": 5})
    assert result["size"] == result["bytes_written"] == len(target.read("x"))
    assert (result["uri"], bool(result["etag"])) == (target.uri("x"), True)
    s3dlio_np.save_numpy(target.uri("x"), [a, b])
    assert target.read("x") == stock_savez(a, b)
    s3dlio_np.save_numpy(target.uri("x"), b, compressed=True)
    assert target.read("x") == stock_savez(b, compressed=True)
    with pytest.raises(TypeError, match="must be str"):
        s3dlio_np.save_numpy(target.uri("x"), {1: a})
    s3dlio_np.save_numpy(target.uri("o"), {"o": OBJECTS}, allow_pickle=True)
    assert target.read("o") == stock_savez(o=OBJECTS)


# --- memory -------------------------------------------------------------------------------------


def test_arrays_are_let_go(s3_own: Any) -> None:
    array = filled(3 * PART)
    gone = weakref.ref(array)
    s3dlio_np.savez(s3_own.uri("x"), array, options=OPTIONS)
    s3dlio_np.save(s3_own.uri("x"), array, part_size=PART)
    del array
    gc.collect()
    assert gone() is None


def test_memory_cannot_be_resized_while_it_is_sent(s3_own: Any) -> None:
    memory = bytearray(filled(2 * PART))
    with s3dlio_np.open(s3_own.uri("x"), "wb", part_size=PART) as stream:
        assert send_array(stream, memory, 0) == crc32(memory)
        with pytest.raises(BufferError):
            memory.clear()
    memory.clear()
    assert s3_own.get("x") == filled(2 * PART).tobytes()


def test_sums_beside_the_upload() -> None:
    data = filled(40 * MIB + 3)
    whole = crc32(data)
    assert whole == crc32(data[1000:], crc32(data[:1000]))
    from zlib import crc32 as stock

    assert whole == stock(data) and crc32(b"") == 0
    with pytest.raises(TypeError):
        crc32("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contiguous"):
        crc32(data[::2])


# --- whole or not at all ------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not this one")


@near
@pytest.mark.parametrize("save", [s3dlio_np.savez, s3dlio_np.savez_compressed])
def test_a_failing_array_leaves_nothing(target: Any, save: Callable[..., None]) -> None:
    """Where NumPy would leave an archive that looks sound."""
    with pytest.raises(RuntimeError, match="not this one"):
        save(target.uri("x"), filled(3 * PART), np.array([Unpicklable()]), filled(10))
    assert target.names() == []
    assert target.leftovers() == []


@pytest.mark.parametrize("save", ["save", "savez", "savez_compressed"])
def test_a_failing_part_leaves_nothing(s3_own: Any, save: str) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", part=2, kind="status", status=400, code="InvalidPart", count=-1
    )
    how = {"part_size": PART} if save == "save" else {"options": OPTIONS}
    with pytest.raises(s3dlio_np.StorageError, match="InvalidPart"):
        getattr(s3dlio_np, save)(s3_own.uri("x"), filled(8 * PART), **how)
    assert fault.hits() >= 1
    assert s3_own.objects() == {}
    assert s3_own.uploads() == []


@pytest.mark.parametrize("save", ["save", "savez", "savez_compressed"])
def test_interrupted_by_a_signal(s3_own: Any, save: str) -> None:
    fault = s3_own.server.add_fault(op="UploadPart", part=2, kind="stall", seconds=30, count=-1)
    how = {"part_size": PART} if save == "save" else {"options": OPTIONS}
    with interrupted_when(lambda: fault.hits() > 0):
        getattr(s3dlio_np, save)(s3_own.uri("x"), filled(8 * PART), **how)
    assert fault.hits() >= 1
    assert s3_own.objects() == {}
    assert s3_own.uploads() == []


def test_parts_that_must_be_sent_again(s3_own: Any) -> None:
    faults = [
        s3_own.server.add_fault(op="UploadPart", part=part, kind=kind, **rule)
        for part, kind, rule in (
            (1, "reset_before", {}),
            (2, "status", {"status": 500, "code": "InternalError"}),
            (3, "lost_reply", {}),
            (4, "refuse_body", {"bytes": 100_000}),
        )
    ]
    array = filled(5 * PART)
    s3dlio_np.savez(s3_own.uri("x"), array, options=OPTIONS)
    assert [fault.hits() for fault in faults] == [1, 1, 1, 1]
    assert s3_own.get("x") == stock_savez(array)


def test_threads_do_not_wait_for_each_other(s3_own: Any) -> None:
    arrays = [filled(2 * PART, seed) for seed in range(6)]
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            s3dlio_np.savez(s3_own.uri(f"x{i}"), a=arrays[i], options=OPTIONS)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for i, array in enumerate(arrays):
        assert s3_own.get(f"x{i}") == stock_savez(a=array)


def test_record_arrays_are_not_widened(tmp_path: Path) -> None:
    array = np.rec.array(of_dtype(RECORD, 4))
    s3dlio_np.save(tmp_path / "x", array)
    assert (tmp_path / "x").read_bytes() == stock_save(array)
