"""NpzFile beside numpy's own: the same mapping, read lazily, and only sound bytes."""

from __future__ import annotations

import gc
import io
import struct
import threading
import weakref
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from s3dlio_np._native import ArchiveWriter, Inflater, NpzReader
from tests.marks import near, passing_faults
from tests.np.arrays import DTYPES, MIB, Array, filled, kinds, of_dtype, same, stock_savez

TAIL = 256 * 1024  # what opening brings
OBJECTS = np.array([1, "two", None, [3.0]], dtype=object)


def load(uri: str, **arguments: Any) -> Any:
    return s3dlio_np.load(uri, part_size=MIB, max_concurrency=4, **arguments)


def stock(data: bytes, **arguments: Any) -> Any:
    return np.load(io.BytesIO(data), **arguments)


def archive_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return memory.getvalue()


def npy(array: Any) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def mixed() -> dict[str, Any]:
    """Members on both sides of what comes with a header, and in a wave."""
    return {
        "small": np.arange(10.0),
        "large": filled(3 * MIB + 7),
        "fortran": np.asfortranarray(filled(MIB).view("<f4").reshape(512, 512)),
        "empty": np.empty((0, 3)),
        "scalar": np.array(7),
        "next": filled(70_000),
        "time": of_dtype("M8[s]", 100_000),
        "last": filled(2 * MIB, 5),
    }


SAVES: dict[str, Callable[[Mapping[str, Any]], bytes]] = {
    "stored": lambda arrays: stock_savez(**arrays),
    "deflated": lambda arrays: stock_savez(compressed=True, **arrays),
    "seekable": lambda arrays: archive_of({f"{k}.npy": npy(v) for k, v in arrays.items()}),
    "bzip2": lambda arrays: archive_of(
        {f"{k}.npy": npy(v) for k, v in arrays.items()}, zipfile.ZIP_BZIP2
    ),
    "lzma": lambda arrays: archive_of(
        {f"{k}.npy": npy(v) for k, v in arrays.items()}, zipfile.ZIP_LZMA
    ),
}


# --- what numpy wrote ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stored", "deflated"])
@pytest.mark.parametrize("name", ["x.npz", "x"])
def test_all_kinds(target: Any, how: str, name: str) -> None:
    arrays = {**kinds(), **mixed()}
    data = SAVES[how](arrays)
    target.write(name, data)
    theirs = stock(data)
    with load(target.uri(name)) as ours:
        assert ours.files == theirs.files
        for key in ours:
            assert same(ours[key], theirs[key]), key
            assert not ours[key].nbytes or ours[key].ctypes.data % 64 == 0
            assert ours[key].flags.writeable
    at_once = load(target.uri(name), load_all=True)
    assert type(at_once) is dict and list(at_once) == theirs.files
    assert all(same(at_once[key], theirs[key]) for key in theirs)


@near
@pytest.mark.parametrize("how", SAVES)
def test_each_dtype(target: Any, how: str) -> None:
    arrays = {
        f"{i}": of_dtype(dtype, 40, 3)
        for i, dtype in enumerate(DTYPES)
        if np.dtype(dtype).str != "<f1"
    }
    data = SAVES[how](arrays)
    target.write("x", data)
    theirs = stock(data)
    for loaded in (load(target.uri("x")), load(target.uri("x"), load_all=True)):
        assert all(same(loaded[key], theirs[key]) for key in theirs)


@near
@pytest.mark.parametrize("how", ["stored", "deflated"])
def test_our_own_files(target: Any, how: str) -> None:
    save = s3dlio_np.savez if how == "stored" else s3dlio_np.savez_compressed
    save(target.uri("x"), **mixed())
    theirs = stock(target.read("x"))
    loaded = load(target.uri("x"), load_all=True)
    assert all(same(loaded[key], theirs[key]) for key in theirs)


def test_many_small_members(s3_own: Any) -> None:
    """Neighbours come together: a few requests, not one each."""
    arrays = {f"a{i}": filled(5000, i) for i in range(3000)}
    s3_own.put("x.npz", stock_savez(**arrays))
    s3_own.server.reset()
    loaded = load(s3_own.uri("x.npz"), load_all=True)
    assert all(np.array_equal(loaded[key], array) for key, array in arrays.items())
    assert s3_own.server.counters()["requests"]["GetObject"] < 40


def test_requests_of_a_large_archive(s3_own: Any) -> None:
    """The end, the headers, one wave; each byte of the arrays once."""
    arrays = {f"a{i}": filled(2 * MIB, i) for i in range(8)}
    data = stock_savez(**arrays)
    s3_own.put("x.npz", data)
    s3_own.server.reset()
    load(s3_own.uri("x.npz"), load_all=True)
    assert s3_own.server.counters()["bytes_out"] <= len(data) + TAIL + 8 * 4096
    s3_own.server.reset()
    with load(s3_own.uri("x.npz")) as archive:
        assert s3_own.server.counters()["requests"]["GetObject"] == 1
        archive["a3"]
        assert s3_own.server.counters()["requests"]["GetObject"] <= 1 + 1 + 3
        assert s3_own.server.counters()["bytes_out"] < TAIL + 2 * MIB + 8192


# --- the mapping --------------------------------------------------------------------------------


def outcome(action: Callable[[], Any]) -> Any:
    """A value, or how it failed."""
    try:
        value = action()
    except Exception as error:  # noqa: BLE001 - that is the outcome
        return type(error), str(error)
    return (value.dtype, value.tolist()) if isinstance(value, np.ndarray) else value


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "files": lambda z: z.files,
    "len": len,
    "list": list,
    "keys": lambda z: list(z.keys()),
    "items": lambda z: [(k, outcome(lambda v=v: v)) for k, v in z.items()],
    "values": lambda z: [outcome(lambda v=v: v) for v in z.values()],
    "plain": lambda z: z["a"],
    "with .npy": lambda z: z["a.npy"],
    "bytes": lambda z: z["note.txt"],
    "empty bytes": lambda z: z["nothing"],
    "short bytes": lambda z: z["short"],
    "folder": lambda z: z["in/folder"],
    "stripped once": lambda z: z["twice.npy"],
    "missing": lambda z: z["b"],
    "missing .npy": lambda z: z["note.txt.npy"],
    "tuple": lambda z: z["a", "b"],
    "number": lambda z: z[0],
    "None": lambda z: z[None],
    "list as key": lambda z: z[["a"]],
    "in": lambda z: ["a" in z, "a.npy" in z, "note.txt" in z, "b" in z, ("a",) in z, 5 in z],
    "list in": lambda z: ["a"] in z,
    "get": lambda z: [outcome(lambda: z.get("a")), z.get("b"), z.get("b", 5)],
    "f": lambda z: z.f.a,
    "f missing": lambda z: z.f.b,
    "dir": lambda z: dir(z.f),
    "assignment": lambda z: z.__setitem__("a", 1),
    "objects": lambda z: z["objects"],
    "objects in f": lambda z: z.f.objects,
    "equal to itself": lambda z: z == z,
    "allow_pickle": lambda z: z.allow_pickle,
    "max_header_size": lambda z: z.max_header_size,
    "names": lambda z: z.zip.namelist(),
    "test": lambda z: z.zip.testzip(),
    "context": lambda z: z.__enter__() is z,
}


@pytest.fixture(scope="module", params=["stored", "deflated"])
def sample(request: pytest.FixtureRequest) -> bytes:
    method = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}[request.param]
    return archive_of(
        {
            "a.npy": npy(np.arange(5)),
            "note.txt": b"just a text",
            "nothing": b"",
            "short": b"\x93NU",
            "in/folder.npy": npy(np.arange(3.0)),
            "twice.npy.npy": npy(np.int8(1)),
            "objects.npy": npy(OBJECTS),
            "名前.npy": npy(np.ones(2)),
        },
        method,
    )


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_side_by_side(
    s3_own: Any, sample: bytes, question: str, allow_pickle: bool
) -> None:
    s3_own.put("x", sample)
    ask = QUESTIONS[question]
    ours = load(s3_own.uri("x"), allow_pickle=allow_pickle)
    theirs = stock(sample, allow_pickle=allow_pickle)
    answer, expected = outcome(lambda: ask(ours)), outcome(lambda: ask(theirs))
    # Ours says as well of which object and member.
    where = f"{s3_own.uri('x')}: member 'objects.npy': "
    if "cannot be loaded" in str(expected):
        answer = repr(answer).replace(where, "").replace('"', "'")
        expected = repr(expected)
    assert answer == expected
    assert isinstance(ours, np.lib.npyio.NpzFile) and isinstance(ours, Mapping)


def test_repr_names_the_object(s3_own: Any) -> None:
    s3_own.put("x", stock_savez(*range(7)))
    archive = load(s3_own.uri("x"))
    assert repr(archive) == (
        f"NpzFile {s3_own.uri('x')!r} with keys: arr_0, arr_1, arr_2, arr_3, arr_4..."
    )
    assert archive.fid.uri == s3_own.uri("x")


def test_nothing_is_cached(s3_own: Any) -> None:
    s3_own.put("x", stock_savez(a=np.arange(1000)))
    with load(s3_own.uri("x")) as archive:
        first = archive["a"]
        first[...] = 0
        assert np.array_equal(archive["a"], np.arange(1000))
        assert archive["a"] is not archive["a"]


def test_arrays_outlive_the_archive(s3_own: Any) -> None:
    s3_own.put("x", stock_savez(a=filled(2 * MIB)))
    with load(s3_own.uri("x")) as archive:
        array = archive["a"]
    s3_own.server.reset(objects=True)
    gc.collect()
    assert np.array_equal(array, filled(2 * MIB))


def test_close(s3_own: Any) -> None:
    s3_own.put("x", stock_savez(a=np.arange(5)))
    archive = load(s3_own.uri("x"))
    stream = archive.fid
    archive.close()
    archive.close()
    assert stream.closed and archive.fid is None and archive.zip is None and archive.f is None
    assert archive.files == ["a"] and "a" in archive
    with pytest.raises(ValueError, match="closed"):
        archive["a"]
    with pytest.raises(KeyError):
        archive["b"]
    with load(s3_own.uri("x")) as archive:
        stream = archive.fid
    assert stream.closed


def test_no_cycles(s3_own: Any) -> None:
    """Dropping it is enough, without the collector."""
    s3_own.put("x", stock_savez(a=np.arange(5)))
    gc.disable()
    try:
        archive = load(s3_own.uri("x"))
        assert archive.f.a[1] == 1 and archive.zip is not None
        stream, gone = archive.fid, weakref.ref(archive)
        del archive
        assert gone() is None and stream.closed
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [NpzReader, ArchiveWriter])
def test_a_cycle_through_the_stream_is_collected(s3_own: Any, make: Any) -> None:
    s3_own.put("x", stock_savez(a=np.arange(5)))
    stream: Any = s3dlio_np.open(s3_own.uri("x"), "rb" if make is NpzReader else "wb")
    gc.disable()
    try:
        stream.mine, gone = make(stream), weakref.ref(stream)
        if make is ArchiveWriter:
            stream.abort()
        del stream
        assert gone() is not None
        gc.collect()
        assert gone() is None
    finally:
        gc.enable()


@near
def test_of_several_the_last(target: Any) -> None:
    memory = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile(memory, "w") as archive:
            for value in (1, 2, 3):
                archive.writestr("a.npy", npy(value))
                archive.writestr("text", str(value))
    target.write("x", memory.getvalue())
    theirs = stock(memory.getvalue())
    ours = load(target.uri("x"))
    assert ours.files == theirs.files == ["a", "text"] * 3
    assert ours["a"] == theirs["a"] == 3 and ours["text"] == theirs["text"] == b"3"
    assert load(target.uri("x"), load_all=True) == {"a": 3, "text": b"3"}


@near
def test_a_name_with_and_without_npy(target: Any) -> None:
    data = archive_of({"a": b"raw", "a.npy": npy(5), "b.npy": npy(6), "b": b"bare"})
    target.write("x", data)
    ours, theirs = load(target.uri("x")), stock(data)
    for key in ("a", "a.npy", "b", "b.npy"):
        assert ours[key] == theirs[key]


@near
def test_members_that_are_no_arrays(target: Any) -> None:
    members = {"large": filled(3 * MIB).tobytes(), "magic": b"\x93NUMPX" + bytes(90_000), "e": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        target.write("x", archive_of(members, method))
        archive = load(target.uri("x"))
        for name, data in members.items():
            assert type(archive[name]) is bytes and archive[name] == data
        assert load(target.uri("x"), load_all=True) == members


@near
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bytes_behind_an_array(target: Any, method: int) -> None:
    """NumPy does not look at them; their sum counts here."""
    for size in (1000, 100_000, 3 * MIB):
        for behind in (b"x", bytes(600_000)):
            data = archive_of({"a.npy": npy(filled(size)) + behind}, method)
            target.write("x", data)
            assert np.array_equal(load(target.uri("x"))["a"], filled(size))
    if method == zipfile.ZIP_STORED:
        damaged = bytearray(data)
        damaged[data.index(b"PK\1\2") - 1000] ^= 1
        target.write("x", bytes(damaged))
        with pytest.raises(s3dlio_np.DamagedMemberError, match="a.npy.*CRC-32"):
            load(target.uri("x"))["a"]


@near
def test_long_headers_in_members(target: Any) -> None:
    long = np.dtype([(f"field{i}", "<i4") for i in range(600)])
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = archive_of({"a.npy": npy(np.ones(3, long)), "b.npy": npy(np.ones(200, long))}, method)
        target.write("x", data)
        archive = load(target.uri("x"), max_header_size=100_000)
        for key in ("a", "b"):
            assert same(archive[key], stock(data, max_header_size=100_000)[key])
        strict = load(target.uri("x"))
        for key in ("a", "b"):
            with pytest.raises(ValueError, match="max_header_size"):
                strict[key]
        assert len(load(target.uri("x"), allow_pickle=True)["b"]) == 200


@near
def test_long_names_and_extra_fields(target: Any) -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for size in (100, 2 * MIB):
            info = zipfile.ZipInfo("n" * 5000 + f"{size}.npy")
            info.extra = struct.pack("<HH", 0x7075, 30_000) + bytes(30_000)
            archive.writestr(info, npy(filled(size)))
    target.write("x", memory.getvalue())
    loaded = load(target.uri("x"), load_all=True)
    assert [len(array) for array in loaded.values()] == [100, 2 * MIB]


def test_names_of_old_zips(s3_own: Any) -> None:
    data = archive_of({"abc.npy": npy(1)}).replace(b"abc", b"\x82bc")  # cp437: é
    s3_own.put("x", data)
    assert load(s3_own.uri("x")).files == stock(data).files == ["ébc"]


def test_an_archive_of_nothing(s3_own: Any) -> None:
    for data in (stock_savez(), b"PK\5\6" + bytes(18)):
        s3_own.put("x", data)
        with load(s3_own.uri("x")) as archive:
            assert archive.files == stock(data).files == []
        assert load(s3_own.uri("x"), load_all=True) == {}


@near
@pytest.mark.parametrize("how", SAVES)
def test_object_arrays(target: Any, how: str) -> None:
    large = np.array([bytes(400_000), *OBJECTS], dtype=object)
    target.write("x", SAVES[how]({"o": OBJECTS, "large": large, "n": np.arange(3)}))
    loaded = load(target.uri("x"), allow_pickle=True, load_all=True)
    assert loaded["o"].tolist() == OBJECTS.tolist() and loaded["large"].tolist() == large.tolist()
    archive = load(target.uri("x"))
    for key in ("o", "large"):
        with pytest.raises(ValueError, match="Object arrays cannot be loaded when allow_pickle"):
            archive[key]
    assert len(archive["n"]) == 3


def test_threads(s3_own: Any) -> None:
    arrays = {f"a{i}": filled(MIB + i, i) for i in range(6)}
    s3_own.put("x", stock_savez(**arrays))
    s3_own.put("c", stock_savez(compressed=True, **arrays))
    failures: list[BaseException] = []
    for key in ("x", "c"):
        archive = load(s3_own.uri(key))

        def work(name: str, array: Array, archive: Any = archive) -> None:
            try:
                for _ in range(3):
                    assert np.array_equal(archive[name], array)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=work, args=pair) for pair in arrays.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


# --- damage -------------------------------------------------------------------------------------


class Layout:
    def __init__(self, data: bytes) -> None:
        self.data = data
        archive = zipfile.ZipFile(io.BytesIO(data))
        self.directory = archive.start_dir
        self.infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def payload(self, name: str) -> int:
        at = self.infos[name].header_offset
        name_bytes, extra = struct.unpack_from("<HH", self.data, at + 26)
        return int(at + 30 + name_bytes + extra)

    def flipped(self, offset: int, bit: int = 0) -> bytes:
        data = bytearray(self.data)
        data[offset] ^= 1 << bit
        return bytes(data)


@pytest.fixture(scope="module", params=["stored", "deflated"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return Layout(SAVES[request.param](mixed()))


@near
@pytest.mark.parametrize("name", ["small", "large", "fortran", "scalar", "next", "last"])
@pytest.mark.parametrize("where", [0.5, 0.9])
def test_a_bit_of_a_member(target: Any, layout: Layout, name: str, where: float) -> None:
    size = layout.infos[name].compress_size
    target.write("x.npz", layout.flipped(layout.payload(name) + int(size * where), 3))
    archive = load(target.uri("x.npz"))
    for read in (lambda: archive[name], lambda: load(target.uri("x.npz"), load_all=True)):
        with pytest.raises(s3dlio_np.DamagedMemberError) as caught:
            read()
        assert isinstance(caught.value, (s3dlio_np.IntegrityError, zipfile.BadZipFile))
        assert f"{name}.npy" in str(caught.value) and target.uri("x.npz") in str(caught.value)
        assert (caught.value.code, caught.value.uri) == ("INTEGRITY", target.uri("x.npz"))
    for other in set(mixed()) - {name}:
        assert same(archive[other], mixed()[other])


def test_every_byte_of_a_small_archive(s3_own: Any) -> None:
    """An error that NumPy's users expect, or the right arrays."""
    arrays = {"a": np.arange(20.0), "b": np.arange(3, dtype="u1")}
    for how in ("stored", "deflated"):
        data = SAVES[how](arrays)
        errors = 0
        for at in range(len(data)):
            damaged = bytearray(data)
            damaged[at] ^= 1 << at % 8
            s3_own.put("x.npz", bytes(damaged))
            try:
                loaded = load(s3_own.uri("x.npz"), load_all=True)
            except (ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
                assert str(error)
                errors += 1
                continue
            assert [array.tolist() for array in loaded.values()] == [
                array.tolist() for array in arrays.values()
            ]
        assert errors > len(data) // 2


@near
def test_cut_anywhere(target: Any, layout: Layout) -> None:
    size = len(layout.data)
    for length in {1, 3, 4, 30, 100, size // 2, layout.directory, size - 22, size - 1}:
        target.write("x.npz", layout.data[:length])
        with pytest.raises((zipfile.BadZipFile, ValueError)) as caught:
            load(target.uri("x.npz"))
        assert type(caught.value) is (zipfile.BadZipFile if length >= 4 else ValueError)
        assert target.uri("x.npz") in str(caught.value)


@near
def test_a_local_header_that_differs(target: Any, layout: Layout) -> None:
    at = layout.infos["large"].header_offset
    for offset in (0, 8, 26, 31):
        target.write("x", layout.flipped(at + offset))
        archive = load(target.uri("x"))
        with pytest.raises(zipfile.BadZipFile):
            archive["large"]
        assert np.array_equal(archive["small"], mixed()["small"])


@near
def test_sizes_that_lie(target: Any) -> None:
    """Nothing is allocated for what cannot be there."""
    huge = npy(np.zeros(3)).replace(b"(3,), }        ", b"(3000000000,), }")[: 128 + 24]
    assert b"3000000000" in huge
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        target.write("x", archive_of({"a.npy": huge}, method))
        with pytest.raises(ValueError, match="EOF: reading array data, expected 24000000000"):
            load(target.uri("x"))["a"]
    data = bytearray(archive_of({"a.npy": npy(filled(5000))}, zipfile.ZIP_DEFLATED))
    for at in (22, data.index(b"PK\1\2") + 24):
        struct.pack_into("<I", data, at, 0xFFFFFFF0)
    target.write("x", bytes(data))
    with pytest.raises(s3dlio_np.DamagedMemberError, match="cannot be"):
        load(target.uri("x"))["a"]
    for size in (5000 + 127, 5000 + 129):
        for at in (22, data.index(b"PK\1\2") + 24):
            struct.pack_into("<I", data, at, size)
        target.write("x", bytes(data))
        with pytest.raises((ValueError, s3dlio_np.DamagedMemberError)):
            load(target.uri("x"))["a"]


def test_encrypted(s3_own: Any) -> None:
    data = bytearray(archive_of({"a.npy": npy(1)}))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    s3_own.put("x", bytes(data))
    with pytest.raises(zipfile.BadZipFile, match="encrypted"):
        load(s3_own.uri("x"))


def test_unknown_compression(s3_own: Any) -> None:
    data = bytearray(archive_of({"a.npy": npy(1)}))
    data[8] = data[data.index(b"PK\1\2") + 10] = 99
    s3_own.put("x", bytes(data))
    with pytest.raises(NotImplementedError):
        load(s3_own.uri("x"))["a"]


# --- the store's faults -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stored", "deflated"])
def test_damage_on_the_way(s3_own: Any, how: str) -> None:
    layout = Layout(SAVES[how](mixed()))
    s3_own.put("x.npz", layout.data)
    archive = load(s3_own.uri("x.npz"))
    fault = s3_own.server.add_fault(op="GetObject", kind="corrupt", offset=3000, skip=1, count=-1)
    with pytest.raises((s3dlio_np.DamagedMemberError, ValueError)) as caught:
        archive["large"]
    assert fault.hits() >= 1
    assert "large.npy" in str(caught.value)
    s3_own.server.clear_faults()
    assert np.array_equal(load(s3_own.uri("x.npz"))["large"], mixed()["large"])


@pytest.mark.parametrize("how", ["stored", "deflated"])
@pytest.mark.parametrize("load_all", [False, True])
def test_replaced_meanwhile(s3_own: Any, how: str, load_all: bool) -> None:
    s3_own.put("x.npz", SAVES[how](mixed()))
    archive = load(s3_own.uri("x.npz"))
    s3_own.put("x.npz", SAVES[how]({**mixed(), "large": filled(3 * MIB + 7, 9)}))
    with pytest.raises(s3dlio_np.ObjectChangedError):
        if load_all:
            archive.read_all()
        else:
            archive["large"]
    assert np.array_equal(load(s3_own.uri("x.npz"))["large"], filled(3 * MIB + 7, 9))


@pytest.mark.parametrize("how", ["stored", "deflated"])
@passing_faults
def test_what_fails_once_is_fetched_again(s3_own: Any, how: str, rule: dict[str, Any]) -> None:
    s3_own.put("x.npz", SAVES[how](mixed()))
    faults = [s3_own.server.add_fault(op="GetObject", skip=skip, **rule) for skip in (1, 2, 4)]
    loaded = load(s3_own.uri("x.npz"), load_all=True)
    assert all(same(loaded[key], array) for key, array in mixed().items())
    assert sum(fault.hits() for fault in faults) >= 2


def test_failures_leave_no_memory_behind(s3_own: Any) -> None:
    layout = Layout(SAVES["stored"](mixed()))
    s3_own.put("x.npz", layout.flipped(layout.payload("last") + 1000))
    gc.collect()  # archives of other tests
    before = s3dlio_np.stats()["memory_held_bytes"]
    for _ in range(20):
        with pytest.raises(s3dlio_np.DamagedMemberError):
            load(s3_own.uri("x.npz"), load_all=True)
    gc.collect()
    assert s3dlio_np.stats()["memory_held_bytes"] == before


@pytest.mark.parametrize("how", ["save", "savez", "savez_compressed", "save_safetensors"])
def test_objects_compressed_as_a_whole(s3_own: Any, how: str) -> None:
    """With Content-Encoding: zstd there are no ranges: they are read in order, to the same arrays."""
    options = s3dlio_np.WriterOptions(compression="zstd")
    large = np.arange(MIB).reshape(1024, 1024)
    for name in ("x.npy", "x.npz", "x"):
        uri = s3_own.uri(name)
        if how == "save":
            s3dlio_np.save(uri, large, options=options)
            loaded = load(uri)
        elif how == "save_safetensors":
            s3dlio_np.save_safetensors({"a": large, "b": large.T}, uri, options=options)
            loaded = s3dlio_np.load_safetensors(uri)["a"]
        else:
            getattr(s3dlio_np, how)(uri, a=large, b=large.T, options=options)
            loaded = load(uri, load_all=True)["a"]
            with load(uri) as archive:
                assert same(archive["b"], large.T)
        assert same(loaded, large)
        assert s3_own.objects()[name] < large.nbytes // 2


# --- the pieces ---------------------------------------------------------------------------------


def test_inflater(s3_own: Any) -> None:
    data = filled(MIB // 8).repeat(8).tobytes()
    layout = Layout(archive_of({"a": data}, zipfile.ZIP_DEFLATED))
    info = layout.infos["a"]
    s3_own.put("x", layout.data)
    with s3dlio_np.open(s3_own.uri("x")) as stream:
        how = (stream, "a", layout.payload("a"), info.compress_size, info.file_size, info.CRC)
        source = Inflater(*how)
        out = bytearray(len(data))
        at = 0
        for size in (0, 1, 10, 1000, 300_000, len(data) - 301_011):
            source.readinto(memoryview(out)[at : at + size])
            at += size
        assert out == data
        with pytest.raises(ValueError, match="1 bytes are wanted, but 0 are left"):
            source.readinto(bytearray(1))
        with pytest.raises(s3dlio_np.IntegrityError, match="CRC-32"):
            Inflater(*how[:5], info.CRC ^ 1).readinto(out)
        for size, why in ((len(data) - 1, "goes on beyond"), (len(data) + 1, "ends before")):
            with pytest.raises(s3dlio_np.IntegrityError, match=why):
                Inflater(*how[:4], size, info.CRC).readinto(bytearray(size))
        with pytest.raises(s3dlio_np.IntegrityError, match="cut short"):
            Inflater(*how[:3], info.compress_size - 100, *how[4:]).readinto(out)
        with pytest.raises(ValueError, match="not all in the object"):
            Inflater(*how[:3], 1 << 62, *how[4:])
        stream.close()
        with pytest.raises(ValueError, match="closed"):
            Inflater(*how).readinto(out)


def test_directory(s3_own: Any) -> None:
    layout = Layout(SAVES["stored"](mixed()))
    s3_own.put("x", layout.data)
    with s3dlio_np.open(s3_own.uri("x")) as stream:
        reader = NpzReader(stream)
        for i, (name, method, crc, at, end, compressed, size) in enumerate(reader.members()):
            info = layout.infos[name.removesuffix(".npy")]
            assert (name, method, crc, at) == (
                info.filename, info.compress_type, info.CRC, info.header_offset
            )
            assert compressed == size == info.file_size and end >= at + size
            assert reader.local(i, b"") == (0, 30)
            assert reader.local(i, layout.data[at : at + 30])[1] > 30
            offset, need = reader.local(i, layout.data[at : at + 500])
            assert (offset, need) == (layout.payload(name.removesuffix(".npy")), 0)
        with pytest.raises(ValueError, match="no such member"):
            reader.local(99, b"")
        with pytest.raises(ValueError, match="local header"):
            reader.local(0, bytes(100))
