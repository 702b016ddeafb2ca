"""A session waits so long for a client whose connection broke, and no longer; then all that it held is gone."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cutting import CuttingProxy
from hospital import Hospital, open_hospital
from waiting import eventually

import ptrtensor as pt
from ptrtensor.owner.hosted_session import Patience

CLIENT = """
import sys, time, torch, ptrtensor as pt
bob = pt.RemoteWorker(sys.argv[1], id="bob", identity="alice", trust="trusts-bob")
(patients,) = bob.search("#patients")
held = [pt.send(torch.ones(1000), bob), patients * 2]
bob.synchronize()
print("holds", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lease")
    np.save(made / "patients.npy", np.ones((3, 4), dtype=np.float32))
    return made


@contextlib.contextmanager
def leasing(folder: Path, seconds: float) -> Iterator[Hospital]:
    """A hospital that waits long for all but a client who is gone."""
    patience = Patience(lease=seconds, keep_alive=20.0, handshake=600.0)
    with open_hospital(folder, folder / "patients.npy", patience=patience) as hospital:
        yield hospital


def test_a_lease_ends(folder: Path) -> None:
    """That of a client who had begun to compute; `handshake` is the patience with one who had not."""
    with leasing(folder, 0.5) as hospital:
        proxy = CuttingProxy(hospital.port)
        with contextlib.closing(hospital.connect(port=proxy.port)) as bob:
            x = pt.send(torch.ones(2), bob)
            assert x.tolist() == [1, 1]
            assert hospital.server.sessions[0]._relay.link.received > 0
            proxy.close()
            assert eventually(lambda: not hospital.server.sessions, 15)
            proxy = CuttingProxy(hospital.port, at=proxy.port)
            with pytest.raises(pt.WorkerLostError, match="no such session any more: its lease ended"):
                x.cpu()
        proxy.close()


def test_within_its_lease_a_client_comes_back_to_all_it_held(folder: Path) -> None:
    with leasing(folder, 60.0) as hospital:
        proxy = CuttingProxy(hospital.port)
        with contextlib.closing(hospital.connect(port=proxy.port)) as bob:
            x = pt.send(torch.ones(2), bob)
            assert x.tolist() == [1, 1]
            proxy.close()
            time.sleep(1.0)
            proxy = CuttingProxy(hospital.port, at=proxy.port)
            assert x.tolist() == [1, 1]
        proxy.close()


def test_what_a_client_held_that_was_killed_is_gone_with_its_lease(folder: Path) -> None:
    with leasing(folder, 1.0) as hospital:
        command = [sys.executable, "-c", CLIENT, hospital.address]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None and client.stdout.readline() == "holds\n"
            (session,) = hospital.server.sessions
            report = session.process.report()
            assert report is not None and report.objects >= 3
            client.kill()
        with contextlib.closing(hospital.connect(id="bob for carol", who="carol")) as bob:
            assert eventually(lambda: session not in hospital.server.sessions, 20)
            assert session.process.has_ended, "and with it all that it held"
            (patients,) = bob.search("#patients")
            assert patients.shape == (3, 4) and (patients * 2).shape == (3, 4)
            assert len(hospital.server.sessions) == 1
