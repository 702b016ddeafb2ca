"""Transports for tests of the client: one that a test plays the worker of, and a real session behind each kind."""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

from by_hand import session

from ptrtensor.client.client import Client
from ptrtensor.errors import WorkerLostError
from ptrtensor.transport.base import Transport
from ptrtensor.transport.inprocess import InProcessTransport, LoopbackTransport
from ptrtensor.transport.serving import serve
from ptrtensor.transport.sockets import SocketTransport
from ptrtensor.wire import messages
from ptrtensor.wire.connection import Buffer, Event
from ptrtensor.wire.messages import ClientMessage, Failure, WorkerMessage
from ptrtensor.worker.session import Session

NEVER = 3600.0
"""Seconds after which the flusher looks after the end of a batch, where a test does not want it to."""

WAIT_SECONDS = 20.0
"""After so long a test gives up what should happen at once."""


class ScriptedTransport:
    """Keeps what was sent; the test gives the worker's answers."""

    def __init__(self, *, acknowledges: bool) -> None:
        self.events: deque[Event[WorkerMessage]] = deque()
        self.sent: list[ClientMessage] = []
        self.payloads: list[bytes] = []
        self.acknowledges = acknowledges
        self.computes_on_sender = False
        self.waiting = threading.Event()
        self.closed = False
        self._arrived = threading.Condition()

    @property
    def batches(self) -> list[messages.Batch]:
        return [message for message in self.sent if isinstance(message, messages.Batch)]

    @property
    def sizes(self) -> list[int]:
        """How many commands each batch had."""
        return [batch.count for batch in self.batches]

    def answer(self, message: WorkerMessage, payload: bytes = b"") -> None:
        with self._arrived:
            self.events.append(Event(message, memoryview(payload)))
            self._arrived.notify_all()

    def acknowledge(self, *failures: Failure) -> None:
        """Everything that was sent has run."""
        last = self.batches[-1] if self.batches else messages.Batch(0, 0, [])
        self.answer(messages.Acknowledged(last.first + last.count, list(failures)))

    def send(self, message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        if self.closed:
            raise WorkerLostError("closed")
        self.sent.append(message)
        self.payloads.append(bytes(payload or b""))
        if self.acknowledges and isinstance(message, messages.Batch):
            self.acknowledge()
        elif isinstance(message, messages.Synchronize | messages.Bye):
            self.answer(messages.Done(message.request))

    def wait(self, seconds: float | None = None) -> None:
        self.waiting.set()
        with self._arrived:
            if not self._arrived.wait_for(lambda: self.events or self.closed, seconds or WAIT_SECONDS):
                raise WorkerLostError("the test gave no answer")
        if not self.events:
            raise WorkerLostError("closed")

    def poll(self) -> None: ...

    def close(self) -> None:
        with self._arrived:
            self.closed = True
            self._arrived.notify_all()

    def abandon(self) -> None:
        self.closed = True


@contextlib.contextmanager
def in_process(served: Session) -> Iterator[Transport]:
    yield InProcessTransport(served.handle)


@contextlib.contextmanager
def loopback(served: Session) -> Iterator[Transport]:
    yield LoopbackTransport(served.handle)


@contextlib.contextmanager
def sockets(served: Session) -> Iterator[Transport]:
    """The session in a thread of its own, at the other end of a socket."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs, contextlib.suppress(OSError):
            serve(theirs, served)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield SocketTransport(ours, "the test's worker")
    finally:
        ours.close()
        thread.join(WAIT_SECONDS)


TRANSPORTS: dict[str, Callable[[Session], contextlib.AbstractContextManager[Transport]]] = {
    "in process": in_process,
    "loopback": loopback,
    "sockets": sockets,
}


@contextlib.contextmanager
def connected(kind: str, idle_seconds: float = 0.002) -> Iterator[tuple[Client, Session]]:
    """A client that has been welcomed, and the session it speaks with."""
    served = session()
    with TRANSPORTS[kind](served) as transport:
        client = Client(transport, "bob", synchronous=False, idle_seconds=idle_seconds)
        client.greet(served._identity.torch, "", WAIT_SECONDS)
        try:
            yield client, served
        finally:
            client.close()
