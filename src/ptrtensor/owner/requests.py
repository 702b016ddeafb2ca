"""Requests for release: a client asks for one private value, the owner decides, and the client collects it once.

The value is kept as it was when it was asked for. So what the owner looks at is what is released, whatever the client
does to the object afterwards, and whether its session or the server still lives.
"""

import getpass
import importlib
import json
import os
import secrets
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from ptrtensor.errors import PtrTensorError
from ptrtensor.owner.state import State, now
from ptrtensor.transport.tls import Peer
from ptrtensor.wire.control import Asking
from ptrtensor.wire.limits import MAX_REASON_CHARACTERS, MAX_RELEASE_BYTES
from ptrtensor.wire.messages import Release, Status
from ptrtensor.wire.metadata import TensorMeta

pwd: Any = importlib.import_module("pwd") if os.name == "posix" else None  # Windows has none

MAX_PENDING: Final = 100
"""Of one client, so that nobody buries the owner or fills the disk."""

MAX_LISTED: Final = 1000

Decision = Literal["approved", "denied"]
Outcome = Literal[Decision, "revoked"]


@dataclass(frozen=True)
class Request:
    """One of them, with all that the owner may want to know before he decides."""

    id: str
    status: Status
    asked: str
    client: str
    fingerprint: str
    session: str
    reason: str
    object: int
    operation: str
    labels: tuple[str, ...]
    meta: TensorMeta | None
    value: bytes
    failure: str
    answer: str
    decided: str
    decider: str

    @property
    def tensor(self) -> str:
        return "a failed operation" if self.meta is None else str(self.meta)

    @property
    def size(self) -> int:
        """Of its value, also where that is not kept."""
        return 0 if self.meta is None else self.meta.nbytes

    @property
    def release(self) -> Release:
        """What its client may know: whether there is a value, and its shape, are private until it is collected."""
        return Release(self.id, self.status, self.reason, self.asked, self.answer)


@dataclass(frozen=True)
class Decided:
    """A decision that the audit log has no line of yet, and what it is about, as that is now."""

    number: int
    outcome: Outcome
    decided: str
    decider: str
    answer: str
    request: Request


COLUMNS: Final = ", ".join("x'' AS value" if name == "value" else name for name in Request.__dataclass_fields__)
LISTED: Final = f"SELECT {COLUMNS} FROM requests"
"""Without values, which may be gigabytes together: a client asks for its list again and again."""


class Requests:
    """All of them, in the state of a server."""

    def __init__(self, state: State) -> None:
        self._state = state

    def file(self, peer: Peer, session: str, asking: Asking) -> Request:
        """Keep a request until it is decided.

        :raises PtrTensorError: the client has too many already, or the value is too large.
        """
        if len(asking.value) > MAX_RELEASE_BYTES or len(asking.reason) > MAX_REASON_CHARACTERS:
            raise PtrTensorError(
                f"a request is for {MAX_RELEASE_BYTES} bytes at most, and its reason has {MAX_REASON_CHARACTERS} "
                "characters at most"
            )
        id = secrets.token_hex(4)
        with self._state.transaction() as database:
            (pending,) = database.execute(
                "SELECT COUNT(*) FROM requests WHERE client = ? AND status = 'pending'", (peer.name,)
            ).fetchone()
            if pending >= MAX_PENDING:
                raise PtrTensorError(f"{pending} requests wait for an answer already: wait for some of them first")
            database.execute(
                "INSERT INTO requests (id, asked, client, fingerprint, session, reason, object, operation, labels,"
                " meta, value, failure, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending')",
                (
                    id,
                    now(),
                    peer.name,
                    peer.fingerprint,
                    session,
                    asking.reason,
                    str(asking.name),
                    asking.operation,
                    json.dumps(asking.labels),
                    None if asking.meta is None else msgspec.msgpack.encode(asking.meta),
                    asking.value,
                    asking.failure,
                ),
            )
        return self.find(id)

    def all(self, *, pending: bool = False) -> list[Request]:
        """The latest first, without their values."""
        where = "WHERE status = 'pending'" if pending else ""
        with self._state.transaction() as database:
            rows = database.execute(f"{LISTED} {where} ORDER BY number DESC LIMIT {MAX_LISTED}").fetchall()
        return [request_of(row) for row in rows]

    def of(self, peer: Peer) -> list[Request]:
        """Those of one client, without their values."""
        with self._state.transaction() as database:
            rows = database.execute(
                f"{LISTED} WHERE client = ? AND fingerprint = ? ORDER BY number DESC LIMIT {MAX_LISTED}",
                (peer.name, peer.fingerprint),
            ).fetchall()
        return [request_of(row) for row in rows]

    def find(self, id: str) -> Request:
        """:raises PtrTensorError: there is none."""
        with self._state.transaction() as database:
            row = database.execute("SELECT * FROM requests WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise PtrTensorError(f"there is no request {id}")
        return request_of(row)

    def decide(self, id: str, decision: Decision, answer: str) -> Request:
        """The owner's word.

        :raises PtrTensorError: there is no such request, or it was decided before.
        """
        decided, decider = now(), this_user()
        with self._state.transaction() as database:
            changed = database.execute(
                "UPDATE requests SET status = ?, answer = ?, decided = ?, decider = ?, recorded = 1,"
                " value = CASE ? WHEN 'denied' THEN x'' ELSE value END WHERE id = ? AND status = 'pending'",
                (decision, answer, decided, decider, decision, id),
            ).rowcount
            if changed:
                keep(database, id, decision, decided, decider, answer)
        request = self.find(id)
        if not changed:
            raise PtrTensorError(f"request {id} is {request.status} already")
        self._state.wipe()
        return request

    def revoke(self, id: str) -> None:
        """Take an approval back that was not used.

        :raises PtrTensorError: there is no such request, or it is not approved.
        """
        decided, decider = now(), this_user()
        with self._state.transaction() as database:
            changed = database.execute(
                "UPDATE requests SET status = 'denied', value = x'', decided = ?, decider = ?, recorded = 1"
                " WHERE id = ? AND status = 'approved'",
                (decided, decider, id),
            ).rowcount
            if changed:
                keep(database, id, "revoked", decided, decider, "")
        if not changed:
            raise PtrTensorError(f"request {id} is {self.find(id).status}: there is nothing to take back")
        self._state.wipe()

    def collect(self, peer: Peer, id: str) -> Request:
        """Hand it out, once, when the audit log has the line of its approval. What it holds is in the state no more.

        :raises PtrTensorError: it is not this client's, not approved, or was collected before.
        """
        with self._state.transaction() as database:
            row = database.execute(
                "SELECT * FROM requests WHERE id = ? AND client = ? AND fingerprint = ?",
                (id, peer.name, peer.fingerprint),
            ).fetchone()
            if row is None:
                raise PtrTensorError("there is no such request of yours")
            found = request_of(row)
            unrecorded = database.execute("SELECT 1 FROM decisions WHERE request = ?", (id,)).fetchone() is not None
            if found.status == "approved" and not unrecorded:
                database.execute("UPDATE requests SET status = 'collected', value = x'' WHERE id = ?", (id,))
        if found.status == "pending" or (found.status == "approved" and unrecorded):
            raise PtrTensorError("the owner has not decided yet")
        if found.status == "denied":
            raise PtrTensorError("the owner denied it" + (f": {found.answer}" if found.answer else ""))
        if found.status == "collected":
            raise PtrTensorError("it was collected before, and can be had once")
        self._state.wipe()
        return found

    @property
    def recording(self) -> threading.Lock:
        """Held by who writes lines about them."""
        return self._state.recording

    def unrecorded(self) -> list[Decided]:
        """Decisions that the audit log has no line of yet, in their order."""
        with self._state.transaction() as database:
            rows = database.execute(
                "SELECT decisions.* FROM decisions JOIN requests ON id = request ORDER BY decisions.number"
            ).fetchall()
            about = [database.execute(f"{LISTED} WHERE id = ?", (row["request"],)).fetchone() for row in rows]
        return [
            Decided(**{**dict(row), "request": request_of(request)}) for row, request in zip(rows, about, strict=True)
        ]

    def mark_recorded(self, decided: Decided) -> None:
        with self._state.transaction() as database:
            database.execute("DELETE FROM decisions WHERE number = ?", (decided.number,))


def keep(database: sqlite3.Connection, id: str, outcome: Outcome, decided: str, decider: str, answer: str) -> None:
    """Until it has a line in the audit log."""
    database.execute(
        "INSERT INTO decisions (request, outcome, decided, decider, answer) VALUES (?, ?, ?, ?, ?)",
        (id, outcome, decided, decider, answer),
    )


def this_user() -> str:
    """By the system's own list, not by what the environment says; in a container it may have no name."""
    if pwd is None:
        return getpass.getuser()
    number = os.getuid()
    try:
        return str(pwd.getpwuid(number).pw_name)
    except KeyError:
        return f"uid {number}"


def request_of(row: sqlite3.Row) -> Request:
    meta = row["meta"]
    return Request(
        **{name: row[name] for name in Request.__dataclass_fields__ if name not in ("object", "labels", "meta")},
        object=int(row["object"]),
        labels=tuple(json.loads(row["labels"])),
        meta=None if meta is None else msgspec.msgpack.decode(meta, type=TensorMeta),
    )
