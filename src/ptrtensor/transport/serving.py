"""A worker's end of a stream socket: messages in, replies out."""

import contextlib
import socket
from collections.abc import Callable
from typing import Final

from ptrtensor.errors import ProtocolError
from ptrtensor.transport.base import Handler
from ptrtensor.transport.sockets import Stream
from ptrtensor.wire.connection import Connection, Event, encode, worker_connection
from ptrtensor.wire.messages import Batch, ClientMessage, Describe, Fetch, Put, Synchronize, WorkerMessage

LOOKED_AHEAD: Final = 64
"""Messages among which one that may be answered early is looked for."""


def serve(sock: socket.socket, handle: Handler, has_value: Callable[[int], bool]) -> None:
    """A worker's end: answer messages on this socket until the client closes it. `has_value` is asked for names.

    :raises ProtocolError: the client broke the protocol; it has been told, the caller closes the socket.
    :raises OSError: the connection broke.
    """
    stream = Stream(sock)
    connection = worker_connection()
    while True:
        try:
            if not stream.read_soon(connection):
                stream.wait(readable=True, writable=False)
                continue
        except EOFError:
            return
        finally:
            while connection.events:
                event = next_event(stream, connection, has_value)
                for reply, payload in handle(event.message, event.payload):
                    stream.enqueue(encode(reply, payload))
                if isinstance(event.message, Batch) and connection.events and is_quick(connection.events[0].message):
                    continue  # one system call for the acknowledgement and the answer
                while not stream.write():
                    stream.wait(readable=False, writable=True)


def next_event(
    stream: Stream, connection: Connection[ClientMessage], has_value: Callable[[int], bool]
) -> Event[ClientMessage]:
    """The oldest, or one that may overtake it [P7.1]."""
    events = connection.events
    if isinstance(events[0].message, Batch):
        if len(events) < LOOKED_AHEAD and not any(isinstance(event.message, Put) for event in events):
            with contextlib.suppress(EOFError, ProtocolError):  # they come again when all is done
                stream.read(connection)
        for place, event in enumerate(events):
            if isinstance(event.message, Fetch) and event.message.early and has_value(event.message.name):
                del events[place]
                return event
    return events.popleft()


def is_quick(message: ClientMessage) -> bool:
    """Whether it is answered at once, whatever it asks for."""
    return isinstance(message, Fetch | Describe | Synchronize)


def refuse(sock: socket.socket, reply: WorkerMessage) -> None:
    """Send a last message if the client still takes one, without waiting for it."""
    with contextlib.suppress(OSError):
        stream = Stream(sock)
        stream.enqueue(encode(reply))
        stream.write()
