"""How a value comes from one place to another: from a worker to this process, back, and from worker to worker."""

import torch
from torch import Tensor

from ptrtensor._torch.memory import is_dense
from ptrtensor.client.reference import Reference
from ptrtensor.errors import PermissionDeniedError
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.signature import check_usable
from ptrtensor.tensor.view import View
from ptrtensor.tensor.worker import Worker
from ptrtensor.wire import messages
from ptrtensor.wire.metadata import TensorMeta, contiguous_stride, intern


def value_of(pointer: Pointer, *, moves: bool = False) -> Tensor:
    """A local copy of the value; `moves`: for another worker, and no private one."""
    check_usable(pointer)
    reference = pointer._reference
    # An alias for this once: one that could not be made, since an operation had failed, would stay so after `recover`.
    value = pointer._worker.fetch(reference.alias() if isinstance(reference, View) else reference, moves=moves)
    return laid_out(value, pointer._meta)


def laid_out(value: Tensor, meta: TensorMeta) -> Tensor:
    """As it lies at the worker, also if it is private and came in order [P11.3]."""
    if value.stride() == meta.stride or value.shape != meta.shape:
        return value
    laid_out = torch.empty_strided(meta.shape, meta.stride, dtype=value.dtype, device="meta")
    return torch.empty_like(laid_out, device="cpu").copy_(value) if is_dense(laid_out) else value


def pointer_to(value: Tensor, worker: Worker, wrap: Wrap) -> Pointer:
    """A pointer to a copy of a local value."""
    reference, meta = worker.put(value)
    return wrap(worker, reference, meta, 0)


def carried(pointer: Pointer, worker: Worker, wrap: Wrap) -> Pointer:
    """A pointer to a copy of the value at another worker.

    :raises PermissionDeniedError: the value is private, and its owner has not allowed it to move there.
    """
    try:
        return pointer_to(value_of(pointer, moves=True), worker, wrap)
    except PermissionDeniedError:
        pass
    try:
        letter, _ = worker.client.request(messages.Invite, messages.Invitation)
    except PermissionDeniedError as reason:  # it is no owner's: what may be there, its client may read
        try:
            return pointer_to(value_of(pointer), worker, wrap)
        except PermissionDeniedError as error:
            error.add_note(f"Nor can it move to worker {worker.id}: {reason}")
            raise error from None
    return carried_unread(pointer, worker, letter.letter, wrap)


def carried_unread(pointer: Pointer, worker: Worker, letter: bytes, wrap: Wrap) -> Pointer:
    """The same for a private value: sealed by the one worker, and opened by the other [P13]."""
    reference = pointer._reference
    source = reference.alias() if isinstance(reference, View) else reference
    meta = intern(pointer._meta.shape, contiguous_stride(pointer._meta.shape), pointer._meta.dtype)
    _, box = pointer._worker.client.request(
        lambda number: messages.Seal(number, source.name, letter, meta.nbytes), messages.Sealed
    )
    target = Reference(worker.client, worker.client.reserve())
    worker.client.request(lambda number: messages.Unseal(number, target.name), messages.Done, payload=box)
    return wrap(worker, target, meta, 0)
