"""The store refuses a part while a library writes: the caller learns it, and no object appears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from keras.src.saving import saving_lib
from PIL import Image
from pyarrow import ipc, parquet

import s3dlio_np
from tests.interop.test_keras import trained

RNG = np.random.default_rng(9)
NUMBERS = RNG.random(2_500_000)


def ipc_stream(file: Any) -> None:
    table = pa.table({"n": NUMBERS})
    with ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100_000)


WRITERS: dict[str, Callable[[Any], Any]] = {
    "to_csv": lambda file: pd.DataFrame(NUMBERS[:700_000]).to_csv(file),
    "to_pickle": lambda file: pd.DataFrame(NUMBERS).to_pickle(file),
    "to_parquet": lambda file: pd.DataFrame({"n": NUMBERS}).to_parquet(file),
    "write_table": lambda file: parquet.write_table(pa.table({"n": NUMBERS}), file),
    "ipc": ipc_stream,
    "joblib": lambda file: joblib.dump(NUMBERS, file),
    "joblib gzip": lambda file: joblib.dump(NUMBERS, file, compress=("gzip", 1)),
    "pillow": lambda file: Image.fromarray(
        RNG.integers(0, 256, (3000, 2500, 3), np.uint8)
    ).save(file, "BMP"),
    "jnp.save": lambda file: jnp.save(file, NUMBERS),
    "equinox": lambda file: eqx.tree_serialise_leaves(file, [jnp.asarray(NUMBERS)] * 3),
    "keras": lambda file: saving_lib.save_model(trained(width=2600), file),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_refused_part(s3_own: Any, name: str) -> None:
    fault = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    with pytest.raises((OSError, RuntimeError)):  # equinox raises errors of its own
        with s3dlio_np.open(s3_own.uri("x"), "wb", part_size=5 << 20, max_concurrency=2) as stream:
            WRITERS[name](stream)
    assert fault.hits() >= 1
    assert isinstance(stream.failure, PermissionError)
    assert s3_own.objects() == {}
    assert s3_own.uploads() == []
