"""Storages over the engine's page memory, or over pinned memory, for records on their way in."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import torch

from s3dlio_torch import _native  # noqa: F401  (registers torch.ops.s3dlio_native)

_ALIGNMENT = 64
_SMALL = 1 << 20  # smaller storages share a slab: a mapping each would cost more than its bytes
_SLAB = 8 << 20


def _empty(nbytes: int) -> torch.Tensor:
    tensor: torch.Tensor = torch.ops.s3dlio_native.empty(nbytes)
    if tensor.numel() != nbytes:  # how the operator, being C, says that it failed
        raise MemoryError(f"could not allocate {nbytes} bytes")
    return tensor


_NOTHING = _empty(0)  # stands for what is still to be made


def _view(base: torch.Tensor, offset: int, nbytes: int) -> torch.Tensor:
    if not nbytes:
        return _empty(0)
    tensor: torch.Tensor = torch.ops.s3dlio_native.view(base, offset, nbytes)
    if tensor.numel() != nbytes:
        raise MemoryError(f"could not make a storage of {nbytes} bytes at {offset}")
    return tensor


def empty_storage(nbytes: int) -> torch.UntypedStorage:
    """A CPU storage of nbytes over fresh pages, huge where the system has them, filled with zeros.

    First touch is three times as fast as that of torch.empty. The pages go back to the system with
    the storage; it cannot be resized. Raises ValueError for a negative size, MemoryError when
    there is no memory.
    """
    nbytes = index(nbytes)
    if nbytes < 0:
        raise ValueError(f"nbytes is {nbytes}, but must not be negative")
    return _empty(nbytes).untyped_storage()


def empty_tensors(sizes: Sequence[int], *, pin_memory: bool = False) -> list[torch.Tensor]:
    """One 1-D uint8 CPU tensor for each size, each with a storage of its own, 64-byte aligned.

    Small ones lie side by side in slabs of 8 MiB, which live as long as any storage in them. With
    pin_memory all lie in pinned slabs of just the size that is needed: torch's own allocator would
    round each up to a power of two. Raises MemoryError, and for pin_memory what torch raises
    where there is no accelerator.
    """
    tensors = [_empty(0) if nbytes == 0 else _NOTHING for nbytes in sizes]
    slab: list[int] = []
    used = 0
    limit = max(_SLAB, *sizes) if pin_memory and sizes else _SLAB
    for i, nbytes in enumerate(sizes):
        if not nbytes:
            continue
        if nbytes >= _SMALL and not pin_memory:
            tensors[i] = _empty(nbytes)
            continue
        if used + nbytes > limit:
            _fill_slab(tensors, sizes, slab, used, pin_memory)
            slab, used = [], 0
        slab.append(i)
        used += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    _fill_slab(tensors, sizes, slab, used, pin_memory)
    return tensors


def _fill_slab(
    tensors: list[torch.Tensor],
    sizes: Sequence[int],
    members: list[int],
    used: int,
    pin_memory: bool,
) -> None:
    """Puts tensors[i] for i in members side by side into one new slab of `used` bytes."""
    if not members:
        return
    base = (
        torch.empty(used, dtype=torch.uint8, device="cpu", pin_memory=True)
        if pin_memory
        else _empty(used)
    )
    offset = 0
    for i in members:
        tensors[i] = _view(base, offset, sizes[i])
        offset += -(-sizes[i] // _ALIGNMENT) * _ALIGNMENT
