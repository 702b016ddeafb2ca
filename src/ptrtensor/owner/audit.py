"""The audit log: lines of JSON that are only ever added, each bound to the one before, so that a change shows.

A line's `hash` is SHA-256 over the hash of the line before and over the line without its hash, as it is written. The
first line is bound to 64 zeros. What is cut off at the end does not show by itself: note the last hash elsewhere.
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
from ptrtensor.owner.claims import claimed

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


class Audit:
    """One log, written by one process.

    :raises AuditError: the file cannot be written to, is written by another process, or is no log that holds together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._chain = Chain()
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise AuditError(f"the audit log {path} cannot be written: {error.strerror}") from error
        try:
            take(self._file, path)
            for _ in records(path, self._chain):
                pass
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, AuditError):
                error.add_note("Keep the log as it is, and name another file with --audit.")
            raise

    def record(self, event: str, **fields: object) -> None:
        """Add a line.

        :raises AuditError: it could not be written; whatever it is about must not happen then.
        """
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        with self._lock:
            line: Fields = {"number": self._chain.count, "time": time, "event": event, **fields}
            body = msgspec.json.encode(line, enc_hook=str)[:-1]
            digest = digest_of(self._chain.last, body)
            written = body + HASHED + digest.encode() + END
            try:
                size = os.fstat(self._file).st_size
                if os.write(self._file, written) < len(written):
                    os.ftruncate(self._file, size)  # no server goes on with a log that ends within a line
                    raise AuditError(f"the audit log {self.path} cannot be written: the disk is full")
            except OSError as error:
                raise AuditError(f"the audit log {self.path} cannot be written: {error.strerror}") from error
            self._chain.count += 1
            self._chain.last = digest

    def close(self) -> None:
        with self._lock:
            os.fsync(self._file)
            os.close(self._file)


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
            for line in file:
                yield checked(line, chain, path)
    except OSError as error:
        raise AuditError(f"the audit log {path} cannot be read: {error.strerror}") from error


def checked(line: bytes, chain: Chain, path: Path) -> Fields:
    where = f"line {chain.count + 1} of {path}"
    if not line.endswith(END):
        raise AuditError(f"{where} is cut off: the log does not hold from there on")
    body, mark, digest = line.removesuffix(END).rpartition(HASHED)
    if not mark or digest.decode(errors="replace") != digest_of(chain.last, body):
        raise AuditError(f"{where} was altered, or a line before it was removed: the log does not hold from there on")
    try:
        record = msgspec.json.decode(body + b"}", type=dict[str, object])
    except msgspec.DecodeError as error:
        raise AuditError(f"{where} is no JSON: {error}") from error
    chain.count += 1
    chain.last = digest.decode()
    return record


def take(file: int, path: Path) -> None:
    """Until it is closed, for this process alone: the lines of two would not be bound to each other.

    :raises AuditError: another process has it.
    """
    if not claimed(file):
        raise AuditError(f"the audit log {path} is written by another server: each needs one of its own")


def digest_of(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()
