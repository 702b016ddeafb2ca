"""Autocast, by the key of a device for which no build of torch has kernels."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch._ops import OpOverload

from ptrtensor._torch.kernels import kernel_library
from ptrtensor._torch.operations import resolve_op

_AUTOCAST_DEVICE: Final = "hpu"

_AUTOCAST_KEY: Final = "AutocastHPU"

_KEY: Final = getattr(DispatchKey, _AUTOCAST_KEY)

_BELOW_AUTOCAST: Final = torch._C._dispatch_keyset_full_after(_KEY)

AUTOCAST_KEYS: Final = DispatchKeySet(_KEY)
"""What a tensor carries to be seen by the kernels; it costs nothing while they are switched off."""


def autocast_operations() -> list[str]:
    """The names of what torch casts on a CPU."""
    return list(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU"))


def autocast_libraries(
    names: Iterable[str], make: Callable[[OpOverload[..., object]], Callable[..., object]]
) -> tuple[torch.library.Library, ...]:
    """The kernels of these operations, as far as this torch has them; they live as long as what is returned.

    Every other operation goes on as it is.
    """
    rest, library = torch.library.Library("_", "IMPL"), kernel_library()  # noqa: TOR901
    rest.fallback(torch.library.fallthrough_kernel, _AUTOCAST_KEY)
    for name in names:
        op = resolve_op(name)
        if op is not None:
            library.impl(op, make(op), _AUTOCAST_KEY, with_keyset=True)
    return rest, library


def below_autocast(
    op: OpOverload[..., object], keys: DispatchKeySet, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Go on with an operation as if no kernel had been registered for it."""
    return op.redispatch(keys & _BELOW_AUTOCAST, *args, **kwargs)


def enable_autocast_key(enabled: bool) -> bool:
    """Switch the kernels on or off for this thread; returns what they were."""
    before = torch.is_autocast_enabled(_AUTOCAST_DEVICE)
    torch.set_autocast_enabled(_AUTOCAST_DEVICE, enabled)
    return before


def without_autocast_key() -> AbstractContextManager[object]:
    return torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS)
