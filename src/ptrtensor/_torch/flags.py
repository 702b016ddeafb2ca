"""Flags of the process that change results."""

from typing import Final

import torch

from ptrtensor._torch.names import DTYPE_NAMES, DTYPES

_SMALLEST_NORMAL: Final = 2.2250738585072014e-308

Flags = tuple[str, bool, bool, bool, str, bool, bool, bool, bool, bool, bool]
"""The fields of `wire.messages.Settings`, in their order."""


# Read before every command, so each is looked up once.
_default_dtype: Final = torch.get_default_dtype
_deterministic: Final = torch._C._get_deterministic_algorithms
_warn_only: Final = torch._C._get_deterministic_algorithms_warn_only
_fill: Final = torch._C._get_deterministic_fill_uninitialized_memory
_matmul_precision: Final = torch._C._get_float32_matmul_precision
_flash: Final = torch._C._get_flash_sdp_enabled
_mem_efficient: Final = torch._C._get_mem_efficient_sdp_enabled
_math: Final = torch._C._get_math_sdp_enabled
_cudnn: Final = torch._C._get_cudnn_sdp_enabled
_mkldnn: Final = torch._C._get_mkldnn_enabled


def read_flags() -> Flags:
    """The flags of this process and thread. Torch cannot be asked for the last one, arithmetic can."""
    return (
        DTYPE_NAMES[_default_dtype()],
        _deterministic(),
        _warn_only(),
        _fill(),
        _matmul_precision(),
        _flash(),
        _mem_efficient(),
        _math(),
        _cudnn(),
        _mkldnn(),
        _SMALLEST_NORMAL * 0.5 == 0.0,
    )


def write_flags(flags: Flags) -> None:
    (dtype, deterministic, warn_only, fill, precision, flash, efficient, math, cudnn, mkldnn, flush) = flags
    torch.set_default_dtype(DTYPES[dtype])
    torch._C._set_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch._C._set_deterministic_fill_uninitialized_memory(fill)
    torch._C._set_float32_matmul_precision(precision)
    torch._C._set_sdp_use_flash(flash)
    torch._C._set_sdp_use_mem_efficient(efficient)
    torch._C._set_sdp_use_math(math)
    torch._C._set_sdp_use_cudnn(cudnn)
    torch._C._set_mkldnn_enabled(mkldnn)
    torch.set_flush_denormal(flush)
