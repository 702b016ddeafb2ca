"""Well-formed calls: what torch's own databases of samples make of aten operations, forward and backward."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from calls import Call, Recorder
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

SAMPLES = 30
"""Looked at for each entry of a database."""


def recorded(step: Callable[[str], None]) -> dict[str, list[Call]]:
    """Calls by operation."""
    recorder = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples call what torch itself deprecates
        for name, trial in trials():
            step(name)
            with contextlib.suppress(Exception):  # a sample that does not work as it is says nothing
                trial(recorder)
    return {op: list(kept.values()) for op, kept in recorder.kept.items()}


def trials() -> Iterator[tuple[str, Callable[[Recorder], None]]]:
    operations = import_module("torch.testing._internal.common_methods_invocations")
    foreach = [
        entry
        for name in dir(operations)
        if name.startswith("foreach_") and name.endswith("_op_db")
        for entry in getattr(operations, name)
    ]
    for entry in [*operations.op_db, *foreach]:
        yield entry.name, lambda recorder, entry=entry: try_operation(entry, recorder)  # type: ignore[misc]
    for name, trial in further().items():
        yield name, lambda recorder, trial=trial: try_further(trial, recorder)  # type: ignore[misc]
    for entry in import_module("torch.testing._internal.common_modules").module_db:
        yield entry.name, lambda recorder, entry=entry: try_module(entry, recorder)  # type: ignore[misc]
    for entry in import_module("torch.testing._internal.common_optimizers").optim_db:
        yield entry.optim_cls.__name__, lambda recorder, entry=entry: try_optimizer(entry, recorder)  # type: ignore[misc]


def further() -> dict[str, Callable[[], object]]:
    """Ordinary calls that are in no database."""
    image, scale = torch.rand(1, 2, 5, 6), torch.tensor([2.0])
    weight, found = torch.rand(5, 3, requires_grad=True), torch.tensor([0.0])
    parameters = [torch.rand(2, 3) for _ in range(4)]
    steps: dict[str, Any] = {"lr": torch.tensor(0.1), "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "eps": 1e-8}
    ends = torch.tensor([2, 5, 8], dtype=torch.int32)
    aten = torch.ops.aten
    return {
        "packed": lambda: nn.utils.rnn.pack_padded_sequence(torch.rand(4, 3, 2, requires_grad=True), [4, 2, 1]).data,
        "padded": lambda: aten._pad_packed_sequence(torch.rand(6, 2), torch.tensor([3, 2, 1]), True, 0.0, 4),
        "bicubic": lambda: nn.functional.interpolate(
            image.clone().requires_grad_(), size=(3, 9), mode="bicubic", antialias=True
        ),
        "lanczos": lambda: nn.functional.interpolate(
            image.clone().requires_grad_(), scale_factor=(0.6, 1.5), mode="lanczos", antialias=True
        ),
        "grids": lambda: nn.functional.affine_grid(torch.rand(2, 2, 3, requires_grad=True), [2, 1, 4, 5], False),
        "in time": lambda: torch.conv_tbc(torch.rand(5, 2, 3), torch.rand(2, 3, 4), torch.rand(4), 1),
        "bags": lambda: nn.functional.embedding_bag(torch.tensor([0, 4, 2]), weight.detach(), torch.tensor([0, 2])),
        "averaged bags": lambda: nn.functional.embedding_bag(torch.tensor([0, 4, 2]), weight, torch.tensor([0, 2])),
        "largest of bags": lambda: nn.functional.embedding_bag(
            torch.tensor([0, 4, 2]), weight, torch.tensor([0, 2]), mode="max"
        ),
        "scaled": lambda: aten._amp_update_scale_(scale, torch.tensor(1, dtype=torch.int32), found, 2.0, 0.5, 10),
        "unscaled": lambda: aten._amp_foreach_non_finite_check_and_unscale_([torch.rand(3)], found, scale),
        "normed": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))(torch.rand(4, 3)),
        "interface": lambda: torch._weight_norm(torch.rand(4, 3, requires_grad=True), torch.rand(4, 1), 0),
        "fused": lambda: aten._fused_adam_.tensor_lr(
            *([value] for value in parameters), [], [torch.tensor(1.0)], amsgrad=False, maximize=False, **steps
        ),
        "grouped": lambda: nn.functional.grouped_mm(
            torch.rand(8, 4, requires_grad=True), torch.rand(3, 4, 8, requires_grad=True), offs=ends
        ),
        "grouped columns": lambda: nn.functional.grouped_mm(torch.rand(3, 4, 8), torch.rand(8, 8), offs=ends),
        "grouped sums": lambda: nn.functional.grouped_mm(torch.rand(4, 8), torch.rand(8, 4), offs=ends),
        "gamma": lambda: torch.distributions.Dirichlet(torch.rand(2, 3, requires_grad=True)).rsample(),
        "shifted": lambda: (torch.arange(4) << torch.tensor([1, 2, 3, 4]), torch.arange(4) >> 1, torch.arange(4) & 3),
    }


def try_further(trial: Callable[[], object], recorder: Recorder) -> None:
    call_whole(recorder, trial, (), {})
    with contextlib.suppress(Exception), recorder:
        differentiate(trial())


def try_operation(entry: Any, recorder: Recorder) -> None:
    supported = entry.supported_dtypes("cpu")
    wanted = [torch.float32, torch.int64, torch.bool, torch.complex64]
    dtypes = [dtype for dtype in wanted if dtype in supported] or list(supported)[:1]
    for dtype in dtypes:
        differentiable = entry.supports_autograd and dtype in entry.supported_backward_dtypes("cpu")
        torch.manual_seed(0)
        for sample in islice(entry.sample_inputs("cpu", dtype, requires_grad=differentiable), SAMPLES):
            given = (sample.input, *sample.args)
            for variant in (entry.op, entry.inplace_variant):
                if variant is not None:
                    call_whole(recorder, variant, given, sample.kwargs)
            with contextlib.suppress(Exception), recorder:
                differentiate(entry.op(*given, **sample.kwargs))


def call_whole(
    recorder: Recorder, operation: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """In inference mode, operations that are made of others arrive whole."""
    with contextlib.suppress(Exception), torch.inference_mode():
        copies = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        with recorder:
            operation(*copies[0], **copies[1])


def differentiate(results: object) -> None:
    leaves = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if leaves:
        torch.autograd.backward(leaves, [torch.ones_like(leaf) for leaf in leaves])


def try_module(entry: Any, recorder: Recorder) -> None:
    for training in (True, False):
        inputs = entry.module_inputs_func(
            entry, device="cpu", dtype=torch.float32, requires_grad=True, training=training
        )
        for given in inputs[:SAMPLES]:
            with contextlib.suppress(Exception):
                torch.manual_seed(1)
                module = entry.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs)
                module.train(training)
                arguments = given.forward_input
                call_whole(recorder, module, arguments.args, arguments.kwargs)
                with recorder:
                    differentiate(module(*arguments.args, **arguments.kwargs))


def try_optimizer(entry: Any, recorder: Recorder) -> None:
    for given in entry.optim_inputs_func(device="cpu"):
        for way in ({}, {"foreach": True}, {"fused": True}):
            if set(way) - set(inspect.signature(entry.optim_cls).parameters):
                continue
            with contextlib.suppress(Exception), recorder:
                model = nn.Linear(3, 2)
                optimizer = entry.optim_cls(model.parameters(), **given.kwargs | way)
                model(torch.ones(4, 3)).sum().backward()
                optimizer.step()
