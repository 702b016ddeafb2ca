"""The server of `ptrtensor serve`: it lets clients in, one process for the session of each."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from ptrtensor.errors import AuditError, IdentityError
from ptrtensor.owner.audit import Audit
from ptrtensor.owner.decisions import note_decisions
from ptrtensor.owner.handshake import shake_hands
from ptrtensor.owner.hosted_session import HostedSession, Patience, refuse
from ptrtensor.owner.journal import CANNOT_WRITE, Journal
from ptrtensor.owner.newcomers import Newcomers, join_all
from ptrtensor.owner.policy import Policy
from ptrtensor.owner.requests import Requests
from ptrtensor.owner.sealing import Sealer
from ptrtensor.owner.session_process import Pool, shut_down
from ptrtensor.owner.sessions import Limits, Sessions
from ptrtensor.owner.state import State
from ptrtensor.owner.status import encode, status_of
from ptrtensor.tally import Tally
from ptrtensor.transport.relay import Connected
from ptrtensor.transport.resumable import NO_TOKEN, STATUS, Opening
from ptrtensor.transport.tls import Credentials, Peer, certificates_of, context, fingerprint_of
from ptrtensor.wire.control import Publication

log: Final = logging.getLogger("ptrtensor.serve")

MAX_HANDSHAKES: Final = 64
"""Connections that nobody vouches for yet, at the same time."""

END_SECONDS: Final = 5.0
"""How long `stop` waits, for each of those who must end."""

LOOK_SECONDS: Final = 0.5
"""How often is looked for how long the sessions have computed."""


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
        policy: Policy = Policy(),  # noqa: B008
        policy_digest: str = "",
        state: State | None = None,
        audit: Audit | None = None,
    ) -> None:
        context(credentials, server=True)  # a wrong file is the starter's error, not the first client's
        sealer = Sealer(credentials)
        self.worker = worker
        self._fingerprint = fingerprint_of(certificates_of(credentials.certificate)[0])
        self._journal = Journal(audit, lambda: self._end_sessions(CANNOT_WRITE))
        self._state = state
        self.began = time.time()
        self._listener = listener
        self._credentials = credentials
        self._patience = patience
        self.refusals = Tally(self._note_refusal)
        self.resumptions = Tally(self._note_resumption)
        self._lock = threading.Lock()
        self._handshakes = threading.BoundedSemaphore(MAX_HANDSHAKES)
        self._newcomers = Newcomers()
        self._helpers: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._journal.record("server started", worker=worker, policy=policy_digest or None)
        for publication in publications:
            self._journal.publication(publication)
        self._pool = Pool(ahead, compute_device, threads)
        self._sessions = Sessions(
            worker,
            self._pool,
            sealer,
            self._journal,
            publications,
            policy=policy,
            state=state,
            limits=limits,
            patience=patience,
        )

    @property
    def sessions(self) -> list[HostedSession]:
        """Those that have not ended."""
        return self._sessions.current

    @property
    def broken(self) -> AuditError | None:
        """Why the audit log cannot be written any more, and the server stopped."""
        return self._journal.broken

    def publish(self, publication: Publication) -> None:
        """Offer one more, in the sessions that begin from now on.

        :raises AuditError: it cannot be written down, and the server stops.
        """
        try:
            self._journal.publication(publication)
        except AuditError as error:
            self._journal.break_off(error)
            raise
        self._sessions.publish(publication)

    def serve_forever(self) -> None:
        """Until `stop`.

        :raises AuditError: the audit log cannot be written any more.
        """
        if self._state is not None:
            self._help(note_decisions, Requests(self._state), self._journal.write_down, self._stopping)
        self._help(self._look_at_sessions)
        while not self._stopping.is_set():
            self._handshakes.acquire()
            try:
                sock, address = self._listener.accept()
            except OSError:
                self._handshakes.release()
                self._stopping.wait(0.1)  # too many open files, or a client that has gone
                continue
            try:
                self._newcomers.receive(sock, partial(self._welcome, address))
            except (OSError, RuntimeError) as error:  # too many open files or threads
                self._handshakes.release()
                sock.close()
                if not self._stopping.is_set():
                    self._refuse("connection refused", None, address, error)
                self._stopping.wait(0.1)
        if self.broken is not None:
            raise self.broken

    def stop(self, reason: str) -> None:
        """Let nobody in any more, and tell those who are here why they must go; nothing is done for them afterwards."""
        sessions = self._end_sessions(reason)
        self._listener.close()
        self._pool.close()
        self._newcomers.turn_away(END_SECONDS)
        for session in sessions:
            session.join(END_SECONDS)
            session.end_at_once()  # one that hangs would stay, with all that it holds
        join_all([*sessions, *self._helpers], END_SECONDS)
        self.refusals.tell()
        self.resumptions.tell()
        with contextlib.suppress(AuditError):
            self._journal.record("server stopped", reason=reason)

    def _end_sessions(self, reason: str) -> list[HostedSession]:
        """Those that there are, and those that are beginning; returns the former. There will be no others."""
        with self._lock:
            self._stopping.set()
        shut_down(self._listener)
        return self._sessions.stop(reason)

    def _help(self, do: Callable[..., None], *arguments: object) -> None:
        """In a thread that ends when the server stops."""
        with self._lock:
            if not self._stopping.is_set():  # else `stop` may not see it
                helper = threading.Thread(target=do, args=arguments, daemon=True)
                helper.start()
                self._helpers.append(helper)

    def _look_at_sessions(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            for session in self.sessions:
                session.look()

    # --- one connection

    def _welcome(self, address: tuple[str, int], sock: socket.socket, guard: socket.socket) -> None:
        """In a thread of its own, from the first byte to the session that it belongs to."""
        try:
            connection, peer, opening = shake_hands(sock, guard, self._credentials, self._patience.handshake)
        except Exception as error:  # of any class: a stranger has much to choose from
            sock.close()
            self._refuse("connection refused", None, address, error)
            return
        finally:
            self._handshakes.release()
        try:
            self._admit(connection, peer, opening, f"{address[0]}:{address[1]}")
        except Exception as error:  # also for want of memory, descriptors, threads or processes
            self._refuse("session refused", peer, address, error)
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.sendall(Opening(NO_TOKEN, 0).encode())
                refuse(connection, str(error) or type(error).__name__)

    def _refuse(self, event: str, peer: Peer | None, address: tuple[str, int], error: Exception) -> None:
        kind = event, peer, address[0], type(error), getattr(error, "reason", None)
        self.refusals.add(kind, event, peer, f"{address[0]}:{address[1]}", str(error) or type(error).__name__)

    def _note_refusal(self, event: str, peer: Peer | None, where: str, reason: str, count: int) -> None:
        fields = {"from": where, "reason": reason, "count": count}
        if peer is not None:
            fields = {"client": peer.name, **fields}
        log.warning(event, extra=fields)
        self._journal.try_to_record(event, **fields)

    def _note_resumption(self, session: str, peer: Peer, where: str, count: int) -> None:
        log.info("session resumed", extra={"session": session, "client": peer.name, "from": where, "count": count})

    def _admit(self, connection: Connected, peer: Peer, opening: Opening, where: str) -> None:
        """:raises PtrTensorError: there is no such session, or no room for another."""
        is_owner = peer.fingerprint == self._fingerprint
        if opening.token == STATUS and is_owner:
            with contextlib.closing(connection):
                connection.sendall(encode(status_of(self.worker, self.began, self._sessions.published, self.sessions)))
            return
        if opening.token == STATUS or (is_owner and not peer.pinned):
            raise IdentityError("the worker's own identity asks how it is, and nobody else; nor can it have a session")
        self._sessions.check_going_on()
        if opening.token == NO_TOKEN:
            session = self._sessions.begin(peer, where)
            log.info("session began", extra={"session": session.number, "client": peer.name, "from": where})
        else:
            session = self._sessions.find(opening.token, peer)
            self.resumptions.add(session.number, session.number, peer, where)
        session.attach(connection, opening.received)
