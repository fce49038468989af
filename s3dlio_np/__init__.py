"""Object storage for NumPy, pickle and anything else that reads and writes binary files.

    import numpy as np, s3dlio_np

    with s3dlio_np.open("s3://bucket/run/arrays.npz", "wb") as f:
        np.savez(f, weights=weights)
    arrays = np.load(s3dlio_np.open("s3://bucket/run/arrays.npz"))

URIs: s3://bucket/key, file:///path, and plain paths. An object appears whole, when its stream is
closed cleanly, or not at all.
"""

# The engine first: where it refuses to work (sub-interpreters), NumPy would fail worse.
from s3dlio_np import _native as _native
from s3dlio_np._arrays import (
    load,
    load_numpy,
    save,
    save_numpy,
    savez,
    savez_compressed,
)
from s3dlio_np._errors import (
    AccessDeniedError,
    IntegrityError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)
from s3dlio_np._native import ObjectReader, ObjectWriter
from s3dlio_np._npz import DamagedMemberError, NpzFile
from s3dlio_np._objects import (
    ObjectInfo,
    ObjectStat,
    Verification,
    delete,
    exists,
    get_bytes,
    get_bytes_view,
    get_into,
    list,
    put,
    stat,
    verify,
)
from s3dlio_np._open import PyObjectStream, S3OutputStream, WriteResult, open, open_stream
from s3dlio_np._options import WriterOptions
from s3dlio_np._pickle import load_pickle, save_pickle
from s3dlio_np._safetensors import load_safetensors, save_safetensors
from s3dlio_np._settings import configure, stats
from s3dlio_np._tree import load_tree, save_tree
from s3dlio_np._version import __version__

__all__ = [
    "AccessDeniedError",
    "DamagedMemberError",
    "IntegrityError",
    "NpzFile",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectReader",
    "ObjectStat",
    "ObjectWriter",
    "PyObjectStream",
    "S3OutputStream",
    "StorageError",
    "Verification",
    "WriteResult",
    "WriterOptions",
    "__version__",
    "configure",
    "delete",
    "exists",
    "get_bytes",
    "get_bytes_view",
    "get_into",
    "list",
    "load",
    "load_numpy",
    "load_pickle",
    "load_safetensors",
    "load_tree",
    "open",
    "open_stream",
    "put",
    "save",
    "save_numpy",
    "save_pickle",
    "save_safetensors",
    "save_tree",
    "savez",
    "savez_compressed",
    "stat",
    "stats",
    "verify",
]
