"""safetensors files, straight from and into storages.

The format is that of https://github.com/huggingface/safetensors; the names, the argument order and
the bytes are those of its safetensors.torch.save_file and load_file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

import torch

import s3dlio_np
from s3dlio_np import ObjectReader, ObjectWriter, WriterOptions
from s3dlio_np._native import fetch, safetensors_header, send
from s3dlio_np._safetensors import NAMES, header_bytes, refuse_big_endian
from s3dlio_torch import _device
from s3dlio_torch._memory import empty_tensors
from s3dlio_torch._partial import Keys, select
from s3dlio_torch._ring import Inflow, Item, Outflow, Source

_METADATA = "__metadata__"
_MAX_STRIDE = 2**63 - 1
_MAX_RANK = 1024  # torch's own operators take 64

_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, own) for name, own in NAMES.items() if hasattr(torch, own)
}
_CODES = {dtype: name for name, dtype in _DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(_DTYPES.values())}
_PAIRS: torch.dtype | None = _DTYPES.get("F4")  # two elements of the file in one of torch's


def save_safetensors(
    tensors: dict[str, torch.Tensor],
    uri: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> None:
    """Writes a dict of tensors as a safetensors file, byte for byte as safetensors' save_file.

    tensors: dense and contiguous, of any dtype that safetensors knows, on any device; no two may
        share memory.
    uri: s3://bucket/key, file:///path or a path.
    metadata: texts for the header. They are written in the dict's order (that of the safetensors
        package changes from call to call when there are several).
    part_size (bytes), max_concurrency, options: as for s3dlio_np.open.

    CPU tensors are sent from where they lie, without a copy: they must not change before this
    returns. Those on a device are copied through a ring of at most 128 MiB of pinned host memory,
    on a stream of their own that waits for the current one, while what was copied before is sent.
    The object appears whole or not at all.

    Raises ValueError for what is no dict of tensors, for tensors that are sparse, not contiguous,
    without data ("meta") or lazily conjugated or negated, for a dtype that the format lacks and a
    tensor named "__metadata__"; TypeError for keys and metadata that are not str; RuntimeError for
    shared memory; s3dlio_np.open's exceptions. All of these but the last before anything is sent.
    """
    refuse_big_endian()
    _check_tensors(tensors)
    order = sorted(tensors, key=lambda name: (-_RANKS[tensors[name].dtype], name))
    header = _header({name: tensors[name] for name in order}, metadata)
    with s3dlio_np.open(
        uri, "wb", part_size=part_size, max_concurrency=max_concurrency, options=options
    ) as stream:
        if all(tensor.device.type == "cpu" for tensor in tensors.values()):
            stream.expect(len(header) + sum(tensor.nbytes for tensor in tensors.values()))
        stream.write(header)
        _send_tensors(stream, [tensors[name].detach() for name in order])


def load_safetensors(
    uri: str | os.PathLike[str],
    *,
    device: str | int | torch.device = "cpu",
    keys: Keys | None = None,
    pin_memory: bool = False,
    part_size: int | None = None,
    max_concurrency: int | None = None,
) -> dict[str, torch.Tensor]:
    """Reads a safetensors file; the dict is in the order in which the file holds the tensors.

    uri: s3://bucket/key, file:///path or a path.
    device: where the tensors shall be, as in torch.device(). With "meta" no data is fetched.
    keys: which tensors: names, prefixes of names (up to a dot), or a predicate over names. Only
        their bytes are fetched. A name that is not there is a KeyError.
    pin_memory: CPU tensors lie in pinned memory.
    part_size (bytes), max_concurrency: as for s3dlio_np.open.

    The tensors are fetched at once by parallel requests, straight into their memory; each has a
    storage of its own, 64-byte aligned, which on the CPU cannot be resized. For another device they
    pass through a ring of at most 128 MiB of pinned host memory, from which they are copied on a
    stream of their own while more arrives; the current stream waits for these copies.

    Raises ValueError, with the URI and the tensor, for a file that is cut, damaged or no
    safetensors file at all, and for a dtype that torch lacks; s3dlio_np.open's exceptions.
    """
    refuse_big_endian()
    place = torch.device(device)
    with s3dlio_np.open(uri, part_size=part_size, max_concurrency=max_concurrency) as stream:
        start, entries, _ = safetensors_header(stream)
        parts = [
            _Part(stream, name, code, shape, start + offset, size)
            for name, code, shape, offset, size in _select(entries, keys)
        ]
        if place.type == "meta":
            return {part.name: part.empty(place) for part in parts}
        if place.type == "cpu":
            return _load_on_host(stream, parts, pin_memory)
        return _load_on_device(stream, parts, place)


# --- saving -------------------------------------------------------------------------------------


def _check_tensors(tensors: object) -> None:
    if not isinstance(tensors, dict):
        raise ValueError(f"tensors must be a dict of str and Tensor, not {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"the key {name!r} must be str, not {type(name).__name__}")
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name!r} must be a Tensor, not {type(tensor).__name__}")
        problem = _problem_of(tensor)
        if name == _METADATA:
            problem = "is the format's own name: no reader would take it for a tensor"
        if problem:
            raise ValueError(f"{name!r} {problem}")
    _refuse_shared(tensors)
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(
                f"{name!r} is not contiguous: save name.contiguous(), or, if it is a view of "
                "another tensor here, that tensor only"
            )
        if tensor.nbytes and not tensor.data_ptr():
            raise ValueError(f"{name!r} has no memory of its own ({type(tensor).__name__})")


def _problem_of(tensor: torch.Tensor) -> str | None:
    if tensor.layout != torch.strided:
        return "is sparse: save name.to_dense(), which may be much larger"
    if tensor.device.type == "meta":
        return "is on the meta device: it has no data"
    if tensor.dtype not in _CODES:
        return f"has dtype {tensor.dtype}, which safetensors does not know"
    if tensor.dtype == _PAIRS and not tensor.dim():
        return "is a scalar of half-byte elements, which the format cannot hold"
    if tensor.is_conj() or tensor.is_neg():
        return "is lazily conjugated or negated: save name.resolve_conj().resolve_neg()"
    return None


def _refuse_shared(tensors: dict[str, torch.Tensor]) -> None:
    """As the safetensors package: tensors of one storage may be saved if they do not overlap."""
    owners: defaultdict[tuple[torch.device, int, int], list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if tensor.numel() and storage.nbytes():
            owners[tensor.device, storage.data_ptr(), storage.nbytes()].append(name)
    shared = [
        group for names in owners.values() if len(names) > 1 for group in _overlaps(names, tensors)
    ]
    if shared:
        raise RuntimeError(
            f"tensors share memory, which a safetensors file cannot say: {shared}. Save one of "
            "each group, or a clone() of the others"
        )


def _overlaps(names: list[str], tensors: dict[str, torch.Tensor]) -> Iterator[list[str]]:
    spans = sorted((*_span(tensors[name]), name) for name in names)
    group: list[str] = []
    end = 0
    for first, behind, name in spans:
        if group and first >= end:
            if len(group) > 1:
                yield group
            group = []
        group.append(name)
        end = max(end, behind)
    if len(group) > 1:
        yield group


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The elements of its storage that a tensor reaches over, in bytes."""
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    first = int(tensor.storage_offset())
    size = tensor.element_size()
    return first * size, (first + last + 1) * size


def _header(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> bytes:
    """Length and JSON; the tensors come in the order of the file."""

    def entry(name: str, tensor: torch.Tensor) -> tuple[str, str, list[int], int]:
        shape = list(tensor.shape)
        if tensor.dtype == _PAIRS:
            shape[-1] *= 2
        return name, _CODES[tensor.dtype], shape, tensor.nbytes

    return header_bytes((entry(*pair) for pair in tensors.items()), metadata)


def _send_tensors(stream: ObjectWriter, tensors: list[torch.Tensor]) -> None:
    devices = _device.current()
    places = [devices.place_of(tensor.untyped_storage()) for tensor in tensors]
    sources = [
        Source(_bytes_of(tensor), place)
        for tensor, place in zip(tensors, places, strict=True)
        if place is not None
    ]
    outflow = Outflow(devices, stream, sources)
    sent = 0
    try:
        for tensor, place in zip(tensors, places, strict=True):
            if place is None:
                offset = int(tensor.storage_offset()) * tensor.element_size()
                send(stream, tensor.untyped_storage(), offset, tensor.nbytes)
            else:
                outflow.send(sent, lambda span: send(stream, span, 0, span.nbytes()))
                sent += 1
    finally:
        outflow.close()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """A uint8 tensor over the elements of a contiguous one."""
    offset = int(tensor.storage_offset()) * tensor.element_size()
    return _device.bytes_of(tensor.untyped_storage())[offset : offset + tensor.nbytes]


# --- loading ------------------------------------------------------------------------------------

_Entry = tuple[str, str, tuple[int, ...], int, int]


def _select(entries: list[_Entry], keys: Keys | None) -> list[_Entry]:
    if keys is None:
        return entries
    names = select(keys, (entry[0] for entry in entries))
    return [entry for entry in entries if entry[0] in names]


class _Part:
    """A tensor of the file: where its bytes are in the object, and what they mean."""

    def __init__(
        self,
        stream: ObjectReader,
        name: str,
        code: str,
        shape: tuple[int, ...],
        offset: int,
        size: int,
    ) -> None:
        self.name = name
        self.label = f"tensor {name!r}"
        self.offset = offset
        self.size = size
        where = f"{stream.uri}: {self.label}"
        if code not in _DTYPES:
            raise ValueError(f"{where} has dtype {code}, which torch {torch.__version__} lacks")
        self.dtype = _DTYPES[code]
        if self.dtype == _PAIRS:
            if not shape or shape[-1] % 2:
                raise ValueError(f"{where} of dtype F4 needs an even last dimension: {shape}")
            shape = (*shape[:-1], shape[-1] // 2)
        if not _fits_torch(shape):
            raise ValueError(f"{where} has a shape that is too large for torch")
        self.shape = shape

    def empty(self, device: torch.device) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=device)

    def shaped(self, flat: torch.Tensor) -> torch.Tensor:
        """The tensor over its bytes."""
        return flat.view(self.dtype).view(self.shape)


def _fits_torch(shape: tuple[int, ...]) -> bool:
    """Whether strides fit as well, which a shape without elements leaves open."""
    if len(shape) > _MAX_RANK:
        return False
    stride = 1
    for dim in shape:
        stride *= max(dim, 1)
        if stride > _MAX_STRIDE:  # here, not at the end: or a hostile one would grow for hours
            return False
    return True


def _load_on_host(
    stream: ObjectReader, parts: list[_Part], pin_memory: bool
) -> dict[str, torch.Tensor]:
    """All at once, straight into the tensors' memory."""
    tensors = empty_tensors([part.size for part in parts], pin_memory=pin_memory)
    arrival = fetch(
        stream,
        tuple(
            (part.label, part.offset, tensor.untyped_storage())
            for part, tensor in zip(parts, tensors, strict=True)
            if part.size
        ),
        fresh=not pin_memory,
    )
    try:
        for item in range(sum(1 for part in parts if part.size)):
            arrival.wait(item)
    finally:
        arrival.close()
    return {
        part.name: part.shaped(tensor) for part, tensor in zip(parts, tensors, strict=True)
    }


def _load_on_device(
    stream: ObjectReader, parts: list[_Part], device: torch.device
) -> dict[str, torch.Tensor]:
    devices = _device.current()
    items = [Item(part.label, part.offset, part.size) for part in parts]
    inflow = Inflow(devices, stream, items)
    loaded: dict[str, torch.Tensor] = {}
    try:
        for i, part in enumerate(parts):
            storage = devices.empty(part.size, device)
            place = devices.place_of(storage)
            if place is None:
                raise ValueError(f"tensors cannot be loaded to the device {device}")
            flat = _device.bytes_of(storage)
            inflow.to_device(i, flat, place)
            loaded[part.name] = part.shaped(flat)
    finally:
        inflow.close()
    return loaded
