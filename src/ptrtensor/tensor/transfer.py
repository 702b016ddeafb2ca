"""The verbs of ownership: send, get, move (D4)."""

import sys
from typing import Final

from torch import Tensor

from ptrtensor._torch.state import has_dual_level
from ptrtensor._torch.subclass import on_gradient, raw_grad, set_raw_grad, use_count
from ptrtensor.errors import SpentPointerError, UnsupportedOpError
from ptrtensor.tensor.autograd import apply_get, apply_move, apply_send
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.carrying import carried, pointer_to, value_of
from ptrtensor.tensor.signature import check_usable
from ptrtensor.tensor.view import View
from ptrtensor.tensor.worker import Worker, call_sites
from ptrtensor.wire.messages import Hide

OWN_REFERENCES: Final = 3
"""Who holds a pointer's reference while `spend` looks at it: the pointer, a local name, the count itself."""


def send_tensor(tensor: Tensor, worker: Worker, wrap: Wrap) -> Pointer:
    """Copy a local tensor to a worker; a leaf gives a leaf with its gradient, anything else is differentiable."""
    if isinstance(tensor, Pointer):
        raise UnsupportedOpError(
            f"this is a pointer to worker {tensor._worker.id} already: use move() to take it to {worker.id}"
        )
    if has_dual_level():
        there = tensor.to(worker.device)  # torch's own way carries tangents
        assert isinstance(there, Pointer)
        return there
    if not tensor.is_leaf:
        return apply_send(tensor, worker, wrap)
    pointer = pointer_to(tensor, worker, wrap)
    pointer.requires_grad_(tensor.requires_grad)
    if tensor.grad is not None:
        pointer.grad = send_tensor(tensor.grad, worker, wrap)
    return pointer


def get_pointer(pointer: Pointer, wrap: Wrap) -> Tensor:
    """Fetch the value and take it away from the worker; a leaf gives a leaf with its gradient."""
    check_usable(pointer)
    if has_dual_level() or not pointer.is_leaf:
        tensor = pointer.cpu() if has_dual_level() else apply_get(pointer, wrap)
        spend(pointer, "get()")
        return tensor
    tensor = value_of(pointer)
    tensor.requires_grad_(pointer.requires_grad)
    grad = raw_grad(pointer)
    if isinstance(grad, Pointer):
        tensor.grad = get_pointer(grad, wrap)
        set_raw_grad(pointer, None)
    spend(pointer, "get()")
    return tensor


def move_pointer(pointer: Pointer, worker: Worker, wrap: Wrap) -> Pointer:
    """Take the value from its worker to another one; a leaf gives a leaf with its gradient."""
    check_usable(pointer)
    if pointer._worker is worker:
        return pointer
    if has_dual_level() or not pointer.is_leaf:
        moved = pointer.to(worker.device) if has_dual_level() else apply_move(pointer, worker, wrap)
        assert isinstance(moved, Pointer)
        spend(pointer, "move()")
        return moved
    moved = carried(pointer, worker, wrap)
    moved.requires_grad_(pointer.requires_grad)
    grad = raw_grad(pointer)
    if isinstance(grad, Pointer):
        moved.grad = move_pointer(grad, worker, wrap)
        set_raw_grad(pointer, None)
    spend(pointer, "move()")
    return moved


def spend(pointer: Pointer, verb: str) -> None:
    """The pointer stands for nothing any more; what a recorded graph needs stays at the worker, unlisted."""
    worker, reference = pointer._worker, pointer._reference
    site = call_sites.current()
    with worker.spending:
        check_usable(pointer)  # of several threads that fetched it one takes it away
        reference.spent = (
            f"the value of this pointer was taken away from worker {worker.id} by {verb} at {site}\n"
            f"  use what {verb} returned; to keep the pointer, fetch a copy with .cpu() instead"
        )
    if pointer.is_leaf and pointer.requires_grad:
        reason = reference.spent

        def refuse(grad: Tensor) -> None:
            raise SpentPointerError(f"a gradient arrived for a leaf that is gone: {reason}")

        on_gradient(pointer, refuse)
    name = reference.known_name if isinstance(reference, View) else reference.name
    if name is None:
        return  # a view: its base goes on
    if use_count(pointer) > 1 or sys.getrefcount(reference) > OWN_REFERENCES:
        worker.client.send(Hide(name))
    else:
        worker.client.drop(name)
