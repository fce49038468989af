"""save and load with torch's own signatures and a URI in the file's place."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import torch

import s3dlio_np
from s3dlio_np import ObjectReader, ObjectWriter, WriterOptions

FileLike = str | os.PathLike[str] | IO[bytes]


def save(
    obj: object,
    f: FileLike,
    pickle_module: Any = pickle,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> None:
    """Saves any object that torch.save takes; the same file, written as an object.

    f: s3://bucket/key, file:///path, a path, or an open binary file, which is handed to torch.save
        and neither closed nor committed here.
    pickle_module, pickle_protocol and the two after them: torch.save's.
    part_size (bytes), max_concurrency, options: as for s3dlio_np.open; for a URI only.

    Tensors are sent from their own memory, one storage after the other, without a copy of the whole.
    The object appears whole or not at all. Raises what pickling raises, and s3dlio_np.open's
    exceptions: the first failure of the stream, with what torch made of it as its cause.
    """
    arguments = (
        pickle_module,
        pickle_protocol,
        _use_new_zipfile_serialization,
        _disable_byteorder_record,
    )
    if not isinstance(f, (str, os.PathLike)):
        _refuse_for_files(part_size=part_size, max_concurrency=max_concurrency, options=options)
        with _first_failure(f):
            torch.save(obj, f, *arguments)
        return
    with s3dlio_np.open(
        f, "wb", part_size=part_size, max_concurrency=max_concurrency, options=options
    ) as stream:
        with _first_failure(stream):
            torch.save(obj, stream, *arguments)


def load(
    f: FileLike,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Loads what torch.save or save() wrote.

    f: s3://bucket/key, file:///path, a path, or an open binary file, which is handed to torch.load.
    map_location, pickle_module, weights_only (True unless the environment says else), and further
        keywords: torch.load's.
    mmap: for local files only, torch then maps the file.
    part_size (bytes), max_concurrency: as for s3dlio_np.open; for a URI only.

    Each storage is read by parallel requests straight into the memory of its tensor. Raises what
    torch.load raises, and s3dlio_np.open's exceptions: the first failure of the stream, with what
    torch made of it as its cause. weights_only=False runs code that the file contains.
    """
    arguments = {"weights_only": weights_only, "mmap": mmap, **pickle_load_args}
    if not isinstance(f, (str, os.PathLike)):
        _refuse_for_files(part_size=part_size, max_concurrency=max_concurrency)
        with _first_failure(f):
            return torch.load(f, map_location, pickle_module, **arguments)
    if mmap:
        return torch.load(_local_path(f), map_location, pickle_module, **arguments)
    with s3dlio_np.open(f, part_size=part_size, max_concurrency=max_concurrency) as stream:
        with _first_failure(stream):
            return torch.load(stream, map_location, pickle_module, **arguments)


@contextmanager
def _first_failure(stream: object) -> Iterator[None]:
    """torch hides what a stream raised behind "unexpected pos 64 vs 0": this raises it again."""
    try:
        yield
    except BaseException as error:
        first = getattr(stream, "failure", None)
        if not isinstance(stream, (ObjectReader, ObjectWriter)) or first is None:
            raise
        if first is error:
            raise
        raise first from error


def _refuse_for_files(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name} has no effect on a file that is open already: f must be a URI"
            )


def _local_path(f: str | os.PathLike[str]) -> str:
    """The path of a local file; torch maps files by path only."""
    text = os.fspath(f)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    if parts.scheme != "file":
        raise ValueError(f"{text}: mmap=True needs a local file; leave it out for an object")
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{text}: the file is on another host, {parts.netloc}")
    return unquote(text[len("file://") + len(parts.netloc) :])
