"""A worker process: how it starts, whom it obeys, and that it never outlives its starter."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from collecting import collect
from echoing import next_event

from ptrtensor.errors import WorkerLostError
from ptrtensor.transport import process as process_module
from ptrtensor.transport.process import WorkerProcess
from ptrtensor.transport.sockets import SocketTransport
from ptrtensor.version import __version__
from ptrtensor.wire.limits import PROTOCOL_VERSION
from ptrtensor.wire.messages import Acknowledged, Done, Hello, Refused, Synchronize, Welcome

pytestmark = pytest.mark.timeout(240)

KINDS = pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])


@contextlib.contextmanager
def started(unix: bool, compute_device: str = "cpu") -> Iterator[tuple[WorkerProcess, SocketTransport]]:
    process = WorkerProcess("bob", compute_device, unix=unix)
    transport = SocketTransport(process.socket, "worker bob")
    try:
        yield process, transport
    finally:
        transport.close()
        process.end()


def hello(token: str) -> Hello:
    return Hello(PROTOCOL_VERSION, __version__, str(torch.__version__), token)


def wait_for_exit(pid: int, seconds: float = 20) -> bool:
    """Whether the process has ended, a child of this one or not."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ready, _, _ = select.select([watched], [], [], seconds)
        return bool(ready)
    finally:
        os.close(watched)


def kill_if_alive(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@KINDS
def test_it_serves_and_ends(unix: bool) -> None:
    with started(unix) as (process, transport):
        assert (process.socket.family == socket.AF_UNIX) is unix
        transport.send(hello(process.token))
        welcome, _ = next_event(transport)
        assert isinstance(welcome, Welcome)
        assert (welcome.worker, welcome.protocol, welcome.ptrtensor) == ("bob", PROTOCOL_VERSION, __version__)
        assert process.process.poll() is None
        # Ctrl-C in a terminal goes to all processes; the worker leaves it to its starter.
        process.process.send_signal(signal.SIGINT)
        transport.send(Synchronize(1))
        assert [next_event(transport)[0] for _ in range(2)] == [Acknowledged(0, []), Done(1)]
        begin = time.monotonic()
        process.end()
        assert process.exit_status == 0
        assert time.monotonic() - begin < process_module.END_SECONDS
        process.end()
        with pytest.raises(WorkerLostError):
            transport.wait()


@KINDS
def test_it_obeys_its_starter_only(unix: bool) -> None:
    with started(unix) as (process, transport):
        transport.send(hello("guessed"))
        message, _ = next_event(transport)
        assert message == Refused("this worker belongs to another process")
        with pytest.raises(WorkerLostError):
            transport.wait()
        assert wait_for_exit(process.process.pid)


def test_each_has_a_token_of_its_own_that_nobody_sees() -> None:
    with started(True) as (process, _):
        arguments = process.process.args
        assert isinstance(arguments, list)
        assert len(process.token) >= 32
        assert not any(process.token in str(argument) for argument in arguments)
        assert not any(process.token in value for value in os.environ.values())


def test_a_killed_worker_is_noticed_at_once() -> None:
    with started(True) as (process, transport):
        transport.send(hello(process.token))
        next_event(transport)
        process.process.kill()
        begin = time.monotonic()
        with pytest.raises(WorkerLostError, match="worker bob is lost"):
            transport.wait()
        assert time.monotonic() - begin < 10
        process.process.wait(10)
        assert process.exit_status == -signal.SIGKILL


@KINDS
def test_a_worker_that_cannot_compute_says_why_and_ends(unix: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with started(unix, "nonsense") as (process, transport):
        transport.send(hello(process.token))
        message, _ = next_event(transport)
        assert isinstance(message, Refused) and "cannot compute on 'nonsense': Expected one of" in message.reason
        with pytest.raises(WorkerLostError):
            transport.wait()
        assert wait_for_exit(process.process.pid)
        assert process.exit_status == 1
    assert capfd.readouterr().err == "", "the starter shows it"


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_no_socket_stays_open_when_nothing_can_be_started() -> None:
    with pytest.raises(ValueError):
        WorkerProcess("null\0character", "cpu", unix=True)
    collect()  # an open socket would warn here


@KINDS
def test_a_worker_that_cannot_start_is_lost_not_awaited(unix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(process_module, "START_SECONDS", 20)
    begin = time.monotonic()
    with pytest.raises(WorkerLostError), started(unix) as (_, transport):
        transport.wait()
    assert time.monotonic() - begin < 10


# --- who may connect back


def accepting(token: str) -> WorkerProcess:
    """One whose process has not connected yet."""
    process = WorkerProcess.__new__(WorkerProcess)
    process.token = token
    return process


@pytest.mark.parametrize("impostor", [b"", b"x", b"y" * 32, b"z" * 1000], ids=["silent end", "short", "wrong", "long"])
def test_another_process_that_connects_first_is_sent_away(impostor: bytes) -> None:
    process = accepting("t" * 32)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        address = listener.getsockname()
        with socket.create_connection(address) as stranger:
            stranger.sendall(impostor)
            stranger.shutdown(socket.SHUT_WR)
            with socket.create_connection(address) as worker:
                worker.sendall(b"t" * 32)
                with process._accept(listener) as accepted:
                    assert accepted.getpeername() == worker.getsockname()


def test_another_process_that_connects_and_says_nothing_does_not_stop_the_start() -> None:
    process = accepting("t" * 32)
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        address = listener.getsockname()
        with socket.create_connection(address), socket.create_connection(address) as worker:
            worker.sendall(b"t" * 32)
            thread = threading.Thread(target=lambda: accepted.append(process._accept(listener)))
            thread.start()
            thread.join(15)
            in_time = bool(accepted)
        thread.join(15)
    for sock in accepted:
        sock.close()
    assert in_time


# --- the starter's end

STARTER = """
import os, sys, time
from ptrtensor.transport.process import WorkerProcess
process = WorkerProcess("bob", "cpu", unix={unix})
print(process.process.pid, flush=True)
{then}
print("ready", flush=True)
time.sleep(100)
"""

FORK = """
child = os.fork()
if child == 0:
    process.abandon()
    process.socket.close()
    time.sleep(100)
    os._exit(0)
print(child, flush=True)
"""


@contextlib.contextmanager
def starter(unix: bool, then: str = "") -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that starts a worker; with the numbers that it prints before it is ready."""
    script = STARTER.format(unix=unix, then=then)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids: list[int] = []
    try:
        for line in process.stdout:
            if line.strip() == "ready":
                break
            pids.append(int(line))
        yield process, pids
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for pid in pids:
            kill_if_alive(pid)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs a look at another process's child")
@KINDS
def test_it_ends_when_its_starter_is_killed(unix: bool) -> None:
    with starter(unix) as (process, [worker]):
        process.kill()
        process.wait()
        assert wait_for_exit(worker)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs a look at another process's child")
def test_it_ends_with_its_starter_although_a_forked_child_lives_on() -> None:
    with starter(True, FORK) as (process, [worker, child]):
        process.kill()
        process.wait()
        assert wait_for_exit(worker)
        assert not wait_for_exit(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_that_abandons_it_leaves_it_alone() -> None:
    with started(True) as (process, transport):
        transport.send(hello(process.token))
        next_event(transport)
        child = os.fork()
        if child == 0:
            process.abandon()
            transport.abandon()
            os._exit(0)
        os.waitpid(child, 0)
        transport.send(Synchronize(1))
        assert [next_event(transport)[0] for _ in range(2)] == [Acknowledged(0, []), Done(1)]
        assert process.exit_status is None
