"""Writes the archives that the zip tests compare with or read: tests/c/data and tests/fuzz/corpus/zip_read.

Run by hand with the torch whose layout is to be matched (2.13.0): python tests/c/data/make_zips.py
The results are committed; nothing here runs in a build.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import torch

DATA = Path(__file__).resolve().parent
CORPUS = DATA.parents[1] / "fuzz" / "corpus" / "zip_read"


class Skeleton:
    """A sink that keeps all but the payloads that torch skips with a seek."""

    def __init__(self) -> None:
        self.kept = b""
        self.offset = 0

    def write(self, data: memoryview) -> int:
        self.kept += bytes(data)
        self.offset += len(data)
        return len(data)

    def seek(self, by: int, whence: int = 0) -> None:
        assert whence == 1
        self.offset += by

    def flush(self) -> None:
        pass


class Unseekable(io.BytesIO):
    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation


def pattern(length: int) -> bytes:
    return bytes((i * 7 + 3) & 255 for i in range(length))


def torch_archive(sink: object, records: list, crc: bool = True, alignment: int = 64) -> str:
    """`records`: name and bytes, or name and a size for what write_record_metadata skips."""
    writer = torch._C.PyTorchFileWriter(sink, crc, alignment)
    for name, data in records:
        if isinstance(data, int):
            writer.write_record_metadata(name, data)
        else:
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return writer.serialization_id()


def write_golden() -> None:
    plain = [
        ("data.pkl", b"hello"),
        ("empty", b""),
        ("\u00e9\u4e2d/x", pattern(100)),
        ("d/", b""),
        ("data/0", pattern(1000)),
        ("fake", b"PK\x07\x08abcdefgh"),
    ]
    sink = io.BytesIO()
    torch_archive(sink, plain)
    (DATA / "torch_plain.zip").write_bytes(sink.getvalue())
    sink = io.BytesIO()
    torch_archive(sink, [("a", pattern(5)), ("skipped", 100), ("b", pattern(70))], False, 4096)
    (DATA / "torch_4096.zip").write_bytes(sink.getvalue())

    skeleton = Skeleton()
    ones = 0xFFFFFFFF
    records = [("a", ones - 1), ("b", ones), ("c", ones + 1), ("d", b""), ("e", pattern(9))]
    torch_archive(skeleton, records)
    header = struct.pack("<Q", skeleton.offset)
    (DATA / "torch_zip64.skeleton").write_bytes(header + skeleton.kept)

    sink = io.BytesIO()
    many = [(f"data/{i}", b"%d" % i) for i in range(70000)]
    name = torch_archive(sink, many)
    whole = sink.getvalue()
    print(f"70,000 records: {len(whole)} bytes, CRC {zlib.crc32(whole):#010x}, id {name}")


def write_corpus() -> None:
    def put(name: str, data: bytes) -> None:
        (CORPUS / name).write_bytes(data)

    sink = io.BytesIO()
    tensors = {"w": torch.arange(100.0), "b": torch.zeros(3, dtype=torch.int8), "n": "text"}
    torch.save(tensors, sink)
    put("torch_save.zip", sink.getvalue())
    for name in ("torch_plain.zip", "torch_4096.zip"):
        put(name, (DATA / name).read_bytes())
    # As a fuzz input the skeleton is a whole object; only its end makes sense.
    put("torch_zip64.skeleton", (DATA / "torch_zip64.skeleton").read_bytes()[8:])

    def zipped(stream: io.BytesIO, method: int, comment: bytes = b"") -> bytes:
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, data in (("one.txt", pattern(300)), ("two/\u00e9.txt", b"")):
                archive.writestr(zipfile.ZipInfo(name), data, method)
            with archive.open(zipfile.ZipInfo("three"), "w", force_zip64=True) as member:
                member.write(pattern(50))
            archive.comment = comment
        return stream.getvalue()

    put("zipfile_stored.zip", zipped(io.BytesIO(), zipfile.ZIP_STORED))
    put("zipfile_deflated.zip", zipped(io.BytesIO(), zipfile.ZIP_DEFLATED))
    put("zipfile_unseekable.zip", zipped(Unseekable(), zipfile.ZIP_STORED))
    put("zipfile_comment.zip", zipped(io.BytesIO(), zipfile.ZIP_STORED, b"a PK\x05\x06 comment" * 3))
    put("zipfile_prefix.zip", b"#!/bin/sh\n" + zipped(io.BytesIO(), zipfile.ZIP_STORED))
    limit, zipfile.ZIP64_LIMIT = zipfile.ZIP64_LIMIT, 40  # zip64 wherever it can be
    put("zipfile_zip64.zip", zipped(io.BytesIO(), zipfile.ZIP_STORED))
    zipfile.ZIP64_LIMIT = limit
    put("zipfile_empty.zip", b"PK\x05\x06" + bytes(18))


if __name__ == "__main__":
    if not torch.__version__.startswith("2.13."):
        sys.exit(f"torch {torch.__version__}: the tests pin the layout of 2.13")
    CORPUS.mkdir(parents=True, exist_ok=True)
    write_golden()
    write_corpus()
