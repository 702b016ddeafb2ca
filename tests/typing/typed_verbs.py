"""What a type checker knows of send, get, move and is_pointer. Checked by mypy, never run.

A `type: ignore` here is an assertion too: without the error that it names, mypy reports it as unused.
"""

from typing import assert_type

import torch
from torch import Tensor, nn

import ptrtensor as pt


def tensors(tensor: Tensor, parameter: nn.Parameter, pointer: pt.PointerTensor, bob: pt.Worker) -> None:
    assert_type(pt.send(tensor, bob), pt.PointerTensor)
    assert_type(pt.send(parameter, bob), pt.PointerTensor)
    assert_type(pt.get(pointer), Tensor)
    assert_type(pt.get(tensor), Tensor)
    assert_type(pt.move(pointer, bob), pt.PointerTensor)
    assert_type(pt.move(tensor, bob), pt.PointerTensor)
    assert_type(pt.get(pt.send(tensor, bob) + 1), Tensor)
    assert_type(pt.move(pointer * 2, bob), pt.PointerTensor)


class Net(nn.Module):
    """Somebody's module, with a method of its own."""

    def trained(self) -> int:
        return 1


def modules(net: Net, linear: nn.Linear, bob: pt.Worker) -> None:
    assert_type(pt.send(net, bob), Net)
    assert_type(pt.get(net), Net)
    assert_type(pt.move(net, bob), Net)
    assert_type(pt.send(net, bob).trained(), int)
    assert_type(pt.send(linear, bob), nn.Linear)
    assert_type(pt.send(nn.Sequential(linear), bob), nn.Sequential)
    assert_type(pt.send(linear, bob).weight, Tensor)


def guard(value: object, tensor: Tensor) -> None:
    assert_type(pt.is_pointer(value), bool)
    if pt.is_pointer(value):
        assert_type(value, pt.PointerTensor)
        assert_type(value.get(), Tensor)
    if pt.is_pointer(tensor):
        assert_type(tensor.location, pt.Worker)
    found = [item for item in (tensor, tensor + 1) if pt.is_pointer(item)]
    assert_type(found, list[pt.PointerTensor])


def pointers(pointer: pt.PointerTensor, bob: pt.Worker) -> None:
    assert_type(pointer.get(), Tensor)
    assert_type(pointer.move(bob), pt.PointerTensor)
    assert_type(pointer.copy(), pt.PointerTensor)
    assert_type(pointer.location, pt.Worker)
    assert_type(pointer.id, int)
    assert_type(pointer.id_at_location, int)
    assert_type(pointer.tags, set[str])
    assert_type(pointer.description, str)
    assert_type(pointer.tag("a", "b"), pt.PointerTensor)
    assert_type(pointer.tag("a").describe("of a").tags, set[str])
    assert_type(pointer.owner.id, str)
    assert_type(pointer.grad, Tensor | None)
    assert_type(pointer.data, Tensor)
    # Torch's own annotations say what an operation returns: that it is a pointer again, `is_pointer` tells.
    assert_type(pointer + 1, Tensor)
    assert_type(pointer.detach(), Tensor)
    assert_type(torch.zeros(2, device=bob.device), Tensor)
    tensor: Tensor = pointer
    del tensor


def mistakes(tensor: Tensor, pointer: pt.PointerTensor, bob: pt.Worker) -> None:
    pt.send(1, bob)  # type: ignore[call-overload]
    pt.send(tensor)  # type: ignore[call-overload]
    pt.send(tensor, "bob")  # type: ignore[call-overload]
    pt.send(tensor, pt.local_worker)  # type: ignore[call-overload]
    pt.get([pointer])  # type: ignore[call-overload]
    pt.move(pointer)  # type: ignore[call-overload]
    (pointer + 1).get()  # type: ignore[attr-defined]
    _ = tensor.location  # type: ignore[attr-defined]
    pointer.tag(1)  # type: ignore[arg-type]
    pointer.move("alice")  # type: ignore[arg-type]
    pointer.location = bob  # type: ignore[misc]
