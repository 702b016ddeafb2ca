"""A worker whose process dies or stands still: an error in seconds, no hang, nobody else harmed."""

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import pytest
import torch
from child_processes import Program, children, is_running, start, until_gone
from torch import Tensor

import ptrtensor as pt
from ptrtensor._torch.subclass import on_gradient

PROMPT_SECONDS = 20.0
"""A bound on "in seconds" for a machine that is busy with other tests."""

MEBI = 1024 * 1024


def pid_of(worker: pt.Worker) -> int:
    assert isinstance(worker, pt.ProcessWorker)
    return worker._process.process.pid


@pytest.fixture
def doomed(make_worker: Callable[[str], pt.Worker]) -> Iterator[pt.Worker]:
    """A worker process that a test may kill or stop."""
    worker = make_worker("process")
    yield worker
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid_of(worker), signal.SIGCONT)


@contextlib.contextmanager
def promptly() -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < PROMPT_SECONDS


@contextlib.contextmanager
def killed_in_the_middle(worker: pt.Worker) -> Iterator[None]:
    """Stopped now, and killed a moment later while the body waits for it."""
    os.kill(pid_of(worker), signal.SIGSTOP)
    timer = threading.Timer(0.2, os.kill, (pid_of(worker), signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def check_lost(worker: pt.Worker, pointer: Tensor, *others: pt.Worker) -> None:
    """Every use of it says so, in the same words; the others go on; it can be closed and replaced."""
    for use in (
        lambda: pointer.cpu(),
        lambda: pointer + 1,
        lambda: pointer.add_(1),
        lambda: pointer.sum().item(),
        lambda: pt.get(pointer),
        lambda: pt.send(torch.ones(2), worker),
        lambda: torch.zeros(2, device=worker.device),
        worker.synchronize,
        worker.recover,
        worker.stats,
        lambda: worker.search("tag"),
        lambda: worker.manual_seed(1),
        lambda: worker.objects,
        pt.synchronize,
    ):
        with promptly(), pytest.raises(pt.WorkerLostError, match=rf"{worker.id} is lost .*start it again"):
            use()
    assert tuple(pointer.shape) == (2,)
    assert repr(pointer).startswith("PointerTensor(")
    for other in others:
        assert (torch.ones(2, device=other.device) + 1).tolist() == [2, 2]
    with promptly():
        worker.close()
    worker.close()
    assert not is_running(pid_of(worker))
    with pytest.raises(pt.WorkerLostError):
        pointer.cpu()
    with contextlib.closing(pt.VirtualWorker(id=worker.id)) as replacement:
        assert pt.send(torch.ones(2), replacement).tolist() == [1, 1]


def test_killed_while_streaming(doomed: pt.Worker, process_worker: pt.Worker, virtual_worker: pt.Worker) -> None:
    value = torch.ones(2, device=doomed.device)
    first = value
    with promptly(), pytest.raises(pt.WorkerLostError):
        for count in range(1_000_000):
            value = value * 0.5 + 1
            if count == 1000:
                os.kill(pid_of(doomed), signal.SIGKILL)
    check_lost(doomed, first, process_worker, virtual_worker)


def test_killed_while_the_caller_waits(doomed: pt.Worker, virtual_worker: pt.Worker) -> None:
    pointer = torch.ones(2, device=doomed.device)
    with promptly(), killed_in_the_middle(doomed), pytest.raises(pt.WorkerLostError):
        pointer.cpu()
    check_lost(doomed, pointer, virtual_worker)


def test_killed_while_the_caller_uploads(doomed: pt.Worker, virtual_worker: pt.Worker) -> None:
    pointer = torch.ones(2, device=doomed.device)
    pointer.cpu()
    with promptly(), killed_in_the_middle(doomed), pytest.raises(pt.WorkerLostError):
        pt.send(torch.ones(16 * MEBI), doomed)
    check_lost(doomed, pointer, virtual_worker)


def test_killed_while_the_caller_downloads(doomed: pt.Worker, virtual_worker: pt.Worker) -> None:
    pointer = torch.ones(2, device=doomed.device)
    large = torch.ones(16 * MEBI, device=doomed.device)
    large.cpu()
    timer = threading.Timer(0.1, os.kill, (pid_of(doomed), signal.SIGKILL))
    timer.start()
    with promptly(), pytest.raises(pt.WorkerLostError):
        while True:
            assert large.cpu().numel() == 16 * MEBI
    timer.join()
    check_lost(doomed, pointer, virtual_worker)


def test_killed_while_the_caller_waits_for_room(doomed: pt.Worker, virtual_worker: pt.Worker) -> None:
    pointer = torch.ones(2, device=doomed.device)
    value = pointer * 1
    with promptly(), killed_in_the_middle(doomed), pytest.raises(pt.WorkerLostError):
        for _ in range(1_000_000):
            value = value * 0.5
    check_lost(doomed, pointer, virtual_worker)


def test_killed_while_several_threads_wait(doomed: pt.Worker) -> None:
    pointer = torch.ones(2, device=doomed.device)
    pointer.cpu()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            pointer.cpu()
        except BaseException as error:
            raised.append(error)

    with killed_in_the_middle(doomed):
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PROMPT_SECONDS)
            assert not thread.is_alive()
    assert [type(error) for error in raised] == [pt.WorkerLostError] * 3


def test_killed_in_backward(doomed: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), doomed)
    result = leaf * 1
    for _ in range(200):
        result = result * 0.5 + 1
    doomed.synchronize()
    on_gradient(result, lambda gradient: os.kill(pid_of(doomed), signal.SIGKILL))
    with promptly(), pytest.raises(pt.WorkerLostError):
        result.sum().backward()
        doomed.synchronize()
    assert leaf.grad is None or pt.is_pointer(leaf.grad)


def test_the_error_does_not_grow_with_each_use(doomed: pt.Worker) -> None:
    pointer = torch.ones(2, device=doomed.device)
    os.kill(pid_of(doomed), signal.SIGKILL)
    lengths = []
    for _ in range(20):
        with pytest.raises(pt.WorkerLostError) as caught:
            pointer.cpu()
        lengths.append(len("".join(traceback.format_exception(caught.value))))
    assert lengths[-1] <= lengths[1] * 1.5


def test_data_of_a_lost_worker_does_not_reach_the_others(doomed: pt.Worker, virtual_worker: pt.Worker) -> None:
    source = torch.ones(2, device=doomed.device)
    target = torch.zeros(2, device=virtual_worker.device)
    here = torch.zeros(2)
    os.kill(pid_of(doomed), signal.SIGKILL)
    uses: list[Callable[[], object]] = [
        lambda: target.copy_(source),
        lambda: here.copy_(source),
        lambda: pt.move(source, virtual_worker),
        lambda: source.to(virtual_worker.device),
    ]
    for use in uses:
        with pytest.raises(pt.WorkerLostError):
            use()
    assert target.tolist() == [0, 0]
    assert here.tolist() == [0, 0]


def test_a_worker_process_that_cannot_start() -> None:
    before = children(os.getpid())
    with promptly(), pytest.raises(pt.PtrTensorError, match="cannot compute on 'meta'"):
        pt.ProcessWorker(id="cannot start", compute_device="meta")
    for pid in children(os.getpid()):
        assert pid in before
    with contextlib.closing(pt.VirtualWorker(id="cannot start")):  # the name is free
        pass


# --- a worker that stands still

STOPPED = """
import signal, time, torch, ptrtensor as pt
bob = pt.ProcessWorker(id="bob")
pointer = torch.ones(2, device=bob.device)
large = torch.ones(16 * 1024 * 1024)

def stream():
    value = pointer
    while True:
        value = value * 0.5

def check():
    assert (pointer + 1).tolist() == [2, 2]
    kept = pt.send(large, bob)
    value = pointer
    for _ in range(300):
        value = value * 0.5 + 1
    assert abs(value.sum().item() - 4) < 1e-3
    assert kept.sum().item() == 16 * 1024 * 1024

WAITS = [
    lambda: pointer.cpu(),
    lambda: pt.send(large, bob),
    stream,
    bob.synchronize,
    lambda: (pointer * 2).nonzero(),
]
may_go_on = []
signal.signal(signal.SIGUSR1, lambda *_: may_go_on.append(1))
print("worker", bob._process.process.pid, flush=True)
for number in range(FIRST, len(WAITS)):
    check()
    print("ready", number, flush=True)
    while not may_go_on:
        time.sleep(0.01)
    may_go_on.clear()
    print("waiting", number, flush=True)
    try:
        WAITS[number]()
    except KeyboardInterrupt:
        print("interrupted", number, flush=True)
        if FIRST:
            raise
check()
bob.close()
print("went on", flush=True)
"""


def stop_and_interrupt(program: Program, worker: int, number: int) -> None:
    program.says(f"ready {number}")
    os.kill(worker, signal.SIGSTOP)
    os.kill(program.pid, signal.SIGUSR1)
    program.says(f"waiting {number}")
    time.sleep(0.2)  # most likely it waits now; if it does not yet, Ctrl-C must do as well
    with promptly():
        program.interrupt()
        program.says(f"interrupted {number}")


@contextlib.contextmanager
def stopped(first: int) -> Iterator[tuple[Program, int]]:
    with start(STOPPED.replace("FIRST", str(first))) as program:
        worker = int(program.says("worker "))
        try:
            yield program, worker
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
    until_gone(worker)


def test_ctrl_c_ends_the_wait_for_a_stopped_worker() -> None:
    with stopped(0) as (program, worker):
        for number in range(5):
            stop_and_interrupt(program, worker, number)
            os.kill(worker, signal.SIGCONT)
        program.says("went on")
        assert program.ends() == 0, program.errors
        assert program.errors == ""


def test_ctrl_c_ends_a_program_whose_worker_stands_still() -> None:
    """Nothing more can be learnt from such a worker, so the exit does not wait for it for ever."""
    with stopped(4) as (program, worker):
        stop_and_interrupt(program, worker, 4)
        assert program.ends(2 * PROMPT_SECONDS) != 0
        assert "KeyboardInterrupt" in program.errors


def test_a_failure_that_was_reported_is_raised_at_close_though_the_worker_is_gone(
    make_worker: Callable[[str], pt.Worker],
) -> None:
    bob = make_worker("process")
    assert isinstance(bob, pt.ProcessWorker)
    values, indices = torch.ones(2, device=bob.device), torch.full((2,), 7, device=bob.device)
    assert values.sum().item() == 2
    bad = values.gather(0, indices)
    bob.client.flush()
    time.sleep(0.3)  # it has been run and reported, and nobody has looked
    os.kill(bob._process.process.pid, signal.SIGKILL)
    bob._process.process.wait()
    with pytest.raises(pt.RemoteOpError, match="gather"):
        bob.close()
    bob.close()
    del bad


def test_commands_of_a_lost_worker_are_told_at_close(make_worker: Callable[[str], pt.Worker]) -> None:
    bob = make_worker("process")
    assert isinstance(bob, pt.ProcessWorker)
    value = torch.ones(2, device=bob.device)
    bob.synchronize()
    os.kill(bob._process.process.pid, signal.SIGKILL)
    bob._process.process.wait()
    with contextlib.suppress(pt.WorkerLostError):
        value = value + 1
    time.sleep(0.3)  # the thread that flushes finds out, and nobody else
    with pytest.raises(pt.WorkerLostError):
        bob.close()
    bob.close()
