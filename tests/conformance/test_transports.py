"""What every transport must do: one function, run for each of them."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from echoing import EchoWorker, greet, meta_for, next_event, served, tcp_pair, unix_pair
from wire_samples import drop

from ptrtensor.errors import WorkerLostError
from ptrtensor.transport.base import Transport
from ptrtensor.transport.inprocess import InProcessTransport, LoopbackTransport
from ptrtensor.transport.recording import RecordingTransport
from ptrtensor.transport.sockets import SocketTransport
from ptrtensor.wire.messages import Acknowledged, Batch, Done, Fetch, Hide, Missing, Put, Synchronize, Value

MIB = 1024 * 1024


class Setup(NamedTuple):
    """A transport with the worker at its other end; `kill` ends a worker that can die."""

    transport: Transport
    worker: EchoWorker
    kill: Callable[[], None] | None = None


Make = Callable[[], contextlib.AbstractContextManager[Setup]]


def check_transport(make: Make) -> None:
    """Hold a transport against `ptrtensor.transport.base.Transport`."""
    for check in (
        check_order,
        check_payloads,
        check_the_payload_is_taken_at_the_call,
        check_the_answer_is_taken_at_the_call,
        check_both_ways_at_once,
        check_poll_does_not_wait,
        check_close,
        check_abandon,
        check_the_worker_s_death,
    ):
        with make() as setup:
            greet(setup.transport)
            check(setup)


def check_order(setup: Setup) -> None:
    """Messages and replies keep their order."""
    transport, worker, _ = setup
    for number in range(300):
        transport.send(Hide(number))
        transport.send(Batch(number, 1, []), drop(number))
        transport.send(Fetch(number, 1))
    for number in range(300):
        assert next_event(transport)[0] == Acknowledged(number + 1, [])
        assert next_event(transport)[0] == Missing(number, 1)
    assert worker.messages[1:4] == [Hide(0), Batch(0, 1, []), Fetch(0, 1)]
    assert [message for message in worker.messages if isinstance(message, Hide)] == [Hide(n) for n in range(300)]
    assert not transport.events


def check_payloads(setup: Setup) -> None:
    """Bytes arrive as they were, from none to many, there and back."""
    for size in (0, 1, 1000, MIB - 1, MIB, 8 * MIB):
        payload = (b"0123456" * (size // 7 + 1))[:size]
        setup.transport.send(Put(1, meta_for(size)), payload)
        setup.transport.send(Fetch(1, 1))
        message, answer = next_event(setup.transport)
        assert isinstance(message, Value)
        assert bytes(setup.worker.values[1]) == payload
        assert answer == payload


def check_the_payload_is_taken_at_the_call(setup: Setup) -> None:
    """When `send` has returned, what the sender writes into the payload does not matter any more."""
    for size in (10, 4 * MIB):
        payload = bytearray(b"a" * size)
        setup.transport.send(Put(1, meta_for(size)), payload)
        payload[:] = b"b" * size
        setup.transport.send(Synchronize(1))
        next_event(setup.transport)
        next_event(setup.transport)
        assert bytes(setup.worker.values[1]) == b"a" * size


def check_the_answer_is_taken_at_the_call(setup: Setup) -> None:
    """An answer belongs to the client: neither side's later writes reach the other."""
    for size in (10, 4 * MIB):
        setup.transport.send(Put(1, meta_for(size)), b"a" * size)
        setup.transport.send(Fetch(1, 1))
        while not setup.transport.events:
            setup.transport.wait()
        answer = setup.transport.events.popleft().payload
        setup.worker.values[1][:] = b"b" * size
        assert bytes(answer) == b"a" * size
        answer[:] = b"c" * size
        assert bytes(setup.worker.values[1]) == b"b" * size


def check_both_ways_at_once(setup: Setup) -> None:
    """A client that goes on sending without taking its answers does not stop the worker, nor itself."""
    payload = b"x" * (8 * MIB)
    for number in range(4):
        setup.transport.send(Put(number, meta_for(len(payload))), payload)
        setup.transport.send(Fetch(number, number))
    for number in range(4):
        message, answer = next_event(setup.transport)
        assert isinstance(message, Value)
        assert message.request == number
        assert answer == payload


def check_poll_does_not_wait(setup: Setup) -> None:
    """`poll` returns at once with what is there; `wait` returns with something."""
    transport = setup.transport
    begin = time.monotonic()
    for _ in range(10):
        transport.poll()
    assert time.monotonic() - begin < 5
    assert not transport.events
    transport.send(Synchronize(7))
    while len(transport.events) < 2:
        assert time.monotonic() - begin < 20
        transport.poll()
    transport.wait()
    assert [event.message for event in transport.events] == [Acknowledged(0, []), Done(7)]


def check_close(setup: Setup) -> None:
    """Closed twice, and used after it."""
    transport = setup.transport
    transport.close()
    transport.close()
    with pytest.raises(WorkerLostError, match="closed"):
        transport.send(Synchronize(1))
    with pytest.raises(WorkerLostError):
        transport.wait()
    transport.poll()
    transport.abandon()


def check_abandon(setup: Setup) -> None:
    setup.transport.abandon()
    with pytest.raises(WorkerLostError):
        setup.transport.send(Synchronize(1))


def check_the_worker_s_death(setup: Setup) -> None:
    """What it still said can be taken; after that every use is an error, soon and each time."""
    transport, worker, kill = setup
    if kill is None:
        return
    transport.send(Synchronize(1))
    while len(worker.messages) < 2:
        time.sleep(0.001)
    kill()
    assert next_event(transport)[0] == Acknowledged(0, [])
    assert next_event(transport)[0] == Done(1)
    for _ in range(2):
        with pytest.raises(WorkerLostError, match="echo"):
            transport.wait()
        transport.poll()
        with pytest.raises(WorkerLostError, match="echo"):
            transport.send(Put(1, meta_for(8 * MIB)), bytes(8 * MIB))
    transport.close()


@contextlib.contextmanager
def in_process() -> Iterator[Setup]:
    worker = EchoWorker()
    yield Setup(InProcessTransport(worker.handle), worker)


@contextlib.contextmanager
def loopback() -> Iterator[Setup]:
    worker = EchoWorker()
    yield Setup(LoopbackTransport(worker.handle), worker)


@contextlib.contextmanager
def recording() -> Iterator[Setup]:
    worker = EchoWorker()
    yield Setup(RecordingTransport(InProcessTransport(worker.handle)), worker)


def through(pair: Callable[[], tuple[socket.socket, socket.socket]]) -> Make:
    @contextlib.contextmanager
    def make() -> Iterator[Setup]:
        mine, theirs = pair()
        worker = EchoWorker()
        transport = SocketTransport(mine, "worker echo")
        with contextlib.closing(transport), served(theirs, worker):
            yield Setup(transport, worker, lambda: theirs.shutdown(socket.SHUT_RD))

    return make


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "make",
    [in_process, loopback, recording, through(unix_pair), through(tcp_pair)],
    ids=["in-process", "loopback", "recording", "unix", "tcp"],
)
def test_transport(make: Make) -> None:
    check_transport(make)
