"""The verbs as functions, for tensors and for modules: what a type checker follows."""

from typing import TypeGuard, TypeVar, overload

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ptrtensor.errors import PtrTensorError, UnsupportedOpError
from ptrtensor.tensor.arguments import shown
from ptrtensor.tensor.modules import convert
from ptrtensor.tensor.pointer import PointerTensor, wrap
from ptrtensor.tensor.transfer import send_tensor
from ptrtensor.tensor.worker import Worker, check_worker, devices

M = TypeVar("M", bound=nn.Module)


@overload
def send(value: Tensor, worker: Worker) -> PointerTensor: ...
@overload
def send(value: M, worker: Worker) -> M: ...
def send(value: Tensor | nn.Module, worker: Worker) -> PointerTensor | nn.Module:
    """Copy a tensor to a worker and return a pointer to it; or put a module's parameters and buffers there, in place.

    A leaf gives a leaf with its ``.grad`` and ``requires_grad``; anything else is differentiable, its gradients come
    back to this process. The local tensor stays as it is.

    :raises UnsupportedOpError: it is a pointer already, or of a layout or dtype that cannot be sent.
    :raises PtrTensorError: it is no tensor and no module, or that is no worker.
    """
    check_worker(worker, "send()")
    if isinstance(value, nn.Module):
        convert(value, lambda tensor: send(tensor, worker), lambda tensor: is_at(tensor, worker))
        return value
    if not isinstance(value, Tensor):
        raise PtrTensorError(
            f"send() takes a tensor or a module, not {shown(value)}: make a tensor of data with torch.tensor(data)"
        )
    pointer = send_tensor(value, worker, wrap)
    assert isinstance(pointer, PointerTensor)
    return pointer


@overload
def get(value: Tensor) -> Tensor: ...
@overload
def get(value: M) -> M: ...
def get(value: Tensor | nn.Module) -> Tensor | nn.Module:
    """Fetch a pointer's value and take it away from the worker; or a module's, in place.

    :raises SpentPointerError: it was taken before.
    :raises UnsupportedOpError: the tensor is no pointer.
    :raises PtrTensorError: it is no tensor and no module.
    """
    if isinstance(value, nn.Module):
        convert(value, lambda tensor: tensor.cpu(), lambda tensor: not is_pointer(tensor))
        return value
    if not isinstance(value, Tensor):
        raise PtrTensorError(f"get() takes a pointer, or a module at a worker, one at a time, not {shown(value)}")
    if not is_pointer(value):
        raise UnsupportedOpError("get() takes a pointer, and this tensor is here already")
    return value.get()


@overload
def move(value: Tensor, worker: Worker) -> PointerTensor: ...
@overload
def move(value: M, worker: Worker) -> M: ...
def move(value: Tensor | nn.Module, worker: Worker) -> PointerTensor | nn.Module:
    """Take a pointer's value to another worker; or a module's, in place.

    :raises SpentPointerError: it was taken before.
    :raises UnsupportedOpError: the tensor is no pointer, or all of the module is here.
    :raises PtrTensorError: it is no tensor and no module, or that is no worker.
    """
    check_worker(worker, "move()")
    if isinstance(value, nn.Module):
        tensors = [*value.parameters(), *value.buffers()]
        if tensors and not any(is_pointer(tensor) or is_lazy(tensor) for tensor in tensors):
            raise UnsupportedOpError("move() takes a module at a worker; use send() for a module that is here")
        convert(value, lambda tensor: tensor.to(worker.device), lambda tensor: is_at(tensor, worker))
        return value
    if not isinstance(value, Tensor):
        raise PtrTensorError(f"move() takes a pointer, or a module at a worker, one at a time, not {shown(value)}")
    if not is_pointer(value):
        raise UnsupportedOpError("move() takes a pointer; use send() for a tensor that is here")
    return value.move(worker)


def is_pointer(value: object) -> TypeGuard[PointerTensor]:
    """Whether this is a pointer, for a type checker too."""
    return isinstance(value, PointerTensor)


def is_at(value: Tensor, worker: Worker) -> bool:
    return is_pointer(value) and value.location is worker


def synchronize() -> None:
    """Wait until every worker has run everything.

    :raises RemoteOpError: an operation failed that nobody has seen yet.
    """
    for worker in devices.all():
        worker.synchronize()
