"""The process of one session of `ptrtensor serve`. It sees neither keys nor other sessions, and ends with its own."""

import os
import signal
import socket
import threading

import torch

from ptrtensor.version import __version__
from ptrtensor.wire.control import Assign, FromServer, Ready, Report, Reported
from ptrtensor.worker.channel import Channel, from_server
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.listener import Gate, serve_connection, usable_device
from ptrtensor.worker.session import Session


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
    session = Session(identity, compute_device, message.publications)
    threading.Thread(target=obey, args=(channel, session), daemon=True).start()
    serve_connection(sock, Gate(session, threading.RLock(), token=""))
    return 0


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
