"""`torch.compile`, which leaves pointers alone."""

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Literal

import torch


def is_compiling() -> bool:
    """Whether `torch.compile`, `torch.export` or `torch.jit.trace` is reading this program."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def refuse_compiling() -> Literal[False]:
    """Make `torch.compile`, if it is what asks, leave the function that it is reading as it is."""
    if torch._guards.TracingContext.try_get() is not None:
        _warn_of_compiling()
        raise sys.modules["torch._dynamo.exc"].SkipFrame("pointers are not compiled")
    return False


@functools.cache
def _warn_of_compiling() -> None:
    """Once in a process."""
    warnings.warn("torch.compile runs functions of pointers as they are, uncompiled", stacklevel=1)


def never_compiled(function: Callable[..., object]) -> None:
    """Keep `torch.compile` from reading a function of ours, and what that calls, when it is called uncompiled."""
    skip = torch._C._dynamo.eval_frame._FrameAction.SKIP
    strategy = torch._C._dynamo.eval_frame._FrameExecStrategy(skip, skip)
    torch._C._dynamo.eval_frame.set_code_exec_strategy(function.__code__, strategy)
