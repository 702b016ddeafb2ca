"""A worker that listens, and a client that sends it what it likes."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Final, Generic, Protocol, TypeVar

import torch
from wire_samples import drop, frame

import ptrtensor as pt
from ptrtensor.version import __version__
from ptrtensor.wire.connection import client_connection
from ptrtensor.wire.instruction import Instruction
from ptrtensor.wire.limits import PROTOCOL_VERSION
from ptrtensor.wire.messages import (
    Acknowledged,
    Batch,
    Done,
    Failed,
    Hello,
    Message,
    Refused,
    Synchronize,
    Welcome,
    WorkerMessage,
)

SECONDS: Final = 20.0
HELLO: Final = Hello(PROTOCOL_VERSION, __version__, str(torch.__version__))


class Listener:
    """A real worker process that listens on a free port of this machine's loopback."""

    def __init__(self, process: "subprocess.Popen[str]", errors: IO[str]) -> None:
        self.process = process
        self._errors = errors
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"listens on 127\.0\.0\.1:(\d+)$", line.strip())
        assert found is not None, line + self.errors()
        self.port = int(found[1])

    def errors(self) -> str:
        """What it wrote to standard error since the last call."""
        return self._errors.read()

    def resident_bytes(self) -> int:
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def check_it_still_serves(self) -> None:
        """Another client computes something; and nothing has crashed, be it a thread."""
        with contextlib.closing(pt.RemoteWorker(f"127.0.0.1:{self.port}")) as worker:
            pointer = pt.send(torch.arange(6.0).reshape(2, 3), worker)
            assert pt.get(pointer @ pointer.t() + 1).tolist() == [[6.0, 15.0], [15.0, 51.0]]
        assert self.process.poll() is None
        assert self.errors() == ""


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "ptrtensor.worker", "--listen", "127.0.0.1:0", "--threads", "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        try:
            with open(f"/proc/self/fd/{errors.fileno()}") as reading:
                yield Listener(process, reading)
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()


class Way(Protocol):
    """What a client speaks over: a socket, or a link."""

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, count: int, /) -> bytes: ...

    def close(self) -> None: ...


SomeWay = TypeVar("SomeWay", bound=Way)


class Speaker(Generic[SomeWay]):
    """Follows the protocol only as far as it is told to."""

    def __init__(self, way: SomeWay) -> None:
        self.socket = way
        self._connection = client_connection()
        self.payload = b""
        """Of the last message that was heard."""
        self.sequence = 0

    def greet(self) -> None:
        self.say(HELLO)
        assert isinstance(self.hear(), Welcome)

    def raw(self, data: bytes) -> None:
        """Send bytes as they are; a worker that has hung up already is no error."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def say(self, message: Message, payload: bytes = b"") -> None:
        self.raw(frame(message, payload))

    def hear(self) -> WorkerMessage | None:
        """The next message of the worker; None when it has closed the connection.

        :raises TimeoutError: it does neither.
        """
        while not self._connection.events:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not chunk:
                return None
            self._connection.receive_data(chunk)
        event = self._connection.events.popleft()
        self.payload = bytes(event.payload)
        return event.message

    def refusal(self) -> Refused:
        """The worker's last word, after which it closes. Acknowledgements may come before."""
        message = self.hear()
        while isinstance(message, Acknowledged | Done):
            message = self.hear()
        assert isinstance(message, Refused), message
        assert self.hear() is None
        assert 0 < len(message.reason) < 2000
        return message

    # --- well-formed commands

    def run(self, instruction: Instruction, command: bytes) -> None:
        """One command, and the definition of its instruction."""
        self.say(Batch(self.sequence, 1, [instruction]), command)
        self.sequence += 1

    def send_commands(self, *commands: bytes) -> None:
        """Well-formed ones, which need no definition."""
        self.say(Batch(self.sequence, len(commands), []), b"".join(commands))
        self.sequence += len(commands)

    def answer(self, request: Message) -> WorkerMessage:
        """The answer to a request, past acknowledgements."""
        self.say(request)
        message = self.hear()
        while isinstance(message, Acknowledged):
            message = self.hear()
        assert message is not None
        return message

    def failure(self, request: Message) -> str:
        message = self.answer(request)
        assert isinstance(message, Failed), message
        return message.failure.error

    def check_the_session_lives(self) -> None:
        self.say(Batch(self.sequence, 1, []), drop(1, 2))
        self.sequence += 1
        assert self.answer(Synchronize(99)) == Done(99)

    def close(self) -> None:
        self.socket.close()


class Client(Speaker[socket.socket]):
    """Over a socket to a worker that listens."""

    def __init__(self, port: int) -> None:
        super().__init__(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
