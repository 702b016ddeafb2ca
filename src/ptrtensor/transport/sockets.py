"""A worker at the other end of a stream socket: unix or TCP."""

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ptrtensor.errors import IdentityError, WorkerLostError
from ptrtensor.transport.addresses import format_address, is_loopback
from ptrtensor.transport.base import Show
from ptrtensor.wire.connection import (
    Allocate,
    Buffer,
    Connection,
    Incoming,
    allocate,
    client_connection,
    encode,
)
from ptrtensor.wire.messages import ClientMessage, Refused

SOCKET_BUFFER_BYTES: Final = 1024 * 1024
CONNECT_SECONDS: Final = 10.0
LOOK_AGAIN_SECONDS: Final = 0.02
"""How soon a thread that sends sees that the one which received has left."""

SPINS: Final = (os.cpu_count() or 1) > 1

yield_core: Final[Callable[[], None]] = getattr(os, "sched_yield", lambda: None)
"""Lets another process have this core, if one wants it: perhaps the peer."""

WORKER_SPIN_SECONDS: Final = 200e-6 if SPINS else 0.0
"""How long a worker that has nothing to do goes on looking before it sleeps."""

CALLER_SPIN_SECONDS: Final = 500e-6 if SPINS else 0.0
"""The same for a caller that waits for an answer."""

LONG_BYTES: Final = 16 * 1024 * 1024
"""Of a transfer of so many bytes its progress is told."""


class Piece:
    """A buffer on its way out, and how much of it the system has taken so far."""

    __slots__ = ("counts", "view")

    def __init__(self, buffer: Buffer) -> None:
        self.view = memoryview(buffer).cast("B")
        self.counts: list[int] = []

    def rest(self) -> memoryview:
        return self.view[sum(self.counts) :]


class Stream:
    """A non-blocking socket with a connection: the part that both ends share.

    Ctrl-C can strike between a system call and the next line of Python. Counts of bytes therefore go from the call
    into a list within one C call (`list.extend(map(call, ...))`), never through a local variable.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._outbox: deque[Piece] = deque()
        self._arrivals = select.poll()
        self._arrivals.register(sock, select.POLLIN)

    def enqueue(self, pieces: list[Buffer]) -> None:
        self._outbox.extend([Piece(piece) for piece in pieces])

    @property
    def has_unsent(self) -> bool:
        return bool(self._outbox)

    @property
    def unsent_bytes(self) -> int:
        return sum(len(piece.rest()) for piece in list(self._outbox))

    def write(self) -> bool:
        """Send what the system takes; True when nothing is left."""
        while self._outbox:
            piece = self._outbox[0]
            rest = piece.rest()
            if not len(rest):
                self._outbox.popleft()
                continue
            try:
                piece.counts.extend(map(self.socket.send, (rest,)))
            except BlockingIOError:
                return False
        return True

    def has_arrivals(self) -> bool:
        """Whether `read` would find something; cheaper than the exception that says there is nothing."""
        return bool(self._arrivals.poll(0))

    def read(self, connection: Connection[Incoming]) -> bool:
        """Receive what is there; False when nothing is.

        :raises EOFError: the peer closed the stream.
        """
        connection.advance()
        before = len(connection.arrived)
        try:
            connection.arrived.extend(map(self.socket.recv_into, (connection.buffer(),)))
        except BlockingIOError:
            return False
        if len(connection.arrived) > before and connection.arrived[-1] == 0:
            raise EOFError
        connection.advance()
        return True

    def read_soon(self, connection: Connection[Incoming], spin_seconds: float) -> bool:
        """The same, and look again for a moment: to be woken takes longer than most gaps last."""
        until = time.perf_counter() + spin_seconds
        while not self.read(connection):
            if time.perf_counter() > until:
                return False
            yield_core()
        return True

    def wait(self, *, readable: bool, writable: bool, seconds: float | None = None) -> bool:
        """Whether the socket became ready within so many seconds."""
        poller = select.poll()
        poller.register(self.socket, (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0))
        return bool(poller.poll(None if seconds is None else seconds * 1000))

    def close(self) -> None:
        self.socket.close()


class SocketTransport:
    """A client's end of a socket."""

    computes_on_sender = False
    spin_seconds = CALLER_SPIN_SECONDS

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        sending: Show | None = None,
        receiving: Show | None = None,
        allocate: Allocate = allocate,
    ) -> None:
        self._stream = Stream(sock)
        self._sending_shown, self._receiving_shown = sending or silent, receiving or silent
        self._connection = client_connection(allocate)
        self._peer = peer
        self._lost: str | None = None
        self.answer_seconds: float | None = None
        """How long the worker may do nothing while this side waits for it; None: for ever."""
        # Whoever holds one never blocks on the other: a worker that cannot get rid of its answers takes no commands.
        self._sending = threading.RLock()
        self._receiving = threading.Lock()
        self.events = self._connection.events

    def send(self, message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        self._check()
        with self._sending:
            try:
                self._stream.enqueue(encode(message, payload))
            finally:
                if not more:
                    self._send_all()

    def _send_all(self) -> None:
        total = self._stream.unsent_bytes
        try:
            while not self._stream.write():
                if total >= LONG_BYTES:
                    self._sending_shown(max(0, total - self._stream.unsent_bytes), total)
                # Both sides would stand still if this one did not go on reading while it cannot write.
                # The lock is noted in the call that takes it: Ctrl-C cannot fall between.
                held: list[bool] = []
                try:
                    held.extend(map(self._receiving.acquire, (False,)))
                    seconds = self.answer_seconds if held[0] else LOOK_AGAIN_SECONDS
                    if not self._stream.wait(readable=held[0], writable=True, seconds=seconds) and held[0]:
                        raise TimeoutError(f"it took nothing for {seconds:g} s")
                    if held[0]:
                        self._stream.read(self._connection)
                finally:
                    if held == [True]:
                        self._receiving.release()
        except (OSError, EOFError) as error:
            self._lose(error)
        finally:
            if total >= LONG_BYTES:
                self._sending_shown(total, total)

    def wait(self, seconds: float | None = None) -> None:
        seconds = self.answer_seconds if seconds is None else seconds
        if self._stream.has_unsent:
            self._send_rest()
        with self._receiving:
            try:
                self._receive(seconds)
            finally:
                self._receiving_shown(0, 0)

    def _receive(self, seconds: float | None) -> None:
        while not self.events:
            self._check()
            filled, total = self._connection.partial
            if total >= LONG_BYTES:
                self._receiving_shown(filled, total)
            try:
                if self._stream.read_soon(self._connection, self.spin_seconds) or self.events:
                    continue
                if not self._stream.wait(readable=True, writable=False, seconds=seconds):
                    raise TimeoutError(f"it said nothing for {seconds:g} s")
            except (OSError, EOFError) as error:
                self._lose(error)

    def _send_rest(self) -> None:
        """What an interrupted `send` left, unless another thread is sending it."""
        held: list[bool] = []
        try:
            held.extend(map(self._sending.acquire, (False,)))
            if held[0]:
                self._send_all()
        finally:
            if held == [True]:
                self._sending.release()

    def poll(self) -> None:
        # Not `acquire(blocking=False)`: interrupted before its `try`, nobody would give the lock back.
        if self._lost is None and not self._receiving.locked():
            with self._receiving:
                try:
                    while self._stream.has_arrivals() and self._stream.read(self._connection):
                        pass
                except (OSError, EOFError) as error:
                    self._lost = self._explain(error)

    def close(self) -> None:
        if self._lost is None:
            self._lost = f"the connection to {self._peer} was closed by this side"
        self._stream.close()

    def abandon(self) -> None:
        self.close()

    def _check(self) -> None:
        if self._lost is not None:
            raise WorkerLostError(self._lost)

    def _lose(self, error: Exception) -> None:
        """The stream is dead; a last word of the worker that says why comes first."""
        with contextlib.suppress(OSError, EOFError):
            while self._stream.read(self._connection):
                pass
        self._lost = self._explain(error)
        if not any(isinstance(event.message, Refused) for event in self.events):
            raise WorkerLostError(self._lost) from error

    def _explain(self, error: Exception) -> str:
        how = "in the middle of a message" if self._connection.cut else "the worker ended"
        what = how if isinstance(error, EOFError) else str(error)
        return (
            f"the connection to {self._peer} is lost ({what}); what it held is gone: "
            "start it again and send the data anew"
        )


def silent(done: int, total: int) -> None:
    """Tells nobody."""


def connect(
    host: str,
    port: int,
    peer: str,
    sending: Show | None = None,
    receiving: Show | None = None,
    allocate: Allocate = allocate,
) -> SocketTransport:
    """A transport to a worker that listens on this address.

    :raises IdentityError: another machine's: on the way anybody could read all of it, and answer in the worker's place.
    :raises WorkerLostError: nobody listens there.
    """
    address = format_address(host, port)
    if not is_loopback(host):
        raise IdentityError(
            f"{address} is not on this machine's loopback (localhost, 127.0.0.1 or [::1]), and without identities a "
            "connection is neither encrypted nor authenticated. Give both: identity= says who you are, and trust= "
            "whom you trust; ptrtensor serve listens there"
        )
    try:
        sock = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    except OSError as error:
        mend = f"start a worker there: python -m ptrtensor.worker --listen {address}"
        raise WorkerLostError(f"nobody answers at {address} ({error}); {mend}") from error
    return SocketTransport(sock, peer, sending, receiving, allocate)
