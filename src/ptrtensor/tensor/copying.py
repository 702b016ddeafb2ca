"""Copies of pointers, and their values when they are pickled."""

import copy
from typing import Final

import torch
from torch import Tensor, nn

from ptrtensor._torch.memory import is_dense, offset_of
from ptrtensor.tensor.base import Pointer

OWN_STATE: Final = frozenset({"_worker", "_reference", "_meta", "_viewed", "_reshaped", "_id", "_is_param"})
"""What belongs to one pointer and not to its copy."""


def deep_copy(pointer: Pointer, memo: dict[int, object]) -> Tensor:
    """A copy at the same worker; of a tensor that is no parameter with its gradient and its Python attributes."""
    known = memo.get(id(pointer))
    if isinstance(known, Tensor):
        return known
    if not pointer.is_leaf:
        raise RuntimeError(
            "only leaves can be deep-copied: use .clone() to copy with the history, .detach().clone() without it"
        )
    copied = like(pointer, copied_value(pointer, memo))
    memo[id(pointer)] = copied
    if isinstance(pointer, nn.Parameter):
        return copied  # as torch has it: a copied parameter starts without gradient
    if pointer.grad is not None:
        copied.grad = copy.deepcopy(pointer.grad, memo)
    for name, value in pointer.__dict__.items():
        if name not in OWN_STATE:
            copied.__dict__[name] = copy.deepcopy(value, memo)
    return copied


def copied_value(pointer: Pointer, memo: dict[int, object]) -> Tensor:
    """A copy of the value; what shares memory in the original shares it in the copy."""
    base = pointer._base
    if isinstance(base, Pointer) and is_dense(base):
        copied = copied_value(base, memo)
        offset = offset_of(pointer) - offset_of(base) + offset_of(copied)
        with torch.no_grad():
            return copied.as_strided(pointer.size(), pointer.stride(), offset)
    # A name at the worker and not the pointer: detached aliases share it.
    key = id(pointer._reference)
    known = memo.get(key)
    if not isinstance(known, Tensor):
        known = memo[key] = pointer.detach().clone()
    return known.detach()


def reduced(pointer: Pointer, protocol: object) -> str | tuple[object, ...]:
    """What pickling and `torch.save` write: the values, as a tensor in main memory, never an address."""
    value = like(pointer, pointer.detach().cpu())
    written: str | tuple[object, ...] = value.__reduce_ex__(protocol)
    return written


def like(pointer: Tensor, value: Tensor) -> Tensor:
    """The value as a leaf of the same kind: a parameter if the pointer is one."""
    value = value.detach()
    if isinstance(pointer, nn.Parameter):
        return nn.Parameter(value, pointer.requires_grad)
    return value.requires_grad_(pointer.requires_grad)
