"""The sessions of one server: how many there may be, how each begins, and that none outlives the server."""

import contextlib
import secrets
import threading
import uuid
from dataclasses import dataclass

from ptrtensor.errors import ProtocolError, PtrTensorError, QuotaExceededError, WorkerLostError
from ptrtensor.owner.clerk import Clerk
from ptrtensor.owner.hosted_session import Ended, HostedSession, Patience
from ptrtensor.owner.journal import Journal
from ptrtensor.owner.options import Options
from ptrtensor.owner.policy import Policy, least
from ptrtensor.owner.sealing import Sealer
from ptrtensor.owner.session_process import Pool, SessionProcess
from ptrtensor.owner.state import State
from ptrtensor.transport.tls import Peer
from ptrtensor.wire.control import Assign, Publication, Quota


@dataclass(frozen=True)
class Limits:
    """What the server admits at the same time."""

    sessions: int = Options.sessions
    sessions_of_one: int = 8
    memory: int | None = None
    """Bytes for each session."""
    objects: int = Options.max_objects
    """In each session."""


@dataclass(eq=False)
class Beginning:
    """A session whose process is being started."""

    peer: Peer
    process: SessionProcess | None = None


class Sessions:
    """Those that have not ended, and those that are beginning."""

    def __init__(
        self,
        worker: str,
        pool: Pool,
        sealer: Sealer,
        journal: Journal,
        publications: tuple[Publication, ...],
        *,
        policy: Policy,
        state: State | None,
        limits: Limits,
        patience: Patience,
    ) -> None:
        self._worker = worker
        self._pool = pool
        self._sealer = sealer
        self._journal = journal
        self._publications = {publication.name: publication for publication in publications}
        """All, shown to a client or not; sessions that have begun look into it too."""
        self._policy = policy
        self._state = state
        self._limits = limits
        self._patience = patience
        self._sessions: dict[bytes, HostedSession] = {}
        self._beginning: list[Beginning] = []
        self._goodbye: str | None = None
        """Why there is to be no session any more, once there is not."""
        self._lock = threading.Lock()

    @property
    def current(self) -> list[HostedSession]:
        """Those that have not ended."""
        with self._lock:
            return list(self._sessions.values())

    @property
    def published(self) -> int:
        """How many tensors."""
        return len(self._publications)

    def publish(self, publication: Publication) -> None:
        """In those that begin from now on."""
        with self._lock:
            self._publications[publication.name] = publication

    def find(self, token: bytes, peer: Peer) -> HostedSession:
        """:raises ProtocolError: there is none, or not for this client."""
        with self._lock:
            found = self._sessions.get(token)
        if found is None or found.peer != peer:
            raise ProtocolError(
                "there is no such session any more: its lease ended, or the worker was started anew. "
                "What it held is gone"
            )
        return found

    def begin(self, peer: Peer, where: str) -> HostedSession:
        """One more, for whoever is at that address.

        :raises PtrTensorError: there is no room for it, or there are to be no more.
        """
        most = least(self._policy.quota_for(peer.name).sessions, self._limits.sessions_of_one)
        beginning = Beginning(peer)
        with self._lock:
            peers = [one.peer for one in self._beginning] + [session.peer for session in self._sessions.values()]
            theirs = peers.count(peer)
            if len(peers) >= self._limits.sessions or theirs >= (most or 0):
                raise PtrTensorError(
                    f"there are too many sessions already ({theirs} of them yours): close one, or try again later"
                )
            self._beginning.append(beginning)
        try:
            return self._begin(beginning, where)
        except WorkerLostError:
            self.check_going_on()  # its process was ended because the server stops
            raise
        finally:
            with self._lock:
                self._beginning.remove(beginning)

    def _begin(self, beginning: Beginning, where: str) -> HostedSession:
        """Start a session's process; whatever fails on the way, it does not stay."""
        peer = beginning.peer
        number = secrets.token_hex(4)
        clerk = Clerk(
            self._policy, self._publications, self._state, peer, number, self._sealer, self._journal.write_down
        )
        if reason := clerk.admit():
            raise QuotaExceededError(reason)
        assignment = self._assignment(peer)
        process = self._pool.take()
        with contextlib.ExitStack() as undone:
            undone.callback(process.kill)
            with self._lock:
                self.check_going_on()
                beginning.process = process
            local = undone.enter_context(process.assign(assignment, clerk.answer, number))
            with self._lock:  # whoever stops the server finds the session, or is found to have stopped it
                self.check_going_on()
                session = HostedSession(number, peer, process, clerk, local, self._patience, self._when_ended)
                undone.pop_all()
                beginning.process = None
                self._sessions[session.token] = session
                self._journal.session_began(session, where)  # its end is written down after that
        return session

    def _assignment(self, peer: Peer) -> Assign:
        """What its process is to know: what this client may see, do and use."""
        with self._lock:
            publications = tuple(self._publications.values())
        shown = self._policy.shown_to(peer.name, publications)
        return Assign(
            self._worker,
            uuid.uuid4().hex,
            peer.name,
            shown,
            {publication.name: self._policy.grant(peer.name, publication.tags) for publication in shown},
            self._policy.session_quota(peer.name, Quota(self._limits.memory, self._limits.objects)),
        )

    def _when_ended(self, session: HostedSession, ended: Ended) -> None:
        with self._lock:
            self._sessions.pop(session.token, None)
        self._journal.session_ended(session, ended)

    def check_going_on(self) -> None:
        """:raises PtrTensorError: the server stops."""
        if self._goodbye is not None:
            raise PtrTensorError(self._goodbye)

    def stop(self, reason: str) -> list[HostedSession]:
        """Tell those that there are why they must end, and end those that are beginning; there will be no others.

        Returns the former, which end by themselves.
        """
        with self._lock:
            self._goodbye = reason if self._goodbye is None else self._goodbye
            sessions = list(self._sessions.values())
            processes = [beginning.process for beginning in self._beginning if beginning.process is not None]
        for session in sessions:
            session.stop(reason)
        for process in processes:
            process.end_at_once()
        return sessions
