"""One client's session as the server sees it: a process, a relay, and the connection of the moment."""

import contextlib
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ptrtensor.errors import ProtocolError
from ptrtensor.owner.clerk import Clerk
from ptrtensor.owner.options import Options
from ptrtensor.owner.session_process import SessionProcess
from ptrtensor.transport.relay import Connected, Relay
from ptrtensor.transport.resumable import TOKEN_BYTES, Opening, end
from ptrtensor.transport.tls import Peer

FAREWELL_SECONDS = 2.0

CRASHED = "the process of this session ended by itself: what it held is gone"


@dataclass(frozen=True)
class Patience:
    """How long a server waits, in seconds: for a client whose connection broke, between signs of life, and for a
    session's process that somebody stopped.
    """

    lease: float = Options.lease
    keep_alive: float = 15.0
    handshake: float = 10.0
    stopped: float = 30.0


@dataclass(frozen=True)
class Ended:
    """How a session ended."""

    reason: str
    seconds: float


@dataclass(eq=False)
class HostedSession:
    """It lives until its client leaves, its process ends, its lease runs out or the server stops."""

    number: str
    """For people, in logs; says nothing of the token."""
    peer: Peer
    process: SessionProcess
    clerk: Clerk
    local: socket.socket
    patience: Patience
    when_ended: Callable[["HostedSession", Ended], None]
    token: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self._stopped_since: float | None = None
        """When its process was first seen to be stopped, if it has not gone on."""
        self._reason: str | None = None
        self._relay = Relay(self.local, self.patience.keep_alive, self._why)
        self._connections: queue.SimpleQueue[tuple[Connected, int] | None] = queue.SimpleQueue()
        self._attaching = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"session-{self.number}", daemon=True)
        self._thread.start()

    def attach(self, connection: Connected, received: int) -> None:
        """Go on over this connection, with a client that has so many bytes; one before it is given up."""
        with self._attaching:
            self._connections.put((connection, received))
            self._relay.interrupt()

    def look(self) -> None:
        """Count what its process computed, and end it if that is far too much, or if it cannot compute any more."""
        if reason := self.clerk.look(self.process.seconds) or self._stopped():
            self.stop(reason)

    def stop(self, reason: str) -> None:
        """Tell the client why, and end."""
        if self._reason is None:
            self._reason = reason
        self._connections.put(None)
        self._relay.stop()

    def end_at_once(self) -> None:
        """After `stop`, with a process that hangs or a client that takes nothing."""
        self.process.end_at_once()
        self._relay.give_up()

    def _stopped(self) -> str:
        """Why it must end, where its process has been stopped for long: its client would wait for ever."""
        if not self.process.is_stopped:
            self._stopped_since = None
            return ""
        self._stopped_since = self._stopped_since or time.monotonic()
        if time.monotonic() - self._stopped_since < self.patience.stopped:
            return ""
        return f"the process of this session was stopped for {self.patience.stopped:g} s: what it held is gone"

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        reason = ""
        try:
            while not self._relayed():
                pass
        except queue.Empty:
            reason = "its client did not come back in time"
        except ProtocolError as error:
            reason = str(error)
        finally:
            self._relay.close()
            said = self._relay.ended and f"its client said {self._relay.ended!r}"
            stopped = self._reason
            # With its end comes what the process had still to say: of an offence, too.
            crash = self.process.end()
            reason = crash or stopped or self.clerk.offence or said or reason
            self.clerk.close(self.process.seconds, bool(crash) and stopped in (None, CRASHED))
            self.when_ended(self, Ended(reason, time.monotonic() - self.began))

    def _relayed(self) -> bool:
        """Whether the session ended with this connection.

        :raises queue.Empty: no client came back for it.
        """
        # What its client never sent anything to holds nothing, and the client may not even know of it.
        patience = self.patience.lease if self._relay.link.received else self.patience.handshake
        attached = self._connections.get(timeout=patience)
        if attached is None:
            return True
        connection, received = attached
        with contextlib.closing(connection):
            with self._attaching:
                self._relay.rearm()
                if not self._connections.empty():
                    return False  # this one was given up for another
            try:
                connection.sendall(Opening(self.token, self._relay.link.received).encode())
                return self._relay.run(connection, received)
            except ProtocolError as error:
                refuse(connection, str(error))
                raise
            except OSError:
                return False

    def _why(self) -> str:
        """For the client. How its process crashed is the owner's to know: that may depend on private values."""
        if self._reason is None:
            self._reason = CRASHED if self.process.end() else ""
        return self._reason


def refuse(connection: Connected, reason: str) -> None:
    """A last word, if the client still takes one."""
    with contextlib.suppress(OSError):
        connection.settimeout(FAREWELL_SECONDS)
        connection.sendall(end(reason))
