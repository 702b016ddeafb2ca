"""Crossings that autograd records: gradients come back the way the values went, so a graph may span workers (D4).

Gradients that are where they do not belong are refused here, because torch's engine skips its own check for
subclasses.
"""

from typing import Any

import torch
from torch import Tensor

from ptrtensor._torch.subclass import recorded
from ptrtensor.errors import WorkerMismatchError
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.carrying import carried, pointer_to, value_of
from ptrtensor.tensor.worker import Worker


class Send(torch.autograd.Function):
    """A local tensor to a worker; its gradient comes back to this process."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, worker: Worker, wrap: Wrap) -> Tensor:
        ctx.worker, ctx.wrap = worker, wrap
        return pointer_to(tensor, worker, wrap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return apply_get(at(grad, ctx.worker), ctx.wrap), None, None


class Get(torch.autograd.Function):
    """A pointer's value to this process; its gradient goes to the worker."""

    @staticmethod
    def forward(ctx: Any, pointer: Pointer, wrap: Wrap) -> Tensor:
        ctx.worker, ctx.wrap = pointer._worker, wrap
        return value_of(pointer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if isinstance(grad, Pointer):
            raise WorkerMismatchError(
                f"the gradient of a tensor fetched from worker {ctx.worker.id} is a pointer to worker "
                f"{grad._worker.id}: a gradient belongs where its tensor is, here"
            )
        return apply_send(grad, ctx.worker, ctx.wrap), None


class Move(torch.autograd.Function):
    """A tensor from one worker to another; its gradient goes back."""

    @staticmethod
    def forward(ctx: Any, pointer: Pointer, worker: Worker, wrap: Wrap) -> Tensor:
        ctx.origin, ctx.worker, ctx.wrap = pointer._worker, worker, wrap
        return carried(pointer, worker, wrap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return apply_move(at(grad, ctx.worker), ctx.origin, ctx.wrap), None, None


def apply_send(tensor: Tensor, worker: Worker, wrap: Wrap) -> Pointer:
    pointer = recorded(Send, tensor, worker, wrap)
    assert isinstance(pointer, Pointer)
    return pointer


def apply_get(pointer: Pointer, wrap: Wrap) -> Tensor:
    return recorded(Get, pointer, wrap)


def apply_move(pointer: Pointer, worker: Worker, wrap: Wrap) -> Pointer:
    moved = recorded(Move, pointer, worker, wrap)
    assert isinstance(moved, Pointer)
    return moved


def at(grad: Tensor, worker: Worker) -> Pointer:
    """The gradient, if it is at that worker."""
    if isinstance(grad, Pointer) and grad._worker is worker:
        return grad
    where = f"at worker {grad._worker.id}" if isinstance(grad, Pointer) else f"here ({grad.device})"
    raise WorkerMismatchError(
        f"the gradient of a tensor of worker {worker.id} must be there too, this one is {where}: "
        "send() or move() it first"
    )
