"""The inference cache is attacked: calls that differ in one thing, in random order, each compared with local torch.

What a signature leaves out would show as the metadata or the value of another call.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import check_equal
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import ptrtensor as pt

Inputs = dict[str, Tensor]
Call = Callable[[Inputs], Any]

NUMBERS: list[Any] = [1, True, 1.0, 0, False, 0.0, -0.0, 2, 2.0, -1, 1 + 0j, 2**40, float("inf"), float("nan")]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


def inputs(device: str | torch.device) -> Inputs:
    base = torch.arange(1.0, 25.0, device=device).reshape(4, 6)
    made = {str(dtype).removeprefix("torch."): base.to(dtype) for dtype in DTYPES}
    made["number"] = torch.tensor(2.0, device=device)
    made["double number"] = torch.tensor(2.0, dtype=torch.float64, device=device)
    made["integer number"] = torch.tensor(2, device=device)
    made["transposed"] = base.t()
    made["strided"] = base[:, ::2]
    made["offset"] = base[1:]
    made["expanded"] = torch.ones(1, 6, device=device).expand(4, 6)
    made["row"] = base[0]
    made["empty"] = torch.empty(0, 6, device=device)
    made["index"] = torch.tensor([0, 2], device=device)
    made["mask"] = torch.tensor([True, False, True, False], device=device)
    made["attention"] = torch.arange(64.0, device=device).cos().reshape(1, 2, 4, 8)
    return made


def numbers() -> Iterator[Call]:
    for name in ("float32", "float64", "bfloat16", "int64", "bool", "complex64"):
        for number in NUMBERS:
            yield lambda given, name=name, number=number: given[name] + number  # type: ignore[misc]
            yield lambda given, name=name, number=number: given[name] * number  # type: ignore[misc]
    for number in (1, True, 1.0, -0.0, 0.0):
        yield lambda given, number=number: torch.where(given["mask"], number, 0)  # type: ignore[misc]
        yield lambda given, number=number: torch.full_like(given["float32"], number)  # type: ignore[misc]
        yield lambda given, number=number: torch.add(given["row"], given["row"], alpha=number)  # type: ignore[misc]
        yield lambda given, number=number: given["float32"].clamp(number)  # type: ignore[misc]
        yield lambda given, number=number: given["float32"].pow(number)  # type: ignore[misc]
        yield lambda given, number=number: given["int64"].pow(number) if number not in (-0.0,) else None  # type: ignore[misc]
    for other in ("number", "double number", "integer number", "row", "int64", "float64"):
        yield lambda given, other=other: given["float32"] + given[other]  # type: ignore[misc]
        yield lambda given, other=other: given["int64"] + given[other]  # type: ignore[misc]
    for local in (torch.tensor(2.0), torch.tensor(2), torch.tensor(2.0, dtype=torch.float64)):
        yield lambda given, local=local: given["float32"] + local  # type: ignore[misc]
        yield lambda given, local=local: given["int64"] * local  # type: ignore[misc]


def forms() -> Iterator[Call]:
    for name in ("float32", "transposed", "strided", "offset", "expanded", "empty"):
        for act in (
            lambda x: x + 1,
            lambda x: x.contiguous(),
            lambda x: x.clone(),
            lambda x: x.sum(0),
            lambda x: x.sum(0, keepdim=True),
            lambda x: x.sum(-1),
            lambda x: x.sum((0, 1)),
            lambda x: x.sum((0, 1), keepdim=True),
            lambda x: x.sum(dtype=torch.float64),
            lambda x: x[:, 0],
            lambda x: x[:, 1],
            lambda x: x[:, -1],
            lambda x: x[:, 1:3],
            lambda x: x[:, 2:4] if x.shape[1] > 3 else None,
            lambda x: x.t(),
            lambda x: x.t().t(),
            lambda x: x.unsqueeze(0),
            lambda x: x.unsqueeze(-1),
            lambda x: x.permute(1, 0),
            lambda x: x.permute(0, 1),
            lambda x: x.to(torch.float64),
            lambda x: x.to(torch.float32),
            lambda x: x.to(torch.float32, copy=True),
            lambda x: x.reshape(-1),
            lambda x: torch.cat([x, x]),
            lambda x: torch.cat([x, x, x]),
            lambda x: torch.cat([x, x], 1),
            lambda x: torch.stack([x, x], -1),
            lambda x: x.new_zeros(2),
            lambda x: x.new_zeros(2, 1),
        ):
            yield lambda given, name=name, act=act: act(given[name])  # type: ignore[misc]


def repeated() -> Iterator[Call]:
    yield lambda given: torch.addcmul(given["row"], given["row"], given["row"])
    yield lambda given: torch.addcmul(given["row"], given["row"] + 1, given["row"] + 1)
    yield lambda given: torch.addcmul(given["row"], given["row"], given["row"] + 1)
    yield lambda given: twice(given["row"].clone())
    yield lambda given: into(given["row"].clone(), given["row"] + 1)
    yield lambda given: torch.einsum("i,i", given["row"], given["row"])
    yield lambda given: torch.add(given["row"], 1, out=given["row"].new_empty(6))
    yield lambda given: torch.add(given["row"], 1, out=given["row"].new_empty(0))
    yield lambda given: torch.add(given["row"], 1, out=given["float64"].new_empty(6))


def twice(x: Tensor) -> Tensor:
    return x.add_(x)


def into(x: Tensor, y: Tensor) -> Tensor:
    return x.add_(y)


def indices() -> Iterator[Call]:
    for index in (
        torch.tensor([0, 2]),
        torch.tensor([1, 1, 3]),
        torch.tensor([-1, 0], dtype=torch.int32),
        torch.tensor([True, False, True, False]),
        torch.tensor([False, False, False, False]),
        torch.tensor(1),
        [0, 2],
        1,
        -1,
        slice(1, 3),
        slice(0, 2),
        slice(None, None, 2),
        None,
        ...,
    ):
        yield lambda given, index=index: given["float32"][index]  # type: ignore[misc]
        yield lambda given, index=index: given["int64"][index]  # type: ignore[misc]
    yield lambda given: given["float32"][given["index"]]
    yield lambda given: given["float32"][given["mask"]]
    yield lambda given: given["float32"][:, given["index"]]
    for position in range(6):
        yield lambda given, position=position: given["float32"].view(-1)[position : position + 4]  # type: ignore[misc]
        yield lambda given, position=position: given["float32"].as_strided((2, 2), (1, 2), position)  # type: ignore[misc]


def flagged() -> Iterator[Call]:
    """The same calls under other flags of the process."""
    calls: list[Call] = [
        lambda given: given["int64"] / 2,
        lambda given: given["int64"] * 1.5,
        lambda given: given["bool"] + 0.5,
        lambda given: given["int64"].to(given["row"].dtype).mean(),
        lambda given: torch.full((2,), 1.5, device=given["row"].device),
        lambda given: torch.ones(2, device=given["row"].device),
        lambda given: torch.tensor([1.5], device=given["row"].device),
        lambda given: torch.arange(0, 1, 0.25, device=given["row"].device),
        lambda given: given["int64"].sqrt(),
        lambda given: F.scaled_dot_product_attention(*[given["attention"]] * 3),  # type: ignore[arg-type]
        lambda given: torch.empty_like(given["row"]).fill_(1),
        lambda given: given["row"].clone().index_add_(0, given["index"], given["row"][:2]),
        lambda given: given["row"].clone().index_put_((given["index"],), given["row"][:2], accumulate=True),
        lambda given: given["row"].clone().scatter_add_(0, given["index"], given["row"][:2]),
        lambda given: given["float32"].cumsum(0),
    ]
    for call in calls:
        yield call
        yield under(call, default_dtype)
        yield under(call, deterministic)
        yield under(call, lambda: sdpa_kernel(SDPBackend.MATH))
        yield under(call, torch.inference_mode)
        yield under(call, torch.no_grad)


def under(call: Call, context: Callable[[], Any]) -> Call:
    def run(given: Inputs) -> Any:
        with context():
            return call(given)

    return run


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


FAMILIES: dict[str, Callable[[], Iterator[Call]]] = {
    "numbers": numbers,
    "forms": forms,
    "repeated arguments": repeated,
    "indices": indices,
    "flags": flagged,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_calls_that_differ_in_one_thing(family: str, seed: int, worker: pt.Worker) -> None:
    calls = 2 * list(FAMILIES[family]())  # the second time from the cache
    random.Random(seed).shuffle(calls)
    here, there = inputs("cpu"), inputs(worker.device)
    for call in calls:
        expected, refused = attempt(call, here)
        got, error = attempt(call, there)
        if refused is None:
            if error is not None:
                raise error
            check_equal(got, expected, worker)
        else:
            assert isinstance(error, type(refused)), f"{error!r} instead of {refused!r}"
            worker.recover()


def attempt(call: Call, given: Inputs) -> tuple[Any, Exception | None]:
    try:
        result = call(given)
        if isinstance(result, pt.PointerTensor):
            result.location.synchronize()
        return result, None
    except Exception as error:
        return None, error
