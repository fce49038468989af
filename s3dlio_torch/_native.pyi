# Importing it registers torch.ops.s3dlio_native's operators.
from collections.abc import Callable
from typing import Any

from s3dlio_np._native import Plain

def make_tensors(plain: Plain, operator: Callable[[], list[Any]], /) -> list[Any]: ...
