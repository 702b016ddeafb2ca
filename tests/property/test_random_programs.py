"""Random programs of views, in-place operations, arithmetic and autograd: local and pointer must agree in everything.

`PTRTENSOR_EXAMPLES=2000 pytest tests/property` looks longer.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from by_hand import session
from client_transports import TRANSPORTS
from collecting import collect
from conftest import fresh_id
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import Tensor

import ptrtensor as pt
from ptrtensor.api import ConnectedWorker

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use of .* on expanded tensors"),
    pytest.mark.filterwarnings("ignore:Casting complex values to real"),
]

EXAMPLES = int(os.environ.get("PTRTENSOR_EXAMPLES", "120"))

program = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 120,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

LARGEST = 200
"""Elements of a tensor, at most."""


class Skip(Exception):
    """The step does not fit these tensors; a program goes on without it."""


def fits(condition: bool) -> None:
    if not condition:
        raise Skip


Step = Callable[[Tensor, Tensor, int], Tensor | None]
"""Something done to two tensors and a number; gives a new tensor or changes the first."""


# --- views


def transpose(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() >= 2)
    return x.transpose(k % x.dim(), -1)


def select(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() > 0 and x.shape[0] > 0)
    return x[k % x.shape[0]]


def slice_of(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() > 0)
    return x[..., k % 3 :: 1 + k % 2]


def view(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.is_contiguous())
    return x.view(-1)


def reshape(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.reshape(-1, 1) if k % 2 else x.reshape(-1)


def unsqueeze(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() < 4)
    return x.unsqueeze(k % (x.dim() + 1))


def squeeze(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.squeeze()


def expand(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() < 3 and x.numel() < LARGEST // 3)
    return x.expand(1 + k % 3, *x.shape)


def diagonal(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() >= 2)
    return x.diagonal(k % 3 - 1)


def unfold(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(0 < x.dim() < 4 and x.shape[-1] >= 2)
    return x.unfold(-1, 2, 1 + k % 2)


def chunk(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() > 0 and x.shape[0] > 0)
    pieces = x.chunk(2)
    return pieces[k % len(pieces)]


def detach(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.detach()


# --- in place


def add_(x: Tensor, y: Tensor, k: int) -> None:
    x.add_(y, alpha=k)


def mul_(x: Tensor, y: Tensor, k: int) -> None:
    x.mul_(k - 2)


def copy_(x: Tensor, y: Tensor, k: int) -> None:
    fits(x.is_complex() or not y.is_complex())
    x.copy_(y)


def zero_(x: Tensor, y: Tensor, k: int) -> None:
    x.zero_()


def clamp_(x: Tensor, y: Tensor, k: int) -> None:
    x.clamp_(-k, k)


def set_row(x: Tensor, y: Tensor, k: int) -> None:
    fits(x.dim() > 0 and x.shape[0] > 0)
    x[k % x.shape[0]] = k


def set_some(x: Tensor, y: Tensor, k: int) -> None:
    x[x > 0] = k


def index_fill_(x: Tensor, y: Tensor, k: int) -> None:
    fits(x.dim() > 0 and x.shape[0] > 1)
    x[torch.tensor([0, -1])] = k + 1


def transpose_(x: Tensor, y: Tensor, k: int) -> None:
    fits(x.dim() >= 2)
    x.transpose_(0, 1)


def unsqueeze_(x: Tensor, y: Tensor, k: int) -> None:
    fits(x.dim() < 4)
    x.unsqueeze_(0)


# --- new tensors


def add(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x + y


def subtract_number(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x - (k if k % 2 else k / 2)


def multiply(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x * y


def relu(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dtype not in (torch.bool, torch.complex64))
    return x.relu()


def greater(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x > y


def where(x: Tensor, y: Tensor, k: int) -> Tensor:
    return torch.where(x > k, x, y)


def matmul(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() == y.dim() == 2 and x.shape[1] == y.shape[1])
    return x @ y.t()


def cat(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.numel() + y.numel() < LARGEST)
    return torch.cat([x, y, x])


def stack(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() < 4 and x.numel() + y.numel() < LARGEST)
    return torch.stack([x, y], -1)


def total(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.sum()


def partial_sum(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() > 0)
    return x.sum(k % x.dim(), keepdim=bool(k % 2))


def largest(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() > 0 and x.shape[-1] > 0)
    return x.max(-1).values


def pick(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.dim() > 0 and x.shape[0] > 0)
    return x[[0, k % x.shape[0], 0]]


def mask(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x[x > k]


def clone(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.clone()


def convert(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.to([torch.float32, torch.float64, torch.int64, torch.bool][k % 4])


def with_out(x: Tensor, y: Tensor, k: int) -> Tensor:
    return torch.add(x, k, out=torch.empty_like(x))


VIEWS: list[Step] = [transpose, select, slice_of, view, reshape, unsqueeze, squeeze, expand, diagonal, unfold, chunk]
WRITES: list[Step] = [add_, mul_, copy_, zero_, clamp_, set_row, set_some, index_fill_, transpose_, unsqueeze_]
MAKES: list[Step] = [add, subtract_number, multiply, relu, greater, where, matmul, cat, stack, total, partial_sum]
MORE: list[Step] = [largest, pick, mask, clone, convert, with_out, detach]


class Line(NamedTuple):
    """One line of a program; the numbers choose among the tensors that there are."""

    step: Step
    x: int
    y: int
    k: int

    def __repr__(self) -> str:
        return f"{self.step.__name__}({self.x}, {self.y}, {self.k})"


def lines(steps: list[Step], longest: int = 12) -> st.SearchStrategy[list[Line]]:
    numbers = st.integers(0, 7)
    line = st.builds(Line, st.sampled_from(steps), numbers, numbers, st.integers(0, 5))
    return st.lists(line, min_size=1, max_size=longest)


def start() -> list[Tensor]:
    """What every program begins with; the numbers are whole, so that sums are exact in any order."""
    return [torch.arange(12.0).reshape(3, 4) - 5, torch.arange(4.0), torch.arange(-4, 4).reshape(2, 4).clone()]


class Twins:
    """The same program on local tensors and on pointers."""

    def __init__(self, tensors: list[Tensor], worker: pt.Worker) -> None:
        self.local = list(tensors)
        self.pointers: list[Tensor] = [pt.send(tensor, worker) for tensor in tensors]
        self.worker = worker

    def run(self, line: Line) -> bool:
        """One line on both sides; False where it is an error, which it then must be on both."""
        x, y = line.x % len(self.local), line.y % len(self.local)
        try:
            made = line.step(self.local[x], self.local[y], line.k)
        except Skip:
            return True
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            note(f"{line} is an error: {error}")
            with pytest.raises((RuntimeError, IndexError, TypeError, ValueError)):
                line.step(self.pointers[x], self.pointers[y], line.k)
                self.worker.synchronize()
            return False
        twin = line.step(self.pointers[x], self.pointers[y], line.k)
        assert (made is None) == (twin is None)
        if made is not None and twin is not None:
            self.local.append(made)
            self.pointers.append(twin)
        self.compare_metadata()
        return True

    def compare_metadata(self) -> None:
        for place, (local, pointer) in enumerate(zip(self.local, self.pointers, strict=True)):
            assert metadata(pointer) == metadata(local), f"tensor {place}"

    def compare_values(self) -> None:
        for place, (local, pointer) in enumerate(zip(self.local, self.pointers, strict=True)):
            if is_leaf(local) is not None:
                torch.testing.assert_close(
                    pointer.detach().cpu(),
                    local.detach(),
                    equal_nan=True,
                    check_stride=False,
                    msg=partial("tensor {}: {}".format, place),
                )


def is_leaf(tensor: Tensor) -> bool | None:
    """None for one of several views that one call made, whose base was written to: torch refuses all use of it."""
    try:
        return tensor.is_leaf
    except RuntimeError:
        return None


def metadata(tensor: Tensor) -> dict[str, object]:
    assert tensor.numel() <= 100 * LARGEST
    return {
        "shape": tuple(tensor.shape),
        "strides": [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
        if tensor.numel()
        else [],
        "offset": tensor.storage_offset() if tensor._is_view() else None,
        "dtype": tensor.dtype,
        "conj": tensor.is_conj(),
        "leaf": is_leaf(tensor),
        "requires_grad": tensor.requires_grad,
        "view": tensor._is_view(),
        "version": tensor._version,
    }


@pytest.fixture(scope="module", params=["in process", "sockets"])
def worker(request: pytest.FixtureRequest) -> Iterator[pt.Worker]:
    with TRANSPORTS[request.param](session()) as transport:
        with contextlib.closing(ConnectedWorker(fresh_id("programs"), transport)) as connected:
            yield connected


@contextlib.contextmanager
def leaving_nothing(worker: pt.Worker) -> Iterator[None]:
    """Every name is forgotten when no pointer is left; the program that is run here must keep none."""
    before = worker.stats()["objects"]
    yield
    worker.recover()
    if worker.stats()["objects"] != before:
        collect()  # the traceback of an error may hold some; it is slow with torch's modules about
    stats = worker.stats()
    assert stats["objects"] <= before and stats["poisoned"] == 0


def agree(worker: pt.Worker, tensors: list[Tensor], code: list[Line]) -> None:
    twins = Twins(tensors, worker)
    for line in code:
        if not twins.run(line):
            return
    twins.compare_values()


@program
@given(code=lines(VIEWS + WRITES + MAKES + MORE))
def test_programs(worker: pt.Worker, code: list[Line]) -> None:
    with leaving_nothing(worker):
        agree(worker, start(), code)


@program
@given(code=lines(VIEWS + WRITES))
def test_writes_through_views_and_bases(worker: pt.Worker, code: list[Line]) -> None:
    """The base is written after its views are made, views after the base is written, views of views."""
    base = torch.arange(24.0).reshape(4, 6).clone()
    with leaving_nothing(worker):
        agree(worker, [base, base.clone()], code)


def conjugate(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.conj()


def imaginary(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.is_complex())
    return x.imag


def imaginary_of_conjugate(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.is_complex())
    return x.conj().imag


def as_real(x: Tensor, y: Tensor, k: int) -> Tensor:
    fits(x.is_complex() and x.dim() < 4)
    return torch.view_as_real(x.resolve_conj())


def resolve(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x.resolve_conj().resolve_neg()


def turn(x: Tensor, y: Tensor, k: int) -> Tensor:
    return x * 1j


COMPLEX: list[Step] = [conjugate, imaginary, imaginary_of_conjugate, as_real, resolve, turn]


@program
@given(code=lines([*COMPLEX, transpose, select, slice_of, add_, mul_, copy_, add, multiply, clone, cat, detach]))
def test_conjugated_and_negated(worker: pt.Worker, code: list[Line]) -> None:
    number = torch.complex(torch.arange(6.0), -torch.arange(6.0)).reshape(2, 3)
    with leaving_nothing(worker):
        agree(worker, [number.clone(), torch.arange(3.0)], code)


def gradients(tensors: list[Tensor], leaves: list[Tensor], worker: pt.Worker) -> list[Tensor | None] | None:
    """Of the sum of all that can be differentiated; None where torch refuses, here or at the worker."""
    try:
        sums = [tensor.sum() for tensor in tensors if tensor.requires_grad and tensor.dtype.is_floating_point]
        for place, value in enumerate(sums):
            (value * (place + 1)).backward(retain_graph=True)
        worker.synchronize()
    except RuntimeError as error:
        note(f"backward is an error: {error}")
        return None
    return [leaf.grad for leaf in leaves]


def agree_in_gradients(worker: pt.Worker, code: list[Line]) -> None:
    leaves = [torch.arange(12.0).reshape(3, 4) / 4, torch.arange(4.0) - 1]
    for leaf in leaves:
        leaf.requires_grad_()
    twins = Twins([*leaves, torch.ones(3, 4)], worker)
    pointers = twins.pointers[:2]
    twins.local[:2] = [leaf * 1 for leaf in leaves]
    twins.pointers[:2] = [pointer * 1 for pointer in pointers]
    if not all(twins.run(line) for line in code):
        return
    expected, got = gradients(twins.local, leaves, worker), gradients(twins.pointers, pointers, worker)
    assert (expected is None) == (got is None)
    for one, other in zip(got or (), expected or (), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.cpu(), other, equal_nan=True)
    twins.compare_values()


@program
@given(code=lines([step for step in VIEWS + WRITES + MAKES + MORE if step not in (transpose_, unsqueeze_)]))
def test_gradients(worker: pt.Worker, code: list[Line]) -> None:
    with leaving_nothing(worker):
        agree_in_gradients(worker, code)


RESHAPED: dict[str, Callable[[Tensor], object]] = {
    "t_": lambda x: x.t_(),
    "transpose_": lambda x: x.transpose_(0, 1),
    "unsqueeze_": lambda x: x.unsqueeze_(0),
    "squeeze_": lambda x: x.squeeze_(),
}
VIEWED: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda x: x.t(),
    "select": lambda x: x[1],
    "view": lambda x: x.view(-1),
    "none": lambda x: x * 2,
}


@pytest.mark.parametrize("viewed", VIEWED)
@pytest.mark.parametrize("reshaped", RESHAPED)
def test_a_base_that_is_reshaped_in_place_after_views_were_made(worker: pt.Worker, reshaped: str, viewed: str) -> None:
    """On devices without strides of their own, torch replays a view on what its base has become; that may be refused,
    never be wrong."""

    def gradient(weight: Tensor, factor: Tensor) -> Tensor:
        base = weight * 1
        view = VIEWED[viewed](base)
        RESHAPED[reshaped](base)
        (view * factor).sum().backward()
        assert weight.grad is not None
        return weight.grad

    weight = torch.arange(9.0).reshape(3, 3).requires_grad_()
    factor = VIEWED[viewed](torch.arange(9.0).reshape(3, 3) + 1).clone()
    pointer = pt.send(weight, worker)
    expected = gradient(weight, factor)
    try:
        got = gradient(pointer, pt.send(factor, worker))
    except pt.UnsupportedOpError:
        assert viewed != "none"
        return
    assert torch.equal(got.cpu(), expected)


def test_reshaped_in_place_again_and_again(worker: pt.Worker) -> None:
    weight = torch.arange(4.0, device=worker.device, requires_grad=True)
    value = weight * 2
    value.unsqueeze_(0)
    value.unsqueeze_(0).transpose_(1, 2)
    (value * torch.arange(4.0, device=worker.device).view(1, 4, 1)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 2, 4, 6]
