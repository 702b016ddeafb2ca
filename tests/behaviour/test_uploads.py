"""`.to(worker.device)` makes an empty tensor and copies into it: the value takes its place, where nobody can tell."""

import sys
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ptrtensor as pt
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.pointer import PointerTensor

VALUE = torch.arange(6.0).reshape(2, 3)


def empty(worker: pt.Worker) -> PointerTensor:
    made = torch.empty(2, 3, device=worker.device)
    assert isinstance(made, PointerTensor)
    return made


def name_of(value: Tensor) -> int:
    assert isinstance(value, Pointer)
    return value._reference.name


def test_no_copy_is_made_of_what_was_sent(worker: pt.Worker) -> None:
    before = worker.stats()
    pointer = VALUE.to(worker.device)
    after = worker.stats()
    assert torch.equal(pointer.cpu(), VALUE)
    assert after["commands"] - before["commands"] <= 2  # the empty one, and its end


SHARED: dict[str, Callable[[Tensor], Tensor]] = {
    "detached": lambda pointer: pointer.detach(),
    "its data": lambda pointer: pointer.data,
    "a view": lambda pointer: pointer[:],
    "a part that is no view by its schema": lambda pointer: torch.unsafe_chunk(pointer, 1)[0],
    "the same by set_": lambda pointer: torch.empty(0, device=pointer.device).set_(pointer),  # type: ignore[call-overload]
}


@pytest.mark.parametrize("how", SHARED)
def test_whoever_shares_the_memory_sees_the_copy(worker: pt.Worker, how: str) -> None:
    pointer = empty(worker)
    other = SHARED[how](pointer)
    pointer.copy_(VALUE)
    assert torch.equal(other.cpu(), VALUE)
    assert torch.equal(pointer.cpu(), VALUE)


@pytest.mark.parametrize("how", SHARED)
def test_whoever_shares_it_afterwards_too(worker: pt.Worker, how: str) -> None:
    pointer = empty(worker)
    pointer.copy_(VALUE)
    other = SHARED[how](pointer)
    pointer.copy_(VALUE + 1)
    assert torch.equal(other.cpu(), VALUE + 1)


def test_what_was_fetched_can_be_resized(worker: pt.Worker) -> None:
    large = torch.zeros(400_000, device=worker.device)
    assert large.cpu().resize_(800_000).shape == (800_000,)


def test_threads_that_use_it_meanwhile(worker: pt.Worker) -> None:
    """They get whatever is there, and no error of a name that is gone."""
    shared, over = [torch.empty(4, device=worker.device).zero_()], threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not over.is_set():
                (shared[0] * 2 + 1).tolist()
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        for number in range(300):
            target = torch.empty(4, device=worker.device)
            shared[0] = target
            target.copy_(torch.full((4,), float(number)))
    finally:
        sys.setswitchinterval(interval)
        over.set()
        for reader in readers:
            reader.join()
    assert not errors


def test_a_spent_pointer_stays_spent(worker: pt.Worker) -> None:
    pointer = empty(worker)
    pointer.get()
    with pytest.raises(pt.SpentPointerError):
        pointer.copy_(VALUE)


def test_what_has_tags_keeps_its_name(worker: pt.Worker) -> None:
    pointer = empty(worker).tag("#x")
    name = name_of(pointer)
    pointer.copy_(VALUE)
    assert name_of(pointer) == name


@pytest.mark.parametrize(
    "value",
    [VALUE.double(), VALUE[0], VALUE.t().contiguous().t(), VALUE[:, :1].expand(2, 3)],
    ids=["another dtype", "broadcast", "other strides", "expanded"],
)
def test_anything_else_is_copied_into_it(worker: pt.Worker, value: Tensor) -> None:
    pointer = empty(worker)
    pointer.copy_(value)
    assert (pointer.dtype, pointer.stride()) == (torch.float32, (3, 1))
    assert torch.equal(pointer.cpu(), value.float().expand(2, 3))


def test_a_saved_value_that_was_overwritten_is_noticed(worker: pt.Worker) -> None:
    pointer, weight = empty(worker), torch.ones(2, 3, device=worker.device, requires_grad=True)
    product = (pointer * weight).sum()
    pointer.copy_(VALUE)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
