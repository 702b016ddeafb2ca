"""Requests for release: kept as they were asked, decided once, and handed out once, to whoever asked."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from desk import ALICE, CAROL

from ptrtensor._torch.memory import bytes_of, meta_of
from ptrtensor.errors import PtrTensorError
from ptrtensor.owner import requests as module
from ptrtensor.owner import state as state_module
from ptrtensor.owner.decisions import record_decisions
from ptrtensor.owner.requests import MAX_PENDING, Requests
from ptrtensor.owner.state import State
from ptrtensor.transport.tls import Peer
from ptrtensor.wire.control import Asking
from ptrtensor.wire.limits import MAX_REASON_CHARACTERS, MAX_RELEASE_BYTES

VALUE = torch.tensor([1.5, -2.0])
DATA = bytes(bytes_of(VALUE))
ASKING = Asking(7, ("patients", "scans"), "for science", meta_of(VALUE), DATA, "")
FAILED = Asking(7, ("patients",), "for science", None, b"", "IndexError: index out of range")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state.sqlite")
    yield made
    made.close()


@pytest.fixture
def requests(state: State) -> Requests:
    return Requests(state)


def file(requests: Requests, asking: Asking = ASKING, peer: Peer = ALICE) -> str:
    return requests.file(peer, "session", asking).id


def approve(requests: Requests, id: str) -> None:
    """And have the line of it in the log."""
    requests.decide(id, "approved", "")
    note(requests)


def note(requests: Requests) -> None:
    record_decisions(requests, lambda event, **fields: None)


def test_what_was_asked_is_what_the_owner_sees(requests: Requests) -> None:
    request = requests.file(ALICE, "session", ASKING)
    assert replace(requests.find(request.id), meta=None) == replace(request, meta=None)
    assert (request.status, request.client, request.fingerprint) == ("pending", "alice", ALICE.fingerprint)
    assert (request.session, request.reason, request.object) == ("session", "for science", 7)
    assert (request.labels, request.value, request.failure) == (("patients", "scans"), DATA, "")
    assert request.tensor == "float32[2]" and request.meta is not None and request.meta.same_as(meta_of(VALUE))
    assert (request.answer, request.decided, request.decider) == ("", "", "")


def test_what_failed_looks_the_same_to_its_client(requests: Requests) -> None:
    request = requests.file(ALICE, "session", FAILED)
    assert (request.tensor, request.failure) == ("a failed operation", FAILED.failure)
    other = requests.file(ALICE, "session", ASKING)
    assert {len(str(one.release)) for one in (request, other)} == {len(str(other.release))}
    fields = ("status", "reason", "answer")
    assert [[getattr(one.release, field) for field in fields] for one in (request, other)] == [
        ["pending", "for science", ""]
    ] * 2


@pytest.mark.parametrize(("decision", "said"), [("approved", ""), ("denied", "no: too few rows")])
def test_a_decision(requests: Requests, decision: module.Decision, said: str) -> None:
    id = file(requests)
    decided = requests.decide(id, decision, said)
    assert (decided.status, decided.answer) == (decision, said) and decided.decided and decided.decider
    assert decided.value == (DATA if decision == "approved" else b""), "what is denied is kept no longer"
    for again in ("approved", "denied"):
        with pytest.raises(PtrTensorError, match=f"request {id} is {decision} already"):
            requests.decide(id, again, "")
    assert requests.of(ALICE)[0].release.answer == said


def test_an_approved_value_is_handed_out_once(requests: Requests) -> None:
    id = file(requests)
    approve(requests, id)
    found = requests.collect(ALICE, id)
    assert (found.value, found.meta is not None) == (DATA, True)
    assert requests.find(id).status == "collected" and requests.find(id).value == b""
    with pytest.raises(PtrTensorError, match="it was collected before"):
        requests.collect(ALICE, id)


def test_of_many_who_collect_at_the_same_time_one_gets_it(requests: Requests, tmp_path: Path) -> None:
    id = file(requests)
    approve(requests, id)
    others = [State(tmp_path / "state.sqlite") for _ in range(3)]
    got: list[bytes] = []

    def collect(requests: Requests) -> None:
        try:
            got.append(requests.collect(ALICE, id).value)
        except PtrTensorError as error:
            assert "collected before" in str(error)

    threads = [threading.Thread(target=collect, args=(Requests(other),)) for other in others * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert got == [DATA]


def test_what_is_not_approved_is_not_handed_out(requests: Requests) -> None:
    pending, denied, revoked = (file(requests) for _ in range(3))
    requests.decide(denied, "denied", "too few rows")
    requests.decide(revoked, "approved", "well")
    requests.revoke(revoked)
    for id, reason in (pending, "has not decided"), (denied, "denied it: too few rows"), (revoked, "denied it"):
        with pytest.raises(PtrTensorError, match=reason):
            requests.collect(ALICE, id)
    assert requests.find(revoked).value == b""


def test_what_has_no_line_in_the_log_yet_is_not_handed_out(requests: Requests) -> None:
    id = file(requests)
    requests.decide(id, "approved", "")
    with pytest.raises(PtrTensorError, match="has not decided yet"):
        requests.collect(ALICE, id)
    assert requests.find(id).value == DATA
    note(requests)
    assert requests.collect(ALICE, id).value == DATA


@pytest.mark.parametrize(
    "other",
    [CAROL, Peer("alice", "c" * 64, False), Peer("carol", "a" * 64, False)],
    ids=["carol", "namesake", "renamed"],
)
def test_nobody_else_gets_or_sees_it(requests: Requests, other: Peer) -> None:
    id = file(requests)
    requests.decide(id, "approved", "")
    for wrong in (id, "", "00000000", f"{id}' OR '1'='1", id + "\0", "%", "x" * 100_000):
        with pytest.raises(PtrTensorError, match="there is no such request of yours"):
            requests.collect(other, wrong)
    assert requests.of(other) == [] and [one.id for one in requests.of(ALICE)] == [id]


def test_what_cannot_be_revoked(requests: Requests) -> None:
    pending, denied, collected = (file(requests) for _ in range(3))
    requests.decide(denied, "denied", "")
    approve(requests, collected)
    requests.collect(ALICE, collected)
    for id, status in (pending, "pending"), (denied, "denied"), (collected, "collected"):
        with pytest.raises(PtrTensorError, match=f"request {id} is {status}: there is nothing to take back"):
            requests.revoke(id)
    for wrong in ("none", ""):
        for act in (requests.revoke, requests.find, lambda id: requests.decide(id, "approved", "")):
            with pytest.raises(PtrTensorError, match="there is no request"):
                act(wrong)


def test_lists_are_the_latest_first_and_without_values(requests: Requests) -> None:
    """A client asks for its list again and again, of up to a hundred values."""
    ids = [file(requests), file(requests, FAILED), file(requests, peer=CAROL)]
    requests.decide(ids[0], "denied", "")
    assert [one.id for one in requests.all()] == ids[::-1]
    assert [one.id for one in requests.all(pending=True)] == ids[:0:-1]
    assert [one.id for one in requests.of(ALICE)] == ids[1::-1]
    assert [one.tensor for one in requests.all()] == ["float32[2]", "a failed operation", "float32[2]"]
    assert {one.value for one in (*requests.all(), *requests.of(ALICE))} == {b""}
    assert {one.request.value for one in requests.unrecorded()} == {b""}


def test_a_list_is_as_long_as_a_message_can_be(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", 2)
    ids = [file(requests) for _ in range(3)]
    assert [one.id for one in requests.of(ALICE)] == [one.id for one in requests.all()] == ids[:0:-1]


def test_decisions_are_kept_until_they_are_written_down(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of the same second."""
    monkeypatch.setattr(module, "now", lambda: "2026-01-01T00:00:00+00:00")
    id = file(requests)
    assert requests.unrecorded() == []
    requests.decide(id, "approved", "well")
    (approved,) = requests.unrecorded()
    requests.revoke(id)
    requests.mark_recorded(approved)
    (revoked,) = requests.unrecorded()
    assert [(one.outcome, one.answer, one.request.id) for one in (approved, revoked)] == [
        ("approved", "well", id),
        ("revoked", "", id),
    ]
    requests.mark_recorded(revoked)
    assert requests.unrecorded() == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such numbers")
def test_who_decided_is_known_by_his_number_and_not_by_the_environment(
    requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "mallory")
    ids = [file(requests) for _ in range(2)]
    assert requests.decide(ids[0], "approved", "").decider == module.pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # nobody has it, as in a container
    assert requests.decide(ids[1], "denied", "").decider == "uid 2147483641"
    requests.revoke(ids[0])


# --- what is too much


def test_one_client_cannot_bury_the_owner(requests: Requests) -> None:
    ids = [file(requests) for _ in range(MAX_PENDING)]
    with pytest.raises(PtrTensorError, match="100 requests wait for an answer already"):
        file(requests)
    file(requests, peer=CAROL)
    requests.decide(ids[0], "denied", "")
    file(requests)


def test_what_is_too_large(requests: Requests) -> None:
    whole = torch.zeros(MAX_RELEASE_BYTES, dtype=torch.uint8)
    file(requests, Asking(7, ("a",), "x" * MAX_REASON_CHARACTERS, meta_of(whole), bytes(bytes_of(whole)), ""))
    for asking in (
        Asking(7, ("a",), "x" * (MAX_REASON_CHARACTERS + 1), meta_of(VALUE), DATA, ""),
        Asking(7, ("a",), "x", meta_of(whole), bytes(MAX_RELEASE_BYTES + 1), ""),
    ):
        with pytest.raises(PtrTensorError, match="a request is for 16777216 bytes at most"):
            file(requests, asking)


@pytest.mark.parametrize("name", [0, 2**63, 2**64 - 1])
def test_every_name_that_an_object_can_have(requests: Requests, name: int) -> None:
    request = requests.file(ALICE, "session", Asking(name, ("a",), "x", None, b"", ""))
    assert requests.find(request.id).object == name


@pytest.mark.parametrize("text", ["\0", "\x1b[2J", "'; DROP TABLE requests; --", "\u202e", "😀" * 500])
def test_texts_are_only_texts(requests: Requests, text: str) -> None:
    request = requests.file(Peer(text, "f", False), text, Asking(1, (text, ""), text, None, b"", text))
    decided = requests.decide(request.id, "denied", text)
    assert (decided.reason, decided.client, decided.session, decided.failure) == (text,) * 4
    assert decided.labels == (text, "") and decided.answer == text


def test_a_text_of_the_owner_that_cannot_be_kept(requests: Requests) -> None:
    """The shell passes on what is not UTF-8 in this way."""
    id = file(requests)
    with pytest.raises(PtrTensorError, match="cannot be used"):
        requests.decide(id, "denied", "\udcff")
    with pytest.raises(PtrTensorError, match="cannot be used"):
        requests.find("\udcff")
    assert requests.find(id).status == "pending"


def test_they_outlive_the_server(requests: Requests, state: State, tmp_path: Path) -> None:
    id = file(requests)
    approve(requests, id)
    state.close()
    again = State(tmp_path / "state.sqlite")
    assert Requests(again).collect(ALICE, id).value == DATA
    again.close()


SECRET = Asking(1, ("a",), "x", meta_of(VALUE), b"SECRETLY" * 9999, "")


def secrets_in(folder: Path) -> int:
    """How often in all of SQLite's files."""
    return sum(path.read_bytes().count(SECRET.value[:800]) for path in folder.glob("state.sqlite*"))


def test_nothing_of_what_was_denied_revoked_or_collected_is_left_in_the_files(
    requests: Requests, tmp_path: Path
) -> None:
    """While the server runs, and has the state open."""
    owner = State(tmp_path / "state.sqlite", make=False)
    denied, revoked, collected = (file(requests, SECRET) for _ in range(3))
    assert secrets_in(tmp_path)
    approve(requests, collected)
    requests.collect(ALICE, collected)
    Requests(owner).decide(denied, "denied", "")
    Requests(owner).decide(revoked, "approved", "")
    assert secrets_in(tmp_path)
    Requests(owner).revoke(revoked)
    assert secrets_in(tmp_path) == 0
    owner.close()


def test_who_reads_for_long_is_not_waited_for(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "WIPE_MILLISECONDS", 1)
    kept, denied = (file(requests, SECRET) for _ in range(2))
    reader = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT COUNT(*) FROM requests").fetchall() == [(2,)]
    requests.decide(denied, "denied", "")
    assert secrets_in(tmp_path)
    reader.close()
    requests.decide(kept, "denied", "")
    assert secrets_in(tmp_path) == 0
