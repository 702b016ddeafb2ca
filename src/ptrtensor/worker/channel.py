"""Typed messages and open sockets between two processes of one machine."""

import select
import socket
import struct
import threading
import time
from typing import Any, Final, Generic, TypeVar

import msgspec

from ptrtensor.errors import ProtocolError
from ptrtensor.wire.control import FromServer, FromSession

LENGTH: Final = struct.Struct("<I")

MOST_BYTES: Final = 1024**3
"""Of one message."""

Incoming = TypeVar("Incoming")

from_server: Final[msgspec.msgpack.Decoder[FromServer]] = msgspec.msgpack.Decoder(FromServer)
from_session: Final[msgspec.msgpack.Decoder[FromSession]] = msgspec.msgpack.Decoder(FromSession)


class Channel(Generic[Incoming]):
    """One end of a unix socket. Any thread may send, one receives."""

    def __init__(self, sock: socket.socket, decoder: "msgspec.msgpack.Decoder[Incoming]") -> None:
        self.socket = sock
        self._decoder = decoder
        self._sending = threading.Lock()
        self._announced: int | None = None
        self._passed: socket.socket | None = None

    def send(self, message: Any, passed: socket.socket | None = None) -> None:
        """Send a message, and with it a socket that this process may close then.

        :raises OSError: the other process has ended.
        """
        body = memoryview(msgspec.msgpack.encode(message))
        head = LENGTH.pack(len(body))
        with self._sending:
            count = socket.send_fds(self.socket, [head, body], [] if passed is None else [passed.fileno()])
            self.socket.sendall(head[count:])
            self.socket.sendall(body[max(0, count - len(head)) :])

    def announced(self) -> int:
        """The length of the next message, once it begins.

        :raises EOFError: the other process has ended.
        :raises ProtocolError: it is longer than any.
        """
        if self._announced is None:
            head, descriptors, _, _ = socket.recv_fds(self.socket, LENGTH.size, 1)
            if descriptors:
                self._passed = socket.socket(fileno=descriptors[0])
            if not head:
                raise EOFError("the other process has ended")
            (size,) = LENGTH.unpack(head + self._exactly(LENGTH.size - len(head)))
            if size > MOST_BYTES:
                raise ProtocolError(f"the other process announces a message of {size} bytes")
            self._announced = size
        return self._announced

    def receive(self, seconds: float | None = None) -> tuple[Incoming, socket.socket | None]:
        """The next message, and the socket that came along; within so many seconds, however slowly it comes.

        :raises EOFError: the other process has ended.
        :raises TimeoutError: it did not come in time.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        size = self.announced()
        passed, self._announced, self._passed = self._passed, None, None
        return self._decoder.decode(self._exactly(size, deadline)), passed

    def _exactly(self, count: int, deadline: float | None = None) -> bytearray:
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            if deadline is not None:
                self._wait(deadline)
            more = self.socket.recv_into(rest)
            if not more:
                raise EOFError("the other process has ended")
            rest = rest[more:]
        return data

    def _wait(self, deadline: float) -> None:
        """Until something comes. The socket's own timeout is not touched: another thread may be sending.

        :raises TimeoutError: it is too late.
        """
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise TimeoutError("the other process does not send what it announced")

    def close(self) -> None:
        self.socket.close()
