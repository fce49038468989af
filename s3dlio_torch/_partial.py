"""Part of a checkpoint: which of its entries are wanted, and what it holds."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

import s3dlio_np
from s3dlio_np import ObjectReader
from s3dlio_torch._archive import Archive, torch_load_over

Keys = str | Iterable[str] | Callable[[str], bool]
Records = dict[int, tuple[str, int]]  # name and size in bytes, by the payload's offset


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint says of one tensor.

    dtype, shape, stride (elements): as torch's. nbytes: of its elements. record: the archive's
    record that holds its storage, which tensors may share. offset: of its first element in the
    object, in bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    nbytes: int
    record: str
    offset: int


def inspect(
    uri: str | os.PathLike[str], *, part_size: int | None = None, max_concurrency: int | None = None
) -> dict[str, TensorInfo]:
    """What tensors a checkpoint holds, by name, from its directory and its pickle alone.

    Names are the keys of nested dicts joined by dots, with list positions as numbers; a sparse
    tensor's parts are listed, as "name.values" and so on. No storage is fetched, and no code of the
    file's runs: what torch.load(weights_only=True) refuses is refused with its error. Raises
    s3dlio_np.open's exceptions, too.
    """
    with s3dlio_np.open(uri, part_size=part_size, max_concurrency=max_concurrency) as stream:
        skeleton, records = _skeleton(stream, {"weights_only": True})
        return {
            ".".join(filter(None, (name, part))): _describe(tensor, records)
            for name, value in _walk("", skeleton, into_lists=True)
            if isinstance(value, torch.Tensor)
            for part, tensor in _components(value).items()
        }


def load_part(
    stream: ObjectReader,
    keys: Keys,
    map_location: Any,
    pickle_module: Any,
    arguments: dict[str, Any],
    how: dict[str, Any],
) -> Any:
    """torch.load of the entries that `keys` selects; only their storages are fetched."""
    selects = _selector(keys)
    skeleton, records = _skeleton(stream, arguments, pickle_module)
    names = {name for name, _ in _walk("", skeleton) if selects(name)}
    _refuse_unknown(keys, names)
    finder = _Finder()
    if torch._guards.detect_fake_mode(None) is None:  # else nothing is fetched at all
        for name, value in _walk("", skeleton):
            if name in names:
                finder.find(value)
    wanted = {records[offset][0] for offset in finder.offsets}
    torch_load = torch_load_over(stream, wanted=wanted, **how)
    loaded = torch_load(stream, map_location, pickle_module, **arguments)
    return _prune("", loaded, names)


def _skeleton(
    stream: ObjectReader, arguments: dict[str, Any], pickle_module: Any = None
) -> tuple[Any, Records]:
    """The checkpoint with meta tensors, and its data records."""
    skeleton = torch_load_over(stream)(stream, "meta", pickle_module, **arguments)
    archive = Archive(stream)
    stream.seek(0)
    records = {
        archive.get_record_offset(name): (name, nbytes)
        for name, nbytes in archive.sizes.items()
        if name.startswith("data/")
    }
    return skeleton, records


def _walk(name: str, value: Any, into_lists: bool = False) -> Iterator[tuple[str, Any]]:
    """The leaves below value with their names; dicts are gone into, lists where asked."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif into_lists and isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _walk(f"{name}.{key}" if name else str(key), item, into_lists)


def _components(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The strided tensors that a sparse one consists of; {"": itself} for a strided one."""
    if tensor.layout == torch.strided:
        return {"": tensor}
    if tensor.layout == torch.sparse_coo:
        return {"indices": tensor._indices(), "values": tensor._values()}
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        names = ("crow_indices", "col_indices", "values")
    else:
        names = ("ccol_indices", "row_indices", "values")
    return {name: getattr(tensor, name)() for name in names}


class _Finder(pickle.Pickler):
    """Finds where the storages of all tensors in any object begin, by pickling it to nowhere."""

    def __init__(self) -> None:
        super().__init__(self)
        self.offsets: set[int] = set()
        self._attributes: list[dict[str, Any]] = []

    def write(self, data: object) -> None:
        pass

    def persistent_id(self, value: Any) -> str | None:
        if isinstance(value, torch.storage.TypedStorage):
            value = value._untyped_storage
        if isinstance(value, torch.UntypedStorage):
            self.offsets.add(_storage_offset(value))
        elif isinstance(value, torch.Tensor) and not is_traceable_wrapper_subclass(value):
            for part in _components(value).values():
                self.offsets.add(_storage_offset(part.untyped_storage()))
            if attributes := getattr(value, "__dict__", None):
                self._attributes.append(attributes)
        else:
            return None  # what it consists of comes here in its turn
        return "seen"

    def find(self, value: Any) -> None:
        self.dump(value)
        while self._attributes:
            self.dump(self._attributes.pop())


def _storage_offset(storage: torch.UntypedStorage) -> int:
    offset = storage._checkpoint_offset
    if offset is None:
        raise RuntimeError("torch has not said where a storage lies in the archive")
    return offset


def _describe(tensor: torch.Tensor, records: Records) -> TensorInfo:
    start = _storage_offset(tensor.untyped_storage())
    record, nbytes = records[start]
    if tensor.untyped_storage().nbytes() != nbytes:
        raise RuntimeError(
            f"record {record} has {nbytes} bytes, but its storage needs "
            f"{tensor.untyped_storage().nbytes()}: the archive is damaged"
        )
    return TensorInfo(
        dtype=tensor.dtype,
        shape=tuple(tensor.shape),
        stride=tensor.stride(),
        nbytes=tensor.nbytes,
        record=record,
        offset=start + int(tensor.storage_offset()) * tensor.element_size(),
    )


def _selector(keys: Keys) -> Callable[[str], bool]:
    if callable(keys):
        return keys
    exact = {keys} if isinstance(keys, str) else set(keys)
    prefixes = tuple(key if key.endswith(".") else key + "." for key in exact)
    return lambda name: name in exact or name.startswith(prefixes)


def _refuse_unknown(keys: Keys, names: set[str]) -> None:
    """A key that selects nothing is a mistake that should not pass for an empty checkpoint."""
    if callable(keys):
        return
    for key in {keys} if isinstance(keys, str) else set(keys):
        if not any(map(_selector(key), names)):
            raise KeyError(f"the checkpoint has no entry {key!r}")


def _prune(name: str, value: Any, names: set[str]) -> Any:
    """value without the leaves that are not in names, and without dicts that are empty then."""
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, item in value.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(item, Mapping):
            item = _prune(full, item, names)
            if not item:
                continue
        elif full not in names:
            continue
        kept[key] = item
    return kept
