"""What a server remembers when it is started again: what was used of the quotas of a day, and requests for release."""

import contextlib
import datetime
import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ptrtensor.errors import PtrTensorError
from ptrtensor.locks import process_lock
from ptrtensor.owner.claims import claimed, released

TABLES: Final = """
CREATE TABLE IF NOT EXISTS used (
    day TEXT NOT NULL, client TEXT NOT NULL, what TEXT NOT NULL, amount REAL NOT NULL,
    PRIMARY KEY (day, client, what)
);
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, asked TEXT NOT NULL,
    client TEXT NOT NULL, fingerprint TEXT NOT NULL, session TEXT NOT NULL,
    reason TEXT NOT NULL, object TEXT NOT NULL, operation TEXT NOT NULL, labels TEXT NOT NULL,
    meta BLOB, failure TEXT NOT NULL,
    status TEXT NOT NULL, answer TEXT NOT NULL DEFAULT '',
    decided TEXT NOT NULL DEFAULT '', decider TEXT NOT NULL DEFAULT '', recorded INTEGER NOT NULL DEFAULT 0,
    value BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY, request TEXT NOT NULL, outcome TEXT NOT NULL,
    decided TEXT NOT NULL, decider TEXT NOT NULL, answer TEXT NOT NULL
);
"""
# A name has more bits than SQLite's integers. Values come last: SQLite reads a row up to the column that is asked for.
# A decision is kept until the audit log has its line. Before there was that table, `recorded` said whether it has.

NEWLY_KEPT: Final = """
INSERT INTO decisions (request, outcome, decided, decider, answer)
SELECT id, CASE status WHEN 'denied' THEN 'denied' ELSE 'approved' END, decided, decider, answer
FROM requests WHERE decided != '' AND recorded = 0 ORDER BY decided, number
"""

KIND: Final = int.from_bytes(b"ptrt")
"""By which SQLite's files are told apart."""

LOCKED: Final = ".lock"
BESIDE: Final = ("-wal", "-shm", "-journal", LOCKED)
"""What the files end in that are kept beside it."""

BUSY_SECONDS: Final = 30.0
"""How long one process waits for another that writes."""

WIPE_MILLISECONDS: Final = 1000
"""How long is waited for others, to wipe out what was removed."""

KEPT_DAYS: Final = 40
"""For which it is known what was used."""


class StateError(PtrTensorError):
    """The file cannot be used. It names what only its owner should know."""


class State:
    """A file of SQLite, which the server and the owner's commands share.

    :raises PtrTensorError: it cannot be opened, or is no such file.
    """

    def __init__(self, path: Path, *, make: bool = True) -> None:
        self.path = path
        if not make and not path.exists():
            raise PtrTensorError(f"there is no state {path}: name the file that `ptrtensor serve --state` keeps")
        self._lock = process_lock()  # a child that was forked within SQLite could not end: it closes what it drops
        self._day = today()
        self.recording = threading.Lock()
        """Held by who writes lines about requests: each decision once, and all in their order."""
        self._claim: int | None = None
        with self._lock, self._named_errors():
            make_file(path)
            self._database = sqlite3.connect(path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def claim(self) -> None:
        """For this server alone, until it is closed: what is approved for the clients of one, another would hand out.

        :raises PtrTensorError: another server has it.
        """
        path = lock_file(self.path)
        with self._named_errors():
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not claimed(file):
            os.close(file)
            raise StateError(
                f"the state {self.path} is another server's, which has locked {path}: stop that one, or name another "
                "file with --state"
            )
        self._claim = file

    def _prepare(self) -> None:
        """:raises PtrTensorError: it is a database of something else, and stays what it is."""
        self._database.row_factory = sqlite3.Row
        (kind,) = self._database.execute("PRAGMA application_id").fetchone()
        (tables,) = self._database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if tables and kind != KIND:
            raise StateError(f"the state {self.path} cannot be used: it is a database of something else")
        self._database.execute(f"PRAGMA application_id = {KIND}")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA secure_delete = ON")
        self._database.executescript(TABLES)
        self._keep_decisions()

    def _keep_decisions(self) -> None:
        """Those that the version before has written no line of."""
        if self._database.execute("SELECT 1 FROM requests WHERE decided != '' AND recorded = 0").fetchone():
            with self.transaction() as database:
                database.execute(NEWLY_KEPT)
                database.execute("UPDATE requests SET recorded = 1 WHERE decided != '' AND recorded = 0")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what is done here, or nothing, and nothing of others in between.

        :raises PtrTensorError: it cannot be written.
        """
        with self._lock, self._named_errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # a full disk has ended it already
                    self._database.execute("ROLLBACK")
                raise

    def use(self, client: str, amounts: Mapping[str, tuple[float, float | None]]) -> str:
        """Count what a client uses today, each amount within its limit: all of them or, where one is too much, none.

        Returns that one; empty where all were counted.
        """
        if not all(0 <= amount < math.inf for amount, _ in amounts.values()):
            raise PtrTensorError(f"these amounts cannot be counted: {amounts}")
        day = today()
        with self.transaction() as database:
            if day != self._day:
                forget_before(database, day)
                self._day = day
            for what, (amount, limit) in amounts.items():
                if limit is not None and amount + used(database, day, client, what) > limit:
                    return what
            for what, (amount, _) in amounts.items():
                database.execute(
                    "INSERT INTO used VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (day, client, what) DO UPDATE SET amount = amount + excluded.amount",
                    (day, client, what, float(amount)),
                )
        return ""

    def wipe(self) -> None:
        """What was removed is still in SQLite's log, beside the file, until that is emptied. Where that cannot be done,
        since another program reads for long, it stays until the next time.
        """
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._database.execute(f"PRAGMA busy_timeout = {WIPE_MILLISECONDS}")
            try:
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._database.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")

    def forget_old(self) -> None:
        """Drop the counts of days long gone; the first of those who use something on a day drops them too.

        :raises PtrTensorError: it cannot be written.
        """
        with self.transaction() as database:
            forget_before(database, today())

    def close(self) -> None:
        with self._lock:
            self._database.close()
            if self._claim is not None:
                released(self._claim)
                self._claim = None

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
            raise StateError(f"the state {self.path} cannot be used: {error}") from error


def forget_before(database: sqlite3.Connection, day: str) -> None:
    """What was used long before that day."""
    first = datetime.date.fromisoformat(day) - datetime.timedelta(days=KEPT_DAYS)
    database.execute("DELETE FROM used WHERE day < ?", (first.isoformat(),))


def make_file(path: Path) -> None:
    """Only its owner reads it. One that is there is not opened: a process loses SQLite's locks of a file as soon as it
    closes any descriptor of it.

    :raises StateError: it is a folder or a device.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.path.realpath(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if not path.is_file():
        raise StateError(f"the state {path} cannot be used: it is no regular file")


def lock_file(path: Path) -> Path:
    """Beside the state, and the same by whatever link it is named; it stays when the server has ended."""
    return Path(os.path.realpath(path) + LOCKED)


def used(database: sqlite3.Connection, day: str, client: str, what: str) -> float:
    found = database.execute(
        "SELECT amount FROM used WHERE day = ? AND client = ? AND what = ?", (day, client, what)
    ).fetchone()
    return 0.0 if found is None else float(found["amount"])


def today() -> str:
    """The day in UTC, as quotas count them."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
