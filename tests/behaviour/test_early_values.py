"""A value that no command changes any more is given before the commands that wait (P7.1); any other in order."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import ptrtensor as pt
from ptrtensor.tensor.base import Pointer
from ptrtensor.tensor.pointer import PointerTensor


@pytest.fixture(scope="module")
def worker() -> Iterator[pt.ProcessWorker]:
    made = pt.ProcessWorker(id="early")
    yield made
    made.close()


def is_settled(value: Tensor) -> bool:
    assert isinstance(value, Pointer)
    return value._reference.is_settled


WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda value: value.add_(1),
    "through a view": lambda value: value.view(1).add_(1),
    "through a view of a view": lambda value: value.view(1, 1)[0].add_(1),
    "through a view that is none by its schema": lambda value: torch.unsafe_chunk(value.unsqueeze(0), 1)[0].add_(1),
    "through data": lambda value: value.data.add_(1),
    "through detach": lambda value: value.detach().mul_(2),
    "as out": lambda value: torch.add(value, 1, out=value),
    "by a list": lambda value: torch._foreach_add_([value], 1.0),
    "by an index": lambda value: value.__setitem__((), 5.0),
    "by copy_": lambda value: value.copy_(torch.zeros(())),
    "by set_": lambda value: torch.empty(0, device=value.device).set_(value).add_(1),  # type: ignore[call-overload]
    "by another's data": lambda value: assign(torch.zeros((), device=value.device), value),
}


def assign(other: Tensor, value: Tensor) -> None:
    other.data = value
    other.add_(1)


@pytest.mark.parametrize("how", WRITES)
def test_what_was_written_to_is_read_in_order(worker: pt.ProcessWorker, how: str) -> None:
    local = torch.arange(4.0).sum()
    WRITES[how](local)
    start = torch.arange(4.0).to(worker.device)
    for _ in range(20):
        value = start.sum()
        assert is_settled(value)
        keep_busy(worker)
        WRITES[how](value)
        assert not is_settled(value)
        assert torch.equal(value.cpu(), local)


def test_what_was_found_by_its_tags_is_read_in_order(worker: pt.ProcessWorker) -> None:
    value = torch.ones(4, device=worker.device).sum()
    assert isinstance(value, PointerTensor)
    value.tag("#found")
    (found,) = worker.search("#found")
    keep_busy(worker)
    found.add_(1)
    assert value.item() == 5


@pytest.mark.parametrize("make", [lambda norm: copy.deepcopy(norm), lambda norm: norm.double()])
def test_statistics_are_read_in_order(worker: pt.ProcessWorker, make: Callable[[nn.Module], nn.BatchNorm1d]) -> None:
    """Their update is not in the schema of the operation that makes it."""

    def means(device: torch.device) -> list[float]:
        norm = make(nn.BatchNorm1d(3).to(device))
        keep_busy(worker)
        norm(torch.arange(12.0, device=device).reshape(4, 3).to(norm.weight.dtype))
        assert norm.running_mean is not None
        return norm.running_mean.tolist()

    assert means(worker.device) == means(torch.device("cpu"))


def test_views_and_what_was_sent_are_not_settled(worker: pt.ProcessWorker) -> None:
    value = torch.ones(4, device=worker.device).sum()
    assert not is_settled(value.view(1))
    assert not is_settled(value)
    assert not is_settled(pt.send(torch.ones(2), worker))


def test_the_loss_comes_before_what_was_posted_after_it(worker: pt.ProcessWorker) -> None:
    """The commands behind it take seconds, and nobody waits for them."""
    large = torch.ones(600, 600, device=worker.device)
    done = torch.zeros((), device=worker.device)
    large @ large
    worker.synchronize()
    loss = (large * 0.5).sum()
    product = large
    for _ in range(200):
        product = product @ large
    done.add_(1)
    before = worker.client._inbox.acknowledged
    assert loss.item() == 180_000
    assert worker.client._inbox.acknowledged < worker.client._outbox.next
    assert worker.client._inbox.acknowledged - before < 200
    assert done.item() == 1


def keep_busy(worker: pt.ProcessWorker) -> None:
    """Commands that take a while, so that what comes behind them has to wait."""
    large = torch.ones(200, 200, device=worker.device)
    for _ in range(8):
        large = large @ large * 1e-3
