"""pandas reads and writes streams of ours in every format that it does in one pass."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import s3dlio_np

RNG = np.random.default_rng(1)
ROWS = 60_000


def frame(rows: int = ROWS) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "count": np.arange(rows),
            "share": RNG.random(rows),
            "name": [f"näme {i % 1000}, \"quoted\"" for i in range(rows)],
            "when": pd.date_range("2020-01-01", periods=rows, freq="min"),
        }
    )


FRAME = frame()
NUMBERS = FRAME[["count", "share"]]

Save = Callable[[pd.DataFrame, Any], Any]
Load = Callable[[Any], pd.DataFrame]
FORMATS: dict[str, tuple[pd.DataFrame, Save, Load]] = {
    "csv": (
        FRAME,
        lambda f, file: f.to_csv(file, index=False),
        lambda file: pd.read_csv(file, parse_dates=["when"]),
    ),
    "csv by pyarrow": (
        NUMBERS,
        lambda f, file: f.to_csv(file, index=False),
        lambda file: pd.read_csv(file, engine="pyarrow"),
    ),
    "csv by python": (
        NUMBERS[:500],
        lambda f, file: f.to_csv(file, index=False),
        lambda file: pd.read_csv(file, engine="python"),
    ),
    "csv.gz": (
        NUMBERS,
        lambda f, file: f.to_csv(file, index=False, compression="gzip"),
        lambda file: pd.read_csv(file, compression="gzip"),
    ),
    "csv.xz": (
        NUMBERS[:5000],
        lambda f, file: f.to_csv(file, index=False, compression="xz"),
        lambda file: pd.read_csv(file, compression="xz"),
    ),
    "csv in zip": (
        NUMBERS,
        lambda f, file: f.to_csv(
            file, index=False, compression={"method": "zip", "archive_name": "f.csv"}
        ),
        lambda file: pd.read_csv(file, compression="zip"),
    ),
    "pickle": (FRAME, lambda f, file: f.to_pickle(file), pd.read_pickle),
    "pickle protocol 2": (
        FRAME,
        lambda f, file: f.to_pickle(file, protocol=2),
        pd.read_pickle,
    ),
    "parquet": (FRAME, lambda f, file: f.to_parquet(file), pd.read_parquet),
    "feather": (FRAME, lambda f, file: f.to_feather(file), pd.read_feather),
    "json lines": (
        FRAME[["count", "name"]],
        lambda f, file: f.to_json(file, orient="records", lines=True),
        lambda file: pd.read_json(file, orient="records", lines=True),
    ),
    "stata": (
        NUMBERS,
        lambda f, file: f.to_stata(file, write_index=False),
        pd.read_stata,
    ),
}


def same(loaded: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(loaded, expected, check_dtype=False)


@pytest.mark.parametrize("name", FORMATS)
def test_both_ways(target: Any, write: Any, read: Any, name: str) -> None:
    table, save, load = FORMATS[name]
    with write("f") as stream:
        save(table, stream)
    same(load(io.BytesIO(target.read("f"))), table)
    with read("f") as stream:
        same(load(stream), table)


def test_text(target: Any) -> None:
    with s3dlio_np.open(target.uri("f.csv"), "w", newline="") as text:
        FRAME.to_csv(text, index=False)
    assert target.read("f.csv") == FRAME.to_csv(index=False).encode()
    with s3dlio_np.open(target.uri("f.csv")) as stream:
        same(pd.read_csv(stream, parse_dates=["when"]), FRAME)
    with s3dlio_np.open(target.uri("f.csv"), "r") as text:
        same(pd.read_csv(text, parse_dates=["when"]), FRAME)


def test_in_chunks(target: Any, read: Any) -> None:
    target.write("f.csv", NUMBERS.to_csv(index=False).encode())
    with read("f.csv") as stream:
        same(pd.concat(pd.read_csv(stream, chunksize=7000)), NUMBERS)


def test_one_column_costs_its_own_bytes(s3_own: Any) -> None:
    wide = pd.DataFrame(RNG.random((200_000, 8)), columns=list("abcdefgh"))
    s3_own.put("f.parquet", wide.to_parquet(compression=None))
    with s3dlio_np.open(s3_own.uri("f.parquet")) as stream:
        same(pd.read_parquet(stream, columns=["c"]), wide[["c"]])
    whole = s3_own.objects()["f.parquet"]
    assert s3_own.server.counters()["bytes_out"] < whole / 2


class Unwritable:
    def __str__(self) -> str:
        raise ZeroDivisionError("in writing")

    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in writing")


@pytest.mark.parametrize(
    "save",
    [
        lambda f, file: f.to_csv(file, chunksize=1000),
        lambda f, file: f.to_csv(file, chunksize=1000, compression="gzip"),
        lambda f, file: f.to_pickle(file),
    ],
    ids=["csv", "csv.gz", "pickle"],
)
def test_a_writer_that_fails(broken: Any, save: Save) -> None:
    column: list[Any] = [f"{i}" * 10 for i in range(20_000)]
    table = pd.DataFrame({"a": np.arange(20_000), "b": np.array([*column[:-1], Unwritable()], object)})
    with broken(ZeroDivisionError, "in writing") as stream:
        save(table, stream)
