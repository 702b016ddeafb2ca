"""The server's side of a session's process, and a few of them started ahead."""

import contextlib
import logging
import queue
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader
from typing import Final

from ptrtensor.errors import WorkerLostError
from ptrtensor.owner.printed_lines import PrintedLines
from ptrtensor.owner.processor_time import has_ended, is_stopped, seconds_of
from ptrtensor.transport.process import CLEARED_MEMORY, launch
from ptrtensor.wire.control import Answer, Assign, FromSession, Question, Ready, Report, Reported, Sealing, Unsealing
from ptrtensor.worker.channel import Channel, from_session

log: Final = logging.getLogger("ptrtensor.serve")

START_SECONDS: Final = 120.0
END_SECONDS: Final = 5.0
LARGE_BYTES: Final = 1024 * 1024
TURN_SECONDS: Final = 30.0
"""For which a process may send, and for which it may take what is sent to it, while it is its turn."""

REPORT_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.02
"""How often is looked whether a process has ended that is waited for."""


class SessionProcess:
    """Importing torch takes it seconds; `assign` waits for that."""

    def __init__(self, compute_device: str, threads: int | None, turn: AbstractContextManager[object]) -> None:
        """`turn` is taken for what is large; all processes of a server have the same."""
        self._turn = turn
        ours, theirs = socket.socketpair()
        options = ["--control", str(theirs.fileno()), f"--compute-device={compute_device}"]
        options += [] if threads is None else [f"--threads={threads}"]
        with theirs:
            try:
                self._process = launch(options, (theirs.fileno(),), subprocess.DEVNULL, CLEARED_MEMORY, subprocess.PIPE)
            except BaseException:
                ours.close()
                raise
        self._channel: Channel[FromSession] = Channel(ours, from_session)
        assert isinstance(self._process.stdout, BufferedReader)
        try:
            self._printed = PrintedLines(self._process.stdout, self.number)
        except BaseException:
            self.kill()
            raise
        self._asking = threading.Lock()
        self._reports: queue.SimpleQueue[Reported] = queue.SimpleQueue()
        self._listener: threading.Thread | None = None
        self._seconds = 0.0

    @property
    def number(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def is_stopped(self) -> bool:
        return is_stopped(self.number)

    @property
    def seconds(self) -> float:
        """Of processor time since it was started, also when it has ended; 0 where the system does not tell."""
        if self._process.returncode is None and (found := seconds_of(self.number)) is not None:
            self._seconds = max(self._seconds, found)
        return self._seconds

    def assign(
        self, assignment: Assign, answer: Callable[[Question], Answer | None], session: str = ""
    ) -> socket.socket:
        """Give it its session, which has this number in the log; returns this side's end of the session's socket.
        `answer` is called in a thread.

        :raises WorkerLostError: it did not start.
        """
        self._channel.socket.settimeout(START_SECONDS)
        try:
            ready, _ = self._channel.receive()
            assert isinstance(ready, Ready)
            ours, theirs = socket.socketpair()
            with theirs:
                self._channel.send(assignment, theirs)
        except (EOFError, OSError) as error:
            self.end()
            raise WorkerLostError(f"the process for a session did not start: {error}") from error
        self._channel.socket.settimeout(None)
        self._printed.session = session
        self._listener = threading.Thread(target=self._listen, args=(answer,), daemon=True)
        self._listener.start()
        return ours

    def _listen(self, answer: Callable[[Question], Answer | None]) -> None:
        """Until it ends, or says what is no message: it gets no answer then, and must not wait for one."""
        try:
            while True:
                large = self._channel.announced() > LARGE_BYTES
                with self._in_turn(large):
                    self._hear(answer, TURN_SECONDS if large else None)
        except (EOFError, OSError):
            pass
        except Exception:
            log.exception("a session's process was shut out", extra={"pid": self.number})
        finally:
            shut_down(self._channel.socket)

    def _hear(self, answer: Callable[[Question], Answer | None], seconds: float | None) -> None:
        """One message, which may take so long to come, and is not kept until the next one does."""
        message, _ = self._channel.receive(seconds)
        if isinstance(message, Reported):
            self._reports.put(message)
        elif not isinstance(message, Ready):
            with self._in_turn(isinstance(message, Sealing | Unsealing)):
                answered = answer(message)
                if answered is not None:
                    with contextlib.suppress(ConnectionError):  # what it said last still counts
                        self._channel.send(answered)

    @contextmanager
    def _in_turn(self, large: bool) -> Iterator[None]:
        """What is large comes one after the other, and a process that is slow does not hold up the others."""
        if not large:
            yield
            return
        with self._turn:
            self._channel.socket.settimeout(TURN_SECONDS)
            yield
            self._channel.socket.settimeout(None)

    def report(self) -> Reported | None:
        """What the session holds and has done; None while it does not say."""
        with self._asking, contextlib.suppress(OSError, queue.Empty):
            while not self._reports.empty():
                self._reports.get_nowait()  # one that came too late
            self._channel.send(Report())
            return self._reports.get(timeout=REPORT_SECONDS)
        return None

    def kill(self) -> None:
        """End it at once: it holds nothing that anybody needs."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def end_at_once(self) -> None:
        """Whether or not it answers; nothing where it has ended. One that the system does not let end is left."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(END_SECONDS)

    def end(self) -> str:
        """End the process; says how it had ended by itself, where that was not in order."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0.5)
        status = self._process.poll()
        # It ends when it has read all, and says before what it had not said yet.
        shut_down(self._channel.socket, socket.SHUT_WR)
        try:
            self._wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.end_at_once()
        if self._listener is not None:
            self._listener.join(END_SECONDS)
        self._printed.join(END_SECONDS)
        self._channel.close()
        if status is None or status == 0:
            return ""
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"the process of this session {how}: what it held is gone"

    def _wait(self, seconds: float) -> None:
        """Until it has ended. Its time is looked up before its status: with that the system forgets it.

        :raises subprocess.TimeoutExpired: it goes on.
        """
        deadline = time.monotonic() + seconds
        if sys.platform == "linux":
            while not has_ended(self.number) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
            self._seconds = self.seconds
        self._process.wait(max(0.0, deadline - time.monotonic()))


def shut_down(sock: socket.socket, ways: int = socket.SHUT_RDWR) -> None:
    """Whoever reads from it elsewhere reads what is there, and then its end."""
    with contextlib.suppress(OSError):
        sock.shutdown(ways)


class Pool:
    """So many processes are kept ready, so that a client need not wait for the import of torch."""

    def __init__(self, ahead: int, compute_device: str, threads: int | None = None) -> None:
        turn = threading.RLock()  # to seal and to unseal takes several times its size of memory
        self._options = (compute_device, threads, turn)
        self._ahead = ahead
        self._lock = threading.Lock()
        self._ready: deque[SessionProcess] = deque()
        self.refill()

    def take(self) -> SessionProcess:
        with self._lock:
            while self._ready and self._ready[0].has_ended:
                self._ready.popleft().kill()
            taken = self._ready.popleft() if self._ready else SessionProcess(*self._options)
        with contextlib.suppress(OSError, RuntimeError, MemoryError):  # then the next client waits
            self.refill()
        return taken

    def refill(self) -> None:
        with self._lock:
            while len(self._ready) < self._ahead:
                self._ready.append(SessionProcess(*self._options))

    def close(self) -> None:
        with self._lock:
            self._ahead = 0
            while self._ready:
                self._ready.pop().kill()
