"""A disk without room and a limit on a file's size: the errno, the old file, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import child

WRITES = {
    "put": "s3dlio_np.put(path, bytes(size))",
    "one write": """
            with s3dlio_np.open(path, "wb", part_size=5 << 20) as stream:
                stream.write(bytes(size))""",
    "parts": """
            with s3dlio_np.open(path, "wb", part_size=5 << 20, max_concurrency=2) as stream:
                for _ in range(size >> 20):
                    stream.write(bytes(1 << 20))""",
    "savez": "s3dlio_np.savez(path, a=np.ones(size, 'u1'))",
    "zstd": """
            options = s3dlio_np.WriterOptions(compression="zstd", part_size=5 << 20)
            s3dlio_np.put(path, np.random.default_rng(1).bytes(size), options=options)""",
}
# A namespace of its own lets anyone mount; where even that is forbidden, the test fails.
FULL = """
        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(0x20000 if os.geteuid() == 0 else 0x10020000)  # mounts (and users)
        libc.mount(b"none", b"/", None, 0x44000, None)  # private: nobody else sees the mount
        mounted = libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=8m")
        assert mounted == 0, os.strerror(ctypes.get_errno())
"""
LIMITED = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, resource.RLIM_INFINITY))
"""
SCRIPT = """
        import ctypes, errno, gc, os, resource, sys
        import numpy as np, s3dlio_np
        folder, wanted = sys.argv[1], getattr(errno, sys.argv[2])
        {limit}
        path, size = os.path.join(folder, "x"), 12 << 20
        with open(path, "wb") as file:
            file.write(b"old")
        try:
            {write}
        except OSError as error:
            assert error.errno == wanted, error
            assert "x" in str(error), error
        else:
            raise AssertionError("there was room")
        gc.collect()
        assert os.listdir(folder) == ["x"], os.listdir(folder)
        assert open(path, "rb").read() == b"old"
        s3dlio_np.put(path, bytes(6 << 20))  # what was freed serves again
        assert os.path.getsize(path) == 6 << 20
        assert s3dlio_np.stats()["memory_held_bytes"] == 0
        print("done")
"""


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize(
    ("limit", "number"), [(FULL, "ENOSPC"), (LIMITED, "EFBIG")], ids=["full", "limited"]
)
def test_no_room(tmp_path: Path, name: str, limit: str, number: str) -> None:
    script = SCRIPT.format(limit=limit.strip(), write=WRITES[name].strip())
    warnings = {"PYTHONWARNINGS": "ignore::ResourceWarning"}
    assert child.run(script, tmp_path, number, env=warnings) == "done\n"
