"""Between a socket of this machine and a connection to another: the bytes of one session, both ways.

What is on this machine's side, a client or a session's process, knows of no connection that broke: its socket goes on.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ptrtensor.transport.resumable import PING, PONG, Data, End, Link, Ping, end

CHUNK_BYTES: Final = 1024 * 1024
"""How much is taken from one side at a time, and given to the other in one call. The fewer calls, the fewer threads and
processes are woken for a few bytes.
"""

COPIED_BELOW_BYTES: Final = 256 * 1024
"""A chunk smaller than this is copied out of the buffer that it was read into, which is used again."""

MOST_WAITING: Final = 64
"""Frames that wait for a peer who does not read; past this its pings are not answered."""

READS_AT_ONCE: Final = 2
"""After which whoever sends on and on waits for what else is to be done."""

Connected = socket.socket | ssl.SSLSocket


class Relay:
    """The relay of one session. `run` is called for one connection after the other, always by the same thread."""

    def __init__(self, local: socket.socket, keep_alive_seconds: float, why: Callable[[], str] = str) -> None:
        """`why` says to the peer why this machine's side ended the session; nothing, where it was the one to ask."""
        local.setblocking(False)
        with contextlib.suppress(OSError):
            local.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK_BYTES)
        self.link = Link()
        self.ended: str | None = None
        """Why the peer ended the session; None while it goes on. Empty: this side had asked."""
        self._local = local
        self._local_open = True
        self._why = why
        self._stopped = False
        self._given_up = False
        self._unread = False
        """Whether the peer may have sent more than was read."""
        self._keep_alive = keep_alive_seconds
        self._arrived = memoryview(bytearray(CHUNK_BYTES))
        self._inward: deque[memoryview] = deque()
        """Parts of `_arrived` that this machine's side has not taken yet."""
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._waker_lock = threading.Lock()

    def run(self, remote: Connected, received: int) -> bool:
        """Relay over this connection to a peer that has so many bytes; whether the session has ended with it.

        :raises OSError: the connection broke, or nothing came for three times `keep_alive_seconds`.
        :raises ProtocolError: the peer broke a rule.
        """
        remote.setblocking(False)
        outward = deque(self.link.resume(received))
        if not self._local_open:
            outward.append(memoryview(end(self._why())))
        heard = asked = took = time.monotonic()
        left = 0
        while True:
            now = time.monotonic()
            if self._local_open or len(outward) != left:
                took, left = now, len(outward)
            if self._take_in(remote, outward):
                heard = asked = now
            if self.ended is not None and not self._inward:
                return True
            self._take_out(outward)
            try:
                write_all(remote, outward)
            except OSError:
                if self.ended is None:
                    raise  # else the peer has said all that it had to say
                outward.clear()
            if self._finished(outward):
                return True
            if self._inward:
                heard = now  # nothing is read from the peer meanwhile
            if now - heard > 3 * self._keep_alive:
                raise TimeoutError(f"nothing came for {now - heard:.0f} s")
            if now - took > 3 * self._keep_alive:
                raise TimeoutError("the peer does not take what is left for it")
            if now - asked > self._keep_alive:
                asked = now
                outward.append(memoryview(PING))
            self._wait(remote, outward, asked + self._keep_alive - now)

    def interrupt(self) -> None:
        """From another thread: let `run` end with an `OSError`, since its connection is of no more use."""
        with self._waker_lock, contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def rearm(self) -> None:
        """Before `run`: an interruption that was meant for the connection before counts no more."""
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(1024):
                pass

    def stop(self) -> None:
        """From another thread: end the session, and tell the peer why."""
        self._stopped = True
        self.interrupt()

    def give_up(self) -> None:
        """From another thread: end the session, even with a peer that does not take what is left for it."""
        self._given_up = True
        self.stop()

    def close(self) -> None:
        """This machine's side learns that the session is over."""
        self._local_open = False
        with self._waker_lock:
            for sock in (self._local, self._woken, self._waker):
                sock.close()

    def abandon(self) -> None:
        """In a forked child: close what it inherited. Takes no lock, another thread may have held it."""
        for sock in (self._local, self._woken, self._waker):
            sock.close()

    # --- one way and the other

    def _take_in(self, remote: Connected, outward: deque[memoryview]) -> bool:
        """From the peer to this machine; whether anything came."""
        heard = False
        for _ in range(READS_AT_ONCE):
            self._unread = self._give_inward() and self.ended is None
            count = read(remote, self._arrived) if self._unread else 0
            if not count:
                self._unread = False
                break
            heard = True
            for event in self.link.receive(self._arrived[:count]):
                match event:
                    case Data(view):
                        self._inward.append(view)
                    case Ping():
                        if len(outward) < MOST_WAITING:  # what waits for the peer is a sign of life too
                            outward.append(memoryview(PONG))
                    case End(reason):
                        self.ended = reason
            if due := self.link.acknowledge():
                outward.append(memoryview(due))
        return heard

    def _give_inward(self) -> bool:
        """Whether this machine's side has taken all that came."""
        try:
            while self._inward:
                count = self._local.send(self._inward[0])
                if count == len(self._inward[0]):
                    self._inward.popleft()
                else:
                    self._inward[0] = self._inward[0][count:]
        except BlockingIOError:
            return False
        except OSError:
            self._inward.clear()  # this machine's side has gone
        return True

    def _take_out(self, outward: deque[memoryview]) -> None:
        """From this machine to the peer, while the peer keeps up."""
        if self._stopped and self._local_open:
            self._local_open = False
            outward.append(memoryview(end(self._why())))
        if not self._takes_out(outward):
            return
        try:
            count = self._local.recv_into(self._chunk)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0:
            self._local_open = False
            outward.append(memoryview(end(self._why())))
        elif count < COPIED_BELOW_BYTES:
            outward.extend(self.link.send(memoryview(bytes(self._chunk[:count]))))
        else:
            outward.extend(self.link.send(self._chunk[:count]))
            self._chunk = memoryview(bytearray(CHUNK_BYTES))

    def _takes_out(self, outward: deque[memoryview]) -> bool:
        return self._local_open and self.link.has_room and not outward

    def _finished(self, outward: deque[memoryview]) -> bool:
        """[P9.6]"""
        said = not self._local_open and not outward
        return said or (self.ended is not None and not self._inward)

    def _wait(self, remote: Connected, outward: deque[memoryview], seconds: float) -> None:
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        # Registered for nothing, a socket whose other end is closed would wake this thread again and again.
        if remote_wants := (0 if self._inward else select.POLLIN) | (select.POLLOUT if outward else 0):
            poller.register(remote, remote_wants)
        local_wants = (select.POLLIN if self._takes_out(outward) else 0) | (select.POLLOUT if self._inward else 0)
        if self._local_open and local_wants:
            poller.register(self._local, local_wants)
        if self._unread:
            seconds = 0.0  # TLS may hold what the system knows nothing of
        for descriptor, _ in poller.poll(max(0.0, seconds) * 1000):
            if descriptor == self._woken.fileno():
                self._woken.recv(1024)
                if self._given_up:
                    raise ConnectionAbortedError("the peer does not take what is left for it")
                if not self._stopped:
                    raise ConnectionAbortedError("another connection took its place")


def read(remote: Connected, buffer: memoryview) -> int:
    """How many bytes came; 0 where none are there yet.

    :raises ConnectionError: the peer closed the connection.
    """
    count = 0
    try:
        while count < len(buffer):
            more = remote.recv_into(buffer[count:])
            count += more
            if more == 0 and count == 0:
                raise ConnectionResetError("the peer closed the connection")
            if more == 0 or not isinstance(remote, ssl.SSLSocket):
                break  # the system gives all at once, TLS a record of 16 KiB at a time
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    except OSError:
        if count == 0:
            raise  # else what came before it counts first: perhaps it says why
    return count


def write_all(remote: Connected, outward: deque[memoryview]) -> bool:
    """Send what the system takes; whether nothing is left."""
    try:
        while outward:
            count = remote.send(outward[0])
            if count == len(outward[0]):
                outward.popleft()
            else:
                outward[0] = outward[0][count:]
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    return True
