"""Reshaping in place, which autograd cannot follow through views on this kind of device.

Of a view it keeps what was called, and not the strides that came of it. When the base or the view was written to, it
calls that again on what the base is by then; after a reshaping in place that is something else, and the gradients
would be wrong without a word. So a tensor with views is reshaped in place, or its gradients are recorded; never both.
"""

import torch

from ptrtensor._torch.subclass import is_exchangeable, use_count
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.signature import Call


def root_of(pointer: Pointer) -> Pointer:
    """The tensor that this one is a view of, or itself."""
    base = pointer._base
    return base if isinstance(base, Pointer) else pointer


def note_reshaping(pointer: Pointer, what: str) -> None:
    """Call before a pointer is reshaped in place.

    :raises UnsupportedOpError: it requires grad, and is a view or has views.
    """
    if not (pointer._viewed or pointer._is_view()):
        return
    if pointer.requires_grad:
        raise UnsupportedOpError(
            f"{what} changes the shape of a tensor in place that requires grad and is a view or has views: its "
            "gradients would be wrong. Take the result of the operation that is not in place"
        )
    root_of(pointer)._reshaped = True
    pointer._worker.has_reshaped_views = True


def note_exchange(pointer: Pointer) -> None:
    """The same before `.data` gets another shape: views that are no more do no harm there."""
    held = use_count(pointer) > 1 and not (pointer.is_leaf and is_exchangeable(pointer))
    if pointer._is_view() or held:
        note_reshaping(pointer, "assigning to .data")


def check_recordable(pointer: Pointer) -> None:
    """Call before gradients are recorded for a tensor that exists already.

    :raises UnsupportedOpError: it or a view of it was reshaped in place.
    """
    if root_of(pointer)._reshaped:
        raise UnsupportedOpError(
            "a tensor is to require grad that was reshaped in place while views of it were about: the views' gradients "
            "would be wrong. Use a copy (.clone()), or the result of the operation that is not in place"
        )


def check_writes(call: Call) -> None:
    """Writing a value that requires grad makes the written tensor require grad."""
    if torch.is_grad_enabled() and any(pointer is not None and pointer.requires_grad for pointer in call.pointers):
        for place in call.written_places():
            pointer = call.pointers[place]
            if pointer is not None:
                check_recordable(pointer)
