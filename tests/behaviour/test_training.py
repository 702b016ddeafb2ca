"""Whole models train to the local numbers, without waiting, and leave nothing behind step after step."""

import gc
import sys
from collections.abc import Callable
from typing import Final

import pytest
import torch
from collecting import collect
from comparing import SAME_BITS, check_equal, held, value, waits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ptrtensor as pt

STEPS: Final = 10

FUSED: Final = {"LSTM classifier", "attention block"}
"""Local torch runs these in one fused kernel; from many small ones the last bit may differ."""


class Classifier(nn.Module):
    """An LSTM over word vectors; the last hidden state decides."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.output = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embedding(tokens))
        result: Tensor = self.output(torch.cat([hidden[0], hidden[1]], dim=1))
        return result


class Attention(nn.Module):
    """A causal block with a residual, as in a small language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.position = nn.Parameter(torch.zeros(6, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.output = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        mask = torch.triu(torch.ones(6, 6, dtype=torch.bool, device=tokens.device), diagonal=1)
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        x = x + self.mlp(x)
        result: Tensor = self.output(x.mean(1))
        return result


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
    )


def normalised_first() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))


def with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(11, 8), nn.Dropout(0.3), nn.Flatten(), nn.Linear(48, 16), nn.AlphaDropout(0.2), nn.Linear(16, 3)
    )


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(),
        nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


def words() -> Tensor:
    return torch.randint(11, (8, 6))


def measurements() -> Tensor:
    return torch.randn(8, 6)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "LSTM classifier": (Classifier, words),
    "MLP with BatchNorm": (mlp, measurements),
    "BatchNorm first": (normalised_first, measurements),
    "attention block": (Attention, words),
    "embedding and dropout": (with_dropout, words),
    "convolutions": (convolutions, measurements),
}


class Run:
    """A model in training, here or at a worker."""

    def __init__(self, name: str, worker: pt.Worker | None) -> None:
        make, make_data = MODELS[name]
        torch.manual_seed(6)
        self.model, self.x, self.y = make(), make_data(), torch.randint(3, (8,))
        if worker is not None:
            pt.send(self.model, worker)
            self.x, self.y = pt.send(self.x, worker), pt.send(self.y, worker)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.place = worker

    def step(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def seed(self, number: int) -> None:
        """What follows draws the same numbers, whether here or there."""
        if self.place is None:
            torch.manual_seed(number)
        else:
            self.place.manual_seed(number)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_to_the_local_numbers(name: str, worker: pt.Worker) -> None:
    local, there = Run(name, None), Run(name, worker)
    losses: list[list[Tensor]] = []
    for run in (local, there):
        run.seed(7)
        losses.append([run.step() for _ in range(STEPS)])
    worker.manual_seed(None)
    # In this process the very same kernels run; in another one they may add in another order.
    tolerance = SAME_BITS if isinstance(worker, pt.VirtualWorker) and name not in FUSED else 1e-5
    check_equal(losses[1], losses[0], worker, tolerance, "loss")
    check_equal(there.model.state_dict(), local.model.state_dict(), worker, tolerance, "state")
    assert value(losses[0][-1]) < value(losses[0][0]), "it learned"

    for run in (local, there):
        run.model.eval()
    with torch.no_grad():
        check_equal(there.model(there.x), local.model(local.x), worker, tolerance, "output of eval")


@pytest.mark.parametrize("name", MODELS)
def test_a_step_waits_for_nothing(name: str, worker: pt.Worker) -> None:
    run = Run(name, worker)
    run.step()
    with waits(worker, 0):
        for _ in range(3):
            run.step()
    with waits(worker, 3):
        for _ in range(3):
            assert run.step().item() > 0


@pytest.mark.parametrize(("name", "steps"), [("BatchNorm first", 300), ("LSTM classifier", 30)])
def test_the_store_stays_flat(name: str, steps: int, worker: pt.Worker) -> None:
    run = Run(name, worker)
    loss = run.step()
    sizes = []
    for _ in range(3):
        for _ in range(steps // 3):
            loss = run.step()
        collect()
        counted = worker.stats()
        sizes.append((counted["objects"], counted["object_bytes"], counted["cache_misses"]))
    assert sizes[0] == sizes[1] == sizes[2]
    del loss


def test_memory_here_stays_flat(virtual_worker: pt.VirtualWorker) -> None:
    run = Run("BatchNorm first", virtual_worker)
    run.step()
    objects, blocks = [], []
    for _ in range(3):
        for _ in range(100):
            run.step()
        collect()
        objects.append(len(gc.get_objects()))
        blocks.append(sys.getallocatedblocks())
    assert objects[2] - objects[1] < 50, "100 steps have left objects"
    assert blocks[2] - blocks[1] < 400, "each of 100 steps has left blocks of memory, of some 40 operations"


def test_a_model_that_is_let_go_leaves_nothing(worker: pt.Worker) -> None:
    before = held(worker)
    run = Run("MLP with BatchNorm", worker)
    run.step()
    del run
    assert held(worker) == before


def test_minibatches_come_by_slices_and_loaders(worker: pt.Worker) -> None:
    x, y = torch.randn(12, 3), torch.randint(2, (12,))
    results = []
    for place in (None, worker):
        torch.manual_seed(6)
        model = nn.Linear(3, 2)
        data, target = x, y
        if place is not None:
            pt.send(model, place)
            data, target = pt.send(x, place), pt.send(y, place)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(TensorDataset(data, target), batch_size=5, shuffle=True)
        slices = [(data[start : start + 5], target[start : start + 5]) for start in range(0, 12, 5)]
        permutation = torch.randperm(12)
        chosen = [(data[rows], target[rows]) for rows in permutation.split(5)]
        for inputs, wanted in [*loader, *slices, *chosen]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), wanted).backward()
            optimizer.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    check_equal(results[1], results[0], worker, 1e-5)


def test_two_workers_train_one_model_by_averaging(worker: pt.Worker, second_worker: pt.Worker) -> None:
    """A round of federated averaging: the model travels, the rows stay."""
    torch.manual_seed(6)
    rows = [(torch.randn(6, 3), torch.randn(6, 1)) for _ in range(2)]
    start = nn.Linear(3, 1)

    def trained(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        return model

    def copied() -> nn.Module:
        model = nn.Linear(3, 1)
        model.load_state_dict(start.state_dict())
        return model

    expected = [trained(copied(), *data).state_dict() for data in rows]
    got = []
    for place, (x, y) in zip((worker, second_worker), rows, strict=True):
        model = trained(pt.send(copied(), place), pt.send(x, place), pt.send(y, place))
        got.append(pt.get(model).state_dict())
    for name in expected[0]:
        mean = torch.stack([state[name] for state in got]).mean(0)
        torch.testing.assert_close(mean, torch.stack([state[name] for state in expected]).mean(0))


def test_gradients_of_two_workers_meet_here(worker: pt.Worker, second_worker: pt.Worker) -> None:
    torch.manual_seed(6)
    weight = torch.randn(3, requires_grad=True)
    x = torch.randn(8, 3)
    expected = weight.detach().clone().requires_grad_()
    (x @ expected).square().mean().backward()

    losses = []
    for place, part in ((worker, x[:3]), (second_worker, x[3:])):
        there = pt.send(weight * 1, place)
        losses.append(pt.get((pt.send(part, place) @ there).square().sum()))
    (torch.stack(losses).sum() / 8).backward()
    assert weight.grad is not None and expected.grad is not None
    torch.testing.assert_close(weight.grad, expected.grad)


def test_gradients_accumulate_over_minibatches(worker: pt.Worker) -> None:
    results = []
    x = torch.randn(6, 3)
    for place in (None, worker):
        torch.manual_seed(6)
        model = nn.Linear(3, 1)
        data = x
        if place is not None:
            pt.send(model, place)
            data = pt.send(x, place)
        for part in data.chunk(3):
            (model(part).square().mean() / 3).backward()
        results.append([parameter.grad for parameter in model.parameters()])
    check_equal(results[1], results[0], worker, 1e-6)


def test_an_unrolled_loop_that_looks_at_values(worker: pt.Worker) -> None:
    """Control flow that depends on data: the caller waits where it looks, and the numbers are the same."""
    counts = []
    for place in (None, worker):
        x = torch.tensor(100.0)
        x = x if place is None else pt.send(x, place)
        count = 0
        while x > 1:
            x = x / 3 if count % 2 else x - 7
            count += 1
        counts.append((count, round(float(x), 4)))
    assert counts[0] == counts[1]
