"""The errors of mixing: they name the operation, each argument's place and the mend (D3)."""

import torch
from torch import Tensor

from ptrtensor.errors import WorkerMismatchError
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.operation import Operation
from ptrtensor.tensor.worker import Worker


def places(operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """`self at bob, other here (cpu)`: where each tensor among the arguments lives."""
    given = list(zip(operation.argument_names, args, strict=False)) + list(kwargs.items())
    shown = []
    for name, value in given:
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Pointer):
                shown.append(f"{name} at worker {item._worker.id}")
            elif isinstance(item, Tensor):
                shown.append(f"{name} here ({item.device}, shape {tuple(item.shape)})")
    return ", ".join(dict.fromkeys(shown))


def two_workers(operation: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> WorkerMismatchError:
    return WorkerMismatchError(
        f"{operation.op} got tensors of different workers: {places(operation, args, kwargs)}. "
        "move() one of them, or fetch both; an optimizer's state stays where it was made, so make the optimizer "
        "after moving the model or move its state too"
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
