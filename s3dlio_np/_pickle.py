"""Pickles straight to and from object storage."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any

from s3dlio_np._native import refer
from s3dlio_np._open import WriteResult, open_reader, open_writer
from s3dlio_np._options import WriterOptions
from s3dlio_np._typing import Uri

Allowed = str | type[Any] | Callable[..., Any]


class _Sink:
    """What pickle writes into: large buffers are sent from where they lie.

    They belong to the object that is pickled, or to the pickler's own temporaries; the stream keeps
    a reference to each until the store has it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        return refer(self._stream, data)


def save_pickle(
    uri: Uri,
    obj: object,
    *,
    protocol: int = 5,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> WriteResult:
    """Pickles any object into one of the store's, whole or not at all.

    protocol: pickle's. With 5 the memory of contiguous arrays and of bytes is sent from where it
    lies, without a copy, and stays in the pickle itself; it must not change before this returns.
    part_size (bytes), max_concurrency, options: as for open().

    Returns {size, bytes_written, etag, uri}. pickle.load of any file of the same bytes gives the
    object back. Raises what pickling raises, and what open() raises.
    """
    with open_writer(uri, part_size, max_concurrency, options) as stream:
        pickle.Pickler(_Sink(stream), protocol).dump(obj)
    return stream.close()


def load_pickle(
    uri: Uri,
    *,
    concurrent: bool = True,
    allow: Iterable[Allowed] | None = None,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    decompress: bool | None = None,
) -> Any:
    """Loads one pickle. THIS RUNS CODE THAT THE OBJECT CONTAINS: only for objects you trust.

    concurrent: large buffers are read by parallel ranges straight into their memory, and what lies
        between them is read ahead. False: one request at a time.
    allow: the only globals that the pickle may name: "module.name" texts, classes or functions.
        Anything else is refused before it is looked up, with a pickle.UnpicklingError that names
        it. Data of Python's own types and NumPy arrays can be told from the rest so; it is no
        sandbox: what an allowed class does with a pickle's data is that class's affair.
        {"numpy.ndarray", "numpy.dtype", "numpy._core.numeric._frombuffer"} lets arrays through
        (numpy.core.numeric before NumPy 2).
    part_size (bytes), max_concurrency, decompress: as for open().

    Arrays pickled with protocol 5 come back writable, over memory of their own. Raises what
    pickle.load raises (EOFError or UnpicklingError for a cut pickle), and what open() raises.
    """
    names = None if allow is None else frozenset(_name_of(item) for item in allow)
    with open_reader(
        uri, part_size, max_concurrency if concurrent else 1, decompress
    ) as stream:
        if names is None:
            return pickle.Unpickler(stream).load()
        return _Restricted(stream, names).load()


class _Restricted(pickle.Unpickler):
    def __init__(self, stream: Any, names: frozenset[str]) -> None:
        super().__init__(stream)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._names:
            raise pickle.UnpicklingError(
                f"the pickle names {module}.{name}, which is not in allow="
            )
        return super().find_class(module, name)


def _name_of(item: Allowed) -> str:
    if isinstance(item, str):
        if "." not in item:
            raise ValueError(f'allow has {item!r}, but needs "module.name"')
        return item
    module, name = getattr(item, "__module__", None), getattr(item, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError(f"allow takes texts, classes and functions, not {item!r}")
    return f"{module}.{name}"
