"""The store: names, values, poison per storage, and what `recover` gives back."""

import pytest
import torch

from ptrtensor.wire.messages import Failure
from ptrtensor.worker.store import Note, Outcome, Store

FAILURE = Failure(0, "aten::add_", "RuntimeError: no", "")


def with_aliases() -> Store:
    """1 is a tensor, 2 a view of it, 3 another name of it; 4 and 5 are two others."""
    store = Store()
    base = torch.arange(4.0)
    store.objects.update({1: base, 2: base[1:], 3: base, 4: torch.zeros(2), 5: torch.ones(2)})
    return store


def test_drop_forgets_everything_about_a_name() -> None:
    store = with_aliases()
    store.hidden.add(1)
    store.notes[1] = Note(("a",))
    store.outcomes[1] = Outcome([], [])
    store.poison_storages({4}, FAILURE, written=True)
    store.drop(1)
    store.drop(4)
    store.drop(99)
    assert set(store.objects) == {2, 3, 5}
    assert not (store.poisoned or store.hidden or store.notes or store.outcomes)


def test_dropping_a_base_leaves_its_view() -> None:
    store = with_aliases()
    store.drop(1)
    store.drop(3)
    view = store.objects[2]
    assert isinstance(view, torch.Tensor) and view.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("names", "poisoned"),
    [
        ({1}, {1, 2, 3}),
        ({2}, {1, 2, 3}),
        ({3}, {1, 2, 3}),
        ({4}, {4}),
        ({2, 5}, {1, 2, 3, 5}),
        ({99}, set()),
        (set(), set()),
    ],
)
@pytest.mark.parametrize("written", [True, False])
def test_poison_reaches_every_alias_and_nothing_else(names: set[int], poisoned: set[int], written: bool) -> None:
    store = with_aliases()
    store.poison_storages(names, FAILURE, written=written)
    assert set(store.poisoned) == poisoned
    assert set(store.objects) == {1, 2, 3, 4, 5} - poisoned
    store.recover()
    assert set(store.poisoned) == (poisoned if written else set())
    assert set(store.objects) == {1, 2, 3, 4, 5} - set(store.poisoned)


def test_numbers_have_no_storage() -> None:
    store = with_aliases()
    store.objects[6] = True
    store.poison_storages({6}, FAILURE, written=True)
    assert not store.poisoned


def test_recover_keeps_what_never_had_a_value() -> None:
    store = with_aliases()
    store.poison_storages({4}, FAILURE, written=False)
    store.poison_storages({5}, FAILURE, written=True)
    store.recover()
    assert set(store.poisoned) == {5}
    store.recover()
    assert set(store.poisoned) == {5}


def test_listed_are_the_tensors_that_are_not_hidden() -> None:
    store = with_aliases()
    store.objects[6] = 2.5
    store.hidden.add(4)
    store.poison_storages({5}, FAILURE, written=False)
    assert set(store.listed()) == {1, 2, 3}


def test_clear() -> None:
    store = with_aliases()
    store.poison_storages({1}, FAILURE, written=False)
    store.hidden.add(4)
    store.notes[4] = Note()
    store.clear()
    assert store == Store()
