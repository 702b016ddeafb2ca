"""A server that was killed says no last word: its clients learn of it in seconds all the same."""

import contextlib
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hospital import make_keys

import ptrtensor as pt
from ptrtensor.owner.audit import records

SECONDS = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("killed")
    make_keys(made)
    np.save(made / "patients.npy", np.ones((2, 3)))
    return made


@contextlib.contextmanager
def serving(folder: Path, port: str = "0") -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server, and its address."""
    command = [sys.executable, "-m", "ptrtensor", "serve", "--id=bob", "--identity=bob", f"--listen=127.0.0.1:{port}"]
    with subprocess.Popen(
        [*command, "--data=patients.npy", "--threads=1", "--audit=audit.jsonl"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        yield server, server.stdout.readline().split()[-1]
        server.kill()


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_waiting_call_learns_of_it_and_a_server_in_its_place_is_another(folder: Path) -> None:
    def connect(id: str, address: str, refused_seconds: float) -> pt.RemoteWorker:
        identity, trust = folder / "alice", folder / "trusts-bob"
        return pt.RemoteWorker(address, id=id, identity=identity, trust=trust, refused_seconds=refused_seconds)

    with contextlib.ExitStack() as stack:
        server, address = stack.enter_context(serving(folder))
        brief, patient = connect("bob/brief", address, 1.0), connect("bob/patient", address, SECONDS)
        kept, large = pt.send(torch.ones(2), patient), pt.send(torch.ones(1500, 1500), brief)
        value: torch.Tensor = large
        assert kept.tolist() == [1, 1]
        sessions = [record["process"] for record in records(folder / "audit.jsonl") if "process" in record]
        brief.synchronize()
        for _ in range(100):  # for longer than all of this takes
            value = value @ value
        os.kill(server.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(pt.WorkerLostError, match=r"could not be made again for 1\.\d s: .* refused"):
            value.cpu()
        assert time.monotonic() - began < 15
        while any(is_running(int(str(session))) for session in sessions):
            assert time.monotonic() - began < SECONDS
            time.sleep(0.02)
        assert len(sessions) == 2

        stack.enter_context(serving(folder, address.rpartition(":")[2]))
        for pointer, why in ((kept, "no such session any more: .* the worker was started anew"), (value, "refused")):
            with pytest.raises(pt.WorkerLostError, match=why):
                pointer.cpu()
        again = connect("bob/again", address, 1.0)
        assert pt.send(torch.ones(2), again).tolist() == [1, 1] and len(again.search("#patients")) == 1
        for worker in (brief, patient, again):
            worker.close()


def test_by_default_it_takes_seconds_where_nobody_listens_and_longer_where_the_network_is_down() -> None:
    defaults = inspect.signature(pt.RemoteWorker).parameters
    assert defaults["refused_seconds"].default <= 10.0 < 60.0 <= defaults["reconnect_seconds"].default
