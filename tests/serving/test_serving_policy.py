"""What a policy allows, refuses and limits, through a real server; and values that the owner releases."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hospital import Hospital, make_keys, open_hospital

import ptrtensor as pt
from ptrtensor.owner.audit import Audit, records
from ptrtensor.owner.policy import Policy, QuotaRule, Rule, Size
from ptrtensor.owner.requests import Requests
from ptrtensor.owner.sessions import Limits
from ptrtensor.owner.state import State
from ptrtensor.owner.status import ask_status
from ptrtensor.tensor.release import ReleaseRequest

SECONDS = 30.0
MIB = 2**20

NAMES = ("closed", "asked", "limited", "spent", "open", "narrow", "secret", "public")

POLICY = Policy(
    rule=(
        Rule(tags=("#asked",), read="ask"),
        Rule(tags=("#limited",), read="always", elements_per_day=10),
        Rule(tags=("#spent",), read="always", bytes_per_day=Size(0)),
        Rule(tags=("#open",), read="always"),
        Rule(tags=("#narrow",), read="always", operations=("sum", "mul", "detach"), refused=("mul",)),
        Rule(tags=("#secret",), clients=("alice",), hidden=True),
        Rule(tags=("#public",), private=False),
    ),
    quota=(
        QuotaRule(clients=("carol",), memory=Size(256 * MIB), objects=50),
        QuotaRule(clients=("dave",), operations_per_day=300, sessions=2),
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    for number, name in enumerate(NAMES):
        np.save(made / f"{name}.npy", np.arange(6.0, dtype=np.float32).reshape(2, 3) + number)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hospital")
    make_keys(made, ("alice", "carol", "dave"))
    return made


@pytest.fixture(scope="module")
def hospital(folder: Path, data: Path) -> Iterator[Hospital]:
    audit = Audit(folder / "audit.jsonl")
    with open_hospital(folder, data, policy=POLICY, audit=audit, ahead=2) as opened:
        yield opened
    audit.close()


@pytest.fixture(scope="module")
def alice(hospital: Hospital) -> Iterator[pt.RemoteWorker]:
    with contextlib.closing(hospital.connect(id="bob/alice")) as bob:
        yield bob


@pytest.fixture
def carol(hospital: Hospital) -> Iterator[pt.RemoteWorker]:
    """A session of hers, when the ones before have ended."""
    deadline = time.monotonic() + SECONDS
    while any(one.peer.name == "carol" for one in hospital.server.sessions) and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.closing(hospital.connect(id="bob/carol", who="carol")) as bob:
        yield bob


@pytest.fixture
def decisions(folder: Path) -> Iterator[Requests]:
    """As the owner makes them, with another connection to the file."""
    state = State(folder / "state.sqlite", make=False)
    yield Requests(state)
    state.close()


def found(worker: pt.Worker, name: str) -> pt.PointerTensor:
    (pointer,) = worker.search(f"#{name}")
    assert isinstance(pointer, pt.PointerTensor)
    return pointer


def asked(tensor: torch.Tensor, reason: str) -> ReleaseRequest:
    assert isinstance(tensor, pt.PointerTensor)
    return tensor.request(reason)


def lines(folder: Path, event: str) -> list[dict[str, object]]:
    """Those of the audit log, once there are some."""
    deadline = time.monotonic() + SECONDS
    while True:
        chosen = [record for record in records(folder / "audit.jsonl") if record["event"] == event]
        if chosen or time.monotonic() > deadline:
            return chosen
        time.sleep(0.05)


# --- reading


def test_what_is_closed_never_leaves(alice: pt.RemoteWorker) -> None:
    total = found(alice, "closed").sum()
    with pytest.raises(pt.PermissionDeniedError, match=r'read = "never" for closed: it cannot be asked for either'):
        total.cpu()
    with pytest.raises(pt.PermissionDeniedError, match="closed may not be read, nor asked for: without a rule"):
        asked(total, "please")
    assert pt.send(torch.ones(2), alice).tolist() == [1, 1]


def test_what_is_open_is_read_and_written_down(alice: pt.RemoteWorker, folder: Path) -> None:
    x = found(alice, "open")
    assert x.sum().item() == 15 + 6 * NAMES.index("open")
    assert x[x > 5].shape == (4,), "and what depends on values is told"
    with pytest.raises(pt.RemoteOpError, match="index 7 is out of bounds"):
        torch.gather(x, 1, torch.full((2, 3), 7).to(x.device)).cpu()
    read = lines(folder, "released")
    line = {"what": "the value", "elements": 1, "bytes": 4, "objects": ["open"], "client": "alice"}
    assert any(line.items() <= one.items() for one in read)


def test_of_what_is_limited_so_much_leaves_in_a_day(hospital: Hospital, alice: pt.RemoteWorker) -> None:
    """For all sessions of a client together, and for each client."""
    x = found(alice, "limited")
    assert x.cpu().shape == (2, 3)
    with contextlib.closing(hospital.connect(id="bob/second")) as second:
        y = found(second, "limited")
        with pytest.raises(
            pt.PermissionDeniedError, match="rule 2 of its owner's policy releases no more than 10 elements a day"
        ):
            y.cpu()
        assert y[0].tolist() == [2, 3, 4]
        with pytest.raises(pt.PermissionDeniedError):
            x[0, :2].cpu()
        assert x.sum().item() == 27
        for pointer in (x.sum(), y[:0], y[0, 0]):
            with pytest.raises(pt.PermissionDeniedError, match="a day"):
                pointer.cpu()


def test_what_is_limited_is_limited_for_each_client(carol: pt.RemoteWorker) -> None:
    """And lies as it lay at the worker, though it came in order."""
    value = found(carol, "limited").t().cpu()
    assert value.stride() == (1, 3) and value.tolist() == [[2, 5], [3, 6], [4, 7]]


def test_bytes_of_a_day(alice: pt.RemoteWorker) -> None:
    with pytest.raises(
        pt.PermissionDeniedError, match="rule 3 .* no more than 0 bytes a day of what was computed from spent"
    ):
        found(alice, "spent")[0, 0].cpu()


def test_what_was_made_of_several_is_under_all_their_rules(alice: pt.RemoteWorker) -> None:
    for other, reason in (
        ("closed", '"never" for closed'),
        ("asked", '"ask" for asked'),
        ("spent", "bytes a day of .* spent"),
    ):
        mixed = found(alice, "open") + found(alice, other)
        with pytest.raises(pt.PermissionDeniedError, match=reason):
            mixed.cpu()
        with pytest.raises(pt.PermissionDeniedError):
            mixed.nonzero()


def test_operations_that_are_refused(alice: pt.RemoteWorker) -> None:
    x = found(alice, "narrow")
    assert x.sum().item() == 15 + 6 * NAMES.index("narrow")
    for computed in x.exp(), x * 2, found(alice, "open") + x:
        with pytest.raises(pt.RemoteOpError, match=r"may not be run on what was computed from narrow: rule 5"):
            computed.cpu()
    torch.exp_(x)
    with pytest.raises(pt.RemoteOpError, match="may not be run"):
        alice.synchronize()
    alice.recover()


def test_what_is_hidden_and_what_is_public(alice: pt.RemoteWorker, carol: pt.RemoteWorker) -> None:
    assert alice.search("#secret") == []
    assert {tag for pointer in alice.search() for tag in pointer.tags} >= {"#closed", "#public"}
    assert found(alice, "public").sum().item() == 15 + 6 * NAMES.index("public")
    with pytest.raises(pt.PermissionDeniedError):
        found(carol, "secret").cpu()


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda x: x.nonzero(), id="nonzero"),
        pytest.param(lambda x: x[x > 0], id="boolean index"),
        pytest.param(lambda x: torch.linalg.cholesky(x[:, :2]), id="whether it worked"),
    ],
)
def test_what_depends_on_values_is_denied_with_the_rule(
    alice: pt.RemoteWorker, ask: Callable[[torch.Tensor], object]
) -> None:
    with pytest.raises(
        pt.PermissionDeniedError, match=r'rule 1 .* "ask" for asked: .*torch.where.*\.request\(reason\)'
    ):
        ask(found(alice, "asked"))
    with pytest.raises(pt.PermissionDeniedError, match=r'rule 2 .* "always" with a limit for limited: .*torch.where'):
        ask(found(alice, "limited"))


# --- release


def test_a_value_is_released_once(alice: pt.RemoteWorker, decisions: Requests, folder: Path) -> None:
    x = found(alice, "asked") * 1
    with pytest.raises(pt.PermissionDeniedError, match=r"ask for it with \.request\(reason\)"):
        x.sum().cpu()
    request = asked(x.sum(), "for a paper")
    assert request.status == "pending"
    with pytest.raises(pt.PermissionDeniedError, match="has not decided"):
        request.get()
    x.zero_()
    decisions.decide(request.id, "approved", "cite us")
    assert request.wait(SECONDS) == "approved" and request.answer == "cite us"
    assert request.get().item() == 15 + 6 * NAMES.index("asked"), "as it was when it was asked for"
    with pytest.raises(pt.PermissionDeniedError, match="collected before"):
        request.get()
    assert [one.status for one in alice.requests() if one.id == request.id] == ["collected"]
    its = [line for line in records(folder / "audit.jsonl") if line.get("request") == request.id]
    in_their_order = [line["event"] for line in its if line["event"] != "denied"]
    assert in_their_order == ["requested", "approved", "released"] and {line["client"] for line in its} == {"alice"}


def test_a_request_is_denied_or_revoked(alice: pt.RemoteWorker, decisions: Requests, folder: Path) -> None:
    x = found(alice, "asked")
    denied, revoked = asked(x, "one"), asked(x, "two")
    decisions.decide(denied.id, "denied", "too few rows")
    decisions.decide(revoked.id, "approved", "")
    assert revoked.status == "approved"
    decisions.revoke(revoked.id)
    assert (denied.wait(SECONDS), revoked.wait(SECONDS)) == ("denied", "denied")
    for request, reason in (denied, "denied it: too few rows"), (revoked, "denied it"):
        with pytest.raises(pt.PermissionDeniedError, match=reason):
            request.get()
    for event, id in ("denied", denied.id), ("approved", revoked.id), ("revoked", revoked.id):
        assert any(line["request"] == id for line in lines(folder, event) if "decider" in line)
    assert {request.id: request.reason for request in alice.requests()} | {denied.id: "one", revoked.id: "two"} == {
        request.id: request.reason for request in alice.requests()
    }


def test_nobody_else_collects_it(
    hospital: Hospital, alice: pt.RemoteWorker, carol: pt.RemoteWorker, decisions: Requests
) -> None:
    request = asked(found(alice, "asked"), "mine")
    decisions.decide(request.id, "approved", "")
    assert request.id not in {one.id for one in carol.requests()}
    with pytest.raises(pt.PermissionDeniedError, match="no such request of yours"):
        ReleaseRequest(carol.client, request._release).get()
    with contextlib.closing(hospital.connect(id="bob/later")) as later:
        (same,) = (one for one in later.requests() if one.id == request.id)
        assert same.get().shape == (2, 3)
    with pytest.raises(pt.PermissionDeniedError, match="collected before"):
        request.get()


def test_a_failed_operation_looks_like_any_other_until_it_is_released(
    alice: pt.RemoteWorker, decisions: Requests
) -> None:
    x = found(alice, "asked")
    failed = torch.arange(3.0).to(x.device)[x[0].long() + 100]
    request = asked(failed, "x")
    assert request.status == "pending"
    decisions.decide(request.id, "approved", "")
    with pytest.raises((pt.RemoteOpError, IndexError), match="IndexError|index"):
        request.get()


def test_what_is_too_large_is_not_asked_for(alice: pt.RemoteWorker) -> None:
    with pytest.raises(pt.PtrTensorError, match="takes values of up to 16777216 bytes"):
        asked(found(alice, "asked")[0, 0].expand(3000, 3000), "x")


@pytest.mark.parametrize("reason", ["", " ", "x" * 2001])
def test_reasons_that_are_none(alice: pt.RemoteWorker, reason: str) -> None:
    with pytest.raises(pt.PtrTensorError, match="takes the reason"):
        asked(found(alice, "asked"), reason)


def test_what_is_not_private_need_not_be_asked_for(alice: pt.RemoteWorker) -> None:
    with pytest.raises(pt.PermissionDeniedError, match="nothing to ask for"):
        asked(pt.send(torch.ones(2), alice), "x")


def test_requests_outlive_the_server(tmp_path: Path, data: Path) -> None:
    policy = Policy(rule=(Rule(read="ask"),))
    with open_hospital(tmp_path, data / "asked.npy", policy=policy) as hospital:
        with contextlib.closing(hospital.connect()) as bob:
            id = asked(found(bob, "asked"), "soon").id
    state = State(tmp_path / "state.sqlite", make=False)
    Requests(state).decide(id, "approved", "")
    state.close()
    with open_hospital(tmp_path, data / "asked.npy", policy=policy) as hospital:
        with contextlib.closing(hospital.connect()) as bob:
            (request,) = bob.requests()
            assert (request.id, request.status) == (id, "approved") and request.get().shape == (2, 3)


# --- quotas


def test_objects(carol: pt.RemoteWorker) -> None:
    kept: list[torch.Tensor] = [pt.send(torch.ones(2), carol) for _ in range(49)]
    for _ in range(3):
        with pytest.raises(pt.RemoteOpError, match="the owner of the worker allows 50: drop some"):
            for _ in range(3):
                kept.append(kept[0] + 1)
            carol.synchronize()
    del kept[40:]
    carol.synchronize()  # what is dropped goes behind the commands of a batch
    assert (kept[0] + 1).tolist() == [2, 2]


def test_memory(carol: pt.RemoteWorker) -> None:
    small = pt.send(torch.ones(2), carol)
    with pytest.raises(pt.RemoteOpError, match="allocate|memory"):
        torch.zeros(2**30, device=small.device).sum().item()
    large = pt.send(torch.ones(300 * MIB // 4), carol)
    with pytest.raises(pt.RemoteOpError, match="memory"):
        large.sum().item()
    assert (small + 1).tolist() == [2, 2]


def test_operations_and_sessions(hospital: Hospital, folder: Path) -> None:
    with (
        contextlib.closing(hospital.connect(id="bob/first", who="dave")) as first,
        contextlib.closing(hospital.connect(id="bob/second", who="dave")) as second,
    ):
        with pytest.raises(pt.WorkerLostError, match="too many sessions already"):
            hospital.connect(id="bob/third", who="dave")
        x: torch.Tensor = pt.send(torch.ones(2), first)
        with pytest.raises(pt.RemoteOpError, match="grants you no more operations today"):
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                for _ in range(100):
                    x = x + 1
                first.synchronize()
        with pytest.raises(pt.RemoteOpError, match="no more operations today"):
            (pt.send(torch.ones(2), second) + 1).cpu()
    assert {"client": "dave", "what": "operations"}.items() <= lines(folder, "quota used up")[0].items()


def test_the_server_s_own_limits_hold_as_well(tmp_path: Path) -> None:
    policy = Policy(quota=(QuotaRule(objects=1000, sessions=100),))
    with open_hospital(tmp_path, policy=policy, limits=Limits(sessions_of_one=1, objects=5)) as hospital:
        with contextlib.closing(hospital.connect()) as bob:
            with pytest.raises(pt.WorkerLostError, match="too many sessions"):
                hospital.connect(id="second")
            kept = [pt.send(torch.ones(2), bob) for _ in range(6)]
            with pytest.raises(pt.RemoteOpError, match="allows 5"):
                bob.synchronize()
            with pytest.raises(pt.RemoteOpError, match="allows 5"):
                kept[5].cpu()
            assert kept[0].tolist() == [1, 1]


def test_a_client_whose_sessions_crash_gets_no_more(tmp_path: Path) -> None:
    """Each crash could tell it a bit of what it may not read. Nor is it told how it crashed; the owner is."""
    policy = Policy(quota=(QuotaRule(clients=("alice",), crashes_per_day=1),))
    make_keys(tmp_path)
    log = contextlib.closing(Audit(tmp_path / "audit.jsonl"))
    with log as audit, open_hospital(tmp_path, policy=policy, audit=audit) as hospital:
        with contextlib.closing(hospital.connect()) as bob:
            x = pt.send(torch.ones(2), bob)
            (session,) = hospital.server.sessions
            os.kill(session.process.number, signal.SIGSEGV)
            with pytest.raises(pt.WorkerLostError, match="the process of this session ended by itself"):
                while True:
                    x.cpu()
        (ended,) = lines(tmp_path, "session ended")
        assert "killed by signal 11" in str(ended["reason"])
        with pytest.raises(pt.WorkerLostError, match="1 of your sessions crashed today"):
            hospital.connect(id="again")
        hospital.connect(id="bob for carol", who="carol").close()


def test_what_is_published_does_not_count_as_memory(tmp_path: Path) -> None:
    """However large it is, and however little memory there is."""
    published = tmp_path / "data"
    published.mkdir()
    np.save(published / "large.npy", np.ones(64 * MIB // 8))
    np.save(published / "small.npy", np.ones(2))
    policy = Policy(rule=(Rule(read="always"),), quota=(QuotaRule(memory=Size(8 * MIB)),))
    with open_hospital(tmp_path, published, policy=policy, ahead=0) as hospital:
        with contextlib.closing(hospital.connect()) as bob:
            for _ in range(2):
                assert found(bob, "large").sum().item() == 64 * MIB // 8
            assert len(bob.search()) == 2 and found(bob, "small").tolist() == [1, 1]
            with pytest.raises(pt.RemoteOpError, match="allocate|memory"):
                (found(bob, "large") + 1).sum().item()


def test_a_value_there_is_no_room_for_is_told_of_once(tmp_path: Path) -> None:
    """Where it was asked for; the end of the session says nothing more of it."""
    policy = Policy(quota=(QuotaRule(memory=Size(8 * MIB)),))
    with open_hospital(tmp_path, policy=policy, ahead=0) as hospital:
        with contextlib.closing(hospital.connect()) as bob:
            large = pt.send(torch.ones(16 * MIB), bob)
            for _ in range(2):
                with pytest.raises(pt.RemoteOpError, match="memory"):
                    large.cpu()
            assert pt.send(torch.ones(2), bob).add(1).tolist() == [2, 2]


# --- status


def test_the_owner_is_told_how_the_worker_is(hospital: Hospital, alice: pt.RemoteWorker, folder: Path) -> None:
    assert pt.send(torch.ones(1), alice).add(1).item() == 2
    status = ask_status("127.0.0.1", hospital.port, folder / "bob", SECONDS)
    assert (status.worker, status.publications) == ("bob", len(NAMES)) and status.seconds > 0
    hers = [one for one in status.sessions if one.client == "alice"]  # another test's may be there still
    assert any(one.answers and one.operations > 0 and one.seconds > 0 for one in hers)


@pytest.mark.parametrize("who", ["alice", "eve"])
def test_nobody_else_is(hospital: Hospital, folder: Path, who: str) -> None:
    with pytest.raises(pt.PtrTensorError):
        ask_status("127.0.0.1", hospital.port, folder / who, SECONDS)
