"""Tensors that have views are reshaped in place, or their gradients are recorded: never a wrong gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ptrtensor as pt

Place = Callable[[Tensor], Tensor]


def base_then_write_to_view(at: Place) -> Tensor:
    w = at(torch.ones(3)).requires_grad_()
    x = at(torch.zeros(3, 3))
    v = x[0]
    x.t_()
    v.copy_(w * 1)
    (x * at(torch.arange(9.0).reshape(3, 3))).sum().backward()
    return gradient(w)


def view_itself(at: Place) -> Tensor:
    w = at(torch.ones(3, 3)).requires_grad_()
    x = at(torch.ones(4, 3))
    v = x[:3]
    v.t_()
    v.mul_(w)
    (x[:3] * at(torch.arange(9.0).reshape(3, 3))).sum().backward()
    return gradient(w)


def read_through_an_old_view(at: Place) -> Tensor:
    w = at(torch.ones(3, 3)).requires_grad_()
    x = at(torch.ones(3, 3))
    v = x[1]
    x.t_()
    x.mul_(w)
    (v * at(torch.arange(3.0))).sum().backward()
    return gradient(w)


def resized(at: Place) -> Tensor:
    w = at(torch.ones(2)).requires_grad_()
    x = at(torch.ones(6))
    v = x[4:]
    x.resize_(3, 2)
    v.mul_(w)
    (x * at(torch.arange(6.0).reshape(3, 2) + 1)).sum().backward()
    return gradient(w)


def twice(at: Place) -> Tensor:
    w = at(torch.ones(3)).requires_grad_()
    x = at(torch.ones(3, 1, 3))
    v = x[1, 0]
    x.squeeze_(1)
    x.transpose_(0, 1)
    v.mul_(w)
    (x * at(torch.arange(9.0).reshape(3, 3))).sum().backward()
    return gradient(w)


def through_data(at: Place) -> Tensor:
    w = at(torch.ones(3, 3)).requires_grad_()
    x = w * 1
    v = x[0]
    x.data = x.data.t()
    x.mul_(at(torch.arange(9.0).reshape(3, 3)))
    v.sum().backward()
    return gradient(w)


def required_later(at: Place) -> Tensor:
    x = at(torch.arange(9.0).reshape(3, 3).clone())
    v = x[0]
    x.t_()
    x.requires_grad_()
    (v * at(torch.arange(3.0))).sum().backward()
    return gradient(x)


def required_later_by_attribute(at: Place) -> Tensor:
    x = at(torch.arange(9.0).reshape(3, 3).clone())
    v = x[0]
    x.t_()
    x.requires_grad = True
    (v * at(torch.arange(3.0))).sum().backward()
    return gradient(x)


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


PROGRAMS = [
    base_then_write_to_view,
    view_itself,
    read_through_an_old_view,
    resized,
    twice,
    through_data,
    required_later,
    required_later_by_attribute,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_refused_or_right(program: Callable[[Place], Tensor], worker: pt.Worker) -> None:
    expected = program(torch.clone)
    try:
        got = program(lambda tensor: pt.send(tensor, worker))
    except pt.UnsupportedOpError as error:
        assert "gradients would be wrong" in str(error)
    else:
        assert torch.equal(got.cpu(), expected)


def test_without_gradients_it_is_as_local(worker: pt.Worker) -> None:
    def program(at: Place) -> list[Tensor]:
        x = at(torch.arange(6.0).reshape(2, 3).clone())
        v = x[0]
        x.t_()
        v.mul_(2)
        v.unsqueeze_(0)
        x.add_(1)
        return [x, v, x.t()[0]]

    for got, expected in zip(program(lambda tensor: pt.send(tensor, worker)), program(torch.clone), strict=True):
        assert got.shape == expected.shape and got.stride() == expected.stride()
        assert torch.equal(got.cpu(), expected)


def test_parameters_change_their_shape_between_steps(worker: pt.Worker) -> None:
    """Views of a parameter that are no more, such as a linear layer makes, do not hinder it."""
    layer = pt.send(torch.nn.Linear(3, 2), worker)
    for features in (3, 2):
        layer(torch.ones(4, features, device=worker.device)).sum().backward()
        layer.weight.data = layer.weight.data[:, :2]
        layer.weight.grad = None
    assert layer.weight.shape == (2, 2)


def test_an_out_that_is_asked_for_and_stays_as_it_was_is_not_taken_for_reshaped(worker: pt.Worker) -> None:
    base = torch.zeros(4, device=worker.device)
    out = base[1:3]
    torch.masked_select(
        torch.arange(3.0, device=worker.device), torch.tensor([True, False, True]).to(worker.device), out=out
    )
    assert base.tolist() == [0, 0, 2, 0]
    (base.requires_grad_() * 2).sum().backward()
    assert gradient(base).tolist() == [2, 2, 2, 2]
