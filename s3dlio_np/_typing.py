"""Names for annotations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

    # NumPy says that its arrays are buffers from Python 3.12 on.
    AnyBuffer = Buffer | np.ndarray[Any, Any]


class HasToBytes(Protocol):
    """Arrays that refuse the buffer protocol, and the like."""

    def tobytes(self) -> bytes: ...


class HasEncode(Protocol):
    """str, and the like."""

    def encode(self) -> bytes: ...


Uri = str | os.PathLike[str]
