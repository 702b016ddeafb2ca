"""Private values that move between two owners' workers, by way of a client who cannot read them [P13]."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hospital import Hospital, open_hospital
from waiting import eventually

import ptrtensor as pt
from ptrtensor.owner import keys
from ptrtensor.owner.audit import Audit, records
from ptrtensor.owner.policy import Policy, Rule
from ptrtensor.owner.sealing import Content, Sealer
from ptrtensor.transport.tls import Credentials
from ptrtensor.wire import messages

BOBS = Policy(
    rule=(
        Rule(tags=("#patients",), move_to=("dora",)),
        Rule(tags=("#scans",), read="ask"),
        Rule(tags=("#limited",), read="always", elements_per_day=2, move_to=("dora",)),
    ),
    receive_from=("dora",),
)
DORAS = Policy(
    rule=(Rule(tags=("bob:patients",), read="always"), Rule(tags=("#hers",), move_to=("bob",))), receive_from=("bob",)
)


class Two(NamedTuple):
    bob: pt.RemoteWorker
    dora: pt.RemoteWorker
    patients: pt.PointerTensor
    scans: pt.PointerTensor
    limited: pt.PointerTensor
    hers: pt.PointerTensor
    log: Path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Two owners who trust each other, and alice, who is a client of both."""
    folder = tmp_path_factory.mktemp("moves")
    sides = {name: folder / name for name in ("bob", "dora")}
    for name, side in sides.items():
        (side / "data").mkdir(parents=True)
        keys.new_identity(name, side)
    (sides["dora"] / "dora").rename(sides["dora"] / "bob")  # where a hospital keeps its identity
    keys.new_identity("alice", folder)
    certificates = {name: next((side / "bob").glob("*.pem")) for name, side in sides.items()}
    for name, side in sides.items():
        keys.trust(folder / "alice" / "alice.pem", side / "trusted")
        keys.trust(certificates["dora" if name == "bob" else "bob"], side / "trusted")
        keys.trust(certificates[name], folder / "trusts")
    np.save(sides["bob"] / "data" / "patients.npy", np.arange(6.0, dtype=np.float32))
    np.save(sides["bob"] / "data" / "scans.npy", np.arange(6.0, dtype=np.float32))
    np.save(sides["bob"] / "data" / "limited.npy", np.arange(2.0, dtype=np.float32))
    np.save(sides["dora"] / "data" / "hers.npy", np.arange(6.0, dtype=np.float32))
    with contextlib.ExitStack() as stack:
        log = sides["bob"] / "audit.jsonl"
        audit = stack.enter_context(contextlib.closing(Audit(log)))
        bobs = stack.enter_context(open_hospital(sides["bob"], sides["bob"] / "data", policy=BOBS, audit=audit))
        doras = stack.enter_context(open_hospital(sides["dora"], sides["dora"] / "data", policy=DORAS))
        bob, dora = (
            stack.enter_context(contextlib.closing(connect(hospital, name, folder)))
            for hospital, name in ((bobs, "bob"), (doras, "dora"))
        )
        (patients,), (scans,), (limited,) = (bob.search(tag) for tag in ("#patients", "#scans", "#limited"))
        (hers,) = dora.search("#hers")
        yield Two(bob, dora, patients, scans, limited, hers, log)


def connect(hospital: Hospital, name: str, folder: Path) -> pt.RemoteWorker:
    return pt.RemoteWorker(hospital.address, id=name, identity=folder / "alice", trust=folder / "trusts")


def test_it_moves_and_is_under_the_rules_of_where_it_is(two: Two) -> None:
    moved = pt.move(two.patients * 2, two.dora)
    assert moved.location is two.dora and moved.tolist() == [0, 2, 4, 6, 8, 10]
    assert two.patients.reshape(2, 3).t().to(two.dora.device).tolist() == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(pt.PermissionDeniedError, match='computed from bob:patients, hers; .* "never" for hers'):
        (moved + two.hers).cpu()


def test_it_moves_by_copy_and_turns_its_target_private(two: Two) -> None:
    target = torch.ones(12, device=two.dora.device)
    target[:6].copy_(two.patients)
    assert target.tolist() == [0, 1, 2, 3, 4, 5, 1, 1, 1, 1, 1, 1]
    (target * two.hers.repeat(2)).to(two.bob.device)  # dora's rules let it go to bob, for both are bob's or hers


def test_what_comes_home_is_under_its_own_label(two: Two) -> None:
    home = (two.patients.to(two.dora.device) * two.hers).to(two.bob.device)
    with pytest.raises(pt.PermissionDeniedError, match=r"computed from dora:hers, patients;"):
        home.sum().item()


def test_gradients_move_too(two: Two) -> None:
    weight = pt.send(torch.ones(6, requires_grad=True), two.bob)
    (weight * two.patients).to(two.dora.device).sum().backward()
    assert weight.grad is not None
    with pytest.raises(pt.PermissionDeniedError, match="patients"):
        weight.grad.cpu()


def test_what_no_rule_lets_go_stays(two: Two) -> None:
    before = len(list(records(two.log)))
    with pytest.raises(pt.PermissionDeniedError, match="computed from scans may not move to dora: rule "):
        two.scans.move(two.dora)
    assert eventually(lambda: [line.get("what") for line in list(records(two.log))[before:]] == ["to move"])
    with pytest.raises(pt.PermissionDeniedError):
        (two.scans + two.patients).to(two.dora.device)


def test_it_does_not_move_to_a_worker_of_the_clients(two: Two) -> None:
    with contextlib.closing(pt.VirtualWorker(id="mine")) as mine:
        with pytest.raises(pt.PermissionDeniedError) as denied:
            two.patients.to(mine.device)
        assert "ptrtensor serve" in denied.value.__notes__[0]


def test_whether_it_has_a_value_does_not_show(two: Two) -> None:
    """An index out of range: the move goes as well, and says nothing."""
    failed = torch.arange(3.0, device=two.bob.device)[two.patients.long()]
    moved = (failed * 2).to(two.dora.device)
    two.bob.synchronize()
    two.dora.synchronize()
    with pytest.raises(pt.RemoteOpError, match="out of"):  # dora's rules let it be read
        moved.cpu()


def test_what_a_client_seals_herself_is_not_taken(two: Two, tmp_path: Path) -> None:
    """The log says so, and nothing of what she calls it: she would write there what she likes."""
    folder = two.log.parents[1]
    sealer = Sealer(Credentials(folder / "alice", trust=folder / "trusts"))
    before = len(list(records(two.log)))
    letter = two.bob.client.request(messages.Invite, messages.Invitation)[0].letter
    box = sealer.seal(letter, Content(("x" * 400,), None, b"", ""), 0)
    with pytest.raises(pt.PermissionDeniedError, match="what alice sealed is not opened: receive_from"):
        two.bob.client.request(lambda number: messages.Unseal(number, 1000), messages.Done, payload=box)
    assert eventually(lambda: len(list(records(two.log))) > before)
    (line,) = list(records(two.log))[before:]
    assert line["event"] == "denied" and line["what"] == "to receive what moves" and "xxx" not in str(line)


def test_what_may_be_read_within_a_limit_moves_unread(two: Two) -> None:
    """Else the copy would be anybody's, and count as read."""
    before = len(list(records(two.log)))
    moved = two.limited.to(two.dora.device)
    with pytest.raises(pt.PermissionDeniedError, match="bob:limited"):
        moved.cpu()
    events = [line["event"] for line in list(records(two.log))[before:]]
    assert "moved" in events and "released" not in events
    assert two.limited.tolist() == [0, 1], "as many as a day allows"


def test_large_ones_move(two: Two) -> None:
    large = two.patients[:4].repeat(2**20)
    assert large.to(two.dora.device)[-4:].tolist() == [0, 1, 2, 3]


def test_the_log_says_what_moved(two: Two) -> None:
    two.patients.to(two.dora.device)
    moved = [record for record in records(two.log) if record["event"] == "moved"]
    assert moved[-1] | {"to": "dora", "objects": ["patients"], "bytes": 24, "client": "alice"} == moved[-1]
