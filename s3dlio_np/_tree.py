"""Trees of arrays (dicts, lists and tuples of them, as JAX and TensorFlow have) in one .npz file.

The file is an ordinary .npz that np.load opens. Each array is a member named by its path: keys and
indices joined by "/", as params/dense/kernel or layers/0/bias. One more member, __tree__, holds
the structure as JSON in a 0-d bytes array: json.loads(np.load(file)["__tree__"].item()) is

    {"format": "s3dlio tree", "version": 1, "tree": NODE}

and a NODE is one of

    {"dict": [[KEY, NODE], ...]}       KEY a string or an integer, in the dict's order
    {"list": [NODE, ...]}              also "tuple"
    {"namedtuple": NAME, "fields": [[FIELD, NODE], ...]}
    {"array": MEMBER}                  with "dtype": NAME where .npy has none for it (bfloat16 and
                                       others of ml_dtypes); the member then holds unsigned integers
                                       of the same width
    {"scalar": MEMBER}                 a NumPy scalar; "dtype" as above
    {"bytes": MEMBER}                  bytes, as an array of uint8
    {"value": V}                       None, bool or str
    {"int": "12"}, {"float": "nan"}, {"complex": ["1.0", "-0.0"]}

In member names %, /, \\ and control characters of a key are %XX, an empty key is a lone %; where two
paths would still get the same name, the later one gets ~2, ~3, ... at its end. The structure says
which member belongs where, so that names need not be taken apart.
"""

from __future__ import annotations

import collections
import importlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from s3dlio_np._arrays import load_numpy, save_numpy
from s3dlio_np._open import WriteResult
from s3dlio_np._options import WriterOptions
from s3dlio_np._typing import Uri

_Array = np.ndarray[Any, Any]

_FORMAT, _VERSION = "s3dlio tree", 1
_STRUCTURE = "__tree__"
_NAME_CHARACTERS = 1000  # a longer path is cut there; zip allows 65,535 bytes
_ESCAPED = re.compile("[%/\\\\\x00-\x1f\x7f\ud800-\udfff]")
_PLAIN = (type(None), bool, str)
_UNSIGNED = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def save_tree(
    uri: Uri,
    tree: Any,
    *,
    part_size: int | None = None,
    max_concurrency: int | None = None,
    options: WriterOptions | None = None,
) -> WriteResult:
    """Writes a tree of arrays as one .npz file, whole or not at all; load_tree() reads it.

    uri: s3://bucket/key, file:///path or a path, used as given.
    tree: dicts (other mappings too) with str or int keys, lists, tuples and namedtuples of leaves.
        A leaf is None, bool, int, float, complex, str, bytes, or an array of any shape and dtype
        but object: a NumPy array or scalar, or anything with __array__, __dlpack__ or a buffer on
        the CPU (jax.Array, tf.Tensor, tf.Variable). bfloat16, float8 and the like keep their dtype.
    part_size (bytes), max_concurrency, options: as for open().

    Contiguous arrays are sent from where they lie: they must not change before this returns. One
    that occurs twice is written twice. Returns {size, bytes_written, etag, uri}.

    Raises TypeError for a leaf or a key of another kind and ValueError for a tree that contains
    itself, both with its path and before anything is sent; else what open(uri, "wb") raises.
    """
    members: dict[str, _Array] = {_STRUCTURE: np.empty(0)}  # the first member, and its name is taken
    node = _Flattening(members).node(tree, ())
    document = {"format": _FORMAT, "version": _VERSION, "tree": node}
    members[_STRUCTURE] = np.array(json.dumps(document, separators=(",", ":")).encode())
    return save_numpy(
        uri, members, part_size=part_size, max_concurrency=max_concurrency, options=options
    )


def load_tree(
    uri: Uri,
    *,
    like: Any = None,
    as_jax: bool = False,
    part_size: int | None = None,
    max_concurrency: int | None = None,
) -> Any:
    """Reads a tree that save_tree() wrote: the same dicts, lists, tuples and leaves.

    uri: s3://bucket/key, file:///path or a path.
    like: a tree whose containers the result takes its types from (mappings that are no dict,
        namedtuple classes). Keys, lengths, and the shape and dtype of each of its leaves that has
        these must be those of the file; jax.ShapeDtypeStruct will do for a leaf.
    as_jax: arrays are jax.Arrays on jax's default device; on the CPU they alias the memory that was
        read, without a copy.
    part_size (bytes), max_concurrency: as for open().

    All arrays are NumPy arrays unless as_jax, whatever they were when saved. Each is writable and
    has memory of its own, 64-byte aligned and never used again by this package, so that
    jax.device_put(array) on the CPU makes no copy either. Without `like`, mappings are dicts and
    namedtuples of a new class with the same name and fields.

    Raises ValueError for a file that save_tree() did not write, for one that does not fit `like`
    and for dtypes that jax would narrow (float64 without jax_enable_x64); ImportError when a dtype
    needs ml_dtypes and it is missing; else what open() raises.
    """
    members = load_numpy(uri, part_size=part_size, max_concurrency=max_concurrency)
    try:
        node = _structure(members)
        tree = _Building(members).tree(node, ())
    except _Malformed as error:
        raise ValueError(f"{uri}: not a file of save_tree(): {error}") from None
    if as_jax:
        tree = _to_jax(importlib.import_module("jax"), tree, ())
    return tree if like is None else _fit(tree, like, ())


# --- names --------------------------------------------------------------------------------------

_Path = tuple[object, ...]


def _describe(path: _Path) -> str:
    return "".join(f"[{part!r}]" for part in path) or "the root"


def _part(key: object) -> str:
    text = _ESCAPED.sub(lambda match: f"%{ord(match.group()):02X}", str(key))
    if text in (".", ".."):  # an unpacked archive must stay in its folder
        return text.replace(".", "%2E")
    return text or "%"


def _member_name(path: _Path, taken: Mapping[str, object]) -> str:
    name = "/".join(map(_part, path))[:_NAME_CHARACTERS] or "root"
    if name.endswith(".npy"):  # NpzFile takes x.npy for x
        name = name.removesuffix(".npy") + "%2Enpy"
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}~{count}"
    return unique


# --- from a tree --------------------------------------------------------------------------------

_Node = dict[str, Any]


class _Flattening:
    """Makes nodes of a tree's parts and collects its arrays in `members`."""

    def __init__(self, members: dict[str, _Array]) -> None:
        self._members = members
        self._open: set[int] = set()  # ids of the containers that the current node lies in

    def node(self, value: Any, path: _Path) -> _Node:
        if isinstance(value, (Mapping, list, tuple)):
            return self._container(value, path)
        if type(value) in _PLAIN:
            return {"value": value}
        if type(value) is int:
            return {"int": str(value)}
        if type(value) is float:
            return {"float": repr(value)}
        if type(value) is complex:
            return {"complex": [repr(value.real), repr(value.imag)]}
        if type(value) is bytes:
            return {"bytes": self._add(np.frombuffer(value, np.uint8), path)}
        return self._array(value, path)

    def _container(self, value: Any, path: _Path) -> _Node:
        if id(value) in self._open:
            raise ValueError(f"{_describe(path)}: the tree contains itself")
        self._open.add(id(value))
        try:
            return self._items(value, path)
        finally:
            self._open.remove(id(value))

    def _items(self, value: Any, path: _Path) -> _Node:
        if isinstance(value, Mapping):
            return {"dict": self._pairs(value.items(), path)}
        if isinstance(value, list):
            return {"list": [self.node(item, (*path, i)) for i, item in enumerate(value)]}
        fields = getattr(value, "_fields", None)
        if fields is None:
            return {"tuple": [self.node(item, (*path, i)) for i, item in enumerate(value)]}
        return {
            "namedtuple": type(value).__name__,
            "fields": self._pairs(zip(fields, value, strict=True), path),
        }

    def _pairs(self, pairs: Any, path: _Path) -> list[list[Any]]:
        nodes = []
        for key, item in pairs:
            if type(key) not in (str, int):
                raise TypeError(
                    f"{_describe(path)}: a key must be str or int, not {type(key).__name__}"
                )
            nodes.append([key, self.node(item, (*path, key))])
        return nodes

    def _array(self, value: Any, path: _Path) -> _Node:
        array = _as_array(value, path)
        node: _Node = {}
        if not _npy_knows(array.dtype):
            node["dtype"] = array.dtype.name
            array = array.view(_storage_dtype(array.dtype, path))
        node["scalar" if isinstance(value, np.generic) else "array"] = self._add(array, path)
        return node

    def _add(self, array: _Array, path: _Path) -> str:
        name = _member_name(path, self._members)
        self._members[name] = array
        return name


def _as_array(value: Any, path: _Path) -> _Array:
    """The value's own memory where it can be had, as a plain array without Python objects in it."""
    if hasattr(value, "__array__") or _is_buffer(value):
        convert: Callable[[Any], _Array] = np.asarray
    elif hasattr(value, "__dlpack__"):
        convert = np.from_dlpack
    else:
        raise TypeError(
            f"{_describe(path)}: {type(value).__name__} is no array, number, str, bytes or None"
        )
    try:
        array = convert(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(
            f"{_describe(path)}: no array can be made of this {type(value).__name__}: {error}"
        ) from error
    if array.dtype.hasobject:
        raise TypeError(
            f"{_describe(path)}: arrays of dtype {array.dtype} refer to Python objects and cannot "
            "be saved in a tree: convert them, strings with .astype('U')"
        )
    return array


def _is_buffer(value: Any) -> bool:
    try:
        with memoryview(value):
            return True
    except (TypeError, ValueError, BufferError):
        return False


def _npy_knows(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype comes back from a .npy file as it is."""
    descr = np.lib.format.dtype_to_descr(dtype)
    try:
        return np.lib.format.descr_to_dtype(descr) == dtype
    except (TypeError, ValueError):  # float8_e5m2 is <f1, which NumPy writes and cannot read
        return False


def _storage_dtype(dtype: np.dtype[Any], path: _Path) -> str:
    storage = _UNSIGNED.get(dtype.itemsize)
    if storage is not None and dtype.type.__module__ == "ml_dtypes":
        return storage
    raise TypeError(f"{_describe(path)}: the .npy format has no name for dtype {dtype}")


# --- and back -----------------------------------------------------------------------------------


class _Malformed(Exception):
    pass


def _structure(members: Mapping[str, _Array]) -> Any:
    if _STRUCTURE not in members:
        raise _Malformed(f"it has no member {_STRUCTURE}")
    try:
        document = json.loads(members[_STRUCTURE].item())
    except (ValueError, TypeError, RecursionError) as error:
        raise _Malformed(f"{_STRUCTURE}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise _Malformed(f"{_STRUCTURE} is of another format")
    if document.get("version") != _VERSION:
        raise _Malformed(f"version {document.get('version')!r} is not {_VERSION}")
    return document.get("tree")


class _Building:
    """Makes a tree of nodes, taking arrays from `members`."""

    def __init__(self, members: Mapping[str, _Array]) -> None:
        self._members = members

    def tree(self, node: Any, path: _Path) -> Any:
        kinds = [kind for kind in self._MAKERS if isinstance(node, dict) and kind in node]
        if len(kinds) != 1:
            raise _Malformed(f"{_describe(path)} has no kind that is known")
        try:
            return self._MAKERS[kinds[0]](self, node, path)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _Malformed(f"{_describe(path)}: {error}") from error

    def _dict(self, node: _Node, path: _Path) -> Any:
        return {key: self.tree(item, (*path, key)) for key, item in node["dict"]}

    def _list(self, node: _Node, path: _Path) -> Any:
        return [self.tree(item, (*path, i)) for i, item in enumerate(node["list"])]

    def _tuple(self, node: _Node, path: _Path) -> Any:
        return tuple(self.tree(item, (*path, i)) for i, item in enumerate(node["tuple"]))

    def _namedtuple(self, node: _Node, path: _Path) -> Any:
        items = {field: self.tree(item, (*path, field)) for field, item in node["fields"]}
        return collections.namedtuple(node["namedtuple"], items)(**items)

    def _value(self, node: _Node, path: _Path) -> Any:
        if type(node["value"]) not in _PLAIN:
            raise _Malformed(f"{_describe(path)} is no plain value")
        return node["value"]

    def _number(self, node: _Node, path: _Path) -> Any:
        if "int" in node:
            return int(node["int"])
        if "float" in node:
            return float(node["float"])
        real, imaginary = node["complex"]
        return complex(float(real), float(imaginary))

    def _bytes(self, node: _Node, path: _Path) -> Any:
        return self._member(node["bytes"], path).tobytes()

    def _scalar(self, node: _Node, path: _Path) -> Any:
        return self._typed(node["scalar"], node, path)[()]

    def _array(self, node: _Node, path: _Path) -> Any:
        return self._typed(node["array"], node, path)

    def _typed(self, name: str, node: _Node, path: _Path) -> _Array:
        array = self._member(name, path)
        if "dtype" not in node:
            return array
        dtype = _extension_dtype(node["dtype"], path)
        if array.dtype != np.dtype(_UNSIGNED.get(dtype.itemsize, "V")):
            raise _Malformed(f"{_describe(path)}: {array.dtype} cannot hold {dtype}")
        return array.view(dtype)

    def _member(self, name: str, path: _Path) -> _Array:
        if name not in self._members:
            raise _Malformed(f"{_describe(path)}: it has no member {name!r}")
        return self._members[name]

    _MAKERS: dict[str, Callable[[_Building, _Node, _Path], Any]] = {
        "dict": _dict,
        "list": _list,
        "tuple": _tuple,
        "namedtuple": _namedtuple,
        "value": _value,
        "int": _number,
        "float": _number,
        "complex": _number,
        "bytes": _bytes,
        "scalar": _scalar,
        "array": _array,
    }


def _extension_dtype(name: object, path: _Path) -> np.dtype[Any]:
    try:
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise ImportError(
            f"{_describe(path)} has dtype {name}, which needs the package ml_dtypes"
        ) from error
    scalar = getattr(ml_dtypes, name, None) if isinstance(name, str) else None
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        raise _Malformed(f"{_describe(path)}: ml_dtypes has no dtype {name!r}")
    return np.dtype(scalar)


def _to_jax(jax: Any, tree: Any, path: _Path) -> Any:
    if isinstance(tree, dict):
        return {key: _to_jax(jax, item, (*path, key)) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [_to_jax(jax, item, (*path, i)) for i, item in enumerate(tree)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return _on_device(jax, tree, path) if isinstance(tree, np.ndarray) else tree


def _on_device(jax: Any, array: _Array, path: _Path) -> Any:
    """device_put aliases aligned memory on the CPU; jnp.asarray copies."""
    try:
        placed = jax.device_put(array)
    except TypeError as error:
        raise ValueError(f"{_describe(path)}: jax has no arrays of {array.dtype}") from error
    if placed.dtype != array.dtype:
        raise ValueError(
            f"{_describe(path)} is {array.dtype} and jax would make it {placed.dtype}: set "
            "jax_enable_x64, or load without as_jax"
        )
    return placed


# --- the caller's types -------------------------------------------------------------------------


def _fit(tree: Any, like: Any, path: _Path) -> Any:
    """`tree` with the container types of `like`; ValueError where they differ."""
    if isinstance(like, Mapping):
        _require(isinstance(tree, dict) and set(tree) == set(like), tree, like, path)
        items = {key: _fit(tree[key], like[key], (*path, key)) for key in like}
        return items if type(like) is dict else _rebuild(like, items, path)
    if isinstance(like, (list, tuple)):
        _require(_is_sequence_like(tree, like), tree, like, path)
        fitted = [
            _fit(item, model, (*path, i))
            for i, (item, model) in enumerate(zip(tree, like, strict=True))
        ]
        if hasattr(like, "_fields"):
            return type(like)(*fitted)
        return _rebuild(like, fitted, path)
    for name in ("shape", "dtype"):
        wanted, found = getattr(like, name, None), getattr(tree, name, None)
        if wanted is not None and found != wanted:
            raise ValueError(f"{_describe(path)} has {name} {found}, and `like` has {wanted}")
    is_leaf = not isinstance(tree, (dict, list, tuple))
    _require(is_leaf and (tree is None) == (like is None), tree, like, path)
    return tree


def _is_sequence_like(tree: Any, like: Any) -> bool:
    kind = list if isinstance(like, list) else tuple
    if not isinstance(tree, kind) or len(tree) != len(like):
        return False
    return getattr(tree, "_fields", None) == getattr(like, "_fields", None)


def _rebuild(like: Any, items: Any, path: _Path) -> Any:
    try:
        return type(like)(items)
    except TypeError as error:
        raise ValueError(
            f"{_describe(path)}: no {type(like).__name__} can be made as `like` has it: {error}"
        ) from error


def _require(fits: bool, tree: Any, like: Any, path: _Path) -> None:
    if not fits:
        raise ValueError(f"{_describe(path)}: {_outline(tree)} does not fit {_outline(like)}")


def _outline(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return f"{type(tree).__name__} with keys {list(tree)}"
    if isinstance(tree, (list, tuple)):
        return f"{type(tree).__name__} of length {len(tree)}"
    return type(tree).__name__
