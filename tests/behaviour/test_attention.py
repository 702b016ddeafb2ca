"""Attention runs whole at the worker, with the kernel that torch chooses for local tensors."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import check_equal
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import ptrtensor as pt

Attend = Callable[[Tensor], Tensor]


def mask(x: Tensor) -> Tensor:
    return torch.ones(5, 5, dtype=torch.bool, device=x.device).tril()


CALLS: dict[str, tuple[int, Attend]] = {
    "plain": (1, lambda x: F.scaled_dot_product_attention(x, x, x)),
    "causal": (1, lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "scaled": (1, lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.3)),
    "boolean mask": (9, lambda x: F.scaled_dot_product_attention(x, x, x, mask(x))),
    "mask of numbers": (6, lambda x: F.scaled_dot_product_attention(x, x, x, mask(x).to(x.dtype))),
    "groups": (3, lambda x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1], enable_gqa=True)),
    "other lengths": (3, lambda x: F.scaled_dot_product_attention(x[:, :, :2], x, x[:, :, :])),
    "views": (5, lambda x: F.scaled_dot_product_attention(x, x.transpose(2, 3).transpose(2, 3), x)),
    "mask and causal": (9, lambda x: F.scaled_dot_product_attention(x, x, x, mask(x), is_causal=True)),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_one_command_and_the_same_bits(name: str, worker: pt.Worker) -> None:
    most, attend = CALLS[name]
    values = torch.randn(2, 2, 5, 8)
    local, remote = values.clone().requires_grad_(), pt.send(values, worker).requires_grad_()
    before = worker.stats()["commands"]
    got = attend(remote)
    assert worker.stats()["commands"] - before <= most + 1  # with the names that died since
    expected = attend(local)
    check_equal(got, expected, worker)
    seed = torch.randn_like(expected)
    check_equal(
        torch.autograd.grad(got, remote, pt.send(seed, worker)), torch.autograd.grad(expected, local, seed), worker
    )


def test_gradients_of_a_mask(worker: pt.Worker) -> None:
    """For those torch has no fused kernel."""
    x, bias = torch.randn(2, 2, 5, 8), torch.randn(5, 5)

    def gradient(to: Callable[[Tensor], Tensor]) -> Any:
        there = to(bias).requires_grad_()
        return torch.autograd.grad(F.scaled_dot_product_attention(to(x), to(x), to(x), there).sum(), there)

    check_equal(gradient(lambda value: pt.send(value, worker)), gradient(torch.clone), worker)


def test_under_inference_mode_and_transforms(worker: pt.Worker) -> None:
    x = torch.randn(3, 2, 2, 5, 8)
    p = pt.send(x, worker)
    with torch.inference_mode():
        check_equal(CALLS["causal"][1](p[0]), CALLS["causal"][1](x[0]), worker)
    got = torch.func.vmap(CALLS["plain"][1])(p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has no rule for its own fused kernel
        check_equal(got, torch.func.vmap(CALLS["plain"][1])(x), worker, 1e-6)


def test_the_kernel_that_the_user_asks_for(worker: pt.Worker) -> None:
    x = torch.randn(2, 2, 5, 8)
    with sdpa_kernel(SDPBackend.MATH):
        check_equal(CALLS["plain"][1](pt.send(x, worker)), CALLS["plain"][1](x), worker)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.scaled_dot_product_attention(x, x.double(), x),
        lambda x: F.scaled_dot_product_attention(x[0, 0, 0], x, x),
        lambda x: F.scaled_dot_product_attention(x, x[..., :3], x),
        lambda x: F.scaled_dot_product_attention(x, x, x, mask(x)[:3]),
        lambda x: F.scaled_dot_product_attention(x, x, x, mask(x).double()),
    ],
)
def test_wrong_arguments_are_torchs_own_errors(call: Attend, worker: pt.Worker) -> None:
    x = torch.randn(2, 2, 5, 8)
    with pytest.raises(RuntimeError) as expected:
        call(x)
    with pytest.raises(type(expected.value)):
        call(pt.send(x, worker)).cpu()
    worker.recover()


def test_a_layer_of_torch(worker: pt.Worker) -> None:
    local = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    remote = pt.send(copy.deepcopy(local), worker)
    x = torch.randn(2, 5, 8)
    expected = local(x, x, tgt_is_causal=True, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5))
    there = pt.send(x, worker)
    causal = nn.Transformer.generate_square_subsequent_mask(5, device=worker.device)
    check_equal(remote(there, there, tgt_is_causal=True, tgt_mask=causal), expected, worker)
