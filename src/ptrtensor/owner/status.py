"""How a worker is: sessions, objects, bytes, operations a second. Whoever holds its own identity is told [P10.6]."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from ptrtensor.errors import IdentityError, ProtocolError
from ptrtensor.owner.hosted_session import HostedSession
from ptrtensor.transport.dialing import Dialer, read_exactly
from ptrtensor.transport.resumable import STATUS, Opening
from ptrtensor.transport.tls import Credentials
from ptrtensor.version import __version__
from ptrtensor.wire.control import Reported

MAX_BYTES: Final = 1024 * 1024
RATE_SECONDS: Final = 0.5
"""Over which operations a second are counted."""


class SessionStatus(msgspec.Struct, frozen=True):
    number: str
    client: str
    seconds: float
    answers: bool
    operations: int = 0
    operations_per_second: float = 0.0
    objects: int = 0
    object_bytes: int = 0


class Status(msgspec.Struct, frozen=True):
    worker: str
    ptrtensor: str
    torch: str
    seconds: float
    publications: int
    sessions: list[SessionStatus]


def status_of(worker: str, began: float, publications: int, sessions: Sequence[HostedSession]) -> Status:
    before, started = reports_of(sessions), time.monotonic()
    time.sleep(RATE_SECONDS if sessions else 0)
    found = []
    for session, first, last in zip(sessions, before, reports_of(sessions), strict=True):
        seconds = time.monotonic() - session.began
        if first is None or last is None:
            found.append(SessionStatus(session.number, session.peer.name, seconds, answers=False))
            continue
        rate = (last.operations - first.operations) / (time.monotonic() - started)
        found.append(
            SessionStatus(
                session.number,
                session.peer.name,
                seconds,
                True,
                last.operations,
                rate,
                last.objects,
                last.object_bytes,
            )
        )
    return Status(worker, __version__, version("torch"), time.time() - began, publications, found)


def reports_of(sessions: Sequence[HostedSession]) -> list[Reported | None]:
    """All at once: one that is stopped is waited for."""
    with ThreadPoolExecutor(max(1, len(sessions))) as threads:
        return list(threads.map(lambda session: session.process.report(), sessions))


def ask_status(host: str, port: int, identity: Path, seconds: float) -> Status:
    """Ask the worker there.

    :raises WorkerLostError: nobody answers.
    :raises IdentityError: this is not the identity that it serves with.
    :raises ProtocolError: something else answers.
    """
    dialer = Dialer(host, port, Credentials(identity, identity), "there", False, seconds)
    try:
        sock, opening = dialer.dial(STATUS, 0)
        with sock:
            if opening.received > MAX_BYTES:
                raise ProtocolError(f"the worker announces a status of {opening.received} bytes")
            return msgspec.json.decode(read_exactly(sock, opening.received), type=Status)
    except IdentityError as error:
        error.add_note("Its status is for its owner: ask with the identity that it serves with.")
        raise
    except (OSError, msgspec.MsgspecError) as error:
        raise ProtocolError(f"the worker's status cannot be read: {error}") from error


def encode(status: Status) -> bytes:
    body = msgspec.json.encode(status)
    return Opening(STATUS, len(body)).encode() + body
