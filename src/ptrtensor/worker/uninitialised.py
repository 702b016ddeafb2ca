"""Memory that torch hands out as it was: filled with zeros before a client sees it, where the system does not do it.

On a CPU glibc does, for all that a session's process allocates. A GPU's memory comes from an allocator of torch's own,
which hands out again what was freed, as it was.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from ptrtensor._torch.memory import storage_key
from ptrtensor._torch.storages import bytes_of_storage
from ptrtensor.errors import UnsupportedOpError

HANDING_OUT: Final = frozenset(
    f"aten::{name}"
    for name in (
        *("empty", "empty_like", "empty_permuted", "empty_quantized", "empty_strided", "new_empty"),
        "new_empty_strided",
    )
)
"""What they return nobody has written to, also where that is `out=`."""

GROWING: Final = frozenset({"aten::resize_", "aten::resize_as_", "aten::resize_as_sparse_", "aten::set_"})
"""They may add to the memory of an argument."""

COPYING: Final = frozenset({"aten::resize", "aten::resize_as", "aten::resize_as_sparse", "aten::set"})
"""The same on a copy, as compilers need it: which part of it was copied does not show afterwards."""


def is_cleared_by_the_system(device: torch.device) -> bool:
    """Whether a session's process gets its memory there filled with zeros already."""
    return device.type == "cpu"


def clearing(op: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The same; memory that it hands out, or adds to that of its arguments, is zero.

    :raises UnsupportedOpError: that cannot be done.
    """
    name = op.partition(".")[0]
    if name in COPYING:
        raise UnsupportedOpError(f"{name} is not run on this worker's device: use {name}_")
    if name not in HANDING_OUT | GROWING:
        return kernel

    def cleared(*args: object, **kwargs: object) -> object:
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        sizes = {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in given}
        result = kernel(*args, **kwargs)
        for tensor in (result, *given):  # `set_` may add to the memory of its source
            clear(tensor, sizes.get(storage_key(tensor), 0))
        return result.zero_() if name in HANDING_OUT and storage_key(result) in sizes else result

    return cleared


def clear(tensor: Tensor, begin: int = 0) -> None:
    """The memory from this byte on, also what lies between its elements and behind them."""
    storage = tensor.untyped_storage()
    if storage.nbytes() > begin:
        bytes_of_storage(storage)[begin:].zero_()
