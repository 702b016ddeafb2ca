"""A worker's end of a stream socket: messages in, replies out."""

import contextlib
import socket
import time
from typing import Final

from ptrtensor.errors import ProtocolError, PtrTensorError, UnsupportedOpError
from ptrtensor.transport.base import Served
from ptrtensor.transport.sockets import WORKER_SPIN_SECONDS, Stream
from ptrtensor.wire.connection import Allocate, Buffer, Event, allocate, encode, worker_connection
from ptrtensor.wire.messages import (
    NO_COMMAND,
    Batch,
    ClientMessage,
    Describe,
    Failed,
    Failure,
    Fetch,
    Put,
    Refused,
    Reply,
    Synchronize,
    WorkerMessage,
)

LOOKED_AHEAD: Final = 64
"""Messages among which one that may be answered early is looked for."""

LOOK_SECONDS: Final = 100e-6
"""How often one is looked for while a batch runs: looking costs about as much as an operation."""


def serve(sock: socket.socket, served: Served, allocate: Allocate = allocate) -> None:
    """Answer the messages on this socket until the client closes it, or is refused.

    :raises RefusedError: it is refused, and the caller is to tell it.
    :raises ProtocolError: the client broke the protocol; likewise.
    :raises OSError: the connection broke.
    """
    try:
        Serving(sock, served, allocate).run()
    finally:
        served.when_paused(None)  # else they would hold each other, and all that a client left


class RefusedError(PtrTensorError):
    """Carries the refusal out of the loop that serves."""

    def __init__(self, reply: Refused) -> None:
        super().__init__(reply.reason)
        self.reply = reply


class Serving:
    """One client's messages in order, and those that may overtake [P7.1]."""

    def __init__(self, sock: socket.socket, served: Served, allocate: Allocate) -> None:
        self._stream = Stream(sock)
        self._connection = worker_connection(allocate)
        self._served = served
        self._looked = 0.0
        served.when_paused(self._look)

    def run(self) -> None:
        events = self._connection.events
        while True:
            try:
                if not self._stream.read_soon(self._connection, WORKER_SPIN_SECONDS):
                    self._stream.wait(readable=True, writable=False)
                    continue
            except EOFError:
                return
            finally:
                while events:
                    event = events.popleft()
                    if isinstance(event.message, Batch):
                        self._look()
                    self._answer(event)
                    if isinstance(event.message, Batch) and events and is_quick(events[0].message):
                        continue  # one system call for the acknowledgement and the answer
                    self._write()

    def _answer(self, event: Event[ClientMessage]) -> None:
        for reply, payload in self._served.handle(event.message, event.payload):
            if isinstance(reply, Refused):
                raise RefusedError(reply)
            self._stream.enqueue(encoded(reply, payload))

    def _write(self) -> None:
        while not self._stream.write():
            self._stream.wait(readable=False, writable=True)

    def _look(self) -> None:
        """Answer whoever asked meanwhile for a value that is here. Called before a batch, and between its commands."""
        now = time.perf_counter()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        waiting = self._connection.events
        if len(waiting) < LOOKED_AHEAD and not any(isinstance(event.message, Put) for event in waiting):
            with contextlib.suppress(EOFError, ProtocolError):  # they come again when all is done
                if self._stream.has_arrivals():
                    self._stream.read(self._connection)
        for place, event in enumerate(waiting):
            if isinstance(event.message, Fetch) and event.message.early and self._served.has_value(event.message.name):
                del waiting[place]
                self._answer(event)
                self._write()
                return


def encoded(reply: WorkerMessage, payload: Buffer | None) -> list[Buffer]:
    """An answer that is too long costs its client that answer, and not the session [P3.1].

    :raises ProtocolError: the client gave names that are none.
    """
    try:
        return encode(reply, payload)
    except (UnsupportedOpError, OverflowError) as error:
        if not isinstance(reply, Reply):
            raise ProtocolError(f"the client's names cannot be said back to it: {error}") from error
        why = f"{type(error).__name__}: {error}"
        return encode(Failed(reply.request, Failure(NO_COMMAND, type(reply).__name__, why, "")))


def is_quick(message: ClientMessage) -> bool:
    """Whether it is answered at once, whatever it asks for."""
    return isinstance(message, Fetch | Describe | Synchronize)


def refuse(sock: socket.socket, reply: WorkerMessage) -> None:
    """Send a last message if the client still takes one, without waiting for it."""
    with contextlib.suppress(OSError):
        stream = Stream(sock)
        stream.enqueue(encode(reply))
        stream.write()
