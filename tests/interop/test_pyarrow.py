"""pyarrow: Parquet, IPC, CSV, ORC and its own file wrapper, over streams of ours."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, ipc, orc, parquet

import s3dlio_np

RNG = np.random.default_rng(2)
ROWS = 200_000
TABLE = pa.table(
    {
        "id": np.arange(ROWS),
        "value": RNG.random(ROWS),
        "other": RNG.random(ROWS),
        "text": [f"text {i % 100}" for i in range(ROWS)],
        "list": pa.array([[i, i + 1] for i in range(ROWS)]),
    }
)
FLAT = TABLE.drop_columns(["list"])


def ipc_file(table: Any, file: Any) -> None:
    with ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)


def ipc_stream(table: Any, file: Any) -> None:
    with ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)


FORMATS: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
    "parquet": (TABLE, parquet.write_table, parquet.read_table),
    "parquet zstd": (
        TABLE,
        lambda table, file: parquet.write_table(
            table, file, compression="zstd", row_group_size=30_000
        ),
        lambda file: parquet.read_table(file, pre_buffer=False),
    ),
    "ipc file": (TABLE, ipc_file, lambda file: ipc.open_file(file).read_all()),
    "ipc stream": (TABLE, ipc_stream, lambda file: ipc.open_stream(file).read_all()),
    "feather": (TABLE, feather.write_feather, feather.read_table),
    "orc": (TABLE, orc.write_table, orc.read_table),
    "csv": (FLAT, csv.write_csv, csv.read_csv),
}


@pytest.mark.parametrize("name", FORMATS)
def test_both_ways(target: Any, write: Any, read: Any, name: str) -> None:
    table, save, load = FORMATS[name]
    with write("t") as stream:
        save(table, stream)
    assert load(io.BytesIO(target.read("t"))).equals(table)
    with read("t") as stream:
        assert load(stream).equals(table)


def test_a_row_group_costs_its_own_bytes(s3_own: Any) -> None:
    file = io.BytesIO()
    parquet.write_table(FLAT, file, compression="none", row_group_size=20_000)
    s3_own.put("t", file.getvalue())
    with s3dlio_np.open(s3_own.uri("t")) as stream:
        opened = parquet.ParquetFile(stream)
        part = opened.read_row_group(3, columns=["value"])
    assert part.equals(FLAT.slice(60_000, 20_000).select(["value"]))
    assert s3_own.server.counters()["bytes_out"] < len(file.getvalue()) / 2


def test_arrows_file_wrapper(target: Any, read: Any) -> None:
    data = RNG.bytes(3_000_000)
    target.write("t", data)
    with read("t") as stream:
        file = pa.PythonFile(stream, mode="r")
        assert file.size() == len(data)
        assert file.read(10) == data[:10]
        before = pa.total_allocated_bytes()
        buffer = file.read_buffer(2_000_000)
        assert pa.total_allocated_bytes() == before  # arrow wraps the bytes that read() made
        assert buffer == data[10:2_000_010]
        assert file.read_at(100, 1_000_000) == data[1_000_000:1_000_100]
        file.seek(-5, 2)
        assert file.read() == data[-5:]
    with read("t") as stream:
        assert pa.input_stream(stream, compression=None).read() == data


def test_arrow_buffers_are_written_from_where_they_lie(target: Any, write: Any) -> None:
    buffer = pa.py_buffer(RNG.bytes(12_000_000))
    with write("t") as stream:
        assert stream.write(buffer) == buffer.size
        pa.PythonFile(stream, mode="w").write(buffer)
    assert target.read("t") == buffer.to_pybytes() * 2


def batches() -> Iterator[Any]:
    yield from FLAT.to_batches(max_chunksize=50_000)
    raise ZeroDivisionError("no more batches")


def write_batches(open_writer: Any, file: Any) -> None:
    with open_writer(file, FLAT.schema) as writer:
        for batch in batches():
            writer.write_batch(batch)


@pytest.mark.parametrize(
    "open_writer",
    [parquet.ParquetWriter, ipc.new_file, ipc.new_stream, csv.CSVWriter],
    ids=["parquet", "ipc file", "ipc stream", "csv"],
)
def test_a_writer_that_fails(broken: Any, open_writer: Any) -> None:
    with broken(ZeroDivisionError, "no more batches") as stream:
        write_batches(open_writer, stream)


def test_a_cut_file_says_so(target: Any, write: Any, read: Any) -> None:
    with write("t") as stream:
        parquet.write_table(FLAT, stream)
    target.write("t", target.read("t")[:-100])
    with read("t") as stream, pytest.raises(pa.ArrowInvalid):
        parquet.read_table(stream)


def test_an_object_that_changes_is_no_mixture(s3_own: Any) -> None:
    file = io.BytesIO()
    parquet.write_table(FLAT, file, compression="none", row_group_size=20_000)
    s3_own.put("t", file.getvalue())
    with s3dlio_np.open(s3_own.uri("t"), part_size=64 * 1024) as stream:
        opened = parquet.ParquetFile(stream)
        s3_own.put("t", file.getvalue()[::-1])
        with pytest.raises(s3dlio_np.ObjectChangedError):
            opened.read_row_group(0)
