"""What is checked of an entry of torch's op_db: each check takes one sample and raises where a pointer differs."""

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any, Final, NamedTuple

import torch
from bench import Bench, attempt, copied, tensors
from differences import Difference, compare, compare_errors, is_strided
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

import ptrtensor as pt

UNINITIALISED: Final = frozenset(
    {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}
)
"""Operations whose values are whatever the memory held."""

PRECISE: Final = (torch.float64, torch.complex128)
"""The dtypes for derivatives of derivatives and in forward mode."""

Operation = Callable[..., Any]


class Sample(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, operation: Operation) -> Any:
        return operation(*self.args, **self.kwargs)


def database() -> Any:
    """Imported late: it takes seconds."""
    return import_module("torch.testing._internal.common_methods_invocations")


Check = Callable[[Bench], None]


def checks(entry: Any, limit: int | None) -> Iterator[tuple[str, Check]]:
    """The checks of an entry, each with its name."""
    for dtype in dtypes_of(entry, limit):
        differentiable = entry.supports_autograd and dtype in entry.supported_backward_dtypes("cpu")
        torch.manual_seed(0)
        for given in islice(entry.sample_inputs("cpu", dtype, requires_grad=differentiable), limit):
            sample = Sample((given.input, *given.args), given.kwargs)
            yield from checks_of_sample(entry, sample, dtype)
    if entry.error_inputs_func is not None:
        for error_input in islice(entry.error_inputs("cpu"), limit):
            given = error_input.sample_input
            yield "errors", refusal(entry, Sample((given.input, *given.args), given.kwargs))


def dtypes_of(entry: Any, limit: int | None) -> list[torch.dtype]:
    dtypes = sorted(entry.supported_dtypes("cpu"), key=str)
    if limit is None or not dtypes:
        return dtypes
    preferred = [dtype for dtype in (torch.float64, torch.float32) if dtype in dtypes]
    return (preferred or dtypes)[:1]


def checks_of_sample(entry: Any, sample: Sample, dtype: torch.dtype) -> Iterator[tuple[str, Check]]:
    with_values = entry.name not in UNINITIALISED
    yield "function", lambda bench: forward_and_backward(entry, sample, bench, with_values=with_values)
    if entry.method_variant is not None:
        yield "method", lambda bench: forward_and_backward(entry.method_variant, sample, bench, with_values=with_values)
    if entry.inplace_variant is not None:
        yield "in place", lambda bench: in_place(entry, sample, bench)
    if shares_memory(entry, sample):
        yield "aliasing", lambda bench: aliasing(entry, sample, bench)
    if entry.supports_out:
        yield "out=", lambda bench: with_out(entry, sample, bench, with_values=with_values)
    if dtype in PRECISE and entry.supports_autograd and dtype in entry.supported_backward_dtypes("cpu"):
        if entry.supports_gradgrad:
            yield "second order", lambda bench: second_order(entry, sample, bench)
        if entry.supports_forward_ad:
            yield "forward mode", lambda bench: forward_mode(entry, sample, bench)


# --- the checks


class Twins:
    """One call made here and there; `usable` is False where plain torch refuses it or gives another layout."""

    def __init__(self, operation: Operation, sample: Sample, bench: Bench, *, fresh: bool = False) -> None:
        """`fresh`: the arguments that require grad are results, so that they can be written to."""
        self.here = copied(sample)
        given_here = results_of(self.here) if fresh else self.here
        self.expected, refused = attempt(lambda: bench.seeded(given_here.run, operation))
        self.there: Sample = Sample((), {})
        given_there: list[Sample] = []

        def run_there() -> Any:
            self.there = bench.sent(sample)
            given_there.append(results_of(self.there) if fresh else self.there)
            with bench.at_worker(self.there):
                got = bench.seeded(given_there[0].run, operation)
            if refused is not None:
                bench.worker.synchronize()
            return got

        self.got, error = attempt(run_there)
        self.usable = refused is None and is_strided((sample, self.expected))
        if refused is not None:
            compare_errors(refused, error)
            bench.recover()
        elif not self.usable:
            if not isinstance(error, pt.UnsupportedOpError) or "layout" not in str(error):
                raise Difference(f"of another layout, and not refused as such: {error!r}")
        elif error is not None:
            raise error
        else:
            self.arguments = list(zip(tensors(given_here), tensors(given_there[0]), strict=True))

    def leaves(self) -> tuple[list[Tensor], list[Tensor]]:
        """The arguments that require grad, here and there."""
        pairs = zip(tensors(self.here), tensors(self.there), strict=True)
        both = [(mine, other) for mine, other in pairs if mine.requires_grad]
        return [mine for mine, _ in both], [other for _, other in both]

    def outputs(self) -> tuple[list[Tensor], list[Tensor]]:
        """The results that require grad, here and there."""
        pairs = zip(tensors(self.expected), tensors(self.got), strict=True)
        both = [(mine, other) for mine, other in pairs if mine.requires_grad]
        return [mine for mine, _ in both], [other for _, other in both]


def results_of(sample: Sample) -> Sample:
    """The same values as results of an operation, where they require grad."""
    cloned: Sample = tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf.requires_grad else leaf, sample
    )
    return cloned


def forward_and_backward(operation: Operation, sample: Sample, bench: Bench, *, with_values: bool = True) -> None:
    twins = Twins(operation, sample, bench)
    if twins.usable:
        compare(twins.expected, twins.got, bench.worker, with_values=with_values)
        check_gradients(twins, bench, with_values=with_values)


def in_place(entry: Any, sample: Sample, bench: Bench) -> None:
    differentiable = entry.supports_inplace_autograd
    plain: Sample = sample if differentiable else detached(sample)
    twins = Twins(entry.inplace_variant, plain, bench, fresh=True)
    if twins.usable:
        compare(twins.expected, twins.got, bench.worker)
        for mine, other in twins.arguments:
            compare(mine, other, bench.worker)
        if differentiable:
            check_gradients(twins, bench)


def aliasing(entry: Any, sample: Sample, bench: Bench) -> None:
    """Where a result shares memory with an argument, writes to either are seen in both, in both orders."""
    for argument_first in (True, False):
        twins = Twins(entry, detached(sample), bench)
        if not twins.usable:
            return
        results = list(zip(tensors(twins.expected), tensors(twins.got), strict=True))
        sharing = [
            (argument, result)
            for argument in twins.arguments
            for result in results
            if argument[0] is not result[0] and memory_of(argument[0]) == memory_of(result[0]) != 0
        ]
        for argument, result in sharing:
            for step, pair in enumerate((argument, result) if argument_first else (result, argument)):
                errors = [attempt(lambda tensor=tensor, step=step: tensor.fill_(step))[1] for tensor in pair]  # type: ignore[misc]
                if errors[0] is not None:
                    compare_errors(errors[0], errors[1])
                    bench.recover()
                    return
                compare(argument[0], argument[1], bench.worker)
                compare(result[0], result[1], bench.worker)


def shares_memory(entry: Any, sample: Sample) -> bool:
    """Whether a result lies in the memory of an argument and is not that argument."""
    given = copied(detached(sample))
    made, refused = attempt(lambda: given.run(entry))
    if refused is not None or not is_strided((given, made)):
        return False
    arguments = {memory_of(tensor): tensor for tensor in tensors(given)}
    return any(arguments.get(memory_of(result) or -1, result) is not result for result in tensors(made))


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def detached(sample: Sample) -> Sample:
    plain: Sample = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, sample)
    return plain


def with_out(entry: Any, sample: Sample, bench: Bench, *, with_values: bool) -> None:
    """Into tensors of the right size, and into empty ones that grow."""
    plain = detached(sample)
    made, refused = attempt(lambda: bench.seeded(copied(plain).run, entry))
    if refused is not None or not tensors(made) or not is_strided((sample, made)):
        return
    for out in (tree_map(torch.empty_like, made), tree_map(lambda tensor: tensor.new_empty(0), made)):
        given = tuple(out) if isinstance(out, tuple | list) else out
        writing = Sample(plain.args, {**plain.kwargs, "out": given})
        twins = Twins(entry, writing, bench)
        if twins.usable:
            compare(twins.expected, twins.got, bench.worker, with_values=with_values)
            outs = zip(tensors(twins.here.kwargs["out"]), tensors(twins.there.kwargs["out"]), strict=True)
            for mine, other in outs:
                compare(mine, other, bench.worker, with_values=with_values)


def check_gradients(twins: Twins, bench: Bench, *, with_values: bool = True) -> None:
    outputs, outputs_there = twins.outputs()
    leaves, leaves_there = twins.leaves()
    if not outputs or not leaves:
        return
    seeds = [torch.randn_like(output.detach().resolve_conj().resolve_neg()) for output in outputs]
    expected, refused = attempt(lambda: torch.autograd.grad(outputs, leaves, seeds, allow_unused=True))

    def there() -> object:
        gradients = torch.autograd.grad(outputs_there, leaves_there, bench.sent(seeds), allow_unused=True)
        if refused is not None:
            bench.worker.synchronize()
        return gradients

    got, error = attempt(there)
    if refused is not None:
        compare_errors(refused, error)
        bench.recover()
    elif error is not None:
        raise error
    else:
        compare(expected, got, bench.worker, with_values=with_values)


def second_order(entry: Any, sample: Sample, bench: Bench) -> None:
    twins = Twins(entry, sample, bench)
    if not twins.usable:
        return
    outputs, outputs_there = twins.outputs()
    leaves, leaves_there = twins.leaves()
    if not outputs or not leaves:
        return
    seeds = [torch.randn_like(output.detach().resolve_conj().resolve_neg()).requires_grad_() for output in outputs]
    expected, refused = attempt(lambda: twice(outputs, leaves, seeds))
    if refused is not None:
        return  # what backward refuses, the check of backward compares
    compare(expected, twice(outputs_there, leaves_there, bench.sent(seeds)), bench.worker)


def twice(outputs: list[Tensor], leaves: list[Tensor], seeds: list[Tensor]) -> object:
    """The gradients, and those of their sum."""
    first = torch.autograd.grad(outputs, leaves, seeds, create_graph=True, allow_unused=True)
    given = [gradient for gradient in first if gradient is not None and gradient.requires_grad]
    if not given:
        return first
    second = torch.autograd.grad([gradient.sum() for gradient in given], [*leaves, *seeds], allow_unused=True)
    return first, second


def forward_mode(entry: Any, sample: Sample, bench: Bench) -> None:
    plain = detached(sample)
    marked = [leaf.requires_grad for leaf in tensors(sample)]
    torch.manual_seed(1)
    directions = [
        torch.randn_like(leaf) if wanted else None for leaf, wanted in zip(tensors(plain), marked, strict=True)
    ]
    here = copied(plain)
    expected, refused = attempt(lambda: pushed(entry, here, directions, bench))
    if refused is not None or not is_strided((plain, expected)):
        return
    compare(expected, pushed(entry, bench.sent(plain), bench.sent(directions), bench), bench.worker)


def pushed(operation: Operation, sample: Sample, directions: list[Tensor | None], bench: Bench) -> object:
    """The results and their tangents."""
    with forward_ad.dual_level():
        given = iter(directions)

        def dual(leaf: object) -> object:
            if not isinstance(leaf, Tensor):
                return leaf
            direction = next(given)
            return leaf if direction is None else forward_ad.make_dual(leaf, direction)

        with bench.at_worker(sample):
            result = bench.seeded(tree_map(dual, sample).run, operation)
        return [tuple(forward_ad.unpack_dual(value)) for value in tensors(result)]


def refusal(entry: Any, sample: Sample) -> Check:
    def check(bench: Bench) -> None:
        Twins(entry, sample, bench)

    return check
