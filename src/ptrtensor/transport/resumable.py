"""A stream of bytes that outlives its connections [P9]: bytes in, events out, and never a socket.

Both ends count the bytes of the stream. What was sent is kept until the peer says that it has it; on a new connection
each end says how far it got, and the other goes on from there. So nothing is lost and nothing arrives twice.
"""

import enum
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ptrtensor.errors import ProtocolError, VersionMismatchError

MAGIC: Final = b"ptl"
LINK_VERSION: Final = 1

TOKEN_BYTES: Final = 32
OPENING: Final = struct.Struct(f"<3sB{TOKEN_BYTES}sQ")
"""Magic, version, token, bytes received: the first bytes of a connection, in both directions."""

NO_TOKEN: Final = bytes(TOKEN_BYTES)
"""Asks for a new session."""

STATUS: Final = b"status".ljust(TOKEN_BYTES, b"\0")
"""Asks how the worker is [P10.6]."""

HEADER: Final = struct.Struct("<BI")
"""Kind and length of a frame."""

OFFSET: Final = struct.Struct("<Q")

MAX_REASON_BYTES: Final = 4096
KEPT_BYTES: Final = 32 * 1024 * 1024
"""Sent and not acknowledged, at most; past this the sender waits."""

PIECE_BYTES: Final = 512
CAREFUL_BYTES: Final = 64 * 1024
"""So much is sent again in such pieces: TLS gives nothing of a record that did not arrive as a whole, so large ones
would never cross a way that breaks every few kilobytes."""

JOINED_BELOW_BYTES: Final = 16 * 1024

MANY_CHUNKS: Final = 1024
"""Past this, small ones that are kept are put together: a chunk costs more memory than a few bytes."""

ACKNOWLEDGE_BYTES: Final = 1024 * 1024
"""How much may arrive before its sender hears of it."""


class Kind(enum.IntEnum):
    DATA = 1
    RECEIVED = 2
    PING = 3
    PONG = 4
    END = 5


@dataclass(frozen=True)
class Opening:
    """What an end says first: which session it means, and how many bytes of it it has."""

    token: bytes
    received: int

    def encode(self) -> bytes:
        return OPENING.pack(MAGIC, LINK_VERSION, self.token, self.received)

    @classmethod
    def decode(cls, data: bytes) -> "Opening":
        """:raises ProtocolError: the peer speaks something else, or another version of it."""
        magic, version, token, received = OPENING.unpack(data)
        if magic != MAGIC:
            raise ProtocolError(f"the peer does not speak ptrtensor's link protocol: it began with {data[:8]!r}")
        if version != LINK_VERSION:
            raise VersionMismatchError(
                f"the peer speaks version {version} of the link protocol, this side {LINK_VERSION}: "
                "install the same version of ptrtensor on both sides"
            )
        return cls(token, received)


@dataclass(frozen=True)
class Data:
    """The next bytes of the stream; they lie in the buffer that was given to `receive`."""

    view: memoryview


@dataclass(frozen=True)
class End:
    """The peer will send nothing more, and says why if it was not asked to."""

    reason: str


@dataclass(frozen=True)
class Ping:
    """Wants a `Pong`."""


Event = Data | End | Ping


class Link:
    """One end of the stream."""

    def __init__(self) -> None:
        self.received = 0
        """Bytes of the stream that arrived."""
        self._acknowledged = 0
        self._first = 0
        self._chunks: deque[memoryview] = deque()
        self._join_at = MANY_CHUNKS
        self._sent = 0
        self._header = bytearray()
        self._body = bytearray()
        self._kind = Kind.PING
        self._left = 0

    # --- out

    @property
    def kept(self) -> int:
        """Bytes that were sent and that the peer may not have."""
        return self._sent - self._first

    @property
    def has_room(self) -> bool:
        return self.kept < KEPT_BYTES

    def send(self, chunk: memoryview) -> list[memoryview]:
        """Frame the next bytes of the stream. They are kept as they are: nobody may write to them any more."""
        self._chunks.append(chunk)
        self._sent += len(chunk)
        if len(self._chunks) > self._join_at:
            self._join()
        return framed(chunk)

    def acknowledge(self) -> bytes:
        """A frame that says what arrived, once that is due; else nothing."""
        if self.received - self._acknowledged < ACKNOWLEDGE_BYTES:
            return b""
        self._acknowledged = self.received
        return HEADER.pack(Kind.RECEIVED, OFFSET.size) + OFFSET.pack(self.received)

    # --- a new connection

    def resume(self, received: int) -> Iterator[memoryview]:
        """Begin anew with a peer that has so many bytes of the stream: frames for all that it does not have.

        :raises ProtocolError: it cannot have them, or has lost some that it said it had.
        """
        self._header.clear()
        self._body.clear()
        self._left = 0
        self._acknowledged = self.received
        if received < self._first or received > self._sent:
            raise ProtocolError(
                f"the peer says it received {received} bytes of the session, possible are {self._first} to {self._sent}"
            )
        self._forget(received)
        skip = received - self._first
        frames: list[memoryview] = []
        careful = CAREFUL_BYTES
        for chunk in self._chunks:
            rest = chunk[skip:]
            skip = 0
            while careful > 0 and len(rest):
                piece, rest = rest[:PIECE_BYTES], rest[PIECE_BYTES:]
                careful -= len(piece)
                frames += framed(piece)
            if len(rest):
                frames += framed(rest)
        return iter(frames)

    # --- in

    def receive(self, data: memoryview) -> Iterator[Event]:
        """Take in bytes of a connection.

        :raises ProtocolError: the peer broke a rule.
        """
        while len(data):
            if self._left == 0:
                data = self._read_header(data)
            elif self._kind is Kind.DATA:
                view, data = data[: self._left], data[self._left :]
                self._left -= len(view)
                self.received += len(view)
                yield Data(view)
                continue
            else:
                take = min(self._left, len(data))
                self._body += data[:take]
                self._left -= take
                data = data[take:]
            if self._left == 0 and self._kind is not Kind.DATA and not self._header:
                yield from self._finish()

    def _read_header(self, data: memoryview) -> memoryview:
        take = min(HEADER.size - len(self._header), len(data))
        self._header += data[:take]
        if len(self._header) == HEADER.size:
            number, self._left = HEADER.unpack(self._header)
            self._header.clear()
            self._body.clear()
            try:
                self._kind = Kind(number)
            except ValueError:
                raise ProtocolError(f"the peer sent a frame of an unknown kind, {number}") from None
            most = {Kind.DATA: KEPT_BYTES, Kind.RECEIVED: OFFSET.size, Kind.END: MAX_REASON_BYTES}.get(self._kind, 0)
            if self._left > most or (self._kind is Kind.RECEIVED and self._left != OFFSET.size):
                raise ProtocolError(f"the peer sent a {self._kind.name} frame of {self._left} bytes")
        return data[take:]

    def _finish(self) -> Iterator[Event]:
        """A whole frame without data has arrived."""
        match self._kind:
            case Kind.RECEIVED:
                (received,) = OFFSET.unpack(self._body)
                if received > self._sent:
                    raise ProtocolError(f"the peer received {received} bytes of {self._sent}")
                self._forget(received)
            case Kind.PING:
                yield Ping()
            case Kind.END:
                yield End(self._body.decode(errors="replace"))
            case _:
                pass  # a pong has done its work by arriving

    def _forget(self, received: int) -> None:
        """Let go of chunks that the peer has as a whole."""
        while self._chunks and self._first + len(self._chunks[0]) <= received:
            self._first += len(self._chunks.popleft())

    def _join(self) -> None:
        """Put small chunks that follow each other together."""
        joined: deque[memoryview] = deque()
        small = bytearray()
        for chunk in self._chunks:
            if len(chunk) < JOINED_BELOW_BYTES:
                small += chunk
            if small and (len(small) >= JOINED_BELOW_BYTES or len(chunk) >= JOINED_BELOW_BYTES):
                joined.append(memoryview(bytes(small)))
                small.clear()
            if len(chunk) >= JOINED_BELOW_BYTES:
                joined.append(chunk)
        if small:
            joined.append(memoryview(bytes(small)))
        self._chunks = joined
        self._join_at = max(MANY_CHUNKS, 2 * len(joined))


def framed(chunk: memoryview) -> list[memoryview]:
    """The frame of these bytes; a large chunk is not copied."""
    header = HEADER.pack(Kind.DATA, len(chunk))
    return [memoryview(header + chunk)] if len(chunk) < JOINED_BELOW_BYTES else [memoryview(header), chunk]


PING: Final = HEADER.pack(Kind.PING, 0)
PONG: Final = HEADER.pack(Kind.PONG, 0)


def end(reason: str) -> bytes:
    """The frame that ends the session."""
    text = reason.encode()[:MAX_REASON_BYTES]
    return HEADER.pack(Kind.END, len(text)) + text
