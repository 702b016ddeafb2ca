"""Flow control [P7.5]: past a limit the caller blocks, holds no lock meanwhile, and goes on when the worker does."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
from client_transports import NEVER, WAIT_SECONDS, ScriptedTransport

from ptrtensor.client import client as client_module
from ptrtensor.client.callsite import CallSite
from ptrtensor.client.client import Client
from ptrtensor.errors import PtrTensorError, WorkerLostError
from ptrtensor.wire import messages
from ptrtensor.wire.instruction import Instruction, layout

LIMIT = 100
NEG = Instruction(1, "aten::neg", (), {}, False, ())
COMMAND = layout(NEG).pack(1, 0)
HERE = CallSite(layout.__code__, 1)


@pytest.fixture
def transport() -> ScriptedTransport:
    return ScriptedTransport(acknowledges=False)


@pytest.fixture
def client(transport: ScriptedTransport, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(client_module, "MAX_IN_FLIGHT", LIMIT)
    client = Client(transport, "bob", synchronous=False, idle_seconds=NEVER)
    client._flusher.stop()
    yield client
    transport.close()
    with contextlib.suppress(PtrTensorError):
        client.close()


class Caller:
    """A thread that posts commands; `posted` counts those whose post has returned."""

    def __init__(self, client: Client, count: int) -> None:
        self.posted = 0
        self.error: PtrTensorError | None = None
        self._client = client
        self._count = count
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for _ in range(self._count):
                self._client.post(NEG, COMMAND, HERE)
                self.posted += 1
        except PtrTensorError as error:
            self.error = error

    @property
    def done(self) -> bool:
        self.thread.join(WAIT_SECONDS)
        return not self.thread.is_alive()


def finishes(act: Callable[[], object]) -> bool:
    """Whether it ends at all; a thread that does not is left behind."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS)
    return not thread.is_alive()


def in_flight(client: Client, transport: ScriptedTransport) -> int:
    return sum(transport.sizes) - client._inbox.acknowledged


def test_the_real_limit_is_enough_to_keep_a_worker_busy() -> None:
    assert client_module.MAX_IN_FLIGHT >= 32 * client_module.FLUSH_STREAMING


def test_the_caller_blocks_and_goes_on(client: Client, transport: ScriptedTransport) -> None:
    caller = Caller(client, 3 * LIMIT)
    assert transport.waiting.wait(WAIT_SECONDS)
    caller.thread.join(0.05)
    assert caller.thread.is_alive() and caller.posted < LIMIT + 2 * client_module.FLUSH_STREAMING
    while caller.thread.is_alive():
        assert in_flight(client, transport) <= LIMIT + client_module.FLUSH_STREAMING
        transport.acknowledge()
        caller.thread.join(0.01)
    assert caller.posted == 3 * LIMIT and caller.error is None
    transport.acknowledge()
    client.flush()
    assert sum(transport.sizes) == 3 * LIMIT


def test_no_lock_is_held_while_the_caller_blocks(client: Client, transport: ScriptedTransport) -> None:
    caller = Caller(client, 2 * LIMIT)
    assert transport.waiting.wait(WAIT_SECONDS)
    before = client._outbox.next
    assert finishes(lambda: client.reserve(5))
    other = Caller(client, 1)  # it joins the batch even though it may then block as well
    other.thread.join(0.2)
    assert client._outbox.next == before + 1
    assert client._writing.acquire(timeout=1)
    client._writing.release()
    for _ in range(10):
        transport.acknowledge()
        caller.thread.join(0.1)
    assert caller.done and other.done


def test_a_lost_worker_ends_the_wait(client: Client, transport: ScriptedTransport) -> None:
    caller = Caller(client, 2 * LIMIT)
    assert transport.waiting.wait(WAIT_SECONDS)
    transport.close()
    assert caller.done and isinstance(caller.error, WorkerLostError)


def test_what_another_thread_read_ends_the_wait(client: Client, transport: ScriptedTransport) -> None:
    """The blocked caller finds room when it has the turn to read: it must not wait for yet another message."""
    reader = threading.Thread(
        target=client.request, args=(lambda number: messages.Fetch(number, 1), messages.Value), daemon=True
    )
    reader.start()
    assert transport.waiting.wait(WAIT_SECONDS)  # it has the turn to read
    caller = Caller(client, LIMIT + 40)
    while client._outbox.next <= LIMIT:
        caller.thread.join(0.001)
    caller.thread.join(0.1)  # now it waits for its turn
    assert caller.thread.is_alive()
    transport.acknowledge()
    (fetch,) = (message for message in transport.sent if isinstance(message, messages.Fetch))
    transport.answer(messages.Value(fetch.request, scalar=1))
    reader.join(WAIT_SECONDS)
    caller.thread.join(3)
    assert not caller.thread.is_alive(), "everything was acknowledged and the caller still waits"


def test_a_message_waits_for_room_as_well(client: Client, transport: ScriptedTransport) -> None:
    caller = Caller(client, 2 * LIMIT)
    assert transport.waiting.wait(WAIT_SECONDS)
    thread = threading.Thread(target=lambda: client.send(messages.Hide(1)), daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive() and not any(isinstance(message, messages.Hide) for message in transport.sent)
    while thread.is_alive() or caller.thread.is_alive():
        transport.acknowledge()
        thread.join(0.05)
    assert any(isinstance(message, messages.Hide) for message in transport.sent)
