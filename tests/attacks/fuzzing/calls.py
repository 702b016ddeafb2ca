"""A call of an operation, and how it is recorded: each leaf a tensor or a plain value."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ptrtensor._torch.operations import op_arguments, op_name, resolve_op

LARGEST = 20_000
"""Elements of all tensors of a call that is kept."""

FORMS = 6
"""Calls kept of one operation, which differ in more than numbers."""


PLAIN = (bool, int, float, complex, str, torch.dtype, torch.layout, torch.memory_format, torch.device)


@dataclass(frozen=True)
class Call:
    """An operation by name, with its arguments by name."""

    op: str
    arguments: dict[str, Any]

    @property
    def form(self) -> tuple[object, ...]:
        return tuple((name, form_of(value)) for name, value in self.arguments.items())

    def tensors(self) -> Iterator[Tensor]:
        for value in self.arguments.values():
            for leaf in value if isinstance(value, list) else [value]:
                if isinstance(leaf, Tensor):
                    yield leaf


def form_of(value: object) -> object:
    if isinstance(value, Tensor):
        return (value.dim(), value.dtype.is_floating_point)
    if isinstance(value, list):
        return ("list", tuple(form_of(item) for item in value[:3]))
    if isinstance(value, bool | str):
        return value
    return type(value)


class Recorder(TorchDispatchMode):
    """Keeps the calls that it sees: a few of each operation, as small as can be."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: dict[str, dict[object, Call]] = {}

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        if isinstance(func, OpOverload):
            self.note(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def note(self, op: OpOverload[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if op.namespace not in ("aten", "torch_nn"):
            return
        names = [argument.name for argument in op_arguments(op)]
        call = Call(op_name(op), dict(zip(names, args, strict=False)) | kwargs)
        leaves = list(call.tensors())
        if sum(leaf.numel() for leaf in leaves) > LARGEST or not all(map(is_plain, leaves)):
            return
        kept = self.kept.setdefault(call.op, {})
        form = call.form
        if form in kept or len(kept) >= FORMS:
            return
        kept[form] = Call(call.op, copied(call.arguments))


def is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and tensor.device.type == "cpu"
    )


def copied(arguments: dict[str, Any], clone: Callable[[Tensor], Tensor] | None = None) -> dict[str, Any]:
    """The same with tensors of their own; one that is given twice stays one."""
    clones: dict[int, Tensor] = {}

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in clones:
                clones[id(value)] = (clone or plain_copy)(value)
            return clones[id(value)]
        if isinstance(value, list | tuple):
            return [of(item) for item in value]
        return value if value is None or isinstance(value, PLAIN) else None

    return {name: of(value) for name, value in arguments.items()}


def plain_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def all_operations() -> list[str]:
    """Those of torch's own with a kernel for a CPU, or made of others."""
    keys = (
        "CPU",
        "CompositeExplicitAutograd",
        "CompositeImplicitAutograd",
        "CompositeExplicitAutogradNonFunctional",
    )
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith(("aten::", "torch_nn::"))]
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    with_kernel = [name for name in names if any(has_kernel(name, key) for key in keys)]
    return sorted(name for name in with_kernel if resolve_op(name) is not None)
