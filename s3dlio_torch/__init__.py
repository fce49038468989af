"""torch.save and torch.load straight to and from object storage.

    import s3dlio_torch

    s3dlio_torch.save(model.state_dict(), "s3://bucket/run/model.pt")
    state = s3dlio_torch.load("s3://bucket/run/model.pt")

The files are torch's own: torch.load reads what is saved here, and the reverse. URIs, settings and
exceptions are s3dlio_np's.
"""

from s3dlio_np._version import __version__
from s3dlio_torch._async import async_save
from s3dlio_torch._partial import TensorInfo, inspect
from s3dlio_torch._safetensors import load_safetensors, save_safetensors
from s3dlio_torch._serialization import load, load_torch_state, save, save_torch_state

__all__ = [
    "TensorInfo",
    "__version__",
    "async_save",
    "inspect",
    "load",
    "load_safetensors",
    "load_torch_state",
    "save",
    "save_safetensors",
    "save_torch_state",
]
