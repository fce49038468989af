"""DataLoader workers, by every start method, that read while the parent has streams open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import child

PROGRAM = """
import sys
import torch, s3dlio_np, s3dlio_torch
from torch.utils.data import DataLoader, Dataset

COUNT, SIZE = 12, 400_000
SPAN = 1 << 20


class Saved(Dataset):
    def __init__(self, bases):
        self.bases = bases

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        base = self.bases[index % 2]
        row = s3dlio_torch.load(f"{base}-{index}")
        s3dlio_torch.save(row + 1, f"{base}-out-{index}")
        return row


def main(method, *bases):
    for index in range(COUNT):
        s3dlio_torch.save(torch.full((SIZE,), float(index)), f"{bases[index % 2]}-{index}")
    base = bases[0]
    large = bytes(range(256)) * (12 * SPAN // 256)
    s3dlio_np.put(f"{base}-large", large)
    reader = s3dlio_np.open(f"{base}-large", part_size=SPAN, max_concurrency=2)
    writer = s3dlio_np.open(f"{base}-new", "wb", part_size=5 * SPAN, max_concurrency=2)
    read = [reader.read(SPAN)]
    writer.write(large[: 6 * SPAN])  # a part is on its way when the workers start
    loader = DataLoader(
        Saved(bases), batch_size=2, num_workers=2, multiprocessing_context=method,
        persistent_workers=True,
    )
    for epoch in range(2):
        rows = []
        for batch in loader:
            rows += batch[:, [0, -1]].tolist()
            if not epoch:
                read.append(reader.read(SPAN))
        assert rows == [[float(i), float(i)] for i in range(COUNT)], rows
    writer.write(large[6 * SPAN :])
    writer.close()
    read.append(reader.read())
    assert b"".join(read) == large
    assert s3dlio_np.get_bytes(f"{base}-new") == large
    for index in range(COUNT):
        row = s3dlio_torch.load(f"{bases[index % 2]}-out-{index}")
        assert torch.equal(row, torch.full((SIZE,), index + 1.0))
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers(s3_own: Any, method: str, tmp_path: Path) -> None:
    """Every other object lies in a file."""
    program = tmp_path / "program.py"  # a file: spawned workers import it
    program.write_text(PROGRAM)
    folder = tmp_path / "files"
    folder.mkdir()
    runs_it = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    printed = child.run(runs_it, program, method, s3_own.uri("x"), (folder / "x").as_uri())
    assert printed == "done\n"
    even = {f"x-{kind}{i}" for i in range(0, 12, 2) for kind in ("", "out-")}
    odd = {f"x-{kind}{i}" for i in range(1, 12, 2) for kind in ("", "out-")}
    assert set(s3_own.objects()) == {"x-large", "x-new"} | even
    assert {path.name for path in folder.iterdir()} == odd  # no temporary file either
    assert s3_own.uploads() == []
