"""What a client needs of a transport, and what it is to a worker."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from ptrtensor.wire.connection import Buffer, Event
from ptrtensor.wire.messages import ClientMessage, WorkerMessage

Handler = Callable[[ClientMessage, memoryview], Iterable[tuple[WorkerMessage, Buffer | None]]]
"""A worker's session: one message with its payload in, the replies with theirs out."""


Show = Callable[[int, int], None]
"""Is told how many bytes of how many of a long transfer have crossed; at its end, however it ends, all there are."""


class Served(Protocol):
    """What a worker's end of a socket serves: a session, or what stands in front of it."""

    def handle(self, message: ClientMessage, payload: memoryview) -> Iterable[tuple[WorkerMessage, Buffer | None]]:
        """One message with its payload in, the replies with theirs out."""

    def has_value(self, name: int) -> bool:
        """Whether this name may be fetched now, before what was sent earlier has run."""

    def when_paused(self, look: Callable[[], None] | None) -> None:
        """Call `look` between two commands of a batch: it may hand over a message that overtakes. None: no more."""


class Transport(Protocol):
    """One ordered, reliable way to one worker.

    `send` is called by one thread at a time, `wait` and `poll` by one thread at a time. What arrives is appended to
    `events`; the caller takes an event off when it has dealt with it. After an interruption (Ctrl-C) every method
    may be called again: nothing is lost, and at worst an event arrives twice.
    """

    @property
    def computes_on_sender(self) -> bool:
        """Whether `send` runs the commands itself, on the thread and with the process-wide state of its caller."""

    @property
    def events(self) -> deque[Event[WorkerMessage]]:
        """What has arrived."""

    def send(self, message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        """Hand over one message; when it returns the payload may be changed again.

        With `more` the next message follows at once, and both may go out together; the payload stays as it is.

        :raises WorkerLostError: the worker is gone.
        """

    def wait(self, seconds: float | None = None) -> None:
        """Return when `events` is not empty; give the worker up if it says nothing for so long.

        :raises WorkerLostError: the worker is gone.
        :raises ProtocolError: the worker broke the protocol.
        """

    def poll(self) -> None:
        """Move what has arrived to `events`, without waiting."""

    def close(self) -> None:
        """Give the connection up. May be called twice."""

    def abandon(self) -> None:
        """Close what a forked child inherited, without a word to the worker, which is its parent's."""
