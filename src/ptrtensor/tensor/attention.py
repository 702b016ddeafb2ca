"""Attention stays one operation: the worker runs the fused kernel that torch would choose on its kind of device.

Torch decomposes `scaled_dot_product_attention` on a device for which it has no fused kernel, above every hook of a
tensor subclass. So there is a kernel of ours for the pointers' autograd key, which asks torch what it would choose.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.kernels import chooses_flash_attention, kernel_library, register_autograd_kernel
from ptrtensor._torch.operations import decompose
from ptrtensor._torch.state import isolated
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.operation import Args, Kwargs, operations

WHOLE: Final = torch.ops.aten.scaled_dot_product_attention.default
FLASH: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> object:
    """As at::scaled_dot_product_attention (attention.cpp) for tensors in main memory."""
    if not takes_flash(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa):
        arguments = (query, key, value, attn_mask, dropout_p, is_causal)
        return decompose(WHOLE, arguments, {"scale": scale, "enable_gqa": enable_gqa})
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        nothing, barred = torch.zeros_like(attn_mask, dtype=query.dtype), float("-inf")
        attn_mask = nothing.masked_fill(attn_mask.logical_not(), barred)
    output, *_ = FLASH(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    return output


def takes_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> bool:
    """Wrong arguments are left to torch's own code, which names what is wrong with them."""
    tensors = [query, key, value] if mask is None else [query, key, value, mask]
    at_cpu = all(isinstance(tensor, Pointer) and tensor._worker.compute_device.type == "cpu" for tensor in tensors)
    if not at_cpu or not query.dtype == key.dtype == value.dtype:
        return False
    if mask is not None and (mask.dim() not in (2, 4) or mask.dtype not in (torch.bool, query.dtype)):
        return False
    options = {"scale": scale, "enable_gqa": enable_gqa}
    return isolated(chooses_flash_attention, query, key, value, mask, dropout_p, is_causal, **options)


def whole(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """Under `inference_mode` it arrives here."""
    attend: Callable[..., object] = attention
    return attend(*args, **kwargs)


operations[WHOLE].handler = whole
kernels: Final = kernel_library()
register_autograd_kernel(kernels, WHOLE, attention)
