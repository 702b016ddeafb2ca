"""Local and remote side by side: a program is run on tensors and on pointers to them, and all must be the same."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import torch
from collecting import collect
from torch import Tensor

import ptrtensor as pt

SAME_BITS: Final = 0.0
"""The tolerance of a program whose every operation runs in one thread wherever it runs."""

Program = Callable[..., object]


def value(tensor: Tensor) -> Tensor:
    """A local copy of the values, whatever the tensor is; a pointer stays usable."""
    return tensor.detach().to("cpu")


def check_equal(got: object, expected: object, worker: pt.Worker, tolerance: float = SAME_BITS, at: str = "") -> None:
    """Pointers at that worker where tensors are expected, with the same metadata and values; all else equal."""
    if isinstance(expected, Tensor):
        assert pt.is_pointer(got), f"{at or 'the result'} is no pointer but {type(got)}"
        assert got.location is worker, at
        check_tensor(got, expected, tolerance, at)
    elif isinstance(expected, Mapping):
        assert isinstance(got, Mapping) and list(got) == list(expected), at
        for name in expected:
            check_equal(got[name], expected[name], worker, tolerance, f"{at}[{name!r}]")
    elif isinstance(expected, Sequence) and not isinstance(expected, str):
        assert isinstance(got, Sequence) and len(got) == len(expected), at
        for place, (one, other) in enumerate(zip(got, expected, strict=True)):
            check_equal(one, other, worker, tolerance, f"{at}[{place}]")
    else:
        assert type(got) is type(expected) and got == expected, f"{at}: {got} is not {expected}"


def check_tensor(got: Tensor, expected: Tensor, tolerance: float = SAME_BITS, at: str = "") -> None:
    """The same metadata and values; the one may be a pointer, the other local."""
    assert described(got) == described(expected), at
    torch.testing.assert_close(
        value(got),
        value(expected),
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
        check_stride=False,  # of dimensions of size 0 or 1 they do not count; `described` has the others
        msg=lambda text: f"{at}: {text}",
    )


def described(tensor: Tensor) -> dict[str, object]:
    """What a tensor says of itself without looking at its values."""
    strides = [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    return {
        "shape": tuple(tensor.shape),
        "strides": strides if tensor.numel() else [],
        "dtype": tensor.dtype,
        "conj": tensor.is_conj(),
        "neg": tensor.is_neg(),
        "requires_grad": tensor.requires_grad,
        "leaf": tensor.is_leaf,
        "parameter": isinstance(tensor, torch.nn.Parameter),
    }


def copied(tensor: Tensor) -> Tensor:
    """A local leaf with the same values."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def check_program(worker: pt.Worker, program: Program, *inputs: Tensor, tolerance: float = SAME_BITS) -> None:
    """The same results, the same values left in the inputs, and the same gradients, locally and at the worker."""
    here = [copied(tensor) for tensor in inputs]
    there = [pt.send(copied(tensor), worker) for tensor in inputs]
    torch.manual_seed(1)
    expected = program(*here)
    torch.manual_seed(1)
    got = program(*there)
    check_equal(got, expected, worker, tolerance, "result")
    check_equal(there, here, worker, tolerance, "input")
    gradients = [tensor.grad if tensor.is_leaf else None for tensor in here]
    check_equal([p.grad if p.is_leaf else None for p in there], gradients, worker, tolerance, "gradient of input")


def held(worker: pt.Worker) -> int:
    """How many tensors the worker keeps, also those that it does not list."""
    collect()
    return worker.stats()["objects"]


@contextlib.contextmanager
def waits(worker: pt.Worker, expected: int) -> Iterator[None]:
    """The block waits for the worker this often."""
    before = worker.stats()["waits"]
    yield
    asked_twice = 1
    assert worker.stats()["waits"] - before - asked_twice == expected
