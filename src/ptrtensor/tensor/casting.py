"""How the pointers of one worker are cast to lower precision: by `Autocast`, on one thread."""

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptrtensor._torch.subclass import is_view


def is_eligible(tensor: Tensor) -> bool:
    """Torch never casts integers, complex numbers and float64."""
    return tensor.is_floating_point() and tensor.dtype is not torch.float64


@dataclass
class Casting(threading.local):
    """How one worker's pointers are cast on this thread."""

    kind: str
    dtype: torch.dtype | None = None
    cached: bool = True
    depth: int = 0
    casts: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Parameters and their casts, so that one used twice is cast once, and its gradients add up as torch's do."""

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if not is_eligible(tensor) or tensor.dtype is dtype:
            return tensor
        if (
            not self.cached
            or dtype is not self.dtype
            or tensor.dtype is not torch.float32
            or not (tensor.requires_grad and tensor.is_leaf and torch.is_grad_enabled())
            or is_view(tensor)
        ):
            return tensor.to(dtype)
        if id(tensor) not in self.casts:
            self.casts[id(tensor)] = (tensor, tensor.to(dtype))
        return self.casts[id(tensor)][1]
