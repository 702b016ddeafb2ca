"""A worker on another machine: a socket whose connection is made anew when it breaks."""

import random
import socket
import threading
import time
from typing import Final

from ptrtensor.errors import IdentityError, ProtocolError, PtrTensorError, WorkerLostError
from ptrtensor.transport.base import Show
from ptrtensor.transport.dialing import Dialer, NobodyListensError, RefusedError
from ptrtensor.transport.relay import Relay
from ptrtensor.transport.resumable import NO_TOKEN
from ptrtensor.transport.sockets import SocketTransport
from ptrtensor.wire.connection import Allocate, allocate

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 5.0
FAREWELL_SECONDS: Final = 2.0


class Linked(SocketTransport):
    """A thread relays between the client's socket and the connection of the moment.

    :raises PtrTensorError: the worker cannot be reached, as `Dialer.dial` says.
    """

    spin_seconds = 0.0  # whoever looks again and again takes the interpreter from that thread

    def __init__(
        self,
        dialer: Dialer,
        peer: str,
        keep_alive_seconds: float,
        reconnect_seconds: float,
        refused_seconds: float,
        sending: Show | None = None,
        receiving: Show | None = None,
        allocate: Allocate = allocate,
    ) -> None:
        self._dialer = dialer
        self._reconnect_seconds = reconnect_seconds
        self._refused_seconds = refused_seconds
        self._reason: str | None = None
        self._broke = ""
        self._closing = threading.Event()
        try:
            connected, opening = dialer.dial(NO_TOKEN, 0)
        except OSError as error:
            raise WorkerLostError(f"the connection to {peer} broke while it was made ({error})") from error
        ours, theirs = socket.socketpair()
        self._relay = Relay(theirs, keep_alive_seconds)
        self._token = opening.token
        self._connected: socket.socket = connected
        super().__init__(ours, peer, sending, receiving, allocate)
        self._thread = threading.Thread(target=self._run, args=(connected,), name=f"ptrtensor-{peer}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        super().close()
        if self._thread is not threading.current_thread():
            self._thread.join(FAREWELL_SECONDS)

    def abandon(self) -> None:
        super().close()
        self._relay.abandon()
        self._connected.close()

    def _run(self, connected: socket.socket) -> None:
        received = 0
        try:
            while not self._relayed(connected, received):
                connected, received = self._reconnect()
                self._connected = connected
            self._reason = self._relay.ended or None
        except PtrTensorError as error:
            self._reason = str(error)
        finally:
            connected.close()
            self._relay.close()

    def _relayed(self, connected: socket.socket, received: int) -> bool:
        """Whether the session ended with this connection; else it broke."""
        try:
            return self._relay.run(connected, received)
        except OSError as error:
            self._broke = str(error)
            return False
        finally:
            connected.close()

    def _reconnect(self) -> tuple[socket.socket, int]:
        """:raises PtrTensorError: it cannot be had any more."""
        began = refused_since = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                connected, opening = self._dialer.dial(self._token, self._relay.link.received)
                return connected, opening.received
            except (IdentityError, ProtocolError, RefusedError):
                raise
            except (OSError, WorkerLostError) as error:
                now = time.monotonic()
                if not isinstance(error, NobodyListensError):
                    refused_since = now  # the network may be down and the worker well
                left = min(began + self._reconnect_seconds, refused_since + self._refused_seconds) - now
                if left <= 0:
                    raise WorkerLostError(
                        f"the connection broke ({self._broke}) and could not be made again for {now - began:.1f} s: "
                        f"{error}"
                    ) from error
            if self._closing.wait(min(left, pause * random.uniform(0.5, 1.0))):  # many clients do not all come at once
                raise WorkerLostError("this side closed the connection while it was broken")
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _explain(self, error: Exception) -> str:
        return super()._explain(error) if self._reason is None else f"{self._peer}: {self._reason}"
