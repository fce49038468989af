"""joblib.dump and joblib.load, plain and by each of its compressors."""

from __future__ import annotations

import io
from typing import Any

import joblib
import numpy as np
import pytest

RNG = np.random.default_rng(5)
VALUE = {
    "large": RNG.random((900, 1000)).round(1),
    "fortran": np.asfortranarray(RNG.random((200, 30))),
    "objects": np.array([None, "text"], object),
    "more": ["text", 3, {"a": (1, 2)}],
}


def same(loaded: Any) -> None:
    np.testing.assert_array_equal(loaded["large"], VALUE["large"])
    assert loaded["fortran"].flags.f_contiguous
    np.testing.assert_array_equal(loaded["fortran"], VALUE["fortran"])
    assert loaded["objects"].tolist() == [None, "text"]
    assert loaded["more"] == VALUE["more"]


@pytest.mark.parametrize("compress", [0, 1, *((m, 1) for m in ("gzip", "bz2", "lzma", "xz"))])
def test_both_ways(target: Any, write: Any, read: Any, compress: Any) -> None:
    with write("j") as stream:
        joblib.dump(VALUE, stream, compress=compress)
    same(joblib.load(io.BytesIO(target.read("j"))))
    with read("j") as stream:
        same(joblib.load(stream))


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in pickling")


def test_a_writer_that_fails(broken: Any) -> None:
    with broken(ZeroDivisionError, "in pickling") as stream:
        joblib.dump([VALUE["large"], Unpicklable()], stream)
