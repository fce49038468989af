"""Memory: arrays are saved from where they lie and loaded to where they stay, asked of the kernel."""

from __future__ import annotations

import json

from tests import child
from tests.servers.own import OwnServer

MIB = 1 << 20
LIMIT = 64 * MIB
COPIED = 192 * MIB  # of what is not contiguous: a chunk, and the parts that are under way
SIZE = 512 * MIB

# Prints how much more memory there was at most than before, and than what the result takes.
MEASURE = """
import json, sys
import numpy as np
import s3dlio_np

size, members = int(sys.argv[1]), 16
s3dlio_np.stats()
block = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
limits = s3dlio_np.WriterOptions(part_size=8 << 20, max_concurrency=8)
array = np.tile(block, size >> 20).view("<u4").reshape(-1, 1024)
parts = dict(zip("abcdefghijklmnop", np.split(array, members)))
sparse = np.zeros(size, np.uint8)
sparse[:: 1 << 20] = 1

def in_memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024

def npy():
    return s3dlio_np.load("s3://bucket/a.npy")

def npy_by_another_name():
    return s3dlio_np.load("s3://bucket/a")

def npz():
    with s3dlio_np.load("s3://bucket/a.npz") as archive:
        return [archive[name] for name in archive]

def npz_at_once():
    return list(s3dlio_np.load("s3://bucket/a.npz", load_all=True).values())

def deflated():
    return s3dlio_np.load("s3://bucket/c.npz", load_all=True)["sparse"]

works = {
    "save": lambda: s3dlio_np.save("s3://bucket/a.npy", array),
    "save fortran": lambda: s3dlio_np.save("s3://bucket/f", array.T),
    "save strided": lambda: s3dlio_np.save("s3://bucket/s", array[:, ::-1], options=limits),
    "savez": lambda: s3dlio_np.savez("s3://bucket/a.npz", **parts),
    "savez strided": lambda: s3dlio_np.savez("s3://bucket/s", array[:, ::-1], options=limits),
    "savez_compressed": lambda: s3dlio_np.savez_compressed("s3://bucket/c.npz", sparse=sparse),
    "save_safetensors": lambda: s3dlio_np.save_safetensors(parts, "s3://bucket/a.st"),
    "again": lambda: s3dlio_np.save("s3://bucket/a", array),
    "npy": npy,
    "npy by another name": npy_by_another_name,
    "npz": npz,
    "npz at once": npz_at_once,
    "deflated": deflated,
    "load_safetensors": lambda: list(s3dlio_np.load_safetensors("s3://bucket/a.st").values()),
}
for name, work in works.items():
    open("/proc/self/clear_refs", "w").write("5")
    before = in_memory("VmRSS")
    result = work()
    extra = in_memory("VmHWM") - before
    loaded = 0
    if result is not None:
        pieces = [result] if isinstance(result, np.ndarray) else result
        loaded = sum(piece.nbytes for piece in pieces)
        assert loaded == size
        whole = np.concatenate(pieces)
        assert np.array_equal(whole, sparse if name == "deflated" else array)
        del whole, pieces
    del result
    print(json.dumps({"work": name, "extra": extra - loaded, "loaded": loaded}))
"""


def test_no_copies_of_512_mib() -> None:
    with OwnServer() as server:
        printed = child.run(MEASURE, SIZE, env=server.env(), timeout_s=500)
    rows = [json.loads(line) for line in printed.splitlines()]
    assert len(rows) == 14 and sum(row["loaded"] for row in rows) == 6 * SIZE
    for row in rows:
        limit = COPIED if "strided" in row["work"] else LIMIT
        assert row["extra"] <= limit, f"{row['work']}: {row['extra'] / MIB:.0f} MiB"
