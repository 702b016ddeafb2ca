"""Every optimizer of torch trains pointers to the numbers to which it trains local parameters."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from comparing import SAME_BITS, check_equal, value, waits
from torch import Tensor, nn
from torch.optim import lr_scheduler

import ptrtensor as pt

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "SGD with momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    "SGD with nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.1}),
    "Adam with amsgrad": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True, "weight_decay": 0.01, "maximize": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1}),
    "Adamax": (torch.optim.Adamax, {"lr": 0.1}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.01}),
    "RAdam": (torch.optim.RAdam, {"lr": 0.1}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.1, "centered": True, "momentum": 0.5}),
    "Rprop": (torch.optim.Rprop, {"lr": 0.1}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.01}),
    "Adadelta": (torch.optim.Adadelta, {"lr": 1.0}),
    "ASGD": (torch.optim.ASGD, {"lr": 0.1, "t0": 2}),
    "Adafactor": (torch.optim.Adafactor, {"lr": 0.1}),
}


READ_VALUES = {torch.optim.ASGD, torch.optim.Adafactor}
"""These two ask for numbers while they step, on any device."""


def tolerance(worker: pt.Worker) -> float:
    """In this process the very same kernels run; in another one they may add in another order."""
    return SAME_BITS if isinstance(worker, pt.VirtualWorker) else 1e-5


class Training:
    """A little model, its data and an optimizer, here or at a worker."""

    def __init__(self, make: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer], worker: pt.Worker | None):
        torch.manual_seed(4)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
        self.x, self.y = torch.randn(5, 3), torch.randn(5, 2)
        if worker is not None:
            pt.send(self.model, worker)
            self.x, self.y = pt.send(self.x, worker), pt.send(self.y, worker)
        self.optimizer = make(self.model.parameters())

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.model(self.x), self.y)
        loss.backward()
        return loss

    def closure(self) -> float:
        return self.loss().item()

    def train(self, steps: int = 6) -> None:
        for _ in range(steps):
            self.loss()
            self.optimizer.step()

    @property
    def state(self) -> list[object]:
        """Parameters, and what the optimizer keeps for each of them but its local counters."""
        kept = self.optimizer.state
        return [
            [parameter.detach(), [tensor for tensor in kept[parameter].values() if is_like(tensor, parameter)]]
            for parameter in self.model.parameters()
        ]


def is_like(found: object, parameter: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == parameter.shape


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_training_gives_the_local_numbers(
    kind: Callable[..., torch.optim.Optimizer], options: dict[str, Any], foreach: bool, worker: pt.Worker
) -> None:
    local, there = (
        Training(lambda parameters: kind(parameters, foreach=foreach, **options), place) for place in (None, worker)
    )
    before = [value(parameter).clone() for parameter in local.model.parameters()]
    local.train()
    with contextlib.nullcontext() if kind in READ_VALUES else waits(worker, 0):
        there.train()
    check_equal(there.state, local.state, worker, tolerance(worker))
    after = list(local.model.parameters())
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True)), "it trained"


def test_muon(worker: pt.Worker) -> None:
    def make(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Muon([parameter for parameter in parameters if parameter.dim() == 2], lr=0.1)

    local, there = Training(make, None), Training(make, worker)
    local.train()
    there.train()
    check_equal(there.state, local.state, worker, tolerance(worker))


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_calls_its_closure(line_search: str | None, worker: pt.Worker) -> None:
    def make(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.5, max_iter=5, line_search_fn=line_search)

    local, there = Training(make, None), Training(make, worker)
    for training in (local, there):
        for _ in range(2):
            training.optimizer.step(training.closure)
    expected = [parameter.detach() for parameter in local.model.parameters()]
    check_equal([parameter.detach() for parameter in there.model.parameters()], expected, worker, 1e-4)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam], ids=lambda kind: kind.__name__)
def test_a_closure_is_called(kind: Callable[..., torch.optim.Optimizer], worker: pt.Worker) -> None:
    local, there = (Training(lambda parameters: kind(parameters, lr=0.1), place) for place in (None, worker))
    losses = [training.optimizer.step(training.closure) for training in (local, there)]
    assert losses[0] is not None and losses[1] is not None and math.isclose(*losses, rel_tol=1e-6)
    check_equal(there.state, local.state, worker, tolerance(worker))


def test_groups_have_their_own_options(worker: pt.Worker) -> None:
    def make(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        first, *rest = parameters
        optimizer = torch.optim.AdamW([{"params": [first], "lr": 0.2, "weight_decay": 0.5}], lr=0.1)
        optimizer.add_param_group({"params": rest, "betas": (0.5, 0.9)})
        return optimizer

    local, there = Training(make, None), Training(make, worker)
    local.train()
    there.train()
    check_equal(there.state, local.state, worker, tolerance(worker))


@pytest.mark.parametrize("foreach", [False, True])
def test_a_learning_rate_may_be_a_tensor(foreach: bool, worker: pt.Worker) -> None:
    def make(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=torch.tensor(0.1), foreach=foreach)

    local, there = Training(make, None), Training(make, worker)
    for training in (local, there):
        training.train(2)
        training.optimizer.param_groups[0]["lr"].fill_(0.5)
        training.train(2)
    check_equal(there.state, local.state, worker, tolerance(worker))


def test_a_step_that_is_part_of_the_graph(worker: pt.Worker) -> None:
    """`differentiable=True`: the gradient of what came after a step, with respect to what was before it."""
    gradients = []
    for place in (None, worker):
        start = torch.tensor([1.0, 2.0])
        start = start if place is None else pt.send(start, place)
        start.requires_grad_()
        parameter = start.clone()
        parameter.grad = (start * 3).detach().requires_grad_()
        torch.optim.SGD([parameter], lr=0.1, differentiable=True).step()
        gradients.append(torch.autograd.grad(parameter.square().sum(), start)[0])
    check_equal(gradients[1], gradients[0], worker)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=4),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=5, power=2.0),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=8),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=2, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=list(SCHEDULERS))
def test_schedulers(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], worker: pt.Worker) -> None:
    trainings = [Training(lambda p: torch.optim.Adam(p, lr=0.1), place) for place in (None, worker)]
    for training in trainings:
        scheduler = make(training.optimizer)
        for _ in range(6):
            training.train(1)
            scheduler.step()
    check_equal(trainings[1].state, trainings[0].state, worker, tolerance(worker))


def test_a_plateau_is_seen_in_a_pointer(worker: pt.Worker) -> None:
    rates = []
    for place in (None, worker):
        training = Training(lambda p: torch.optim.SGD(p, lr=0.1), place)
        scheduler = lr_scheduler.ReduceLROnPlateau(training.optimizer, patience=1, threshold=0.5)
        for _ in range(6):
            loss = training.loss()
            training.optimizer.step()
            scheduler.step(loss.detach())
        rates.append(training.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1] < 0.1


# --- what is refused


@pytest.mark.parametrize("option", ["fused", "capturable"])
def test_torchs_own_lists_refuse_the_device(option: str, worker: pt.Worker) -> None:
    options: dict[str, Any] = {option: True}
    with pytest.raises((RuntimeError, AssertionError), match=option):
        Training(lambda p: torch.optim.Adam(p, **options), worker).train(1)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad], ids=lambda k: k.__name__)
@pytest.mark.parametrize("foreach", [False, True])
def test_state_on_another_worker_is_refused_and_the_cure_is_named(
    kind: Callable[..., torch.optim.Optimizer], foreach: bool, worker: pt.Worker, second_worker: pt.Worker
) -> None:
    training = Training(lambda p: kind(p, lr=0.1, foreach=foreach), worker)
    training.train(2)
    pt.move(training.model, second_worker)
    training.x, training.y = training.x.to(second_worker.device), training.y.to(second_worker.device)
    training.loss()
    before = [value(parameter).clone() for parameter in training.model.parameters()]
    by_torch = (RuntimeError, "must be on the same device")
    by_us = (pt.WorkerMismatchError, "make the optimizer after moving the model or move its state")
    error, said = by_torch if foreach else by_us
    with pytest.raises(error, match=said):
        training.optimizer.step()
    after = [value(parameter) for parameter in training.model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)), "nothing was changed"


def test_parameters_of_two_workers_train_together(worker: pt.Worker, second_worker: pt.Worker) -> None:
    """As with two devices: each parameter and its state stay where they are."""
    results = []
    for first, second in ((None, None), (worker, second_worker)):
        leaves = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
        if first is not None and second is not None:
            leaves = [pt.send(leaves[0], first), pt.send(leaves[1], second)]
        for leaf in leaves:
            leaf.requires_grad_()
        optimizer = torch.optim.Adam(leaves, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            for leaf in leaves:
                leaf.square().sum().backward()
            optimizer.step()
        results.append([value(leaf) for leaf in leaves])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
