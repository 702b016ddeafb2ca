"""The workloads as ordinary torch code: the same lines for local tensors and for every system that is a device."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.workload import MEBI, Place, Run, Workload

CHAIN: Final = 1000
STEPS: Final = 200
"""In a round of training: a system that was stopped comes back to cold caches, which a short round would measure."""

# --- a: one operation and its value


def op_and_value(place: Place) -> Run:
    x, y = torch.randn(1000).to(place.device), torch.randn(1000).to(place.device)

    def run() -> None:
        for _ in range(200):
            (x + y).cpu()

    return run


# --- b: chains


def chain(step: Callable[[Tensor, int], Tensor]) -> Callable[[Place], Run]:
    def prepare(place: Place) -> Run:
        start = torch.ones(8).to(place.device)

        def run() -> None:
            value = start
            for turn in range(CHAIN):
                value = step(value, turn)
            value.cpu()

        return run

    return prepare


def in_place(place: Place) -> Run:
    value = torch.ones(8).to(place.device)

    def run() -> None:
        for _ in range(CHAIN // 2):
            value.add_(1.5)
            value.mul_(0.5)
        value.cpu()

    return run


def views(place: Place) -> Run:
    start = torch.ones(8, 8).to(place.device)

    def run() -> None:
        value = start
        for _ in range(CHAIN // 4):
            value = start.t().unsqueeze(0).expand(2, 8, 8)[1]
        value.cpu()

    return run


# --- c: bulk


def upload(size: int, times: int) -> Callable[[Place], Run]:
    def prepare(place: Place) -> Run:
        value = torch.ones(size, dtype=torch.uint8)

        def run() -> None:
            for _ in range(times):
                value.to(place.device)
                place.synchronize()

        return run

    return prepare


def download(size: int, times: int) -> Callable[[Place], Run]:
    def prepare(place: Place) -> Run:
        value = torch.ones(size, dtype=torch.uint8).to(place.device)
        place.synchronize()

        def run() -> None:
            for _ in range(times):
                value.cpu()

        return run

    return prepare


def copy_locally(size: int, times: int) -> Run:
    value = torch.ones(size, dtype=torch.uint8)

    def run() -> None:
        for _ in range(times):
            value.clone()

    return run


# --- d, e: training steps


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    *,
    item: bool = False,
    steps: int = STEPS,
) -> Run:
    numbers = count()

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(next(numbers))
            loss.backward()
            optimizer.step()
            if item:
                loss.item()

    return run


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    match name:
        case "SGD":
            return torch.optim.SGD(model.parameters(), lr=0.01)
        case "Adam":
            return torch.optim.Adam(model.parameters(), lr=0.001, foreach=False)
        case _:
            return torch.optim.Adam(model.parameters(), lr=0.001, foreach=True)


def mlp(optimizer: str, item: bool) -> Callable[[Place], Run]:
    def prepare(place: Place) -> Run:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)).to(place.device)
        x, y = torch.randn(64, 784).to(place.device), torch.randint(0, 10, (64,)).to(place.device)
        return train(model, optimizer_of(optimizer, model), lambda _: F.cross_entropy(model(x), y), item=item)

    return prepare


def transformer(place: Place) -> Run:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True).to(place.device)
    x = torch.randn(8, 16, 64).to(place.device)
    return train(model, optimizer_of("SGD", model), lambda _: model(x).square().mean())


def convolutions(place: Place) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    ).to(place.device)
    x, y = torch.randn(16, 1, 28, 28).to(place.device), torch.randint(0, 10, (16,)).to(place.device)
    return train(model, optimizer_of("SGD", model), lambda _: F.cross_entropy(model(x), y), steps=50)


def unseen_slices(place: Place) -> Run:
    data = torch.randn(64 * CHAIN * 16, 1).to(place.device)
    start = count()

    def run() -> None:
        for _ in range(CHAIN):
            first = next(start) % (2 * CHAIN * 16) * 32
            data[first : first + 32]

    return run


def minibatches(place: Place) -> Run:
    torch.manual_seed(0)
    model = nn.Linear(32, 2).to(place.device)
    x, y = torch.randn(32 * 10_000, 32).to(place.device), torch.randint(0, 2, (32 * 10_000,)).to(place.device)

    def loss_of(number: int) -> Tensor:
        batch = slice(number % 10_000 * 32, number % 10_000 * 32 + 32)
        return F.cross_entropy(model(x[batch]), y[batch])

    return train(model, optimizer_of("SGD", model), loss_of)


GROWN: Final = 200
"""By how much the sequence grows in one round."""


def growing(place: Place) -> Run:
    torch.manual_seed(0)
    token, query = torch.randn(1, 1, 16).to(place.device), torch.randn(1, 1, 16).to(place.device)
    keys: list[Tensor] = [torch.randn(1, 8, 16).to(place.device)]

    def run() -> None:
        with torch.no_grad():
            for _ in range(GROWN):
                keys[0] = torch.cat([keys[0], token], 1)
                weights = torch.softmax(torch.bmm(query, keys[0].transpose(1, 2)), -1)
                torch.bmm(weights, keys[0])

    return run


# --- f: compute


def compute_bound(place: Place) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)).to(place.device)
    x = torch.randn(512, 1024).to(place.device)
    return train(model, optimizer_of("SGD", model), lambda _: model(x).square().mean(), steps=4)


def cat_of_list(value: Tensor, turn: int) -> Tensor:
    return torch.cat([value, value, value])[:8]


WORKLOADS: Final = (
    Workload("op_value", "one operation and its value, 1000 floats", "us", 200, op_and_value),
    Workload("chain_add", "1000 dependent adds, then the value; per operation", "us", CHAIN, chain(lambda v, _: v + 1)),
    Workload(
        "chain_scalar", "the same with a number that changes", "us", CHAIN, chain(lambda v, turn: v * (turn + 0.5))
    ),
    Workload("chain_views", "views of views, per operation", "us", CHAIN, views),
    Workload("chain_in_place", "in place, per operation", "us", CHAIN, in_place),
    Workload("chain_cat", "cat of a list and a slice, per operation", "us", 2 * CHAIN, chain(cat_of_list)),
    Workload("up", "256 MiB up", "GB/s", 256 * MEBI, upload(256 * MEBI, 1)),
    Workload("down", "256 MiB down", "GB/s", 256 * MEBI, download(256 * MEBI, 1)),
    Workload("up_small", "1 KiB up", "us", 200, upload(1024, 200)),
    Workload("down_small", "1 KiB down", "us", 200, download(1024, 200)),
    Workload("mlp_sgd", "MLP 784-256-10, batch 64, SGD step", "ms", STEPS, mlp("SGD", False)),
    Workload("mlp_sgd_item", "the same with loss.item()", "ms", STEPS, mlp("SGD", True)),
    Workload("mlp_adam", "with Adam", "ms", STEPS, mlp("Adam", False)),
    Workload("mlp_adam_item", "with Adam and loss.item()", "ms", STEPS, mlp("Adam", True)),
    Workload("mlp_foreach", "with Adam, foreach", "ms", STEPS, mlp("foreach", False)),
    Workload("mlp_foreach_item", "with Adam, foreach and loss.item()", "ms", STEPS, mlp("foreach", True)),
    Workload("transformer", "transformer layer (d 64, 16 tokens, batch 8), SGD step", "ms", STEPS, transformer),
    Workload("convolutions", "convolutional net, SGD step", "ms", 50, convolutions),
    Workload("unseen_slices", "a slice never seen before", "us", CHAIN, unseen_slices),
    Workload("minibatches", "linear model, a slice never seen before each SGD step", "ms", STEPS, minibatches),
    Workload("growing", "attention over a sequence that grows; per operation", "us", 5 * GROWN, growing),
    Workload("compute_bound", "MLP 1024-1024-1024, batch 512, SGD step", "ms", 4, compute_bound),
)

BY_NAME: Final = {workload.name: workload for workload in WORKLOADS}


def ordinary(place: Place) -> dict[str, Callable[[], Run]]:
    """All of them, at this place."""
    return {workload.name: partial(workload.prepare, place) for workload in WORKLOADS}
