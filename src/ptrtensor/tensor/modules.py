"""Whole modules, in place: parameters stay the same Python objects, tied ones tied (D4)."""

import itertools
import weakref
from collections.abc import Callable
from typing import Final

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from ptrtensor._torch.subclass import is_exchangeable, put_through, take_over_hooks
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.tensor.copying import OWN_STATE

WAITING: Final = "_ptrtensor_waiting"
"""Where a lazy module keeps the hook that will convert it."""


def convert(module: nn.Module, transfer: Callable[[Tensor], Tensor], stays: Callable[[Tensor], bool]) -> None:
    """Put the value of every parameter, gradient and buffer through `transfer`, except where it `stays`.

    `Module._apply` is what `.to()` goes through as well: it exchanges what the parameters are and keeps the objects,
    so an optimizer that was made before goes on working; and modules that keep their weights in some other form
    (recurrent ones) bring it up to date there.

    :raises UnsupportedOpError: something else holds a parameter; the module is then as it was.
    :raises Exception: what `transfer` raises; what came before that tensor is then converted, the rest is not.
    """
    check_free(module, stays)
    for part in module.modules():
        convert_when_shaped(part, transfer, stays)
    moved: dict[int, tuple[Tensor, Tensor]] = {}

    def convert_once(tensor: Tensor) -> Tensor:
        if is_lazy(tensor):
            return tensor
        if stays(tensor):
            return tensor.detach()
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor, transfer(tensor.detach())
        return moved[id(tensor)][1]

    kept = [Kept(parameter) for parameter in module.parameters()]
    try:
        put_through(module, convert_once)
    finally:
        for each in kept:
            each.restore()


def convert_when_shaped(part: nn.Module, transfer: Callable[[Tensor], Tensor], stays: Callable[[Tensor], bool]) -> None:
    """Parameters of lazy modules have no value yet: they are converted as soon as the first call has made them."""
    waiting: RemovableHandle | None = part.__dict__.pop(WAITING, None)
    if waiting is not None:
        waiting.remove()
    if not any(map(is_lazy, itertools.chain(part.parameters(recurse=False), part.buffers(recurse=False)))):
        return

    def convert_now(part: nn.Module, args: object) -> None:
        part.__dict__.pop(WAITING).remove()
        convert(part, transfer, stays)

    # After torch's own hook, which makes them from the shapes of the arguments.
    part.__dict__[WAITING] = part.register_forward_pre_hook(convert_now)


class Kept:
    """What users attached to a parameter: hooks and attributes. Exchanging the tensors would leave them behind."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self._parameter = parameter
        self._restore_hooks = take_over_hooks(parameter)
        self._attributes = {name: value for name, value in parameter.__dict__.items() if name not in OWN_STATE}

    def restore(self) -> None:
        self._restore_hooks(self._parameter)
        self._parameter.__dict__.update(self._attributes)


def check_free(module: nn.Module, stays: Callable[[Tensor], bool]) -> None:
    """Torch exchanges a parameter only if nothing else holds it, and would stop half-way through the module."""
    own = {id(reference) for part in module.modules() for reference in getattr(part, "_flat_weight_refs", ())}
    for name, parameter in module.named_parameters():
        if is_lazy(parameter) or stays(parameter):
            continue
        watched = any(id(reference) not in own for reference in weakref.getweakrefs(parameter))
        if watched or not is_exchangeable(parameter):
            what = "a weak reference" if watched else "an output that was computed with it, or a view of it,"
            raise UnsupportedOpError(
                f"the parameter {name!r} cannot change places while {what} is alive: let go of that first (del output)"
            )
