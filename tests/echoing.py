"""A worker without tensors: it keeps what it is given and gives it back. For tests of what lies between."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

from ptrtensor.transport.base import Transport
from ptrtensor.transport.serving import serve
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.limits import PROTOCOL_VERSION
from ptrtensor.wire.messages import (
    Acknowledged,
    Batch,
    ClientMessage,
    Done,
    Fetch,
    Hello,
    Missing,
    Put,
    Synchronize,
    Value,
    Welcome,
    WorkerMessage,
)
from ptrtensor.wire.metadata import TensorMeta

HELLO = Hello(PROTOCOL_VERSION, "0.1.0", "2.13.0")


def meta_for(size: int) -> TensorMeta:
    """Metadata of so many bytes."""
    return TensorMeta((size,), (1,), "uint8")


class EchoWorker:
    """Its `handle` is a `Handler`; `messages` is everything it was told, `error` what ended a `serve` in a thread."""

    def __init__(self) -> None:
        self.messages: list[ClientMessage] = []
        self.values: dict[int, memoryview] = {}
        self.error: Exception | None = None
        self.look: Callable[[], None] = lambda: None

    def handle(self, message: ClientMessage, payload: memoryview) -> Iterable[tuple[WorkerMessage, Buffer | None]]:
        self.messages.append(message)
        match message:
            case Hello():
                return [(Welcome(PROTOCOL_VERSION, "0.1.0", "2.13.0", "echo", "epoch", "cpu"), None)]
            case Put(name):
                self.values[name] = payload
                return []
            case Fetch(request, name):
                value = self.values.get(name)
                if value is None:
                    return [(Missing(request, name), None)]
                return [(Value(request, meta_for(len(value))), value)]
            case Batch(first, count):
                return [(Acknowledged(first + count, []), None)]
            case Synchronize(request):
                return [(Acknowledged(0, []), None), (Done(request), None)]
            case _:
                return []

    def has_value(self, name: int) -> bool:
        return name in self.values

    def when_paused(self, look: Callable[[], None] | None) -> None:
        self.look = look or (lambda: None)

    def serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                serve(sock, self)
            except Exception as error:
                self.error = error


@contextlib.contextmanager
def served(sock: socket.socket, worker: EchoWorker) -> Iterator[None]:
    """Serve this socket in a thread, which is ended afterwards."""
    thread = threading.Thread(target=worker.serve, args=(sock,))
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        worker, _ = listener.accept()
    return client, worker


def next_event(transport: Transport) -> tuple[WorkerMessage, bytes]:
    """Wait for one message and take it."""
    while not transport.events:
        transport.wait()
    event = transport.events.popleft()
    return event.message, bytes(event.payload)


def greet(transport: Transport) -> None:
    transport.send(HELLO)
    message, _ = next_event(transport)
    assert isinstance(message, Welcome)
