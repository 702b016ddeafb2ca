"""The dispatcher's state of this thread."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")

R = TypeVar("R")

_INCLUDED: Final = torch._C._dispatch_tls_local_include_set()

_EXCLUDED: Final = torch._C._dispatch_tls_local_exclude_set()

with torch._C._AutoDispatchBelowAutograd():
    _EXCLUDED_BELOW_AUTOGRAD: Final = torch._C._dispatch_tls_local_exclude_set() | _EXCLUDED


def isolated(act: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `act` with torch as at the start of a fresh thread, below autograd.

    Inside a dispatch, a mode or a transform, the dispatcher's state is the caller's; what this library computes for
    itself (an in-process worker's operations, inference, seeds) must not see it. A function and not a context manager
    in Python: Ctrl-C cannot fall into the guards' own steps, since they are torch's in C.
    """
    with (
        torch._C.DisableTorchFunction(),
        torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED_BELOW_AUTOGRAD),
        torch._C._InferenceMode(False) if torch.is_inference_mode_enabled() else _AS_IT_IS,
    ):
        return act(*args, **kwargs)


_AS_IT_IS: Final = nullcontext()


_dispatch_mode: Final = torch._C._get_dispatch_mode
_PROXY: Final = torch._C._TorchDispatchModeKey.PROXY


def is_tracing() -> bool:
    """Whether operations are being recorded into a graph, which would hold a pointer's values as constants."""
    return _dispatch_mode(_PROXY) is not None


def has_dual_level() -> bool:
    """Whether forward-mode differentiation is under way."""
    return torch.autograd.forward_ad._current_level >= 0


def view_mode(base: Tensor | None) -> AbstractContextManager[object]:
    """Where to make a view of this tensor: under `inference_mode` a view of an ordinary tensor is an ordinary one."""
    if base is not None and torch.is_inference_mode_enabled() and not base.is_inference():
        return torch._C._InferenceMode(False)
    return _AS_IT_IS


def in_backward() -> bool:
    """Whether this thread is inside a backward pass."""
    return torch._C._current_graph_task_id() != -1
