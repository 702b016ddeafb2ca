"""`torch.inference_mode()`: what is made there is an inference tensor, and a view of an ordinary tensor is not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ptrtensor as pt

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "new": lambda x: x * 2,
    "transpose": lambda x: x.t(),
    "detach": lambda x: x.detach(),
    "select": lambda x: x[1],
    "view": lambda x: x.view(6),
    "expand": lambda x: x.expand(2, 2, 3),
    "split": lambda x: x.split(1)[1],
    "view of new": lambda x: (x * 2).t()[1],
    "in place": lambda x: x.add_(1),
    "in place through a view": lambda x: x[0].add_(1),
    "in place in new": lambda x: (x * 2).t().add_(1),
    "linear": lambda x: torch.nn.functional.linear(x, x),
    "reshape of a transpose": lambda x: x.t().reshape(6),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_as_local_tensors(virtual_worker: pt.VirtualWorker, act: str, requires_grad: bool) -> None:
    local = torch.arange(6.0).reshape(2, 3).clone().requires_grad_(requires_grad)  # not itself a view
    pointer = pt.send(local, virtual_worker)
    with torch.inference_mode():
        expected, got = ACTS[act](local), ACTS[act](pointer)
        assert torch.equal(got.cpu(), expected)
    assert got.is_inference() == expected.is_inference()
    assert got.requires_grad == expected.requires_grad
    assert torch.equal(pointer.detach().cpu(), local)
    if not expected.is_inference():
        assert got._version == expected._version


def test_ordinary_tensors_go_on_after_it(virtual_worker: pt.VirtualWorker) -> None:
    pointer = pt.send(torch.ones(2, 3), virtual_worker).requires_grad_()
    with torch.inference_mode():
        view = pointer.t()
    (pointer * 2).sum().backward()
    assert pointer.grad is not None
    assert torch.equal(pointer.grad.cpu(), torch.full((2, 3), 2.0))
    assert torch.equal((view + 1).detach().cpu(), torch.full((3, 2), 2.0))
