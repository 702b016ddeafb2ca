"""`profile`: waits by line, operations at the worker, cache misses by operation; and the warning for a hot line."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from conftest import fresh_id

import ptrtensor as pt
from ptrtensor.client import waits


@pytest.fixture(params=[pt.VirtualWorker, pt.ProcessWorker], ids=["virtual", "process"])
def bob(request: pytest.FixtureRequest) -> Iterator[pt.Worker]:
    worker = request.param(id=fresh_id("profiled"))
    yield worker
    worker.close()


def test_what_happened_is_found(bob: pt.Worker) -> None:
    x = pt.send(torch.ones(4, 4), bob)
    (x * 2).sum().item()  # before: no part of it
    with pt.profile(bob) as found:
        for _ in range(3):
            total = (x @ x).sum()
            assert total.item() == 64
        (x + 1)[0].tolist()
    [hot, last] = sorted(found.waits, key=lambda line: line.line)
    assert (hot.worker, hot.file, hot.count, hot.source) == (bob.id, __file__, 3, "assert total.item() == 64")
    assert last.count == 1 and last.line == hot.line + 1 and 0 < hot.seconds < 10
    counts = {timing.operation: timing.count for timing in found.operations}
    assert counts == {"aten::mm": 3, "aten::sum": 3, "aten::add.Tensor": 1, "aten::alias": 1}
    assert all(timing.seconds > 0 and timing.worker == bob.id for timing in found.operations)
    assert {miss.operation: miss.count for miss in found.misses} == {
        "aten::mm": 1,
        "aten::add.Tensor": 1,
        "aten::select.int": 1,
    }
    text = str(found)
    for part in ("test_profile.py:", "assert total.item() == 64", "3 x  aten::mm", bob.id):
        assert part in text


def test_afterwards_nothing_is_measured(bob: pt.Worker) -> None:
    x = pt.send(torch.ones(4), bob)
    with pt.profile(bob):
        x + 1
    with pt.profile(bob) as found:
        pass
    assert not found.operations and not found.waits and not found.misses
    x + 1
    with pt.profile(bob) as found:
        x + 1
    assert [timing.count for timing in found.operations] == [1]


def test_a_line_that_waits_in_a_hot_loop_is_named_once(bob: pt.Worker) -> None:
    """The one that took the longest, whichever the machine made that."""
    x = pt.send(torch.ones(()), bob)
    hot = r"`value \+?= x\.item\(\)` at test_profile\.py:\d+ waited (600|110) times"
    with pytest.warns(UserWarning, match=hot) as caught:
        with pt.profile(bob):
            value = 0.0
            for _ in range(600):
                value = x.item()
            for _ in range(110):
                value += x.item()
    assert value == 111
    assert len(caught) == 1 and caught[0].filename == __file__


def test_a_few_waits_are_no_cause_for_a_warning(bob: pt.Worker) -> None:
    x = pt.send(torch.ones(()), bob)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pt.profile(bob):
            for _ in range(99):
                x.item()


def test_without_a_worker_it_looks_at_all(bob: pt.Worker) -> None:
    with pt.VirtualWorker(id=fresh_id("second")) as second:
        pass
    a, b = pt.send(torch.ones(2), bob), pt.send(torch.ones(2), second)
    with pt.profile() as found:
        a.tolist()
        b.tolist()
    assert {line.worker for line in found.waits} >= {bob.id, second.id}
    second.close()


def test_a_worker_that_is_closed_meanwhile(bob: pt.Worker) -> None:
    x = pt.send(torch.ones(2), bob)
    with pt.profile(bob) as found:
        x.tolist()
        bob.close()
    assert found.waits and not found.operations


def test_an_error_within_is_what_is_raised(bob: pt.Worker) -> None:
    x = pt.send(torch.ones(()), bob)
    found = pt.profile(bob)
    with pytest.raises(ZeroDivisionError), found:
        for _ in range(200):
            x.item()
        1 / 0  # noqa: B018
    assert found.waits[0].count == 200


def test_a_profile_is_for_one_time_and_for_workers(bob: pt.Worker) -> None:
    found = pt.profile(bob)
    with found, pytest.raises(pt.PtrTensorError, match="begun already"), found:
        pass
    with pytest.raises(pt.PtrTensorError, match=r"^profile\(\) takes a worker"):
        pt.profile("bob")  # type: ignore[arg-type]


def test_the_counters_of_operations_and_of_what_is_in_flight(bob: pt.Worker) -> None:
    x = pt.send(torch.ones(2), bob)
    before = bob.stats()
    assert before["operations"] == before["in_flight"] == 0
    held = [x + 1 for _ in range(5)]
    after = bob.stats()
    assert after["operations"] == 5 and 0 <= after["in_flight"] <= 5
    del held
    assert bob.stats()["operations"] == 5 < bob.stats()["commands"]


def test_one_profile_at_a_time(bob: pt.Worker) -> None:
    x = pt.send(torch.ones(2), bob)
    with pt.profile(bob) as found:
        with pytest.raises(pt.PtrTensorError, match="another profile .* under way"), pt.profile(bob):
            pass
        x + 1
    assert [timing.count for timing in found.operations] == [1]


def test_a_profile_that_cannot_begin_leaves_nothing_behind(bob: pt.Worker) -> None:
    closed = pt.VirtualWorker(id=fresh_id("closed"))
    closed.close()
    with pytest.raises(pt.WorkerLostError), pt.profile(bob, closed):
        pass
    with pt.profile(bob, bob) as found:
        pass
    assert found.operations == []


def test_a_worker_that_dies_does_not_hide_the_error(bob: pt.Worker) -> None:
    with pytest.raises(KeyError), pt.profile(bob):
        bob.client._lost = pt.WorkerLostError("it is gone")
        raise KeyError
    bob.client._lost = None


def test_a_line_that_was_forgotten_and_came_again(bob: pt.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "MAX_LINES", 1)
    x = pt.send(torch.ones(()), bob)

    def wait(times: int) -> None:
        for _ in range(times):
            x.item()

    wait(5)
    with pt.profile(bob) as found:
        bob.synchronize()
        wait(2)
    assert [line.count for line in found.waits] == [2]
