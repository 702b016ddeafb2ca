"""The server of `ptrtensor serve`: it lets clients in, one process for the session of each."""

import contextlib
import logging
import os
import secrets
import socket
import ssl
import threading
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Final

from ptrtensor.errors import AuditError, ProtocolError, PtrTensorError
from ptrtensor.owner.audit import Audit
from ptrtensor.owner.hosted_session import Ended, HostedSession, Patience, refuse
from ptrtensor.owner.session_process import Pool, shut_down
from ptrtensor.transport.dialing import read_exactly
from ptrtensor.transport.relay import Connected
from ptrtensor.transport.resumable import NO_TOKEN, OPENING, Opening
from ptrtensor.transport.tls import Credentials, Peer, context, peer_of
from ptrtensor.wire.control import Assign, Denial, Publication

log: Final = logging.getLogger("ptrtensor.serve")

MAX_HANDSHAKES: Final = 64
"""Connections that nobody vouches for yet, at the same time."""


FAREWELL_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Limits:
    """What the server admits at the same time."""

    sessions: int = 32
    sessions_of_one: int = 8


class Server:
    """Clients are authenticated before a byte of the protocol is read; keys stay in this process."""

    def __init__(
        self,
        worker: str,
        listener: socket.socket,
        credentials: Credentials,
        publications: tuple[Publication, ...] = (),
        *,
        compute_device: str = "cpu",
        threads: int | None = None,
        ahead: int = 1,
        limits: Limits,
        patience: Patience,
        audit: Audit | None = None,
    ) -> None:
        context(credentials, server=True)  # a wrong file is the starter's error, not the first client's
        self.worker = worker
        self._audit = audit
        self.began = time.time()
        self._listener = listener
        self._credentials = credentials
        self._publications = publications
        self._limits = limits
        self._patience = patience
        self._sessions: dict[bytes, HostedSession] = {}
        self._lock = threading.Lock()
        self._handshakes = threading.BoundedSemaphore(MAX_HANDSHAKES)
        self._stopping = threading.Event()
        self.broken: AuditError | None = None
        self._record("server started", worker=worker)
        for publication in publications:
            self._record(
                "published",
                object=publication.name,
                tags=publication.tags,
                private=publication.private,
                tensor=str(publication.meta),
                bytes=publication.meta.nbytes,
            )
        self._pool = Pool(ahead, compute_device, threads)

    @property
    def sessions(self) -> list[HostedSession]:
        """Those that have not ended."""
        with self._lock:
            return list(self._sessions.values())

    def serve_forever(self) -> None:
        """Until `stop`.

        :raises AuditError: the audit log cannot be written any more.
        """
        while not self._stopping.is_set():
            self._handshakes.acquire()
            try:
                sock, address = self._listener.accept()
            except OSError:
                self._handshakes.release()
                self._stopping.wait(0.1)  # too many open files, or a client that has gone
                continue
            threading.Thread(target=self._welcome, args=(sock, address), daemon=True).start()
        if self.broken is not None:
            raise self.broken

    def stop(self, reason: str) -> None:
        """Let nobody in any more, and tell those who are here why they must go."""
        self._stopping.set()
        shut_down(self._listener)
        self._listener.close()
        self._pool.close()
        sessions = self.sessions
        for session in sessions:
            session.stop(reason)
        for session in sessions:
            session.join(5.0)
        with contextlib.suppress(AuditError):
            self._record("server stopped", reason=reason)

    # --- one connection

    def _welcome(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """In a thread of its own, from the first byte to the session that it belongs to."""
        where = f"{address[0]}:{address[1]}"
        try:
            connection, peer, opening = self._shake_hands(sock)
        except (OSError, PtrTensorError) as error:
            log.warning("refused a connection", extra={"from": where, "reason": str(error)})
            self._try_to_record("connection refused", **{"from": where}, reason=str(error))
            return
        finally:
            self._handshakes.release()
        try:
            self._admit(connection, peer, opening, where)
        except PtrTensorError as error:
            log.warning("refused a session", extra={"client": peer.name, "from": where, "reason": str(error)})
            self._try_to_record("session refused", client=peer.name, **{"from": where}, reason=str(error))
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.sendall(Opening(NO_TOKEN, 0).encode())
                refuse(connection, str(error))

    def _shake_hands(self, sock: socket.socket) -> tuple[ssl.SSLSocket, Peer, Opening]:
        """:raises OSError: no handshake of TLS came of it. :raises PtrTensorError: it is none of ours."""
        guard = socket.socket(fileno=os.dup(sock.fileno()))
        deadline = threading.Timer(self._patience.handshake, shut_down, (guard,))
        deadline.daemon = True
        deadline.start()
        connection: socket.socket = sock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = context(self._credentials, server=True).wrap_socket(sock, server_side=True)
            connection = secure
            peer = peer_of(secure, self._credentials)
            return secure, peer, Opening.decode(read_exactly(secure, OPENING.size))
        except BaseException:
            say_goodbye(guard)
            connection.close()
            raise
        finally:
            deadline.cancel()
            guard.close()

    def _admit(self, connection: Connected, peer: Peer, opening: Opening, where: str) -> None:
        """:raises PtrTensorError: there is no such session, or no room for another."""
        if opening.token == NO_TOKEN:
            session = self._new_session(peer, where)
            log.info("session began", extra={"session": session.number, "client": peer.name, "from": where})
        else:
            with self._lock:
                found = self._sessions.get(opening.token)
            if found is None or found.peer != peer:
                raise ProtocolError(
                    "there is no such session any more: its lease ended, or the worker was started anew. "
                    "What it held is gone"
                )
            session = found
            log.info("session resumed", extra={"session": session.number, "client": peer.name, "from": where})
        session.attach(connection, opening.received)

    def _new_session(self, peer: Peer, where: str) -> HostedSession:
        with self._lock:
            theirs = sum(session.peer == peer for session in self._sessions.values())
            if len(self._sessions) >= self._limits.sessions or theirs >= self._limits.sessions_of_one:
                raise PtrTensorError(
                    f"there are too many sessions already ({theirs} of them yours): close one, or try again later"
                )
        process = self._pool.take()
        assignment = Assign(self.worker, uuid.uuid4().hex, peer.name, self._publications)
        number = secrets.token_hex(4)
        local = process.assign(assignment, partial(self._when_denied, number, peer.name))
        session = HostedSession(number, peer, process, local, self._patience, self._when_ended)
        try:
            self._record(
                "session began",
                session=number,
                client=peer.name,
                fingerprint=peer.fingerprint,
                process=process.number,
                **{"from": where},
            )
        except AuditError:
            session.stop("the worker cannot write its audit log")
            raise
        with self._lock:
            self._sessions[session.token] = session
        return session

    def _when_denied(self, session: str, client: str, denial: Denial) -> None:
        what = {"what": denial.what, "objects": denial.labels, "count": denial.count}
        log.info("denied", extra={"session": session, "client": client, **what})
        self._try_to_record("denied", session=session, client=client, **what)

    def _record(self, event: str, **fields: object) -> None:
        """:raises AuditError: the log cannot be written."""
        if self._audit is not None:
            self._audit.record(event, **fields)

    def _try_to_record(self, event: str, **fields: object) -> None:
        """The same, from a thread that has nobody to tell: the server stops rather than acting unseen."""
        try:
            self._record(event, **fields)
        except AuditError as error:
            log.critical("the audit log cannot be written", extra={"reason": str(error)})
            self.broken = error
            self._stopping.set()
            shut_down(self._listener)
            for session in self.sessions:
                session.stop("the worker cannot write its audit log")

    def _when_ended(self, session: HostedSession, ended: Ended) -> None:
        with self._lock:
            self._sessions.pop(session.token, None)
        log.info(
            "session ended",
            extra={
                "session": session.number,
                "client": session.peer.name,
                "reason": ended.reason or "its client left",
                "seconds": round(ended.seconds, 3),
            },
        )
        self._try_to_record(
            "session ended",
            session=session.number,
            client=session.peer.name,
            reason=ended.reason or "its client left",
            seconds=round(ended.seconds, 3),
        )


def say_goodbye(sock: socket.socket) -> None:
    """Let the alert that says what is wrong arrive: unread bytes would turn it into a reset."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(FAREWELL_SECONDS)
        while sock.recv(65536):
            pass
