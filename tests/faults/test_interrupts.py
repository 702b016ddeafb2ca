"""Ctrl-C at random moments, through all of the layers: what was done is done once, and the rest goes on."""

import contextlib
import signal

import pytest
import torch
from child_processes import start
from conftest import fresh_id
from interrupting import untraced

import ptrtensor as pt

PROGRAM = """
import random, signal, sys, traceback, torch, ptrtensor as pt

bob = pt.{kind}(id="bob")
counter = torch.zeros((), dtype=torch.int64, device=bob.device)
large = torch.arange(1 << 18)
there = pt.send(large, bob)
bob.synchronize()
swallowed = []

def lost(unraisable):  # an interruption that falls into a destructor is lost there; some destructors are torch's own
    if not any("/torch/" in frame.filename for frame in traceback.extract_tb(unraisable.exc_traceback)):
        swallowed.append(unraisable)

sys.unraisablehook = lost

def strike(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, strike)
moments = random.Random(7)

def stream():
    value = torch.ones(3, device=bob.device)
    while True:
        value = (value * 0.5 + 1)[:]

def wait():
    while True:
        assert (counter * 0).item() == 0

def upload():
    while True:
        pt.send(large, bob)

def download():
    while True:
        assert torch.equal(there.cpu(), large)

def train():
    weight = torch.ones(3, device=bob.device, requires_grad=True)
    while True:
        (weight * 2).sum().backward()
        weight.grad = None

def ask():
    while True:
        assert there[:5].nonzero().shape == (4, 1)

acts = [stream, wait, upload, download, train, ask]
struck = 0
for turn in range({turns}):
    try:
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.0005, 0.01), 1)  # once more, should one be lost
        acts[turn % len(acts)]()
    except KeyboardInterrupt as error:
        struck += 1
        last = error  # as sys.last_value does in a REPL; its traceback holds the frames that were struck
    signal.setitimer(signal.ITIMER_REAL, 0)
    # The session is whole: orders, names and replies belong together.
    counter.add_(1)
    assert counter.item() == turn + 1, (turn, counter.item())
    assert (there[-3:] + 1).tolist() == [large.numel() - 2, large.numel() - 1, large.numel()], turn
last = None
import gc
gc.collect()
bob.synchronize()
print("struck", struck, flush=True)
print("swallowed", len(swallowed), flush=True)
print("objects", bob.stats()["objects"], flush=True)
bob.close()
"""


@pytest.mark.parametrize("kind", ["VirtualWorker", "ProcessWorker"])
def test_ctrl_c_at_random_moments(kind: str) -> None:
    turns = 240
    with start(PROGRAM.format(kind=kind, turns=turns)) as program:
        assert program.ends() == 0, program.errors
        assert program.errors == ""
        assert int(program.says("struck ")) == turns
        assert int(program.says("swallowed ")) == 0
        assert int(program.says("objects ")) <= 2 + 4  # torch's engine keeps what its last error names


@pytest.mark.parametrize("kind", [Exception, ValueError, KeyError, pt.PtrTensorError])
def test_what_a_signal_handler_raises_reaches_the_program(kind: type[Exception]) -> None:
    """A time-out by an alarm, while the worker in this process computes."""

    class LateError(kind):  # type: ignore[misc, valid-type]
        pass

    def late(number: int, frame: object) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    try:
        with untraced(), contextlib.closing(pt.VirtualWorker(id=fresh_id("bob"))) as bob:
            matrix = torch.eye(256, device=bob.device)
            for _ in range(5):
                value = matrix @ matrix
                with pytest.raises(LateError):
                    signal.setitimer(signal.ITIMER_REAL, 0.03)
                    while True:
                        value = value @ matrix
                bob.recover()
                assert (matrix + 1)[0, :2].tolist() == [2, 1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
