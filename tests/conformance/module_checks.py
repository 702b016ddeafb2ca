"""What is checked of an entry of torch's module_db: training here and there, and the ways of modules to a worker."""

import copy
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final

import torch
from bench import Bench, attempt, copied, tensors
from differences import compare, compare_errors
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

import ptrtensor as pt

Check = Callable[[Bench], None]

TO_WORKER: Final[dict[str, Callable[[nn.Module, pt.Worker], object]]] = {
    "send": lambda module, worker: pt.send(module, worker),
    "to": lambda module, worker: module.to(worker.device),
}


def database() -> Any:
    """Imported late: it takes seconds."""
    return import_module("torch.testing._internal.common_modules")


def checks(entry: Any, limit: int | None) -> Iterator[tuple[str, Check]]:
    """The checks of an entry, each with its name."""
    dtypes = [dtype for dtype in entry.dtypes if dtype.is_floating_point or dtype.is_complex]
    for dtype in dtypes[:1] if limit is not None else dtypes:
        for training in (True, False):
            torch.manual_seed(0)
            inputs = entry.module_inputs_func(entry, device="cpu", dtype=dtype, requires_grad=True, training=training)
            for given in inputs[:limit]:
                lazy = issubclass(entry.module_cls, LazyModuleMixin)  # `to` refuses what has no shape yet
                for way in TO_WORKER if limit is None and not lazy else ["send"]:
                    yield "train" if training else "eval", trained(entry, given, dtype, training, way)
                yield "state_dict", saved_and_loaded(entry, given, dtype)


def built(entry: Any, given: Any, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    arguments = given.constructor_input
    module = entry.module_cls(*arguments.args, **arguments.kwargs)
    assert isinstance(module, nn.Module)
    return module.to(dtype)


def shaped(module: nn.Module, given: Any) -> nn.Module:
    """A lazy module gets its parameters from its first call."""
    if isinstance(module, LazyModuleMixin):
        with torch.no_grad():
            module(*copied(given.forward_input.args), **copied(given.forward_input.kwargs))
    return module


def trained(entry: Any, given: Any, dtype: torch.dtype, training: bool, way: str) -> Check:
    """Results, buffers and gradients after forward and backward."""

    def check(bench: Bench) -> None:
        mine = built(entry, given, dtype).train(training)
        other = copy.deepcopy(mine)
        TO_WORKER[way](other, bench.worker)
        arguments = given.forward_input.args, given.forward_input.kwargs
        here, there = copied(arguments), bench.sent(arguments)
        expected, refused = attempt(lambda: bench.seeded(mine, *here[0], **here[1]))

        def run_there() -> object:
            result = bench.seeded(other, *there[0], **there[1])
            if refused is not None:
                bench.worker.synchronize()
            return result

        got, error = attempt(run_there)
        if refused is not None:
            compare_errors(refused, error)
            return
        if error is not None:
            raise error
        compare(expected, got, bench.worker)
        for results in (tensors(expected), tensors(got)):
            results = [result for result in results if result.requires_grad]
            if results:
                torch.autograd.backward(results, [torch.ones_like(result) for result in results])
        compare(gradients(mine, here), gradients(other, there), bench.worker)
        compare(dict(mine.named_buffers()), dict(other.named_buffers()), bench.worker)

    return check


def gradients(module: nn.Module, arguments: object) -> list[Tensor | None]:
    given = [tensor.grad for tensor in tensors(arguments) if tensor.is_leaf]
    return [parameter.grad for parameter in module.parameters()] + given


def saved_and_loaded(entry: Any, given: Any, dtype: torch.dtype) -> Check:
    """The state of a module at a worker is that of its local twin, loads into a fresh one there, and comes back."""

    def check(bench: Bench) -> None:
        mine = shaped(built(entry, given, dtype), given)
        other = pt.send(copy.deepcopy(mine), bench.worker)
        state = mine.state_dict()
        compare(state, other.state_dict(), bench.worker)
        third = pt.send(shaped(built(entry, given, dtype), given), bench.worker)
        with torch.no_grad():
            for parameter in third.parameters():
                parameter.zero_()
        third.load_state_dict(other.state_dict())
        compare(state, third.state_dict(), bench.worker)
        for name, value in pt.get(third).state_dict().items():
            if isinstance(value, Tensor):
                assert not pt.is_pointer(value)
                torch.testing.assert_close(value, state[name], equal_nan=True, rtol=0, atol=0)

    return check
