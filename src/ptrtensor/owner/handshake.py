"""The beginning of a connection: TLS, who the peer is, and which session it means."""

import contextlib
import socket
import ssl
import threading
from typing import Final

from ptrtensor.owner.session_process import shut_down
from ptrtensor.transport.dialing import read_exactly
from ptrtensor.transport.resumable import OPENING, Opening
from ptrtensor.transport.tls import Credentials, Peer, context, peer_of

FAREWELL_SECONDS: Final = 1.0


def shake_hands(
    sock: socket.socket, guard: socket.socket, credentials: Credentials, seconds: float
) -> tuple[ssl.SSLSocket, Peer, Opening]:
    """Within so many seconds, however slowly the peer sends: `guard` is a second hold on its connection.

    :raises OSError: no handshake of TLS came of it.
    :raises PtrTensorError: it is none of ours.
    """
    deadline = threading.Timer(seconds, shut_down, (guard,))
    deadline.daemon = True
    connection: socket.socket = sock
    try:
        deadline.start()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = context(credentials, server=True).wrap_socket(sock, server_side=True)
        connection = secure
        peer = peer_of(secure, credentials)
        return secure, peer, Opening.decode(read_exactly(secure, OPENING.size))
    except BaseException:
        say_goodbye(guard)
        connection.close()
        raise
    finally:
        deadline.cancel()


def say_goodbye(sock: socket.socket) -> None:
    """Let the alert that says what is wrong arrive: unread bytes would turn it into a reset."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(FAREWELL_SECONDS)
        while sock.recv(65536):
            pass
