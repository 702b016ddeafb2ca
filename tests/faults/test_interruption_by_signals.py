"""Real signals at random moments, in a program of its own: nothing is lost, nothing run twice, nothing hangs."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib, faulthandler, random, signal, time
import torch
import ptrtensor as pt

INTERRUPTS, SECONDS = 200, 8.0
faulthandler.dump_traceback_later(60, exit=True)
dice = random.Random(1)
interrupts = rounds = halves = 0
armed = False


class Sum:
    # Counts what was surely added, and what may have been.
    def __init__(self):
        self.done = self.tried = 0
        self.pointer = pt.send(torch.zeros(4, dtype=torch.float64), worker)

    def add(self, times):
        for _ in range(times):
            self.tried += 1
            self.pointer.add_(1)
            self.done += 1
            (weight @ self.pointer).sum()

    def check(self):
        got = (weight @ self.pointer).tolist()
        assert got == got[:1] * 4 and self.done <= got[0] <= self.tried, (self.done, got, self.tried)


def interrupt(signum, frame):
    global interrupts
    if armed:
        interrupts += 1
        raise KeyboardInterrupt


with contextlib.closing({kind}(id="bob")) as worker:
    weight = pt.send(torch.eye(4, dtype=torch.float64), worker).requires_grad_()
    total = Sum()
    total.add(12)  # the first one imports parts of torch, and Python's imports do not survive an interruption
    total.check()
    signal.signal(signal.SIGALRM, interrupt)
    end = time.monotonic() + SECONDS
    while interrupts < INTERRUPTS and time.monotonic() < end:
        try:
            # It comes again and again, because Python swallows what is raised in a destructor.
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00005, 0.02), 0.02)
            armed = True
            while True:
                total.add(12)
                assert pt.get(pt.send(torch.ones(3), worker)).tolist() == [1, 1, 1]
                with torch.no_grad():
                    total.check()
                rounds += 1
        except KeyboardInterrupt:
            armed = False
        try:
            total.check()
        except pt.errors.RemoteOpError as error:
            # A worker in this process was stopped in the middle of the addition, and says so.
            assert "half written" in str(error), error
            halves += 1
            total = Sum()
            worker.recover()
    signal.setitimer(signal.ITIMER_REAL, 0)
    total.add(3)
    total.check()
    del weight, total
    worker.recover()
    print(interrupts, rounds, halves, worker.stats()["objects"])
"""


@pytest.mark.parametrize("kind", ["pt.ProcessWorker", "pt.VirtualWorker"])
def test_random_moments(kind: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{kind}", kind)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.returncode == 0, child.stderr
    interrupts, rounds, halves, left = map(int, child.stdout.split())
    assert interrupts >= 100 and rounds >= 50
    assert halves == 0 or kind == "pt.VirtualWorker"
    # A destructor that was interrupted does not tell its name.
    assert left <= interrupts // 10
