"""A worker in this process: messages are handed over as objects, payloads are copied.

`LoopbackTransport` is the same through the real bytes, both ends back to back; it exists for tests, and for
whoever wants to see what a remote worker would be sent.
"""

from collections import deque

from ptrtensor.errors import WorkerLostError
from ptrtensor.transport.base import Handler
from ptrtensor.wire.connection import (
    EMPTY,
    Allocate,
    Buffer,
    Event,
    allocate,
    client_connection,
    encode,
    worker_connection,
)
from ptrtensor.wire.messages import ClientMessage, WorkerMessage


def copied(payload: Buffer | None, allocate: Allocate = allocate) -> memoryview:
    """What a receiver owns: later writes of the sender do not reach it."""
    if payload is None:
        return EMPTY
    copy = allocate(len(payload))
    copy[:] = payload
    return copy


class InProcessTransport:
    """Calls the worker's session on the thread that sends.

    Commands borrow torch's default generator and default dtype from the whole process, so the client leaves them to
    the threads of its callers.
    """

    computes_on_sender = True

    def __init__(self, handle: Handler, allocate: Allocate = allocate) -> None:
        self.events: deque[Event[WorkerMessage]] = deque()
        self._allocate = allocate
        self._handle: Handler | None = handle

    def send(self, message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        if self._handle is None:
            raise WorkerLostError("the worker is closed")
        for reply, answer in self._handle(message, copied(payload, self._allocate)):
            self.events.append(Event(reply, copied(answer, self._allocate)))

    def wait(self, seconds: float | None = None) -> None:
        if not self.events:
            raise WorkerLostError("the worker did not answer")

    def poll(self) -> None:
        """What has arrived is in `events` already."""

    def close(self) -> None:
        self._handle = None

    def abandon(self) -> None:
        self._handle = None


class LoopbackTransport:
    """In this process too, but every message crosses as bytes, through both ends' connections."""

    computes_on_sender = True

    def __init__(self, handle: Handler) -> None:
        self._handle: Handler | None = handle
        self._client = client_connection()
        self._worker = worker_connection()
        self.events = self._client.events

    def send(self, message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        if self._handle is None:
            raise WorkerLostError("the worker is closed")
        for piece in encode(message, payload):
            self._worker.receive_data(piece)
        while (event := self._worker.next_event()) is not None:
            for reply, answer in self._handle(event.message, event.payload):
                for part in encode(reply, answer):
                    self._client.receive_data(part)

    def wait(self, seconds: float | None = None) -> None:
        if not self.events:
            raise WorkerLostError("the worker did not answer")

    def poll(self) -> None:
        """What has arrived is in `events` already."""

    def close(self) -> None:
        self._handle = None

    def abandon(self) -> None:
        self._handle = None
