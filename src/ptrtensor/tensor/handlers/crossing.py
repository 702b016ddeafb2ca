"""Operations that cross: their arguments or results live in different places."""

import sys

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.names import DTYPES
from ptrtensor._torch.state import isolated
from ptrtensor.errors import WorkerMismatchError
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.carrying import carried, pointer_to, value_of
from ptrtensor.tensor.dispatch import rename, run
from ptrtensor.tensor.marks import settle
from ptrtensor.tensor.operation import Args, Kwargs, operations
from ptrtensor.tensor.worker import devices

aten = torch.ops.aten


def to_copy(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """`.to()`, `.cpu()`: within the worker the general way, else through this process."""
    pointer, device = args[0], kwargs.get("device")
    assert isinstance(pointer, Pointer)
    if not isinstance(device, torch.device) or device == pointer._worker.device:
        return run(operations[op], args, kwargs, wrap)
    rest = {name: value for name, value in kwargs.items() if name != "device"}
    if device.type != pointer.device.type:
        value = value_of(pointer)
        if device == value.device and asks_nothing_else(value, rest):
            return value
        return isolated(op, value, **rest, device=device)
    there = devices.worker(device)
    return run(operations[op], (carried(pointer, there, wrap),), rest, wrap)


def asks_nothing_else(value: Tensor, options: Kwargs) -> bool:
    """Whether `_to_copy` with these options would copy this tensor as it is.

    One whose memory cannot be resized is copied all the same.
    """
    return (
        value.untyped_storage().resizable()
        and options.get("dtype") in (None, value.dtype)
        and options.get("layout") in (None, torch.strided)
        and options.get("memory_format") in (None, torch.preserve_format)
        and not options.get("pin_memory")
    )


def copy_(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """Copying crosses, as on every device of torch (D3)."""
    target, source, *_ = args
    assert isinstance(target, Tensor) and isinstance(source, Tensor)
    if isinstance(target, Pointer):
        settle(target)
        if not isinstance(source, Pointer):
            if source.dim():
                source = pointer_to(source, target._worker, wrap)
                if source._meta is target._meta and is_alone(target):
                    target._reference = source._reference
                    return target
        elif source._worker is not target._worker:
            source = carried(source, target._worker, wrap)
        return run(operations[op], (target, source), {}, wrap)
    assert isinstance(source, Pointer)
    isolated(target.copy_, value_of(source))
    return target


def is_alone(pointer: Pointer) -> bool:
    """Whether nothing else stands for its memory: a value that fills it can then take its place instead.

    `.to(bob.device)` is, for torch, to make an empty tensor there and to copy into it.
    """
    reference = pointer._reference
    holders = sys.getrefcount(reference)  # the pointer, this function, and the call itself
    return reference.is_settled and reference.spent is None and holders == 3


def copy_from(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """What torch's own `copy_` calls for this device."""
    source, target, *_ = args
    copy_(aten.copy_.default, (target, source), {}, wrap)
    return target


def local_scalar_dense(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """`item()`, `float()`, `bool()`: one round trip and no command."""
    (pointer,) = args
    assert isinstance(pointer, Pointer)
    return isolated(value_of(pointer).item)


def made_elsewhere(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """`zeros_like(p, device="cpu")`: takes the metadata of a pointer and makes a tensor in another place."""
    pointer, device = args[0], kwargs.get("device")
    assert isinstance(pointer, Pointer)
    if not isinstance(device, torch.device) or device == pointer._worker.device:
        return run(operations[op], args, kwargs, wrap)
    meta, dtype = pointer._meta, DTYPES[pointer._meta.dtype]
    stand_in = isolated(torch.empty_strided, meta.shape, meta.stride, dtype=dtype, device="meta")
    return isolated(op, stand_in, *args[1:], **kwargs)


def spaced_elsewhere(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """`linspace(start, end, 5)` with pointers for numbers makes a local tensor, as it does for numbers on CUDA."""
    device = kwargs.get("device")
    worker = next(value._worker for value in args if isinstance(value, Pointer))
    if device == worker.device:
        return run(operations[op], args, kwargs, wrap)
    given = [value_of(value) if isinstance(value, Pointer) else value for value in args]
    return isolated(op, *given, **kwargs)


def pack_padded_sequence(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """The batch sizes are a local tensor on every device of torch: recurrent layers loop over them here."""
    packed = run(operations[op], args, kwargs, wrap)
    assert isinstance(packed, tuple)
    data, batch_sizes = packed
    return data, value_of(batch_sizes)


def set_source(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """`set_` with a local tensor would leave a pointer without a worker."""
    target, source = args[:2]
    if not (isinstance(target, Pointer) and isinstance(source, Pointer)):
        raise WorkerMismatchError("set_() got a pointer and a local tensor: send() the local one first")
    source._reference.is_settled = False
    rename(target, wrap)  # its views and detached aliases stay with the memory that it had
    return run(operations[op], args, kwargs, wrap)


operations[aten._to_copy.default].handler = to_copy
operations[aten.copy_.default].handler = copy_
operations[aten._copy_from.default].handler = copy_from
operations[aten._local_scalar_dense.default].handler = local_scalar_dense
operations[aten.set_.source_Tensor].handler = set_source
operations[aten._pack_padded_sequence.default].handler = pack_padded_sequence
for _packet in (aten.linspace, aten.logspace):
    for _overload in ("Tensor_Tensor", "Tensor_Scalar", "Scalar_Tensor"):
        operations[getattr(_packet, _overload)].handler = spaced_elsewhere
for _name in (
    "empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty new_empty_strided "
    "new_zeros new_ones new_full"
).split():
    _packet = getattr(aten, _name)
    for _overload in _packet.overloads():
        if not _overload.endswith("out"):
            operations[getattr(_packet, _overload)].handler = made_elsewhere
