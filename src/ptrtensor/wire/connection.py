"""The connection: bytes in, events out, and the other way round. It never touches a socket.

A frame is a header of 16 bytes, a message in MessagePack and a payload of raw bytes [P2]. The shell around it
asks `buffer` where the next bytes belong, puts their number into `arrived`, calls `advance` and finds the
complete messages in `events`. A payload is received straight into the memory it stays in.

Ctrl-C may fall between any two steps of a client. So a count of bytes enters `arrived` inside the very C call
that read them, and state changes by plain assignments after everything that can be interrupted: at worst an
event stands in `events` twice, which its receiver tolerates [P7.3].
"""

import enum
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from ptrtensor.errors import MessageTooLargeError, ProtocolError, UnsupportedOpError, VersionMismatchError
from ptrtensor.wire.limits import (
    MAX_BATCH_BYTES,
    MAX_HELLO_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_REFUSAL_CHARACTERS,
    MAX_SEALED_BYTES,
    PROTOCOL_VERSION,
)
from ptrtensor.wire.messages import (
    PAYLOAD_OF_TENSOR,
    SEALED_PAYLOAD,
    Batch,
    ClientMessage,
    Hello,
    Message,
    Put,
    Refused,
    Value,
    Welcome,
    WorkerMessage,
)

HEADER: Final = struct.Struct("<2sHIQ")
MAGIC: Final = b"pt"

STAGING_BYTES: Final = 256 * 1024
JOINED_BELOW_BYTES: Final = 16 * 1024
"""A payload smaller than this is copied behind its header: a system call costs more."""

MOST_PAYLOAD_BYTES: Final[dict[type[Message], int]] = {
    Batch: MAX_BATCH_BYTES,
    **dict.fromkeys(SEALED_PAYLOAD, MAX_SEALED_BYTES),
}
"""Of messages whose payload is no value of a tensor."""

_encoder: Final = msgspec.msgpack.Encoder()
_from_client: Final[msgspec.msgpack.Decoder[ClientMessage]] = msgspec.msgpack.Decoder(ClientMessage)
_from_worker: Final[msgspec.msgpack.Decoder[WorkerMessage]] = msgspec.msgpack.Decoder(WorkerMessage)

Buffer = bytes | bytearray | memoryview
Incoming = TypeVar("Incoming", bound=Message)


class State(enum.Enum):
    """[P1.1]: nothing but the handshake until it is done, nothing at all after an error."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    FAILED = "failed"


class Event(NamedTuple, Generic[Incoming]):
    """One message that arrived, with its payload, which belongs to the receiver.

    A tensor for whose value there was no memory has an empty one: that is no reason to give the connection up.
    """

    message: Incoming
    payload: memoryview


def allocate(size: int) -> memoryview:
    """Writable memory of `size` bytes.

    :raises MessageTooLargeError: there is none.
    """
    try:
        return memoryview(bytearray(size))
    except MemoryError as error:
        raise MessageTooLargeError(f"there is no memory for a payload of {size} bytes: {error}") from error


EMPTY: Final = memoryview(b"")

Allocate = Callable[[int], memoryview]
"""Writable memory of so many bytes. `MessageTooLargeError`: there is none."""


def encode(message: Message, payload: Buffer | None = None) -> list[Buffer]:
    """The frame as buffers to be sent in order; a large payload is not copied [P2.1].

    :raises UnsupportedOpError: the peer would have to refuse it [P3.1].
    """
    body = _encoder.encode(message)
    size = 0 if payload is None else len(payload)
    most = MAX_HELLO_BYTES if isinstance(message, Hello | Welcome) else MAX_MESSAGE_BYTES
    if len(body) > most:
        raise UnsupportedOpError(
            f"a {type(message).__name__} of {len(body)} bytes is more than the {most} that a peer takes"
        )
    if size > MOST_PAYLOAD_BYTES.get(type(message), MAX_PAYLOAD_BYTES):
        raise UnsupportedOpError(
            f"a {type(message).__name__} with {size} bytes beside it is more than a peer takes: send parts of it"
        )
    head = HEADER.pack(MAGIC, PROTOCOL_VERSION, len(body), size) + body
    if payload is None or size == 0:
        return [head]
    return [head + payload] if size < JOINED_BELOW_BYTES else [head, payload]


class Connection(Generic[Incoming]):
    """One end's view of the bytes that arrive. Made by `client_connection` and `worker_connection`."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Incoming], allocate: Allocate) -> None:
        self._allocate = allocate
        self._opening: Incoming | None = None
        self._failure: ProtocolError | None = None
        self.events: deque[Event[Incoming]] = deque()
        self.arrived: list[int] = []
        self._decoder = decoder
        self._staging = bytearray(STAGING_BYTES)
        self._start = 0
        self._end = 0
        self._partial: Event[Incoming] | None = None
        self._size = 0
        self._filled = 0

    @property
    def state(self) -> State:
        if self._failure is not None:
            return State.FAILED
        return State.HANDSHAKE if self._opening is None else State.OPEN

    def buffer(self) -> memoryview:
        """Where the next received bytes must be written; never empty."""
        if self._partial is not None:
            if not self._partial.payload:
                return memoryview(bytearray(min(STAGING_BYTES, self._size - self._filled)))
            return self._partial.payload[self._filled :]
        if self._start == self._end:
            self._start = 0
            self._end = 0
        if self._end == len(self._staging):
            self._make_room()
        return memoryview(self._staging)[self._end :]

    def advance(self) -> None:
        """Turn what has arrived into events.

        Raises `ProtocolError` once the peer breaks a rule, and on every call after that [P1.3]; the events
        before the offence are in `events`.
        """
        self._check_alive()
        self._count()
        try:
            while self._step():
                pass
        except ProtocolError as error:
            self._failure = error
            raise

    def receive_data(self, data: Buffer) -> None:
        """Take bytes that are already in memory; the same as filling `buffer` and calling `advance`."""
        rest = memoryview(data)
        while len(rest):
            self._check_alive()
            target = self.buffer()
            count = min(len(target), len(rest))
            target[:count] = rest[:count]
            self.arrived.append(count)
            self.advance()
            rest = rest[count:]

    def next_event(self) -> Event[Incoming] | None:
        """The next complete message, or None while more bytes are needed."""
        return self.events.popleft() if self.events else None

    @property
    def partial(self) -> tuple[int, int]:
        """Of the payload that is arriving: how many bytes are here, and how many there will be."""
        return (0, 0) if self._partial is None else (self._filled, self._size)

    @property
    def cut(self) -> bool:
        """Whether the stream, if it ends here, cuts a message."""
        return self._partial is not None or self._start != self._end

    # --- parsing

    def _count(self) -> None:
        # No call stands between the assignments of a branch: an interruption cannot fall between them.
        if self.arrived:
            count = sum(self.arrived)
            if self._partial is not None:
                self._filled = self._filled + count
                self.arrived = []
            else:
                self._end = self._end + count
                self.arrived = []

    def _step(self) -> bool:
        """Finish the payload in progress, or begin the next frame; False while bytes are missing."""
        if self._partial is not None:
            if self._filled < self._size:
                return False
            self._check_order(self._partial.message)
            self.events.append(self._partial)
            self._partial = None
            return True
        available = self._end - self._start
        if available < HEADER.size:
            return False
        magic, version, message_bytes, payload_bytes = HEADER.unpack_from(self._staging, self._start)
        self._check_header(magic, version, message_bytes, payload_bytes)
        if available < HEADER.size + message_bytes:
            return False
        body = self._start + HEADER.size
        begin = body + message_bytes
        message = self._decode(memoryview(self._staging)[body:begin])
        self._check_payload(message, payload_bytes)
        payload = self._payload(message, payload_bytes)
        present = min(payload_bytes, self._end - begin)
        if present and payload:
            payload[:present] = memoryview(self._staging)[begin : begin + present]
        partial = Event(message, payload)
        self._size = payload_bytes
        self._partial = partial
        self._filled = present
        self._start = begin + present
        return True

    def _payload(self, message: Incoming, size: int) -> memoryview:
        """Memory for it; none where there is too little for a tensor, whose bytes are passed over."""
        if not size:
            return EMPTY
        try:
            return self._allocate(size)
        except MessageTooLargeError:
            if isinstance(message, Put | Value):
                return EMPTY
            raise

    def _make_room(self) -> None:
        """Move the unread bytes to the front; grow for a long message, within the limit checked before."""
        unread = self._staging[self._start : self._end]
        size = len(self._staging) if self._start else len(self._staging) * 2
        staging = unread + bytes(size - len(unread))
        end = len(unread)
        self._staging = staging
        self._start = 0
        self._end = end

    # --- the rules

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    def _check_header(self, magic: bytes, version: int, message_bytes: int, payload_bytes: int) -> None:
        """[P2.2], [P3.1]: before anything is reserved or decoded."""
        if magic != MAGIC:
            raise ProtocolError("the peer does not speak ptrtensor's protocol (wrong first bytes)")
        if version != PROTOCOL_VERSION:
            raise VersionMismatchError(
                f"the peer speaks version {version} of the protocol, this side {PROTOCOL_VERSION}; "
                "install the same ptrtensor on both sides"
            )
        handshake = self.state is State.HANDSHAKE
        if message_bytes > (MAX_HELLO_BYTES if handshake else MAX_MESSAGE_BYTES):
            raise MessageTooLargeError(f"the peer announces a message of {message_bytes} bytes")
        if payload_bytes > (0 if handshake else MAX_PAYLOAD_BYTES):
            raise MessageTooLargeError(f"the peer announces a payload of {payload_bytes} bytes")

    def _decode(self, body: memoryview) -> Incoming:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            # Cut, since it may quote the message; without its cause, which is as long.
            reason = str(error)[:MAX_REFUSAL_CHARACTERS]
            raise ProtocolError(f"the peer sent a message that is none of the protocol's: {reason}") from None

    def _check_payload(self, message: Message, size: int) -> None:
        """[P2.3]: a tensor's payload is as long as its metadata says, and only some messages have one."""
        most = MOST_PAYLOAD_BYTES.get(type(message))
        if most is not None:
            if size > most:
                raise MessageTooLargeError(f"the peer announces a {type(message).__name__} of {size} bytes")
        elif isinstance(message, PAYLOAD_OF_TENSOR):
            expected = 0
            if message.meta is not None:
                message.meta.check()
                expected = message.meta.nbytes
            if size != expected:
                raise ProtocolError(f"the peer sent {size} bytes for a tensor of {expected}")
        elif size:
            raise ProtocolError(f"the peer sent a payload with {type(message).__name__}, which has none")

    def _check_order(self, message: Incoming) -> None:
        """[P1.2]: hello and welcome come first, and once. Asking twice about one message changes nothing."""
        if message is self._opening:
            return
        opening = isinstance(message, Hello | Welcome)
        if self._opening is None:
            if opening:
                self._opening = message
            elif not isinstance(message, Refused):
                raise ProtocolError(f"the peer began with {type(message).__name__} instead of the handshake")
        elif opening:
            raise ProtocolError("the peer sent the handshake twice")


def client_connection(allocate: Allocate = allocate) -> Connection[WorkerMessage]:
    """The client's end: what arrives are the worker's messages, with payloads in memory of that kind."""
    return Connection(_from_worker, allocate)


def worker_connection(allocate: Allocate = allocate) -> Connection[ClientMessage]:
    """The worker's end: what arrives are the client's messages, with payloads in memory of that kind."""
    return Connection(_from_client, allocate)
