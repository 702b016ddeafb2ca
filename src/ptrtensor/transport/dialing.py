"""Reaching a worker on another machine: each way in which that fails is told apart."""

import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from ptrtensor.errors import IdentityError, ProtocolError, WorkerLostError
from ptrtensor.transport.addresses import format_address
from ptrtensor.transport.resumable import HEADER, MAX_REASON_BYTES, NO_TOKEN, OPENING, Kind, Opening
from ptrtensor.transport.tls import Credentials, context, peer_of

START_SECONDS: Final = 120.0

NOT_TLS_1_3: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "UNSUPPORTED_PROTOCOL",
        "UNEXPECTED_MESSAGE",
        "TLSV1_ALERT_PROTOCOL_VERSION",
    }
)

NOT_TRUSTED_HERE: Final = frozenset({18, 19, 20, 21, 24, 79})
"""OpenSSL's codes where no certificate of ours vouches for the peer's: self-signed, or of an unknown issuer."""


class RefusedError(WorkerLostError):
    """The worker was reached and wants no session, or none of that token."""


class NobodyListensError(WorkerLostError):
    """The machine was reached, and no process listens there."""


@dataclass(frozen=True)
class Dialer:
    """Connects to one worker, again and again."""

    host: str
    port: int
    credentials: Credentials
    worker: str
    named: bool
    """Whether the caller asked for the worker by its own name, rather than only by its address. What follows a "/" is
    the caller's, for a second session with the same worker.
    """
    seconds: float

    def dial(self, token: bytes, received: int) -> tuple[ssl.SSLSocket, Opening]:
        """A connection on which the worker has said how far it got.

        :raises WorkerLostError: the name, the route or the session is at fault, or nobody listens.
        :raises IdentityError: one side does not trust the other, or a certificate is not valid.
        :raises ProtocolError: something else listens there, or another version.
        :raises OSError: the connection broke while it was made.
        """
        secure = context(self.credentials, server=False)
        sock = self._shake_hands(secure, self._connect())
        try:
            self._check_name(sock)
            with contextlib.suppress(OSError):  # refused, the worker has hung up; the alert that says why is read below
                sock.sendall(Opening(token, received).encode())
            if token == NO_TOKEN:
                sock.settimeout(START_SECONDS)  # a process may have to be started for it
            return sock, self._opening(sock)
        except ssl.SSLError as error:
            sock.close()
            if is_alert(error) and "EXPIRED" in (error.reason or ""):
                raise IdentityError(
                    f"{self._who} does not accept this side's certificate {self.credentials.certificate}: it expired. "
                    "Make another identity with: ptrtensor keys new NAME; its owner must trust that"
                ) from error
            if is_alert(error):
                raise IdentityError(
                    f"{self._who} does not accept this side's certificate ({error.reason}): its owner must trust "
                    f"{self.credentials.certificate}, with: ptrtensor keys trust"
                ) from error
            raise
        except BaseException:
            sock.close()
            raise

    @property
    def _who(self) -> str:
        return f"worker {self.worker} at {format_address(self.host, self.port)}"

    def _connect(self) -> socket.socket:
        try:
            return socket.create_connection((self.host, self.port), timeout=self.seconds)
        except socket.gaierror as error:
            raise WorkerLostError(f"{self._who}: the name {self.host!r} has no address ({error.strerror})") from error
        except (OSError, UnicodeError) as error:
            kind = NobodyListensError if isinstance(error, ConnectionRefusedError) else WorkerLostError
            raise kind(
                f"{self._who} cannot be reached ({error}): is it serving, and does the network let you through?"
            ) from error

    def _shake_hands(self, secure: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return secure.wrap_socket(plain)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            if error.verify_code in NOT_TRUSTED_HERE:
                raise IdentityError(
                    f"{self._who} shows a certificate that {self.credentials.trust} does not hold "
                    f"({error.verify_message}): if it is the right one, add it with: ptrtensor keys trust FILE "
                    f"--trust {self.credentials.trust}"
                ) from error
            raise IdentityError(
                f"{self._who} shows a certificate that is not valid ({error.verify_message}): its owner must make "
                "another, with: ptrtensor keys new"
            ) from error
        except ssl.SSLError as error:
            plain.close()
            if error.reason in NOT_TLS_1_3:
                raise ProtocolError(f"{self._who} does not speak TLS 1.3 ({error.reason}): is it a worker?") from error
            raise
        except BaseException:
            plain.close()
            raise

    def _check_name(self, sock: ssl.SSLSocket) -> None:
        """[P10.3]: where more than one worker can be trusted, the name must be the one that was asked for."""
        peer = peer_of(sock, self.credentials)
        is_only_one = peer.pinned and len(self.credentials.trusted) == 1
        if not is_only_one and not (self.named and peer.name == self.worker.partition("/")[0]):
            asked = f"you asked for {self.worker!r}" if self.named else f"ask for it by name: id={peer.name!r}"
            raise IdentityError(
                f"{self._who} is {peer.name!r}, one of several that {self.credentials.trust} trusts: {asked}"
            )

    def _opening(self, sock: ssl.SSLSocket) -> Opening:
        opening = Opening.decode(read_exactly(sock, OPENING.size))
        if opening.token == NO_TOKEN:
            kind, length = HEADER.unpack(read_exactly(sock, HEADER.size))
            reason = "it gave no reason"
            if kind == Kind.END and length <= MAX_REASON_BYTES:
                reason = read_exactly(sock, length).decode(errors="replace")
            raise RefusedError(f"{self._who} refused: {reason}")
        return opening


def read_exactly(sock: ssl.SSLSocket, count: int) -> bytes:
    """:raises ConnectionError: the peer closed the connection before that."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionResetError("the peer closed the connection")
        data += more
    return data


def is_alert(error: ssl.SSLError) -> bool:
    """Whether the peer said why it hung up."""
    return error.reason is not None and "ALERT" in error.reason
