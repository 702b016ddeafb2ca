"""A worker that takes nothing in for a while: the caller blocks, holds a bounded amount, and goes on (D12)."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
from child_processes import resident_bytes, until
from conftest import fresh_id

import ptrtensor as pt

MEBI = 1024 * 1024


def test_streaming_to_a_worker_that_stands_still(make_worker: Callable[[str], pt.Worker]) -> None:
    bob = make_worker("process")
    assert isinstance(bob, pt.ProcessWorker)
    pid = bob._process.process.pid
    value = torch.zeros((), dtype=torch.int64, device=bob.device)
    assert (value + 1).item() == 1
    operations, posted, results = 100_000, 0, []

    def stream() -> None:
        nonlocal posted
        result = value
        for _ in range(operations):
            result = result + 1
            posted += 1
        results.append(result.item())

    def stands_still() -> bool:
        before = posted
        time.sleep(0.3)
        return posted == before

    memory = resident_bytes(os.getpid())
    thread = threading.Thread(target=stream, daemon=True)
    os.kill(pid, signal.SIGSTOP)
    try:
        thread.start()
        until(stands_still, "the caller to block")
        assert posted < 20_000
        assert resident_bytes(os.getpid()) - memory < 64 * MEBI
    finally:
        os.kill(pid, signal.SIGCONT)
    thread.join(60)
    assert results == [operations]
    assert bob.stats()["objects"] <= 3


def test_uploading_to_a_worker_that_stands_still(make_worker: Callable[[str], pt.Worker]) -> None:
    bob = make_worker("process")
    assert isinstance(bob, pt.ProcessWorker)
    pid = bob._process.process.pid
    block = torch.ones(MEBI // 4)
    bob.synchronize()
    sent: list[torch.Tensor] = []
    memory = resident_bytes(os.getpid())

    def upload() -> None:
        for _ in range(64):
            sent.append(pt.send(block, bob))

    thread = threading.Thread(target=upload, daemon=True)
    os.kill(pid, signal.SIGSTOP)
    try:
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert len(sent) < 16
        assert resident_bytes(os.getpid()) - memory < 32 * MEBI
    finally:
        os.kill(pid, signal.SIGCONT)
    thread.join(60)
    assert len(sent) == 64
    assert torch.stack(sent).sum().item() == 64 * (MEBI // 4)


@pytest.mark.parametrize(
    ("act", "how"),
    [
        pytest.param(lambda there: there.cpu(), "said nothing for 0.5 s", id="a value is asked for"),
        pytest.param(lambda there: pt.send(torch.zeros(16 * MEBI), there.location), "took nothing", id="an upload"),
        pytest.param(lambda there: stream(there, 20_000), "said nothing for 0.5 s", id="many operations"),
        pytest.param(lambda there: there.location.close(), "", id="close"),
    ],
)
def test_patience_ends_where_it_was_limited(act: Callable[[pt.PointerTensor], object], how: str) -> None:
    with contextlib.closing(pt.ProcessWorker(id=fresh_id("bob"), answer_seconds=0.5)) as bob:
        there = pt.send(torch.ones(2), bob)
        bob.synchronize()
        pid = bob._process.process.pid
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            if how:
                with pytest.raises(pt.WorkerLostError, match=how):
                    act(there)
            else:
                act(there)
            assert time.monotonic() - began < 30
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stream(value: torch.Tensor, count: int) -> None:
    for _ in range(count):
        value = value + 1
