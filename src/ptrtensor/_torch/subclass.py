"""What a subclass of `Tensor` without data needs of torch."""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from ptrtensor._torch.names import DEVICE_TYPE


def use_count(tensor: Tensor) -> int:
    """How many owners the tensor has in C++; more than one means that a graph or a view holds it."""
    return int(tensor._use_count())  # type: ignore[attr-defined]


make_wrapper: Final = torch.Tensor._make_wrapper_subclass
"""A tensor of a class, with metadata and without data."""

MAY_ASSIGN_DATA: Final[Callable[..., object]] = torch._has_compatible_shallow_copy_type
"""What `Module._apply` asks before it assigns to a parameter's `.data`."""


native_function: Final[
    Callable[[Callable[..., object], tuple[type, ...], tuple[object, ...], dict[str, object]], object]
] = torch._C._disabled_torch_function_impl
"""Calls a function as torch does for a class without `__torch_function__`."""


def as_subclass_of(cls: type[Tensor], func: Callable[..., object], made: object) -> object:
    """What torch's own `__torch_function__` makes of a result: tensors of the class, where that is meant."""
    if func in torch.overrides.get_default_nowrap_functions():
        return made
    converted: object = torch._tensor._convert(made, cls)
    return converted


BACKWARD_HOOKS_SETTER: Final[Callable[..., object]] = Tensor._backward_hooks.__set__  # type: ignore[union-attr]
"""The last of what `torch.load` does to a tensor; before it the lazy bits were set without a word."""

REQUIRES_GRAD_SETTER: Final[Callable[..., object]] = Tensor.requires_grad.__set__  # type: ignore[attr-defined]
"""What `__torch_function__` is given when the attribute is assigned to."""


def plain(tensor: Tensor) -> Tensor:
    """The same tensor as torch's own type, sharing its memory and, where it is no leaf, its history."""
    with torch._C.DisableTorchFunctionSubclass():
        if not tensor.is_leaf:
            return tensor.as_subclass(Tensor)
        return tensor.detach().as_subclass(Tensor).requires_grad_(tensor.requires_grad)


def answered(getter: Callable[[Any], object]) -> Any:
    """A read-only attribute in the place of one that torch declares as writable."""
    return property(getter)


def shown_as(convert: Callable[[Any], Tensor]) -> Any:
    """A `__repr__` that shows another tensor; torch gives it an argument that mypy lets nobody override."""
    return lambda tensor, *, tensor_contents=None: repr(convert(tensor))


def set_metadata(tensor: Tensor, fresh: Tensor) -> None:
    """Give a wrapper another wrapper's sizes, strides, dtype, offset and lazy bits; its autograd history stays."""
    if lazy_bits(tensor) != lazy_bits(fresh):
        set_lazy_bits(tensor, *lazy_bits(fresh))
    torch._C.TensorBase.data.__set__(tensor, fresh)  # type: ignore[attr-defined]


def bump_versions(tensors: Iterable[Tensor]) -> None:
    """Count an in-place change, where autograd does not see it itself."""
    torch.autograd.graph.increment_version(tensors)


def set_lazy_bits(tensor: Tensor, conj: bool, neg: bool) -> None:
    torch._C._set_conj(tensor, conj)
    torch._C._set_neg(tensor, neg)


def lazy_bits(tensor: Tensor) -> tuple[bool, bool]:
    """Whether it is conjugated, and negated."""
    return torch._C.TensorBase.is_conj(tensor), torch._C.TensorBase.is_neg(tensor)


def with_lazy_bits(tensor: Tensor, conj: bool, neg: bool) -> Tensor:
    """A view that has these bits."""
    if conj:
        tensor = torch._conj(tensor)
    return torch._neg_view(tensor) if neg else tensor


def raw_grad(tensor: Tensor) -> Tensor | None:
    """`.grad` as torch has it, past any property of a subclass."""
    with torch._C.DisableTorchFunctionSubclass():
        return cast("Tensor | None", torch._C.TensorBase.grad.__get__(tensor))  # type: ignore[union-attr]


def set_raw_grad(tensor: Tensor, grad: Tensor | None) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        torch._C.TensorBase.grad.__set__(tensor, grad)  # type: ignore[union-attr]


def recorded(function: type[torch.autograd.Function], *args: object) -> Tensor:
    """Call a function of a tensor that brings its own backward."""
    result: object = function.apply(*args)
    assert isinstance(result, Tensor)
    return result


def on_gradient(tensor: Tensor, act: Callable[[Tensor], None]) -> None:
    """Call `act` with the gradient when it arrives."""
    tensor.register_hook(act)


def swap(first: Tensor, second: Tensor) -> None:
    """Exchange what two Python objects are; whoever holds the one holds the other's value after it."""
    torch.utils.swap_tensors(first, second)


def is_exchangeable(parameter: Tensor) -> bool:
    """Whether `swap` will take it: nobody in C++ holds it but the node that accumulates its gradient."""
    owners = use_count(parameter)
    if owners == 1:
        return True
    if owners > 2 or not parameter.requires_grad:
        return False
    edge = torch.autograd.graph.get_gradient_edge(parameter)  # makes the node, if that is not the other owner
    return edge is not None and use_count(parameter) == 2


def put_through(module: nn.Module, act: Callable[[Tensor], Tensor]) -> None:
    """Put `act`'s result in the place of every parameter, gradient and buffer, as `Module.to` does."""
    module._apply(act)


def take_over_hooks(tensor: Tensor) -> Callable[[Tensor], None]:
    """Remember the hooks of a leaf; the result puts them on what the leaf is later."""
    hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks

    def restore(leaf: Tensor) -> None:
        if hooks:
            leaf._backward_hooks = hooks
        if after:
            leaf._post_accumulate_grad_hooks = after

    return restore


def is_view(tensor: Tensor) -> bool:
    return tensor._is_view()


def register_device_module(module: ModuleType) -> None:
    """Make `torch.<device type>` this module; torch's own way, and the one new name in torch."""
    torch._register_device_module(DEVICE_TYPE, module)
