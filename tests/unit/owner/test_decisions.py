"""What the owner decides has a line that says about what."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import ALICE

from ptrtensor.errors import AuditError
from ptrtensor.owner.decisions import note_decisions, record_decisions
from ptrtensor.owner.requests import Decision, Requests
from ptrtensor.owner.state import KIND, State
from ptrtensor.wire.control import Asking
from ptrtensor.wire.metadata import TensorMeta


def written(requests: Requests) -> list[dict[str, object]]:
    """The lines that a look for decisions adds."""
    lines: list[dict[str, object]] = []
    stopping = threading.Event()
    stopping.set()
    note_decisions(requests, lambda event, **fields: lines.append({"event": event, **fields}), stopping)
    return lines


META = TensorMeta((2,), (1,), "float32")


ASKING = Asking(2**64 - 1, ("patients",), "for a paper", META, bytes(8), "", "aten::mean.dim")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state.sqlite")
    yield made
    made.close()


@pytest.mark.parametrize("decision", ["approved", "denied"])
def test_a_decision_is_written_down_once_with_what_it_is_about(state: State, decision: Decision) -> None:
    requests = Requests(state)
    id = requests.file(ALICE, "5b1fe0a1", ASKING).id
    decided = requests.decide(id, decision, "cite us")
    assert written(requests) == [
        {
            "event": decision,
            "request": id,
            "session": "5b1fe0a1",
            "client": "alice",
            "object": 2**64 - 1,
            "objects": ("patients",),
            "operation": "aten::mean.dim",
            "tensor": "float32[2]",
            "bytes": 8,
            "decider": decided.decider,
            "decided": decided.decided,
            "answer": "cite us",
        }
    ]
    assert written(requests) == []


def test_every_decision_has_its_line_in_their_order(state: State) -> None:
    """Also an approval that is taken back before the log is written; and that is no denial."""
    requests = Requests(state)
    one, two, three = (requests.file(ALICE, "session", ASKING).id for _ in range(3))
    requests.decide(three, "denied", "no")
    requests.decide(one, "approved", "")
    requests.decide(two, "approved", "well")
    requests.revoke(one)
    expected = [("denied", three, "no"), ("approved", one, ""), ("approved", two, "well"), ("revoked", one, "")]
    assert [(line["event"], line["request"], line["answer"]) for line in written(requests)] == expected
    requests.revoke(two)
    assert [(line["event"], line["request"]) for line in written(requests)] == [("revoked", two)]


def test_a_decision_whose_line_cannot_be_written_is_kept(state: State) -> None:
    requests = Requests(state)
    for _ in range(2):
        requests.decide(requests.file(ALICE, "session", ASKING).id, "approved", "")

    def full(event: str, **fields: object) -> None:
        raise AuditError("the disk is full")

    with pytest.raises(AuditError):
        record_decisions(requests, full)
    assert len(written(requests)) == 2


def test_of_many_who_look_at_the_same_time_one_writes_it(state: State) -> None:
    lines: list[str] = []
    ids = [Requests(state).file(ALICE, "session", ASKING).id for _ in range(10)]
    for id in ids:
        Requests(state).decide(id, "approved", "")

    def record() -> None:
        record_decisions(Requests(state), lambda event, **fields: lines.append(fields["request"]))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines == ids


OLD_TABLE = """
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, asked TEXT NOT NULL,
    client TEXT NOT NULL, fingerprint TEXT NOT NULL, session TEXT NOT NULL,
    reason TEXT NOT NULL, object TEXT NOT NULL, operation TEXT NOT NULL, labels TEXT NOT NULL,
    meta BLOB, failure TEXT NOT NULL,
    status TEXT NOT NULL, answer TEXT NOT NULL DEFAULT '',
    decided TEXT NOT NULL DEFAULT '', decider TEXT NOT NULL DEFAULT '', recorded INTEGER NOT NULL DEFAULT 0,
    value BLOB NOT NULL
);
"""


def test_a_state_of_the_version_before(tmp_path: Path) -> None:
    """Its decisions without a line get theirs, and nothing gets another."""
    path = tmp_path / "old.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA application_id = {KIND}")
    database.executescript(OLD_TABLE)
    for id, status, decided, recorded in (
        ("1", "collected", "2026-01-02", 0),
        ("2", "denied", "2026-01-01", 0),
        ("3", "approved", "2026-01-01", 1),
        ("4", "pending", "", 0),
    ):
        database.execute(
            "INSERT INTO requests (id, asked, client, fingerprint, session, reason, object, operation, labels, failure,"
            " status, decided, decider, recorded, value)"
            " VALUES (?, '', 'alice', ?, '', '', '7', '', '[]', '', ?, ?, 'bob', ?, x'')",
            (id, ALICE.fingerprint, status, decided, recorded),
        )
    database.close()
    for expected in [("denied", "2"), ("approved", "1")], []:
        state = State(path)
        assert [(line["event"], line["request"]) for line in written(Requests(state))] == expected
        state.close()
    state = State(path)
    assert Requests(state).collect(ALICE, "3").status == "approved"
    assert Requests(state).decide("4", "denied", "").status == "denied"
    state.close()
