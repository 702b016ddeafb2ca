"""Transports within this process."""

from collections.abc import Callable

import pytest
from echoing import EchoWorker, greet, meta_for, next_event

from ptrtensor.errors import ProtocolError, WorkerLostError
from ptrtensor.transport.base import Handler
from ptrtensor.transport.inprocess import InProcessTransport, LoopbackTransport, copied
from ptrtensor.wire.messages import Fetch, Hide, Put, Synchronize

Make = Callable[[Handler], InProcessTransport | LoopbackTransport]
BOTH: list[Make] = [InProcessTransport, LoopbackTransport]


@pytest.mark.parametrize("size", [0, 1, 2**20])
def test_a_copy_is_the_receiver_s(size: int) -> None:
    original = bytearray(b"a" * size)
    copy = copied(original)
    original[:] = b"b" * size
    assert bytes(copy) == b"a" * size
    assert not copy.readonly or not size


def test_no_payload_is_an_empty_one() -> None:
    assert bytes(copied(None)) == b""


@pytest.mark.parametrize("make", BOTH)
def test_the_worker_runs_on_the_caller_s_thread_before_send_returns(make: Make) -> None:
    worker = EchoWorker()
    transport = make(worker.handle)
    greet(transport)
    transport.send(Hide(1))
    assert worker.messages[-1] == Hide(1)
    transport.send(Synchronize(1))
    assert len(transport.events) == 2


@pytest.mark.parametrize("make", BOTH)
def test_waiting_for_nothing_is_an_error_and_no_hang(make: Make) -> None:
    transport = make(EchoWorker().handle)
    greet(transport)
    transport.send(Hide(1))
    with pytest.raises(WorkerLostError, match="did not answer"):
        transport.wait()


@pytest.mark.parametrize("make", BOTH)
def test_what_was_answered_can_be_taken_after_close(make: Make) -> None:
    transport = make(EchoWorker().handle)
    greet(transport)
    transport.send(Put(1, meta_for(3)), b"abc")
    transport.send(Fetch(1, 1))
    transport.close()
    assert next_event(transport)[1] == b"abc"
    with pytest.raises(WorkerLostError):
        transport.wait()


@pytest.mark.parametrize("make", BOTH)
def test_the_worker_s_error_reaches_the_caller(make: Make) -> None:
    def handle(message: object, payload: memoryview) -> list[object]:
        raise ProtocolError("no")

    transport = make(handle)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="no"):
        transport.send(Hide(1)) if make is InProcessTransport else greet(transport)


def test_loopback_holds_the_client_to_the_protocol() -> None:
    transport = LoopbackTransport(EchoWorker().handle)
    with pytest.raises(ProtocolError, match="instead of the handshake"):
        transport.send(Hide(1))
    with pytest.raises(ProtocolError):
        greet(transport)
