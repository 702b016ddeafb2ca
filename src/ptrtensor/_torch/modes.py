"""The stack of torch function modes of this thread."""

import torch
from torch.overrides import TorchFunctionMode


def insert_mode(mode: TorchFunctionMode) -> None:
    """Put a mode below all others but that of `set_default_device`, which torch keeps at the bottom.

    There no other mode's `with` can pop it by mistake, whatever order they are left in.
    """
    stack = _take_modes()
    default_device = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    place = 1 if stack and stack[0] is default_device else 0
    _put_modes([*stack[:place], mode, *stack[place:]])


def remove_mode(mode: TorchFunctionMode) -> bool:
    """Take a mode out from wherever it stands; False where it is not on this thread's stack."""
    stack = _take_modes()
    rest = [other for other in stack if other is not mode]
    _put_modes(rest)
    return len(rest) < len(stack)


def _take_modes() -> list[TorchFunctionMode]:
    """All modes, the outermost first, off the stack."""
    taken = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    return taken[::-1]


def _put_modes(modes: list[TorchFunctionMode]) -> None:
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)
