"""The audit log: lines of JSON that are only ever added, each bound to the one before, so that a change shows.

A line's `hash` is SHA-256 over the hash of the line before and over the line without its hash, as it is written. The
first line is bound to 64 zeros. What is cut off at the end does not show by itself, nor a chain that was made anew from
its first line on: note the last hash elsewhere.
"""

import datetime
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from ptrtensor.errors import AuditError
from ptrtensor.owner.claims import claimed, released

BEFORE_THE_FIRST: Final = "0" * 64

Fields = dict[str, object]

Event = Literal[
    "server started",
    "published",
    "connection refused",
    "session refused",
    "session began",
    "denied",
    "requested",
    "approved",
    "revoked",
    "released",
    "moved",
    "received",
    "quota used up",
    "session ended",
    "server stopped",
]
"""All that a server writes down."""

HASHED: Final = b',"hash":"'
END: Final = b'"}\n'

MAX_LINE_BYTES: Final = 128 * 1024**2
"""More than any record has; what is longer is not read into memory."""


class AuditClosedError(AuditError):
    """The server has stopped and closed its log; whatever should have stood there must not happen any more."""


class Audit:
    """One log, written by one process.

    :raises AuditError: the file cannot be written to, is written by another process, or is no log that holds together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = path.absolute()  # the program may go to another directory
        self._process = os.getpid()
        self._is_closed = False
        self._lock = threading.Lock()
        self._chain = Chain()
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise AuditError(f"the audit log {path} cannot be written: it is no regular file, so nothing would be kept")
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise AuditError(f"the audit log {path} cannot be written: {error.strerror}") from error
        try:
            take(self._file, path)
            for _ in records(path, self._chain):
                pass
        except BaseException as error:
            released(self._file)
            if isinstance(error, AuditError):
                error.add_note("Keep the log as it is, and name another file with --audit.")
            raise

    def record(self, event: str, **fields: object) -> None:
        """Add a line.

        :raises AuditClosedError: the log was closed.
        :raises AuditError: it could not be written; whatever it is about must not happen then.
        """
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        with self._lock:
            if self._is_closed:  # another file may have its number by now
                raise AuditClosedError(f"the audit log {self.path} is closed, and says nothing of this: {event}")
            line: Fields = {"number": self._chain.count, "time": time, "event": event, **fields}
            body = msgspec.json.encode(line, enc_hook=str)[:-1]
            digest = digest_of(self._chain.last, body)
            written = body + HASHED + digest.encode() + END
            if len(written) > MAX_LINE_BYTES:
                raise AuditError(f"the audit log {self.path} takes no line of {len(written)} bytes")
            try:
                size = self._size()
                if os.write(self._file, written) < len(written):
                    os.ftruncate(self._file, size)  # no server goes on with a log that ends within a line
                    raise AuditError(f"the audit log {self.path} cannot be written: the disk is full")
            except OSError as error:
                raise AuditError(f"the audit log {self.path} cannot be written: {error.strerror}") from error
            self._chain.count += 1
            self._chain.last = digest

    def _size(self) -> int:
        """:raises AuditError: somebody moved or removed it, and would not find in it what is written."""
        found = os.fstat(self._file)
        try:
            is_there = os.path.samestat(found, os.stat(self._place))
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise AuditError(f"the audit log {self.path} was moved or removed while it was written: put it back")
        return found.st_size

    def close(self) -> None:
        """On the disk, and for others to write on; may be called twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                os.fsync(self._file)
            finally:
                if os.getpid() == self._process:
                    released(self._file)
                else:
                    os.close(self._file)  # in a forked child the lock is the parent's


class Chain:
    """How far a log was followed."""

    def __init__(self) -> None:
        self.count = 0
        self.last = BEFORE_THE_FIRST


def records(path: Path, chain: Chain | None = None) -> Iterator[Fields]:
    """The records of a log, each checked against the one before.

    :raises AuditError: the line that does not hold, and why.
    """
    chain = Chain() if chain is None else chain
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield checked(line, chain, path)
    except OSError as error:
        raise AuditError(f"the audit log {path} cannot be read: {error.strerror}") from error


def checked(line: bytes, chain: Chain, path: Path) -> Fields:
    where = f"line {chain.count + 1} of {path}"
    if damage := damage_of(line):
        raise AuditError(f"{where} {damage}: the log does not hold from there on")
    body, mark, digest = line.removesuffix(END).rpartition(HASHED)
    if not mark or digest.decode(errors="replace") != digest_of(chain.last, body):
        raise AuditError(f"{where} was altered, or a line before it was removed: the log does not hold from there on")
    record = record_of(body, where)
    if record["number"] != chain.count:
        raise AuditError(
            f"{where} has the number {record['number']} and not {chain.count}: its hash fits, so records were left out "
            "or added by somebody who made the hashes anew"
        )
    chain.count += 1
    chain.last = digest.decode()
    return record


def damage_of(line: bytes) -> str:
    """What happened to a line as a whole, by an editor for instance; empty where it has its end."""
    if len(line) > MAX_LINE_BYTES:
        return f"is longer than {MAX_LINE_BYTES} bytes, and of no audit log"
    if not line.strip():
        return "is blank; no server writes such a line, but an editor may"
    if line.endswith(b"\r\n"):
        return "ends with CR and LF, as an editor or a transfer of text files makes it"
    return "" if line.endswith(END) else "is cut off"


def record_of(body: bytes, where: str) -> Fields:
    """What every record has, it has.

    :raises AuditError: no server wrote it, though the hash fits.
    """
    try:
        record = msgspec.json.decode(body + b"}", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AuditError(f"{where} is no JSON: {error}") from error
    try:
        moment_of(record)
        has_all = type(record.get("number")) is int and isinstance(record.get("event"), str)
    except ValueError:
        has_all = False
    if not has_all:
        raise AuditError(f"{where} lacks a number, time or event: its hash fits, but no server wrote it")
    return record


def moment_of(record: Fields) -> datetime.datetime:
    """When it was.

    :raises ValueError: it does not say.
    """
    moment = datetime.datetime.fromisoformat(str(record.get("time")))
    if moment.tzinfo is None:
        raise ValueError(f"{moment} may be anywhere")
    return moment


def take(file: int, path: Path) -> None:
    """Until it is closed, for this process alone: the lines of two would not be bound to each other.

    :raises AuditError: another process has it.
    """
    if not claimed(file):
        raise AuditError(f"the audit log {path} is written by another server: each needs one of its own")


def digest_of(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()
