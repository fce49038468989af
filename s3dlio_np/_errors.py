"""The exceptions, which the engine raises; see their docstrings."""

from s3dlio_np._native import (
    AccessDeniedError,
    IntegrityError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)

__all__ = [
    "AccessDeniedError",
    "IntegrityError",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "StorageError",
]
