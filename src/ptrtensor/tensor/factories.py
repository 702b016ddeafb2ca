"""Factories with `device=bob.device`: kernels for torch's dispatcher, one for each operation that makes a tensor."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.kernels import kernel_library, register_kernel
from ptrtensor._torch.operations import factory_ops, kept_whole, op_name
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.tensor.base import Wrap
from ptrtensor.tensor.device import check_device_type
from ptrtensor.tensor.dispatch import dispatch, run
from ptrtensor.tensor.operation import operations
from ptrtensor.tensor.worker import devices

DISREGARDED: Final = frozenset({"pin_memory"})
"""Arguments that concern main memory only."""


class Factories:
    """The registered kernels; they live as long as this object."""

    def __init__(self, wrap: Wrap) -> None:
        check_device_type()
        self._library = kernel_library()
        for op in factory_ops():
            register_kernel(self._library, op, factory(op, wrap))
        # Without a kernel of the device torch would decompose the second ones above autograd; they are never called.
        for op in (torch.ops.aten._copy_from.default, torch.ops.aten._local_scalar_dense.default, *kept_whole()):
            register_kernel(self._library, op, crossing(op, wrap))


def factory(op: OpOverload[..., object], wrap: Wrap) -> Callable[..., Tensor]:
    """A kernel that makes the tensor at the worker whose device was asked for."""

    def kernel(*args: object, **kwargs: object) -> Tensor:
        device = kwargs.get("device")
        if not isinstance(device, torch.device):
            raise UnsupportedOpError(f"{op_name(op)} was called for a worker without naming its device")
        given = {name: value for name, value in kwargs.items() if name not in DISREGARDED}
        made = run(operations[op], args, given, wrap, devices.worker(device))
        assert isinstance(made, Tensor)
        return made

    return kernel


def crossing(op: OpOverload[..., object], wrap: Wrap) -> Callable[..., object]:
    """What torch calls for `torch.tensor(values, device=bob.device)` and `torch.tensor([p, q])`, with Python off."""

    def kernel(*args: object, **kwargs: object) -> object:
        return dispatch(op, args, kwargs, wrap)

    return kernel
