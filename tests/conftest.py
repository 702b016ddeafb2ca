"""What many tests need: workers of each kind, closed when the test is over, and fixed seeds."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

import ptrtensor as pt

_numbers = itertools.count(1)


def fresh_id(name: str = "w") -> str:
    """A worker id that nobody in this process has used."""
    return f"{name}{next(_numbers)}"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers whatever order the tests run in, and the caller's flags as they were."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="session")
def process_worker() -> Iterator[pt.ProcessWorker]:
    """One worker process for all tests that leave it healthy: starting one takes seconds."""
    with contextlib.closing(pt.ProcessWorker(id="shared-process")) as worker:
        yield worker


@pytest.fixture
def virtual_worker() -> Iterator[pt.VirtualWorker]:
    with contextlib.closing(pt.VirtualWorker(id=fresh_id("virtual"))) as worker:
        yield worker


@pytest.fixture
def second_worker() -> Iterator[pt.VirtualWorker]:
    """Another worker in this process, for what crosses between two."""
    with contextlib.closing(pt.VirtualWorker(id=fresh_id("second"))) as worker:
        yield worker


@pytest.fixture(params=["virtual", "process"])
def worker(request: pytest.FixtureRequest) -> pt.Worker:
    """Both kinds of worker; a test with this fixture runs twice."""
    found = request.getfixturevalue(f"{request.param}_worker")
    assert isinstance(found, pt.Worker)
    return found


@pytest.fixture
def make_worker() -> Iterator[Callable[[str], pt.Worker]]:
    """Makes workers of a kind ("virtual", "process") that a test may break; they are closed after it."""
    with contextlib.ExitStack() as stack:

        def make(kind: str) -> pt.Worker:
            made: pt.Worker
            made = pt.VirtualWorker(id=fresh_id()) if kind == "virtual" else pt.ProcessWorker(id=fresh_id())
            stack.callback(close_quietly, made)
            return made

        yield make


def close_quietly(worker: pt.Worker) -> None:
    """Close a worker whose unseen errors a test provoked on purpose."""
    with contextlib.suppress(pt.PtrTensorError):
        worker.close()
