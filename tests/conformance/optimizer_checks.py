"""What is checked of an entry of torch's optim_db: some steps here and there, with every set of options."""

import copy
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from bench import Bench, attempt
from differences import compare, compare_errors
from torch import Tensor, nn

import ptrtensor as pt

Check = Callable[[Bench], None]

STEPS = 4


def database() -> Any:
    """Imported late: it takes seconds."""
    return import_module("torch.testing._internal.common_optimizers")


def checks(entry: Any, limit: int | None) -> Iterator[tuple[str, Check]]:
    """The checks of an entry, each with its name."""
    for options in entry.optim_inputs_func("cpu"):
        for flag in (None, *entry.supported_impls):
            if flag is None or flag not in options.kwargs:
                chosen = {**options.kwargs} if flag is None else {**options.kwargs, flag: True}
                yield flag or "for loop", stepped(entry, chosen, None)
    schedulers: tuple[Any, ...] = entry.scheduler_inputs or ([],)
    for scheduler in schedulers[:limit]:
        yield "schedulers", stepped(entry, {"lr": 0.01}, list(scheduler))
    yield "state_dict", saved_and_loaded(entry)


class Training:
    """A small regression, here or at a worker."""

    def __init__(
        self, entry: Any, options: dict[str, Any], schedulers: list[Any] | None, worker: pt.Worker | None
    ) -> None:
        torch.manual_seed(2)
        shape = (2, 3)
        parameters = [nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(4, 2))]
        if "Sparse" not in entry.optim_cls.__name__ and entry.optim_cls.__name__ != "Muon":
            parameters.append(nn.Parameter(torch.randn(())))
        self.data = torch.randn(5, 4)
        if worker is not None:
            parameters = [nn.Parameter(pt.send(parameter.detach(), worker)) for parameter in parameters]
            self.data = pt.send(self.data, worker)
        self.parameters = parameters
        given = {name: value.clone() if isinstance(value, Tensor) else value for name, value in options.items()}
        self.optimizer = entry.optim_cls(parameters, **given)
        self.schedulers: list[Any] = [make(self.optimizer) for make in schedulers or ()]

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        first, second, *rest = self.parameters
        value = (self.data @ second @ first).tanh().square().sum() + sum(scalar.sin() for scalar in rest)
        value.backward()
        return value

    def step(self) -> None:
        self.optimizer.step(self.loss)
        for scheduler in self.schedulers:
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(1.0)
            else:
                scheduler.step()

    def state(self) -> list[object]:
        """Values in the order of the parameters."""
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters]
        groups = [{name: group[name] for name in group if name != "params"} for group in self.optimizer.param_groups]
        return [self.parameters, states, groups]


def stepped(entry: Any, options: dict[str, Any], schedulers: list[Any] | None) -> Check:
    def check(bench: Bench) -> None:
        def run(worker: pt.Worker | None) -> Training:
            training = Training(entry, options, schedulers, worker)
            for _ in range(STEPS):
                training.step()
            return training

        expected, refused = attempt(lambda: run(None))
        got, error = attempt(lambda: run(bench.worker))
        if refused is not None:
            compare_errors(refused, error)
        elif options.get("fused") or options.get("capturable"):
            assert isinstance(error, RuntimeError), "torch's own lists leave this kind of device out"
        elif error is not None:
            raise error
        else:
            compare_states(expected, got, bench)

    return check


def compare_states(expected: Training, got: Training, bench: Bench) -> None:
    """Steps may be counted in a local tensor, as they are for other devices; all else is at the worker."""
    mine, others = expected.state(), got.state()
    compare(mine[0], others[0], bench.worker)
    for wanted, found in zip(flat(mine[1:]), flat(others[1:]), strict=True):
        if isinstance(wanted, Tensor) and not pt.is_pointer(found):
            assert isinstance(found, Tensor)
            torch.testing.assert_close(found, wanted)
        else:
            compare(wanted, found, bench.worker)


def flat(value: object) -> list[object]:
    return torch.utils._pytree.tree_leaves(value)


def saved_and_loaded(entry: Any) -> Check:
    """A state that was saved goes on in a fresh optimizer at the worker, and in one that is here."""

    def check(bench: Bench) -> None:
        straight, training = Training(entry, {}, None, None), Training(entry, {}, None, bench.worker)
        _, refused = attempt(straight.step)
        if refused is not None:
            compare_errors(refused, attempt(training.step)[1])
            return
        training.step()
        resumed = Training(entry, {}, None, bench.worker)
        for parameter, other in zip(resumed.parameters, training.parameters, strict=True):
            parameter.data.copy_(other.data)
        resumed.optimizer.load_state_dict(copy.deepcopy(training.optimizer.state_dict()))
        for run in (straight, resumed):
            run.step()
        compare_states(straight, resumed, bench)

    return check
