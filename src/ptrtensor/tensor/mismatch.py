"""The errors of mixing: they name the operation, each argument's place and the mend (D3)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ptrtensor.errors import WorkerMismatchError
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.operation import Operation
from ptrtensor.tensor.worker import Worker


def places(operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """`self at bob, other here (cpu)`: where each tensor among the arguments lives."""
    shown = []
    for name, tensor in named_tensors(operation, args, kwargs):
        if isinstance(tensor, Pointer):
            gone = " (closed or lost)" if is_gone(tensor) else ""
            shown.append(f"{name} at worker {tensor._worker.id}{gone}")
        else:
            shown.append(f"{name} here ({tensor.device}, shape {tuple(tensor.shape)})")
    return ", ".join(dict.fromkeys(shown))


def named_tensors(
    operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]
) -> Iterator[tuple[str, Tensor]]:
    for name, value in [*zip(operation.argument_names, args, strict=False), *kwargs.items()]:
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Tensor):
                yield name, item


def is_gone(tensor: Tensor) -> bool:
    """Whether what a pointer stands for went with its worker."""
    return isinstance(tensor, Pointer) and tensor._worker.client.lost is not None


def two_workers(operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> WorkerMismatchError:
    mend = (
        "move() one of them, or fetch both; an optimizer's state stays where it was made, so make the optimizer "
        "after moving the model or move its state too"
    )
    if any(is_gone(tensor) for _, tensor in named_tensors(operation, args, kwargs)):
        # Its successor may have the same id, so that nothing else tells them apart.
        mend = "What a worker held that is closed or lost is gone with it: send that data anew to the other one"
    return WorkerMismatchError(
        f"{operation.op} got tensors of different workers: {places(operation, args, kwargs)}. {mend}"
    )


def local_tensor(
    operation: Operation, args: tuple[object, ...], kwargs: dict[str, object], value: Tensor
) -> WorkerMismatchError:
    return WorkerMismatchError(
        f"{operation.op} got a pointer and a local tensor: {places(operation, args, kwargs)}. "
        f"send() the local tensor of shape {tuple(value.shape)} to the worker first, or fetch the pointer with "
        ".cpu(); if it is an optimizer's state, make the optimizer after sending the model"
    )


def foreign_device(operation: Operation, device: torch.device, worker: Worker) -> WorkerMismatchError:
    return WorkerMismatchError(
        f"{operation.op} on tensors of worker {worker.id} ({worker.device}) was asked for a result on {device}: "
        "do it at the worker, then move() or fetch the result"
    )
