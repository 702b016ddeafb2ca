"""The server's side of a session's process, and a few of them started ahead."""

import contextlib
import queue
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from ptrtensor.errors import WorkerLostError
from ptrtensor.transport.process import CLEARED_MEMORY, launch
from ptrtensor.wire.control import Assign, Denial, FromSession, Ready, Report, Reported
from ptrtensor.worker.channel import Channel, from_session

START_SECONDS: Final = 120.0
END_SECONDS: Final = 5.0
REPORT_SECONDS: Final = 2.0


class SessionProcess:
    """Importing torch takes it seconds; `assign` waits for that."""

    def __init__(self, compute_device: str, threads: int | None = None) -> None:
        ours, theirs = socket.socketpair()
        options = ["--control", str(theirs.fileno()), f"--compute-device={compute_device}"]
        options += [] if threads is None else [f"--threads={threads}"]
        with theirs:
            try:
                self._process = launch(options, (theirs.fileno(),), subprocess.DEVNULL, CLEARED_MEMORY)
            except BaseException:
                ours.close()
                raise
        self._channel: Channel[FromSession] = Channel(ours, from_session)
        self._asking = threading.Lock()
        self._reports: queue.SimpleQueue[Reported] = queue.SimpleQueue()
        self._listener: threading.Thread | None = None

    @property
    def number(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def assign(self, assignment: Assign, hear: Callable[[Denial], None]) -> socket.socket:
        """Give it its session; returns this side's end of the session's socket. `hear` is called in a thread.

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
        self._listener = threading.Thread(target=self._listen, args=(hear,), daemon=True)
        self._listener.start()
        return ours

    def _listen(self, hear: Callable[[Denial], None]) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message, _ = self._channel.receive()
                if isinstance(message, Denial):
                    hear(message)
                elif isinstance(message, Reported):
                    self._reports.put(message)

    def report(self) -> Reported | None:
        """What the session holds and has done; None while it does not say."""
        with self._asking, contextlib.suppress(OSError, queue.Empty):
            while not self._reports.empty():
                self._reports.get_nowait()  # one that came too late
            self._channel.send(Report())
            return self._reports.get(timeout=REPORT_SECONDS)
        return None

    def kill(self) -> None:
        """End it at once: it holds nothing."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def end(self) -> str:
        """End the process; says how it had ended by itself, where that was not in order."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        status = self._process.poll()
        if self._listener is not None:
            shut_down(self._channel.socket)
            self._listener.join(END_SECONDS)  # it has heard all that the process had to say
        self._channel.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if status is None or status == 0:
            return ""
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"the process of this session {how}: what it held is gone"


def shut_down(sock: socket.socket) -> None:
    """Whoever reads from it elsewhere reads what is there, and then its end."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Pool:
    """So many processes are kept ready, so that a client need not wait for the import of torch."""

    def __init__(self, ahead: int, compute_device: str, threads: int | None = None) -> None:
        self._options = (compute_device, threads)
        self._ahead = ahead
        self._lock = threading.Lock()
        self._ready: deque[SessionProcess] = deque()
        self.refill()

    def take(self) -> SessionProcess:
        with self._lock:
            while self._ready and self._ready[0].has_ended:
                self._ready.popleft().kill()
            taken = self._ready.popleft() if self._ready else SessionProcess(*self._options)
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
