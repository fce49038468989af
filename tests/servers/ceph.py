"""Ceph's RADOS Gateway, a real S3 server, on loopback with its data in memory (see ceph.sh).

`python -m tests.servers.ceph` runs it in the foreground.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.servers.boto import BotoServer, serve_in_foreground

PROGRAMS = (
    "ceph-mon",
    "ceph-osd",
    "ceph-mgr",
    "radosgw",
    "radosgw-admin",
    "ceph",
    "monmaptool",
)
INSTALL = (
    "apt-get install -y --no-install-recommends ceph-mon ceph-osd ceph-mgr radosgw ceph-common"
)


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


class CephServer(BotoServer):
    """Takes about 15 s to start. Its folder goes with it, unless it failed to start."""

    name = "Ceph RADOS Gateway"

    def __init__(self) -> None:
        super().__init__()
        self.folder: Path | None = None

    def command(self) -> Sequence[str]:
        self.folder = Path(tempfile.mkdtemp(prefix="s3d-ceph-"))
        script = Path(__file__).with_name("ceph.sh")
        return ["bash", str(script), "run", str(self.folder)]

    def stop(self) -> None:
        super().stop()
        if self.folder is not None and self._settings:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


if __name__ == "__main__":
    serve_in_foreground(CephServer())
