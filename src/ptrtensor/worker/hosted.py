"""The process of one session of `ptrtensor serve`. It sees neither keys nor other sessions, and ends with its own."""

import os
import signal
import socket
import threading

import torch

from ptrtensor.version import __version__
from ptrtensor.wire.control import Assign, FromServer, Ready, Report
from ptrtensor.worker.channel import Channel, from_server
from ptrtensor.worker.distant_owner import DistantOwner
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.listener import Gate, serve_connection, usable_device
from ptrtensor.worker.memory_limit import limit_memory
from ptrtensor.worker.session import Session
from ptrtensor.worker.uninitialised import is_cleared_by_the_system


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
    owner = DistantOwner(channel, message.grants, metered=message.quota.metered)
    session = session_of(message, compute_device, owner)
    threading.Thread(target=obey, args=(channel, session, owner), daemon=True).start()
    # Behind all that this process needs by itself, a thread among it.
    if message.quota.memory is not None and compute_device == "cpu":
        limit_memory(message.quota.memory)
    serve_connection(sock, Gate(session, threading.RLock(), token=""), owner.note_offence)
    owner.say_goodbye()
    return 0


def session_of(assignment: Assign, compute_device: str, owner: DistantOwner) -> Session:
    identity = Identity(assignment.worker, __version__, str(torch.__version__), assignment.epoch)
    clears_memory = not is_cleared_by_the_system(torch.device(compute_device))
    return Session(
        identity, compute_device, assignment.publications, owner, assignment.quota, clears_memory=clears_memory
    )


def obey(channel: Channel[FromServer], session: Session, owner: DistantOwner) -> None:
    """Listen to the server until it ends, and this process with it."""
    while True:
        try:
            hear(channel, session, owner)
        except (EOFError, OSError):
            try:
                owner.say_goodbye()  # whatever is being run: what was run counts
            finally:
                os._exit(0)


def hear(channel: Channel[FromServer], session: Session, owner: DistantOwner) -> None:
    """One message, which may be large: it is not kept until the next one comes."""
    message, _ = channel.receive()
    if isinstance(message, Report):
        channel.send(session.report())
    elif not isinstance(message, Assign):
        owner.hear(message)
