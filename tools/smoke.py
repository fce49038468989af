"""Is the installed wheel whole? Run it from outside the tree: smoke.py [--without-torch]"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path


def check_np(folder: Path) -> None:
    import numpy as np

    import s3dlio_np

    assert Path(s3dlio_np.__file__).is_relative_to(sys.prefix), s3dlio_np.__file__
    path = folder / "arrays.npz"
    array = np.arange(1 << 20, dtype=np.float32)
    with s3dlio_np.open(path.as_uri(), "wb") as stream:
        np.savez(stream, a=array)
    with s3dlio_np.open(path.as_uri()) as stream:
        assert np.array_equal(np.load(stream)["a"], array)
    assert [file.name for file in folder.iterdir()] == ["arrays.npz"]
    assert not hasattr(s3dlio_np._native, "_fail_allocation"), "a build for tests"
    print(f"s3dlio_np {s3dlio_np.__version__}: ok")


def check_torch(folder: Path) -> None:
    import torch

    import s3dlio_torch

    assert Path(s3dlio_torch.__file__).is_relative_to(sys.prefix), s3dlio_torch.__file__
    uri = (folder / "state.pt").as_uri()
    state = {"w": torch.arange(1 << 16)}
    s3dlio_torch.save(state, uri)
    assert torch.equal(s3dlio_torch.load(uri)["w"], state["w"])
    print(f"s3dlio_torch with torch {torch.__version__}: ok")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        check_np(Path(name))
    if "--without-torch" in sys.argv:
        assert importlib.util.find_spec("torch") is None, "torch is installed here"
        assert "torch" not in sys.modules
        return
    assert importlib.util.find_spec("s3dlio_torch._native") is not None
    with tempfile.TemporaryDirectory() as name:
        check_torch(Path(name))


if __name__ == "__main__":
    main()
