"""What torch's dtypes, layouts, memory formats and the pointers' device are called."""

from typing import Final

import torch

from ptrtensor.wire.metadata import ITEM_BYTES

DEVICE_TYPE: Final = "lazy"
"""The device type that pointers have. Torch has device guards and autograd support for it and registers no kernels
of its own, until `torch._lazy.ts_backend.init()` is called. Why this one: docs/explanation/design.md."""

DISPATCH_KEY: Final = "Lazy"

DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name) for name in ITEM_BYTES if isinstance(getattr(torch, name, None), torch.dtype)
}

DTYPE_NAMES: Final[dict[torch.dtype, str]] = {dtype: name for name, dtype in DTYPES.items()}

LAYOUTS: Final[dict[str, torch.layout]] = {"strided": torch.strided}

LAYOUT_NAMES: Final[dict[torch.layout, str]] = {layout: name for name, layout in LAYOUTS.items()}

MEMORY_FORMATS: Final[dict[str, torch.memory_format]] = {
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}

MEMORY_FORMAT_NAMES: Final[dict[torch.memory_format, str]] = {
    memory_format: name for name, memory_format in MEMORY_FORMATS.items()
}
