"""What the tests of the unpickler in C have in common: equality, down to what is shared, and archives."""

from __future__ import annotations

import collections
import ctypes
import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

BASE = torch.arange(60.0).reshape(3, 4, 5)


class Taken(list[bool]):
    """For each load whether the unpickler in C did it."""

    on = True


class Comparison:
    """Holds two objects against one another; the first difference is an AssertionError."""

    def __init__(self) -> None:
        self._twins: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        self._keep: list[Any] = []

    def check(self, a: Any, b: Any) -> None:
        assert type(a) is type(b)
        if isinstance(a, (torch.Tensor, list, dict, set, bytearray)):
            first = id(a) not in self._twins
            assert self._twins.setdefault(id(a), id(b)) == id(b)
            self._keep += (a, b)
            if not first:
                return
        if isinstance(a, torch.Tensor):
            self._tensors(a, b)
        elif isinstance(a, dict):
            self.check(list(a), list(b))
            self.check(list(a.values()), list(b.values()))
            if isinstance(a, collections.OrderedDict):
                self.check(vars(a), vars(b))
        elif isinstance(a, (list, tuple)):
            assert len(a) == len(b)
            for one, other in zip(a, b, strict=True):
                self.check(one, other)
        elif isinstance(a, float):
            assert struct.pack("d", a) == struct.pack("d", b)
        else:
            assert a == b

    def _tensors(self, a: torch.Tensor, b: torch.Tensor) -> None:
        for name in ("dtype", "shape", "device", "layout", "requires_grad", "is_leaf", "grad_fn"):
            assert getattr(a, name) == getattr(b, name), name
        assert a.stride() == b.stride()
        assert a.storage_offset() == b.storage_offset()
        assert a._backward_hooks == b._backward_hooks
        assert type(a._backward_hooks) is type(b._backward_hooks)
        assert a._is_view() == b._is_view()
        assert a.is_inference() == b.is_inference()
        assert a.__dict__ == b.__dict__
        mine, theirs = a.untyped_storage(), b.untyped_storage()
        assert mine.nbytes() == theirs.nbytes()
        assert bytes_of(mine) == bytes_of(theirs)
        assert (mine.data_ptr() == 0) == (mine.nbytes() == 0)
        assert self._storages.setdefault(mine._cdata, theirs._cdata) == theirs._cdata
        self._keep += (mine, theirs)


def bytes_of(storage: torch.UntypedStorage) -> bytes:
    if storage.device.type != "cpu":
        return b""
    return ctypes.string_at(storage.data_ptr(), storage.nbytes())


def check_same(a: Any, b: Any) -> None:
    Comparison().check(a, b)
    Comparison().check(b, a)  # what is shared on the other side only


def outcome(function: Callable[..., Any], *arguments: Any, **how: Any) -> tuple[Any, Any]:
    """What comes out: (value, None) or (None, exception)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments, **how), None
    except Exception as error:  # noqa: BLE001 - whatever it is
        return None, error


def change(file: str, records: dict[str, bytes | None]) -> None:
    """Other bytes for some records of the archive; None: it is left out."""
    old, new = zipfile.ZipFile(file), io.BytesIO()
    with old, zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            data = records.get(name.split("/", 1)[1], old.read(name))
            if data is not None:
                archive.writestr(name, data)
    Path(file).write_bytes(new.getvalue())
