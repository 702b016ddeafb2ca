"""ray: an actor that holds tensors by name, in the way that suits it best: one call for a whole step."""

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.driver import drive
from benchmarks.workload import MEBI, Run
from benchmarks.workloads import CHAIN, STEPS, optimizer_of

ray: Any = importlib.import_module("ray")  # in an environment of its own


class Holder:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.held: dict[str, Tensor] = {}

    def hold(self, name: str, value: Tensor) -> None:
        self.held[name] = value.clone()  # what arrives is a read-only view of the object store

    def give(self, name: str) -> Tensor:
        return self.held[name]

    def add(self, first: str, second: str) -> Tensor:
        return self.held[first] + self.held[second]

    def add_to(self, name: str, number: float) -> None:
        self.held[name] = self.held[name] + number

    def build(self, optimizer: str) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
        self.optimizer = optimizer_of(optimizer, self.model)
        self.x, self.y = torch.randn(64, 784), torch.randint(0, 10, (64,))

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def op_and_value(actor: Any) -> Run:
    for name in ("x", "y"):
        ray.get(actor.hold.remote(name, torch.randn(1000)))

    def run() -> None:
        for _ in range(200):
            ray.get(actor.add.remote("x", "y"))

    return run


def chain_add(actor: Any) -> Run:
    ray.get(actor.hold.remote("value", torch.ones(8)))

    def run() -> None:
        for _ in range(CHAIN):
            actor.add_to.remote("value", 1)
        ray.get(actor.give.remote("value"))

    return run


def upload(actor: Any, size: int, times: int) -> Run:
    value = torch.ones(size, dtype=torch.uint8)

    def run() -> None:
        for _ in range(times):
            ray.get(actor.hold.remote("bulk", value))

    return run


def download(actor: Any, size: int, times: int) -> Run:
    ray.get(actor.hold.remote("bulk", torch.ones(size, dtype=torch.uint8)))

    def run() -> None:
        for _ in range(times):
            ray.get(actor.give.remote("bulk"))

    return run


def steps(actor: Any, optimizer: str, item: bool) -> Run:
    ray.get(actor.build.remote(optimizer))

    def run() -> None:
        calls = []
        for _ in range(STEPS):
            calls.append(actor.step.remote())
            if item:
                ray.get(calls[-1])
        ray.get(calls)

    return run


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    actor = ray.remote(Holder).remote()
    preparations: dict[str, Callable[[], Run]] = {
        "op_value": lambda: op_and_value(actor),
        "chain_add": lambda: chain_add(actor),
        "up": lambda: upload(actor, 256 * MEBI, 1),
        "down": lambda: download(actor, 256 * MEBI, 1),
        "up_small": lambda: upload(actor, 1024, 200),
        "down_small": lambda: download(actor, 1024, 200),
        "mlp_sgd": lambda: steps(actor, "SGD", False),
        "mlp_sgd_item": lambda: steps(actor, "SGD", True),
        "mlp_adam": lambda: steps(actor, "Adam", False),
        "mlp_adam_item": lambda: steps(actor, "Adam", True),
        "mlp_foreach": lambda: steps(actor, "foreach", False),
        "mlp_foreach_item": lambda: steps(actor, "foreach", True),
    }
    drive(preparations, lambda: None, version("ray"))
    ray.shutdown()
