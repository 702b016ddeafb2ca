"""Tensors of different places in one operation: what is refused, in which words, and what mixes (D3)."""

import contextlib
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ptrtensor as pt

Mixed = Callable[[Any, Any], Any]
"""A call that takes two tensors, or a tensor and a number."""

SQUARE = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]

# Each takes two float matrices, and the name that the error must say.
OPERATIONS: dict[str, tuple[str, Mixed]] = {
    "binary": ("add", lambda one, other: one + other),
    "comparison": ("lt|gt", lambda one, other: one < other),
    "matmul": ("mm", lambda one, other: one @ other),
    "cat": ("cat", lambda one, other: torch.cat([one, one, other])),
    "stack": ("stack", lambda one, other: torch.stack([one, other])),
    "linear": ("linear|addmm|mm", lambda one, other: F.linear(one, other)),
    "where": ("where", lambda one, other: torch.where(one > 1, one, other)),
    "index_select": ("index_select", lambda one, other: one.index_select(0, other[0].long() - 1)),
    "gather": ("gather", lambda one, other: one.gather(0, other.long() % 3)),
    "in place": ("add_", lambda one, other: one.add_(other)),
    "out": ("add", lambda one, other: torch.add(one, one, out=other)),
    "foreach": ("_foreach_add", lambda one, other: torch._foreach_add([one, one], [one, other])),
}


def both_orders(name: str) -> list[tuple[str, Mixed]]:
    op, call = OPERATIONS[name]
    return [(op, call), (op, lambda one, other: call(other, one))]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_pointer_and_a_local_tensor(name: str, worker: pt.Worker) -> None:
    for op, call in both_orders(name):
        pointer, local = pt.send(torch.tensor(SQUARE), worker), torch.tensor(SQUARE)
        with pytest.raises(pt.WorkerMismatchError) as caught:
            call(pointer, local)
        said = str(caught.value)
        assert any(part in said for part in op.split("|"))
        assert f"at worker {worker.id}" in said
        assert "here (cpu" in said
        assert "send()" in said and ".cpu()" in said
        assert torch.equal(local, torch.tensor(SQUARE))
        assert torch.equal(pointer.cpu(), torch.tensor(SQUARE))


@pytest.mark.parametrize("name", OPERATIONS)
def test_pointers_of_two_workers(name: str, worker: pt.Worker, second_worker: pt.Worker) -> None:
    for op, call in both_orders(name):
        one, other = pt.send(torch.tensor(SQUARE), worker), pt.send(torch.tensor(SQUARE), second_worker)
        with pytest.raises(pt.WorkerMismatchError) as caught:
            call(one, other)
        said = str(caught.value)
        assert any(part in said for part in op.split("|"))
        assert f"at worker {worker.id}" in said
        assert f"at worker {second_worker.id}" in said
        assert "move()" in said
        assert torch.equal(one.cpu(), torch.tensor(SQUARE))
        assert torch.equal(other.cpu(), torch.tensor(SQUARE))


def test_a_pointer_of_a_worker_that_is_closed_and_one_of_its_successor() -> None:
    with contextlib.closing(pt.VirtualWorker(id="again")) as first:
        old = pt.send(torch.tensor(SQUARE), first)
    with contextlib.closing(pt.VirtualWorker(id="again")) as second:
        new = pt.send(torch.tensor(SQUARE), second)
        uses: list[Callable[[], object]] = [lambda: old + new, lambda: new + old]
        for use in uses:
            with pytest.raises(pt.WorkerMismatchError) as caught:
                use()
            said = str(caught.value)
            assert said.count("at worker again") == 2 and said.count("at worker again (closed or lost)") == 1
            assert "send that data anew" in said and "move()" not in said


def test_a_module_that_stayed_here(worker: pt.Worker) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(pt.WorkerMismatchError, match=r"weight|mat|self|input"):
        model(pt.send(torch.tensor(SQUARE), worker))


def test_an_optimizer_whose_state_stayed_here(worker: pt.Worker) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.tensor(SQUARE)).sum().backward()
    optimizer.step()
    pt.send(model, worker)
    with pytest.raises(pt.WorkerMismatchError, match="optimizer"):
        optimizer.step()


def test_indices_at_another_worker(worker: pt.Worker, second_worker: pt.Worker) -> None:
    pointer = pt.send(torch.tensor(SQUARE), worker)
    index = pt.send(torch.tensor([0, 2]), second_worker)
    with pytest.raises(pt.WorkerMismatchError, match=r"index.*move\(\)"):
        pointer[index]
    with pytest.raises(pt.WorkerMismatchError, match=r"index_put.*move\(\)"):
        pointer[index] = 0.0


def test_a_result_on_another_device_than_the_arguments(worker: pt.Worker, second_worker: pt.Worker) -> None:
    pointer = pt.send(torch.tensor(SQUARE), worker)
    made = torch.zeros_like(pointer, device=second_worker.device)
    assert pt.is_pointer(made) and made.location is second_worker
    assert torch.zeros_like(pointer, device="cpu").device.type == "cpu"


def test_a_gradient_of_another_place(worker: pt.Worker, second_worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2, requires_grad=True), worker)
    with pytest.raises(pt.WorkerMismatchError, match=rf"{worker.id}.*here \(cpu\).*send\(\)"):
        pointer.grad = torch.ones(2)
    with pytest.raises(pt.WorkerMismatchError, match=rf"{worker.id}.*{second_worker.id}.*move\(\)"):
        pointer.grad = pt.send(torch.ones(2), second_worker)
    assert pointer.grad is None


def test_backward_with_a_gradient_of_another_place(worker: pt.Worker, second_worker: pt.Worker) -> None:
    for gradient in (torch.ones(2), pt.send(torch.ones(2), second_worker)):
        pointer = pt.send(torch.ones(2, requires_grad=True), worker)
        with pytest.raises(pt.WorkerMismatchError):
            (pointer * 2).backward(gradient)
            _ = pointer.grad


def test_a_function_of_the_user_that_returns_a_gradient_of_another_place(
    worker: pt.Worker, second_worker: pt.Worker
) -> None:
    """Torch copies such a gradient to its leaf or hands it over as it is: it is at the leaf's worker, or refused."""

    class Elsewhere(torch.autograd.Function):
        gradient: Tensor

        @staticmethod
        def forward(ctx: object, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            return Elsewhere.gradient

    for gradient in (torch.ones(2), pt.send(torch.ones(2), second_worker)):
        Elsewhere.gradient = gradient
        for factor in (1, 2):
            pointer = pt.send(torch.ones(2, requires_grad=True), worker)
            result: Tensor = Elsewhere.apply(pointer * factor if factor > 1 else pointer)  # type: ignore[no-untyped-call]
            try:
                result.sum().backward()
                found = pointer.grad
            except pt.WorkerMismatchError:
                continue
            assert found is not None and pt.is_pointer(found) and found.location is worker
            assert torch.equal(found.cpu(), torch.full((2,), float(factor)))


# --- what mixes

ARITHMETIC: list[Mixed] = [
    lambda one, other: one + other,
    lambda one, other: other + one,
    lambda one, other: one * other,
    lambda one, other: other - one,
    lambda one, other: one / other,
    lambda one, other: one > other,
    lambda one, other: torch.add(one, other),
    lambda one, other: torch.where(one > 1, one, other),
]
DTYPES = [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
SCALARS = [True, 2, 2.5, 1 + 2j]


def second_given(call: Mixed, second: object, first: Tensor) -> object:
    return call(first, second)


def check_same(call: Callable[[Tensor], object], value: Tensor, worker: pt.Worker) -> None:
    """The call gives at the worker what it gives here, to the dtype, or is refused by torch in both places."""
    expected: object
    try:
        expected = call(value.clone())
    except (RuntimeError, TypeError) as error:
        with pytest.raises((type(error), RuntimeError)):  # in the call, or at the worker
            result = call(pt.send(value, worker))
            assert isinstance(result, Tensor)
            result.cpu()
        return
    result = call(pt.send(value, worker))
    assert isinstance(expected, Tensor) and isinstance(result, Tensor)
    assert pt.is_pointer(result) and result.location is worker
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_python_scalars_mix_and_promote_as_here(dtype: torch.dtype, worker: pt.Worker) -> None:
    value = torch.tensor([0, 1, 3]).to(dtype)
    for call in ARITHMETIC:
        for scalar in SCALARS:
            check_same(partial(second_given, call, scalar), value, worker)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_local_tensors_without_dimensions_mix_and_promote_as_here(dtype: torch.dtype, worker: pt.Worker) -> None:
    value = torch.tensor([0, 1, 3]).to(dtype)
    for call in ARITHMETIC:
        for scalar in (torch.tensor(True), torch.tensor(2), torch.tensor(2.5), torch.tensor(2.5, dtype=torch.float64)):
            check_same(partial(second_given, call, scalar), value, worker)


def test_a_number_at_the_worker_promotes_as_here(worker: pt.Worker) -> None:
    """A tensor without dimensions is no Python number, though a local one made from a number counts as one."""
    calls: list[Mixed] = [
        lambda tensor, scalar: tensor + tensor.new_tensor(scalar, dtype=torch.float64),
        lambda tensor, scalar: tensor.sum() * scalar,
        lambda tensor, scalar: scalar * tensor.sum() + tensor.bfloat16(),
    ]
    for call in calls:
        for scalar in (2.5, 2):
            check_same(partial(second_given, call, scalar), torch.arange(3), worker)


def test_scalars_that_python_calls_equal_are_different_operations(worker: pt.Worker) -> None:
    for scalar in (1, True, 1.0, 0, False, 0.0):
        check_same(partial(second_given, operator.add, scalar), torch.tensor([True, False]), worker)
    calls: list[Mixed] = [
        lambda tensor, zero: 1 / (tensor * zero),
        lambda tensor, zero: tensor.new_full((2,), zero).reciprocal(),
    ]
    for call in calls:
        for zero in (0.0, -0.0, 0):
            check_same(partial(second_given, call, zero), torch.tensor([0.0, -0.0, 1.0]), worker)


def test_in_place_with_a_local_number(worker: pt.Worker) -> None:
    pointer = pt.send(torch.tensor(SQUARE), worker)
    pointer.add_(torch.tensor(1.0))
    pointer.mul_(2).clamp_(max=torch.tensor(15.0))
    assert torch.equal(pointer.cpu(), ((torch.tensor(SQUARE) + 1) * 2).clamp(max=15))


def test_a_local_number_gets_its_gradient_here(worker: pt.Worker) -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    pointer = pt.send(torch.tensor(SQUARE, requires_grad=True), worker)
    (pointer * scale).sum().backward()
    assert pointer.grad is not None and torch.equal(pointer.grad.cpu(), torch.full((3, 3), 2.0))
    assert scale.grad is not None
    assert not pt.is_pointer(scale.grad)
    assert scale.grad.item() == 45.0


INDEXING: dict[str, Callable[[Tensor], Tensor]] = {
    "indices": lambda tensor: tensor[torch.tensor([2, 0])],
    "indices of columns": lambda tensor: tensor[:, torch.tensor([2, -1])],
    "pairs of indices": lambda tensor: tensor[torch.tensor([0, 1]), torch.tensor([2, 2])],
    "an index without dimensions": lambda tensor: tensor[torch.tensor(1)],
    "mask of rows": lambda tensor: tensor[torch.tensor([True, False, True])],
    "mask": lambda tensor: tensor[torch.tensor(SQUARE) > 4],
    "empty mask": lambda tensor: tensor[torch.tensor([False, False, False])],
    "local and remote indices": lambda tensor: tensor[tensor[0].long() - 1, torch.tensor([0, 1, 2])],
    "list": lambda tensor: tensor[[2, 0]],
}

ASSIGNMENTS: dict[str, Callable[[Tensor], object]] = {
    "number at indices": lambda tensor: tensor.__setitem__(torch.tensor([2, 0]), 1.5),
    "number at mask": lambda tensor: tensor.__setitem__(torch.tensor(SQUARE) > 4, -1.0),
    "0-dim at mask": lambda tensor: tensor.__setitem__(torch.tensor(SQUARE) > 4, torch.tensor(-1.0)),
    "local row": lambda tensor: tensor.__setitem__(1, torch.tensor([7.0, 7.0, 8.0])),
    "local integers": lambda tensor: tensor.__setitem__(slice(0, 2), torch.tensor([[1], [2]])),
    "accumulate": lambda tensor: (
        tensor.index_put_((torch.tensor([0, 0]),), tensor[1].clone(), accumulate=True) and None
    ),
}


@pytest.mark.parametrize("name", INDEXING)
def test_local_indices_mix(name: str, worker: pt.Worker) -> None:
    check_same(INDEXING[name], torch.tensor(SQUARE), worker)


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_assigning_at_local_indices(name: str, worker: pt.Worker) -> None:
    def assigned(tensor: Tensor) -> Tensor:
        ASSIGNMENTS[name](tensor)
        return tensor

    check_same(assigned, torch.tensor(SQUARE), worker)


def test_gradients_flow_through_local_indices(worker: pt.Worker) -> None:
    pointer = pt.send(torch.tensor(SQUARE, requires_grad=True), worker)
    local = torch.tensor(SQUARE, requires_grad=True)
    for tensor in (pointer, local):
        (tensor[torch.tensor([0, 0, 2])] * tensor[torch.tensor(SQUARE) > 3].sum()).sum().backward()
    assert pointer.grad is not None and local.grad is not None
    assert torch.equal(pointer.grad.cpu(), local.grad)


def test_copy_crosses_both_ways(worker: pt.Worker, second_worker: pt.Worker) -> None:
    pointer, local = pt.send(torch.zeros(3, 3), worker), torch.zeros(3, 3, dtype=torch.float64)
    pointer.copy_(torch.tensor([1, 2, 3]))
    assert torch.equal(pointer.cpu(), torch.tensor([1.0, 2.0, 3.0]).expand(3, 3))
    local.copy_(pointer)
    assert torch.equal(local, pointer.cpu().double())
    pointer.t()[0].copy_(torch.tensor(9.0))
    local[1:] = pointer[:2]
    assert torch.equal(local[1:], torch.tensor([[9.0, 2.0, 3.0]] * 2, dtype=torch.float64))
    other = pt.send(torch.zeros(3, 3), second_worker)
    other.copy_(pointer)
    assert other.location is second_worker
    assert torch.equal(other.cpu(), pointer.cpu())


def test_copy_carries_gradients_across(worker: pt.Worker) -> None:
    source = torch.tensor([1.0, 2.0], requires_grad=True)
    pointer = pt.send(torch.zeros(2), worker)
    pointer.copy_(source)
    (pointer * 3).sum().backward()
    assert source.grad is not None and not pt.is_pointer(source.grad)
    assert torch.equal(source.grad, torch.tensor([3.0, 3.0]))
    there = pt.send(torch.tensor([1.0, 2.0], requires_grad=True), worker)
    here = torch.zeros(2)
    here.copy_(there)
    (here * 3).sum().backward()
    assert there.grad is not None and pt.is_pointer(there.grad)
    assert torch.equal(there.grad.cpu(), torch.tensor([3.0, 3.0]))
