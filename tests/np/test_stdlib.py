"""The standard library's own formats over streams, each written here and read by stock means too."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import plistlib
import shutil
import tarfile
import wave
import xml.etree.ElementTree as ET
import zipfile
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from tests.marks import near

pytestmark = near

PART = 5 * 1024 * 1024
NOISE = np.random.default_rng(12).bytes(PART + 4321)
LINES = "".join(f"line {i} ü\n" for i in range(30_000)).encode()
FILES = {"a.bin": NOISE, "b/lines.txt": LINES, "empty": b"", "ü.txt": b"x"}
SMALL = {**FILES, "a.bin": NOISE[:300_000]}  # compressing noise takes long
ROWS = [[str(i), f'a "quoted", {i}', "two\nlines"] for i in range(5000)]


def written(target: Any, name: str = "x") -> Any:
    return s3dlio_np.open(target.uri(name), "wb", part_size=PART, max_concurrency=2)


def stock(target: Any) -> io.BytesIO:
    return io.BytesIO(target.read("x"))


def here(target: Any) -> Any:
    return s3dlio_np.open(target.uri("x"), part_size=128 * 1024, max_concurrency=3)


# --- archives -----------------------------------------------------------------------------------

METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("method", METHODS)
def test_zip(target: Any, method: str) -> None:
    files = FILES if method == "stored" else SMALL
    with written(target) as stream, zipfile.ZipFile(stream, "w", METHODS[method]) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    for source in (stock(target), here(target)):
        with source, zipfile.ZipFile(source) as archive:
            assert archive.testzip() is None
            assert {name: archive.read(name) for name in archive.namelist()} == files
            with archive.open("a.bin") as member:
                member.seek(200_000)
                assert member.read(10) == NOISE[200_000:200_010]


def test_appending_to_a_zip_needs_more_than_a_writer(target: Any) -> None:
    with pytest.raises(io.UnsupportedOperation), written(target) as stream:
        zipfile.ZipFile(stream, "a")
    assert target.names() == []


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("way", [":", "|"], ids=["file", "stream"])
def test_tar(target: Any, kind: str, way: str) -> None:
    files = SMALL if kind else FILES
    with written(target) as stream:
        with tarfile.open(fileobj=stream, mode=f"w{way}{kind}") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    for source in (stock(target), here(target)):
        with source, tarfile.open(fileobj=source, mode=f"r{way}*") as archive:
            found = {}
            for info in archive:
                member = archive.extractfile(info)
                assert member is not None
                found[info.name] = member.read()
            assert found == files


# --- compressed files ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", [gzip, bz2, lzma], ids=["gzip", "bz2", "lzma"])
def test_compressed(target: Any, module: Any) -> None:
    data = LINES + NOISE[:300_000]
    with written(target) as stream, module.open(stream, "wb") as file:
        file.write(data)
    for source in (stock(target), here(target)):
        with source, module.open(source) as file:
            assert file.readline() == b"line 0 \xc3\xbc\n"
            file.seek(len(LINES))
            assert file.read() == NOISE[:300_000]
            file.seek(0)
            assert file.read() == data


@pytest.mark.parametrize("module", [gzip, bz2, lzma], ids=["gzip", "bz2", "lzma"])
def test_a_wrapper_alone_does_not_commit(target: Any, module: Any) -> None:
    """Its close() leaves a stream that it was given open; only the stream's own makes an object."""
    with pytest.raises(ZeroDivisionError), written(target) as stream:
        with module.open(stream, "wb") as file:
            file.write(LINES)
        assert not stream.closed
        raise ZeroDivisionError
    assert target.names() == [] and target.leftovers() == []


# --- text ---------------------------------------------------------------------------------------


def test_csv(target: Any) -> None:
    with s3dlio_np.open(target.uri("x"), "w", newline="") as text:
        csv.writer(text).writerows(ROWS)
    with io.TextIOWrapper(stock(target), "utf-8", newline="") as text:
        assert list(csv.reader(text)) == ROWS
    with s3dlio_np.open(target.uri("x"), "r", newline="") as text:
        assert list(csv.reader(text)) == ROWS
    with here(target) as stream, io.TextIOWrapper(stream, "utf-8", newline="") as text:
        assert [row["0"] for row in csv.DictReader(text)] == [row[0] for row in ROWS[1:]]


def test_json(target: Any) -> None:
    value = {"rows": ROWS, "text": "日本", "numbers": [1, 2.5, None, True]}
    with s3dlio_np.open(target.uri("x"), "w") as text:
        json.dump(value, text, ensure_ascii=False)
    assert json.loads(target.read("x")) == value
    with here(target) as stream:
        assert json.load(stream) == value
    with s3dlio_np.open(target.uri("x"), "r") as text:
        assert json.load(text) == value


class Unencodable:
    pass


def test_a_json_that_fails_half_way(target: Any) -> None:
    with pytest.raises(TypeError, match="Unencodable"):
        with s3dlio_np.open(target.uri("x"), "w") as text:
            json.dump({"rows": ROWS, "last": Unencodable()}, text)
    assert target.names() == [] and target.leftovers() == []


def test_wrappers_of_io(target: Any) -> None:
    with written(target) as stream:
        buffered = io.BufferedWriter(stream, 100_000)
        for start in range(0, len(LINES), 777):
            buffered.write(LINES[start : start + 777])
        buffered.flush()
        assert stream.tell() == len(LINES)
        buffered.detach()
        text = io.TextIOWrapper(stream, "utf-8", newline="\n", write_through=True)
        text.write("ü\n")
        text.detach()
    assert target.read("x") == LINES + b"\xc3\xbc\n"
    with here(target) as stream, io.BufferedReader(stream, 1000) as reader:
        assert reader.readline() == b"line 0 \xc3\xbc\n"
        assert reader.peek(3)[:3] == b"lin"
        reader.seek(-3, io.SEEK_END)
        assert reader.read() == b"\xc3\xbc\n"
    with here(target) as stream, io.TextIOWrapper(stream, "utf-8") as text:
        assert text.readline() == "line 0 ü\n"
        place = text.tell()
        assert "line 0 ü\n" + text.read() == LINES.decode() + "ü\n"
        text.seek(place)
        assert next(text) == "line 1 ü\n"


def test_lines(target: Any) -> None:
    target.write("x", LINES)
    with here(target) as stream:
        assert list(stream) == LINES.splitlines(keepends=True)
    with here(target) as stream:
        assert b"".join(stream.readlines(1000)) == LINES[: len(b"".join(stock(target).readlines(1000)))]


def test_numpys_text(target: Any) -> None:
    table = np.random.default_rng(3).random((500, 4))
    with written(target) as stream:
        np.savetxt(stream, table, delimiter=",", header="a,b,c,d")
    file = io.BytesIO()
    np.savetxt(file, table, delimiter=",", header="a,b,c,d")
    assert target.read("x") == file.getvalue()
    for read in (np.loadtxt, np.genfromtxt):
        with here(target) as stream:
            np.testing.assert_array_equal(read(stream, delimiter=","), table)
    with s3dlio_np.open(target.uri("x"), "w") as text:
        np.savetxt(text, table)
    with s3dlio_np.open(target.uri("x"), "r") as text:
        np.testing.assert_array_equal(np.loadtxt(text), table)


# --- more ---------------------------------------------------------------------------------------


def test_copies(target: Any) -> None:
    with written(target) as stream:
        shutil.copyfileobj(io.BytesIO(NOISE), stream, 100_000)
    assert target.read("x") == NOISE
    with here(target) as source, written(target, "copy") as sink:
        shutil.copyfileobj(source, sink)
    assert target.read("copy") == NOISE


def test_sound_property_lists_and_xml(target: Any) -> None:
    target.write("x", tone())
    with here(target) as stream, wave.open(stream) as sound:
        assert sound.readframes(3) == b"\0\1\0\2\0\3"
    with written(target) as stream:
        plistlib.dump({"a": [1, b"x"]}, stream, fmt=plistlib.FMT_BINARY)
    with here(target) as stream:
        assert plistlib.load(stream) == {"a": [1, b"x"]}
    root = ET.Element("root", name="ü")
    with written(target) as stream:
        ET.ElementTree(root).write(stream, "utf-8")
    with here(target) as stream:
        assert ET.parse(stream).getroot().get("name") == "ü"


def tone() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\1\0\2\0\3")
    return file.getvalue()
