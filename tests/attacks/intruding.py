"""A server of private data under attack: clients that speak TLS, the link and the protocol by hand, and what the server
has to show for it afterwards.
"""

import contextlib
import itertools
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from hospital import Hospital, make_keys, open_hospital
from hostile import Speaker
from waiting import eventually

import ptrtensor as pt
from ptrtensor.owner.audit import Audit, Fields, records
from ptrtensor.owner.hosted_session import HostedSession, Patience
from ptrtensor.owner.policy import Policy, read_policy
from ptrtensor.owner.sessions import Limits
from ptrtensor.owner.status import ask_status
from ptrtensor.transport.dialing import read_exactly
from ptrtensor.transport.resumable import NO_TOKEN, OPENING, PONG, Data, End, Link, Opening, Ping
from ptrtensor.transport.tls import Credentials, context

SECONDS: Final = 30.0
MIB: Final = 1024 * 1024

numbers: Final = itertools.count(1)
"""Of clients."""


def resident_bytes(process: int | None = None) -> int:
    """Of a process; by default of this one, in which the server runs."""
    statm = Path(f"/proc/{process or 'self'}/statm").read_text()
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Besieged(Hospital):
    """A hospital that is attacked, and what it was like before."""

    def __init__(self, hospital: Hospital, audit: Audit) -> None:
        super().__init__(hospital.server, hospital.port, hospital.folder)
        self.audit = audit
        self._seen = 0
        self._new: list[Fields] = []
        self._honest: pt.RemoteWorker | None = None

    def news(self) -> list[Fields]:
        """The records that were added since the last call; the whole log must hold together."""
        found = list(records(self.audit.path))
        new, self._seen = found[self._seen :], len(found)
        return new

    def wait_for(self, event: str, **fields: object) -> Fields:
        """The next record of this event, with these fields."""
        found: list[Fields] = []

        def told() -> bool:
            new = self.news()
            found.extend(record for record in new if record["event"] == event and fields.items() <= record.items())
            return bool(found)

        assert eventually(told), f"there is no record of {event} {fields}"
        return found[0]

    def check_it_serves(self) -> None:
        """Somebody honest goes on computing, and the owner, who connects anew, is told that all is well."""
        if self._honest is None:
            self._honest = self.connect(id=f"honest{next(numbers)}", who="carol")
        pointer = pt.send(torch.arange(6.0).reshape(2, 3), self._honest)
        assert pt.get(pointer @ pointer.t() + 1).tolist() == [[6.0, 15.0], [15.0, 51.0]]
        (patients,) = self._honest.search("#patients")
        assert patients.shape == (3, 4)
        status = ask_status("127.0.0.1", self.port, self.folder / "bob", SECONDS)
        assert [session.answers for session in status.sessions if session.client == "carol"] == [True]

    def check_it_lets_in(self) -> None:
        with contextlib.closing(self.connect(id=f"newcomer{next(numbers)}", who="carol")) as bob:
            assert pt.send(torch.ones(2), bob).tolist() == [1, 1]

    def session_of(self, who: str) -> HostedSession:
        (found,) = [session for session in self.server.sessions if session.peer.name == who]
        return found

    def wait_until_left(self, who: str) -> None:
        assert eventually(lambda: who not in [session.peer.name for session in self.server.sessions])

    def close(self) -> None:
        if self._honest is not None:
            self._honest.close()


@contextlib.contextmanager
def besieged(
    folder: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008
    patience: Patience = Patience(lease=2.0, keep_alive=2.0, handshake=2.0),  # noqa: B008
    policy: str = "",
    ahead: int = 1,
) -> Iterator[Besieged]:
    if not (folder / "bob").exists():
        make_keys(folder)
        np.save(folder / "patients.npy", np.ones((3, 4), dtype=np.float32))
    audit = Audit(folder / "audit.jsonl")
    (folder / "policy.toml").write_text(policy)
    rules = read_policy(folder / "policy.toml") if policy else Policy()
    with (
        contextlib.closing(audit),
        open_hospital(
            folder,
            folder / "patients.npy",
            limits=limits,
            patience=patience,
            policy=rules,
            audit=audit,
            ahead=ahead,
        ) as hospital,
    ):
        found = Besieged(hospital, audit)
        found.news()
        with contextlib.closing(found):
            yield found


@contextlib.contextmanager
def no_leaks(threads: int = 2, files: int = 4) -> Iterator[None]:
    """No more threads and descriptors are left afterwards than so many."""
    before = threading.active_count(), descriptors()

    def settled() -> bool:
        return threading.active_count() <= before[0] + threads and descriptors() <= before[1] + files

    yield
    assert eventually(settled), (before, threading.active_count(), descriptors())


def plain(hospital: Hospital) -> socket.socket:
    return socket.create_connection(("127.0.0.1", hospital.port), timeout=SECONDS)


def secure(hospital: Hospital, identity: Path) -> ssl.SSLSocket:
    """A connection of TLS with that identity, whether or not the server wants it."""
    sock = plain(hospital)
    try:
        return context(Credentials(identity, hospital.folder / "trusts-bob"), server=False).wrap_socket(sock)
    except BaseException:
        sock.close()
        raise


class LinkWay:
    """The stream of a session, over one connection by hand."""

    def __init__(self, hospital: Hospital, identity: Path, token: bytes = NO_TOKEN, link: Link | None = None) -> None:
        self.connection = secure(hospital, identity)
        self.link = Link() if link is None else link
        self.reason: str | None = None
        """Why the server ended the session."""
        self._data = bytearray()
        try:
            self.connection.sendall(Opening(token, self.link.received).encode())
            opening = Opening.decode(read_exactly(self.connection, OPENING.size))
        except BaseException:
            self.connection.close()
            raise
        self.token = opening.token
        self.frames(b"".join(self.link.resume(opening.received)))

    def frames(self, data: bytes) -> None:
        """Frames of the link, or what is to pass for such; a server that has hung up already is no error."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.connection.sendall(data)

    def sendall(self, data: bytes) -> None:
        self.frames(b"".join(self.link.send(memoryview(data))))

    def recv(self, count: int) -> bytes:
        while not self._data:
            if self.reason is not None:
                return b""
            try:
                chunk = self.connection.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return b""
            if not chunk:
                return b""
            for event in self.link.receive(memoryview(chunk)):
                match event:
                    case Data(view):
                        self._data += view
                    case End(reason):
                        self.reason = reason
                    case Ping():
                        self.frames(PONG)
            self.frames(self.link.acknowledge())
        data = bytes(self._data[:count])
        del self._data[:count]
        return data

    def ended(self) -> str:
        """Why the server ended the session; what came before is passed over."""
        while self.recv(1 << 30):
            pass
        assert self.reason is not None, "the server hung up without a word"
        return self.reason

    def close(self) -> None:
        self.connection.close()


class Intruder(Speaker[LinkWay]):
    """Trusted, and hostile."""

    def __init__(self, hospital: Hospital, who: str = "alice") -> None:
        super().__init__(LinkWay(hospital, hospital.folder / who))
