"""Whole modules, in place: parameters stay the same Python objects, tied ones tied (D4)."""

from collections.abc import Callable

from torch import Tensor, nn


def convert(module: nn.Module, transfer: Callable[[Tensor], Tensor], stays: Callable[[Tensor], bool]) -> None:
    """Put the value of every parameter, gradient and buffer through `transfer`, except where it `stays`.

    `Module._apply` is what `.to()` goes through as well: it exchanges what the parameters are and keeps the objects,
    so an optimizer that was made before goes on working; and modules that keep their weights in some other form
    (recurrent ones) bring it up to date there.
    """
    moved: dict[int, tuple[Tensor, Tensor]] = {}

    def convert_once(tensor: Tensor) -> Tensor:
        if stays(tensor):
            return tensor.detach()
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor, transfer(tensor.detach())
        return moved[id(tensor)][1]

    module._apply(convert_once)
