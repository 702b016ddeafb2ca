"""Which arguments an operation takes [P5.5]: their forms, since torch takes any number for a dtype; and their
values, where its kernel does not look at them.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.operations import has_tag, op_arguments, op_name, writes
from ptrtensor.worker.checked_operations import CHECKS, PACKED
from ptrtensor.worker.checks import Check
from ptrtensor.worker.outputs import with_outputs_apart

ATTRIBUTES: Final[dict[str, type]] = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": torch.device,
}


def misfit(kind: str, value: object) -> bool:
    """Whether this must not be given where the schema has that kind."""
    plain = kind.removeprefix("Optional[").removesuffix("]") if kind.startswith("Optional[") else kind
    if plain in ATTRIBUTES:
        return not (value is None or isinstance(value, ATTRIBUTES[plain]))
    if kind == "Tensor":
        return value is None
    return kind == "List[Tensor]" and isinstance(value, list) and any(item is None for item in value)


def guarded(op: OpOverload[..., object], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel behind the checks that its operation needs; the same where it needs none."""
    name = op_name(op).removeprefix("aten::")
    base = name.partition(".")[0]
    arguments = op_arguments(op)
    results = [argument.name for argument in arguments if argument.kwarg_only and writes(argument)]
    names = [argument.name for argument in arguments]
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    checks: Sequence[Check] = CHECKS.get(name, CHECKS.get(base, ()))
    if results and (checks or not has_tag(op, "pointwise")):  # of those torch itself sees to it, but not for our checks
        kernel = with_outputs_apart(kernel, results)
    kernel = behind(checks, kernel, names, defaults) if checks else kernel
    packed = PACKED.get(base, ())
    return packing(kernel, names, packed) if packed else kernel


def behind(
    checks: Sequence[Check], kernel: Callable[..., Any], names: Sequence[str], defaults: dict[str, Any]
) -> Callable[..., Any]:
    """The same kernel, for arguments that hold these checks."""

    def checking(*args: Any, **kwargs: Any) -> Any:
        given = defaults | dict(zip(names, args, strict=False)) | kwargs
        for check in checks:
            check(given)
        return kernel(*args, **kwargs)

    return checking


def packing(kernel: Callable[..., Any], names: Sequence[str], packed: Collection[str]) -> Callable[..., Any]:
    """The same kernel, which is given contiguous copies of these arguments where they are not contiguous."""
    places = frozenset(place for place, name in enumerate(names) if name in packed)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = [pack(value) if place in places else value for place, value in enumerate(args)]
        return kernel(*given, **{name: pack(value) if name in packed else value for name, value in kwargs.items()})

    return call


def pack(value: object) -> object:
    return value.contiguous() if isinstance(value, Tensor) else value
