"""What is not used any more is given back: at the worker, and here (D11)."""

import contextlib
import gc
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from by_hand import session
from child_processes import children, resident_bytes, until
from collecting import collect
from torch import Tensor, nn
from torch.nn import functional as F

import ptrtensor as pt
from ptrtensor.api import ConnectedWorker
from ptrtensor.transport.inprocess import InProcessTransport
from ptrtensor.transport.recording import RecordingTransport
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.messages import ClientMessage

MEBI = 1024 * 1024


def objects(worker: pt.Worker) -> int:
    """How many tensors the worker holds when it has done everything."""
    collect()
    worker.synchronize()
    return worker.stats()["objects"]


def test_the_store_is_empty_when_all_pointers_are_gone(worker: pt.Worker) -> None:
    before = objects(worker)
    sent = pt.send(torch.ones(4, requires_grad=True), worker)
    view, made = sent[:2], torch.zeros(3, device=worker.device)
    made[1:].add_(view)
    (sent * view.sum()).sum().backward()
    chosen = sent[sent > 0]
    module = pt.send(nn.LSTM(2, 2), worker)
    module(torch.ones(3, 1, 2, device=worker.device))[0].sum().backward()
    assert objects(worker) > before
    del sent, view, made, chosen, module
    assert objects(worker) == before


def test_cycles_are_freed_when_they_are_collected(worker: pt.Worker) -> None:
    before = objects(worker)

    class Node:
        def __init__(self) -> None:
            self.value = torch.ones(2, device=worker.device)
            self.loop = self

    gc.disable()
    try:
        node = Node()
        node.value.loop = node  # type: ignore[attr-defined]
        del node
        worker.synchronize()
        assert worker.stats()["objects"] == before + 1
    finally:
        gc.enable()
    assert objects(worker) == before


def test_a_graph_keeps_what_it_saved_and_no_more(worker: pt.Worker) -> None:
    before = objects(worker)
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    result = (leaf.exp() * 2).exp()
    assert objects(worker) == before + 3  # the leaf and what both exp() saved
    del result
    assert objects(worker) == before + 1


def test_results_that_nobody_takes(worker: pt.Worker) -> None:
    before = objects(worker)
    torch.ones(4, device=worker.device).sort()
    torch.linalg.qr(torch.eye(3, device=worker.device))
    torch.ones(6, device=worker.device).split(2)
    torch.arange(6, device=worker.device).unique(return_inverse=True, return_counts=True)
    assert objects(worker) == before


def test_values_that_were_fetched_or_taken_away(worker: pt.Worker) -> None:
    before = objects(worker)
    pointers = [pt.send(torch.ones(2, requires_grad=True), worker) for _ in range(5)]
    for pointer in pointers:
        (pointer * 2).sum().backward()
        pointer.cpu()
        pt.get(pointer)
    assert objects(worker) == before  # though the pointers live


def test_names_made_by_a_search_are_given_back(worker: pt.Worker) -> None:
    before = objects(worker)
    tagged = pt.send(torch.ones(2), worker).tag("#kept")
    for _ in range(3):
        assert len(worker.search("#kept")) == 1
    assert objects(worker) == before + 1
    del tagged
    assert objects(worker) == before


# --- flat over a long run


def entries(root: object) -> int:
    """How many elements the containers have that can be reached from an object of ours through our objects."""
    count, seen, waiting = 0, set(), [root]
    while waiting:
        value: Any = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            count += len(value)
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset | deque):
            count += len(value)
            waiting += value
        elif type(value).__module__.startswith("ptrtensor.") and not isinstance(value, Tensor):
            slots = [slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())]
            waiting += [getattr(value, slot, None) for slot in slots if slot != "__weakref__"]
            waiting += vars(value).values() if hasattr(value, "__dict__") else []
    return count


def training(worker: pt.Worker) -> Iterator[None]:
    """Small steps without an end, with about every kind of wait."""
    model = pt.send(nn.Linear(2, 1), worker)
    optimizer = torch.optim.Adam(model.parameters())
    data = pt.send(torch.ones(3, 2), worker)
    while True:
        optimizer.zero_grad()
        loss = F.dropout(model(data), 0.5).square().sum()
        loss.backward()
        optimizer.step()
        assert torch.equal(data, data)
        data[data > 0].sum().item()
        yield


def check_flat(worker: pt.Worker, step: Callable[[], object], steps: int, pid: int | None = None) -> None:
    def measured() -> tuple[int, int, int]:
        collect()
        worker.synchronize()
        return worker.stats()["objects"], len(gc.get_objects()), entries(worker)

    for _ in range(100):
        step()
    at_worker, here, ours = measured()
    memory = resident_bytes(pid) if pid is not None else 0
    for _ in range(steps):
        step()
    at_worker_after, here_after, ours_after = measured()
    assert at_worker_after == at_worker
    assert here_after - here < max(steps / 5, 100)
    assert ours_after - ours < max(steps / 5, 100)
    if pid is not None:
        assert resident_bytes(pid) - memory < 4 * MEBI


def test_flat_over_many_steps_in_this_process(virtual_worker: pt.VirtualWorker) -> None:
    steps = training(virtual_worker)
    check_flat(virtual_worker, lambda: next(steps), 300)


def test_flat_over_many_steps_in_a_process(process_worker: pt.ProcessWorker) -> None:
    steps = training(process_worker)
    check_flat(process_worker, lambda: next(steps), 300, process_worker._process.process.pid)


def test_flat_over_many_small_operations(worker: pt.Worker) -> None:
    value = torch.ones(3, device=worker.device)

    def step() -> None:
        nonlocal value
        value = (value * 0.5 + 1)[:3]

    check_flat(worker, step, 2000)


def test_flat_over_failures_that_were_seen(worker: pt.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptrtensor.client.failures.MAX_FAILED_SITES", 50)  # fewer than the failures here
    values, indices = torch.ones(2, device=worker.device), torch.full((2,), 7, device=worker.device)

    def step() -> None:
        bad = values.gather(0, indices)
        with contextlib.suppress(pt.RemoteOpError):
            (bad + 1).cpu()
        worker.recover()

    check_flat(worker, step, 400)


def test_flat_over_waits_that_failed(worker: pt.Worker) -> None:
    values, indices = torch.ones(2, device=worker.device), torch.full((2,), 7, device=worker.device)
    bad = values.gather(0, indices)

    def step() -> None:
        for wait in (bad.nonzero, bad.sum().item, bad.cpu):
            with contextlib.suppress(pt.RemoteOpError):
                wait()

    check_flat(worker, step, 200)


# --- how names leave


class WatchedTransport(InProcessTransport):
    """Counts the messages that this thread sends; the flusher has a thread of its own."""

    def __init__(self) -> None:
        super().__init__(session().handle)
        self.sent_here = 0
        self._thread = threading.get_ident()

    def send(self, message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        self.sent_here += threading.get_ident() == self._thread
        super().send(message, payload, more=more)


@contextlib.contextmanager
def worker_behind(transport: Any) -> Iterator[ConnectedWorker]:
    with contextlib.closing(ConnectedWorker("watched", transport)) as made:
        yield made


def test_nothing_is_sent_by_a_destructor() -> None:
    transport = WatchedTransport()
    with worker_behind(transport) as bob:
        pointers = [pt.send(torch.ones(2), bob) for _ in range(100)]
        results = [pointer + 1 for pointer in pointers for _ in range(20)]
        before = transport.sent_here
        del pointers[::2], results[::3]
        cycle: list[object] = [pointers.pop()]
        cycle.append(cycle)
        del cycle
        collect()
        del pointers, results
        assert transport.sent_here == before
        assert bob.stats()["objects"] == 0


def test_names_leave_in_batches() -> None:
    recording = RecordingTransport(InProcessTransport(session().handle))
    with worker_behind(recording) as bob:
        pointers = [pt.send(torch.ones(1), bob) for _ in range(5000)]
        before = len(recording.messages)
        del pointers
        bob.synchronize()
        assert len(recording.messages) - before <= 20
        dropped = [
            name for line in recording.log().splitlines() if line.startswith("drop ") for name in line.split()[1:]
        ]
        assert len(dropped) == len(set(dropped)) == 5000
        assert bob.stats()["objects"] == 0


@pytest.mark.parametrize("used", [False, True], ids=["only sent", "used"])
def test_names_leave_by_themselves_after_a_while(used: bool, virtual_worker: pt.VirtualWorker) -> None:
    store = virtual_worker._session.store
    pointer = pt.send(torch.ones(2), virtual_worker)
    if used:
        (pointer + 1).cpu()
    assert store.objects
    del pointer
    until(lambda: not store.objects, "the names to leave", seconds=10)


def test_memory_of_a_process_is_freed_after_a_while(process_worker: pt.ProcessWorker) -> None:
    pid = process_worker._process.process.pid
    assert pid in children(process_worker.client._process)
    process_worker.synchronize()
    before = resident_bytes(pid)
    pointer = pt.send(torch.ones(32 * MEBI // 4), process_worker)
    process_worker.synchronize()
    assert resident_bytes(pid) > before + 24 * MEBI
    del pointer
    until(lambda: resident_bytes(pid) < before + 8 * MEBI, "the worker to free the tensor", seconds=10)


def test_pointers_may_outlive_their_worker(make_worker: Callable[[str], pt.Worker]) -> None:
    for kind in ("virtual", "process"):
        bob = make_worker(kind)
        leaf = pt.send(torch.ones(2, requires_grad=True), bob)
        loss = (leaf * leaf).sum()
        bob.close()
        with pytest.raises(pt.WorkerLostError, match=rf"{bob.id} was closed"):
            loss.backward()
        assert repr(loss).startswith("PointerTensor(")
        client = weakref.ref(bob.client)
        del bob, leaf, loss
        collect()
        if kind == "process":  # the fixture still holds both
            assert client() is not None


def test_a_closed_worker_is_let_go_of() -> None:
    bob = pt.VirtualWorker(id="let go of")
    pointer = pt.send(torch.ones(2), bob)
    (pointer + 1).cpu()
    gone = weakref.ref(bob)
    bob.close()
    del bob, pointer
    collect()
    assert gone() is None, sys.getrefcount(gone())
