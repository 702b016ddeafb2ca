"""`RemoteWorker`: several clients of one listener, which know nothing of each other."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from child_processes import ENVIRONMENT, resident_bytes, start, until, until_gone
from conftest import fresh_id
from torch import nn

import ptrtensor as pt
from ptrtensor.client.reference import Reference
from ptrtensor.worker.__main__ import main

MEBI = 1024 * 1024


class Listener:
    """A process that serves whoever connects."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ptrtensor.worker", "--listen", "127.0.0.1:0", "--id", "carol"],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = re.fullmatch(r"worker carol listens on (127\.0\.0\.1:\d+)\n", self.process.stdout.readline())
        assert said is not None
        self.address = said[1]

    def end(self, sent: signal.Signals) -> tuple[int, str]:
        """Its status and what it said on standard error."""
        self.process.send_signal(sent)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors

    def connection(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=30)


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    status, errors = made.end(signal.SIGTERM)
    assert (status, errors) == (-signal.SIGTERM, "")


@pytest.fixture
def connect(listener: Listener) -> Iterator[Callable[[], pt.RemoteWorker]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(pt.RemoteWorker(listener.address, id=fresh_id("remote"))))


def test_it_is_used_as_the_other_workers_are(connect: Callable[[], pt.RemoteWorker]) -> None:
    carol = connect()
    model = pt.send(nn.Linear(2, 1), carol)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = pt.send(torch.ones(3, 2), carol)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(data).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    pt.get(model)
    assert not any(pt.is_pointer(parameter) for parameter in model.parameters())


def test_the_tutorials_idioms_hold(connect: Callable[[], pt.RemoteWorker]) -> None:
    carol = connect()
    x_ptr = pt.send(torch.tensor([1, 2, 3, 4, 5]), carol)
    y_ptr = pt.send(torch.tensor([1, 1, 1, 1, 1]), carol)
    z = x_ptr + x_ptr
    assert isinstance(z, pt.PointerTensor)
    assert list(carol.objects) == [x_ptr.id_at_location, y_ptr.id_at_location, z.id_at_location]
    assert carol.objects[x_ptr.id_at_location].shape == (5,)
    assert x_ptr.location == carol
    assert x_ptr.owner == pt.local_worker
    assert torch.equal(torch.add(x_ptr, y_ptr).cpu(), torch.tensor([2, 3, 4, 5, 6]))
    assert x_ptr.get().tolist() == [1, 2, 3, 4, 5]
    assert y_ptr.get().tolist() == [1, 1, 1, 1, 1]
    assert pt.get(z).tolist() == [2, 4, 6, 8, 10]
    assert not carol.objects

    x = pt.send(torch.tensor([1, 2, 3, 4, 5.0], requires_grad=True), carol)
    y = pt.send(torch.tensor([1, 1, 1, 1, 1.0], requires_grad=True), carol)
    (x * y).sum().backward()
    assert pt.is_pointer(x.grad)
    fetched = x.get()
    assert fetched.requires_grad and fetched.tolist() == [1, 2, 3, 4, 5]
    assert fetched.grad is not None and fetched.grad.tolist() == [1, 1, 1, 1, 1]
    assert y.get().requires_grad
    assert not carol.objects


def test_names_of_one_session_mean_nothing_in_another(connect: Callable[[], pt.RemoteWorker]) -> None:
    one, other = connect(), connect()
    mine, theirs = pt.send(torch.ones(2), one), pt.send(torch.zeros(3), other)
    assert mine.id_at_location == theirs.id_at_location
    assert mine.tolist() == [1, 1]
    assert theirs.tolist() == [0, 0, 0]
    only_mine = pt.send(torch.ones(1), one).tag("#mine")
    assert isinstance(only_mine._reference, Reference)
    with pytest.raises(pt.ObjectNotFoundError):
        other.fetch(only_mine._reference)
    assert other.search("#mine") == []
    assert list(other.objects) == [theirs.id_at_location]
    del mine, only_mine
    one.synchronize()
    assert one.stats()["objects"] == 0
    assert theirs.tolist() == [0, 0, 0]
    with pytest.raises(pt.WorkerMismatchError):
        pt.send(torch.ones(3), one) + theirs


def test_failures_of_one_session_are_not_anothers(connect: Callable[[], pt.RemoteWorker]) -> None:
    one, other = connect(), connect()
    bad = torch.ones(2, device=one.device).gather(0, torch.full((2,), 7, device=one.device))
    with pytest.raises(pt.RemoteOpError):
        bad.cpu()
    other.synchronize()
    assert other.stats()["poisoned"] == 0
    other.recover()
    with pytest.raises(pt.RemoteOpError):
        bad.cpu()


def test_flags_of_one_session_do_not_reach_another(connect: Callable[[], pt.RemoteWorker]) -> None:
    one, other = connect(), connect()
    torch.set_default_dtype(torch.float64)
    wide = [torch.ones(2, device=one.device), torch.ones(2, dtype=torch.int64, device=one.device) / 2]
    one.synchronize()
    torch.set_default_dtype(torch.float32)
    narrow = [torch.ones(2, device=other.device), torch.ones(2, dtype=torch.int64, device=other.device) / 2]
    assert [tensor.cpu().dtype for tensor in wide] == [torch.float64] * 2
    assert [tensor.cpu().dtype for tensor in narrow] == [torch.float32] * 2
    torch.use_deterministic_algorithms(True)
    try:
        torch.ones(2, device=one.device).cumsum(0).cpu()
    finally:
        torch.use_deterministic_algorithms(False)
    indices = torch.tensor([0, 0, 1], device=other.device)
    filled = torch.zeros(2, device=other.device).index_put_((indices,), torch.ones(3, device=other.device), True)
    assert filled.tolist() == [2, 1]


def test_seeds_of_one_session_do_not_reach_another(connect: Callable[[], pt.RemoteWorker]) -> None:
    one, other = connect(), connect()
    one.manual_seed(1)
    other.manual_seed(2)
    drawn: dict[pt.Worker, list[torch.Tensor]] = {one: [], other: []}
    for worker in (one, other, other, one, other, one):
        drawn[worker].append(torch.rand(3, device=worker.device).cpu())
    for worker, seed in ((one, 1), (other, 2)):
        torch.manual_seed(seed)
        assert torch.equal(torch.stack(drawn[worker]), torch.stack([torch.rand(3) for _ in range(3)]))


def test_clients_at_the_same_time(connect: Callable[[], pt.RemoteWorker]) -> None:
    workers = [connect() for _ in range(3)]
    results: dict[int, float] = {}

    def compute(number: int) -> None:
        with torch.random.fork_rng():
            value = torch.full((64,), float(number), device=workers[number].device)
            for step in range(400):
                value = value * 0.5 + step
                if step % 50 == 0:
                    value.sum().item()
            results[number] = value[0].item()

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(results) == {0, 1, 2}
    for number, result in results.items():
        expected = torch.tensor(float(number))
        for step in range(400):
            expected = expected * 0.5 + step
        assert result == expected.item()


def test_a_client_that_stops_in_the_middle_of_a_message(
    listener: Listener, connect: Callable[[], pt.RemoteWorker]
) -> None:
    with listener.connection() as half, listener.connection() as silent:
        half.sendall(b"pt\x01\x00")
        carol = connect()
        assert pt.send(torch.ones(2), carol).tolist() == [1, 1]
        silent.close()
        assert pt.send(torch.ones(2), carol).tolist() == [1, 1]


PROGRAM = """
import time, torch, ptrtensor as pt
carol = pt.RemoteWorker("ADDRESS", id="carol")
held = pt.send(torch.ones(32 * 1024 * 1024), carol)
carol.synchronize()
print("holding", carol.stats()["objects"], flush=True)
time.sleep(100)
"""


def test_what_a_client_held_is_freed_when_it_dies_and_others_lose_nothing(
    listener: Listener, connect: Callable[[], pt.RemoteWorker]
) -> None:
    carol = connect()
    kept = pt.send(torch.arange(4.0), carol)
    carol.synchronize()
    before = resident_bytes(listener.process.pid)
    with start(PROGRAM.replace("ADDRESS", listener.address)) as program:
        assert program.says("holding ") == "1"
        assert resident_bytes(listener.process.pid) > before + 96 * MEBI
        os.kill(program.pid, signal.SIGKILL)
        assert program.ends() == -signal.SIGKILL
    until(lambda: resident_bytes(listener.process.pid) < before + 32 * MEBI, "the memory to be freed", seconds=20)
    assert kept.tolist() == [0, 1, 2, 3]
    assert carol.stats()["objects"] == 1


def test_a_new_session_starts_empty(listener: Listener) -> None:
    for _ in range(3):
        with contextlib.closing(pt.RemoteWorker(listener.address, id="returning")) as carol:
            assert carol.objects == {}
            pointer = pt.send(torch.ones(2), carol).tag("#left")
            assert carol.search("#left") and pointer.tolist() == [1, 1]


def test_without_a_name_it_is_called_by_its_address(listener: Listener) -> None:
    with contextlib.closing(pt.RemoteWorker(listener.address)) as carol:
        assert carol.id == listener.address
        with pytest.raises(pt.PtrTensorError, match="already"):
            pt.RemoteWorker(listener.address)


def test_an_error_nobody_saw_is_raised_at_close(listener: Listener) -> None:
    carol = pt.RemoteWorker(listener.address, id="closing")
    torch.ones(2, device=carol.device)[torch.tensor([5])]
    with pytest.raises(pt.RemoteOpError, match="index 5 is out of bounds"):
        carol.close()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_the_listener_ends(sent: signal.Signals) -> None:
    listener = Listener()
    one, other = (pt.RemoteWorker(listener.address, id=fresh_id("lost")) for _ in range(2))
    pointer = pt.send(torch.ones(2), one)
    assert pointer.tolist() == [1, 1]
    status, errors = listener.end(sent)
    assert status == (130 if sent == signal.SIGINT else -sent)
    assert errors == ""
    for use in (pointer.cpu, other.synchronize, other.stats):
        with pytest.raises(pt.WorkerLostError, match="lost"):
            use()
    one.close()
    other.close()
    with pytest.raises(pt.WorkerLostError, match="nobody answers"):
        pt.RemoteWorker(listener.address)
    until_gone(listener.process.pid)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_it_listens_on_loopback_only(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--listen", address]) == 1
    assert "refusing to listen on" in capsys.readouterr().err


def test_an_address_that_is_taken(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--listen", listener.address]) == 1
    assert "in use" in capsys.readouterr().err


def test_an_address_to_listen_on_of_a_wrong_form(capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999"):
        assert main(["--listen", address]) == 1
        assert capsys.readouterr().err.startswith("ptrtensor-worker: ")
