"""Workers and devices that are not there, are there no more, or are there twice."""

import contextlib
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from child_processes import children, run, until
from conftest import fresh_id

import ptrtensor as pt

WAIT_SECONDS = 20.0


@contextlib.contextmanager
def virtual(name: str) -> Iterator[pt.VirtualWorker]:
    with contextlib.closing(pt.VirtualWorker(id=name)) as worker:
        yield worker


# --- device indices


@pytest.mark.parametrize("index", [128, 255])
def test_an_index_that_no_worker_has(index: int, virtual_worker: pt.Worker) -> None:
    device = torch.device("lazy", index)  # torch keeps eight bits of it, with a sign
    said = rf"no worker has the device .*is {virtual_worker.id}"
    with pytest.raises(pt.PtrTensorError, match=said):
        torch.zeros(2, device=device)
    with pytest.raises(pt.PtrTensorError, match=said):
        torch.ones(2).to(device)


def test_a_device_without_an_index(worker: pt.Worker) -> None:
    pointer = torch.ones(2, device=worker.device)
    calls: list[Callable[[], object]] = [
        lambda: torch.zeros(2, device="lazy"),
        lambda: torch.zeros(2, device="lazy:0"),
    ]
    for call in calls:
        with pytest.raises((pt.PtrTensorError, RuntimeError)):
            call()
    with pytest.raises(pt.PtrTensorError, match="no worker has the index 0"):
        torch.zeros(2, device="lazy:0")
    assert pointer.tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["virtual", "process"])
def test_the_device_of_a_closed_worker(kind: str, make_worker: Callable[[str], pt.Worker]) -> None:
    bob = make_worker(kind)
    pointer = torch.ones(2, device=bob.device)
    bob.close()
    bob.close()
    uses: list[Callable[[], object]] = [
        lambda: torch.zeros(2, device=bob.device),
        lambda: torch.ones(2).to(bob.device),
        lambda: pt.send(torch.ones(2), bob),
        lambda: torch.nn.Linear(2, 2, device=bob.device),
        lambda: torch.nn.Linear(2, 2).to(bob.device),
        pointer.cpu,
        lambda: pointer + 1,
        lambda: pointer.add_(1),
        lambda: pt.get(pointer),
        bob.synchronize,
        bob.recover,
        bob.stats,
        lambda: bob.manual_seed(1),
        lambda: bob.search("tag"),
    ]
    for use in uses:
        with pytest.raises(pt.WorkerLostError, match=rf"{bob.id}.* closed"):
            use()
    with bob, pytest.raises(pt.WorkerLostError, match=rf"{bob.id}.* closed"):
        torch.zeros(2)
    assert bob.id in repr(bob)
    assert bob.id in repr(pointer)


def test_no_more_than_127_workers_at_a_time() -> None:
    with contextlib.ExitStack() as stack:
        indices = set()
        with pytest.raises(pt.PtrTensorError, match=r"no device index is left for worker .*close\(\)"):
            for _ in range(128):
                indices.add(stack.enter_context(virtual(fresh_id("many"))).device.index)
        assert 100 < len(indices) <= 127
        assert indices <= set(range(1, 128))
    with virtual(fresh_id("one more")) as worker:
        assert torch.ones(2, device=worker.device).tolist() == [1, 1]


def test_many_workers_one_after_the_other() -> None:
    for number in range(300):
        with virtual("again and again") as worker:
            pointer = torch.full((2,), float(number), device=worker.device)
            assert pointer.tolist() == [number, number]


def test_many_workers_whose_pointers_die_in_cycles() -> None:
    gc.disable()
    try:
        for _ in range(200):
            with virtual("cycle") as worker:
                cycle: list[object] = [torch.ones(2, device=worker.device)]
                cycle.append(cycle)
    finally:
        gc.enable()


def test_an_index_waits_until_no_pointer_of_its_worker_lives() -> None:
    with virtual("first") as first:
        index = first.device.index
        pointer = torch.ones(2, device=first.device)
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(virtual(fresh_id("later"))) for _ in range(20)]
        assert index not in {other.device.index for other in others}
        uses: list[Callable[[], object]] = [pointer.cpu, lambda: pointer + 1, lambda: torch.zeros_like(pointer)]
        for use in uses:
            with pytest.raises(pt.WorkerLostError, match="first was closed"):
                use()
        assert all(not other.objects for other in others)


def test_a_pointer_whose_worker_is_closed_does_not_meet_its_successor() -> None:
    with virtual("bob") as first:
        old = torch.ones(2, device=first.device)
    with virtual("bob") as second:
        new = torch.ones(2, device=second.device)
        assert old.device != new.device
        uses: list[Callable[[], object]] = [
            lambda: old + new,
            lambda: new + old,
            lambda: new.copy_(old),
            lambda: torch.equal(new, old),
        ]
        for use in uses:
            with pytest.raises(pt.PtrTensorError):
                use()
        assert new.tolist() == [1, 1]


# --- names


@pytest.mark.parametrize("kind", ["virtual", "process"])
def test_two_workers_with_one_name(kind: str, process_worker: pt.ProcessWorker) -> None:
    before = children(os.getpid())
    with pytest.raises(pt.PtrTensorError, match=rf"there is a worker '{process_worker.id}' already: close\(\) it"):
        pt.VirtualWorker(id=process_worker.id) if kind == "virtual" else pt.ProcessWorker(id=process_worker.id)
    assert (torch.ones(2, device=process_worker.device) + 1).tolist() == [2, 2]
    until(lambda: set(children(os.getpid())) <= set(before), "the second worker's process to end")


@pytest.mark.parametrize("id", ["", "two\nlines", "\ud800", "x" * 201, "me", 3, None])
def test_an_id_that_cannot_be_one(id: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object) -> None:
        raise AssertionError("the id is looked at before anything is opened")

    monkeypatch.setattr("ptrtensor.api.WorkerProcess", opened)
    monkeypatch.setattr("ptrtensor.api.connect", opened)
    makers: list[Callable[[], object]] = [
        lambda: pt.VirtualWorker(id=id),
        lambda: pt.ProcessWorker(id=id),
        lambda: pt.RemoteWorker("127.0.0.1:7700", id=id),
    ]
    for make in makers if id is not None else makers[:2]:
        with pytest.raises(pt.PtrTensorError, match=r"a worker's id is a text|'me' is the id of this process"):
            make()


def test_an_id_that_is_taken_is_seen_before_anything_is_opened(
    virtual_worker: pt.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptrtensor.api.WorkerProcess", None)
    monkeypatch.setattr("ptrtensor.api.connect", None)
    with pytest.raises(pt.PtrTensorError, match="already"):
        pt.ProcessWorker(id=virtual_worker.id)
    with pytest.raises(pt.PtrTensorError, match="already"):
        pt.RemoteWorker("127.0.0.1:7700", id=virtual_worker.id)


def test_an_id_that_looks_like_an_option() -> None:
    with contextlib.closing(pt.ProcessWorker("--help")) as worker:
        assert torch.ones(2, device=worker.device).tolist() == [1, 1]


def test_a_refused_worker_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr("ptrtensor.api.check_id", lambda id: None)
    with virtual("bob"):
        for _ in range(3):
            with pytest.raises(pt.PtrTensorError, match="already"):
                pt.VirtualWorker(id="bob")
    assert threading.active_count() == before


def test_a_name_is_free_again_after_close() -> None:
    for _ in range(3):
        with virtual("free again") as worker:
            assert worker.objects == {}


# --- where a worker computes


@pytest.mark.parametrize("device", ["nope", "", "\ud800", "cuda:-2", 0, None])
def test_a_compute_device_that_torch_does_not_know(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptrtensor.api.WorkerProcess", None)
    with pytest.raises(pt.PtrTensorError, match=r"compute_device"):
        pt.ProcessWorker("bob", compute_device=device)


@pytest.mark.parametrize("device", ["meta", torch.device("lazy", 1)])
def test_a_compute_device_where_nothing_can_be_computed(
    device: str | torch.device, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(pt.ProtocolError, match=rf"bob refused: .* cannot compute on '{device}': tensors there have no"):
        pt.ProcessWorker("bob", compute_device=device)
    assert capfd.readouterr().err == "", "one error is enough"


def test_a_device_of_torch_is_a_compute_device() -> None:
    with contextlib.closing(pt.ProcessWorker("bob", compute_device=torch.device("cpu"))) as worker:
        assert worker.compute_device == torch.device("cpu")


# --- addresses


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "::1:7700", 7700, None])
def test_an_address_of_a_wrong_form(address: Any) -> None:
    with pytest.raises(pt.PtrTensorError, match=r"HOST:PORT, for instance 127.0.0.1:7700"):
        pt.RemoteWorker(address, id="carol")


def test_who_you_are_and_whom_you_trust_go_together() -> None:
    with pytest.raises(pt.IdentityError, match="trust= whom you trust"):
        pt.RemoteWorker("127.0.0.1:7700", identity="alice")
    with pytest.raises(pt.IdentityError, match="identity= says who you are"):
        pt.RemoteWorker("127.0.0.1:7700", trust="trusted")


@pytest.mark.parametrize("host", ["hospital.example", "192.0.2.1", "[2001:db8::1]", "0.0.0.0"])
def test_another_machine_wants_to_know_who_you_are(host: str) -> None:
    with pytest.raises(pt.IdentityError, match="identity= says who you are, and trust= whom you trust"):
        pt.RemoteWorker(f"{host}:7700", id="carol")
    with virtual("carol"):  # the name is free
        pass


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(pt.WorkerLostError, match=rf"127.0.0.1:{port} .*--listen 127.0.0.1:{port}"):
        pt.RemoteWorker(f"127.0.0.1:{port}", id="carol")
    with virtual("carol"):  # the name is free
        pass


def answering(reply: bytes, *, close: bool) -> tuple[socket.socket, threading.Thread]:
    """A server that is no worker."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as sock:
            sock.recv(1)
            sock.sendall(reply)
            while not close and sock.recv(4096):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listener, thread


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", pt.WorkerLostError),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", pt.ProtocolError),
        (b"pt", pt.WorkerLostError),
        (b"pt\x63\x00" + bytes(12), pt.VersionMismatchError),
        (b"pt\x01\x00\xff\xff\xff\xff" + bytes(8), pt.MessageTooLargeError),
        (bytes(64), pt.ProtocolError),
    ],
)
def test_somebody_else_listens(reply: bytes, error: type[pt.PtrTensorError]) -> None:
    listener, thread = answering(reply, close=True)
    with listener, pytest.raises(error):
        pt.RemoteWorker(f"127.0.0.1:{listener.getsockname()[1]}", id="carol")
    thread.join(WAIT_SECONDS)
    with virtual("carol"):
        pass


def test_somebody_listens_and_says_nothing() -> None:
    """An error after a while, not a wait for ever."""
    raised: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        def make() -> None:
            try:
                pt.RemoteWorker(address, id="carol")
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=make, daemon=True)
        thread.start()
        sock, _ = silent.accept()
        with sock:
            thread.join(WAIT_SECONDS)
            waits = thread.is_alive()
        thread.join(WAIT_SECONDS)
    assert [type(error) for error in raised] == [pt.WorkerLostError]
    assert not waits, "it waits for a welcome that never comes"


# --- torch itself


def test_another_owner_of_the_device_type() -> None:
    finished = run("""
        import torch, torch._lazy.ts_backend, ptrtensor as pt
        torch._lazy.ts_backend.init()
        try:
            pt.VirtualWorker(id="bob")
        except pt.PtrTensorError as error:
            print(error)
    """)
    assert finished["status"] == 0, finished["errors"]
    assert "torch._lazy.ts_backend.init() was called" in finished["output"]
