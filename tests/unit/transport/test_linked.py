"""For how long a client tries to reach a worker again, by what it meets."""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from ptrtensor.errors import WorkerLostError
from ptrtensor.transport import linked
from ptrtensor.transport.dialing import Dialer, NobodyListensError
from ptrtensor.transport.linked import Linked
from ptrtensor.transport.resumable import Opening

refused = NobodyListensError("connection refused")
unreachable = WorkerLostError("timed out")


class BrokenWay:
    """A dialer that reaches the worker once, and then meets these errors."""

    def __init__(self, errors: Iterator[Exception]) -> None:
        self._errors = errors
        self._far: socket.socket | None = None

    def dial(self, token: bytes, received: int) -> tuple[socket.socket, Opening]:
        if self._far is not None:
            raise next(self._errors)
        near, self._far = socket.socketpair()
        return near, Opening(b"t" * 32, 0)

    def break_down(self) -> None:
        assert self._far is not None
        self._far.close()


@pytest.mark.parametrize(
    ("errors", "patience", "least"),
    [
        pytest.param(lambda: itertools.repeat(refused), 60.0, 0.2, id="refused again and again"),
        pytest.param(lambda: itertools.repeat(unreachable), 1.5, 1.5, id="nothing answers"),
        pytest.param(lambda: itertools.cycle([refused, unreachable]), 1.5, 1.5, id="now this and now that"),
        pytest.param(lambda: itertools.repeat(OSError("cut")), 1.5, 1.5, id="a proxy whose worker is away"),
    ],
)
def test_how_long_it_tries(
    errors: Callable[[], Iterator[Exception]], patience: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linked, "LONGEST_PAUSE_SECONDS", 0.02)
    way = BrokenWay(errors())
    with contextlib.closing(Linked(cast(Dialer, way), "worker bob", 5.0, patience, 0.2)) as transport:
        way.break_down()
        began = time.monotonic()
        with pytest.raises(WorkerLostError, match=r"could not be made again for \d\.\d s"):
            transport.wait()
        assert least <= time.monotonic() - began < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_that_abandons_it_holds_none_of_its_sockets() -> None:
    """Else the worker would not notice that the parent is gone."""
    way = BrokenWay(itertools.repeat(refused))
    said, saying = os.pipe()
    before = sockets()
    with contextlib.closing(Linked(cast(Dialer, way), "worker bob", 5.0, 1.5, 0.2)) as transport:
        made = sockets() - before
        child = os.fork()
        if child == 0:
            transport.abandon()
            os.write(saying, str(len(sockets() & made)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert len(made) == 6 and os.read(said, 10) == b"1", "the far end is the test's own"
        way.break_down()
    os.close(said)
    os.close(saying)


def sockets() -> set[str]:
    found = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return {os.readlink(file) for file in found if file.is_symlink() and "socket" in os.readlink(file)}


def test_it_does_not_try_for_longer_than_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the pauses between two tries have become."""
    monkeypatch.setattr(linked, "FIRST_PAUSE_SECONDS", 30.0)
    way = BrokenWay(itertools.repeat(refused))
    with contextlib.closing(Linked(cast(Dialer, way), "worker bob", 5.0, 60.0, 0.2)) as transport:
        way.break_down()
        with pytest.raises(WorkerLostError, match=r"could not be made again for 0\.\d s: connection refused"):
            transport.wait()
