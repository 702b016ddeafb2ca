"""Any thread may use any pointer; the order at a worker is the order of the calls (D17)."""

import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from collecting import collect
from torch import Tensor, nn
from torch.nn import functional as F

import ptrtensor as pt

SECONDS = 60.0
MEBI = 1024 * 1024


@pytest.fixture(autouse=True)
def often_switched() -> Iterator[None]:
    """Threads take turns so often that what can go wrong does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(*acts: Callable[[], object]) -> None:
    """Run all at the same time; the first error of any is raised here."""
    errors: list[BaseException] = []
    together = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> None:
        try:
            together.wait(SECONDS)
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    for error in errors:
        raise error


def test_threads_share_pointers(worker: pt.Worker) -> None:
    shared = torch.arange(8.0, device=worker.device)

    def act(number: int) -> Callable[[], None]:
        def compute() -> None:
            value, expected = shared + number, torch.arange(8.0) + number
            for step in range(150):
                value, expected = value * 0.5 + step, expected * 0.5 + step
                if step % 30 == 0:
                    assert torch.equal(value.cpu(), expected)
            assert torch.equal(value.cpu(), expected)

        return compute

    in_threads(*(act(number) for number in range(4)))
    assert shared.tolist() == list(range(8))


def test_each_thread_sees_its_own_order(worker: pt.Worker) -> None:
    """In-place operations on a tensor of all: no thread's writes are lost, and each reads its own."""
    shared = torch.zeros(4, device=worker.device)

    def act(number: int) -> Callable[[], None]:
        def compute() -> None:
            mine = shared[number]
            for step in range(200):
                mine.mul_(2).sub_(step)
                if step % 50 == 0:
                    before = mine.item()
                    mine.add_(1)
                    assert mine.item() == before + 1
                    mine.sub_(1)
                mine.add_(step).mul_(0.5).add_(1)

        return compute

    in_threads(*(act(number) for number in range(4)))
    assert shared.tolist() == [200.0] * 4


def test_the_order_of_calls_holds_across_threads(worker: pt.Worker) -> None:
    """One thread writes, tells another, and that one reads what was written."""
    shared = torch.zeros((), device=worker.device)
    turn = [threading.Semaphore(1), threading.Semaphore(0)]

    def act(number: int) -> Callable[[], None]:
        def compute() -> None:
            for step in range(60):
                assert turn[number].acquire(timeout=SECONDS)
                shared.mul_(2).add_(number)
                if step % 20 == 0:
                    shared.item()
                shared.remainder_(1009)
                turn[1 - number].release()

        return compute

    in_threads(act(0), act(1))
    expected = 0
    for step in range(120):
        expected = (expected * 2 + step % 2) % 1009
    assert shared.item() == expected


def test_backward_in_several_threads(worker: pt.Worker) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    data = [torch.randn(5, 4) for _ in range(4)]
    expected = [torch.autograd.grad(model(batch).square().sum(), list(model.parameters())) for batch in data]
    pt.send(model, worker)
    parameters = list(model.parameters())

    def act(number: int) -> Callable[[], None]:
        def compute() -> None:
            batch = pt.send(data[number], worker)
            for _ in range(10):
                gradients = torch.autograd.grad(model(batch).square().sum(), parameters)
                for gradient, wanted in zip(gradients, expected[number], strict=True):
                    torch.testing.assert_close(gradient.cpu(), wanted)

        return compute

    in_threads(*(act(number) for number in range(4)))


def test_gradients_of_several_threads_add_up_in_one_leaf(worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(3, requires_grad=True), worker)
    (leaf * 0).sum().backward()

    def act() -> None:
        for _ in range(20):
            (leaf * 2).sum().backward()

    in_threads(act, act, act)
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [120, 120, 120]


def test_threads_that_use_several_workers(worker: pt.Worker, second_worker: pt.Worker) -> None:
    def act() -> None:
        here = torch.arange(6.0)
        for _ in range(15):
            there = pt.send(here, worker) * 2
            other = pt.move(there, second_worker) + 1
            assert pt.get(other).tolist() == [1, 3, 5, 7, 9, 11]

    in_threads(act, act, act)


def test_large_values_both_ways_at_the_same_time(process_worker: pt.ProcessWorker) -> None:
    """More bytes than the system's buffers hold cross each other, so who sends must go on receiving."""
    value = torch.arange(2 * MEBI, dtype=torch.float32)
    there = pt.send(value, process_worker)

    def upload() -> None:
        for _ in range(12):
            assert pt.send(value, process_worker)[-1].item() == 2 * MEBI - 1

    def download() -> None:
        for _ in range(12):
            assert torch.equal(there.cpu(), value)

    def compute() -> None:
        total = torch.zeros((), device=process_worker.device)
        for step in range(300):
            total = total + step
        assert total.item() == 300 * 299 / 2

    in_threads(upload, download, upload, download, compute)


def test_a_thread_that_uploads_to_a_busy_worker_does_not_stop_another(make_worker: Callable[[str], pt.Worker]) -> None:
    bob = make_worker("process")
    assert isinstance(bob, pt.ProcessWorker)
    pid = bob._process.process.pid
    value = torch.ones(2, device=bob.device)
    assert (value * 0.5 + 1).tolist() == [1.5, 1.5]
    results: list[Tensor] = []
    uploads: list[Tensor] = []

    def stream() -> None:
        result = value
        for _ in range(500):
            result = result * 0.5 + 1
        results.append(result)

    upload = threading.Thread(target=lambda: uploads.append(pt.send(torch.ones(32 * MEBI), bob)), daemon=True)
    streaming = threading.Thread(target=stream, daemon=True)
    os.kill(pid, signal.SIGSTOP)
    try:
        upload.start()
        upload.join(0.5)
        assert upload.is_alive()
        streaming.start()
        streaming.join(5)
        assert not streaming.is_alive(), "posting waits for the upload of another thread"
        assert upload.is_alive()
    finally:
        os.kill(pid, signal.SIGCONT)
        upload.join(SECONDS)
        streaming.join(SECONDS)
    assert uploads[0].sum().item() == 32 * MEBI
    assert results[0].tolist() == [2, 2]


def test_pointers_that_die_in_another_thread(worker: pt.Worker) -> None:
    collect()
    worker.synchronize()
    before = worker.stats()["objects"]
    dying: list[object] = []
    computing = True

    def compute() -> None:
        nonlocal computing
        try:
            for step in range(300):
                value = torch.full((2,), float(step), device=worker.device)
                cycle: list[object] = [value, value + 1]
                cycle.append(cycle)
                dying.append(cycle)
                assert (value * 2)[0].item() == 2 * step
        finally:
            computing = False

    def collect_young() -> None:
        while computing:
            dying.clear()
            gc.collect(0)

    in_threads(compute, collect_young)
    dying.clear()
    collect()
    worker.synchronize()
    assert worker.stats()["objects"] == before


def test_one_of_many_threads_takes_a_value_away(worker: pt.Worker) -> None:
    for turn in range(30):
        pointer = pt.send(torch.full((2,), float(turn)), worker)
        taken: list[Tensor] = []
        refused: list[Exception] = []

        def take(pointer: Tensor = pointer, taken: list[Tensor] = taken, refused: list[Exception] = refused) -> None:
            try:
                taken.append(pt.get(pointer))
            except pt.SpentPointerError as error:
                refused.append(error)

        in_threads(take, take, take)
        assert [value.tolist() for value in taken] == [[turn, turn]]
        assert len(refused) == 2


def test_modes_of_torch_belong_to_their_thread(worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)

    def without_gradients() -> None:
        for _ in range(50):
            with torch.no_grad():
                assert not (leaf * 2).requires_grad

    def with_gradients() -> None:
        for _ in range(50):
            assert (leaf * 2).requires_grad

    def in_context() -> None:
        for _ in range(50):
            with worker:
                assert pt.is_pointer(torch.zeros(2))

    def without_context() -> None:
        for _ in range(50):
            assert not pt.is_pointer(torch.zeros(2))

    in_threads(without_gradients, with_gradients, in_context, without_context)


def test_errors_reach_the_thread_that_waits(worker: pt.Worker) -> None:
    indices = torch.full((2,), 7, device=worker.device)
    good = torch.ones(2, device=worker.device)

    def fail() -> None:
        for _ in range(20):
            with pytest.raises(pt.RemoteOpError, match="gather"):
                good.gather(0, indices).cpu()

    def succeed() -> None:
        for _ in range(60):
            assert (good + 1).tolist() == [2, 2]

    in_threads(fail, succeed, fail)
    worker.recover()


def test_random_numbers_are_drawn_once_each(worker: pt.Worker) -> None:
    drawn: list[Tensor] = []

    def draw() -> None:
        for _ in range(40):
            drawn.append(torch.rand(4, device=worker.device).cpu())

    in_threads(draw, draw, draw)
    assert len({tuple(values.tolist()) for values in drawn}) == 120


def test_making_and_closing_workers_in_threads() -> None:
    indices: list[int] = []

    def make(number: int) -> Callable[[], None]:
        def act() -> None:
            for turn in range(12):
                with contextlib.closing(pt.VirtualWorker(id=f"made {number} {turn}")) as mine:
                    indices.append(mine.device.index)
                    pointer = torch.full((2,), float(number), device=mine.device)
                    assert pt.is_pointer(pointer) and pointer.location is mine
                    assert pointer.tolist() == [number, number]

        return act

    in_threads(*(make(number) for number in range(4)))


def test_one_of_many_threads_gets_a_name() -> None:
    made: list[pt.VirtualWorker] = []
    refused: list[Exception] = []

    def act() -> None:
        try:
            made.append(pt.VirtualWorker(id="wanted by many"))
        except pt.PtrTensorError as error:
            refused.append(error)

    try:
        for _ in range(10):
            in_threads(act, act, act, act)
            assert len(made) == 1
            assert len(refused) == 3
            refused.clear()
            made.pop().close()
    finally:
        for worker in made:
            worker.close()


def test_closing_while_other_threads_compute(make_worker: Callable[[str], pt.Worker]) -> None:
    for kind in ("virtual", "process"):
        bob = make_worker(kind)
        started = threading.Semaphore(0)

        def compute(bob: pt.Worker = bob, started: threading.Semaphore = started) -> None:
            value = torch.ones(2, device=bob.device)
            with pytest.raises(pt.WorkerLostError, match="closed"):
                for step in range(1_000_000):
                    value = value * 0.5 + 1
                    if step == 50:
                        started.release()
                    if step % 20 == 0:
                        value.sum().item()

        def close(bob: pt.Worker = bob, started: threading.Semaphore = started) -> None:
            for _ in range(2):
                assert started.acquire(timeout=SECONDS)
            bob.close()

        in_threads(compute, compute, close)


def test_training_in_threads_gives_what_it_gives_alone(worker: pt.Worker) -> None:
    def trained(number: int, at: pt.Worker | None) -> list[Tensor]:
        generator = torch.Generator().manual_seed(number)
        weights = [torch.randn(3, 4, generator=generator), torch.randn(1, 3, generator=generator)]
        data, target = torch.randn(6, 4, generator=generator), torch.randn(6, 1, generator=generator)
        if at is not None:
            weights = [pt.send(weight, at) for weight in weights]
            data, target = pt.send(data, at), pt.send(target, at)
        for weight in weights:
            weight.requires_grad_()
        optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9)
        for _ in range(15):
            optimizer.zero_grad()
            F.mse_loss(F.linear(F.linear(data, weights[0]).relu(), weights[1]), target).backward()
            optimizer.step()
        return [weight.detach().cpu() for weight in weights]

    results: dict[int, list[Tensor]] = {}

    def act(number: int) -> Callable[[], None]:
        return lambda: results.__setitem__(number, trained(number, worker))

    in_threads(*(act(number) for number in range(4)))
    for number, weights in results.items():
        for weight, expected in zip(weights, trained(number, None), strict=True):
            torch.testing.assert_close(weight, expected)


def test_a_flusher_and_a_caller_at_random_moments(process_worker: pt.ProcessWorker) -> None:
    """Pauses around the flusher's delay, so that both send at the same time."""
    pause = random.Random(5)
    value = torch.zeros((), device=process_worker.device)
    expected = 0
    for step in range(150):
        for _ in range(pause.randrange(12)):
            value = value + step
            expected += step
        time.sleep(pause.random() * 0.006)
    assert value.item() == expected
