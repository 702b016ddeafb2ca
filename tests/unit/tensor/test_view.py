"""Views have no name until one is asked for, and stand for a stretch of their base whatever becomes of that."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import fresh_id
from torch import Tensor

import ptrtensor as pt
from ptrtensor.tensor.view import View


@pytest.fixture
def bob() -> Iterator[pt.VirtualWorker]:
    worker = pt.VirtualWorker(id=fresh_id("viewed"))
    yield worker
    worker.close()


def numbers(worker: pt.Worker) -> pt.PointerTensor:
    return pt.send(torch.arange(12.0).view(3, 4), worker)


def pointer(value: Tensor) -> pt.PointerTensor:
    assert pt.is_pointer(value)
    return value


def view_of(value: Tensor) -> View:
    reference = pointer(value)._reference
    assert isinstance(reference, View)
    return reference


VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "slice": (lambda x: x[1:, ::2], 4),
    "slice of a slice": (lambda x: x[1:][1:], 8),
    "select": (lambda x: x[2], 8),
    "t": (lambda x: x.t(), 0),
    "unbind": (lambda x: x.unbind(1)[3], 3),
    "split": (lambda x: x.split(2, 1)[1], 2),
    "unsafe_split": (lambda x: torch.unsafe_split(x, 2, 1)[1], 2),
    "diagonal": (lambda x: x.diagonal(1), 1),
    "unfold": (lambda x: x[1].unfold(0, 2, 1), 4),
    "squeeze": (lambda x: x[1:2].squeeze(), 4),
    "view": (lambda x: x[1:].view(-1), 4),
    "expand": (lambda x: x[:, 1:2].expand(3, 7), 1),
    "alias": (lambda x: torch.ops.aten.alias(x[1]), 4),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_sends_nothing_and_knows_where_it_lies(name: str, bob: pt.VirtualWorker) -> None:
    make, offset = VIEWS[name]
    x, local = numbers(bob), torch.arange(12.0).view(3, 4)
    before = bob.stats()["commands"]
    view, wanted = make(x), make(local)
    assert bob.stats()["commands"] == before and len(bob.objects) == 1
    assert view_of(view).offset == offset and view_of(view).base is x._reference
    assert (view.shape, view.stride(), view.storage_offset()) == (
        wanted.shape,
        wanted.stride(),
        wanted.storage_offset(),
    )
    assert (view * 2).tolist() == (wanted * 2).tolist() and view.tolist() == wanted.tolist()


def test_its_base_need_not_begin_where_its_storage_does(bob: pt.VirtualWorker) -> None:
    row = torch.as_strided(numbers(bob), (2, 4), (4, 1), 4)
    assert row[1].tolist() == [8, 9, 10, 11] and row[1].storage_offset() == 8
    assert view_of(row[1]).offset == 4


def test_a_name_is_given_when_it_is_asked_for(bob: pt.VirtualWorker) -> None:
    x = numbers(bob)
    view = pointer(x[1])
    assert repr(view).startswith("PointerTensor(me:") and f" {bob.id}:{x.id_at_location}+4, " in repr(view)
    name = view.id_at_location
    assert name == view.id_at_location != x.id_at_location
    assert set(bob.objects) == {name, x.id_at_location} and f":{name}, " in repr(view)
    x.add_(1)
    assert view.tolist() == [5, 6, 7, 8]
    del view
    assert set(bob.objects) == {x.id_at_location}


def test_a_tagged_view_is_found(bob: pt.VirtualWorker) -> None:
    pointer(numbers(bob)[1]).tag("#row").describe("a row")
    view = pointer(numbers(bob)[2]).tag("#row")
    [found] = bob.search("#row")
    assert found.tolist() == view.tolist() == [8, 9, 10, 11]


def test_what_is_laid_out_as_its_base_is_read_by_the_bases_name(bob: pt.VirtualWorker) -> None:
    x = numbers(bob)
    assert view_of(x.t().t()).is_whole and view_of(x.view(12).view(3, 4)).is_whole
    assert not view_of(x.t()).is_whole and not view_of(x[1:][:2]).is_whole
    before = bob.stats()["commands"]
    more = x.t().t() + 1
    assert bob.stats()["commands"] == before + 1 and more[0, 0].item() == 1


def test_a_view_outlives_its_base(bob: pt.VirtualWorker) -> None:
    x = numbers(bob)
    view = x[1]
    assert pt.get(x).shape == (3, 4)
    more = (view + 1).tolist()
    assert more == [5, 6, 7, 8] and not bob.objects
    del x
    assert view.tolist() == [4, 5, 6, 7]
    del view
    assert bob.stats()["objects"] == 0


def test_a_base_that_is_reshaped_or_replaced_leaves_its_views(bob: pt.VirtualWorker) -> None:
    for change in (
        lambda x: x.t_(),
        lambda x: x.resize_(2),
        lambda x: x.set_(torch.zeros(5, device=bob.device)),
        lambda x: setattr(x, "data", torch.zeros(5, device=bob.device)),
    ):
        x = numbers(bob)
        view = x[1]
        change(x)
        assert view.tolist() == [4, 5, 6, 7] and (view + 1).tolist() == [5, 6, 7, 8]


def test_a_spent_view_has_no_name_to_give(bob: pt.VirtualWorker) -> None:
    x = numbers(bob)
    view = pointer(x[1])
    assert pt.get(view).tolist() == [4, 5, 6, 7]
    for use in (lambda: view.id_at_location, lambda: view + 1, lambda: view[0], lambda: pt.get(view)):
        with pytest.raises(pt.SpentPointerError):
            use()
    assert x[1].tolist() == [4, 5, 6, 7]


def test_a_view_of_a_worker_that_is_closed(bob: pt.VirtualWorker) -> None:
    x = numbers(bob)
    view = pointer(x[1])
    bob.close()
    for use in (lambda: x[1], lambda: view.id_at_location, lambda: view.cpu()):
        with pytest.raises(pt.WorkerLostError):
            use()
    assert "+4" in repr(view)


def test_many_views_of_other_places_are_one_instruction(bob: pt.VirtualWorker) -> None:
    x = pt.send(torch.arange(100.0), bob)
    total = sum((x[place : place + 2].sum() for place in range(50)), torch.zeros((), device=bob.device))
    assert total.item() == sum(2 * place + 1 for place in range(50))
    assert len(bob.cache) < 5


def test_set_leaves_the_views_with_the_memory_they_are_of(bob: pt.VirtualWorker) -> None:
    def program(device: torch.device) -> list[Tensor]:
        x = torch.zeros(4, device=device)
        view, other, alias = x[1:], x.view(2, 2), x.detach()
        torch.ops.aten.set_.source_Tensor(x, torch.full((4,), 5.0, device=device))
        view.add_(1)
        torch.ops.aten.set_.source_Tensor(alias, torch.full((4,), 7.0, device=device))
        return [x, view, other, alias]

    found = program(bob.device)
    assert [value.tolist() for value in found] == [value.tolist() for value in program(torch.device("cpu"))]


def test_a_view_that_is_named_while_a_failure_holds_its_base_comes_back_with_it(bob: pt.VirtualWorker) -> None:
    x, places = pt.send(torch.arange(6.0), bob), pt.send(torch.tensor([9]), bob)
    view = pointer(x[1:3])
    x.add_(pt.send(torch.arange(3.0), bob)[places].sum())
    view.tag("#held")
    with pytest.raises(pt.RemoteOpError):
        bob.synchronize()
    with pytest.raises(pt.RemoteOpError):
        view.tolist()
    assert view.id_at_location not in bob.objects
    bob.recover()
    assert view.tolist() == [1, 2] and view.id_at_location in bob.objects
    [found] = bob.search("#held")
    x.mul_(2)
    assert found.tolist() == view.tolist() == [2, 4]


def test_threads_that_name_a_view_at_once_get_one_name(bob: pt.VirtualWorker) -> None:
    x = numbers(bob)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            view = pointer(x[1:])
            with ThreadPoolExecutor(3) as pool:
                names = set(pool.map(lambda view: view.id_at_location, [view] * 3))
            assert len(names) == 1 and names <= set(bob.objects)
    finally:
        sys.setswitchinterval(interval)
