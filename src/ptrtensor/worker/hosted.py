"""The process of one session of `ptrtensor serve`. It sees neither keys nor other sessions, and ends with its own."""

import os
import signal
import socket
import threading

import torch

from ptrtensor.version import __version__
from ptrtensor.wire.control import Assign, Denial, FromServer, Ready, Report, Reported
from ptrtensor.worker.channel import Channel, from_server
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.listener import Gate, serve_connection, usable_device
from ptrtensor.worker.session import Session
from ptrtensor.worker.store import Labels


def host(control: int, compute_device: str) -> int:
    """Wait for a client and serve it to its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server says when to end
    channel = Channel(socket.socket(fileno=control), from_server)
    usable_device(compute_device)
    try:
        channel.send(Ready())
        message, sock = channel.receive()
    except (EOFError, OSError):
        return 0
    assert isinstance(message, Assign) and sock is not None
    identity = Identity(message.worker, __version__, str(torch.__version__), message.epoch)
    denials = Denials(channel)
    session = Session(identity, compute_device, message.publications, denials.add)
    threading.Thread(target=obey, args=(channel, session), daemon=True).start()
    serve_connection(sock, Gate(session, threading.RLock(), token=""))
    denials.send()
    return 0


class Denials:
    """Tells the server of requests that were denied: the first of a kind at once, then a series of the same in powers
    of two, so that a client that asks again and again does not fill the log.
    """

    def __init__(self, channel: Channel[FromServer]) -> None:
        self._channel = channel
        self._kind: tuple[str, Labels] | None = None
        self._count = 0
        self._told = 0

    def add(self, what: str, labels: Labels) -> None:
        if (what, labels) != self._kind:
            self.send()
            self._kind, self._count, self._told = (what, labels), 0, 0
        self._count += 1
        if self._count.bit_count() == 1:
            self.send()

    def send(self) -> None:
        """Tell of those that were not told of yet. The server has the log; without it nothing goes on."""
        if self._kind is not None and self._count > self._told:
            what, labels = self._kind
            try:
                self._channel.send(Denial(what, tuple(sorted(labels)), self._count - self._told))
            except OSError:
                os._exit(0)
            self._told = self._count


def obey(channel: Channel[FromServer], session: Session) -> None:
    """Answer the server until it ends, and this process with it."""
    while True:
        try:
            message, _ = channel.receive()
            if isinstance(message, Report):
                count = session.count(0)
                channel.send(Reported(count.commands, count.operations, count.objects, count.object_bytes))
        except (EOFError, OSError):
            os._exit(0)
