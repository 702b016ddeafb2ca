"""Flags of the process that change results."""

from typing import Final

import torch

from ptrtensor._torch.names import DTYPE_NAMES, DTYPES

_SMALLEST_NORMAL: Final = 2.2250738585072014e-308

Flags = tuple[str, bool, bool, bool, str, bool, bool, bool, bool, bool, bool]
"""The fields of `wire.messages.Settings`, in their order."""


def read_flags() -> Flags:
    """The flags of this process and thread. Torch cannot be asked for the last one, arithmetic can."""
    return (
        DTYPE_NAMES[torch.get_default_dtype()],
        torch._C._get_deterministic_algorithms(),
        torch._C._get_deterministic_algorithms_warn_only(),
        torch._C._get_deterministic_fill_uninitialized_memory(),
        torch._C._get_float32_matmul_precision(),
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
        torch._C._get_cudnn_sdp_enabled(),
        torch._C._get_mkldnn_enabled(),
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
