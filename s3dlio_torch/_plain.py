"""Plain checkpoints, unpickled by C.

torch's weights_only unpickler is Python, some fifty steps of it for each tensor. A checkpoint of
nothing but containers, numbers, texts and tensors for the CPU (csrc/formats/plain_pickle.h says
what exactly) is scanned, fetched and built without it. Whatever is not certain to come out just as
torch's own code would make it is left to that code.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from s3dlio_np._native import ArchiveReader, Plain
from s3dlio_torch import _native
from s3dlio_torch._device_records import may_reach_device

if TYPE_CHECKING:
    from s3dlio_torch._archive import Archive

NOT_PLAIN: Final = object()

_DTYPES = tuple(getattr(torch, name) for name in Plain.dtypes())
_own: Any = torch.serialization


def load_plain(
    archive: Archive,
    map_location: Any,
    pickle_module: Any,
    pickle_file: str = "data.pkl",
    overall_storage: Any = None,
    **pickle_load_args: Any,
) -> Any:
    """What torch.serialization._load would return, or NOT_PLAIN before anything has happened.

    The arguments are _load's. All records are on their way while the pickle is scanned; when that
    finds it not to be plain, the archive has them for torch's code. Raises what fetching raises.
    """
    reader = archive.reader
    if (
        not archive.is_whole
        or pickle_module is not torch._weights_only_unpickler
        or overall_storage is not None
        or pickle_load_args != {"encoding": "utf-8"}
        or not (map_location is None or _is_cpu(map_location))
        or may_reach_device(archive, map_location)  # then through the ring, not all to the host
        or not _torch_is_as_usual()
        or not _records_are_as_usual(reader)
        or not reader.has_record(pickle_file)
    ):
        return NOT_PLAIN
    plain, fetch = reader.plain(pickle_file, map_location is not None, archive.verify)
    try:
        with _without_collections():
            tensors = _native.make_tensors(plain, torch.ops.s3dlio_native.tensors.default)
            if not plain.is_plain():
                archive.adopt(plain.names(), tensors, fetch)
                return NOT_PLAIN
            result = plain.build(
                tensors,
                _DTYPES,
                torch.Size,
                torch.device,
                torch.Tensor._make_subclass,
                torch.nn.Parameter,
            )
        fetch.wait_all()
    except BaseException:
        fetch.close()  # nothing is to write into memory that is about to go
        raise
    fetch.close()
    return result


def _is_cpu(map_location: Any) -> bool:
    return (type(map_location) is str and map_location == "cpu") or (
        type(map_location) is torch.device and map_location == torch.device("cpu")
    )


def _torch_is_as_usual() -> bool:
    """Whether no mode of torch's, and nothing registered with it, has a say in how it loads."""
    return not (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch.is_inference_mode_enabled()
        or torch._guards.detect_fake_mode(None) is not None
        or _own._serialization_tls.skip_data
        or _own._package_registry[0][2] is not _own._cpu_deserialize
        or os.environ.get("TORCH_SERIALIZATION_DEBUG", "0") == "1"
    )


def _records_are_as_usual(reader: ArchiveReader) -> bool:
    """Whether torch would take nothing amiss, and nothing is to be swapped."""
    if reader.has_record(".storage_alignment"):
        alignment = reader.get_record(".storage_alignment")
        if len(alignment) > 20 or not alignment.isdigit():
            return False
    if sys.byteorder != "little":
        return False
    if reader.has_record("byteorder"):
        return reader.get_record("byteorder") == b"little"
    return _own.get_default_load_endianness() in (None, _own.LoadEndianness.LITTLE)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Thousands of new objects would set off garbage collections, which find nothing in them but
    take longer than making them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
