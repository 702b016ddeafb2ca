"""Typed messages and open sockets between two processes of one machine."""

import socket
import struct
import threading
from typing import Any, Final, Generic, TypeVar

import msgspec

from ptrtensor.wire.control import FromServer, FromSession

LENGTH: Final = struct.Struct("<I")

Incoming = TypeVar("Incoming")

from_server: Final[msgspec.msgpack.Decoder[FromServer]] = msgspec.msgpack.Decoder(FromServer)
from_session: Final[msgspec.msgpack.Decoder[FromSession]] = msgspec.msgpack.Decoder(FromSession)


class Channel(Generic[Incoming]):
    """One end of a unix socket. Any thread may send, one receives."""

    def __init__(self, sock: socket.socket, decoder: "msgspec.msgpack.Decoder[Incoming]") -> None:
        self.socket = sock
        self._decoder = decoder
        self._sending = threading.Lock()

    def send(self, message: Any, passed: socket.socket | None = None) -> None:
        """Send a message, and with it a socket that this process may close then.

        :raises OSError: the other process has ended.
        """
        body = msgspec.msgpack.encode(message)
        data = LENGTH.pack(len(body)) + body
        with self._sending:
            count = socket.send_fds(self.socket, [data], [] if passed is None else [passed.fileno()])
            self.socket.sendall(data[count:])

    def receive(self) -> tuple[Incoming, socket.socket | None]:
        """The next message, and the socket that came along.

        :raises EOFError: the other process has ended.
        """
        data, descriptors, _, _ = socket.recv_fds(self.socket, LENGTH.size, 1)
        if not data:
            raise EOFError("the other process has ended")
        data += self._exactly(LENGTH.size - len(data))
        (size,) = LENGTH.unpack(data)
        message = self._decoder.decode(self._exactly(size))
        return message, socket.socket(fileno=descriptors[0]) if descriptors else None

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError("the other process has ended")
            data += more
        return bytes(data)

    def close(self) -> None:
        self.socket.close()
