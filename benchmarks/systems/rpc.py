"""torch.distributed.rpc, in the way that suits it best: one call for a whole step, references for chains.

It has no tensors that live elsewhere, so a workload without a natural form here is left out.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import rpc
from torch.multiprocessing import get_context

from benchmarks.driver import drive
from benchmarks.workload import MEBI, Run
from benchmarks.workloads import CHAIN, STEPS, optimizer_of

OWNER = "bob"
held: dict[str, Any] = {}
"""What lives in the other process."""


def serve(port: int) -> None:
    torch.set_num_threads(1)
    join(OWNER, 1, port)
    rpc.shutdown()


def join(name: str, rank: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rpc.init_rpc(name, rank=rank, world_size=2)


# --- what runs in the other process


def hold(name: str, value: Tensor) -> None:
    held[name] = value


def give(name: str) -> Tensor:
    value: Tensor = held[name]
    return value


def add_held(first: str, second: str) -> Tensor:
    total: Tensor = held[first] + held[second]
    return total


def add_to(reference: Any, number: float) -> Tensor:
    value: Tensor = reference.local_value() + number
    return value


def build(optimizer: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    x, y = torch.randn(64, 784), torch.randint(0, 10, (64,))
    held["step"] = model, optimizer_of(optimizer, model), x, y


def step() -> Tensor:
    model, optimizer, x, y = held["step"]
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


# --- what runs here


def op_and_value() -> Run:
    for name in ("x", "y"):
        rpc.rpc_sync(OWNER, hold, (name, torch.randn(1000)))

    def run() -> None:
        for _ in range(200):
            rpc.rpc_sync(OWNER, add_held, ("x", "y"))

    return run


def chain_add() -> Run:
    rpc.rpc_sync(OWNER, hold, ("start", torch.ones(8)))
    start = rpc.remote(OWNER, give, ("start",))

    def run() -> None:
        value = start
        for _ in range(CHAIN):
            value = rpc.remote(OWNER, add_to, (value, 1))
        value.to_here()

    return run


def upload(size: int, times: int) -> Callable[[], Run]:
    def prepare() -> Run:
        value = torch.ones(size, dtype=torch.uint8)

        def run() -> None:
            for _ in range(times):
                rpc.rpc_sync(OWNER, hold, ("bulk", value))

        return run

    return prepare


def download(size: int, times: int) -> Callable[[], Run]:
    def prepare() -> Run:
        rpc.rpc_sync(OWNER, hold, ("bulk", torch.ones(size, dtype=torch.uint8)))

        def run() -> None:
            for _ in range(times):
                rpc.rpc_sync(OWNER, give, ("bulk",))

        return run

    return prepare


def steps(optimizer: str) -> Callable[[], Run]:
    def prepare() -> Run:
        rpc.rpc_sync(OWNER, build, (optimizer,))

        def run() -> None:
            for _ in range(STEPS):
                rpc.rpc_sync(OWNER, step)

        return run

    return prepare


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    get_context("spawn").Process(target=serve, args=(port,), daemon=True).start()
    join("alice", 0, port)
    preparations: dict[str, Callable[[], Run]] = {
        "op_value": op_and_value,
        "chain_add": chain_add,
        "up": upload(256 * MEBI, 1),
        "down": download(256 * MEBI, 1),
        "up_small": upload(1024, 200),
        "down_small": download(1024, 200),
    }
    for name, optimizer in (("sgd", "SGD"), ("adam", "Adam"), ("foreach", "foreach")):
        # The loss comes back with each call: with and without `item` are the same.
        preparations[f"mlp_{name}"] = preparations[f"mlp_{name}_item"] = steps(optimizer)
    drive(preparations, lambda: None, str(torch.__version__))
    rpc.shutdown()
