"""A connection that breaks costs nothing: cut anywhere, the session goes on, and each operation runs once [P9]."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from pathlib import Path

import pytest
import torch
from cutting import CuttingProxy
from hospital import Hospital, open_hospital

import ptrtensor as pt
from ptrtensor.owner.sessions import Limits
from ptrtensor.transport import linked


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    limits = Limits(sessions=200, sessions_of_one=200)  # of many a handshake is cut, and nobody knows of its session
    with open_hospital(tmp_path_factory.mktemp("keys"), ahead=2, limits=limits) as opened:
        yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linked, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(linked, "LONGEST_PAUSE_SECONDS", 0.01)


def trained(bob: pt.Worker, steps: int, rows: int) -> tuple[list[torch.Tensor], list[float], float]:
    """The weights, the losses on the way, and how many operations the worker has run."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Dropout(0.2), torch.nn.Tanh(), torch.nn.Linear(30, 1))
    pt.send(model, bob)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        x, y = pt.send(torch.randn(rows, 20), bob), pt.send(torch.randn(rows, 1), bob)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        if step % 4 == 0:
            losses.append(loss.item())
    return [parameter.detach().cpu() for parameter in model.parameters()], losses, bob.stats()["operations"]


def sizes(seed: int, least: int, most: int) -> Iterator[int]:
    chance = random.Random(seed)
    while True:
        yield chance.randint(least, most)


@pytest.mark.parametrize(
    ("after", "steps", "rows"),
    [
        pytest.param(repeat(2503), 25, 32, id="every 2503rd byte"),
        pytest.param(repeat(3511), 40, 64, id="every 3511th byte"),
        pytest.param(repeat(4507), 40, 100, id="every 4507th byte"),
        pytest.param(chain([8000], sizes(1, 300, 4000)), 20, 32, id="anywhere, also within a handshake"),
    ],
)
def test_training_over_hundreds_of_cuts(
    hospital: Hospital, after: Iterator[int], steps: int, rows: int, record_property: Callable[[str, object], None]
) -> None:
    """Each has so much to send that there are more, however much crosses between two of them."""
    with contextlib.closing(hospital.connect(id="uncut")) as bob:
        weights, losses, operations = trained(bob, steps, rows)
    proxy = CuttingProxy(hospital.port, after)
    with contextlib.closing(hospital.connect(id="cut", port=proxy.port)) as cut:
        again, losses_again, operations_again = trained(cut, steps, rows)
        record_property("cuts", proxy.cuts)
        print(f"{proxy.cuts} cuts")  # noqa: T201
        assert proxy.cuts >= 200
        assert all(map(torch.equal, weights, again)) and losses == losses_again
        assert operations == operations_again
    proxy.close()


def test_cuts_after_every_number_of_bytes_from_the_handshake_on(hospital: Hospital) -> None:
    """One after the other, so that each part of a frame is cut somewhere."""
    handshake = handshake_bytes(hospital)
    proxy = CuttingProxy(hospital.port, (handshake + extra for extra in count(1, 7)))
    bob = None
    try:
        while bob is None:  # the first connection must survive its handshake
            try:
                bob = hospital.connect(id="counted", port=proxy.port)
            except pt.WorkerLostError:
                assert proxy.cuts < 100
        total = torch.zeros(50)
        pointer = pt.send(total, bob)
        for number in range(120):
            pointer.add_(number)
            total.add_(number)
            if number % 3 == 0:
                assert torch.equal(pointer.cpu(), total)
        assert torch.equal(pointer.cpu(), total) and proxy.cuts > 20
    finally:
        if bob is not None:
            bob.close()
        proxy.close()


def handshake_bytes(hospital: Hospital) -> int:
    proxy = CuttingProxy(hospital.port)
    bob = hospital.connect(id="measured", port=proxy.port)
    crossed = proxy.bytes
    bob.close()
    proxy.close()
    return crossed - 600  # less the greeting of the protocol


@pytest.mark.timeout(200)
def test_a_large_tensor_goes_on_where_it_was_cut(hospital: Hospital) -> None:
    """From its beginning it would never arrive."""
    proxy = CuttingProxy(hospital.port, sizes(2, 1_000_000, 3_000_000))
    bob = hospital.connect(id="large", port=proxy.port)
    large = torch.randn(10_000_000)
    assert torch.equal(pt.send(large, bob).cpu(), large)
    assert proxy.cuts >= 25
    bob.close()
    proxy.close()


def test_a_worker_that_stays_away_is_given_up(hospital: Hospital) -> None:
    proxy = CuttingProxy(hospital.port)
    bob = pt.RemoteWorker(
        f"127.0.0.1:{proxy.port}",
        id="away",
        identity=hospital.folder / "alice",
        trust=hospital.folder / "trusts-bob",
        connect_seconds=3.0,
        keep_alive_seconds=0.1,
        reconnect_seconds=0.5,
    )
    x = pt.send(torch.ones(3), bob)
    assert x.cpu().tolist() == [1, 1, 1]
    proxy.stall()
    with pytest.raises(pt.WorkerLostError, match=r"nothing came for .* could not be made again for \d+\.\d s"):
        while True:
            x.cpu()
    bob.close()
    proxy.close()


def test_a_proxy_that_is_away_for_a_moment_costs_nothing(hospital: Hospital) -> None:
    """Its address refuses connections, as that of a worker that has ended does."""
    proxy = CuttingProxy(hospital.port)
    with contextlib.closing(hospital.connect(id="behind", port=proxy.port)) as bob:
        x = pt.send(torch.ones(3), bob)
        assert x.tolist() == [1, 1, 1]
        proxy.close()
        x.add_(1)
        time.sleep(0.5)
        proxy = CuttingProxy(hospital.port, at=proxy.port)
        assert x.tolist() == [2, 2, 2]
    proxy.close()


def test_a_restarted_worker_is_another(tmp_path: Path, hospital: Hospital) -> None:
    with open_hospital(hospital.folder) as first:
        proxy = CuttingProxy(first.port)
        bob = hospital.connect(id="restarted", port=proxy.port)
        x = pt.send(torch.ones(3), bob)
        x.cpu()
        proxy.redirect(hospital.port)
        with pytest.raises(pt.WorkerLostError, match=r"no such session any more: .* started anew"):
            while True:
                x.cpu()
        bob.close()
        proxy.close()
