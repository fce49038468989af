"""What may lie where a local file is to be: links, pipes, devices, others' files. As open() has it, or refused."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio_np

PART = 5 << 20
LARGE = bytes(PART) + b"tail"


def put_small(path: Any) -> bytes:
    s3dlio_np.put(path, b"new")
    return b"new"


def put_parts(path: Any) -> bytes:
    with s3dlio_np.open(path, "wb", part_size=PART) as stream:
        stream.write(LARGE)
    return LARGE


def read_in_order(path: Any) -> bytes:
    with s3dlio_np.open(path) as stream:
        data: bytes = stream.read()
    return data


WRITES = {"at once": put_small, "in parts": put_parts}
READS: dict[str, Callable[[Any], Any]] = {
    "get_bytes": s3dlio_np.get_bytes,
    "ranges": lambda path: s3dlio_np.get_bytes(path, concurrent=True),
    "one request": lambda path: s3dlio_np.get_bytes(path, concurrent=False),
    "get_into": lambda path: s3dlio_np.get_into(path, bytearray(9)),
    "open": read_in_order,
    "stat": s3dlio_np.stat,
}
writes = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


def temps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(".s3dlio-tmp"))


def the_temporary(folder: Path) -> Path:
    """The file that a stream with parts under way writes to: an I/O thread makes it, soon."""
    for _ in range(1000):
        if found := temps(folder):
            return found[0]
        time.sleep(0.01)
    raise AssertionError("there is none")


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


# --- modes ---------------------------------------------------------------------------------------


@writes
@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o137, 0o777])
def test_a_new_file_has_the_mode_that_open_gives(
    tmp_path: Path, umask: Any, write: Any, mask: int
) -> None:
    umask(mask)
    with open(tmp_path / "theirs", "wb"):
        write(tmp_path / "ours")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == {"theirs": modes["theirs"], "ours": modes["theirs"]}


@writes
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o777, 0o4755, 0o2755])
def test_an_old_files_permissions_stay(tmp_path: Path, write: Any, mode: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(mode)
    assert path.read_bytes() != write(path) == path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o777  # a new file runs as nobody else


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of a user who is not root, and that user's rights."""
    with tempfile.TemporaryDirectory() as folder:
        user = os.geteuid()
        if user == 0:
            os.chown(folder, 65534, -1)
            os.seteuid(65534)  # in all threads
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("mask", [0, 0o777])
def test_what_is_not_whole_is_private(as_nobody: Path, umask: Any, mask: int) -> None:
    """While its parts come, and whatever the umask; which must not hinder its owner either."""
    umask(mask)
    with s3dlio_np.open(as_nobody / "x", "wb", part_size=PART) as stream:
        stream.write(LARGE)
        stream.write(LARGE)
        assert the_temporary(as_nobody).stat().st_mode & 0o077 == 0
    assert temps(as_nobody) == []
    assert (as_nobody / "x").stat().st_size == 2 * len(LARGE)


@writes
def test_a_read_only_file_is_not_replaced(as_nobody: Path, write: Any) -> None:
    """Though a rename would need no more than a right on the folder."""
    path = as_nobody / "x"
    path.write_bytes(b"old")
    path.chmod(0o444)
    for attempt in (lambda: open(path, "wb").close(), lambda: write(path)):
        with pytest.raises(PermissionError):
            attempt()
    assert path.read_bytes() == b"old"
    assert temps(as_nobody) == []


# --- what lies there -----------------------------------------------------------------------------


def make_link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    path.symlink_to("fifo")


NO_FILES: dict[str, tuple[Callable[[Path], None], type[Exception], type[Exception]]] = {
    # how it is made, what a write raises, what a read raises
    "a folder": (Path.mkdir, IsADirectoryError, IsADirectoryError),
    "a link to a folder": (make_link("."), IsADirectoryError, IsADirectoryError),
    "a link to nothing": (make_link("nothing"), FileNotFoundError, FileNotFoundError),
    "a link in a circle": (make_link("x"), OSError, OSError),
    "a FIFO": (os.mkfifo, OSError, OSError),
    "a socket": (make_socket, OSError, OSError),
    "a link to a device": (make_link("/dev/null"), OSError, OSError),
    "a link to a FIFO": (make_link_to_fifo, OSError, OSError),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("use", [*WRITES.values(), *READS.values()], ids=[*WRITES, *READS])
def test_what_is_no_file(tmp_path: Path, kind: str, use: Any) -> None:
    """Refused at once, and left as it is: nobody waits for who writes to a FIFO."""
    make, on_write, on_read = NO_FILES[kind]
    make(tmp_path / "x")
    before = {path.name: path.lstat() for path in tmp_path.iterdir()}
    with pytest.raises(on_write if use in WRITES.values() else on_read):
        use(tmp_path / "x")
    assert {path.name: path.lstat()[:3] for path in tmp_path.iterdir()} == {
        name: about[:3] for name, about in before.items()
    }


def test_the_device_stays_a_device() -> None:
    for write in WRITES.values():
        with pytest.raises(OSError, match="is a device: only regular files"):
            write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@writes
def test_a_link_is_written_through(tmp_path: Path, write: Any) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "real").write_bytes(b"old")
    (tmp_path / "deep" / "real").chmod(0o600)
    (tmp_path / "second").symlink_to("deep/real")
    (tmp_path / "first").symlink_to("second")
    written = write(tmp_path / "first")
    assert os.readlink(tmp_path / "first") == "second"
    assert (tmp_path / "deep" / "real").read_bytes() == written
    assert stat.S_IMODE((tmp_path / "deep" / "real").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "deep",
        "first",
        "real",
        "second",
    ]


@writes
def test_other_names_of_a_file_keep_the_old_one(tmp_path: Path, write: Any) -> None:
    """As after a rename, and unlike open(): half of a new version is under no name."""
    (tmp_path / "x").write_bytes(b"old")
    os.link(tmp_path / "x", tmp_path / "other")
    written = write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == written
    assert (tmp_path / "other").read_bytes() == b"old"


@pytest.mark.parametrize("take_place", [Path.symlink_to, Path.hardlink_to])
def test_what_takes_the_temporary_files_place(tmp_path: Path, take_place: Any) -> None:
    bystander = tmp_path / "bystander"
    bystander.write_bytes(b"theirs")
    stream = s3dlio_np.open(tmp_path / "x", "wb", part_size=PART)
    stream.write(LARGE)
    stream.write(LARGE)
    temporary = the_temporary(tmp_path)
    temporary.unlink()
    take_place(temporary, bystander)
    with pytest.raises(OSError):
        stream.close()
    assert bystander.read_bytes() == b"theirs"
    assert not (tmp_path / "x").exists()


def test_a_listing_names_files_alone(tmp_path: Path) -> None:
    """Links to them, too; it does not go down links to folders, so it ends."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "up").symlink_to("..")
    (tmp_path / "folder" / "c").symlink_to("../a")
    for number, (make, _, _) in enumerate(NO_FILES.values()):
        make(tmp_path / "folder" / "x")
        (tmp_path / "folder" / "x").rename(tmp_path / "folder" / f"x{number}")
    names = [Path(row["uri"]).relative_to(tmp_path) for row in s3dlio_np.list(tmp_path)]
    assert [str(name) for name in names] == ["a", "b", "folder/c"]


# --- lengths -------------------------------------------------------------------------------------


@writes
@pytest.mark.parametrize("character", ["n", "é", "💾"])
def test_the_longest_name(tmp_path: Path, write: Any, character: str) -> None:
    """The temporary file beside it has a shorter one."""
    name = character * (255 // len(character.encode()))
    written = write(tmp_path / name)
    assert read_in_order(tmp_path / name) == written
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OSError, match="File name too long"):
        write(tmp_path / (name + "nnnn"))


@writes
def test_paths(tmp_path: Path, write: Any) -> None:
    """Up to the system's 4,095 bytes, of which the temporary file's name needs 23 more than "x"."""

    def path_of(length: int) -> str:
        start = str(tmp_path) + "/"
        return start + "/" * (length - len(start) - 1) + "x"

    for length in (1000, 2000, 4000, 4070):
        written = write(path_of(length))
        assert read_in_order(path_of(length)) == written
    for length in (4080, 4095):
        with pytest.raises(ValueError, match=rf"too long to write to \({length} bytes\)"):
            write(path_of(length))
    for length in (4096, 1 << 20):
        for use in (write, *READS.values()):
            with pytest.raises(OSError, match="File name too long"):
                use(path_of(length))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# --- files that change, or do not tell -----------------------------------------------------------


def shrink(path: Path) -> None:
    os.truncate(path, 7)


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def replace(path: Path) -> None:
    (path.parent / "next").write_bytes(bytes(path.stat().st_size))
    (path.parent / "next").rename(path)


@pytest.mark.parametrize("change", [shrink, grow, replace, Path.unlink])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(3 << 20))
    with s3dlio_np.open(path, part_size=1 << 16, max_concurrency=1) as stream:
        assert stream.read(10) == bytes(10)
        change(path)
        with pytest.raises((s3dlio_np.ObjectChangedError, FileNotFoundError)):
            stream.read()


@pytest.mark.parametrize("use", READS.values(), ids=READS)
@pytest.mark.parametrize(
    "path", ["/proc/version", "/proc/self/status", "/proc/self/task/../comm"]
)
def test_files_that_do_not_tell_their_size(use: Any, path: str) -> None:
    """Empty is what they seem, and not what open() reads."""
    assert os.stat(path).st_size == 0
    assert Path(path).read_bytes()
    with pytest.raises(OSError, match=f'"{path}" does not tell its size'):
        use(path)


@pytest.mark.parametrize("use", READS.values(), ids=READS)
def test_an_empty_file(as_nobody: Path, use: Any) -> None:
    path = as_nobody / "x"
    path.write_bytes(b"")
    assert use(path) in (b"", 0) or use(path)["size"] == 0
    path.chmod(0)
    assert s3dlio_np.stat(path)["size"] == 0  # which needs no right on the file itself
