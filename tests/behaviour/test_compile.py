"""`torch.compile` of what touches pointers: it runs as it is, with one warning, and to the same numbers."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from comparing import check_equal
from torch import Tensor, nn

import ptrtensor as pt


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def only_our_warning() -> Iterator[None]:
    """What torch's compiler itself uses and deprecates is not our concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, backend="eager")


class Repeating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def step(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)
        return hidden.relu()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.step(x) + torch.arange(4, device=x.device)
        return x


def branching(x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x - 1


@pytest.mark.parametrize("function", [lambda x: x * 2 + 1, branching, lambda x: (x.T @ x).softmax(0)])
def test_a_function(function: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    x = torch.randn(4, 4)
    run = compiled(function)
    for _ in range(2):
        check_equal(run(pt.send(x, worker)), function(x), worker)


@pytest.mark.parametrize("make", [Repeating, lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GELU())])
@pytest.mark.parametrize("way", ["torch.compile", "Module.compile"])
def test_a_model_trains(make: Callable[[], nn.Module], way: str, worker: pt.Worker) -> None:
    local = make()
    remote = pt.send(copy.deepcopy(local), worker)
    if way == "Module.compile":
        remote.compile(backend="eager")
    run = remote if way == "Module.compile" else compiled(remote)
    x = torch.randn(3, 4)
    for model, call, given in ((local, local, x), (remote, run, pt.send(x, worker))):
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            call(given).square().mean().backward()
            optimizer.step()
    check_equal(list(remote.parameters()), list(local.parameters()), worker)


def test_local_parts_are_compiled_beside_it(virtual_worker: pt.VirtualWorker) -> None:
    @compiled
    def both(here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        return here.sin() + 1, there.cos() + 1

    x = torch.randn(3)
    here, there = both(x, pt.send(x, virtual_worker))
    check_equal(there, x.cos() + 1, virtual_worker)
    assert torch.equal(here, x.sin() + 1)
    assert torch.equal(compiled(torch.sin)(x), x.sin())


def test_a_graph_that_must_be_whole_is_refused(virtual_worker: pt.VirtualWorker) -> None:
    x = torch.ones(3, device=virtual_worker.device)
    with pytest.raises(RuntimeError, match="fullgraph"):
        torch.compile(torch.sin, fullgraph=True, backend="eager")(x)


def test_one_warning_and_no_log() -> None:
    program = """if True:
        import torch, ptrtensor as pt
        bob = pt.VirtualWorker(id="bob")
        x = torch.ones(3, device=bob.device)
        for function in (lambda x: x + 1, lambda x: x * 2):
            torch.compile(function)(torch.compile(function)(x))
        print(torch.compile(lambda x: x * 2)(torch.ones(1)).item())
        bob.close()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "2.0\n")
    assert done.stderr.count("UserWarning: torch.compile runs functions of pointers") == 1
    assert "nyi" not in done.stderr and "Dynamo does not know" not in done.stderr
