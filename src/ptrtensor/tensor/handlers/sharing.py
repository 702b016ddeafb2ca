"""Operations that need no command: the result is the same tensor at the worker."""

import torch
from torch._ops import OpOverload

from ptrtensor._torch.memory import offset_of
from ptrtensor._torch.state import view_mode
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.operation import Args, Kwargs, operations
from ptrtensor.tensor.signature import check_usable

aten = torch.ops.aten


def share(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """`detach` is 5 of 42 operations of a training step: another pointer with the same reference, nothing sent (D5)."""
    (pointer,) = args
    assert isinstance(pointer, Pointer)
    if pointer._reference.spent is not None:
        check_usable(pointer)
    with view_mode(pointer):
        return wrap(pointer._worker, pointer._reference, pointer._meta, offset_of(pointer))


operations[aten.detach.default].handler = share
operations[aten.lift_fresh.default].handler = share
