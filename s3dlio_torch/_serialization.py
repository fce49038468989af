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
from s3dlio_np import ObjectReader, ObjectWriter, WriteResult, WriterOptions
from s3dlio_torch._archive import can_save, save_archive, torch_load_over
from s3dlio_torch._partial import Keys, load_part

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

    The bytes are those of torch.save into a BytesIO (compressed, where options say so). Storages on
    the CPU are sent from where they lie, without a copy: they must not change before save returns.
    Those on a device go through a ring of at most 128 MiB of pinned host memory: each slot is copied
    to on a stream of its own, which waits for the current one, while others are sent. Where memory
    cannot be pinned the ring is ordinary memory (a RuntimeWarning says so); devices without streams
    (MPS) copy while nothing else is done. The object appears whole or not at all. Raises what
    pickling raises, what a copy has failed with, and s3dlio_np.open's exceptions.
    """
    how = (pickle_module, pickle_protocol)
    flags = (_use_new_zipfile_serialization, _disable_byteorder_record)
    if isinstance(f, (str, os.PathLike)):
        _save_object(obj, f, how, flags, part_size, max_concurrency, options)
        return
    _refuse_for_files(part_size=part_size, max_concurrency=max_concurrency, options=options)
    with _first_failure(f):
        torch.save(obj, f, *how, *flags)


def _save_object(
    obj: object,
    uri: str | os.PathLike[str],
    how: tuple[Any, int],
    flags: tuple[bool, bool],
    part_size: int | None,
    max_concurrency: int | None,
    options: WriterOptions | None,
) -> WriteResult:
    zipped, no_byteorder = flags
    with s3dlio_np.open(
        uri, "wb", part_size=part_size, max_concurrency=max_concurrency, options=options
    ) as stream:
        with _first_failure(stream):
            if zipped and can_save():
                save_archive(obj, stream, *how, no_byteorder)
            else:
                torch.save(obj, stream, *how, *flags)
    return stream.close()


def save_torch_state(
    uri: str | os.PathLike[str], state_dict: object, *, part_size: int | None = None
) -> WriteResult:
    """save() with the arguments the other way round, which tells what was written.

    uri: s3://bucket/key, file:///path or a path. state_dict: whatever torch.save takes. part_size:
    bytes in each of the first parts of the upload.

    Returns {size, bytes_written, etag, uri}. The file is torch.save's; copies, lifetimes and errors
    as for save().
    """
    return _save_object(state_dict, uri, (pickle, 2), (True, False), part_size, None, None)


def load_torch_state(
    uri: str | os.PathLike[str], *, map_location: Any = None, concurrent: bool = True
) -> Any:
    """load() of a state dict with weights_only=True, so that no code of the file's runs.

    map_location: torch.load's. concurrent: storages are fetched by parallel requests, as many as
    S3DLIO_GET_INFLIGHT says; False: one after the other. Copies and errors as for load().
    """
    return load(
        uri,
        map_location=map_location,
        weights_only=True,
        max_concurrency=None if concurrent else 1,
    )


def load(
    f: FileLike,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    pin_memory: bool = False,
    keys: Keys | None = None,
    verify: bool = True,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Loads what torch.save or save() wrote.

    f: s3://bucket/key, file:///path, a path, or an open binary file, which is handed to torch.load.
    map_location, pickle_module, weights_only (True unless the environment says else), and further
        keywords: torch.load's.
    mmap: for local files only, torch then maps the file.
    pin_memory: CPU storages lie in pinned memory.
    keys: which entries to load: names, prefixes of names (up to a dot), or a predicate over names.
        Names are the keys of nested dicts joined by dots. Only their storages are fetched; the
        result is the checkpoint without the rest. A name that is not there is a KeyError.
    verify: each record's CRC-32 is checked as it arrives (torch never checks): IntegrityError.
    part_size (bytes), max_concurrency: as for s3dlio_np.open. These five are for a URI only.

    All storages are fetched at once by parallel requests, straight into their memory, while torch
    unpickles (a compressed object is read in order before that). They are 64-byte aligned and cannot
    be resized. Those for a device (by map_location or by what the file says, not by a callable) are
    new device storages: their bytes pass through a ring of pinned host memory as in save(), and the
    current stream waits for them. In such a load, CPU storages below 16 MiB are copied from the ring.
    All copies have ended when load returns.

    Raises what torch.load raises, what a copy has failed with, and s3dlio_np.open's exceptions.
    weights_only=False runs code that the file contains.
    """
    arguments = {"weights_only": weights_only, "mmap": mmap, **pickle_load_args}
    if not isinstance(f, (str, os.PathLike)):
        _refuse_for_files(
            part_size=part_size,
            max_concurrency=max_concurrency,
            pin_memory=pin_memory or None,
            keys=keys,
        )
        with _first_failure(f):
            return torch.load(f, map_location, pickle_module, **arguments)
    if mmap:
        return torch.load(_local_path(f), map_location, pickle_module, **arguments)
    with s3dlio_np.open(f, part_size=part_size, max_concurrency=max_concurrency) as stream:
        how = {"verify": verify, "pin_memory": pin_memory}
        with _first_failure(stream):
            if keys is not None:
                return load_part(stream, keys, map_location, pickle_module, arguments, how)
            torch_load = torch_load_over(stream, **how)
            return torch_load(stream, map_location, pickle_module, **arguments)


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
