"""Dtypes of several arguments: what comes of mixed ones, and what torch refuses, which is said at the line."""

import contextlib
from collections.abc import Callable
from functools import partial

import pytest
import torch
from comparing import check_program
from torch import Tensor, nn
from torch.nn import functional as F

import ptrtensor as pt
from ptrtensor.tensor.infer import inferences

Loss = Callable[..., Tensor]

LOSSES: dict[str, Loss] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth l1": F.smooth_l1_loss,
    "soft margin": F.soft_margin_loss,
    "kl div": F.kl_div,
    "poisson": F.poisson_nll_loss,
    "hinge embedding": F.hinge_embedding_loss,
    "huber": F.huber_loss,
    "binary cross-entropy": F.binary_cross_entropy,
    "cross-entropy": lambda one, other, **kwargs: F.cross_entropy(one, other.softmax(-1), **kwargs),
    "weighted": lambda one, other, **kwargs: F.cross_entropy(
        one, torch.arange(3, device=one.device), weight=other[0].detach(), **kwargs
    ),
    "margin ranking": lambda one, other, **kwargs: F.margin_ranking_loss(one, other, torch.ones_like(other), **kwargs),
    "gaussian": lambda one, other, **kwargs: F.gaussian_nll_loss(one, other, other.detach() + 1, **kwargs),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]


def loss_of(loss: Loss, one: Tensor, other: Tensor) -> Tensor:
    made = loss(one, other, reduction="sum")
    made.backward()
    return made


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_mixed_dtypes(name: str, virtual_worker: pt.VirtualWorker) -> None:
    """The same values and gradients, or torch's own error at the line."""
    for dtypes in ((one, other) for one in DTYPES[:3] for other in DTYPES if one is not other):
        one, other = (torch.rand(3, 4).mul(0.9).to(dtype) for dtype in dtypes)
        one.requires_grad_()
        other.requires_grad_(other.is_floating_point())
        program = partial(loss_of, LOSSES[name])
        here = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in (one, other)]
        try:
            program(*here)
        except (RuntimeError, NotImplementedError) as error:
            there = [pt.send(tensor.detach(), virtual_worker) for tensor in here]
            for pointer, tensor in zip(there, here, strict=True):
                pointer.requires_grad_(tensor.requires_grad)
            with pytest.raises(type(error)) as caught:
                program(*there)
            assert not isinstance(caught.value, pt.PtrTensorError) and str(caught.value) == str(error)
            continue
        check_program(virtual_worker, program, one, other)


def test_a_loss_of_doubles_that_a_model_of_floats_is_trained_with(worker: pt.Worker) -> None:
    gradients = []
    for device in ("cpu", worker.device):
        torch.manual_seed(0)
        model, data, target = nn.Linear(3, 1), torch.randn(4, 3), torch.randn(4, 1, dtype=torch.float64)
        nn.MSELoss()(model.to(device)(data.to(device)), target.to(device)).backward()
        assert model.weight.grad is not None
        gradients.append(model.weight.grad.cpu())
    assert torch.equal(*gradients)


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "mm": lambda x: x @ x.double().t(),
    "mv": lambda x: x @ x[0].double(),
    "dot": lambda x: x[0] @ x[0].double(),
    "bmm": lambda x: x[None] @ x.double().t()[None],
    "linear": lambda x: F.linear(x.double(), x, x[:, 0].contiguous()),
    "conv": lambda x: F.conv1d(x[None], x[:, :, None].double()),
    "gru": lambda x: nn.GRUCell(4, 4, device=x.device)(x.double()),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None].double(), x[None]),
    "and": lambda x: x & x,
    "softmax of integers": lambda x: x.long().softmax(0),
    "difference of booleans": lambda x: (x > 0) - (x > 0),
    "index": lambda x: x.gather(0, x),
    "embedding": lambda x: F.embedding(x, x),
    "index_put": lambda x: x.index_put((torch.tensor([0, 1], device=x.device),), x[:2].double()),
    "index_add_": lambda x: x.clone().index_add_(0, torch.tensor([0, 1], device=x.device), x[:2].double()),
    "scatter": lambda x: x.scatter(0, torch.zeros(1, 4, dtype=torch.long, device=x.device), x.double()),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, x.double()),
    "bernoulli of integers": lambda x: torch.bernoulli(x.long()),
    "multinomial of integers": lambda x: torch.multinomial(x.long(), 1),
    "target": lambda x: F.nll_loss(x, x[:, 0]),
    "cdist": lambda x: torch.cdist(x, x.double()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_its_own_error_at_the_line(name: str, virtual_worker: pt.VirtualWorker) -> None:
    call, value = REFUSED[name], torch.ones(3, 4)
    with pytest.raises((RuntimeError, NotImplementedError, IndexError)) as here:
        call(value)
    there = pt.send(value, virtual_worker)
    with pytest.raises(type(here.value)) as caught:
        call(there)
    assert not isinstance(caught.value, pt.PtrTensorError) and str(caught.value) == str(here.value)
    virtual_worker.synchronize()


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x[:0].softmax(0),
        lambda x: x[:, :0].softmax(0),
        lambda x: x.softmax(7),
    ],
    ids=["empty", "columns of nothing", "refused for another reason"],
)
def test_what_is_refused_does_not_hang_on_the_calls_before(
    before: Callable[[Tensor], object], virtual_worker: pt.VirtualWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inferences, "_by_device", {})  # none of its calls before
    value = torch.ones(3, 4, dtype=torch.long, device=virtual_worker.device)
    with contextlib.suppress(IndexError):
        before(value)
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        value.softmax(0)


def test_a_large_model_of_another_dtype_is_refused_at_the_line(virtual_worker: pt.VirtualWorker) -> None:
    model = nn.Linear(2048, 2048, device=virtual_worker.device)
    with pytest.raises(RuntimeError, match="same dtype"):
        model(torch.ones(64, 2048, device=virtual_worker.device, dtype=torch.float64))


def test_a_trial_draws_no_numbers_of_the_caller(virtual_worker: pt.VirtualWorker) -> None:
    pointer = torch.ones(5, device=virtual_worker.device)
    torch.manual_seed(3)
    drawn = torch.bernoulli(pointer / 2)
    torch.manual_seed(3)
    assert torch.equal(torch.bernoulli(pointer / 2).cpu(), drawn.cpu())
