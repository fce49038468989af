"""Part of a checkpoint: which of its entries are wanted, and what it holds."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

import s3dlio_np
from s3dlio_np import ObjectReader
from s3dlio_torch._archive import Archive, torch_load_over

Keys = str | Iterable[str] | Callable[[str], bool]
Records = dict[int, tuple[str, int]]  # name and size in bytes, by the payload's offset


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint says of one tensor.

    dtype, shape, stride (elements): as torch's; a quantized tensor's dtype is torch.quint8 or the
    like. nbytes: of its elements. record: the archive's record that holds its storage, which
    tensors may share. offset: of its first element in the object, in bytes.
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
    tensor's parts are listed, as "name.values" and so on, and so are "name.scales" and
    "name.zero_points" beside a tensor that is quantized per channel. No storage is fetched, and no code of the
    file's runs: what torch.load(weights_only=True) refuses is refused with its error. Raises
    s3dlio_np.open's exceptions, too.
    """
    with s3dlio_np.open(uri, part_size=part_size, max_concurrency=max_concurrency) as stream:
        skeleton, records, _ = _skeleton(stream, {"weights_only": True})
        return {
            ".".join(filter(None, (name, part))): _describe(tensor, records)
            for name, value in _walk("", skeleton, into_lists=True)
            if isinstance(value, (torch.Tensor, _QuantizedPlace))
            for part, tensor in _parts(value).items()
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
    if not isinstance(keys, str) and not callable(keys):
        keys = set(keys)  # now: a mistake should not wait for the checkpoint
    skeleton, records, has_quantized = _skeleton(stream, arguments, pickle_module)
    names = select(keys, (name for name, _ in _walk("", skeleton)))
    finder = _Finder()
    if torch._guards.detect_fake_mode(None) is None:  # else nothing is fetched at all
        for name, value in _walk("", skeleton):
            if name in names:
                finder.find(value)
    wanted = {records[_known(offset)][0] for offset in finder.offsets}
    torch_load = torch_load_over(stream, wanted=wanted, **how)
    with _QuantizedPlaces() if has_quantized else nullcontext():
        loaded = torch_load(stream, map_location, pickle_module, **arguments)
    loaded = _prune("", loaded, names)
    if has_quantized:
        _refuse_places(loaded)
    return loaded


def _skeleton(
    stream: ObjectReader, arguments: dict[str, Any], pickle_module: Any = None
) -> tuple[Any, Records, bool]:
    """The checkpoint with meta tensors, its data records, and whether it has quantized tensors."""
    torch_load = torch_load_over(stream)
    has_quantized = False
    try:
        skeleton = torch_load(stream, "meta", pickle_module, **arguments)
    except NotImplementedError:  # as torch says of a quantized tensor
        has_quantized = True
        stream.seek(0)
        with _QuantizedPlaces():  # not before: it slows every call of torch's down
            skeleton = torch_load(stream, "meta", pickle_module, **arguments)
    archive = Archive(stream)
    stream.seek(0)
    records = {
        archive.get_record_offset(name): (name, nbytes)
        for name, nbytes in archive.sizes.items()
        if name.startswith("data/")
    }
    return skeleton, records, has_quantized


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


class _QuantizedPlace:
    """Stands for a quantized tensor whose bytes are not there; torch has none on the meta device.

    torch's own code rebuilds it as if it were the tensor.
    """

    storage: torch.UntypedStorage
    storage_offset: int  # elements, of 8 bits or more
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __init__(self, dtype: torch.dtype, parameters: dict[str, torch.Tensor]) -> None:
        self.dtype = dtype
        self.parameters = parameters  # scales and zero_points, when they are tensors

    def set_(
        self,
        storage: torch.storage.TypedStorage,
        storage_offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> None:
        self.storage = storage._untyped_storage
        self.storage_offset = storage_offset
        self.shape = tuple(size)
        self.stride = tuple(stride)

    @property
    def nbytes(self) -> int:
        return -(-math.prod(self.shape) * self._bits // 8)

    @property
    def offset_bytes(self) -> int:
        return self.storage_offset * self._bits // 8

    @property
    def _bits(self) -> int:
        packed = {torch.quint4x2: 4, torch.quint2x4: 2}
        return packed.get(self.dtype, self.dtype.itemsize * 8)


class _QuantizedPlaces(TorchFunctionMode):
    """In this thread, a quantized tensor made on the meta device is a _QuantizedPlace."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _MAKE_QUANTIZED or torch.device(kwargs["device"]).type != "meta":
            return func(*args, **kwargs)
        parameters = {
            name: value
            for name in ("scales", "zero_points")
            if isinstance(value := kwargs.get(name), torch.Tensor)
        }
        return _QuantizedPlace(kwargs["dtype"], parameters)


_MAKE_QUANTIZED = (torch._empty_affine_quantized, torch._empty_per_channel_affine_quantized)


def _parts(value: torch.Tensor | _QuantizedPlace) -> Mapping[str, torch.Tensor | _QuantizedPlace]:
    """What inspect lists of a leaf, by the name behind the leaf's own."""
    if isinstance(value, torch.Tensor):
        return _components(value)
    return {"": value, **value.parameters}


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
        self.offsets: set[int | None] = set()  # None: of what does not lie in an archive
        self.has_places = False
        self._attributes: list[dict[str, Any]] = []

    def write(self, data: object) -> None:
        pass

    def persistent_id(self, value: Any) -> str | None:
        if isinstance(value, torch.storage.TypedStorage):
            value = value._untyped_storage
        if isinstance(value, torch.UntypedStorage):
            self.offsets.add(value._checkpoint_offset)
        elif isinstance(value, torch.Tensor) and not is_traceable_wrapper_subclass(value):
            for part in _components(value).values():
                self.offsets.add(part.untyped_storage()._checkpoint_offset)
            attributes = getattr(value, "__dict__", None)
            if attributes and not isinstance(value, FakeTensor):  # whose own are torch's
                self._attributes.append(attributes)
        else:
            self.has_places |= isinstance(value, _QuantizedPlace)
            return None  # what it consists of comes here in its turn
        return "seen"

    def find(self, value: Any) -> None:
        self.dump(value)
        while self._attributes:
            self.dump(self._attributes.pop())


def _known(offset: int | None) -> int:
    if offset is None:
        raise RuntimeError("torch has not said where a storage lies in the archive")
    return offset


def _describe(value: torch.Tensor | _QuantizedPlace, records: Records) -> TensorInfo:
    if isinstance(value, _QuantizedPlace):
        storage, stride, skipped = value.storage, value.stride, value.offset_bytes
    else:
        storage, stride = value.untyped_storage(), value.stride()
        skipped = int(value.storage_offset()) * value.element_size()
    start = _known(storage._checkpoint_offset)
    record, nbytes = records[start]
    if storage.nbytes() != nbytes:
        raise RuntimeError(
            f"record {record} has {nbytes} bytes, but its storage needs "
            f"{storage.nbytes()}: the archive is damaged"
        )
    return TensorInfo(
        dtype=value.dtype,
        shape=tuple(value.shape),
        stride=stride,
        nbytes=value.nbytes,
        record=record,
        offset=start + skipped,
    )


def select(keys: Keys, names: Iterable[str]) -> set[str]:
    """The names that keys select; KeyError for a key that selects none.

    Such a key is a mistake that should not pass for an empty checkpoint. The time is linear: names
    are looked up, never compared with all keys.
    """
    if callable(keys):
        return {name for name in names if keys(name)}
    exact = {keys} if isinstance(keys, str) else set(keys)
    wanted = {_prefix(key) for key in exact}
    chosen: set[str] = set()
    begun: set[str] = set()  # every prefix of what was chosen
    for name in names:
        prefixes = [name[: i + 1] for i, character in enumerate(name) if character == "."]
        if name in exact or not wanted.isdisjoint(prefixes):
            chosen.add(name)
            begun.update(prefixes)
    for key in exact:
        if key not in chosen and _prefix(key) not in begun:
            raise KeyError(f"the checkpoint has no entry {key!r}")
    return chosen


def _prefix(key: str) -> str:
    return key if key.endswith(".") else key + "."


def _refuse_places(loaded: Any) -> None:
    """What was asked for came out on the meta device, where torch has no quantized tensors."""
    for name, value in _walk("", loaded):
        finder = _Finder()
        finder.find(value)
        if finder.has_places:
            raise NotImplementedError(
                f"entry {name!r} holds a quantized tensor, which torch cannot have on the meta "
                "device or as a fake tensor: leave it out of keys=, or load it to the CPU"
            )


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
