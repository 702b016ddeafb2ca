"""Kernels of ours for torch's dispatcher."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.names import DISPATCH_KEY


def kernel_library() -> torch.library.Library:
    """A place to register kernels for pointers' dispatch key; they live as long as it."""
    return torch.library.Library("aten", "IMPL")  # noqa: TOR901


def register_kernel(library: torch.library.Library, op: OpOverload[..., object], kernel: Callable[..., object]) -> None:
    library.impl(op, kernel, DISPATCH_KEY)


def register_autograd_kernel(
    library: torch.library.Library, op: OpOverload[..., object], kernel: Callable[..., object]
) -> None:
    """In the place of torch's decomposition; what the kernel calls is recorded by autograd."""
    library.impl(op, kernel, f"Autograd{DISPATCH_KEY}")


def chooses_flash_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool, **options: Any
) -> bool:
    """Whether torch would take its fused kernel for such tensors in main memory; their values do not matter."""

    def like(tensor: Tensor) -> Tensor:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return empty.requires_grad_(tensor.requires_grad)

    given_mask = None if mask is None else like(mask)
    choice = torch._fused_sdp_choice(like(query), like(key), like(value), given_mask, dropout_p, is_causal, **options)
    return bool(choice == torch.nn.attention.SDPBackend.FLASH_ATTENTION.value)
