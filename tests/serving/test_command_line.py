"""`ptrtensor serve` as a process: what it says, and how it stops."""

import json
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

SECONDS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("command-line")
    make_keys(made)
    np.savez(made / "scans.npz", left=np.ones((2, 3)), right=np.zeros(4, dtype=np.int32))
    return made


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "ptrtensor", "serve", "--id=bob", "--listen=127.0.0.1:0", "--identity=bob"]
    started = subprocess.Popen(
        [*command, "--data=scans.npz", "--threads=1", "--audit=audit.jsonl"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        yield started
        started.kill()


HANG_UP = pytest.param(
    signal.SIGHUP,
    id="SIGHUP",
    marks=pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="the tests run under nohup"),
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, HANG_UP])
def test_it_serves_and_stops_in_good_order(
    folder: Path, tmp_path: Path, server: "subprocess.Popen[str]", number: int
) -> None:
    """And leaves no copy of the data behind."""
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
    assert list(records(folder / "audit.jsonl"))[-1]["event"] == "server stopped"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, HANG_UP])
def test_who_stops_it_while_it_starts_finds_no_copy_of_the_data(folder: Path, tmp_path: Path, number: int) -> None:
    data, temporary = tmp_path / "data", tmp_path / "temporary"
    data.mkdir()
    temporary.mkdir()
    (data / "a.csv").write_text("age,ill\n51,0\n")
    (data / "b.csv").write_text("1,2\n" * 4_000_000)  # which takes seconds
    command = [sys.executable, "-m", "ptrtensor", "serve", "--id=bob", "--listen=127.0.0.1:0", "--identity=bob"]
    with subprocess.Popen(
        [*command, f"--data={data}", f"--state={tmp_path / 'state'}", f"--audit={tmp_path / 'audit'}"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        deadline = time.monotonic() + SECONDS
        while not any(path.is_file() and path.stat().st_size for path in temporary.rglob("*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        server.send_signal(number)
        output = server.communicate(timeout=SECONDS)
    assert (server.returncode, output) == (0, ("", ""))
    assert list(temporary.rglob("*")) == []
