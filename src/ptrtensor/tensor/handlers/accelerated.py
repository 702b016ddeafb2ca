"""Operations that every accelerator of torch has and its CPU kernels have not: code that branches on `device.type ==
"cpu"` takes a pointer for an accelerator's tensor, also where the worker computes on a CPU.
"""

from typing import Final

import torch
from torch._ops import OpOverload

from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.dispatch import run
from ptrtensor.tensor.operation import Args, Kwargs, operations

aten = torch.ops.aten

INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def histc(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """Of integers, as mixtures of experts count their tokens: float64 holds the counts and what is counted exactly."""
    pointer, *rest = args
    assert isinstance(pointer, Pointer)
    if pointer.dtype not in INTEGERS or pointer._worker.compute_device.type != "cpu":
        return run(operations[op], args, kwargs, wrap)
    counted = run(operations[op], (to(pointer, torch.float64, wrap), *rest), kwargs, wrap)
    return to(counted, pointer.dtype, wrap)


def to(value: object, dtype: torch.dtype, wrap: Wrap) -> object:
    return run(operations[aten._to_copy.default], (value,), {"dtype": dtype}, wrap)


operations[aten.histc.default].handler = histc
