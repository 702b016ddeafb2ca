"""Operations and their schemas."""

from collections.abc import Callable, Collection, Iterator
from typing import Literal

import torch
import torch.nn.modules.linear_cross_entropy  # it registers operations of torch's own when it is imported
from torch._ops import OpOverload


def native_kernel(op: OpOverload[..., object]) -> Callable[..., object]:
    """The dispatcher's entry for an operation, without the Python layer above it."""
    return op._op


def resolve_op(name: str) -> OpOverload[..., object] | None:
    """`aten::add.Tensor` -> torch.ops.aten.add.Tensor; None where torch has no such operation."""
    namespace, _, rest = name.partition("::")
    packet_name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), packet_name, None)
    op = getattr(packet, overload or "default", None)
    return op if isinstance(op, OpOverload) else None


def op_name(op: OpOverload[..., object]) -> str:
    """torch.ops.aten.add.Tensor -> `aten::add.Tensor`."""
    schema = op._schema
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name


def packet_name(op: OpOverload[..., object]) -> str:
    """torch.ops.aten.add.Tensor -> `aten::add`."""
    return op._schema.name


def op_arguments(op: OpOverload[..., object]) -> list[torch.Argument]:
    return list(op._schema.arguments)


def op_returns(op: OpOverload[..., object]) -> list[torch.Argument]:
    return list(op._schema.returns)


def type_name(argument: torch.Argument) -> str:
    """The schema's type: `Tensor`, `Optional[Tensor]`, `List[Tensor]`, `int`, ..."""
    return str(argument.type)


def writes(argument: torch.Argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def aliases(argument: torch.Argument) -> frozenset[str]:
    return frozenset() if argument.alias_info is None else frozenset(argument.alias_info.before_set)


def decomposes(op: OpOverload[..., object]) -> bool:
    """Whether torch only has it in terms of others; under `inference_mode` such operations arrive whole."""
    return bool(op._can_decompose()) and not torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CPU")


def decompose(op: OpOverload[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    return op.decompose(*args, **kwargs)


def has_tag(op: OpOverload[..., object], tag: Literal["pointwise", "nondeterministic_seeded", "inplace_view"]) -> bool:
    return getattr(torch.Tag, tag) in op.tags


def kept_whole() -> Iterator[OpOverload[..., object]]:
    """Operations that torch decomposes on a device without a kernel for them, and has a kernel for on a CPU."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key
    for name in set(registered("CompositeImplicitAutograd")) & set(registered("CPU")):
        op = resolve_op(name)
        if op is not None and op.namespace == "aten":
            yield op


def schemas(namespaces: Collection[str]) -> Iterator[torch.FunctionSchema]:
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.partition("::")[0] in namespaces:
            yield schema


def factory_ops() -> Iterator[OpOverload[..., object]]:
    """Every aten operation that makes a tensor on a device out of no tensor."""
    for schema in schemas({"aten"}):
        names = [argument.name for argument in schema.arguments]
        if "device" not in names or any("Tensor" in type_name(argument) for argument in schema.arguments):
            continue
        returned = [type_name(result) for result in schema.returns]
        op = resolve_op(f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name)
        if op is not None and returned == ["Tensor"]:
            yield op


def is_dispatched(op: OpOverload[..., object]) -> bool:
    """Whether it is one of tensors. The others are TorchScript's own: texts, lists, files, flags of the process."""
    return bool(torch._C._dispatch_has_kernel(op.name()))


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
