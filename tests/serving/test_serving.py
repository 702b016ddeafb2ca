"""`ptrtensor serve` as its clients meet it: who is let in, what they find, and how sessions end."""

import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hospital import PATIENT, Hospital, open_hospital
from waiting import eventually

import ptrtensor as pt
from ptrtensor.client.reference import Reference
from ptrtensor.owner import keys
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.sessions import Limits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    np.save(made / "patients.npy", np.arange(600_000, dtype=np.float32).reshape(-1, 4))
    (made / "wards.csv").write_text("beds,nurses\n10,3\n20,5\n")
    return made


@pytest.fixture(scope="module")
def hospital(folder: Path, data: Path) -> Iterator[Hospital]:
    with open_hospital(folder, data, ahead=2) as opened:
        yield opened


@pytest.fixture
def bob(hospital: Hospital) -> Iterator[pt.RemoteWorker]:
    bob = hospital.connect()
    yield bob
    bob.close()


def test_a_client_that_is_trusted_computes(bob: pt.RemoteWorker) -> None:
    x = pt.send(torch.arange(5.0), bob)
    assert (x * 2).tolist() == [0, 2, 4, 6, 8]


def test_a_large_tensor_crosses_and_comes_back(bob: pt.RemoteWorker) -> None:
    large = torch.randn(3_000_000)
    assert torch.equal(pt.get(pt.send(large, bob)), large)


def test_training_gives_the_bits_of_local_training(bob: pt.RemoteWorker) -> None:
    assert all(map(torch.equal, trained(bob.device), trained(torch.device("cpu"))))


def trained(device: torch.device, steps: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x, y = torch.randn(32, 8), torch.randn(32, 1)
    model, x, y = model.to(device), x.to(device), y.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return [parameter.detach().cpu() for parameter in model.parameters()]


# --- published data


def test_published_files_are_found_by_their_tags(bob: pt.RemoteWorker) -> None:
    (patients,) = bob.search("#patients")
    (wards,) = bob.search("#wards")
    assert (patients.shape, patients.dtype) == ((150_000, 4), torch.float32)
    assert (wards.shape, wards.dtype) == ((2, 2), torch.int64)
    assert wards.description == "wards.csv: int64[2, 2]; columns beds, nurses"
    assert bob.search("#nothing") == [] and len(bob.search()) == 2


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda x: x.cpu(), id="cpu"),
        pytest.param(lambda x: x.get(), id="get"),
        pytest.param(lambda x: x.sum().item(), id="item"),
        pytest.param(lambda x: bool((x > 3).any()), id="bool"),
        pytest.param(lambda x: x[:2].tolist(), id="tolist"),
        pytest.param(lambda x: x.nonzero(), id="nonzero"),
        pytest.param(lambda x: torch.equal(x, x), id="equal"),
    ],
)
def test_what_is_published_does_not_leave(bob: pt.RemoteWorker, look: Callable[[pt.PointerTensor], object]) -> None:
    (patients,) = bob.search("#patients")
    with pytest.raises(pt.PermissionDeniedError, match="computed from patients"):
        look(patients)
    assert patients.shape == (150_000, 4), "the pointer is as good as before"


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that clears it")
@pytest.mark.parametrize("size", [4, 100, 1000, 100_000, 1_000_000])
def test_fresh_memory_shows_nothing_that_was_there_before(bob: pt.RemoteWorker, size: int) -> None:
    for _ in range(5):
        pt.send(torch.full((size,), 7.25), bob)
        fresh = torch.empty(size, device=bob.device)
        grown = torch.empty(1, device=bob.device).resize_(size)
        assert not fresh.cpu().any() and not grown.cpu().any()


def test_a_client_writes_to_its_own_copy_of_what_is_published(hospital: Hospital, data: Path) -> None:
    before = (data / "patients.npy").read_bytes()
    bob = hospital.connect()
    (patients,) = bob.search("#patients")
    patients.zero_()
    bob.synchronize()
    bob.close()
    assert (data / "patients.npy").read_bytes() == before


# --- who is let in


def test_a_stranger_is_refused(hospital: Hospital) -> None:
    with pytest.raises(pt.IdentityError, match=r"does not accept this side's certificate .*ptrtensor keys trust"):
        hospital.connect(who="eve")


def test_who_does_not_trust_the_worker_does_not_talk_to_it(hospital: Hospital) -> None:
    with pytest.raises(pt.IdentityError, match="shows a certificate that .* does not hold"):
        pt.RemoteWorker(
            hospital.address, id="bob", identity=hospital.folder / "alice", trust=hospital.folder / "trusted"
        )


def test_of_several_trusted_workers_none_passes_for_another(hospital: Hospital, tmp_path: Path) -> None:
    for name in ("bob", "carol"):
        keys.trust(hospital.folder / name / f"{name}.pem", tmp_path)
    connect = partial(pt.RemoteWorker, hospital.address, identity=hospital.folder / "alice", trust=tmp_path)
    for asked in ("carol", "another"):
        with pytest.raises(pt.IdentityError, match=f"is 'bob', one of several that .* you asked for '{asked}'"):
            connect(id=asked)
    with pytest.raises(pt.IdentityError, match="ask for it by name: id='bob'"):
        connect()
    second = connect(id="bob/2")
    second.close()


def test_a_client_without_an_identity_is_refused(hospital: Hospital) -> None:
    with pytest.raises(pt.WorkerLostError) as raised:
        pt.RemoteWorker(hospital.address, id="bob")
    assert "identity= and trust=" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    "said",
    [b"", b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 16, b"\x16\x03\x01\xff\xff" + b"a" * 70_000],
)
def test_whoever_says_something_else_is_hung_up_on(hospital: Hospital, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hospital.port), timeout=30) as sock:
        try:
            sock.sendall(said)
            while sock.recv(4096):
                pass
        except ConnectionError:
            pass
    still = hospital.connect()
    still.close()


def test_a_client_of_an_older_tls_is_refused(hospital: Hospital) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(hospital.folder / "alice" / "alice.pem", hospital.folder / "alice" / "alice.key")
    with (
        socket.create_connection(("127.0.0.1", hospital.port), timeout=30) as sock,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(sock)


def test_a_forged_token_of_a_session_is_refused(hospital: Hospital, bob: pt.RemoteWorker) -> None:
    """Also that of a session of somebody else."""
    theirs = hospital.server.sessions[-1]
    assert theirs.peer.name == "alice"
    for token in (b"\1" * 32, theirs.token):
        carol = ssl_client(hospital, "carol")
        with carol:
            carol.sendall(b"ptl\1" + token + bytes(8))
            answer = carol.recv(4096)
            assert answer[4:36] == bytes(32), "no session"
    assert pt.send(torch.ones(2), bob).get().tolist() == [1, 1]


def ssl_client(hospital: Hospital, who: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(hospital.folder / "trusts-bob" / "bob.pem")
    context.load_cert_chain(hospital.folder / who / f"{who}.pem", hospital.folder / who / f"{who}.key")
    return context.wrap_socket(socket.create_connection(("127.0.0.1", hospital.port), timeout=30))


def test_slow_handshakes_hold_up_nobody(folder: Path) -> None:
    patience = Patience(lease=20.0, keep_alive=5.0, handshake=0.5)
    with open_hospital(folder, patience=patience) as hospital:
        idle = [socket.create_connection(("127.0.0.1", hospital.port)) for _ in range(20)]
        for sock in idle:
            sock.send(b"\x16")
        bob = hospital.connect()
        assert pt.send(torch.ones(2), bob).get().tolist() == [1, 1]
        bob.close()
        for sock in idle:
            sock.settimeout(30)
            with pytest.raises((ConnectionError, EOFError)):
                while sock.recv(4096):
                    pass
                raise EOFError
            sock.close()


def test_sessions_are_counted(folder: Path) -> None:
    with open_hospital(folder, limits=Limits(sessions=1)) as hospital:
        bob = hospital.connect()
        with pytest.raises(pt.WorkerLostError, match="too many sessions already"):
            hospital.connect(id="another", who="carol")
        bob.close()
        assert eventually(lambda: not hospital.server.sessions)
        carol = hospital.connect(id="another", who="carol")
        carol.close()


# --- how sessions end


def test_clients_have_sessions_of_their_own(hospital: Hospital, bob: pt.RemoteWorker) -> None:
    carol = hospital.connect(id="bob for carol", who="carol")
    x, y = pt.send(torch.ones(2), bob), pt.send(torch.zeros(2), carol)
    assert x.id_at_location == y.id_at_location, "the same number, and another value"
    assert (x.get().tolist(), y.get().tolist()) == ([1, 1], [0, 0])
    carol.close()


def test_a_name_of_one_session_is_not_found_in_another(hospital: Hospital, bob: pt.RemoteWorker) -> None:
    with contextlib.closing(hospital.connect(id="bob for carol", who="carol")) as carol:
        mine = pt.send(torch.ones(2), bob).tag("#mine")
        assert isinstance(mine._reference, Reference)
        with pytest.raises(pt.ObjectNotFoundError, match="holds no object"):
            carol.fetch(mine._reference)
        assert carol.search("#mine") == [] and mine.tolist() == [1, 1]


def test_a_crash_ends_that_session_alone(hospital: Hospital, bob: pt.RemoteWorker) -> None:
    carol = hospital.connect(id="bob for carol", who="carol")
    number = hospital.server.sessions[-1].process.number
    x = pt.send(torch.ones(2), carol)
    os.kill(number, signal.SIGSEGV)
    with pytest.raises(pt.WorkerLostError, match="ended by itself: what it held is gone"):
        while True:
            x.cpu()
    carol.close()
    assert pt.send(torch.ones(2), bob).get().tolist() == [1, 1]


def test_what_a_client_held_is_freed_when_it_leaves(hospital: Hospital) -> None:
    before = hospital.server.sessions
    bob = hospital.connect(id="leaving")
    (session,) = [session for session in hospital.server.sessions if session not in before]
    bob.close()
    assert eventually(lambda: session not in hospital.server.sessions)
    with pytest.raises(ProcessLookupError):
        os.kill(session.process.number, 0)


def test_a_client_hears_why_the_worker_stopped(folder: Path) -> None:
    with open_hospital(folder, patience=PATIENT) as hospital:
        bob = hospital.connect()
        x = pt.send(torch.ones(2), bob)
        x.cpu()
        hospital.server.stop("maintenance until noon")
        with pytest.raises(pt.WorkerLostError, match="maintenance until noon"):
            while True:
                x.cpu()
        bob.close()
