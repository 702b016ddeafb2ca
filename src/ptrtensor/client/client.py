"""The client: one session with one worker.

Commands are posted: they join a batch and nothing is waited for. A request is waited for. The order of what the
worker sees is the order of the calls, whichever threads make them.

Two locks: `_writing` while a message goes out, and that of the inbox while this thread waits for what comes in; the
outbox has one of its own for the moment in which a command joins. Blocking on flow control holds only the inbox's.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Final, NoReturn, TypeVar

from ptrtensor.client.callsite import PTRTENSOR_FOLDER, CallSite, CallSites
from ptrtensor.client.failures import Failures
from ptrtensor.client.flusher import Flusher
from ptrtensor.client.inbox import Inbox, refusal
from ptrtensor.client.outbox import Outbox
from ptrtensor.client.waits import Waits
from ptrtensor.errors import (
    ObjectNotFoundError,
    PermissionDeniedError,
    ProtocolError,
    PtrTensorError,
    RemoteOpError,
    WorkerLostError,
)
from ptrtensor.transport.base import Transport
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.instruction import Instruction
from ptrtensor.wire.limits import PROTOCOL_VERSION
from ptrtensor.wire.messages import (
    ClientMessage,
    Denied,
    Failed,
    Hello,
    Missing,
    Refused,
    Reply,
    Welcome,
)

FLUSH_STREAMING: Final = 16
"""Commands in a batch while the caller waits for nothing. To send fewer to an idle worker costs more than it saves."""

FLUSH_HERE: Final = 512
"""Commands in a batch where sending computes: taking turns between caller and worker has a price, and nobody waits."""

DROPS_HERE: Final = 32
"""Commands there after which what died meanwhile is forgotten."""

FLUSH_WAITING: Final = 8
"""Commands in a batch while the caller waits often."""

SOON_AFTER: Final = 128
"""Commands after a wait within which another is to be expected."""

MAX_IN_FLIGHT: Final = 8192
"""Commands posted and not acknowledged; past this the caller blocks."""

OURS: Final = CallSites((PTRTENSOR_FOLDER,))

R = TypeVar("R", bound=Reply, covariant=True)


class Client:
    """Speaks for this process with one worker; each `ConnectedWorker` makes its own."""

    def __init__(
        self, transport: Transport, worker: str, *, synchronous: bool, idle_seconds: float, call_sites: CallSites = OURS
    ) -> None:
        self.worker = worker
        self.failures = Failures(worker)
        self.waits = Waits()
        self.bytes_sent = 0
        self._transport = transport
        self._call_sites = call_sites
        self._synchronous = synchronous
        self._outbox = Outbox(self.failures)
        self._inbox = Inbox(transport, worker, self.failures, lambda: self._outbox.taken, self._lose)
        self.drops, self.living = self._outbox.drops, self._outbox.living
        self._waited_at = 0
        self._most = FLUSH_STREAMING
        """Commands in a batch, at most: few while the caller waits often, since a worker answers between batches."""
        self._numbers = count(1)
        self._lost: PtrTensorError | None = None
        self._told = False
        """Whether anybody has heard that the session is lost."""
        self._process = os.getpid()
        self._writing = threading.Lock()
        self._flusher = Flusher(self.flush_idle, lambda: self._outbox.first, idle_seconds)

    # --- posting

    def reserve(self, names: int = 1) -> int:
        """The first of so many fresh names."""
        self.check()  # before any lock: in a forked child another thread may have held it
        return self._outbox.reserve(names)

    def post(self, instruction: Instruction, command: bytes, site: CallSite) -> None:
        """Add a command, and the definition of its instruction if that is new."""
        self.check()
        while not (waiting := self._outbox.join(instruction, command, site)):
            self.flush()
        if self._synchronous:
            self.synchronize()
            return
        if self._transport.computes_on_sender:
            self._post_here(waiting)
        elif waiting >= self._most:
            self._flush_unless_busy()
        else:
            self._flusher.wake()

    def _post_here(self, waiting: int) -> None:
        """Where sending computes. What died meanwhile is forgotten within the batch, not held to its end.

        Threads wait their turn: commands that pile up would be for one of them to compute.
        """
        if waiting >= FLUSH_HERE:
            self.flush()
            self._inbox.poll()
        elif waiting % DROPS_HERE == 0:
            with self._writing:
                self._outbox.take_in_drops()

    def drop(self, name: int) -> None:
        """Make the worker forget a name now, whoever still holds a reference."""
        self._outbox.drop([name])
        self._flusher.wake()

    def send(self, message: ClientMessage, payload: Buffer | None = None) -> None:
        """Send a message, after all that was posted."""
        self.check()
        self._wait_for_room()
        with self._writing:
            self._send_batch(more=True)
            self._send(message, payload)

    def put(self, put: messages.Put, payload: Buffer, site: CallSite) -> None:
        """Send a value."""
        self.failures.put(put.name, self._outbox.next, site)
        self.send(put, payload)

    def flush(self) -> None:
        """Send what was posted."""
        self._wait_for_room()
        with self._writing:
            self._send_batch()
        if self._outbox.first > self._waited_at + SOON_AFTER:
            self._most = FLUSH_STREAMING

    def _flush_unless_busy(self) -> None:
        """While another thread is uploading, commands may pile up; it or the flusher sends them after it."""
        if self._writing.locked() and self._has_room():
            self._flusher.wake()
        else:
            self.flush()
            self._inbox.poll()

    def flush_idle(self) -> None:
        """The same, for the thread that looks after what the caller left lying; never raises.

        What would be computed on this thread is left for the caller's.
        """
        if self._lost is None:
            with contextlib.suppress(PtrTensorError):  # the caller will meet it, or `close` tells
                self._wait_for_room()
                with self._writing:
                    self._send_batch(computing=not self._transport.computes_on_sender)
                self._inbox.poll()

    # --- requesting

    def request(
        self,
        make: Callable[[int], ClientMessage],
        kind: type[R],
        seconds: float | None = None,
        payload: Buffer | None = None,
    ) -> tuple[R, memoryview]:
        """Send a request and wait for its answer; give up a worker from which nothing comes for so long.

        :raises RemoteOpError: the answer hangs on an operation that failed.
        :raises ObjectNotFoundError: the worker knows no such name.
        :raises WorkerLostError: the worker is gone.
        """
        number = next(self._numbers)
        try:
            self._inbox.expect(number)
            self.send(make(number), payload)
            self._waited_at, self._most = self._outbox.first, FLUSH_WAITING
            began = time.perf_counter()
            reply, payload = self._inbox.wait_for(number, seconds)
            self.waits.add(self._call_sites.current(), time.perf_counter() - began)
        finally:
            self._inbox.forget(number)
        if isinstance(reply, Failed):
            raise self.failures.error(reply.failure)
        if isinstance(reply, Missing):
            raise ObjectNotFoundError(
                f"worker {self.worker} holds no object {reply.name}: it was never sent, or was taken away"
            )
        if isinstance(reply, Denied):
            raise PermissionDeniedError(f"worker {self.worker}: {reply.reason}")
        if not isinstance(reply, kind):
            raise ProtocolError(f"worker {self.worker} answered with {type(reply).__name__}, not {kind.__name__}")
        return reply, payload

    def synchronize(self) -> None:
        """Wait until everything posted has run.

        :raises RemoteOpError: an operation failed and nobody has seen it yet.
        """
        self.request(messages.Synchronize, messages.Done)
        self.failures.raise_unseen()

    def check(self) -> None:
        """Raise if this session cannot be used any more, or not by this process."""
        if self._lost is not None:
            self._told = True
            raise self._lost.with_traceback(None)

    # --- the two ends of a session

    def greet(self, torch_version: str, token: str, seconds: float) -> Welcome:
        """The handshake [P1].

        :raises VersionMismatchError: the worker speaks another version, or runs another torch.
        """
        self._send(Hello(PROTOCOL_VERSION, __version__, torch_version, token), None)
        self._transport.wait(seconds)
        message = self._transport.events.popleft().message
        if isinstance(message, Refused):
            self._lost = refusal(message, self.worker)
            raise self._lost
        if not isinstance(message, Welcome):
            raise ProtocolError(f"the worker began with {type(message).__name__} instead of a welcome")
        return message

    def close(self, seconds: float | None = None) -> PtrTensorError | None:
        """End the session; returns the error that nobody has seen, if there is one. May be called twice."""
        error: PtrTensorError | None = None
        told = self._told
        if self._lost is None:
            with contextlib.suppress(PtrTensorError):
                self.request(messages.Bye, messages.Done, seconds)
        with contextlib.suppress(PtrTensorError):
            self._inbox.deliver()  # what came before the session was lost
        try:
            self.failures.raise_unseen()
        except RemoteOpError as unseen:
            error = unseen
        if error is None and not told and self._outbox.next > self._inbox.acknowledged:
            error = self._lost  # with commands of which nobody knows whether they were run
        self._told = True
        self._lost = WorkerLostError(f"worker {self.worker} was closed; its objects are gone")
        self.hang_up()
        return error

    def hang_up(self) -> None:
        """Let go of the thread and the transport without a word to the worker."""
        self._flusher.stop()
        self._transport.close()

    def abandon(self) -> None:
        """In a forked child: this session is the parent's. Takes no lock, another thread may have held it."""
        self._lost = PtrTensorError(
            f"worker {self.worker} belongs to process {self._process}, this is a forked child of it "
            f"({os.getpid()}): make workers in the process that uses them"
        )
        self._told = True
        self._transport.abandon()
        self._inbox.discard()  # what failed is the parent's to tell
        self.failures.forget()

    @property
    def bytes_received(self) -> int:
        return self._inbox.bytes_received

    @property
    def in_flight(self) -> int:
        """Commands that were posted and are not acknowledged."""
        return self._outbox.next - self._inbox.acknowledged

    @property
    def lost(self) -> PtrTensorError | None:
        return self._lost

    # --- inside

    def _send_batch(self, *, computing: bool = True, more: bool = False) -> None:
        """What is here now, in as many batches as it takes; threads that post meanwhile do not hold this one."""
        self._outbox.take_in_drops()
        outbox = self._outbox
        end = outbox.next
        while outbox.first < end:
            batch, commands = outbox.batch()
            if not (computing or outbox.only_drops(batch)):
                return
            self._send(batch, commands, more=more)
            outbox.sent(batch)

    def _send(self, message: ClientMessage, payload: Buffer | None, *, more: bool = False) -> None:
        try:
            self._transport.send(message, payload, more=more)
        except (WorkerLostError, ProtocolError) as error:
            self._lose(error)
        self.bytes_sent += len(payload) if payload is not None else 0

    def _wait_for_room(self) -> None:
        """[P7.5]: the caller blocks rather than the worker's queue growing, and reads while it does."""
        if self.in_flight > MAX_IN_FLIGHT:
            self._inbox.read_until(self._has_room)

    def _has_room(self) -> bool:
        all_ran = self._inbox.acknowledged >= self._outbox.first
        return self._lost is not None or self.in_flight <= MAX_IN_FLIGHT or all_ran

    def _lose(self, error: PtrTensorError) -> NoReturn:
        if self._lost is None:
            self._lost = error
        self._told = self._told or not self._flusher.is_current
        raise self._lost.with_traceback(None)
