"""Whole modules, in place: the parameters stay the same Python objects, tied ones tied (D4)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ptrtensor._torch import swap


def convert(module: nn.Module, transfer: Callable[[Tensor], Tensor]) -> None:
    """Put every parameter, gradient and buffer through `transfer`, each once.

    An optimizer that was made before goes on working, because it holds the same parameters.
    """
    seen: dict[int, Tensor] = {}
    for part in module.modules():
        for parameter in part._parameters.values():
            if parameter is not None and id(parameter) not in seen:
                seen[id(parameter)] = parameter
                convert_parameter(parameter, transfer)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                if id(buffer) not in seen:
                    seen[id(buffer)] = transfer(buffer)
                part._buffers[name] = seen[id(buffer)]


def convert_parameter(parameter: nn.Parameter, transfer: Callable[[Tensor], Tensor]) -> None:
    requires_grad = parameter.requires_grad
    grad = parameter.grad
    # The swap wants the only reference to what it exchanges, and a gradient holds one.
    parameter.grad = None
    with torch.no_grad():
        converted = transfer(parameter.detach())
    swap(parameter, nn.Parameter(converted.detach(), requires_grad))
    if grad is not None:
        parameter.grad = transfer(grad)
