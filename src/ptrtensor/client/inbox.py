"""The inbox: what the worker said, for whichever thread waits for it."""

import threading
from collections.abc import Callable
from typing import NoReturn

from ptrtensor.client.failures import Failures
from ptrtensor.errors import ProtocolError, PtrTensorError, VersionMismatchError, WorkerLostError
from ptrtensor.transport.base import Transport
from ptrtensor.wire.limits import MAX_FAILURES
from ptrtensor.wire.messages import Acknowledged, Refused, Reply, Welcome, WorkerMessage


class Inbox:
    """Of several threads that wait one reads, for all.

    What arrives is taken off only when it has been dealt with, and dealing with it twice does no harm [P7.3]: between
    any two steps an interruption may fall.
    """

    def __init__(
        self,
        transport: Transport,
        worker: str,
        failures: Failures,
        sent: Callable[[], int],
        lose: Callable[[PtrTensorError], NoReturn],
    ) -> None:
        """`sent` counts the commands that the worker can know of; `lose` ends the session, and raises."""
        self.acknowledged = 0
        """Commands that have run."""
        self.bytes_received = 0
        self._transport = transport
        self._worker = worker
        self._failures = failures
        self._sent = sent
        self._lose = lose
        self._awaited: set[int] = set()
        self._replies: dict[int, tuple[Reply, memoryview]] = {}
        self._reading = threading.Lock()

    def expect(self, number: int) -> None:
        """A request with this number is about to be sent; an answer that nobody expects is not kept."""
        self._awaited.add(number)

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._awaited.discard(number)
        self._replies.pop(number, None)

    def wait_for(self, number: int, seconds: float | None) -> tuple[Reply, memoryview]:
        """The answer to a request, and its payload."""
        self.read_until(lambda: number in self._replies, seconds)
        return self._replies.pop(number)

    def read_until(self, arrived: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait for what this thread needs; give up a worker from which nothing comes for so long."""
        while not arrived():
            self._read(arrived, seconds)

    def _read(self, arrived: Callable[[], bool], seconds: float | None) -> None:
        with self._reading:
            if arrived():
                return  # another thread has read it
            try:
                if not self._transport.events:
                    self._transport.wait(seconds)
                self.deliver()
            except (WorkerLostError, ProtocolError) as error:
                self._lose(error)

    def poll(self) -> None:
        """Take in what has arrived, if nobody else is about to."""
        if not self._reading.locked():
            with self._reading:
                try:
                    self._transport.poll()
                    self.deliver()
                except ProtocolError as error:
                    self._lose(error)

    def deliver(self) -> None:
        """Deal with what the transport holds.

        :raises ProtocolError: it is what no worker says.
        """
        events = self._transport.events
        while events:
            message, payload = events[0]
            self._receive(message, payload)
            events.popleft()

    def discard(self) -> None:
        """What has arrived is not for this process."""
        self._transport.events.clear()

    def _receive(self, message: WorkerMessage, payload: memoryview) -> None:
        if isinstance(message, Acknowledged):
            self._check(message)
            self.acknowledged = message.sequence
            self._failures.acknowledge(message.sequence, message.failures)
        elif isinstance(message, Refused):
            self._lose(refusal(message, self._worker))
        elif isinstance(message, Welcome):
            raise ProtocolError(f"worker {self._worker} sent the handshake twice")
        elif message.request in self._awaited:
            self.bytes_received += len(payload)
            self._replies[message.request] = (message, payload)

    def _check(self, message: Acknowledged) -> None:
        """[P7.4]. What says no more than before does no harm: the same may come twice [P7.3]."""
        sent = self._sent()
        if not self.acknowledged <= message.sequence <= sent:
            raise ProtocolError(
                f"worker {self._worker} says that it has run {message.sequence} commands of {sent}, of which it had "
                f"run {self.acknowledged} before"
            )
        failures = message.failures
        if failures and (len(failures) > MAX_FAILURES or max(failure.sequence for failure in failures) >= sent):
            raise ProtocolError(
                f"worker {self._worker} tells of {len(failures)} failures at once, or of one of what it was never sent"
            )


def refusal(message: Refused, worker: str) -> PtrTensorError:
    kind = VersionMismatchError if message.version else ProtocolError
    return kind(f"worker {worker} refused: {message.reason}")
