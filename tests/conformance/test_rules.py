"""The closed forms: each is held against fakes, on the calls of torch's op_db and on edge cases, and each is used."""

import contextlib
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from bench import Bench, attempt
from operation_checks import Sample, database, forward_and_backward
from torch import Tensor

import ptrtensor as pt
from ptrtensor.tensor import infer, prediction
from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.handlers import viewing
from ptrtensor.tensor.rules import closed_form
from ptrtensor.tensor.rules.table import rules

SHARDS = 4
SAMPLES = 1


class Comparison:
    """Compares every closed form that is used with what fakes say, and counts them by operation."""

    def __init__(self) -> None:
        self.used: Counter[object] = Counter()
        self.differing: dict[str, str] = {}

    def closed_form(self, operation: Any, args: Any, kwargs: Any) -> list[Extent] | None:
        known = closed_form(operation, args, kwargs)
        if known is not None:
            self.used[operation.op] += 1
            inference = infer.inferences[torch.device("cpu")]
            expected, error = attempt(lambda: inference(operation, args, kwargs)[0])
            same = error is None and len(expected) == len(known) and all(map(is_same, known, expected))
            if not same:
                self.differing[f"{operation.op}{args}{kwargs}"] = f"{known} instead of {error or expected}"
        return known


def is_same(one: Extent, other: Extent) -> bool:
    return one.meta.same_as(other.meta) and (one.offset == other.offset or not one.meta.elements)


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Comparison:
    made = Comparison()
    for user in (prediction, viewing):
        monkeypatch.setattr(user, "closed_form", made.closed_form)
    return made


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with contextlib.closing(Bench("virtual")) as made:
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_on_the_calls_of_op_db(shard: int, bench: Bench, comparison: Comparison) -> None:
    with warnings.catch_warnings(), bench.seeding(database()):
        warnings.simplefilter("ignore")
        for entry in database().op_db[shard::SHARDS]:
            for dtype in {torch.float32, torch.complex64} & entry.supported_dtypes("cpu"):
                differentiable = entry.supports_autograd and dtype in entry.supported_backward_dtypes("cpu")
                for given in islice(entry.sample_inputs("cpu", dtype, requires_grad=differentiable), SAMPLES):
                    sample = Sample((given.input, *given.args), given.kwargs)
                    if attempt(partial(forward_and_backward, entry, sample, bench))[1]:
                        bench.recover()  # what differs is the other tests' concern
    assert comparison.differing == {}
    assert len(comparison.used) > 20


TENSORS: list[Callable[[torch.device], Tensor]] = [
    lambda device: torch.ones(3, 4, device=device),
    lambda device: torch.ones(4, 3, device=device).t(),
    lambda device: torch.ones(6, 8, device=device)[1::2, 2::2],
    lambda device: torch.ones(1, 4, device=device).expand(3, 4),
    lambda device: torch.ones(0, 4, device=device),
    lambda device: torch.ones(3, 1, 4, device=device),
    lambda device: torch.ones(2, 3, 4, dtype=torch.complex64, device=device).conj(),
    lambda device: torch.ones(2, 3, 4, dtype=torch.int64, device=device),
    lambda device: torch.ones((), device=device),
]

aten = torch.ops.aten
BOUNDS = itertools.product((0, -1), (None, 0, 1, -2, 9, -9), (None, 2, -1, 9, -9), (1, 3))
EXPANDED = [(3, 4), (2, 3, 4), (-1, 4), (2, -1, -1), (-1, 3, 4), (2, 3, 4, 4), (0, 4), (3, 0), (2, 2), (), (-2, 4)]
VIEWED = [(12,), (-1,), (4, 3), (2, -1), (1, 3, 1, 4), (-1, -1), (5, -1), (0, -1), (0,), (24,), (), (2, 6, 1)]
REDUCED = [(0,), (-1,), (0, 1), (0, -2), (0, 0), (9,), ()]

CALLS: list[tuple[Any, ...]] = [
    *((aten.slice, *bounds) for bounds in BOUNDS),
    *((aten.select, dim, index) for dim in (0, -1, 5) for index in (0, 1, -1, 9)),
    *((aten.unsqueeze, dim) for dim in (0, 1, -1, 9)),
    *((aten.squeeze, dim) for dim in (0, 1, -1, 9)),
    *((aten.unbind, dim) for dim in (0, -1, 9)),
    *((torch.split, size) for size in (0, 1, 2, 9, [1, 2], [3], [0, 3], [-1, 4], [])),
    *((torch.transpose, *dims) for dims in ((0, 1), (0, -1), (0, 9), (0, 0))),
    *((torch.permute, dims) for dims in ((0, 1), (1, 0), (-1, -2), (0, 0), (2, 0, 1), ())),
    (torch.t,),
    *((aten.expand, size) for size in EXPANDED),
    *((aten.view, size) for size in VIEWED),
    *((aten._unsafe_view, size) for size in VIEWED),
    (torch.clone,),
    *((torch.sum, dims, keepdim) for dims in REDUCED for keepdim in (True, False)),
    *((torch.mean, dims, keepdim) for dims in REDUCED for keepdim in (True, False)),
    (torch.mean,),
    (torch.sum,),
    *((function, dim) for function in (torch.softmax, torch.log_softmax) for dim in (0, -1, 9)),
    *((function, other) for function in (torch.add, torch.mul, torch.pow) for other in (1, 2.5, True, 1j)),
    (torch.relu,),
    (lambda x: x.clone().add_(1),),
    (lambda x: x.clone().mul_(2.5),),
    (lambda x: x.clone().add_(x, alpha=2),),
    (lambda x: torch.addcmul(x, x, x, value=2),),
    (lambda x: x / x,),
    (lambda x: x.mm(x.t()),),
    (lambda x: x.mm(x),),
    (lambda x: x.bmm(x.transpose(1, 2)),),
    (lambda x: x.bmm(x),),
    *(
        (lambda x, shape: torch.addmm(x.new_ones(shape), x, x.t(), beta=2), shape)
        for shape in ((), (1,), (3,), (3, 3), (1, 3), (3, 1), (2, 3), (1, 3, 3))
    ),
]


def run(function: Any, tensor: Tensor, *rest: Any) -> Any:
    assert pt.is_pointer(tensor)
    result = function(tensor, *rest)
    tensor.location.synchronize()
    return result


@pytest.mark.parametrize("make", TENSORS)
def test_on_edge_cases(make: Callable[[torch.device], Tensor], bench: Bench, comparison: Comparison) -> None:
    """Also the results: what torch refuses stays refused."""
    here, there = make(torch.device("cpu")), make(bench.worker.device)
    for function, *rest in CALLS:
        expected, refused = attempt(partial(function, here, *rest))
        got, error = attempt(partial(run, function, there, *rest))
        if error is not None:
            bench.recover()
        assert (refused is None) == (error is None), (function, rest, refused, error)
        if isinstance(expected, Tensor):
            assert pt.is_pointer(got)
            torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0, equal_nan=True, check_stride=False)
    assert comparison.differing == {}


def test_every_rule_is_tried(comparison: Comparison) -> None:
    """By name, at a worker of which nothing is known from before."""
    with contextlib.closing(Bench("virtual")) as bench:
        x, square = torch.ones(3, 4, device=bench.worker.device), torch.ones(2, 2, device=bench.worker.device)
        batch = square.unsqueeze(0)
        tried: list[tuple[object, ...]] = [
            (x,),
            (x, x),
            (x, x, x),
            (x, 1),
            (x, 0, 0),
            (x, 0),
            (x, 0, False),
            (x, x, 0.5),
            (x, [12]),
            (x, [0]),
        ]
        tried += [
            ([square, square],),
            (square, square),
            (square, square, square),
            (batch, batch),
            (batch, 0),
            (x, [3, 4]),
            (x, [1, 0]),
            (x, [1, 2]),
        ]
        for op, given in itertools.product(rules, tried):
            attempt(partial(op, *given))
    assert comparison.differing == {}
    assert set(rules) - set(comparison.used) == set()
