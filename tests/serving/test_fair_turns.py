"""A client that moves large tensors without a pause does not starve another of the same server."""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from hospital import Hospital, open_hospital

import ptrtensor as pt

ROUNDS = 5
MOST = 10.0

FLOOD = """
import sys, torch, ptrtensor as pt
bob = pt.RemoteWorker(sys.argv[1], id="bob", identity="carol", trust="trusts-bob")
large = torch.ones(1024 * 1024)
while True:
    pt.send(large, bob).cpu()
    print("crossed", flush=True)
"""


@contextlib.contextmanager
def flooding(hospital: Hospital, counted: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A client that sends and fetches 4 MiB again and again, and writes a line for each."""
    with counted.open("wb") as lines:
        command = [sys.executable, "-c", FLOOD, hospital.address]
        with subprocess.Popen(command, cwd=hospital.folder, stdout=lines) as client:
            try:
                yield client
            finally:
                client.kill()


def median_seconds(value: pt.PointerTensor, count: int = 50) -> float:
    """Of an operation and its value."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        assert (value + 1).sum().item() == 200
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def test_a_flood_of_large_tensors_starves_nobody(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Alone and beside the flood by turns, so that what else this machine does meets both; were one starved, it would
    be so in each round.
    """
    counted = tmp_path / "crossed"
    with open_hospital(tmp_path, ahead=2) as hospital, contextlib.closing(hospital.connect()) as bob:
        value = pt.send(torch.ones(100), bob)
        median_seconds(value)
        with flooding(hospital, counted) as flood:
            while counted.stat().st_size == 0:
                assert flood.poll() is None
                time.sleep(0.05)
            ratios, crossed = [], []
            for _ in range(ROUNDS):
                before = counted.stat().st_size
                beside = median_seconds(value)
                while counted.stat().st_size == before:  # nor is the one that floods starved
                    assert flood.poll() is None
                    time.sleep(0.01)
                crossed.append((counted.stat().st_size - before) // len("crossed\n"))
                os.kill(flood.pid, signal.SIGSTOP)
                time.sleep(0.2)  # what is on its way arrives
                ratios.append(beside / median_seconds(value))
                os.kill(flood.pid, signal.SIGCONT)
    figures = f"times as long as alone: {[round(ratio, 1) for ratio in ratios]}; crossed meanwhile: {crossed}"
    record_property("fairness", figures)
    print(figures)  # noqa: T201
    assert min(ratios) < MOST, figures
