"""Servers and places that tests write to.

Fixtures: `own_server`, `ceph_server`, `moto_server` (one each a run), `s3` (an empty bucket,
environment and engine pointed at it; `s3_own` for faults), `target` (the same test on s3://
and file://). The Ceph and moto variants carry the markers `ceph` and `moto`. They run when the
server can be had; when not they are left out and the closing summary says so. S3D_CEPH=1 /
S3D_MOTO=1 demands them (a server that cannot start is then an error), 0 leaves them out. The same
holds for `oom`, S3D_OOM and builds in which allocations can fail.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import oom
from tests.servers import ceph
from tests.servers import moto_server as moto
from tests.servers.own import OwnServer

# A shell starts background jobs with Ctrl-C ignored, which would be inherited: tests that interrupt
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# --- which servers take part ------------------------------------------------------------------

LEFT_OUT = pytest.StashKey[dict[str, tuple[int, str]]]()


def reason_to_leave_out(marker: str) -> str | None:
    """None when tests with this marker run, else why not and what would change that."""
    variable = f"S3D_{marker.upper()}"
    wish = os.environ.get(variable, "")
    if wish == "1":
        return None
    if wish == "0":
        return f"{variable}=0"
    if wish:
        raise pytest.UsageError(f"{variable}={wish!r}: expected 0, 1 or nothing")
    if marker == "ceph" and "PYTEST_XDIST_WORKER" in os.environ:
        return "each of several processes would start a Ceph of its own; PYTEST_JOBS=0 runs one"
    if marker == "ceph" and ceph.missing_programs():
        return f"{', '.join(ceph.missing_programs())} not installed; {ceph.INSTALL}"
    if marker == "moto" and not moto.is_installed():
        return f"moto's server is not installed; {moto.INSTALL}"
    if marker == "oom":
        return oom.missing()
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out: dict[str, tuple[int, str]] = {}
    for marker in ("ceph", "moto", "oom"):
        reason = reason_to_leave_out(marker)
        if reason is None:
            continue
        out = [item for item in items if item.get_closest_marker(marker)]
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
        if out:
            config.hook.pytest_deselected(items=out)
            left_out[marker] = (len(out), reason)
    config.stash[LEFT_OUT] = left_out
    if hasattr(config, "workeroutput"):  # one process of several (pytest-xdist)
        config.workeroutput["left_out"] = left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All of these processes collect the same tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for marker, (count, reason) in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.write_sep("!", f"NOT RUN: {count} {marker} tests", red=True, bold=True)
        terminalreporter.write_line(f"{reason} (S3D_{marker.upper()}=1 demands them)")


# --- servers ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def own_server() -> Iterator[OwnServer]:
    """The project's own server, signatures verified. `s3` resets it before each test."""
    with OwnServer(verify=True, md5=True) as server:  # ETags as on S3
        yield server


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[ceph.CephServer]:
    with ceph.CephServer() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[moto.MotoServer]:
    with moto.MotoServer() as server:
        yield server


# --- a bucket ---------------------------------------------------------------------------------


class S3Bucket:
    """One bucket, looked at from outside the code under test; `server` has faults, counters."""

    def __init__(self, server: Any, bucket: str) -> None:
        self.server = server
        self.bucket = bucket
        self.endpoint: str = server.endpoint

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def objects(self) -> dict[str, int]:
        """Size of each object by key."""
        if isinstance(self.server, OwnServer):
            rows = self.server.objects()
            return {row["key"]: row["size"] for row in rows if row["bucket"] == self.bucket}
        sizes: dict[str, int] = self.server.objects(self.bucket)
        return sizes

    def uploads(self) -> list[str]:
        """Key of each open multipart upload."""
        if isinstance(self.server, OwnServer):
            rows = self.server.uploads()
            return [row["key"] for row in rows if row["bucket"] == self.bucket]
        keys: list[str] = self.server.uploads(self.bucket)
        return keys

    def put(self, key: str, data: bytes) -> None:
        self.server.put_object(self.bucket, key, data)

    def get(self, key: str) -> bytes:
        body: bytes = self.server.get_object(self.bucket, key)
        return body


def point_engine_at(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `server`'s settings stay in the environment; the engine reads them again."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    try:
        import s3dlio_np
    except ImportError:
        return  # not built: the test that imports it says so
    configure = getattr(s3dlio_np, "configure", None)
    if configure is not None:
        configure()


def earn_retries(uri: str, tokens: int) -> None:
    """For tests that use up attempts: a retry costs five tokens of the process, a success brings one."""
    import s3dlio_np

    for _ in range(tokens):
        list(s3dlio_np.list(uri))  # a success, whatever is there


def open_bucket(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Bucket]:
    server = request.getfixturevalue(f"{kind}_server")
    if kind == "own":
        server.reset(objects=True)
        point_engine_at(server, monkeypatch)
        yield S3Bucket(server, "bucket")
        return
    bucket = f"t-{uuid.uuid4().hex[:12]}"
    server.create_bucket(bucket)
    point_engine_at(server, monkeypatch)
    yield S3Bucket(server, bucket)
    server.delete_bucket(bucket)


REAL_SERVERS = [
    pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("ceph", "moto")
]


@pytest.fixture(params=["own", *REAL_SERVERS])
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """An empty bucket, on each server."""
    yield from open_bucket(request.param, request, monkeypatch)


@pytest.fixture
def s3_own(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Bucket]:
    """An empty bucket on the project's own server only: for faults and counters."""
    yield from open_bucket("own", request, monkeypatch)


# --- the same test on s3:// and file:// -------------------------------------------------------


class S3Target:
    kind = "s3"

    def __init__(self, bucket: S3Bucket) -> None:
        self.bucket = bucket

    def uri(self, name: str) -> str:
        return self.bucket.uri(name)

    def exists(self, name: str) -> bool:
        return name in self.bucket.objects()

    def names(self) -> list[str]:
        return sorted(self.bucket.objects())

    def leftovers(self) -> list[str]:
        """Open multipart uploads."""
        return self.bucket.uploads()

    def write(self, name: str, data: bytes) -> None:
        self.bucket.put(name, data)

    def read(self, name: str) -> bytes:
        return self.bucket.get(name)


class FileTarget:
    kind = "file"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: set[str] = set()

    def uri(self, name: str) -> str:
        self._named.add(name)
        return (self.folder / name).as_uri()

    def exists(self, name: str) -> bool:
        return (self.folder / name).exists()

    def names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.folder)) for path in files)

    def leftovers(self) -> list[str]:
        """Files that no test asked for: temporary ones."""
        return [name for name in self.names() if name not in self._named]

    def write(self, name: str, data: bytes) -> None:
        self._named.add(name)
        (self.folder / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def open_target(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[S3Target | FileTarget]:
    """The place that the parameter names: "file", or a kind of server ("s3-own" is the own one)."""
    if request.param == "file":
        folder = tmp_path / "target"
        folder.mkdir()
        yield FileTarget(folder)
        return
    kind = request.param.removeprefix("s3-")
    for bucket in open_bucket(kind, request, monkeypatch):
        yield S3Target(bucket)


@pytest.fixture(params=["s3-own", "file", *REAL_SERVERS])
def target(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[S3Target | FileTarget]:
    """A place for named objects, and a view of it from outside the code under test."""
    yield from open_target(request, monkeypatch, tmp_path)
