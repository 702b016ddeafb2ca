"""The clerk looks every question up in the rules, whatever a session's process says."""

import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from desk import ALICE, CAROL, NoSealer

from ptrtensor.errors import AuditError
from ptrtensor.owner.clerk import Clerk
from ptrtensor.owner.decisions import record_decisions
from ptrtensor.owner.policy import Policy, QuotaRule, Rule, Size
from ptrtensor.owner.requests import Requests
from ptrtensor.owner.sealing import Content, Sealer
from ptrtensor.owner.state import State
from ptrtensor.transport.tls import Peer
from ptrtensor.wire.control import (
    DENIALS_TOLD_SINGLY,
    Answer,
    Asking,
    Boxed,
    Bytes,
    Collected,
    Collecting,
    Consumption,
    Denial,
    Filed,
    Listing,
    Offence,
    Publication,
    Reading,
    Sealing,
    Unsealed,
    Unsealing,
    Verdict,
)
from ptrtensor.wire.limits import MAX_MOVED_BYTES
from ptrtensor.wire.metadata import TensorMeta

META = TensorMeta((2,), (1,), "float32")
POLICY = Policy(
    rule=(
        Rule(tags=("#closed",)),
        Rule(tags=("#asked",), read="ask"),
        Rule(tags=("#limited",), read="always", elements_per_day=10),
        Rule(tags=("#small",), read="always", bytes_per_day=Size(100)),
        Rule(tags=("#open",), clients=("alice",), read="always"),
        Rule(tags=("#secret",), hidden=True),
        Rule(tags=("secret",), read="always"),
    ),
    quota=(QuotaRule(clients=("alice",), operations_per_day=10, seconds_per_day=5),),
    receive_from=("dora",),
)
NAMES = ("closed", "asked", "limited", "small", "open", "secret")
PUBLICATIONS = {name: Publication(name, (f"#{name}",), "", True, "", 0, META) for name in NAMES}


class Office:
    """Clerks with one state, and the lines that they write."""

    def __init__(self, state: State | None) -> None:
        self.state = state
        self.lines: list[dict[str, object]] = []
        self.full = False
        self.sealer: Sealer = NoSealer()

    def clerk(self, peer: Peer = ALICE) -> Clerk:
        return Clerk(POLICY, PUBLICATIONS, self.state, peer, "session", self.sealer, self.record)

    def record(self, event: str, **fields: object) -> None:
        if self.full:
            raise AuditError("the disk is full")
        self.lines.append({"event": event, **fields})

    @property
    def events(self) -> list[object]:
        return [line["event"] for line in self.lines]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    state = State(tmp_path / "state.sqlite")
    yield Office(state)
    state.close()


def reading(*labels: str, elements: int = 2, size: int = 8) -> Reading:
    return Reading("the value", 7, "float32[2]", labels, elements, size, "aten::neg")


def asking(*labels: str, value: bytes = bytes(8)) -> Asking:
    return Asking(7, labels, "for science", META, value, "", "aten::mean")


def against(answer: Answer | None) -> str:
    assert isinstance(answer, Verdict), answer
    return answer.against


# --- reading


def test_what_may_be_read_is_written_down_before(office: Office) -> None:
    assert office.clerk().answer(reading("open", "limited")) == Verdict()
    assert office.lines == [
        {
            "event": "released",
            "session": "session",
            "client": "alice",
            "what": "the value",
            "object": 7,
            "objects": ("open", "limited"),
            "operation": "aten::neg",
            "tensor": "float32[2]",
            "elements": 2,
            "bytes": 8,
        }
    ]


@pytest.mark.parametrize("labels", [("closed",), ("asked",), ("open", "closed"), ("unknown",), ("open", "unknown"), ()])
def test_what_may_not_be_read_whatever_the_process_says(office: Office, labels: tuple[str, ...]) -> None:
    assert "may not be read" in against(office.clerk().answer(reading(*labels)))
    assert office.lines == []


def test_a_rule_for_another_client_is_none(office: Office) -> None:
    assert against(office.clerk(CAROL).answer(reading("open"))) == (
        'open (without a rule its owner\'s policy says read = "never") may not be read'
    )


def test_two_sessions_of_a_client_share_a_day_and_another_client_has_his_own(office: Office) -> None:
    first, second, carol = office.clerk(), office.clerk(), office.clerk(CAROL)
    assert first.answer(reading("limited", elements=6)) == Verdict()
    assert against(second.answer(reading("limited", elements=6))) == (
        "rule 3 of its owner's policy releases no more than 10 elements a day of what was computed from limited, and "
        "this would be more: ask for less, or tomorrow (UTC)"
    )
    assert second.answer(reading("limited", elements=4)) == Verdict()
    assert carol.answer(reading("limited", elements=10)) == Verdict()
    assert against(first.answer(reading("limited", elements=1)))
    assert office.events == ["released"] * 3


def test_bytes_and_elements_are_limited_apart(office: Office) -> None:
    clerk = office.clerk()
    assert clerk.answer(reading("small", elements=1000, size=60)) == Verdict()
    assert "rule 4 of its owner's policy releases no more than 100 bytes a day" in against(
        clerk.answer(reading("small", elements=1, size=41))
    )
    assert "10 elements a day of what was computed from limited" in against(
        clerk.answer(reading("small", "limited", elements=11, size=40))
    )
    assert clerk.answer(reading("small", "limited", elements=10, size=40)) == Verdict()


@pytest.mark.parametrize("amount", [-1, -(2**63)])
def test_a_process_that_lies_gets_nothing_back(office: Office, amount: int) -> None:
    clerk = office.clerk()
    assert clerk.answer(reading("limited", elements=10)) == Verdict()
    assert against(clerk.answer(reading("limited", elements=amount)))
    assert against(clerk.answer(reading("limited", elements=1)))


@pytest.mark.parametrize("amount", [2**63, 2**64 - 1])
def test_amounts_that_no_column_holds(office: Office, amount: int) -> None:
    assert against(office.clerk().answer(reading("limited", elements=amount, size=amount)))
    assert office.clerk().answer(reading("open", elements=amount, size=amount)) == Verdict()


def test_without_a_state_nothing_is_limited_and_so_nothing_is_read() -> None:
    clerk = Office(None).clerk()
    assert "keeps no state" in against(clerk.answer(reading("limited")))
    assert clerk.answer(reading("open")) == Verdict()


def test_without_a_line_in_the_log_nothing_leaves(office: Office) -> None:
    id = Requests(office.state or State(Path())).file(ALICE, "session", asking("asked")).id
    Requests(office.state or State(Path())).decide(id, "approved", "")
    office.full = True
    for question in (reading("open"), asking("asked"), Collecting(id)):
        assert "cannot write down" in against(office.clerk().answer(question))


def test_what_is_wrong_with_the_state_is_not_for_clients(office: Office, tmp_path: Path) -> None:
    assert office.state is not None
    office.state._database.execute("PRAGMA query_only = ON")
    for question in (reading("limited"), asking("asked"), Collecting("1f"), Consumption(1, 0.0)):
        said = against(office.clerk().answer(question))
        assert said == "the worker's state cannot be used at the moment" and str(tmp_path) not in said


# --- what is told


def test_denials_are_written_down(office: Office) -> None:
    who = {"event": "denied", "session": "session", "client": "alice"}
    clerk = office.clerk()
    for denial in (
        Denial("the value", ("closed",), 4, 7, "aten::neg", "float32[2]", 8),
        Denial("to run aten::from_file", operation="aten::from_file"),
        Denial("what was asked for", request="1f"),
    ):
        assert clerk.answer(denial) is None
    value, operation, collected = office.lines
    assert value == who | {
        "what": "the value",
        "object": 7,
        "objects": ("closed",),
        "operation": "aten::neg",
        "tensor": "float32[2]",
        "bytes": 8,
        "count": 4,
    }
    assert operation == who | {"what": "to run aten::from_file", "operation": "aten::from_file", "count": 1}
    assert collected == who | {"what": "what was asked for", "request": "1f", "count": 1}


def test_a_process_that_lies_does_not_fill_the_log_with_them(office: Office) -> None:
    clerk = office.clerk()
    for number in range(3 * DENIALS_TOLD_SINGLY):
        assert clerk.answer(Denial("the value", ("closed",), -(2**40) if number % 2 else 1)) is None
    clerk.close(0.0)
    assert len(office.lines) <= DENIALS_TOLD_SINGLY + 3
    assert sum(int(str(line["count"])) for line in office.lines) == 3 * DENIALS_TOLD_SINGLY


def test_an_offence_is_known_and_not_longer_than_a_line(office: Office) -> None:
    clerk = office.clerk()
    assert clerk.offence == ""
    assert clerk.answer(Offence("wrong first bytes" + "!" * 10_000)) is None
    assert clerk.offence.startswith("wrong first bytes!!!") and len(clerk.offence) == 500


# --- quotas


def test_what_is_used_up_is_told_and_written_down(office: Office) -> None:
    clerk = office.clerk()
    assert clerk.answer(Consumption(10, 1.0)) == Verdict()
    assert against(clerk.answer(Consumption(1, 0.5))) == "the owner of the worker grants you no more operations today"
    assert office.lines == [{"event": "quota used up", "session": "session", "client": "alice", "what": "operations"}]


def test_what_was_computed_at_the_end_counts(office: Office) -> None:
    office.clerk().close(5.1)
    assert "no more seconds" in against(office.clerk().answer(Consumption(0, 0.0)))


# --- moves


class FakeSealer(Sealer):
    """Whoever seals is dora."""

    def __init__(self, *labels: str) -> None:
        self.name = "bob"
        self._labels = labels or ("hers", "bob:open")

    def addressee(self, letter: bytes) -> str:
        return "dora"

    def seal(self, letter: bytes, content: Content, size: int) -> bytes:
        return b"box"

    def open(self, box: Bytes, session: str, senders: Collection[str]) -> tuple[str, Content]:
        assert "dora" in senders
        return "dora", Content(self._labels, META, box, "")


def test_what_is_received_again_and_again_does_not_fill_the_log(office: Office) -> None:
    office.sealer = FakeSealer()
    clerk = office.clerk()
    for _ in range(100):
        answer = clerk.answer(Unsealing(bytes(8)))
        assert isinstance(answer, Unsealed) and answer.labels == ("dora:hers", "open")
    assert [line["count"] for line in office.lines] == [1, 1, 2, 4, 8, 16, 32]
    clerk.close(0.0)
    assert office.events == ["received"] * 8 and sum(int(str(line["count"])) for line in office.lines) == 100
    assert office.lines[0] | {"sender": "dora", "objects": ("dora:hers", "open"), "bytes": 8} == office.lines[0]


def test_only_what_came_from_a_worker_goes_home_to_it(office: Office) -> None:
    """And not what is called so."""
    office.sealer = FakeSealer()
    clerk, sealing = office.clerk(), Sealing(7, ("dora:hers",), b"", 8, META, bytes(8), "")
    assert against(clerk.answer(sealing)) == (
        "what was computed from dora:hers may not move to dora: without a rule its owner's policy does not name it in "
        "move_to"
    )
    closed = Sealing(7, ("closed",), b"", 8, META, bytes(8), "")
    assert "to dora: rule 1 of its owner's policy does not name it in move_to" in against(clerk.answer(closed))
    assert isinstance(clerk.answer(Unsealing(bytes(8))), Unsealed)
    assert isinstance(clerk.answer(sealing), Boxed)
    assert "may not move to dora" in against(office.clerk().answer(sealing)), "nor what another session has"


def test_what_comes_home_is_under_its_own_rule_also_where_its_client_cannot_find_it(office: Office) -> None:
    """It may have been moved by somebody who can; its name is no tag."""
    office.sealer = FakeSealer("bob:secret")
    clerk = office.clerk()
    answer = clerk.answer(Unsealing(bytes(8)))
    assert isinstance(answer, Unsealed) and answer.labels == ("secret",)
    assert answer.grants["secret"].read == "never" and "rule 6 of" in answer.grants["secret"].rule
    assert "secret (rule 6 of" in against(clerk.answer(reading("secret")))


@pytest.mark.parametrize("labels", [("dora:" + "x" * 496,), tuple(f"dora:{number}" for number in range(1001))])
def test_what_nobody_would_take_is_not_sealed(office: Office, labels: tuple[str, ...]) -> None:
    office.sealer = FakeSealer()
    clerk = office.clerk()
    clerk._foreign.update(labels)
    sealing = Sealing(7, labels, b"", 8, META, bytes(8), "")
    assert "more than 1000 publications cannot move, nor" in against(clerk.answer(sealing))
    assert office.lines == []


@pytest.mark.parametrize("size", [-1, MAX_MOVED_BYTES + 1, 2**62])
def test_a_process_that_lies_about_a_size_does_not_take_the_servers_memory(office: Office, size: int) -> None:
    office.sealer = FakeSealer()
    clerk = office.clerk()
    clerk._foreign.add("dora:hers")
    sealing = Sealing(7, ("dora:hers",), b"", size, META, bytes(8), "")
    assert "bytes cannot move at once" in against(clerk.answer(sealing)) and office.lines == []


# --- requests


def test_a_request_and_its_way(office: Office) -> None:
    assert office.state is not None
    filed = office.clerk().answer(asking("asked", "open"))
    assert isinstance(filed, Filed) and office.clerk().answer(Listing()) == filed
    (release,) = filed.releases
    assert (release.status, release.reason) == ("pending", "for science")
    assert "has not decided" in against(office.clerk().answer(Collecting(release.id)))
    Requests(office.state).decide(release.id, "approved", "")
    assert "no such request of yours" in against(office.clerk(CAROL).answer(Collecting(release.id)))
    collected = office.clerk().answer(Collecting(release.id))
    assert isinstance(collected, Collected) and collected.value == bytes(8) and collected.failure == ""
    assert "collected before" in against(office.clerk().answer(Collecting(release.id)))
    assert office.events == ["requested", "approved", "released"]
    assert office.lines[0] | {"request": release.id, "bytes": 8, "reason": "for science"} == office.lines[0]
    assert office.lines[2] | {"request": release.id, "bytes": 8, "objects": ("asked", "open")} == office.lines[2]


def test_a_request_has_its_line_before_its_decision(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the owner is."""
    assert office.state is not None
    requests = Requests(office.state)
    record = office.record
    looking = threading.Thread(target=record_decisions, args=(requests, record))

    def decide_at_once(event: str, **fields: object) -> None:
        requests.decide(str(fields["request"]), "approved", "")
        looking.start()
        looking.join(0.2)
        record(event, **fields)

    monkeypatch.setattr(office, "record", decide_at_once)
    assert isinstance(office.clerk().answer(asking("asked")), Filed)
    looking.join()
    assert office.events == ["requested", "approved"]


def test_what_is_revoked_is_not_handed_out_and_the_log_says_so(office: Office) -> None:
    assert office.state is not None
    filed = office.clerk().answer(asking("asked"))
    assert isinstance(filed, Filed)
    id = filed.releases[0].id
    Requests(office.state).decide(id, "approved", "")
    Requests(office.state).revoke(id)
    assert "denied it" in against(office.clerk().answer(Collecting(id)))
    assert office.events == ["requested", "approved", "revoked"]


@pytest.mark.parametrize("labels", [("closed",), ("asked", "closed"), ("unknown",), ()])
def test_what_may_not_even_be_asked_for(office: Office, labels: tuple[str, ...]) -> None:
    said = against(office.clerk().answer(asking(*labels)))
    assert "may not be read, nor asked for" in said and ("closed" not in labels or "closed (rule 1 of" in said)
    told = {"what": "a request", "object": 7, "operation": "aten::mean", "tensor": "float32[2]", "bytes": 8, "count": 1}
    assert office.lines[0] | told == office.lines[0]
    assert office.events == ["denied"] and office.clerk().answer(Listing()) == Filed([])


def test_without_a_state_there_are_no_requests() -> None:
    for question in (asking("asked"), Listing(), Collecting("1f")):
        assert "takes no requests" in against(Office(None).clerk().answer(question))


# --- crashes


def test_a_client_whose_sessions_crash_begins_no_more_today(office: Office) -> None:
    """Whoever can crash a session where a private value says so learns a bit of it each time."""
    for _ in range(POLICY.quota_for("alice").crashes_per_day):
        assert office.clerk().admit() == ""
        office.clerk().close(0.0, crashed=True)
    office.clerk().close(0.0)
    assert "5 of your sessions crashed today" in office.clerk().admit()
    assert office.clerk(CAROL).admit() == ""


def test_crashes_that_cannot_be_counted() -> None:
    clerk = Office(None).clerk(CAROL)
    clerk.close(0.0, crashed=True)
    assert clerk.admit() == ""
