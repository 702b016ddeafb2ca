"""`ptrtensor serve` as a process: what it says, and how it stops."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hospital import make_keys

import ptrtensor as pt

SECONDS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("command-line")
    make_keys(made)
    np.savez(made / "scans.npz", left=np.ones((2, 3)), right=np.zeros(4, dtype=np.int32))
    return made


@pytest.fixture
def server(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "ptrtensor", "serve", "--id=bob", "--listen=127.0.0.1:0", "--identity=bob"]
    started = subprocess.Popen(
        [*command, "--data=scans.npz", "--threads=1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        yield started
        started.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops_in_good_order(folder: Path, server: "subprocess.Popen[str]", number: int) -> None:
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("worker bob serves 2 tensors on 127.0.0.1:")
    bob = pt.RemoteWorker(line.split()[-1], id="bob", identity=folder / "alice", trust=folder / "trusts-bob")
    (left,) = bob.search("#scans", "#left")
    assert (left.shape, left.dtype) == ((2, 3), torch.float64)
    with pytest.raises(pt.PermissionDeniedError):
        left.cpu()
    server.send_signal(number)
    _, log = server.communicate(timeout=SECONDS)
    assert server.returncode == 0
    with pytest.raises(pt.WorkerLostError, match="stopped by its owner"):
        while True:
            pt.send(torch.ones(2), bob).cpu()
    bob.close()
    events = [json.loads(line) for line in log.splitlines()]
    assert [event["event"] for event in events] == ["session began", "denied", "session ended"]
    assert all(event["client"] == "alice" and event["session"] == events[0]["session"] for event in events)
    assert events[-1]["reason"] == "the worker was stopped by its owner"
