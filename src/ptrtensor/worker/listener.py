"""Serving sessions over sockets: a thread for each client, one operation at a time."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from ptrtensor._torch.memory import allocate
from ptrtensor._torch.names import DEVICE_TYPE
from ptrtensor.errors import ProtocolError, PtrTensorError, VersionMismatchError
from ptrtensor.transport.addresses import is_loopback
from ptrtensor.transport.base import Served
from ptrtensor.transport.serving import RefusedError, refuse, serve
from ptrtensor.wire.messages import ClientMessage, Hello, Refused, told
from ptrtensor.worker.exits import Reply
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session


class Gate:
    """A session behind the checks that belong to the place where it is served.

    Flags and generators are the process's, so sessions take turns, a message at a time.
    """

    def __init__(self, session: Session, turn: AbstractContextManager[object], token: str) -> None:
        self._session = session
        self._turn = turn  # an RLock: a message that overtakes comes in the turn of the one that it overtakes
        self._token = token

    def handle(self, message: ClientMessage, payload: memoryview) -> list[Reply]:
        if isinstance(message, Hello) and message.token != self._token:
            return [(Refused("this worker belongs to another process"), None)]
        with self._turn:
            return self._session.handle(message, payload)

    def has_value(self, name: int) -> bool:
        return self._session.has_value(name)

    def when_paused(self, look: Callable[[], None] | None) -> None:
        self._session.when_paused(look)


class Refusing:
    """In a session's place: tells the client why it cannot be served."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def handle(self, message: ClientMessage, payload: memoryview) -> list[Reply]:
        return [(Refused(self._reason), None)]

    def has_value(self, name: int) -> bool:
        return False

    def when_paused(self, look: Callable[[], None] | None) -> None:
        """It never is."""


def serve_connection(
    sock: socket.socket, served: Served, when_refused: Callable[[str], None] = lambda reason: None
) -> None:
    """Serve one client until it leaves, is refused or breaks a rule; the socket is closed after it. `when_refused` is
    called before the client is told why.
    """
    with sock, contextlib.suppress(OSError):
        try:
            serve(sock, served, allocate)
            return
        except RefusedError as error:
            reason, version = error.reply.reason, error.reply.version
        except ProtocolError as error:
            reason, version = str(error), isinstance(error, VersionMismatchError)
        except OSError:
            raise
        except Exception as error:
            reason, version = f"the worker met an error of its own: {type(error).__name__}: {error}", False
        reply = Refused(told(reason), version)
        when_refused(reply.reason)
        refuse(sock, reply)


def check_device(name: str) -> None:
    """Whether this machine has a device of this name, without taking any of its memory.

    :raises PtrTensorError: it has none.
    """
    try:
        device = named_device(name)
        module = torch.get_device_module(device)
        there = module.device_count() if module.is_available() else 0
    except Exception as error:  # of whatever class; some modules of devices have no count
        reason = str(error).partition("\n")[0]
        raise PtrTensorError(f"nothing can be computed on {name!r}: {reason}") from error
    if (device.index or 0) >= there:
        raise PtrTensorError(f"there is no device {name!r}: this machine has {there} of type {device.type}")


def usable_device(name: str) -> torch.device:
    """The device of this name.

    :raises PtrTensorError: nothing can be computed there.
    """
    try:
        device = named_device(name)
        torch.ones(1, device=device).cpu()
        torch.Generator(device)
    except Exception as error:  # of whatever class the device's own code raises
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise PtrTensorError(f"this worker cannot compute on {name!r}: {reason}") from error
    return device


def named_device(name: str) -> torch.device:
    """:raises TypeError: tensors there have no values; in a client's process pointers are on such a device."""
    device = torch.device(name)
    if device.type in ("meta", DEVICE_TYPE):
        raise TypeError("tensors there have no values")
    return device


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, on loopback only.

    :raises PtrTensorError: the address is one that other machines can reach.
    """
    if not is_loopback(host):
        raise PtrTensorError(
            f"refusing to listen on {host}: without authentication and encryption, which this version does not "
            "have, a worker listens on loopback only (127.0.0.1 or ::1)"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def network_listener(host: str, port: int) -> socket.socket:
    """A listening socket on any address, for those who authenticate whoever connects.

    :raises OSError: the address is another machine's, or taken.
    """
    if host in ("", "0.0.0.0", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def serve_forever(listener: socket.socket, identity: Identity, compute_device: str) -> None:
    """Accept clients until the process ends; each has a session of its own."""
    turn = threading.RLock()
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:  # too many open files, or a client that has gone: whoever leaves makes room
            time.sleep(0.1)
            continue
        start_serving(sock, Session(identity, compute_device), turn)


def start_serving(sock: socket.socket, session: Session, turn: AbstractContextManager[object]) -> None:
    """In a thread, which alone holds the session: what a client leaves behind is freed with it."""
    gate = Gate(session, turn, token="")
    threading.Thread(target=serve_connection, args=(sock, gate), daemon=True).start()
